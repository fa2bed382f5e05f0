//! Operations as nf_tables messages (`linux/netfilter/nf_tables.h`).

use super::batch::{Data, Element, Field, Hook, Kind, Op, Policy, SetSpec, field};
use super::expr::{Expr, Reg, Rule, Verdict};
use crate::wire::{NLM_F_APPEND, NLM_F_CREATE, Writer, attribute, attributes, text};

const SUBSYSTEM: u16 = 10 << 8;
pub(super) const NFPROTO_INET: u8 = 1;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
pub(super) const GETCHAIN: u16 = SUBSYSTEM | 4;
const DELCHAIN: u16 = SUBSYSTEM | 5;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const DELSET: u16 = SUBSYSTEM | 11;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
pub(super) const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;

const SET_MAP: u32 = 8;
const SET_INTERVAL: u32 = 4;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const SET_CONCAT: u32 = 0x80;
const DATA_VERDICT: u32 = 0xffff_ff00;
/// An attribute's length has 16 bits, so the elements of one operation may need several messages.
const ELEMENTS_PER_MESSAGE: usize = 120;
const COMMENT_MAX: usize = 120;

/// The fixed part of every message: family, version 0, resource (big endian).
pub(super) fn header(family: u8, resource: u16) -> [u8; 4] {
    let [a, b] = resource.to_be_bytes();
    [family, 0, a, b]
}

/// Writes the whole transaction. Returns for each message, from sequence number `seq` on, the index of its
/// operation; the first and the last message are the transaction's own brackets (index of the nearest operation).
pub(super) fn batch(w: &mut Writer, table: &str, ops: &[Op], seq: u32) -> Vec<usize> {
    let mut owners = vec![0];
    let subsystem = header(0, SUBSYSTEM >> 8);
    w.begin(BATCH_BEGIN, 0, seq, &subsystem);
    w.end();
    for (index, op) in ops.iter().enumerate() {
        encode(w, table, op, &mut || {
            owners.push(index);
            seq + owners.len() as u32 - 1
        });
    }
    // Only the last operation is acknowledged: one answer for the whole transaction, and each failure by itself.
    if !ops.is_empty() {
        w.add_flags(crate::wire::NLM_F_ACK);
    }
    owners.push(ops.len().saturating_sub(1));
    w.begin(BATCH_END, 0, seq + owners.len() as u32 - 1, &subsystem);
    w.end();
    owners
}

fn encode(w: &mut Writer, table: &str, op: &Op, seq: &mut dyn FnMut() -> u32) {
    let inet = header(NFPROTO_INET, 0);
    let mut message = |w: &mut Writer, kind: u16, flags: u16, body: &dyn Fn(&mut Writer)| {
        w.begin(kind, flags, seq(), &inet);
        w.string(1, table);
        body(w);
        w.end();
    };
    match op {
        Op::AddTable => message(w, NEWTABLE, NLM_F_CREATE, &|w| w.be32(2, 0)),
        Op::DeleteTable => message(w, DELTABLE, 0, &|_| {}),
        Op::AddChain { name, base } => message(w, NEWCHAIN, NLM_F_CREATE, &|w| {
            w.string(3, name);
            if let Some(base) = base {
                w.nest(4, |w| {
                    w.be32(1, base.hook as u32);
                    w.be32(2, base.priority as u32);
                });
                w.be32(5, base.policy as u32);
                w.string(
                    7,
                    match base.kind {
                        Kind::Filter => "filter",
                        Kind::Nat => "nat",
                    },
                );
            }
        }),
        Op::FlushChain(name) => message(w, DELRULE, 0, &|w| w.string(2, name)),
        Op::DeleteChain(name) => message(w, DELCHAIN, 0, &|w| w.string(3, name)),
        Op::AddRule(rule) => message(w, NEWRULE, NLM_F_CREATE | NLM_F_APPEND, &|w| rule_body(w, rule)),
        Op::AddSet(set) => message(w, NEWSET, NLM_F_CREATE, &|w| set_body(w, set)),
        Op::FlushSet(name) => message(w, DELSETELEM, 0, &|w| w.string(2, name)),
        Op::DeleteSet(name) => message(w, DELSET, 0, &|w| w.string(2, name)),
        Op::AddElements(set, elements) => {
            for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
                message(w, NEWSETELEM, NLM_F_CREATE, &|w| elements_body(w, set, some, true));
            }
        }
        Op::DeleteElements(set, elements) => {
            for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
                message(w, DELSETELEM, 0, &|w| elements_body(w, set, some, false));
            }
        }
    }
}

