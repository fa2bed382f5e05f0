//! A transaction on our table, as data.

use std::fmt;
use std::net::IpAddr;

use super::expr::{Rule, Verdict, ifname, octets};

/// Operations that the kernel does together or not at all, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The operations.
    pub ops: Vec<Op>,
}

/// One operation on our table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Makes the table; nothing happens if it exists.
    AddTable,
    /// Removes the table with everything in it; it must exist.
    DeleteTable,
    /// Makes a chain; nothing happens if it exists as described.
    AddChain {
        /// Its name.
        name: String,
        /// Where packets enter it; `None` for a chain that is only jumped to.
        base: Option<Base>,
    },
    /// Removes every rule of a chain.
    FlushChain(String),
    /// Removes an empty chain that nothing refers to.
    DeleteChain(String),
    /// Appends a rule.
    AddRule(Rule),
    /// Makes a set or map; nothing happens if it exists as described.
    AddSet(SetSpec),
    /// Removes every element.
    FlushSet(String),
    /// Removes a set that no rule refers to.
    DeleteSet(String),
    /// Adds elements; those that exist with the same data stay.
    AddElements(String, Vec<Element>),
    /// Removes elements, which must exist.
    DeleteElements(String, Vec<Element>),
}

/// The type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of each connection.
    Nat,
}

/// A hook of the inet family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// What becomes of packets that no rule of a base chain judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Policy {
    Drop = 0,
    Accept = 1,
}

/// Where packets enter a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The chain's type.
    pub kind: Kind,
    /// The hook.
    pub hook: Hook,
    /// Its order among all base chains of the hook, ascending.
    pub priority: i32,
    /// The policy.
    pub policy: Policy,
}

/// One part of a set's key or of a map's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The number by which `nft list` knows how to show it.
    pub id: u32,
    /// Bytes.
    pub len: u32,
}

/// The fields that our sets are made of.
pub mod field {
    use super::Field;
    /// An IPv4 address.
    pub const IP4: Field = Field { id: 7, len: 4 };
    /// An IPv6 address.
    pub const IP6: Field = Field { id: 8, len: 16 };
    /// A transport protocol's number.
    pub const PROTO: Field = Field { id: 12, len: 1 };
    /// A port.
    pub const PORT: Field = Field { id: 13, len: 2 };
    /// A 32-bit number in the machine's byte order.
    pub const NUMBER: Field = Field { id: 19, len: 4 };
    /// An interface's name.
    pub const IFNAME: Field = Field { id: 41, len: 16 };
    /// The address field of a family.
    pub fn ip(family: crate::nft::Family) -> Field {
        match family {
            crate::nft::Family::V4 => IP4,
            crate::nft::Family::V6 => IP6,
        }
    }
}

/// A set (no data), a map (fields as data) or a verdict map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSpec {
    /// Its name.
    pub name: String,
    /// The parts of its key.
    pub key: Vec<Field>,
    /// The parts of its data; empty for a set or a verdict map.
    pub data: Vec<Field>,
    /// Its data are verdicts.
    pub verdicts: bool,
    /// Elements come from rules and expire; the most it holds.
    pub dynamic: Option<u32>,
    /// Keys are ranges (`Element::end`).
    pub interval: bool,
}

impl SetSpec {
    fn of(name: &str, key: &[Field], data: &[Field], verdicts: bool) -> Self {
        Self {
            name: name.into(),
            key: key.into(),
            data: data.into(),
            verdicts,
            dynamic: None,
            interval: false,
        }
    }
    /// A set.
    pub fn set(name: &str, key: &[Field]) -> Self {
        Self::of(name, key, &[], false)
    }
    /// A map to data.
    pub fn map(name: &str, key: &[Field], data: &[Field]) -> Self {
        Self::of(name, key, data, false)
    }
    /// A map to verdicts.
    pub fn vmap(name: &str, key: &[Field]) -> Self {
        Self::of(name, key, &[], true)
    }
    /// Its elements come from rules and expire; it holds at most `size`.
    pub fn dynamic(mut self, size: u32) -> Self {
        self.dynamic = Some(size);
        self
    }
    /// Its keys are ranges.
    pub fn interval(mut self) -> Self {
        self.interval = true;
        self
    }
}

/// What a map says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Nothing: an element of a set.
    None,
    /// Bytes, as [`key`] makes them.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The key, as [`key`] makes it.
    pub key: Vec<u8>,
    /// The last key of a range (inclusive), in an interval set.
    pub end: Option<Vec<u8>>,
    /// What the map says.
    pub data: Data,
    /// Kept with the element by the kernel; at most 120 bytes.
    pub comment: String,
}

