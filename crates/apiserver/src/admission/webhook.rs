//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: asks services outside what they think of a write.
//!
//! Webhooks' own configurations are never sent to webhooks, so that a broken one can always be removed.

use std::time::Duration;

use api::selector::Label;
use api::{Object, Status, Value};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Operation, Plugin, Review};
use crate::callback::post;

const GROUP: &str = "admissionregistration.k8s.io";
const MUTATING: &str = "mutatingwebhookconfigurations";
const VALIDATING: &str = "validatingwebhookconfigurations";

/// See the module.
pub struct Webhooks;

fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn list<'a>(v: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    v.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// What a rule sees of a write.
struct Seen<'a> {
    operation: &'static str,
    group: &'a str,
    versions: Vec<&'a str>,
    resource: &'a str,
    subresource: &'a str,
    namespaced: bool,
}

/// Whether a rule covers the write.
fn covers(rule: &Value, seen: &Seen<'_>) -> bool {
    let any = |field: &str, values: &[&str]| {
        list(rule, field).any(|v| v == "*" || v.as_str().is_some_and(|v| values.contains(&v)))
    };
    let scope = match text(rule, "/scope") {
        "Namespaced" => seen.namespaced,
        "Cluster" => !seen.namespaced,
        _ => true,
    };
    let resource = list(rule, "/resources").filter_map(Value::as_str).any(|pattern| {
        let (r, s) = pattern.split_once('/').unwrap_or((pattern, ""));
        let resource = r == "*" || r == seen.resource;
        match (pattern.contains('/'), s) {
            (false, _) => resource && seen.subresource.is_empty(),
            (true, "*") => resource,
            (true, s) => resource && s == seen.subresource,
        }
    });
    scope
        && resource
        && any("/operations", &[seen.operation])
        && any("/apiGroups", &[seen.group])
        && any("/apiVersions", &seen.versions)
}

/// The webhooks of all configurations, in the order of their names, that want to see this write.
fn wanted(r: &Review<'_>, resource: &str) -> Result<Vec<(String, Value)>, Status> {
    let configurations = r.server.cache.kind(GROUP, resource).all("");
    if configurations.is_empty() {
        return Ok(Vec::new());
    }
    let itself = r.gvr.group.is_empty() && r.gvr.resource == "namespaces";
    let seen = Seen {
        operation: r.operation.word(),
        group: &r.gvr.group,
        versions: r
            .kind
            .versions
            .iter()
            .filter(|v| v.group == r.gvr.group)
            .map(|v| v.version.as_str())
            .collect(),
        resource: &r.gvr.resource,
        subresource: r.subresource,
        namespaced: r.kind.namespaced,
    };
    let namespace = if itself {
        let object = if r.object.is_null() { r.old.unwrap_or(&Value::Null) } else { &*r.object };
        Some(Object::from_value(object.clone()))
    } else if r.namespace.is_empty() {
        None
    } else {
        r.server.cache.kind("", "namespaces").get(r.namespace)
    };
    let labels =
        |v: &Value| Object::from_value(json!({"metadata": {"labels": api::meta::of(v).get("labels")}}));
    let (new, old) = (labels(r.object), r.old.map(labels));
    let mut out = Vec::new();
    for configuration in configurations {
        for hook in list(configuration.value(), "/webhooks") {
            if !list(hook, "/rules").any(|rule| covers(rule, &seen)) {
                continue;
            }
            let selector = |field: &str| match hook.get(field) {
                None | Some(Value::Null) => Ok(Label::everything()),
                Some(s) => Label::from_selector(s),
            };
            let by_namespace = selector("namespaceSelector")?;
            if let Some(ns) = &namespace
                && !by_namespace.matches(ns.labels())
            {
                continue;
            }
            let by_object = selector("objectSelector")?;
            let matches = by_object.matches(new.labels())
                || old.as_ref().is_some_and(|o| by_object.matches(o.labels()));
            if !matches {
                continue;
            }
            out.push((configuration.name().to_owned(), hook.clone()));
        }
    }
    Ok(out)
}

fn request(r: &Review<'_>, hook: &Value, uid: &str) -> Value {
    let gvk = r.kind.gvk();
    let mut kind = json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind});
    if r.operation == Operation::Connect {
        kind = json!({"group": "", "version": "v1", "kind": text(r.object, "/kind")});
    }
    let resource = json!({"group": r.gvr.group, "version": r.gvr.version, "resource": r.gvr.resource});
    let mut request = json!({
        "uid": uid, "kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource,
        "operation": r.operation.word(), "userInfo": r.user.to_value(),
        "object": if r.object.is_null() { Value::Null } else { r.object.clone() },
        "oldObject": r.old.cloned().unwrap_or(Value::Null),
        "dryRun": r.dry_run, "options": r.options,
    });
    for (field, value) in [
        ("name", r.name),
        ("namespace", r.namespace),
        ("subResource", r.subresource),
        ("requestSubResource", r.subresource),
    ] {
        if !value.is_empty() {
            request[field] = json!(value);
        }
    }
    // A namespace's own reviews name it as their namespace.
    if r.gvr.resource == "namespaces" && r.gvr.group.is_empty() {
        request["namespace"] = json!(r.name);
    }
    let version = list(hook, "/admissionReviewVersions")
        .filter_map(Value::as_str)
        .find(|v| matches!(*v, "v1" | "v1beta1"))
        .unwrap_or("v1");
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request})
}