/// nft's own encoding of a comment (type 0, length, NUL-terminated text), so that `nft list` shows it.
fn comment(w: &mut Writer, kind: u16, text: &str) {
    if text.is_empty() {
        return;
    }
    let mut end = text.len().min(COMMENT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut tlv = vec![0, end as u8 + 1];
    tlv.extend_from_slice(&text.as_bytes()[..end]);
    tlv.push(0);
    w.bytes(kind, &tlv);
}

fn set_body(w: &mut Writer, set: &SetSpec) {
    let (key_type, key_len) = shape(&set.key);
    let mut flags = 0;
    if set.verdicts || !set.data.is_empty() {
        flags |= SET_MAP;
    }
    if set.dynamic.is_some() {
        flags |= SET_EVAL | SET_TIMEOUT;
    }
    if set.interval {
        flags |= SET_INTERVAL;
        if set.key.len() > 1 {
            flags |= SET_CONCAT;
        }
    }
    w.string(2, &set.name);
    w.be32(3, flags);
    w.be32(4, key_type);
    w.be32(5, key_len);
    if set.verdicts {
        w.be32(6, DATA_VERDICT);
        w.be32(7, 0);
    } else if !set.data.is_empty() {
        let (data_type, data_len) = shape(&set.data);
        w.be32(6, data_type);
        w.be32(7, data_len);
    }
    let ranges_of_parts = set.interval && set.key.len() > 1;
    if set.dynamic.is_some() || ranges_of_parts {
        w.nest(9, |w| {
            if let Some(size) = set.dynamic {
                w.be32(1, size);
            }
            if ranges_of_parts {
                w.nest(2, |w| {
                    for field in &set.key {
                        w.nest(1, |w| w.be32(1, field.len));
                    }
                });
            }
        });
    }
    if let [only] = &set.key[..]
        && *only == field::IFNAME
    {
        // For `nft list` alone: the byte order of the key (type 0, length 4, 1 for the machine's own), as nft notes it.
        w.bytes(13, &[&[0, 4][..], &1u32.to_ne_bytes()].concat());
    }
    // Within a transaction a set is also known by number; each needs one, unique or not.
    w.be32(10, 1);
}

/// The type by which `nft list` shows a concatenation (six bits a part), and its length in registers.
fn shape(fields: &[Field]) -> (u32, u32) {
    match fields {
        [one] => (one.id, one.len),
        _ => fields.iter().fold((0, 0), |(t, l), f| (t << 6 | f.id, l + f.len.next_multiple_of(4))),
    }
}

fn elements_body(w: &mut Writer, set: &str, elements: &[Element], add: bool) {
    w.string(2, set);
    w.nest(3, |w| {
        for e in elements {
            w.nest(1, |w| {
                w.nest(1, |w| w.bytes(1, &e.key));
                if let Some(end) = &e.end {
                    w.nest(10, |w| w.bytes(1, end));
                }
                if add {
                    match &e.data {
                        Data::None => {}
                        Data::Value(v) => w.nest(2, |w| w.bytes(1, v)),
                        Data::Verdict(v) => w.nest(2, |w| verdict(w, v)),
                    }
                    comment(w, 6, &e.comment);
                }
            });
        }
    });
}

fn verdict(w: &mut Writer, v: &Verdict) {
    w.nest(2, |w| {
        let (code, chain) = match v {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(c) => (-3, Some(c)),
            Verdict::Goto(c) => (-4, Some(c)),
            Verdict::Return => (-5, None),
        };
        w.be32(1, code as u32);
        if let Some(chain) = chain {
            w.string(2, chain);
        }
    });
}

fn rule_body(w: &mut Writer, rule: &Rule) {
    w.string(2, &rule.chain);
    w.nest(4, |w| {
        for e in &rule.exprs {
            w.nest(1, |w| {
                w.string(1, name(e));
                w.nest(2, |w| body(w, e));
            });
        }
    });
    comment(w, 7, &rule.comment);
}

fn name(e: &Expr) -> &'static str {
    match e {
        Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
        Expr::Payload { .. } => "payload",
        Expr::Cmp { .. } => "cmp",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Ct { .. } => "ct",
        Expr::Lookup { .. } | Expr::Vmap { .. } => "lookup",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Dnat { .. } | Expr::Snat { .. } => "nat",
        Expr::Masquerade { .. } => "masq",
        Expr::Redirect { .. } => "redir",
        Expr::Numgen { .. } => "numgen",
        Expr::Counter => "counter",
        Expr::Reject { .. } => "reject",
        Expr::FibType { .. } => "fib",
        Expr::Dynset { .. } => "dynset",
    }
}