impl Element {
    /// An element of a set.
    pub fn new(key: Vec<u8>) -> Self {
        Self { key, end: None, data: Data::None, comment: String::new() }
    }
    /// An element of a map.
    pub fn value(key: Vec<u8>, value: Vec<u8>) -> Self {
        Self { data: Data::Value(value), ..Self::new(key) }
    }
    /// An element of a verdict map.
    pub fn verdict(key: Vec<u8>, verdict: Verdict) -> Self {
        Self { data: Data::Verdict(verdict), ..Self::new(key) }
    }
    /// Adds a comment.
    pub fn comment(mut self, text: impl Into<String>) -> Self {
        self.comment = text.into();
        self
    }
}

/// Builds keys and data: each part but a lone one is padded to four bytes, as registers are.
pub mod key {
    use super::{IpAddr, ifname, octets};

    /// The bytes of several parts.
    pub fn of(parts: &[Vec<u8>]) -> Vec<u8> {
        if let [one] = parts {
            return one.clone();
        }
        let mut out = Vec::new();
        for part in parts {
            out.extend_from_slice(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }
    /// An address.
    pub fn ip(address: IpAddr) -> Vec<u8> {
        octets(address)
    }
    /// A transport protocol.
    pub fn proto(number: u8) -> Vec<u8> {
        vec![number]
    }
    /// A port.
    pub fn port(port: u16) -> Vec<u8> {
        port.to_be_bytes().into()
    }
    /// A 32-bit number.
    pub fn number(n: u32) -> Vec<u8> {
        n.to_ne_bytes().into()
    }
    /// An interface's name.
    pub fn link(name: &str) -> Vec<u8> {
        ifname(name)
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
    /// Adds one operation.
    pub fn op(&mut self, op: Op) -> &mut Self {
        self.ops.push(op);
        self
    }
    /// Adds every operation of another batch.
    pub fn extend(&mut self, other: Batch) -> &mut Self {
        self.ops.extend(other.ops);
        self
    }
    /// Makes a chain that is only jumped to.
    pub fn chain(&mut self, name: impl Into<String>) -> &mut Self {
        self.op(Op::AddChain { name: name.into(), base: None })
    }
    /// Makes a base chain.
    pub fn base_chain(&mut self, name: &str, kind: Kind, hook: Hook, priority: i32) -> &mut Self {
        let base = Some(Base { kind, hook, priority, policy: Policy::Accept });
        self.op(Op::AddChain { name: name.into(), base })
    }
    /// Appends a rule.
    pub fn rule(&mut self, rule: Rule) -> &mut Self {
        self.op(Op::AddRule(rule))
    }
    /// Makes a set.
    pub fn set(&mut self, set: SetSpec) -> &mut Self {
        self.op(Op::AddSet(set))
    }
    /// Adds elements.
    pub fn add(&mut self, set: &str, elements: Vec<Element>) -> &mut Self {
        if elements.is_empty() { self } else { self.op(Op::AddElements(set.into(), elements)) }
    }
    /// Removes elements.
    pub fn delete(&mut self, set: &str, elements: Vec<Element>) -> &mut Self {
        if elements.is_empty() { self } else { self.op(Op::DeleteElements(set.into(), elements)) }
    }
    /// Replaces every rule of the chain, which is made if need be.
    pub fn replace_chain(&mut self, name: &str, rules: Vec<Rule>) -> &mut Self {
        self.chain(name).op(Op::FlushChain(name.into()));
        rules.into_iter().for_each(|r| {
            self.ops.push(Op::AddRule(r));
        });
        self
    }
}

impl fmt::Display for Op {
    /// What an error says was being done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable => write!(f, "add table"),
            Self::DeleteTable => write!(f, "delete table"),
            Self::AddChain { name, .. } => write!(f, "add chain {name}"),
            Self::FlushChain(name) => write!(f, "flush chain {name}"),
            Self::DeleteChain(name) => write!(f, "delete chain {name}"),
            Self::AddRule(rule) if rule.comment.is_empty() => write!(f, "add rule to chain {}", rule.chain),
            Self::AddRule(rule) => write!(f, "add rule \"{}\" to chain {}", rule.comment, rule.chain),
            Self::AddSet(set) => write!(f, "add set {}", set.name),
            Self::FlushSet(name) => write!(f, "flush set {name}"),
            Self::DeleteSet(name) => write!(f, "delete set {name}"),
            Self::AddElements(set, e) => write!(f, "add {} element(s) to {set}", e.len()),
            Self::DeleteElements(set, e) => write!(f, "delete {} element(s) from {set}", e.len()),
        }
    }
}
