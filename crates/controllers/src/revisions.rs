//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had, by number.

use std::sync::Arc;

use api::{Object, Value, meta};
use client::gvr;
use serde_json::json;

use crate::{Action, view};

/// The label of a pod, and of a revision, that says which template it is of.
pub(crate) const LABEL: &str = "controller-revision-hash";

/// The revisions of an object, and what to do about them.
pub(crate) struct Revisions {
    /// The name of the one that the template is.
    pub(crate) update: String,
    /// Its hash, without the owner's name.
    pub(crate) hash: String,
    /// What to do: make it, number it, forget old ones.
    pub(crate) actions: Vec<Action>,
}

/// The template as a revision keeps it: a patch that puts it back.
fn data(owner: &Object) -> Value {
    let mut template = view::canonical(owner.at(&["spec", "template"]));
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

fn number(revision: &Object) -> i64 {
    revision.value()["revision"].as_i64().unwrap_or(0)
}

/// Finds or makes the revision that the template is. `known` are the owner's, `used` tells which must not be forgotten.
pub(crate) fn of(owner: &Arc<Object>, known: &[Arc<Object>], used: &dyn Fn(&str) -> bool) -> Revisions {
    let data = data(owner);
    let highest = known.iter().map(|r| number(r)).max().unwrap_or(0);
    let mut actions = Vec::new();
    let found = known
        .iter()
        .filter(|r| {
            let template = |data: &Value| view::plain_template(&data["spec"]["template"]);
            template(&r.value()["data"]) == template(&data)
        })
        .max_by_key(|r| number(r));
    let (update, hash) = match found {
        Some(r) => {
            if number(r) < highest {
                // An old template is the newest again.
                actions.push(Action::patch(&gvr::CONTROLLER_REVISIONS, r, json!({"revision": highest + 1})));
            }
            let hash = r.labels().get(LABEL).unwrap_or_default();
            let hash = hash.strip_prefix(&format!("{}-", owner.name())).unwrap_or(hash);
            (r.name().to_owned(), hash.to_owned())
        }
        None => {
            let collisions = view::int(owner, &["status", "collisionCount"], 0);
            let salt = if collisions > 0 { collisions.to_string() } else { String::new() };
            let mut hash = view::hash(&[data.to_string().as_bytes(), salt.as_bytes()]);
            let mut tries = 0;
            while known.iter().any(|r| r.name() == format!("{}-{hash}", owner.name())) {
                tries += 1; // another template has this hash
                hash = view::hash(&[data.to_string().as_bytes(), format!("{salt}/{tries}").as_bytes()]);
            }
            let name = format!("{}-{hash}", owner.name());
            let mut labels = owner.at(&["spec", "template", "metadata", "labels"]).clone();
            labels[LABEL] = hash.as_str().into();
            let mut metadata = json!({"name": name, "namespace": owner.namespace(), "labels": labels,
                "ownerReferences": [meta::OwnerReference::controller_of(owner)]});
            if let Some(cause) = owner.annotation("kubernetes.io/change-cause") {
                metadata["annotations"] = json!({"kubernetes.io/change-cause": cause});
            }
            let object = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata,
                "data": data, "revision": highest + 1});
            actions.push(Action::Create { gvr: gvr::CONTROLLER_REVISIONS, object, announce: None });
            (name, hash)
        }
    };
    let limit = view::int(owner, &["spec", "revisionHistoryLimit"], 10).max(0) as usize;
    let mut old: Vec<&Arc<Object>> =
        known.iter().filter(|r| r.name() != update && !used(r.name()) && !r.is_deleting()).collect();
    old.sort_by_key(|r| number(r));
    let excess = old.len().saturating_sub(limit);
    actions.extend(old.into_iter().take(excess).map(|r| Action::delete(&gvr::CONTROLLER_REVISIONS, r)));
    Revisions { update, hash, actions }
}

/// The template that a revision keeps.
pub(crate) fn template(revision: &Object) -> Value {
    let mut template = revision.at(&["data", "spec", "template"]).clone();
    if let Some(t) = template.as_object_mut() {
        t.shift_remove("$patch");
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::summary;

    fn owner(node: &str, limit: i64) -> Arc<Object> {
        Object::from_value(
            json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "ns", "uid": "d"},
            "spec": {"revisionHistoryLimit": limit, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": node}}}}),
        )
    }

    fn made(owner: &Arc<Object>, known: &[Arc<Object>]) -> Arc<Object> {
        let r = of(owner, known, &|_| true);
        let Some(Action::Create { object, .. }) = r.actions.into_iter().next() else { panic!() };
        Object::from_value(object)
    }

    #[test]
    fn a_template_is_one_revision_however_often() {
        let first = made(&owner("v1", 10), &[]);
        assert_eq!(number(&first), 1);
        assert_eq!(template(&first)["spec"]["nodeName"], "v1");
        let known = [first.clone()];
        assert!(of(&owner("v1", 10), &known, &|_| true).actions.is_empty());
        let second = made(&owner("v2", 10), &known);
        assert_eq!(number(&second), 2);
        let back = of(&owner("v1", 10), &[first.clone(), second.clone()], &|_| true);
        assert_eq!(back.update, first.name());
        assert_eq!(
            summary(&back.actions),
            [format!("patch controllerrevisions/{} {{\"revision\":3}}", first.name())]
        );
        // A revision from a server that kept what says nothing is of the same template.
        let mut old = first.value().clone();
        old["data"]["spec"]["template"]["spec"]["hostNetwork"] = json!(false);
        assert!(of(&owner("v1", 10), &[Object::from_value(old)], &|_| true).actions.is_empty());
        let forget = of(&owner("v2", 0), &[first.clone(), second], &|_| false);
        assert_eq!(summary(&forget.actions), [format!("delete controllerrevisions/{}", first.name())]);
    }
}