fn reg(r: Reg) -> u32 {
    8 + u32::from(r.0)
}

/// The register that holds the verdict.
const REG_VERDICT: u32 = 0;

fn body(w: &mut Writer, e: &Expr) {
    match e {
        Expr::Meta { key, dreg } => {
            w.be32(1, reg(*dreg));
            w.be32(2, *key as u32);
        }
        Expr::MetaSet { key, sreg } => {
            w.be32(2, *key as u32);
            w.be32(3, reg(*sreg));
        }
        Expr::Payload { base, offset, len, dreg } => {
            w.be32(1, reg(*dreg));
            w.be32(2, *base);
            w.be32(3, *offset);
            w.be32(4, *len);
        }
        Expr::Cmp { op, sreg, data } => {
            w.be32(1, reg(*sreg));
            w.be32(2, *op as u32);
            w.nest(3, |w| w.bytes(1, data));
        }
        Expr::Bitwise { sreg, dreg, mask, xor } => {
            w.be32(1, reg(*sreg));
            w.be32(2, reg(*dreg));
            w.be32(3, mask.len() as u32);
            w.nest(4, |w| w.bytes(1, mask));
            w.nest(5, |w| w.bytes(1, xor));
        }
        Expr::Ct { key, dreg } => {
            w.be32(1, reg(*dreg));
            w.be32(2, *key as u32);
        }
        Expr::Lookup { set, sreg, dreg, invert } => {
            w.string(1, set);
            w.be32(2, reg(*sreg));
            if let Some(dreg) = dreg {
                w.be32(3, reg(*dreg));
            }
            if *invert {
                w.be32(5, 1);
            }
        }
        Expr::Vmap { set, sreg } => {
            w.string(1, set);
            w.be32(2, reg(*sreg));
            w.be32(3, REG_VERDICT);
        }
        Expr::Immediate { dreg, data } => {
            w.be32(1, reg(*dreg));
            w.nest(2, |w| w.bytes(1, data));
        }
        Expr::Verdict(v) => {
            w.be32(1, REG_VERDICT);
            w.nest(2, |w| verdict(w, v));
        }
        Expr::Dnat { family, addr, port } => {
            w.be32(1, 1);
            w.be32(2, family.number().into());
            w.be32(3, reg(*addr));
            if let Some(port) = port {
                w.be32(5, reg(*port));
            }
        }
        Expr::Snat { family, addr } => {
            w.be32(1, 0);
            w.be32(2, family.number().into());
            w.be32(3, reg(*addr));
        }
        Expr::Masquerade { random } => {
            // NF_NAT_RANGE_PROTO_RANDOM_FULLY: two connections must not race for the same source port.
            if *random {
                w.be32(1, 1 << 4);
            }
        }
        Expr::Redirect { port } => {
            if let Some(port) = port {
                w.be32(1, reg(*port));
            }
        }
        Expr::Numgen { dreg, modulus } => {
            w.be32(1, reg(*dreg));
            w.be32(2, *modulus);
            w.be32(3, 1);
        }
        Expr::Counter => {}
        Expr::Reject { tcp_reset } => {
            // NFT_REJECT_TCP_RST, or NFT_REJECT_ICMPX_UNREACH with NFT_REJECT_ICMPX_PORT_UNREACH.
            w.be32(1, if *tcp_reset { 1 } else { 2 });
            if !*tcp_reset {
                w.u8(2, 1);
            }
        }
        Expr::FibType { saddr, dreg } => {
            w.be32(1, reg(*dreg));
            w.be32(2, 3);
            w.be32(3, if *saddr { 1 } else { 2 });
        }
        Expr::Dynset { op, set, key, data, timeout_ms } => {
            w.string(1, set);
            w.be32(3, *op as u32);
            w.be32(4, reg(*key));
            if let Some(data) = data {
                w.be32(5, reg(*data));
            }
            if let Some(timeout) = timeout_ms {
                w.be64(6, *timeout);
            }
        }
    }
}

