//! A store without a disk, for tests and simulations: it has no threads and waits for nothing, so that a paused clock
//! governs everything it does. It keeps all history until it is told to compact.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::hub::{self, History, Hub};
use crate::{
    Error, Event, EventKind, Expect, KeyValue, LeaseId, Op, Range, RangeResult, Result, Store, Txn,
    TxnResult, WatchStream,
};

/// A new, empty store in memory. To be called inside a tokio runtime if leases are used.
pub fn memory() -> Arc<dyn Store> {
    Arc::new(Memory { hub: Hub::new(1), state: Arc::new(Mutex::new(State { head: 1, ..State::default() })) })
}

struct Lease {
    ttl: Duration,
    deadline: Instant,
}

#[derive(Default)]
struct State {
    head: u64,
    compacted: u64,
    /// Every event, by its revision.
    log: BTreeMap<u64, Event>,
    /// Each key's states; `None`: deleted.
    keys: BTreeMap<Vec<u8>, BTreeMap<u64, Option<KeyValue>>>,
    attached: BTreeMap<Vec<u8>, LeaseId>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: LeaseId,
}

struct Memory {
    hub: Arc<Hub>,
    state: Arc<Mutex<State>>,
}

impl State {
    fn get(&self, key: &[u8], revision: u64) -> Option<&KeyValue> {
        self.keys.get(key)?.range(..=revision).next_back()?.1.as_ref()
    }

    fn write(&mut self, key: &[u8], value: Option<(Bytes, LeaseId)>) -> Event {
        let prev = self.get(key, u64::MAX).cloned();
        self.head += 1;
        let (kind, kv) = match value {
            Some((value, lease)) => {
                if lease == 0 {
                    self.attached.remove(key);
                } else {
                    self.attached.insert(key.to_vec(), lease);
                }
                let kv = KeyValue {
                    key: key.to_vec(),
                    value,
                    create_revision: prev.as_ref().map_or(self.head, |p| p.create_revision),
                    mod_revision: self.head,
                    version: prev.as_ref().map_or(1, |p| p.version + 1),
                };
                (EventKind::Put, kv)
            }
            None => {
                self.attached.remove(key);
                (EventKind::Delete, tombstone(key, self.head))
            }
        };
        let states = self.keys.entry(key.to_vec()).or_default();
        states.insert(self.head, (kind == EventKind::Put).then(|| kv.clone()));
        let event = Event { kind, kv, prev };
        self.log.insert(self.head, event.clone());
        event
    }

    fn revoke(&mut self, lease: LeaseId) -> Option<Vec<Event>> {
        self.leases.remove(&lease)?;
        let keys: Vec<_> =
            self.attached.iter().filter(|(_, l)| **l == lease).map(|(k, _)| k.clone()).collect();
        Some(keys.iter().map(|k| self.write(k, None)).collect())
    }
}

/// The key-value of a deletion's event.
pub(crate) fn tombstone(key: &[u8], revision: u64) -> KeyValue {
    KeyValue {
        key: key.to_vec(),
        value: Bytes::new(),
        create_revision: 0,
        mod_revision: revision,
        version: 0,
    }
}

