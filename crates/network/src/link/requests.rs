//! rtnetlink requests (`linux/rtnetlink.h`): several in one datagram, each acknowledged by itself.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Route;
use crate::error::{Error, Result};
use crate::nft::Family;
use crate::wire::{Channel, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, Writer};

pub(super) const NEWLINK: u16 = 16;
pub(super) const DELLINK: u16 = 17;
pub(super) const GETLINK: u16 = 18;
pub(super) const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
pub(super) const GETADDR: u16 = 22;
pub(super) const NEWROUTE: u16 = 24;
pub(super) const GETROUTE: u16 = 26;
pub(super) const IFF_UP: u32 = 1;
const EEXIST: i32 = 17;
const EADDRNOTAVAIL: i32 = 99;

/// Acknowledged requests that travel together.
#[derive(Default)]
pub(super) struct Requests {
    writer: Writer,
    names: Vec<(String, &'static [i32])>,
}

impl Requests {
    pub fn message(
        &mut self,
        name: String,
        kind: u16,
        flags: u16,
        header: &[u8],
        body: impl FnOnce(&mut Writer),
    ) {
        // Sequence numbers count from 0 here and are moved to the channel's own when sent.
        self.writer.begin(kind, flags | NLM_F_ACK, self.names.len() as u32, header);
        body(&mut self.writer);
        self.writer.end();
        self.names.push((name, &[]));
    }

    /// The message added last may fail with one of `errnos`: what it wants is so already.
    pub fn tolerate(&mut self, errnos: &'static [i32]) {
        if let Some(last) = self.names.last_mut() {
            last.1 = errnos;
        }
    }

    pub fn up(&mut self, name: String, index: u32) {
        self.message(name, NEWLINK, 0, &ifinfo(index, IFF_UP), |_| {});
    }

    pub fn address(&mut self, link: &str, index: u32, address: IpNet, add: bool) {
        const NODAD: u8 = 2;
        let v6 = address.addr().is_ipv6();
        let mut header = [
            Family::of(address.addr()).number(),
            address.prefix_len(),
            if v6 { NODAD } else { 0 },
            0,
            0,
            0,
            0,
            0,
        ];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let (verb, kind, flags) =
            if add { ("add", NEWADDR, NLM_F_CREATE | NLM_F_REPLACE) } else { ("remove", DELADDR, 0) };
        self.message(format!("{verb} address {address} of {link}"), kind, flags, &header, |w| {
            let bytes = octets(address.addr());
            w.bytes(2, &bytes);
            w.bytes(1, &bytes);
            if let IpNet::V4(net) = address
                && net.prefix_len() < 31
                && add
            {
                w.bytes(4, &net.broadcast().octets());
            }
        });
        self.tolerate(if add { &[EEXIST] } else { &[EADDRNOTAVAIL] });
    }

    pub fn route(&mut self, index: u32, route: &Route) {
        const LINK_SCOPE: u8 = 253;
        let family = Family::of(route.destination.addr());
        let scope = if route.via.is_none() && family == Family::V4 { LINK_SCOPE } else { 0 };
        let header = rtmsg(family, route.destination.prefix_len(), scope);
        self.message(
            format!("add route to {}", route.destination),
            NEWROUTE,
            NLM_F_CREATE | NLM_F_REPLACE,
            &header,
            |w| {
                if route.destination.prefix_len() > 0 {
                    w.bytes(1, &octets(route.destination.network()));
                }
                w.u32(4, index);
                route.via.iter().for_each(|via| w.bytes(5, &octets(*via)));
                route.source.iter().for_each(|source| w.bytes(7, &octets(*source)));
            },
        );
    }

    pub fn run(mut self, channel: &mut Channel) -> Result<()> {
        let first = channel.sequence(self.names.len() as u32);
        let (mut at, mut n) = (0, 0);
        while at < self.writer.buf.len() {
            let b = &mut self.writer.buf[at..];
            let len = u32::from_ne_bytes([b[0], b[1], b[2], b[3]]) as usize;
            b[8..12].copy_from_slice(&(first + n).to_ne_bytes());
            at += len;
            n += 1;
        }
        let (answers, _, _) = channel.exchange(&self.writer.buf)?;
        for a in answers.iter().filter(|a| a.errno != 0) {
            let Some((name, tolerated)) = a.seq.checked_sub(first).and_then(|i| self.names.get(i as usize))
            else {
                continue;
            };
            if !tolerated.contains(&a.errno) {
                return Err(Error::Kernel { op: name.clone(), errno: a.errno, detail: a.detail.clone() });
            }
        }
        Ok(())
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().into(),
        IpAddr::V6(a) => a.octets().into(),
    }
}

/// `struct ifinfomsg`; the flags are also the mask of what changes.
pub(super) fn ifinfo(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// `struct rtmsg` of a unicast route in the main table.
pub(super) fn rtmsg(family: Family, prefix: u8, scope: u8) -> [u8; 12] {
    const MAIN: u8 = 254;
    const STATIC: u8 = 4;
    const UNICAST: u8 = 1;
    [family.number(), prefix, 0, 0, MAIN, STATIC, scope, UNICAST, 0, 0, 0, 0]
}
