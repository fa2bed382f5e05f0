//! Connection tracking: forgetting flows that were translated by rules that hold no more.
//!
//! Rules of type nat judge the first packet of a flow only. A TCP connection ends by itself when its endpoint is gone;
//! a UDP client that keeps its port would go on sending to an endpoint that no longer exists, or past one that is new.

use std::net::IpAddr;

use super::encode::header;
use crate::error::Result;
use crate::wire::{Channel, NLM_F_ACK, NLM_F_DUMP, Writer, attribute};

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const NESTED: u16 = 0x8000;
const INET: u8 = 2;
const INET6: u8 = 10;

/// One tracked flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The transport protocol's number.
    pub proto: u8,
    /// Where its first packet came from.
    pub source: (IpAddr, u16),
    /// Where its first packet was sent to, before translation.
    pub destination: (IpAddr, u16),
    /// Who answers: the destination after translation.
    pub answers: (IpAddr, u16),
}

/// Deletes the flows that `stale` picks; returns how many there were.
pub(super) fn forget(channel: &mut Channel, stale: &dyn Fn(&Flow) -> bool) -> Result<usize> {
    let mut writer = Writer::new();
    let mut count = 0;
    for family in [INET, INET6] {
        let messages = channel.dump("list tracked connections", |w, seq| {
            w.begin(GET, NLM_F_DUMP, seq, &header(family, 0));
            w.end();
        })?;
        for m in messages.iter().filter(|m| m.kind == NEW) {
            let Some(attributes) = m.payload.get(4..) else { continue };
            let Some(original) = attribute(attributes, TUPLE_ORIGINAL) else { continue };
            if !flow(attributes).is_some_and(|f| stale(&f)) {
                continue;
            }
            let seq = channel.sequence(1);
            writer.begin(DELETE, NLM_F_ACK, seq, &header(family, 0));
            writer.bytes(TUPLE_ORIGINAL | NESTED, original);
            writer.end();
            count += 1;
        }
    }
    if count > 0 {
        // A flow that has ended meanwhile is as good as deleted: answers are of no interest.
        channel.exchange(&writer.buf)?;
    }
    Ok(count)
}

fn flow(attributes: &[u8]) -> Option<Flow> {
    let original = tuple(attribute(attributes, TUPLE_ORIGINAL)?)?;
    let reply = tuple(attribute(attributes, TUPLE_REPLY)?)?;
    Some(Flow { proto: original.2, source: original.0, destination: original.1, answers: reply.0 })
}

type Tuple = ((IpAddr, u16), (IpAddr, u16), u8);

fn tuple(t: &[u8]) -> Option<Tuple> {
    let (ip, proto) = (attribute(t, TUPLE_IP)?, attribute(t, TUPLE_PROTO)?);
    let v4 = |kind| attribute(ip, kind).and_then(|v| v.first_chunk::<4>()).map(|a| IpAddr::from(*a));
    let v6 = |kind| attribute(ip, kind).and_then(|v| v.first_chunk::<16>()).map(|a| IpAddr::from(*a));
    let port = |kind| {
        attribute(proto, kind).and_then(|v| v.first_chunk::<2>()).map_or(0, |p| u16::from_be_bytes(*p))
    };
    let source = v4(1).or_else(|| v6(3))?;
    let destination = v4(2).or_else(|| v6(4))?;
    Some(((source, port(2)), (destination, port(3)), *attribute(proto, 1)?.first()?))
}