/// The name in a NEWCHAIN message (after its fixed part).
pub(super) fn decode_chain(payload: &[u8]) -> Option<String> {
    attribute(payload.get(4..)?, 3).map(text)
}

/// The base chain in a NEWCHAIN message: table, name, hook and policy.
pub(super) fn decode_base_chain(payload: &[u8]) -> Option<(String, String, Hook, Policy)> {
    let attributes = payload.get(4..)?;
    let number = |v: &[u8]| v.first_chunk().map(|b| u32::from_be_bytes(*b));
    let hook = match number(attribute(attribute(attributes, 4)?, 1)?)? {
        0 => Hook::Prerouting,
        1 => Hook::Input,
        2 => Hook::Forward,
        3 => Hook::Output,
        4 => Hook::Postrouting,
        _ => return None,
    };
    let policy = if number(attribute(attributes, 5)?)? == 0 { Policy::Drop } else { Policy::Accept };
    Some((text(attribute(attributes, 1)?), text(attribute(attributes, 3)?), hook, policy))
}

/// The elements in a NEWSETELEM message (after its fixed part).
pub(super) fn decode_elements(payload: &[u8]) -> Vec<Element> {
    let Some(list) = payload.get(4..).and_then(|p| attribute(p, 3)) else { return Vec::new() };
    attributes(list).filter_map(|(_, e)| decode_element(e)).collect()
}

fn decode_element(e: &[u8]) -> Option<Element> {
    let mut element = Element::new(attribute(attribute(e, 1)?, 1)?.to_vec());
    element.end = attribute(e, 10).and_then(|d| attribute(d, 1)).map(<[u8]>::to_vec);
    if let Some(data) = attribute(e, 2) {
        if let Some(value) = attribute(data, 1) {
            element.data = Data::Value(value.to_vec());
        } else if let Some(v) = attribute(data, 2) {
            let code = i32::from_be_bytes(*attribute(v, 1)?.first_chunk()?);
            let chain = || attribute(v, 2).map(text).unwrap_or_default();
            element.data = Data::Verdict(match code {
                0 => Verdict::Drop,
                1 => Verdict::Accept,
                -3 => Verdict::Jump(chain()),
                -4 => Verdict::Goto(chain()),
                _ => Verdict::Return,
            });
        }
    }
    if let Some([0, _, comment @ ..]) = attribute(e, 6) {
        element.comment = text(comment);
    }
    Some(element)
}
