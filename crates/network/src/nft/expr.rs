//! Rules as lists of expressions, and a builder that reads like nft's own syntax.

use std::net::IpAddr;

use ipnet::IpNet;

/// One of the sixteen 32-bit registers (0 to 15); wider values take the following ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reg(pub u8);

/// The layer-3 protocol of a match or a translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
    /// The kernel's number: NFPROTO_IPV4 or NFPROTO_IPV6.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// What becomes of the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on to the next base chain.
    Accept,
    /// Is gone.
    Drop,
    /// Continue after the rule that jumped here.
    Return,
    /// Continue there, then come back.
    Jump(String),
    /// Continue there and do not come back.
    Goto(String),
}

/// How `Cmp` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CmpOp {
    Eq = 0,
    Neq = 1,
    Lt = 2,
    Lte = 3,
    Gt = 4,
    Gte = 5,
}

/// What `Meta` reads (numbers of `enum nft_meta_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MetaKey {
    Mark = 3,
    Iif = 4,
    Oif = 5,
    Iifname = 6,
    Oifname = 7,
    Nfproto = 15,
    L4proto = 16,
}

/// What `Ct` reads (numbers of `enum nft_ct_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CtKey {
    State = 0,
    Direction = 1,
    Status = 2,
    Mark = 3,
}

/// What a rule does to a set's element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DynsetOp {
    Add = 0,
    Update = 1,
    Delete = 2,
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Expr {
    Meta {
        key: MetaKey,
        dreg: Reg,
    },
    MetaSet {
        key: MetaKey,
        sreg: Reg,
    },
    /// `base`: 1 network header, 2 transport header.
    Payload {
        base: u32,
        offset: u32,
        len: u32,
        dreg: Reg,
    },
    Cmp {
        op: CmpOp,
        sreg: Reg,
        data: Vec<u8>,
    },
    /// dreg = (sreg & mask) ^ xor
    Bitwise {
        sreg: Reg,
        dreg: Reg,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Ct {
        key: CtKey,
        dreg: Reg,
    },
    Lookup {
        set: String,
        sreg: Reg,
        dreg: Option<Reg>,
        invert: bool,
    },
    /// Looks a verdict up and executes it.
    Vmap {
        set: String,
        sreg: Reg,
    },
    Immediate {
        dreg: Reg,
        data: Vec<u8>,
    },
    Verdict(Verdict),
    Dnat {
        family: Family,
        addr: Reg,
        port: Option<Reg>,
    },
    Snat {
        family: Family,
        addr: Reg,
    },
    Masquerade {
        random: bool,
    },
    Redirect {
        port: Option<Reg>,
    },
    Numgen {
        dreg: Reg,
        modulus: u32,
    },
    Counter,
    /// ICMP(v6) port unreachable, or a TCP reset.
    Reject {
        tcp_reset: bool,
    },
    /// The type of the destination's (or source's) address as the routing table sees it.
    FibType {
        saddr: bool,
        dreg: Reg,
    },
    Dynset {
        op: DynsetOp,
        set: String,
        key: Reg,
        data: Option<Reg>,
        timeout_ms: Option<u64>,
    },
}

/// One rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The chain it is appended to.
    pub chain: String,
    /// Evaluated from left to right until one does not match.
    pub exprs: Vec<Expr>,
    /// Shown by `nft list`; at most 120 bytes are kept.
    pub comment: String,
}

const SCRATCH: Reg = Reg(0);
const RTN_LOCAL: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;

/// Bits of `ct state`.
pub mod state {
    /// Neither part of a connection nor able to begin one.
    pub const INVALID: u32 = 1;
    /// Part of a connection that has seen packets both ways.
    pub const ESTABLISHED: u32 = 2;
    /// Begins a connection that another one announced (or is an ICMP error about one).
    pub const RELATED: u32 = 4;
    /// Begins a connection.
    pub const NEW: u32 = 8;
}

impl Rule {
    /// An empty rule for `chain`. The matching helpers use registers 0 to 3 as scratch.
    pub fn new(chain: impl Into<String>) -> Self {
        Self { chain: chain.into(), exprs: Vec::new(), comment: String::new() }
    }

    /// Adds one expression.
    pub fn expr(mut self, e: Expr) -> Self {
        self.exprs.push(e);
        self
    }

    /// Adds a comment that `nft list` shows.
    pub fn comment(mut self, text: impl Into<String>) -> Self {
        self.comment = text.into();
        self
    }

    fn cmp(self, op: CmpOp, data: impl Into<Vec<u8>>) -> Self {
        self.expr(Expr::Cmp { op, sreg: SCRATCH, data: data.into() })
    }

    fn meta(self, key: MetaKey) -> Self {
        self.expr(Expr::Meta { key, dreg: SCRATCH })
    }

