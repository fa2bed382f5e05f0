//! A table in memory that refuses what the kernel would refuse, for tests without root.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::batch::{Batch, Element, Op};
use super::expr::{Expr, Rule, Verdict};
use super::{Data, Firewall, Flow};
use crate::error::{Error, Result};

/// Records batches and keeps the state that they lead to.
#[derive(Debug, Default)]
pub struct RecordingFirewall {
    state: Mutex<State>,
    batches: Mutex<Vec<Batch>>,
}

/// What the table holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The rules of each chain.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// The elements of each set, by key.
    pub sets: BTreeMap<String, BTreeMap<Vec<u8>, Element>>,
}

impl RecordingFirewall {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
    /// A copy of what the table holds.
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }
    /// Takes the batches that were applied since the last call.
    pub fn take(&self) -> Vec<Batch> {
        std::mem::take(&mut self.batches.lock())
    }
}

fn refuse(op: &Op, errno: i32) -> Error {
    Error::Kernel { op: op.to_string(), errno, detail: String::new() }
}

impl State {
    fn referenced(&self, chain: &str) -> bool {
        let to = |v: &Verdict| matches!(v, Verdict::Jump(c) | Verdict::Goto(c) if c == chain);
        self.chains.values().flatten().flat_map(|r| &r.exprs).any(|e| matches!(e, Expr::Verdict(v) if to(v)))
            || self
                .sets
                .values()
                .flat_map(|s| s.values())
                .any(|e| matches!(&e.data, Data::Verdict(v) if to(v)))
    }

    fn known(&self, v: &Verdict) -> bool {
        match v {
            Verdict::Jump(c) | Verdict::Goto(c) => self.chains.contains_key(c),
            _ => true,
        }
    }

    fn step(&mut self, op: &Op) -> Result<()> {
        let (enoent, ebusy, eexist) = (nix::libc::ENOENT, nix::libc::EBUSY, nix::libc::EEXIST);
        match op {
            Op::AddTable => {}
            Op::DeleteTable => *self = Self::default(),
            Op::AddChain { name, .. } => {
                self.chains.entry(name.clone()).or_default();
            }
            Op::FlushChain(name) => self.chains.get_mut(name).ok_or_else(|| refuse(op, enoent))?.clear(),
            Op::DeleteChain(name) => {
                let rules = self.chains.get(name).ok_or_else(|| refuse(op, enoent))?;
                if !rules.is_empty() || self.referenced(name) {
                    return Err(refuse(op, ebusy));
                }
                self.chains.remove(name);
            }
            Op::AddRule(rule) => {
                for e in &rule.exprs {
                    let ok = match e {
                        Expr::Verdict(v) => self.known(v),
                        Expr::Lookup { set, .. } | Expr::Vmap { set, .. } | Expr::Dynset { set, .. } => {
                            self.sets.contains_key(set)
                        }
                        _ => true,
                    };
                    if !ok {
                        return Err(refuse(op, enoent));
                    }
                }
                self.chains.get_mut(&rule.chain).ok_or_else(|| refuse(op, enoent))?.push(rule.clone());
            }
            Op::AddSet(set) => {
                self.sets.entry(set.name.clone()).or_default();
            }
            Op::FlushSet(name) => self.sets.get_mut(name).ok_or_else(|| refuse(op, enoent))?.clear(),
            Op::DeleteSet(name) => {
                self.sets.remove(name).ok_or_else(|| refuse(op, enoent))?;
            }
            Op::AddElements(set, elements) => {
                for e in elements {
                    if matches!(&e.data, Data::Verdict(v) if !self.known(v)) {
                        return Err(refuse(op, enoent));
                    }
                    let set = self.sets.get_mut(set).ok_or_else(|| refuse(op, enoent))?;
                    if set.get(&e.key).is_some_and(|old| old.data != e.data) {
                        return Err(refuse(op, eexist));
                    }
                    set.insert(e.key.clone(), e.clone());
                }
            }
            Op::DeleteElements(set, elements) => {
                let set = self.sets.get_mut(set).ok_or_else(|| refuse(op, enoent))?;
                for e in elements {
                    set.remove(&e.key).ok_or_else(|| refuse(op, enoent))?;
                }
            }
        }
        Ok(())
    }
}

impl Firewall for RecordingFirewall {
    fn apply(&self, batch: Batch) -> Result<()> {
        let mut state = self.state.lock();
        let mut next = state.clone();
        batch.ops.iter().try_for_each(|op| next.step(op))?;
        *state = next;
        self.batches.lock().push(batch);
        Ok(())
    }
    fn chains(&self) -> Result<Vec<String>> {
        Ok(self.state.lock().chains.keys().cloned().collect())
    }
    fn elements(&self, set: &str) -> Result<Vec<Element>> {
        Ok(self.state.lock().sets.get(set).map(|s| s.values().cloned().collect()).unwrap_or_default())
    }
    fn remove_table(&self) -> Result<()> {
        *self.state.lock() = State::default();
        Ok(())
    }
    fn forget(&self, _stale: &dyn Fn(&Flow) -> bool) -> Result<usize> {
        Ok(0)
    }
}
