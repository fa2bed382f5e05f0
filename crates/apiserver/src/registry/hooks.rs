//! What a write needs of the cluster's state beyond the object itself: a service's addresses and node ports, the requester of
//! a certificate, and the rule that nobody grants more than they hold.

use api::access::Ask;
use api::meta::text;
use api::{ErrorList, Kind, Path, Status, Value};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::Context;
use super::addresses::Held;
use crate::ApiServer;
use crate::authz::{self, Attributes};
use crate::user::{MASTERS, UserInfo};

impl ApiServer {
    /// Fills in what only the server can know. What it returns is to be held until the write is in the cache.
    pub(super) async fn allocate(
        &self,
        cx: &Context,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Option<Held>, Status> {
        match (cx.kind.group.as_str(), cx.kind.plural.as_str()) {
            ("", "services") => {
                if old.is_some_and(|o| o.get("spec") == object.get("spec")) {
                    return Ok(None);
                }
                self.choose(cx, object, old).await.map(Some)
            }
            ("apiextensions.k8s.io", "customresourcedefinitions") => {
                if old.is_none_or(|o| o.get("spec") != object.get("spec")) {
                    let mut errors = crate::crd::check_schemas(object, old);
                    if let Some(old) = old {
                        errors.append(crate::crd::check_bundle(object, old));
                    }
                    if !errors.is_empty() {
                        return Err(Status::invalid(&cx.kind.gvk(), api::meta::name(object), &errors));
                    }
                }
                Ok(None)
            }
            ("certificates.k8s.io", "certificatesigningrequests") => {
                let Some(old) = old else {
                    asked_by(object, &cx.user);
                    let errors = check_request(object, &cx.version().version);
                    if !errors.is_empty() {
                        return Err(Status::invalid(&cx.kind.gvk(), api::meta::name(object), &errors));
                    }
                    return Ok(None);
                };
                date_conditions(object, old);
                Ok(None)
            }
            ("resource.k8s.io", "resourceslices" | "devicetaintrules") => {
                date_taints(object, old);
                Ok(None)
            }
            ("", "persistentvolumes") => {
                date_phase(object, old);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Refuses a role that holds, or a binding that gives, more than its writer may do. `asked`: the name in the path.
    pub(super) fn check_escalation(
        &self,
        (user, asked): (&UserInfo, &str),
        kind: &Kind,
        namespace: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        if kind.group != "rbac.authorization.k8s.io" || user.in_group(MASTERS) {
            return Ok(());
        }
        let gvr = kind.gvr();
        let name = api::meta::name(object);
        let ask = |verb: &str, resource: &str, name: &str| {
            let attributes = Attributes::asked(
                user,
                &Ask { verb, group: &kind.group, resource, namespace, name, ..Ask::default() },
            );
            self.authorize(&attributes).allowed()
        };
        if old.is_some_and(|old| authz::is_for_collection_alone(object, old)) {
            return Ok(());
        }
        let wanted = match kind.plural.as_str() {
            "roles" | "clusterroles" => {
                // Who creates by POST asks for no name.
                if ask("escalate", &kind.plural, asked) {
                    return Ok(());
                }
                authz::rules_of(object)
            }
            "rolebindings" | "clusterrolebindings" => {
                let role = object.get("roleRef").unwrap_or(&Value::Null);
                let cluster = text(role, "/kind") == "ClusterRole";
                let resource = if cluster { "clusterroles" } else { "roles" };
                let role_name = text(role, "/name");
                if ask("bind", resource, role_name) {
                    return Ok(());
                }
                let key = crate::cache::local_key(if cluster { "" } else { namespace }, role_name);
                let Some(role) = self.cache.kind(&kind.group, resource).get(&key) else {
                    return Err(Status::not_found(
                        &api::Gvr::owned(kind.group.clone(), "v1", resource),
                        role_name,
                    ));
                };
                authz::rules_of(role.value())
            }
            _ => return Ok(()),
        };
        let rbac = self.rbac();
        let missing = authz::missing(&rbac.rules_for(user, namespace), &wanted);
        if missing.is_empty() {
            // What an aggregated role will hold nobody knows: it may be everything.
            let all = || authz::missing(&rbac.rules_for(user, namespace), &authz::everything()).is_empty();
            if (gathers(object) || old.is_some_and(gathers)) && !all() {
                let why = "must have cluster-admin privileges to use the aggregationRule";
                return Err(Status::forbidden(&gvr, name, why));
            }
            return Ok(());
        }
        let lines: Vec<String> = authz::compact(&missing).iter().map(authz::Rule::show).collect();
        let mut why = format!(
            "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            api::field::quote(&user.name),
            authz::quoted(&user.groups),
            lines.join("\n")
        );
        let faults = rbac.faults(user, namespace);
        if !faults.is_empty() {
            why.push_str(&format!("; resolution errors: [{faults}]"));
        }
        Err(Status::forbidden(&gvr, name, &why))
    }
}

/// Whether a role takes its rules from others.
fn gathers(role: &Value) -> bool {
    let selectors = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
    selectors.is_some_and(|selectors| !selectors.is_empty())
}

/// Notes in a certificate request whose it is.
fn asked_by(request: &mut Value, user: &UserInfo) {
    let spec = api::meta::child(request, "spec");
    spec.insert("username".into(), json!(user.name));
    spec.insert("groups".into(), json!(user.groups));
    for (field, value) in [("uid", json!(user.uid)), ("extra", json!(user.extra))] {
        let empty =
            value.as_str().is_some_and(str::is_empty) || value.as_object().is_some_and(api::Map::is_empty);
        if empty {
            spec.shift_remove(field);
        } else {
            spec.insert(field.into(), value);
        }
    }
}

/// What is wrong with what a certificate request asks for in a version of the API, as far as it is the certificate's own.
fn check_request(request: &Value, version: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (&request["spec"], Path::new("spec"));
    if version == "v1" && spec["signerName"] == "kubernetes.io/legacy-unknown" {
        let why = "the legacy signerName is not allowed via this API version";
        errors.invalid(&path.child("signerName"), &spec["signerName"], why);
    }
    let asked = STANDARD.decode(text(spec, "/request")).unwrap_or_default();
    if let Err(error) = pki::Request::parse(&asked) {
        errors.invalid(&path.child("request"), &spec["request"], error.to_string());
    }
    for (i, usage) in spec["usages"].as_array().into_iter().flatten().enumerate() {
        if !pki::usages().any(|known| usage == known) {
            let known: Vec<&str> = pki::usages().collect();
            errors.not_supported(&path.child("usages").index(i), usage, &known);
        }
    }
    errors
}

/// Says of the taints of devices since when they are. That of a rule is a new one with a new effect.
fn date_taints(object: &mut Value, old: Option<&Value>) {
    let now = json!(api::meta::time(base::clock::now()));
    let date = |taint: &mut api::Map, since: &Value| {
        if taint.get("timeAdded").is_none_or(|time| time.is_null() || time == since) {
            taint.insert("timeAdded".into(), now.clone());
        }
    };
    let devices = object.pointer_mut("/spec/devices").and_then(Value::as_array_mut);
    for device in devices.into_iter().flatten() {
        let taints = device.get_mut("taints").and_then(Value::as_array_mut);
        for taint in taints.into_iter().flatten().filter_map(Value::as_object_mut) {
            date(taint, &Value::Null);
        }
    }
    if let Some(taint) = object.pointer_mut("/spec/taint").and_then(Value::as_object_mut) {
        let before = old.and_then(|old| old.pointer("/spec/taint"));
        let since = before.filter(|old| old.get("effect") != taint.get("effect"));
        date(taint, since.and_then(|old| old.get("timeAdded")).unwrap_or(&Value::Null));
    }
}

/// Says of a volume since when it is in its phase.
fn date_phase(volume: &mut Value, old: Option<&Value>) {
    const TIME: &str = "lastPhaseTransitionTime";
    let before = old.and_then(|old| old.get("status")).unwrap_or(&Value::Null);
    let Some(status) = volume.get_mut("status").and_then(Value::as_object_mut) else { return };
    let (given, since) = (status.get(TIME).unwrap_or(&Value::Null), &before[TIME]);
    let moved = old.is_none() || status.get("phase") != before.get("phase");
    if moved && (given.is_null() || given == since) {
        status.insert(TIME.into(), json!(api::meta::time(base::clock::now())));
    } else if given.is_null() && !since.is_null() {
        let since = since.clone();
        status.insert(TIME.into(), since);
    }
}

/// Says of the conditions of a certificate request that came or changed when that was.
fn date_conditions(request: &mut Value, old: &Value) {
    let now = api::meta::time(base::clock::now());
    let before = old.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let conditions = request.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        let missing = |c: &api::Map, field: &str| c.get(field).is_none_or(Value::is_null);
        if missing(condition, "lastUpdateTime") {
            condition.insert("lastUpdateTime".into(), json!(now));
        }
        if missing(condition, "lastTransitionTime") {
            let same = |c: &&Value| {
                Some(&c["type"]) == condition.get("type") && Some(&c["status"]) == condition.get("status")
            };
            let since = before.iter().find(same).map(|c| c["lastTransitionTime"].clone());
            let since = since.filter(|t| !t.is_null()).unwrap_or_else(|| json!(now));
            condition.insert("lastTransitionTime".into(), since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_AGO: &str = "2001-02-03T04:05:06Z";

    #[test]
    fn taints_of_devices_are_dated() {
        let time = |rule: &Value| rule["spec"]["taint"]["timeAdded"].as_str().unwrap().to_owned();
        let mut rule = json!({"spec": {"taint": {"key": "a", "effect": "NoSchedule"}}});
        date_taints(&mut rule, None);
        assert_ne!(time(&rule), LONG_AGO);
        rule["spec"]["taint"]["timeAdded"] = json!(LONG_AGO);
        let old = rule.clone();
        date_taints(&mut rule, Some(&old));
        assert_eq!(time(&rule), LONG_AGO, "what is the same is as old as it was");
        rule["spec"]["taint"]["effect"] = json!("NoExecute");
        date_taints(&mut rule, Some(&old));
        assert_ne!(time(&rule), LONG_AGO, "another effect begins now");
        let given = "2002-02-03T04:05:06Z";
        rule["spec"]["taint"]["timeAdded"] = json!(given);
        date_taints(&mut rule, Some(&old));
        assert_eq!(time(&rule), given);
        let mut slice =
            json!({"spec": {"devices": [{"taints": [{"key": "a"}, {"key": "b", "timeAdded": LONG_AGO}]}]}});
        date_taints(&mut slice, None);
        let taints = &slice["spec"]["devices"][0]["taints"];
        assert!(taints[0]["timeAdded"].is_string() && taints[1]["timeAdded"] == LONG_AGO, "{taints}");
    }

    #[test]
    fn phases_of_volumes_are_dated() {
        let time = |volume: &Value| volume["status"]["lastPhaseTransitionTime"].clone();
        let mut volume = json!({"status": {"phase": "Pending"}});
        date_phase(&mut volume, None);
        assert!(time(&volume).is_string());
        let old = json!({"status": {"phase": "Pending", "lastPhaseTransitionTime": LONG_AGO}});
        let after = |status: Value| {
            let mut volume = json!({"status": status});
            date_phase(&mut volume, Some(&old));
            time(&volume)
        };
        assert_eq!(after(json!({"phase": "Pending"})), LONG_AGO);
        assert_ne!(after(json!({"phase": "Bound", "lastPhaseTransitionTime": LONG_AGO})), LONG_AGO);
        assert_eq!(after(json!({"phase": "Bound", "lastPhaseTransitionTime": "x"})), "x");
    }
}
