//! Who owns whom, by UID.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use api::Gvr;
use api::meta::Ties;
use api::object::Encoded;
use client::Change;

/// The finalizer of an object that waits for what it owns to go first.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object that lets go of what it owns first.
pub(super) const ORPHAN: &str = "orphan";
/// How many UIDs of objects that are gone are remembered, to spare looking for them.
const MEMORY: usize = 4096;

/// An object.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) gvr: Gvr,
    pub(super) object: Arc<Encoded>,
    pub(super) ties: Ties,
}

impl Node {
    /// Whether it holds up the owner.
    pub(super) fn blocks(&self, owner: &str) -> bool {
        self.ties.owners.iter().any(|o| o.uid == owner && o.block_owner_deletion == Some(true))
    }

    pub(super) fn has(&self, finalizer: &str) -> bool {
        self.ties.has(finalizer)
    }
}

/// The graph.
#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    /// What each owner owns, whether or not the owner is known.
    owned: HashMap<String, HashSet<String>>,
    gone: HashSet<String>,
    gone_order: VecDeque<String>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<Node> {
        self.nodes.get(uid).cloned()
    }

    /// Whether it is known that there is none in a namespace (empty: in none).
    pub(super) fn is_gone(&self, ns: &str, uid: &str) -> bool {
        self.gone.contains(&format!("{ns}/{uid}"))
    }

    pub(super) fn note_gone(&mut self, ns: &str, uid: &str) {
        let key = format!("{ns}/{uid}");
        if self.gone.insert(key.clone()) {
            self.gone_order.push_back(key);
            if self.gone_order.len() > MEMORY
                && let Some(oldest) = self.gone_order.pop_front()
            {
                self.gone.remove(&oldest);
            }
        }
    }

    /// What the object owns.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Node> {
        let list = self.owned.get(uid).into_iter().flatten();
        list.filter_map(|d| self.nodes.get(d).cloned()).collect()
    }

    /// What the object owns and what must go before it.
    pub(super) fn blocking(&self, uid: &str) -> impl Iterator<Item = &Node> {
        // The map's own copy of the uid, so that what is returned lives as long as the graph.
        let entry = self.owned.get_key_value(uid);
        entry.into_iter().flat_map(move |(owner, list)| {
            list.iter().filter_map(|d| self.nodes.get(d)).filter(move |n| n.blocks(owner))
        })
    }

    /// Whether the object waits for itself: through what it owns, and that owns in turn, all being deleted in the foreground.
    pub(super) fn in_circle(&self, uid: &str) -> bool {
        let mut seen = HashSet::new();
        let mut open = vec![uid];
        while let Some(at) = open.pop() {
            for node in self.blocking(at).filter(|n| n.object.is_deleting() && n.has(FOREGROUND)) {
                let next = node.object.uid();
                if next == uid {
                    return true;
                }
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    }

    /// Everything with owners of which some are not known, or that is being deleted with something still to do for it.
    pub(super) fn suspects(&self) -> Vec<String> {
        let suspect = |n: &&Node| self.is_suspect(n);
        self.nodes.values().filter(suspect).map(|n| n.object.uid().to_owned()).collect()
    }

    fn is_suspect(&self, n: &Node) -> bool {
        if n.object.is_deleting() {
            return n.has(FOREGROUND) || n.has(ORPHAN);
        }
        let elsewhere = |owner: &Node| {
            !owner.object.namespace().is_empty() && owner.object.namespace() != n.object.namespace()
        };
        n.ties.owners.iter().any(|o| {
            self.nodes
                .get(&o.uid)
                .is_none_or(|owner| elsewhere(owner) || owner.object.is_deleting() && owner.has(FOREGROUND))
        })
    }

    /// Takes in a change; gives the UIDs of what it concerns.
    pub(super) fn apply(&mut self, gvr: &Gvr, change: &Change) -> Vec<String> {
        let mut concerned = Vec::new();
        if let Some(old) = &change.old
            && change.new.as_ref().is_none_or(|n| n.uid() != old.uid())
        {
            self.remove(old.uid(), &mut concerned);
        }
        let Some(new) = &change.new else { return concerned };
        let uid = new.uid();
        let ties = Ties::of(new);
        for former in self.nodes.get(uid).map(|n| n.ties.owners.clone()).unwrap_or_default() {
            let now = ties.owners.iter().find(|o| o.uid == former.uid);
            if now.is_none() {
                self.disconnect(&former.uid, uid);
            }
            if now.is_none_or(|o| o.block_owner_deletion != former.block_owner_deletion) {
                concerned.push(former.uid); // it may have waited for this one
            }
        }
        for owner in &ties.owners {
            self.owned.entry(owner.uid.clone()).or_default().insert(uid.into());
        }
        let node = Node { gvr: gvr.clone(), object: new.encoded().clone(), ties };
        let suspect = self.is_suspect(&node);
        self.nodes.insert(uid.into(), node);
        if suspect {
            concerned.push(uid.into());
        }
        concerned
    }

    fn remove(&mut self, uid: &str, concerned: &mut Vec<String>) {
        let mut within = String::new();
        if let Some(node) = self.nodes.remove(uid) {
            node.object.namespace().clone_into(&mut within);
            for owner in node.ties.owners {
                self.disconnect(&owner.uid, uid);
                if self.nodes.get(&owner.uid).is_some_and(|o| o.object.is_deleting()) {
                    concerned.push(owner.uid);
                }
            }
        }
        self.note_gone(&within, uid);
        concerned.extend(self.owned.get(uid).into_iter().flatten().cloned());
    }

    fn disconnect(&mut self, owner: &str, dependent: &str) {
        if let Some(list) = self.owned.get_mut(owner) {
            list.remove(dependent);
            if list.is_empty() {
                self.owned.remove(owner);
            }
        }
    }
}
