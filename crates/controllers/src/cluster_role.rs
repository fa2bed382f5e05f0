//! ClusterRoles that are made of others: their rules are those of every role that their selectors match.

use std::sync::Arc;

use api::selector::Label;
use api::{Key, Object, Value};
use async_trait::async_trait;
use client::{Informer, Result, gvr};

use crate::{Action, Controller, Decision, Machine, Source, view};

/// The controller.
pub(crate) struct ClusterRoles {
    roles: Arc<Informer>,
}

impl ClusterRoles {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self { roles: machine.informer(&gvr::CLUSTER_ROLES) }
    }
}

fn selectors(role: &Object) -> Vec<Label> {
    let list = role.at(&["aggregationRule", "clusterRoleSelectors"]).as_array();
    list.into_iter().flatten().filter_map(|s| Label::from_selector(s).ok()).collect()
}

#[async_trait]
impl Controller for ClusterRoles {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn sources(&self) -> Vec<Source> {
        let roles = self.roles.clone();
        vec![Source::with(&self.roles, move |c| {
            let concerned = |r: &&Arc<Object>| {
                let selectors = selectors(r);
                r.name() == c.object().name()
                    || c.old.iter().chain(&c.new).any(|o| selectors.iter().any(|s| s.matches(o.labels())))
            };
            roles.list("").iter().filter(concerned).map(|r| r.key()).collect()
        })]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(role) = self.roles.get("", &key.name) else { return Ok(Decision::default()) };
        Ok(decide(&role, &self.roles.list("")).into())
    }
}

fn decide(role: &Arc<Object>, all: &[Arc<Object>]) -> Vec<Action> {
    if role.at(&["aggregationRule"]).is_null() {
        return Vec::new();
    }
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors(role) {
        // By name, as they come: the order must not change by itself.
        for other in all.iter().filter(|o| o.name() != role.name() && selector.matches(o.labels())) {
            for rule in view::list(other, &["rules"]) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    if rules.as_slice() == view::list(role, &["rules"]) {
        return Vec::new();
    }
    let mut object = role.value().clone();
    object["rules"] = rules.into();
    vec![Action::Update { gvr: gvr::CLUSTER_ROLES, object }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_gathered_once() {
        let rule = |r: &str| json!({"resources": [r], "verbs": ["get"]});
        let role = |name: &str, label: &str, rules: Value| {
            Object::from_value(json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": rules}))
        };
        let sum =
            Object::from_value(json!({"metadata": {"name": "sum", "resourceVersion": "1"}, "rules": [],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]}}));
        let all = [
            role("a", "sum", json!([rule("x"), rule("y")])),
            role("b", "sum", json!([rule("y")])),
            role("c", "else", json!([rule("z")])),
            sum.clone(),
        ];
        let actions = decide(&sum, &all);
        let Action::Update { object, .. } = &actions[0] else { panic!() };
        assert_eq!(object["rules"], json!([rule("x"), rule("y")]));
        assert!(decide(&Object::from_value(object.clone()), &all).is_empty());
        assert!(decide(&all[0], &all).is_empty(), "a plain role is left alone");
    }
}
