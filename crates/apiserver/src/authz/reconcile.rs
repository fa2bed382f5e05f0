//! What becomes of a stock role or binding that is there already: it gets what it lacks, and keeps what somebody gave it.

use api::meta::text;
use api::{Map, Value};
use serde_json::json;

use super::{compact, missing, rules_of};

/// What is to be done with an object that is there.
#[derive(Debug, PartialEq)]
pub enum Reconciled {
    /// It has all that it should have, or has been opted out.
    Same,
    /// It is to become this.
    Changed(Value),
    /// It binds another role, which no update can change: it is to be deleted and made anew.
    Replaced,
}

/// Compares a role or binding with what it should be.
pub fn reconcile(existing: &Value, expected: &Value) -> Reconciled {
    if api::meta::annotation(existing, "rbac.authorization.kubernetes.io/autoupdate") == Some("false") {
        return Reconciled::Same;
    }
    if existing.get("roleRef") != expected.get("roleRef") {
        return Reconciled::Replaced;
    }
    let mut new = existing.clone();
    for field in ["labels", "annotations"] {
        let path = format!("/metadata/{field}");
        let Some(wanted) = expected.pointer(&path).and_then(Value::as_object) else { continue };
        let have = existing.pointer(&path).and_then(Value::as_object);
        let lacking: Map = wanted
            .iter()
            .filter(|(key, _)| have.is_none_or(|have| !have.contains_key(*key)))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !lacking.is_empty() {
            api::meta::entry(api::meta::of_mut(&mut new), field).extend(lacking);
        }
    }
    if expected.get("roleRef").is_some() {
        let same = |a: &Value, b: &Value| {
            ["/kind", "/name", "/namespace"].iter().all(|part| text(a, part) == text(b, part))
        };
        add(&mut new, "subjects", &list(expected, "subjects"), same);
    } else {
        selectors(&mut new, expected);
        // The rules of an aggregated role are the aggregation controller's.
        if expected.get("aggregationRule").is_none() {
            let lacking = missing(&rules_of(existing), &rules_of(expected));
            let lacking: Vec<Value> = compact(&lacking).iter().map(super::Rule::to_value).collect();
            add(&mut new, "rules", &lacking, |_, _| false);
        }
    }
    if new == *existing { Reconciled::Same } else { Reconciled::Changed(new) }
}

/// Gives a role the selectors it should gather rules by, or none at all if it should not.
fn selectors(new: &mut Value, expected: &Value) {
    let Some(rule) = expected.get("aggregationRule").filter(|rule| !rule.is_null()) else {
        if let Some(role) = new.as_object_mut() {
            role.shift_remove("aggregationRule");
        }
        return;
    };
    let wanted = list(rule, "clusterRoleSelectors");
    let mut have = new.get("aggregationRule").filter(|rule| !rule.is_null()).cloned().unwrap_or(json!({}));
    add(&mut have, "clusterRoleSelectors", &wanted, |a, b| a == b);
    new["aggregationRule"] = have;
}

fn list(object: &Value, field: &str) -> Vec<Value> {
    object.get(field).and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Adds to a list what it lacks.
fn add(object: &mut Value, field: &str, wanted: &[Value], same: impl Fn(&Value, &Value) -> bool) {
    let mut all = list(object, field);
    let before = all.len();
    for item in wanted {
        if !all.iter().any(|have| same(have, item)) {
            all.push(item.clone());
        }
    }
    if all.len() > before {
        object[field] = Value::Array(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_gets_what_it_lacks() {
        let meta = || json!({"name": "r", "labels": {"a": "1"}, "annotations": {"b": "2"}});
        let rule = |verbs: Value| json!({"apiGroups": [""], "resources": ["pods"], "verbs": verbs});
        let role = |rules: Value| json!({"metadata": meta(), "rules": rules});
        let selector = |value: &str| json!({"matchLabels": {"to": value}});
        let gathering = |selectors: Value| json!({"metadata": meta(), "rules": [], "aggregationRule": {"clusterRoleSelectors": selectors}});
        let user =
            |name: &str| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name});
        let binding = |role: &str, subjects: Value| json!({"metadata": meta(), "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects});
        let changed = Reconciled::Changed;
        let mut out = role(json!([]));
        out["metadata"]["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "false"});
        let mut other = out.clone();
        other["metadata"]["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "no"});
        let mut back = other.clone();
        back["metadata"]["annotations"]["b"] = json!("2");
        back["rules"] = json!([rule(json!(["get"]))]);
        let mut bare = role(json!([]));
        bare["metadata"] = json!({"name": "r", "labels": {"a": "9", "c": "3"}});
        let mut dressed = bare.clone();
        dressed["metadata"] = json!({"name": "r", "labels": {"a": "9", "c": "3"}, "annotations": {"b": "2"}});
        for (existing, expected, want) in [
            // Rules are added to those that are there, as far as these do not cover them.
            (
                role(json!([rule(json!(["get", "delete"]))])),
                role(json!([rule(json!(["get"]))])),
                Reconciled::Same,
            ),
            (
                role(json!([rule(json!(["delete"]))])),
                role(json!([rule(json!(["get", "delete", "list"]))])),
                changed(role(json!([rule(json!(["delete"])), rule(json!(["get", "list"]))]))),
            ),
            // Only one word opts out.
            (out, role(json!([rule(json!(["get"]))])), Reconciled::Same),
            (other, role(json!([rule(json!(["get"]))])), changed(back)),
            // Labels and annotations are added, and not changed.
            (bare, role(json!([])), changed(dressed)),
            (
                gathering(json!([selector("mine")])),
                gathering(json!([selector("edit")])),
                changed(gathering(json!([selector("mine"), selector("edit")]))),
            ),
            (
                role(json!([rule(json!(["get"]))])),
                gathering(json!([selector("edit")])),
                changed({
                    let mut role = gathering(json!([selector("edit")]));
                    role["rules"] = json!([rule(json!(["get"]))]);
                    role
                }),
            ),
            (gathering(json!([selector("edit")])), role(json!([])), changed(role(json!([])))),
            // Subjects are added, too.
            (
                binding("r", json!([user("ann")])),
                binding("r", json!([user("bob")])),
                changed(binding("r", json!([user("ann"), user("bob")]))),
            ),
            (
                binding("r", json!([user("ann"), user("bob")])),
                binding("r", json!([user("bob")])),
                Reconciled::Same,
            ),
            (binding("mine", json!([user("bob")])), binding("r", json!([user("bob")])), Reconciled::Replaced),
        ] {
            let got = reconcile(&existing, &expected);
            assert_eq!(got, want, "{existing} {expected}");
            if let Reconciled::Changed(new) = got {
                assert_eq!(reconcile(&new, &expected), Reconciled::Same, "{new}");
            }
        }
    }
}