    fn eq(equal: bool) -> CmpOp {
        if equal { CmpOp::Eq } else { CmpOp::Neq }
    }

    /// `meta nfproto FAMILY`
    pub fn family(self, family: Family) -> Self {
        self.meta(MetaKey::Nfproto).cmp(CmpOp::Eq, [family.number()])
    }

    /// `iifname NAME`, or `!=` if not `equal`. Never matches where a packet has no incoming interface.
    pub fn iifname(self, equal: bool, name: &str) -> Self {
        self.meta(MetaKey::Iifname).cmp(Self::eq(equal), ifname(name))
    }

    /// `oifname NAME`, or `!=` if not `equal`.
    pub fn oifname(self, equal: bool, name: &str) -> Self {
        self.meta(MetaKey::Oifname).cmp(Self::eq(equal), ifname(name))
    }

    /// `meta l4proto NUMBER`
    pub fn l4proto(self, number: u8) -> Self {
        self.meta(MetaKey::L4proto).cmp(CmpOp::Eq, [number])
    }

    /// `th dport PORT`
    pub fn dport(self, port: u16) -> Self {
        self.load_dport(SCRATCH).cmp(CmpOp::Eq, port.to_be_bytes())
    }

    /// `ip saddr NET` (or ip6), with the family's own check before it.
    pub fn saddr(self, equal: bool, net: IpNet) -> Self {
        let family = Family::of(net.addr());
        self.family(family).load_saddr(family, SCRATCH).in_net(equal, net)
    }

    /// `ip daddr NET` (or ip6), with the family's own check before it.
    pub fn daddr(self, equal: bool, net: IpNet) -> Self {
        let family = Family::of(net.addr());
        self.family(family).load_daddr(family, SCRATCH).in_net(equal, net)
    }

    fn in_net(self, equal: bool, net: IpNet) -> Self {
        let (address, mask) = (octets(net.network()), octets(net.netmask()));
        if net.prefix_len() == net.max_prefix_len() {
            return self.cmp(Self::eq(equal), address);
        }
        let xor = vec![0; mask.len()];
        self.expr(Expr::Bitwise { sreg: SCRATCH, dreg: SCRATCH, mask, xor }).cmp(Self::eq(equal), address)
    }

    /// `ct state` has one of `bits` (see [`state`]).
    pub fn ct_state(self, bits: u32) -> Self {
        self.expr(Expr::Ct { key: CtKey::State, dreg: SCRATCH }).any_of(bits)
    }

    /// `ct status dnat`, or not.
    pub fn ct_dnat(self, dnat: bool) -> Self {
        let load = self.expr(Expr::Ct { key: CtKey::Status, dreg: SCRATCH });
        if dnat { load.any_of(IPS_DST_NAT) } else { load.none_of(IPS_DST_NAT) }
    }

    /// `meta mark` has one of `bits`.
    pub fn mark(self, bits: u32) -> Self {
        self.meta(MetaKey::Mark).any_of(bits)
    }

    /// `meta mark & mask == value`
    pub fn mark_is(self, value: u32, mask: u32) -> Self {
        self.meta(MetaKey::Mark).masked(mask).cmp(CmpOp::Eq, value.to_ne_bytes())
    }

    /// Sets `bits` of the mark and keeps the others.
    pub fn set_mark(self, bits: u32) -> Self {
        self.change_mark(!bits, bits)
    }

    /// Clears `bits` of the mark and keeps the others.
    pub fn clear_mark(self, bits: u32) -> Self {
        self.change_mark(!bits, 0)
    }

    fn change_mark(self, mask: u32, xor: u32) -> Self {
        self.meta(MetaKey::Mark)
            .expr(Expr::Bitwise {
                sreg: SCRATCH,
                dreg: SCRATCH,
                mask: mask.to_ne_bytes().into(),
                xor: xor.to_ne_bytes().into(),
            })
            .expr(Expr::MetaSet { key: MetaKey::Mark, sreg: SCRATCH })
    }

    fn masked(self, bits: u32) -> Self {
        let (mask, xor) = (bits.to_ne_bytes().into(), vec![0; 4]);
        self.expr(Expr::Bitwise { sreg: SCRATCH, dreg: SCRATCH, mask, xor })
    }

    fn any_of(self, bits: u32) -> Self {
        self.masked(bits).cmp(CmpOp::Neq, [0; 4])
    }

    fn none_of(self, bits: u32) -> Self {
        self.masked(bits).cmp(CmpOp::Eq, [0; 4])
    }

    /// The destination is one of this machine's own addresses, or not.
    pub fn to_local(self, local: bool) -> Self {
        self.expr(Expr::FibType { saddr: false, dreg: SCRATCH }).cmp(Self::eq(local), RTN_LOCAL.to_ne_bytes())
    }

