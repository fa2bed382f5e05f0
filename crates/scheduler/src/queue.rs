//! The pods that wait: for their turn, for a change that may help them, or (after failures) for a moment.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::view::PodView;

/// How long a pod waits after its first failure even if something has changed; it doubles up to [`LAST`].
const FIRST: Duration = Duration::from_secs(1);
/// See [`FIRST`].
const LAST: Duration = Duration::from_secs(10);

struct Waiting {
    pod: Arc<PodView>,
    /// The order in which pods came.
    arrived: u64,
    failures: u32,
    /// Not before this moment.
    not_before: Instant,
    /// Whether it waits for a change.
    parked: bool,
    /// Changes that had happened when its last attempt began.
    seen: u64,
}

/// The queue.
#[derive(Default)]
pub(crate) struct Queue {
    pods: HashMap<String, Waiting>,
    /// Those whose turn may come: most important first, then as they came.
    ready: BTreeSet<(Reverse<i64>, u64, String)>,
    /// Those that wait for a moment.
    later: BTreeSet<(Instant, String)>,
    arrivals: u64,
    changes: u64,
}

impl Queue {
    /// Puts a pod in, or takes note of its new state, which may help it.
    pub(crate) fn set(&mut self, pod: Arc<PodView>) {
        let uid = pod.uid.clone();
        match self.pods.get_mut(&uid) {
            Some(w) => {
                let (old, new) = (w.pod.object.object(), pod.object.object());
                let spec_changed = old.spec() != new.spec() || old.labels() != new.labels();
                w.pod = pod;
                if spec_changed {
                    w.failures = 0;
                    w.not_before = Instant::now();
                    w.parked = false;
                    self.enqueue(&uid);
                }
            }
            None => {
                self.arrivals += 1;
                let w = Waiting {
                    pod,
                    arrived: self.arrivals,
                    failures: 0,
                    not_before: Instant::now(),
                    parked: false,
                    seen: 0,
                };
                self.pods.insert(uid.clone(), w);
                self.enqueue(&uid);
            }
        }
    }

    /// Takes a pod out.
    pub(crate) fn remove(&mut self, uid: &str) {
        if let Some(w) = self.pods.remove(uid) {
            self.ready.remove(&(Reverse(w.pod.priority), w.arrived, uid.into()));
            self.later.remove(&(w.not_before, uid.into()));
        }
    }

    /// The next pod, if it is anybody's turn; it stays in the queue until it is removed or failed.
    pub(crate) fn next(&mut self) -> Option<Arc<PodView>> {
        let now = Instant::now();
        while let Some((at, uid)) = self.later.first().cloned() {
            if at > now {
                break;
            }
            self.later.pop_first();
            self.enqueue(&uid);
        }
        let (_, _, uid) = self.ready.pop_first()?;
        let w = self.pods.get_mut(&uid)?;
        w.seen = self.changes;
        Some(w.pod.clone())
    }

    /// When the next pod's moment comes.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// A pod fits nowhere: it waits for a change. One that happened meanwhile counts.
    pub(crate) fn park(&mut self, uid: &str) {
        self.fail(uid, true);
    }

    /// A pod failed for a reason that may be gone in a moment.
    pub(crate) fn retry(&mut self, uid: &str) {
        self.fail(uid, false);
    }

    /// A pod that has just been put in again failed after its turn.
    pub(crate) fn next_failed(&mut self, uid: &str) {
        if let Some(w) = self.pods.get(uid) {
            self.ready.remove(&(Reverse(w.pod.priority), w.arrived, uid.into()));
        }
        self.retry(uid);
    }

    /// A pod waits for a change that is under way, which is no failure.
    pub(crate) fn wait(&mut self, uid: &str) {
        let changes = self.changes;
        let Some(w) = self.pods.get_mut(uid) else { return };
        w.not_before = Instant::now();
        w.parked = w.seen == changes;
        if !w.parked {
            self.enqueue(uid);
        }
    }

    fn fail(&mut self, uid: &str, park: bool) {
        let changes = self.changes;
        let Some(w) = self.pods.get_mut(uid) else { return };
        w.failures += 1;
        let delay = FIRST.saturating_mul(1u32.checked_shl(w.failures - 1).unwrap_or(u32::MAX)).min(LAST);
        w.not_before = Instant::now() + delay;
        w.parked = park && w.seen == changes;
        if !w.parked {
            self.enqueue(uid);
        }
    }

    /// Something changed that may help the pods that wait for that.
    pub(crate) fn wake(&mut self) {
        self.changes += 1;
        let parked: Vec<String> =
            self.pods.iter().filter(|(_, w)| w.parked).map(|(uid, _)| uid.clone()).collect();
        for uid in parked {
            if let Some(w) = self.pods.get_mut(&uid) {
                w.parked = false;
            }
            self.enqueue(&uid);
        }
    }

    fn enqueue(&mut self, uid: &str) {
        let Some(w) = self.pods.get(uid) else { return };
        if w.not_before > Instant::now() {
            self.later.insert((w.not_before, uid.into()));
        } else {
            self.ready.insert((Reverse(w.pod.priority), w.arrived, uid.into()));
        }
    }
}