/// Whether all of a webhook's conditions hold. One that does not is enough; else one that cannot be told is an error.
fn conditions_hold(hook: &Value, request: &Value) -> Result<bool, String> {
    let mut budget = api::cel::OBJECT_BUDGET;
    let null = Value::Null;
    let part = |name: &str| request.get(name).unwrap_or(&null);
    let variables = [("object", part("object")), ("oldObject", part("oldObject")), ("request", request)];
    let mut failed = None;
    for condition in list(hook, "/matchConditions") {
        let judged = api::cel::Program::parse(text(condition, "/expression"))
            .and_then(|program| program.condition(&variables, &mut budget));
        match judged {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(e) => {
                failed =
                    Some(format!("expression '{}' resulted in error: {e}", text(condition, "/expression")))
            }
        }
    }
    failed.map_or(Ok(true), Err)
}

/// Asks one webhook. Nothing: it is not to be asked, or could not be and its policy is to go on without.
async fn ask(r: &mut Review<'_>, hook: &Value) -> Result<Option<Value>, Status> {
    let name = text(hook, "/name").to_owned();
    let uid = base::rng::uuid();
    let review = request(r, hook, &uid);
    match conditions_hold(hook, &review["request"]) {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(why) if text(hook, "/failurePolicy") == "Ignore" => {
            tracing::warn!(
                webhook = name,
                why,
                "a condition cannot be told; going on without the webhook, as its policy says"
            );
            return Ok(None);
        }
        Err(why) => {
            let why = format!("failed calling webhook \"{name}\": match conditions: {why}");
            return Err(Status::failure(403, "Forbidden", why));
        }
    }
    if r.dry_run && !matches!(text(hook, "/sideEffects"), "None" | "NoneOnDryRun") {
        return Err(Status::bad_request(format!("admission webhook \"{name}\" does not support dry run")));
    }
    let seconds = hook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(10);
    let config = hook.get("clientConfig").unwrap_or(&Value::Null);
    let answer = match r.server.callback(config, seconds) {
        Ok(to) => {
            // A peer that never answers sends no event: its configuration says how long it may take.
            let answered = tokio::time::timeout(Duration::from_secs(seconds), post(&to, &review)).await;
            let answer = answered.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
            answer.map_err(|why| format!("Post \"{}\": {why}", to.shown))
        }
        Err(e) => Err(e),
    };
    let answer = answer.and_then(|v| {
        let response = v.get("response").cloned().unwrap_or(Value::Null);
        if text(&response, "/uid") == uid {
            Ok(response)
        } else {
            Err(format!("expected response.uid=\"{uid}\", got \"{}\"", text(&response, "/uid")))
        }
    });
    match answer {
        Ok(response) => Ok(Some(response)),
        Err(why) if text(hook, "/failurePolicy") == "Ignore" => {
            tracing::warn!(webhook = name, why, "webhook failed; going on without it, as its policy says");
            Ok(None)
        }
        Err(why) => {
            Err(Status::internal(format!("failed calling webhook \"{name}\": failed to call webhook: {why}")))
        }
    }
}

