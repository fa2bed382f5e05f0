//! The work queue: each key at most once in it, each key in one pair of hands at a time, failures with growing delays.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use base::prometheus::Histogram;

use crate::metrics::{Figures, QueueFigures, times_of_queue};

/// The delay after the first failure of a key; it doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_millis(5);
/// The longest delay after a failure.
const LAST_DELAY: Duration = Duration::from_secs(300);

/// A queue of keys. Clones share it.
pub struct WorkQueue<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    /// With the time since when they wait.
    ready: VecDeque<(K, Instant)>,
    /// What is in `ready`, or must go there once it is out of hands.
    wanted: HashSet<K>,
    /// With the time since when they are worked on.
    in_hands: HashMap<K, Instant>,
    /// When which ticket is due; a ticket that `tickets` has no more is void.
    later: BinaryHeap<Reverse<(Instant, u64)>>,
    tickets: HashMap<u64, K>,
    last_ticket: u64,
    /// The one ticket of a key that waits for its time.
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    closed: bool,
    adds: u64,
    retries: u64,
    waited: Histogram,
    worked: Histogram,
}

impl<K: Eq + Hash + Clone + Send> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Eq + Hash + Clone + Send> WorkQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            wanted: HashSet::new(),
            in_hands: HashMap::new(),
            later: BinaryHeap::new(),
            tickets: HashMap::new(),
            last_ticket: 0,
            due: HashMap::new(),
            failures: HashMap::new(),
            closed: false,
            adds: 0,
            retries: 0,
            waited: times_of_queue(),
            worked: times_of_queue(),
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), wake: Notify::new() }) }
    }

    /// An empty queue that is counted under this name ([`crate::metrics`]).
    pub fn named(name: &str) -> Self
    where
        K: 'static,
    {
        let queue = Self::new();
        let weak: Weak<Inner<K>> = Arc::downgrade(&queue.inner);
        crate::metrics::register(name, weak);
        queue
    }

    /// Puts a key in, unless it is there. A key that is being worked on is given out again after that.
    pub fn add(&self, key: K) {
        self.inner.state.lock().add(key);
        self.inner.wake.notify_one();
    }

    /// Puts a key in when the time has passed; the earliest counts if there are several.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.inner.state.lock();
        let at = base::clock::later(Instant::now(), delay);
        match state.due.get(&key).copied() {
            Some((earlier, _)) if earlier <= at => return,
            Some((_, void)) => drop(state.tickets.remove(&void)),
            None => {}
        }
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.later.push(Reverse((at, ticket)));
        state.due.insert(key.clone(), (at, ticket));
        state.tickets.insert(ticket, key);
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Puts a key in after a failure: with a delay that doubles each time, until [`WorkQueue::forget`].
    pub fn add_failed(&self, key: K) {
        let failures = {
            let mut state = self.inner.state.lock();
            let n = state.failures.entry(key.clone()).or_insert(0);
            *n += 1;
            let n = *n;
            state.retries += 1;
            n
        };
        let delay =
            FIRST_DELAY.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(LAST_DELAY);
        self.add_after(key, delay);
    }

    /// How often the key has failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.inner.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The key has succeeded: its next failure is its first.
    pub fn forget(&self, key: &K) {
        self.inner.state.lock().failures.remove(key);
    }

    /// The next key, when there is one; `None` when the queue was closed. [`WorkQueue::done`] must follow.
    pub async fn next(&self) -> Option<K> {
        loop {
            let woken = self.inner.wake.notified();
            let due = {
                let mut state = self.inner.state.lock();
                if state.closed {
                    return None;
                }
                state.move_due();
                if let Some((key, since)) = state.ready.pop_front() {
                    let now = Instant::now();
                    state.waited.observe(now.saturating_duration_since(since));
                    state.wanted.remove(&key);
                    state.in_hands.insert(key.clone(), now);
                    if !state.ready.is_empty() {
                        self.inner.wake.notify_one(); // another worker may have slept through its turn
                    }
                    return Some(key);
                }
                state.later.peek().map(|Reverse((at, _))| *at)
            };
            match due {
                // A timer, because the delay is what was asked for.
                Some(at) => tokio::select! { _ = woken => {}, _ = tokio::time::sleep_until(at) => {} },
                None => woken.await,
            }
        }
    }

    /// The key is out of hands.
    pub fn done(&self, key: &K) {
        let mut state = self.inner.state.lock();
        let now = Instant::now();
        if let Some(since) = state.in_hands.remove(key) {
            state.worked.observe(now.saturating_duration_since(since));
        }
        if state.wanted.contains(key) {
            state.ready.push_back((key.clone(), now));
            drop(state);
            self.inner.wake.notify_one();
        }
    }

    /// Ends it: everybody who waits, or comes, gets `None`.
    pub fn close(&self) {
        self.inner.state.lock().closed = true;
        self.inner.wake.notify_waiters();
        self.inner.wake.notify_one();
    }

    /// How many keys wait, not counting those with a delay.
    pub fn len(&self) -> usize {
        self.inner.state.lock().ready.len()
    }

    /// Whether nothing waits, not counting what has a delay.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    fn add(&mut self, key: K) {
        if !self.wanted.insert(key.clone()) {
            return;
        }
        self.adds += 1;
        if !self.in_hands.contains_key(&key) {
            self.ready.push_back((key, Instant::now()));
        }
    }

    fn move_due(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, ticket))) = self.later.peek().copied() {
            if at > now {
                return;
            }
            self.later.pop();
            if let Some(key) = self.tickets.remove(&ticket) {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }
}

