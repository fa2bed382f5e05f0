//! Whose is what: the objects that a controller's object owns, adopts or lets go.
//!
//! What carries a controller reference with the owner's UID belongs to it. What belongs to nobody and matches the owner's
//! selector is adopted; what belongs to it and no longer matches is let go.

use std::sync::Arc;

use api::selector::Label;
use api::{Gvr, Key, Object, Value, meta};
use client::{Change, Informer};
use serde_json::json;

use crate::{Action, Source};

const INDEX: &str = "controller-or-orphan";

fn index(object: &Object) -> Vec<String> {
    match meta::controller_of(object.value()) {
        Some(owner) => vec![owner.uid],
        None => vec![orphans(object.namespace())],
    }
}

fn orphans(namespace: &str) -> String {
    format!("/{namespace}") // no UID looks like this
}

/// How to find an owner's selector.
pub(crate) type SelectorOf = fn(&Object) -> Label;

/// The selector in `spec.selector`; one that is not valid matches nothing.
pub(crate) fn selector(owner: &Object) -> Label {
    Label::from_selector(owner.at(&["spec", "selector"])).unwrap_or_else(|_| Label::nothing())
}

/// Makes what `of` and `source` need.
pub(crate) fn prepare(children: &Informer) {
    children.add_index(INDEX, index);
}

/// What belongs to `owner`, and what belongs to nobody in its namespace.
pub(crate) fn of(children: &Informer, owner: &Object) -> Vec<Arc<Object>> {
    let mut found = children.by_index(INDEX, owner.uid());
    found.extend(children.by_index(INDEX, &orphans(owner.namespace())));
    found
}

/// What belongs to `owner`.
pub(crate) fn owned(children: &Informer, owner: &Object) -> Vec<Arc<Object>> {
    children.by_index(INDEX, owner.uid())
}

/// Changes of children concern their owners of kind `kind`; those of orphans, the owners that would adopt them.
pub(crate) fn source(
    children: &Arc<Informer>,
    kind: &'static str,
    owners: &Arc<Informer>,
    selector: SelectorOf,
) -> Source {
    prepare(children);
    let owners = owners.clone();
    Source::with(children, move |change| keys(change, kind, &owners, selector))
}

fn keys(change: &Change, kind: &str, owners: &Informer, selector: SelectorOf) -> Vec<Key> {
    let group = owners.gvr().group.clone();
    let owner = |o: &Arc<Object>| {
        let r = meta::controller_of(o.value())?;
        let ours = r.kind == kind && api::names::split_api_version(&r.api_version).0 == group;
        Some(ours.then(|| Key::new(o.namespace(), r.name)))
    };
    let mut keys: Vec<Key> =
        change.old.iter().chain(&change.new).filter_map(|o| owner(o).flatten()).collect();
    keys.dedup();
    if let Some(new) = change.new.as_ref().filter(|n| owner(n).is_none() && !n.labels().is_empty()) {
        let candidates = owners.list(new.namespace());
        keys.extend(candidates.iter().filter(|o| selector(o).matches(new.labels())).map(|o| o.key()));
    }
    keys
}

/// Sorts out whose the `candidates` are: those that are the owner's, and what to do about the others.
pub(crate) fn claim(
    gvr: &Gvr,
    owner: &Object,
    selector: &Label,
    candidates: &[Arc<Object>],
) -> (Vec<Arc<Object>>, Vec<Action>) {
    let (mut mine, mut actions) = (Vec::new(), Vec::new());
    for child in candidates {
        let matches = selector.matches(child.labels());
        match meta::controller_of(child.value()) {
            Some(r) if r.uid == owner.uid() => {
                if matches {
                    mine.push(child.clone());
                } else if !owner.is_deleting() {
                    actions.push(release(gvr, child, owner));
                }
            }
            Some(_) => {}
            None if matches && !owner.is_deleting() && !child.is_deleting() => {
                actions.push(adopt(gvr, child, owner))
            }
            None => {}
        }
    }
    (mine, actions)
}

fn adopt(gvr: &Gvr, child: &Object, owner: &Object) -> Action {
    let mut owners = meta::owner_references(child.value());
    owners.push(meta::OwnerReference::controller_of(owner));
    set_owners(gvr, child, &owners)
}

fn release(gvr: &Gvr, child: &Object, owner: &Object) -> Action {
    let mut owners = meta::owner_references(child.value());
    owners.retain(|o| o.uid != owner.uid());
    set_owners(gvr, child, &owners)
}

/// Writes owner references, if the child is still as it was seen.
pub(crate) fn set_owners(gvr: &Gvr, child: &Object, owners: &[meta::OwnerReference]) -> Action {
    let list = if owners.is_empty() { Value::Null } else { json!(owners) };
    let patch = json!({"metadata": {"ownerReferences": list, "uid": child.uid(),
        "resourceVersion": child.revision().to_string()}});
    Action::patch(gvr, child, patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::gvr;

    fn object(name: &str, labels: Value, owner: Option<&str>) -> Arc<Object> {
        let owners = owner.map(|u| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": u, "uid": u, "controller": true}]));
        Object::from_value(
            json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": labels,
            "ownerReferences": owners, "resourceVersion": "3"}, "spec": {"selector": {"matchLabels": {"a": "b"}}}}),
        )
    }

    #[test]
    fn claims() {
        let owner = object("rs", json!({}), None);
        let candidates = [
            object("mine", json!({"a": "b"}), Some("rs")),
            object("left", json!({"a": "c"}), Some("rs")),
            object("other", json!({"a": "b"}), Some("x")),
            object("orphan", json!({"a": "b"}), None),
            object("stranger", json!({}), None),
        ];
        let (mine, actions) = claim(&gvr::PODS, &owner, &selector(&owner), &candidates);
        assert_eq!(mine.iter().map(|o| o.name()).collect::<Vec<_>>(), ["mine"]);
        let patches: Vec<_> = actions
            .iter()
            .map(|a| match a {
                Action::Patch { key, patch, .. } => {
                    (key.name.as_str(), patch["metadata"]["ownerReferences"].is_null())
                }
                _ => panic!("{a:?}"),
            })
            .collect();
        assert_eq!(patches, [("left", true), ("orphan", false)]);
    }
}
