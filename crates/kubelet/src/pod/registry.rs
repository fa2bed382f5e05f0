//! The pods of this node, for those who ask from outside: the HTTPS server and the dispatcher.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::state::PodState;
use super::worker::Message;
use crate::view::Pod;

/// One pod's worker, and what it last knew.
#[derive(Clone)]
pub struct Handle {
    /// Wakes the worker.
    pub sender: mpsc::UnboundedSender<Message>,
    /// The pod and its state as of its last change.
    pub known: Arc<RwLock<Known>>,
}

/// What a worker last knew.
#[derive(Clone)]
pub struct Known {
    /// The pod.
    pub pod: Pod,
    /// Its state here.
    pub state: PodState,
}

/// All workers by pod UID.
#[derive(Default)]
pub struct Registry {
    workers: RwLock<HashMap<String, Handle>>,
}

impl Registry {
    /// The worker of a pod.
    pub fn get(&self, uid: &str) -> Option<Handle> {
        self.workers.read().get(uid).cloned()
    }

    /// Adds a worker.
    pub fn insert(&self, uid: &str, handle: Handle) {
        self.workers.write().insert(uid.to_owned(), handle);
    }

    /// Removes a worker that has ended.
    pub fn remove(&self, uid: &str) {
        self.workers.write().remove(uid);
    }

    /// All workers.
    pub fn all(&self) -> Vec<Handle> {
        self.workers.read().values().cloned().collect()
    }

    /// The pod of that name; the latest if an earlier one is still being taken down.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Known> {
        let found = self.all().into_iter().map(|h| h.known.read().clone());
        found
            .filter(|k| k.pod.namespace == namespace && k.pod.name == name)
            .max_by_key(|k| (!k.state.orphan, k.pod.object.revision()))
    }
}