impl<K: Eq + Hash + Clone + Send> Figures for Inner<K> {
    fn figures(&self) -> QueueFigures {
        let state = self.state.lock();
        let now = Instant::now();
        let running = || state.in_hands.values().map(|since| now.saturating_duration_since(*since));
        QueueFigures {
            depth: state.ready.len(),
            adds: state.adds,
            retries: state.retries,
            waited: state.waited.clone(),
            worked: state.worked.clone(),
            unfinished: running().sum(),
            longest: running().max().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_there_once_and_in_one_pair_of_hands() {
        let q = WorkQueue::new();
        q.add("a");
        q.add("a");
        q.add("b");
        assert_eq!(q.next().await, Some("a"));
        q.add("a");
        assert_eq!(q.next().await, Some("b"));
        assert!(q.next().now_or_never().is_none(), "a is in somebody's hands");
        q.done(&"a");
        assert_eq!(q.next().await, Some("a"));
        q.done(&"a");
        q.done(&"b");
        assert!(q.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn delays() {
        let q = WorkQueue::new();
        let start = Instant::now();
        q.add_after("late", Duration::from_secs(10));
        q.add_after("early", Duration::from_secs(1));
        assert_eq!(q.next().await, Some("early"));
        assert_eq!(start.elapsed().as_secs(), 1);
        assert_eq!(q.next().await, Some("late"));
        assert_eq!(start.elapsed().as_secs(), 10);
        q.done(&"late");
        for expected in [5, 10, 20, 40] {
            let start = Instant::now();
            q.add_failed("late");
            assert_eq!(q.next().await, Some("late"));
            q.done(&"late");
            assert!((expected..expected + 2).contains(&start.elapsed().as_millis()));
        }
        q.forget(&"late");
        assert_eq!(q.failures(&"late"), 0);
        for _ in 0..80 {
            q.add_failed("late");
        }
        assert_eq!(q.failures(&"late"), 80);
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_delays_the_earliest_counts() {
        let q = WorkQueue::new();
        let start = Instant::now();
        for seconds in [5, 9, 2, 7] {
            q.add_after("a", Duration::from_secs(seconds));
        }
        assert_eq!(q.next().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 2);
        q.done(&"a");
        let again = tokio::time::timeout(Duration::from_secs(60), q.next()).await;
        assert!(again.is_err(), "it is given out once");
        q.add_after("a", Duration::from_secs(1));
        assert_eq!(q.next().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn closing_wakes_everybody() {
        let q = WorkQueue::<u8>::new();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let q = q.clone();
                    async move { q.next().await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        q.close();
        for w in waiting {
            assert_eq!(w.await.unwrap(), None);
        }
        assert_eq!(q.next().await, None);
    }
}