/// Refuses if the webhook did.
fn judge(r: &mut Review<'_>, hook: &Value, response: &Value) -> Result<(), Status> {
    let name = text(hook, "/name");
    r.warnings.extend(list(response, "/warnings").filter_map(|w| w.as_str().map(str::to_owned)));
    if response.get("allowed").and_then(Value::as_bool) == Some(true) {
        return Ok(());
    }
    let why = match (text(response, "/status/message"), text(response, "/status/reason")) {
        ("", "") => format!("admission webhook \"{name}\" denied the request without explanation"),
        ("", reason) => format!("admission webhook \"{name}\" denied the request: {reason}"),
        (message, _) => format!("admission webhook \"{name}\" denied the request: {message}"),
    };
    let code = response.pointer("/status/code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok());
    let reason = match text(response, "/status/reason") {
        "" => "Forbidden",
        reason => reason,
    };
    Err(Status::failure(code.filter(|c| *c >= 400).unwrap_or(403), reason, why))
}

async fn mutate_with(r: &mut Review<'_>, hook: &Value) -> Result<bool, Status> {
    let Some(response) = ask(r, hook).await? else { return Ok(false) };
    judge(r, hook, &response)?;
    let encoded = text(&response, "/patch");
    if encoded.is_empty() || r.operation == Operation::Delete {
        return Ok(false);
    }
    let name = text(hook, "/name");
    let bad = |why: String| Status::internal(format!("failed calling webhook \"{name}\": {why}"));
    let bytes = STANDARD.decode(encoded).map_err(|e| bad(e.to_string()))?;
    let patch: Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let mut patched = api::patch::json_patch(r.object, &patch).map_err(|s| bad(s.message))?;
    // Documents of subresources (bindings, evictions) are of kinds of their own.
    if text(&patched, "/kind") == r.kind.kind {
        // What the kind does not have is no more kept of a webhook than of a client.
        let ignore = api::codec::FieldValidation::Ignore;
        let (version, schema) = (r.kind.api_version(), r.kind.schema());
        patched = api::codec::check(patched, &version, &r.kind.kind, schema, ignore)?.value;
        r.kind.default(&mut patched);
    }
    let changed = patched != *r.object;
    *r.object = patched;
    Ok(changed)
}

#[async_trait]
impl Plugin for Webhooks {
    fn name(&self) -> &'static str {
        "Webhooks"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        r.gvr.group != GROUP
            && (!r.server.cache.kind(GROUP, MUTATING).is_empty()
                || !r.server.cache.kind(GROUP, VALIDATING).is_empty())
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let hooks = wanted(r, MUTATING)?;
        let mut again: Vec<usize> = Vec::new();
        for (i, (_, hook)) in hooks.iter().enumerate() {
            if mutate_with(r, hook).await? {
                // Those before it that asked for it see the object once more.
                for (j, (_, earlier)) in hooks.iter().enumerate().take(i) {
                    if text(earlier, "/reinvocationPolicy") == "IfNeeded" && !again.contains(&j) {
                        again.push(j);
                    }
                }
            }
        }
        for i in again {
            mutate_with(r, &hooks[i].1).await?;
        }
        Ok(())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        for (_, hook) in wanted(r, VALIDATING)? {
            if let Some(response) = ask(r, &hook).await? {
                judge(r, &hook, &response)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let request = json!({"operation": "CREATE", "userInfo": {"username": "ann"}, "oldObject": null,
            "object": {"metadata": {"labels": {"a": "b"}}}});
        let hook = |expressions: &[&str]| {
            let all: Vec<Value> = expressions.iter().map(|e| json!({"name": "c", "expression": e})).collect();
            json!({"matchConditions": all})
        };
        assert_eq!(conditions_hold(&json!({}), &request), Ok(true));
        let both = hook(&[
            "request.userInfo.username == 'ann'",
            "oldObject == null && object.metadata.labels.a == 'b'",
        ]);
        assert_eq!(conditions_hold(&both, &request), Ok(true));
        assert_eq!(conditions_hold(&hook(&["request.operation == 'DELETE'"]), &request), Ok(false));
        // One that is false decides, whatever becomes of the others.
        assert_eq!(conditions_hold(&hook(&["object.zz == 1", "false"]), &request), Ok(false));
        let error = conditions_hold(&hook(&["object.zz == 1", "true"]), &request).unwrap_err();
        assert!(error.contains("no such key: zz"), "{error}");
    }

    #[test]
    fn rules() {
        let seen = |operation, resource, subresource| Seen {
            operation,
            group: "apps",
            versions: vec!["v1"],
            resource,
            subresource,
            namespaced: true,
        };
        let rule = |resources: Value, operations: Value, scope: &str| json!({"apiGroups": ["apps"], "apiVersions": ["*"], "resources": resources, "operations": operations, "scope": scope});
        for (rule, seen, want) in [
            (rule(json!(["deployments"]), json!(["CREATE"]), "*"), seen("CREATE", "deployments", ""), true),
            (
                rule(json!(["deployments"]), json!(["CREATE"]), "*"),
                seen("CREATE", "deployments", "scale"),
                false,
            ),
            (rule(json!(["deployments"]), json!(["UPDATE"]), "*"), seen("CREATE", "deployments", ""), false),
            (rule(json!(["*/*"]), json!(["*"]), "*"), seen("DELETE", "deployments", "scale"), true),
            (rule(json!(["*"]), json!(["*"]), "Cluster"), seen("CREATE", "deployments", ""), false),
            (
                rule(json!(["deployments/scale"]), json!(["*"]), ""),
                seen("UPDATE", "deployments", "scale"),
                true,
            ),
        ] {
            assert_eq!(covers(&rule, &seen), want, "{rule}");
        }
    }
}
