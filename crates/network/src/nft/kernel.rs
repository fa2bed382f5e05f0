//! The kernel's nf_tables over one netlink socket that stays open (closing one costs milliseconds).

use parking_lot::Mutex;

use super::batch::{Batch, Element, Hook, Op, Policy};
use super::{Firewall, Flow, conntrack, encode};
use crate::error::{Error, Result};
use crate::wire::{Channel, NLM_F_DUMP, Writer};

const NETLINK_NETFILTER: isize = 12;
const ENOENT: i32 = 2;
const EAGAIN: i32 = 11;

/// The table `inet NAME` of the network namespace in which it was opened.
pub struct Nft {
    table: String,
    channel: Mutex<Channel>,
}

impl Nft {
    /// Opens the socket in the calling thread's network namespace. Makes nothing yet.
    pub fn open(table: &str) -> Result<Self> {
        Ok(Self { table: table.into(), channel: Mutex::new(Channel::open(NETLINK_NETFILTER)?) })
    }

    fn transact(&self, ops: &[Op]) -> Result<()> {
        let mut channel = self.channel.lock();
        loop {
            // Elements are split over several messages; their number is an upper bound for the sequence numbers used.
            let bound: u32 = ops.iter().map(|op| 1 + elements(op) as u32).sum::<u32>() + 2;
            let seq = channel.sequence(bound);
            let mut writer = Writer::new();
            let owners = encode::batch(&mut writer, &self.table, ops, seq);
            let (answers, _, _) = channel.exchange(&writer.buf)?;
            // The first failing message is the cause; later ones often fail only because of it.
            let failure = answers.iter().filter(|a| a.errno != 0).min_by_key(|a| a.seq);
            match failure {
                // The kernel asks for the same again (it was loading a module, or another transaction came between).
                Some(a) if a.errno == EAGAIN => {}
                Some(a) => {
                    let index =
                        a.seq.checked_sub(seq).and_then(|i| owners.get(i as usize)).copied().unwrap_or(0);
                    let op = ops.get(index).map(|op| op.to_string()).unwrap_or_default();
                    let op = format!("nftables table {}: {op}", self.table);
                    return Err(Error::Kernel { op, errno: a.errno, detail: a.detail.clone() });
                }
                None if answers.is_empty() && !ops.is_empty() => {
                    let op = format!("nftables table {}: no answer to a transaction", self.table);
                    return Err(Error::Kernel { op, errno: nix::libc::EIO, detail: String::new() });
                }
                None => return Ok(()),
            }
        }
    }

    fn dump(&self, op: String, kind: u16, body: impl Fn(&mut Writer)) -> Result<Vec<Vec<u8>>> {
        let dumped = self.channel.lock().dump(&op, |w, seq| {
            w.begin(kind, NLM_F_DUMP, seq, &encode::header(encode::NFPROTO_INET, 0));
            w.string(1, &self.table);
            body(w);
            w.end();
        });
        match dumped {
            Ok(messages) => Ok(messages.into_iter().map(|m| m.payload).collect()),
            Err(Error::Kernel { errno: ENOENT, .. }) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
}

/// A base chain of somebody else that drops what it does not know. Ours cannot overrule it: a packet passes only if
/// every table lets it pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignPolicy {
    /// The family and name of its table: `ip filter`.
    pub table: String,
    /// The chain's name.
    pub chain: String,
    /// Which packets it sees.
    pub hook: Hook,
}

impl Nft {
    /// The chains of other tables that drop by policy what is forwarded to containers or sent to this machine, for
    /// `tug doctor`.
    pub fn foreign_policies(&self) -> Result<Vec<ForeignPolicy>> {
        let mut found = Vec::new();
        for (number, family) in [(encode::NFPROTO_INET, "inet"), (2, "ip"), (10, "ip6")] {
            let messages = self.channel.lock().dump("list the chains of all nftables tables", |w, seq| {
                w.begin(encode::GETCHAIN, NLM_F_DUMP, seq, &encode::header(number, 0));
                w.end();
            })?;
            let chains = messages.iter().filter_map(|m| encode::decode_base_chain(&m.payload));
            for (table, chain, hook, policy) in chains {
                let ours = number == encode::NFPROTO_INET && table == self.table;
                if policy == Policy::Drop && matches!(hook, Hook::Forward | Hook::Input) && !ours {
                    found.push(ForeignPolicy { table: format!("{family} {table}"), chain, hook });
                }
            }
        }
        Ok(found)
    }
}

/// A program that makes the machine's firewall out of its own settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// It rejects by a rule at the end of its chains, not by policy.
    Firewalld,
    /// Its chains are named after it.
    Ufw,
}

impl Nft {
    /// What manages the firewall of this machine, as far as its tables and chains say.
    pub fn manager(&self) -> Result<Option<Manager>> {
        for number in [encode::NFPROTO_INET, 2, 10] {
            let messages = self.channel.lock().dump("list the chains of all nftables tables", |w, seq| {
                w.begin(encode::GETCHAIN, NLM_F_DUMP, seq, &encode::header(number, 0));
                w.end();
            })?;
            for payload in messages.iter().map(|m| &m.payload) {
                let table =
                    payload.get(4..).and_then(|b| crate::wire::attribute(b, 1)).map(crate::wire::text);
                let chain = encode::decode_chain(payload).unwrap_or_default();
                if table.is_some_and(|t| t == "firewalld") {
                    return Ok(Some(Manager::Firewalld));
                }
                if chain.starts_with("ufw-") || chain.starts_with("ufw6-") {
                    return Ok(Some(Manager::Ufw));
                }
            }
        }
        Ok(None)
    }
}

fn elements(op: &Op) -> usize {
    match op {
        Op::AddElements(_, e) | Op::DeleteElements(_, e) => e.len(),
        _ => 0,
    }
}

impl Firewall for Nft {
    fn apply(&self, batch: Batch) -> Result<()> {
        if batch.is_empty() { Ok(()) } else { self.transact(&batch.ops) }
    }

    fn chains(&self) -> Result<Vec<String>> {
        let op = format!("list the chains of nftables table {}", self.table);
        let messages = self.dump(op, encode::GETCHAIN, |_| {})?;
        // Kernels before 5.x ignore the table in a dump of chains and send every one.
        let ours = |p: &&Vec<u8>| {
            p.get(4..).and_then(|b| crate::wire::attribute(b, 1)).map(crate::wire::text).as_deref()
                == Some(&self.table)
        };
        Ok(messages.iter().filter(ours).filter_map(|p| encode::decode_chain(p)).collect())
    }

    fn elements(&self, set: &str) -> Result<Vec<Element>> {
        let op = format!("list the elements of {set} in nftables table {}", self.table);
        let messages = self.dump(op, encode::GETSETELEM, |w| w.string(2, set))?;
        Ok(messages.iter().flat_map(|p| encode::decode_elements(p)).collect())
    }

    fn remove_table(&self) -> Result<()> {
        // Made first, so that there is one to delete: one transaction without a question before it.
        self.transact(&[Op::AddTable, Op::DeleteTable])
    }

    fn forget(&self, stale: &dyn Fn(&Flow) -> bool) -> Result<usize> {
        conntrack::forget(&mut self.channel.lock(), stale)
    }
}
