//! One change at a time for each volume's name, and none waits for another's.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// A lock for each name, there while somebody holds it or waits for it.
#[derive(Debug, Default)]
pub(super) struct NameLocks(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// One name's lock, held.
pub(super) struct NameGuard<'a> {
    locks: &'a NameLocks,
    name: String,
    held: Option<OwnedMutexGuard<()>>,
}

impl NameLocks {
    pub(super) async fn lock(&self, name: &str) -> NameGuard<'_> {
        // Made before the wait, so that who gives up waiting cleans up, too.
        let mut guard = NameGuard { locks: self, name: name.to_owned(), held: None };
        let lock = self.0.lock().entry(name.to_owned()).or_default().clone();
        guard.held = Some(lock.lock_owned().await);
        guard
    }
}

impl Drop for NameGuard<'_> {
    fn drop(&mut self) {
        let mut all = self.locks.0.lock();
        drop(self.held.take());
        if all.get(&self.name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            all.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn one_at_a_time_for_each_name() {
        let locks = NameLocks::default();
        let held = locks.lock("a").await;
        assert!(locks.lock("a").now_or_never().is_none(), "it is held");
        assert!(locks.lock("b").now_or_never().is_some(), "another name is not");
        assert_eq!(locks.0.lock().len(), 1);
        drop(held);
        assert!(locks.0.lock().is_empty(), "nothing is kept of a name that nobody wants");
        assert!(locks.lock("a").now_or_never().is_some());
    }
}