    /// The source is one of this machine's own addresses, or not.
    pub fn from_local(self, local: bool) -> Self {
        self.expr(Expr::FibType { saddr: true, dreg: SCRATCH }).cmp(Self::eq(local), RTN_LOCAL.to_ne_bytes())
    }

    /// Loads the source address (1 register, or 4).
    pub fn load_saddr(self, family: Family, dreg: Reg) -> Self {
        let (offset, len) = if family == Family::V4 { (12, 4) } else { (8, 16) };
        self.expr(Expr::Payload { base: 1, offset, len, dreg })
    }

    /// Loads the destination address (1 register, or 4).
    pub fn load_daddr(self, family: Family, dreg: Reg) -> Self {
        let (offset, len) = if family == Family::V4 { (16, 4) } else { (24, 16) };
        self.expr(Expr::Payload { base: 1, offset, len, dreg })
    }

    /// Loads the transport protocol's number.
    pub fn load_l4proto(self, dreg: Reg) -> Self {
        self.expr(Expr::Meta { key: MetaKey::L4proto, dreg })
    }

    /// Loads the destination port. TCP, UDP and SCTP have it in the same place.
    pub fn load_dport(self, dreg: Reg) -> Self {
        self.expr(Expr::Payload { base: 2, offset: 2, len: 2, dreg })
    }

    /// Loads the incoming interface's name (4 registers).
    pub fn load_iifname(self, dreg: Reg) -> Self {
        self.expr(Expr::Meta { key: MetaKey::Iifname, dreg })
    }

    /// Loads the outgoing interface's name (4 registers).
    pub fn load_oifname(self, dreg: Reg) -> Self {
        self.expr(Expr::Meta { key: MetaKey::Oifname, dreg })
    }

    /// Loads a constant.
    pub fn load(self, dreg: Reg, data: impl Into<Vec<u8>>) -> Self {
        self.expr(Expr::Immediate { dreg, data: data.into() })
    }

    /// Loads a random number below `modulus`.
    pub fn load_random(self, dreg: Reg, modulus: u32) -> Self {
        self.expr(Expr::Numgen { dreg, modulus })
    }

    /// What begins at `sreg` is in the set.
    pub fn lookup(self, set: &str, sreg: Reg) -> Self {
        self.expr(Expr::Lookup { set: set.into(), sreg, dreg: None, invert: false })
    }

    /// Replaces what begins at `dreg` by what the map has for `sreg`; no match if it has nothing.
    pub fn map(self, set: &str, sreg: Reg, dreg: Reg) -> Self {
        self.expr(Expr::Lookup { set: set.into(), sreg, dreg: Some(dreg), invert: false })
    }

    /// Executes the verdict that the map has for `sreg`; no match if it has none.
    pub fn vmap(self, set: &str, sreg: Reg) -> Self {
        self.expr(Expr::Vmap { set: set.into(), sreg })
    }

    /// Changes the destination to the address (and port) in the registers.
    pub fn dnat(self, family: Family, addr: Reg, port: Option<Reg>) -> Self {
        self.expr(Expr::Dnat { family, addr, port })
    }

    /// Changes the source to an address of the outgoing interface.
    pub fn masquerade(self) -> Self {
        self.expr(Expr::Masquerade { random: true })
    }

    /// Counts packets and bytes.
    pub fn counter(self) -> Self {
        self.expr(Expr::Counter)
    }

    /// Ends with a verdict.
    pub fn verdict(self, v: Verdict) -> Self {
        self.expr(Expr::Verdict(v))
    }

    /// `accept`
    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    /// `drop`
    pub fn drop(self) -> Self {
        self.verdict(Verdict::Drop)
    }

    /// `return`
    pub fn back(self) -> Self {
        self.verdict(Verdict::Return)
    }

    /// `jump CHAIN`
    pub fn jump(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Jump(chain.into()))
    }

    /// `goto CHAIN`
    pub fn goto(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Goto(chain.into()))
    }

    /// `reject`: port unreachable.
    pub fn reject(self) -> Self {
        self.expr(Expr::Reject { tcp_reset: false })
    }

    /// Adds, renews or deletes an element of a dynamic set.
    pub fn dynset(
        self,
        op: DynsetOp,
        set: &str,
        key: Reg,
        data: Option<Reg>,
        timeout_ms: Option<u64>,
    ) -> Self {
        self.expr(Expr::Dynset { op, set: set.into(), key, data, timeout_ms })
    }
}

/// An interface name as the kernel compares it: 16 bytes, padded with zeros.
pub(crate) fn ifname(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// An address in network byte order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().into(),
        IpAddr::V6(a) => a.octets().into(),
    }
}