#[async_trait]
impl Store for Memory {
    async fn range(&self, r: Range) -> Result<RangeResult> {
        let state = self.state.lock();
        if r.revision > state.head {
            return Err(Error::Future { requested: r.revision, current: state.head });
        }
        if r.revision != 0 && r.revision < state.compacted {
            return Err(Error::Compacted { requested: r.revision, compacted: state.compacted });
        }
        let at = if r.revision == 0 { state.head } else { r.revision };
        let end = match r.end.as_slice() {
            [] => Bound::Included(r.start.clone()),
            [0] => Bound::Unbounded,
            end if end <= r.start.as_slice() => Bound::Excluded(r.start.clone()),
            end => Bound::Excluded(end.to_vec()),
        };
        let mut result = RangeResult { revision: state.head, ..RangeResult::default() };
        if matches!(&end, Bound::Excluded(e) if *e <= r.start) {
            return Ok(result);
        }
        for key in state.keys.range((Bound::Included(r.start.clone()), end)).map(|(k, _)| k) {
            let Some(kv) = state.get(key, at) else { continue };
            result.count += 1;
            if r.count_only {
                continue;
            }
            if r.limit != 0 && result.items.len() as u64 == r.limit {
                result.more = true;
                continue;
            }
            let mut kv = kv.clone();
            if r.keys_only {
                kv.value = Bytes::new();
            }
            result.items.push(kv);
        }
        Ok(result)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        let mut state = self.state.lock();
        let current = state.get(&txn.key, u64::MAX).cloned();
        let holds = match txn.expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::ModRevision(r) => current.as_ref().is_some_and(|c| c.mod_revision == r),
        };
        let value = match txn.op {
            Op::Put { value, lease } => {
                let lease = lease.unwrap_or(0);
                if holds && lease != 0 && !state.leases.contains_key(&lease) {
                    return Err(Error::LeaseNotFound(lease));
                }
                Some((value, lease))
            }
            Op::Delete => None,
        };
        if holds && (value.is_some() || current.is_some()) {
            let event = state.write(&txn.key, value);
            self.hub.publish(state.head, &[event]);
        }
        Ok(TxnResult { succeeded: holds, revision: state.head, current })
    }

    async fn watch(&self, prefix: Vec<u8>, from: u64) -> Result<WatchStream> {
        hub::watch(&self.hub, Arc::new(Log(self.state.clone())), prefix, from).await
    }

    async fn revision(&self) -> Result<u64> {
        Ok(self.state.lock().head)
    }

    async fn size(&self) -> Result<u64> {
        let state = self.state.lock();
        let current = state.keys.keys().filter_map(|key| state.get(key, state.head));
        Ok(current.map(|kv| (kv.key.len() + kv.value.len()) as u64).sum())
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        let mut state = self.state.lock();
        if revision > state.head {
            return Err(Error::Future { requested: revision, current: state.head });
        }
        if revision < state.compacted {
            return Err(Error::Compacted { requested: revision, compacted: state.compacted });
        }
        state.compacted = revision;
        state.log = state.log.split_off(&(revision + 1));
        for states in state.keys.values_mut() {
            let later = states.split_off(&(revision + 1));
            let last = states.pop_last().filter(|(_, kv)| kv.is_some());
            *states = later;
            states.extend(last);
        }
        state.keys.retain(|_, states| !states.is_empty());
        Ok(())
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId> {
        let (state, hub) = (self.state.clone(), self.hub.clone());
        let lease = {
            let mut s = state.lock();
            s.last_lease += 1;
            let lease = s.last_lease;
            s.leases.insert(lease, Lease { ttl, deadline: Instant::now() + ttl });
            lease
        };
        // A timer, because a lease is over when time has passed and nothing has happened.
        tokio::spawn(async move {
            loop {
                let Some(deadline) = state.lock().leases.get(&lease).map(|l| l.deadline) else { return };
                if deadline > Instant::now() {
                    tokio::time::sleep_until(deadline).await;
                    continue;
                }
                let mut s = state.lock();
                if let Some(events) = s.revoke(lease) {
                    hub.publish(s.head, &events);
                }
                return;
            }
        });
        Ok(lease)
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<()> {
        let mut state = self.state.lock();
        let l = state.leases.get_mut(&lease).ok_or(Error::LeaseNotFound(lease))?;
        l.deadline = Instant::now() + l.ttl;
        Ok(())
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<()> {
        let mut state = self.state.lock();
        let events = state.revoke(lease).ok_or(Error::LeaseNotFound(lease))?;
        self.hub.publish(state.head, &events);
        Ok(())
    }
}

struct Log(Arc<Mutex<State>>);

#[async_trait]
impl History for Log {
    async fn history(&self, prefix: &[u8], from: u64, upto: u64, limit: usize) -> Result<Vec<Event>> {
        let state = self.0.lock();
        if from <= state.compacted {
            return Err(Error::Compacted { requested: from, compacted: state.compacted });
        }
        let events = state.log.range(from..=upto).map(|(_, e)| e).filter(|e| e.kv.key.starts_with(prefix));
        Ok(events.take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test(start_paused = true)]
    async fn conforms() {
        crate::conformance::all(super::memory).await;
    }
}
