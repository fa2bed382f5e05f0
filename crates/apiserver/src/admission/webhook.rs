//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: asks services outside what they think of a write.
//!
//! Webhooks' own configurations are never sent to webhooks, so that a broken one can always be removed.

use std::collections::BTreeMap;
use std::time::Duration;

use api::access::Ask;
use api::cel::{Authorizer, Unjudged};
use api::meta::{items, text};
use api::{Status, Value};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::matching::{GROUP, Hook, Hooks, Wanted, wanted};
use super::{Operation, Plugin, Review};
use crate::ApiServer;
use crate::authz::{Attributes, Decision};
use crate::callback::post;
use crate::metrics::{Called, Half, WAITED};
use crate::user::UserInfo;

/// See the module.
pub struct Webhooks {
    mutating: Hooks,
    validating: Hooks,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            mutating: Hooks::of("mutatingwebhookconfigurations"),
            validating: Hooks::of("validatingwebhookconfigurations"),
        }
    }
}

/// Adds to how long the request has waited for webhooks, when it is dropped.
struct Waiting(Instant);

impl Drop for Waiting {
    fn drop(&mut self) {
        // What nobody waits for, this server's own writes at its start, is no request.
        let _ = WAITED.try_with(|waited| waited.set(waited.get() + self.0.elapsed()));
    }
}

/// What of a write is sent to webhooks, and how what they make of it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The object.
    Itself,
    /// Its Scale.
    Scale,
    /// A document of the subresource: a binding, an eviction, a request for a token, the options of a connection.
    Document,
}

impl Form {
    fn of(r: &Review<'_>) -> Self {
        let kind = text(r.object, "/kind");
        if r.subresource == "scale" {
            Self::Scale
        } else if r.operation == Operation::Connect || !kind.is_empty() && kind != r.kind.kind {
            Self::Document
        } else {
            Self::Itself
        }
    }
}

/// An object of the review in a version, as that version's clients see it.
async fn shown(r: &Review<'_>, form: Form, value: &Value, version: usize) -> Result<Value, Status> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    match form {
        Form::Document => Ok(value.clone()),
        Form::Scale => Ok(r.kind.scale_of(value).unwrap_or(Value::Null)),
        Form::Itself => {
            let version = &r.kind.versions[version];
            match r.converter {
                Some(converter) => converter.value(value.clone(), &version.api_version()).await,
                None if r.kind.is_storage(version) => Ok(value.clone()),
                None => {
                    let mut out = value.clone();
                    r.kind.from_storage(&mut out, version);
                    Ok(out)
                }
            }
        }
    }
}

/// Puts what a webhook made of the object back in its place.
async fn take_back(r: &mut Review<'_>, form: Form, mut new: Value, version: usize) -> Result<(), Status> {
    match form {
        Form::Document => *r.object = new,
        Form::Scale => {
            r.kind.set_scale(r.object, new.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0));
        }
        Form::Itself => {
            let version = &r.kind.versions[version];
            // What the kind does not have is no more kept of a webhook than of a client.
            let ignore = api::codec::FieldValidation::Ignore;
            let api_version = version.api_version();
            new = api::codec::check(new, &api_version, &r.kind.kind, version.schema(), ignore)?.value;
            if let Some(converter) = r.converter {
                let own = text(r.object, "/apiVersion").to_owned();
                new = converter.value(new, &own).await?;
            } else {
                r.kind.to_storage(&mut new)?;
                r.kind.keep_unsaid(version, r.object, &mut new);
            }
            r.kind.default(&mut new);
            *r.object = new;
        }
    }
    Ok(())
}

/// The version of AdmissionReview that is spoken with a webhook; none if it knows no version that is known here.
fn review_version(hook: &Value) -> Option<String> {
    let mut asked = items(hook, "/admissionReviewVersions").filter_map(Value::as_str);
    asked.find(|v| matches!(*v, "v1" | "v1beta1")).map(|v| format!("admission.k8s.io/{v}"))
}

async fn request(r: &Review<'_>, wanted: &Wanted, form: Form, uid: &str) -> Result<Value, Status> {
    let object = shown(r, form, r.object, wanted.version).await?;
    let old = match r.old {
        Some(old) => shown(r, form, old, wanted.version).await?,
        None => Value::Null,
    };
    // A document's kind is its own; an object's that of the version it is shown in.
    let gvk_of = |at: usize| {
        let gvk = r.kind.versions[at].gvk(r.kind);
        match (form, if object.is_null() { &old } else { &object }) {
            (Form::Itself, _) | (_, Value::Null) => gvk,
            (_, document) => api::Gvk::parse(text(document, "/apiVersion"), text(document, "/kind")),
        }
    };
    let kind = |at: usize| {
        let gvk = gvk_of(at);
        json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
    };
    let resource = |at: usize| {
        let version = &r.kind.versions[at];
        json!({"group": version.group, "version": version.version, "resource": r.kind.plural})
    };
    let mut request = json!({
        "uid": uid, "kind": kind(wanted.version), "resource": resource(wanted.version),
        "requestKind": kind(r.version), "requestResource": resource(r.version),
        "operation": r.operation.word(), "userInfo": r.user.to_value(), "object": object, "oldObject": old,
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
    Ok(json!({"kind": "AdmissionReview", "apiVersion": "", "request": request}))
}

/// What a webhook answers.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    uid: String,
    allowed: bool,
    status: Option<Status>,
    patch: String,
    patch_type: Option<String>,
    audit_annotations: BTreeMap<String, String>,
    warnings: Vec<String>,
}

/// A document without what is null: that is the same as not being said.
fn said(v: &Value) -> Value {
    match v {
        Value::Object(map) => {
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), said(v))).collect()
        }
        v => v.clone(),
    }
}

/// What a webhook answered, if it is an answer to what it was asked in that version.
fn response(review: &Value, version: &str, uid: &str, half: Half) -> Result<Answer, String> {
    let invalid = |why: String| Err(format!("received invalid webhook response: {why}"));
    let Some(response) = review.get("response").filter(|r| !r.is_null()) else {
        return invalid("webhook response was absent".into());
    };
    let answer: Answer =
        serde_json::from_value(said(response)).map_err(|e| format!("failed to call webhook: {e}"))?;
    // What spoke v1beta1 was never held to say so, to return the uid, or to say what its patch is.
    if version.ends_with("/v1") {
        if answer.uid != uid {
            return invalid(format!("expected response.uid=\"{uid}\", got \"{}\"", answer.uid));
        }
        let is = (text(review, "/apiVersion"), text(review, "/kind"));
        if is != (version, "AdmissionReview") {
            let slash = if is.0.contains('/') { "" } else { "/" };
            return invalid(format!(
                "expected webhook response of {version}, Kind=AdmissionReview, got {slash}{}, Kind={}",
                is.0, is.1
            ));
        }
        let why = match (half, answer.patch.is_empty(), answer.patch_type.as_deref()) {
            (Half::Validate, false, _) => "validating webhook may not return response.patch",
            (Half::Validate, _, Some(_)) => "validating webhook may not return response.patchType",
            (Half::Admit, false, None) => "webhook returned response.patch but not response.patchType",
            (Half::Admit, true, Some(_)) => "webhook returned response.patchType but not response.patch",
            (Half::Admit, _, Some("")) => "webhook returned invalid response.patchType of \"\"",
            _ => return Ok(answer),
        };
        return invalid(why.into());
    }
    Ok(Answer { patch_type: None, ..answer })
}

impl Answer {
    /// What the webhook wants to be changed.
    fn operations(&self) -> Result<Vec<Value>, String> {
        if !self.allowed || self.patch.is_empty() {
            return Ok(Vec::new());
        }
        let undecodable = |e: String| format!("received undecodable patch in webhook response: {e}");
        let bytes = STANDARD.decode(&self.patch).map_err(|e| undecodable(e.to_string()))?;
        let operations: Vec<Value> =
            serde_json::from_slice(&bytes).map_err(|e| undecodable(e.to_string()))?;
        match self.patch_type.as_deref() {
            Some(other) if other != "JSONPatch" && !operations.is_empty() => {
                Err(format!("unsupported patch type \"{other}\""))
            }
            _ => Ok(operations),
        }
    }

    /// The code that the webhook refuses with.
    fn code(&self) -> u16 {
        let code = self.status.as_ref().map_or(0, |s| s.code);
        if (400..1000).contains(&code) { code } else { 400 }
    }

    /// What the client is told of a webhook that refuses: its own words.
    fn refusal(&self, name: &str) -> Status {
        let given = self.status.clone().unwrap_or_else(|| Status::failure(0, "", ""));
        let denied = format!("admission webhook \"{name}\" denied the request");
        let message = match (given.message.as_str(), given.reason.as_str()) {
            ("", "") => format!("{denied} without explanation"),
            ("", why) | (why, _) => format!("{denied}: {why}"),
        };
        let blank = Status::failure(self.code(), &given.reason, message);
        let metadata = given.metadata;
        match given.status.as_str() {
            "" | "Success" => Status { metadata, details: given.details, ..blank },
            _ => Status { metadata, details: given.details, status: given.status, ..blank },
        }
    }
}

/// Takes what a webhook answers to a review of that object.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_response(answer: &Value, object: &Value) {
    for version in ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"] {
        let Ok(answer) = response(answer, version, "u", Half::Admit) else { continue };
        if answer.allowed {
            let _ = answer.operations().map(|operations| api::patch::apply_operations(object, &operations));
        } else {
            let refusal = answer.refusal("a");
            assert!(refusal.code >= 400, "{refusal:?}");
        }
    }
}

/// Whether all of a webhook's conditions hold. One that does not is enough; else those that cannot be told are an error.
fn conditions_hold(hook: &Hook, request: &Value, authorizer: &dyn Authorizer) -> Result<bool, String> {
    let mut budget = api::cel::CONDITIONS_BUDGET;
    let null = Value::Null;
    let part = |name: &str| request.get(name).unwrap_or(&null);
    let variables = [("object", part("object")), ("oldObject", part("oldObject")), ("request", request)];
    let (mut failed, mut holds) = (Vec::new(), true);
    for (_, program) in &hook.conditions {
        let judged = match program {
            Ok(program) => program.condition(&variables, authorizer, &mut budget),
            Err(why) => Err(Unjudged::Failed(format!("compilation failed: {why}"))),
        };
        match judged {
            Ok(held) => holds &= held,
            Err(Unjudged::Failed(why)) if failed.contains(&why) => {}
            Err(Unjudged::Failed(why)) => failed.push(why),
            Err(spent @ Unjudged::Spent) => return Err(spent.to_string()),
        }
    }
    match (holds, failed.as_slice()) {
        (false, _) => Ok(false),
        (true, []) => Ok(true),
        (true, [one]) => Err(one.clone()),
        (true, several) => Err(format!("[{}]", several.join(", "))),
    }
}

/// What the user of a review, or a service account, may do.
struct Allowed<'a> {
    server: &'a ApiServer,
    user: &'a UserInfo,
    /// The resource of the review: group, resource, subresource, namespace, name.
    about: [&'a str; 5],
}

impl std::fmt::Debug for Allowed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allowed").field("user", &self.user.name).finish_non_exhaustive()
    }
}

impl Authorizer for Allowed<'_> {
    fn resource(&self) -> [&str; 5] {
        self.about
    }

    fn decide(&self, account: Option<(&str, &str)>, ask: &Ask<'_>) -> Decision {
        let account = account.map(|(ns, name)| UserInfo::service_account(ns, name, ""));
        self.server.authorize(&Attributes::asked(account.as_ref().unwrap_or(self.user), ask))
    }
}

/// Counts what became of asking a webhook; nothing if it was not to be asked.
fn count(r: &Review<'_>, hook: &Value, half: Half, called: Option<Called>, started: Instant) {
    if let Some(called) = called {
        let metrics = &r.server.metrics.admission;
        metrics.webhook(text(hook, "/name"), half, r.operation, called, started.elapsed());
    }
}

/// Asks one webhook. Nothing: it is not to be asked, or could not be and its policy is to go on without. `called` is what
/// became of it, unless its answer is yet to be judged.
async fn ask(
    r: &Review<'_>,
    wanted: &Wanted,
    form: Form,
    half: Half,
    called: &mut Option<Called>,
) -> Result<Option<(Answer, Vec<Value>)>, Status> {
    let hook = &wanted.hook.value;
    let name = text(hook, "/name").to_owned();
    let uid = base::rng::uuid();
    *called = Some(Called::NotAsked);
    let mut review = request(r, wanted, form, &uid).await?;
    let allowed = Allowed {
        server: r.server,
        user: r.user,
        about: [&r.gvr.group, &r.gvr.resource, r.subresource, r.namespace, r.name],
    };
    match conditions_hold(&wanted.hook, &review["request"], &allowed) {
        Ok(true) => {}
        Ok(false) => {
            *called = None;
            return Ok(None);
        }
        Err(why) if text(hook, "/failurePolicy") == "Ignore" => {
            tracing::warn!(
                webhook = name,
                why,
                "a condition cannot be told; going on without the webhook, as its policy says"
            );
            *called = None;
            return Ok(None);
        }
        Err(why) => return Err(r.forbidden(why)),
    }
    let effects = text(hook, "/sideEffects");
    let harmless = effects == "None" || r.dry_run && effects == "NoneOnDryRun";
    if r.dry_run && !harmless {
        return Err(Status::bad_request(format!("admission webhook \"{name}\" does not support dry run")));
    }
    let answer = match review_version(hook) {
        Some(version) => {
            review["apiVersion"] = json!(version);
            let answer = send(r, hook, &review, harmless).await;
            answer.and_then(|v| response(&v, &version, &uid, half))
        }
        None => Err("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)".to_owned()),
    };
    // What it says is heard even if what it wants to be changed is not understood.
    let (answer, failed) = match answer {
        Ok(answer) => match answer.operations() {
            Ok(operations) => {
                *called = Some(if answer.allowed { Called::Passed } else { Called::Refused(answer.code()) });
                return Ok(Some((answer, operations)));
            }
            Err(why) => (Some((answer, Vec::new())), why),
        },
        Err(why) => (None, why),
    };
    let open = text(hook, "/failurePolicy") == "Ignore";
    *called = Some(Called::Failed { open });
    if open {
        tracing::warn!(
            webhook = name,
            why = failed,
            "webhook failed; going on without it, as its policy says"
        );
        return Ok(answer);
    }
    Err(Status::internal(format!("failed calling webhook \"{name}\": {failed}")))
}

/// Sends a review to a webhook and reads what it answers.
async fn send(r: &Review<'_>, hook: &Value, review: &Value, harmless: bool) -> Result<Value, String> {
    let seconds = hook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(10);
    let config = hook.get("clientConfig").unwrap_or(&Value::Null);
    let answer = match r.server.callback(config, seconds) {
        Ok(to) => {
            // A peer that never answers sends no event: its configuration says how long it may take.
            let posted = post(&r.server.pool, &to, review, harmless);
            let answered = tokio::time::timeout(Duration::from_secs(seconds), posted).await;
            let answer = answered.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
            answer.map_err(|why| format!("Post \"{}\": {why}", to.shown))
        }
        Err(e) => Err(e),
    };
    answer.map_err(|why| format!("failed to call webhook: {why}"))
}

/// Refuses if the webhook did.
fn judge(r: &mut Review<'_>, hook: &Value, answer: &mut Answer) -> Result<(), Status> {
    let name = text(hook, "/name");
    r.warnings.append(&mut answer.warnings);
    for (key, value) in std::mem::take(&mut answer.audit_annotations) {
        r.progress.notes.push((format!("{name}/{key}"), value));
    }
    if answer.allowed { Ok(()) } else { Err(answer.refusal(name)) }
}

/// Asks one webhook and does what it wants to be done. Gives whether that changed the object.
async fn mutate_with(r: &mut Review<'_>, wanted: &Wanted) -> Result<bool, Status> {
    let (started, mut called) = (Instant::now(), None);
    let outcome = mutate_by(r, wanted, &mut called).await;
    count(r, &wanted.hook.value, Half::Admit, called, started);
    outcome
}

async fn mutate_by(r: &mut Review<'_>, wanted: &Wanted, called: &mut Option<Called>) -> Result<bool, Status> {
    let form = Form::of(r);
    let hook = &wanted.hook.value;
    let Some((mut answer, operations)) = ask(r, wanted, form, Half::Admit, called).await? else {
        return Ok(false);
    };
    judge(r, hook, &mut answer)?;
    if operations.is_empty() {
        return Ok(false);
    }
    let answered = called.replace(Called::NotAsked);
    if r.object.is_null() {
        return Err(Status::internal(format!(
            "admission webhook \"{}\" attempted to modify the object, which is not supported for this operation",
            text(hook, "/name")
        )));
    }
    let seen = shown(r, form, r.object, wanted.version).await?;
    let patched = api::patch::apply_operations(&seen, &operations).map_err(Status::internal)?;
    if patched == seen {
        *called = answered;
        return Ok(false);
    }
    let before = r.object.clone();
    take_back(r, form, patched, wanted.version).await?;
    keep_managed(r, &before);
    *called = answered;
    Ok(before != *r.object)
}

/// Managed fields that make no sense any more are those of before, and the client hears of it.
fn keep_managed(r: &mut Review<'_>, before: &Value) {
    const FIELD: &str = "managedFields";
    let was = api::meta::of(before).get(FIELD);
    if api::meta::of(r.object).get(FIELD) == was {
        return;
    }
    let Err(why) = api::patch::check_managed(r.object) else { return };
    let meta = api::meta::of_mut(r.object);
    match was {
        Some(was) => meta.insert(FIELD.to_owned(), was.clone()),
        None => meta.shift_remove(FIELD),
    };
    r.warnings.push(format!(
        ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: {why}"
    ));
}

#[async_trait]
impl Plugin for Webhooks {
    fn name(&self) -> &'static str {
        "Webhooks"
    }

    fn names(&self) -> [&'static str; 2] {
        ["MutatingAdmissionWebhook", "ValidatingAdmissionWebhook"]
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        // Who would be asked before this server serves may be one of its own pods, and never come up.
        r.gvr.group != GROUP
            && r.server.is_ready()
            && (!self.mutating.is_empty(&r.server.cache) || !self.validating.is_empty(&r.server.cache))
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let hooks = wanted(r, &self.mutating)?;
        let _waiting = Waiting(Instant::now());
        // Other plugins may have changed what the webhooks made of the object.
        if r.progress.rounds.second && r.progress.rounds.left.as_ref().is_some_and(|left| left != r.object) {
            r.progress.rounds.due.append(&mut r.progress.rounds.asked);
        }
        for wanted in &hooks {
            if r.progress.rounds.second && !r.progress.rounds.due.contains(&wanted.hook.id) {
                continue;
            }
            if mutate_with(r, wanted).await? {
                r.progress.rounds.again = true;
                r.progress.rounds.due.append(&mut r.progress.rounds.asked);
            }
            if text(&wanted.hook.value, "/reinvocationPolicy") == "IfNeeded" {
                r.progress.rounds.asked.push(wanted.hook.id.clone());
            }
        }
        let some = !(r.progress.rounds.asked.is_empty() && r.progress.rounds.due.is_empty());
        r.progress.rounds.left = some.then(|| r.object.clone());
        Ok(())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let form = Form::of(r);
        let hooks = wanted(r, &self.validating)?;
        let _waiting = Waiting(Instant::now());
        // None of them changes anything, so they are asked at once; the first in their order that refuses is heard.
        let asked = &*r;
        let answers = hooks.iter().map(async |wanted| {
            let (started, mut called) = (Instant::now(), None);
            let answer = ask(asked, wanted, form, Half::Validate, &mut called).await;
            count(asked, &wanted.hook.value, Half::Validate, called, started);
            answer
        });
        let answers = join_all(answers).await;
        for (wanted, answer) in hooks.iter().zip(answers) {
            if let Some((mut answer, _)) = answer? {
                judge(r, &wanted.hook.value, &mut answer)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// May do what is asked of pods, and nothing else.
    #[derive(Debug)]
    struct OfPods;

    impl Authorizer for OfPods {
        fn resource(&self) -> [&str; 5] {
            ["", "pods", "", "default", "a"]
        }

        fn decide(&self, account: Option<(&str, &str)>, ask: &Ask<'_>) -> Decision {
            let seen =
                [ask.group, ask.resource, ask.subresource, ask.namespace, ask.name, ask.verb, ask.path];
            let reason = format!("{seen:?} {account:?}");
            if ask.resource == "pods" { Decision::Allow(reason) } else { Decision::NoOpinion(reason) }
        }
    }

    const V1: &str = "admission.k8s.io/v1";
    const V1BETA1: &str = "admission.k8s.io/v1beta1";

    fn full(response: Value) -> Value {
        json!({"apiVersion": V1, "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn answers_are_held_to_what_was_asked() {
        let of = |response: Value| json!({"apiVersion": "v1", "kind": "X", "response": response});
        let expected = "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got ";
        let admit = Half::Admit;
        for (half, answer, why) in [
            (admit, json!({}), "webhook response was absent".to_owned()),
            (admit, of(json!({"uid": "v"})), "expected response.uid=\"u\", got \"v\"".to_owned()),
            (admit, of(json!({"uid": "u"})), format!("{expected}/v1, Kind=X")),
            (admit, json!({"response": {"uid": "u"}}), format!("{expected}/, Kind=")),
            (
                admit,
                full(json!({"uid": "u", "patch": "W10="})),
                "webhook returned response.patch but not response.patchType".to_owned(),
            ),
            (
                admit,
                full(json!({"uid": "u", "patchType": "JSONPatch"})),
                "webhook returned response.patchType but not response.patch".to_owned(),
            ),
            (
                admit,
                full(json!({"uid": "u", "patch": "W10=", "patchType": ""})),
                "webhook returned invalid response.patchType of \"\"".to_owned(),
            ),
            (
                Half::Validate,
                full(json!({"uid": "u", "patch": "W10=", "patchType": "JSONPatch"})),
                "validating webhook may not return response.patch".to_owned(),
            ),
            (
                Half::Validate,
                full(json!({"uid": "u", "patchType": "JSONPatch"})),
                "validating webhook may not return response.patchType".to_owned(),
            ),
        ] {
            let got = response(&answer, V1, "u", half).unwrap_err();
            assert_eq!(got, format!("received invalid webhook response: {why}"), "{answer}");
        }
        let loose = full(
            json!({"uid": "u", "allowed": true, "patch": null, "patchType": null, "status": {"message": null}}),
        );
        assert!(response(&loose, V1, "u", Half::Validate).unwrap().allowed);
        let why = response(&full(json!({"uid": "u", "allowed": "yes"})), V1, "u", admit).unwrap_err();
        assert!(why.starts_with("failed to call webhook: "), "{why}");
    }

    #[test]
    fn patches_are_read() {
        let add = json!([{"op": "add", "path": "/a", "value": 1}]);
        let encoded = STANDARD.encode(add.to_string());
        let read = |version: &str, response: Value| {
            let mut whole = json!({"uid": "u", "allowed": true});
            whole.as_object_mut().unwrap().extend(response.as_object().unwrap().clone());
            self::response(&full(whole), version, "u", Half::Admit).unwrap().operations()
        };
        let garbled =
            |patch: &str| read(V1, json!({"patch": STANDARD.encode(patch), "patchType": "JSONPatch"}));
        assert_eq!(json!(read(V1, json!({"patch": encoded, "patchType": "JSONPatch"})).unwrap()), add);
        // In v1beta1 nobody ever looked at the type.
        assert_eq!(json!(read(V1BETA1, json!({"patch": encoded, "patchType": "Magic"})).unwrap()), add);
        assert_eq!(json!(read(V1BETA1, json!({"patch": encoded})).unwrap()), add);
        let why = read(V1, json!({"patch": encoded, "patchType": "Magic"})).unwrap_err();
        assert_eq!(why, "unsupported patch type \"Magic\"");
        for patch in ["{}", "["] {
            let why = garbled(patch).unwrap_err();
            assert!(why.starts_with("received undecodable patch in webhook response: "), "{why}");
        }
        assert_eq!(garbled("[]").unwrap(), Vec::<Value>::new());
        assert_eq!(
            read(V1, json!({"allowed": false, "patch": "?", "patchType": "JSONPatch"})),
            Ok(Vec::new())
        );
    }

    #[test]
    fn refusals_are_told_in_the_webhook_s_words() {
        let denied = "admission webhook \"w\" denied the request";
        let details = json!({"causes": [{"field": "a", "message": "m"}], "retryAfterSeconds": 7});
        for (status, want) in [
            (json!(null), json!({"code": 400, "message": format!("{denied} without explanation")})),
            (json!({}), json!({"code": 400, "message": format!("{denied} without explanation")})),
            (json!({"message": "no"}), json!({"code": 400, "message": format!("{denied}: no")})),
            (
                json!({"reason": "Gone", "code": 200, "status": "Success"}),
                json!({"code": 400, "reason": "Gone", "message": format!("{denied}: Gone")}),
            ),
            (
                json!({"message": "no", "reason": "Forbidden", "code": 403, "status": "Odd", "details": details}),
                json!({"code": 403, "reason": "Forbidden", "status": "Odd", "message": format!("{denied}: no"),
                    "details": details}),
            ),
        ] {
            let answer =
                response(&full(json!({"uid": "u", "status": status})), V1, "u", Half::Validate).unwrap();
            let mut whole =
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"});
            whole.as_object_mut().unwrap().extend(want.as_object().unwrap().clone());
            assert_eq!(answer.refusal("w").to_value(), whole, "{status}");
        }
    }

    #[test]
    fn versions_of_reviews() {
        for (versions, want) in [
            (json!(["v1beta1", "v1"]), Some(V1BETA1)),
            (json!(["v2", "v1"]), Some(V1)),
            (json!(["v2"]), None),
        ] {
            assert_eq!(review_version(&json!({"admissionReviewVersions": versions})).as_deref(), want);
        }
    }

    #[test]
    fn conditions_may_ask_what_the_user_may() {
        let holds = |expression: &str| {
            api::cel::check_condition(expression, &[]).unwrap();
            let hook = json!({"matchConditions": [{"name": "c", "expression": expression}]});
            conditions_hold(&Hook::compile("c", &hook), &json!({}), &OfPods).unwrap()
        };
        for (expression, want) in [
            ("authorizer.group('').resource('pods').check('get').allowed()", true),
            ("authorizer.group('apps').resource('deployments').check('get').allowed()", false),
            ("authorizer.path('/healthz').check('get').allowed()", false),
            ("authorizer.requestResource.check('delete').allowed()", true),
            ("authorizer.requestResource.check('delete').reason().contains('default')", true),
            (
                "authorizer.serviceAccount('ns', 'sa').group('g').resource('r').subresource('s').namespace('n').name('x').check('v').reason() == '[\"g\", \"r\", \"s\", \"n\", \"x\", \"v\", \"\"] Some((\"ns\", \"sa\"))'",
                true,
            ),
            ("!authorizer.group('').resource('pods').check('get').errored()", true),
        ] {
            assert_eq!(holds(expression), want, "{expression}");
        }
    }

    #[test]
    fn conditions() {
        let request = json!({"operation": "CREATE", "userInfo": {"username": "ann"}, "oldObject": null,
            "object": {"metadata": {"labels": {"a": "b"}}}});
        let hook = |expressions: &[&str]| {
            let all: Vec<Value> = expressions.iter().map(|e| json!({"name": "c", "expression": e})).collect();
            Hook::compile("c", &json!({"matchConditions": all}))
        };
        assert_eq!(conditions_hold(&hook(&[]), &request, &OfPods), Ok(true));
        let both = hook(&[
            "request.userInfo.username == 'ann'",
            "oldObject == null && object.metadata.labels.a == 'b'",
        ]);
        assert_eq!(conditions_hold(&both, &request, &OfPods), Ok(true));
        assert_eq!(conditions_hold(&hook(&["request.operation == 'DELETE'"]), &request, &OfPods), Ok(false));
        // One that is false decides, whatever becomes of the others.
        assert_eq!(conditions_hold(&hook(&["object.zz == 1", "false"]), &request, &OfPods), Ok(false));
        let error = conditions_hold(&hook(&["object.zz == 1", "true"]), &request, &OfPods).unwrap_err();
        assert_eq!(error, "expression 'object.zz == 1' resulted in error: no such key: zz");
        let error = conditions_hold(&hook(&["object.zz == 1", "object.y == 1"]), &request, &OfPods);
        assert_eq!(
            error.unwrap_err(),
            "[expression 'object.zz == 1' resulted in error: no such key: zz, expression 'object.y == 1' resulted in error: no such key: y]"
        );
        // Each may cost so much, and all together.
        let ten = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 0]";
        let dear = format!(
            "{ten}.all(a, {ten}.all(b, {ten}.all(c, {ten}.all(d, {ten}.all(e, {ten}.all(f, a + b + c + d + e + f >= 0))))))"
        );
        let limit =
            |n: usize| conditions_hold(&hook(&vec![dear.as_str(); n]), &request, &OfPods).unwrap_err();
        let one =
            format!("expression '{dear}' resulted in error: operation cancelled: actual cost limit exceeded");
        assert_eq!(limit(1), one);
        assert_eq!(limit(2), one, "what is said twice is said once");
        assert_eq!(
            limit(3),
            "validation failed due to running out of cost budget, no further validation rules will be run"
        );
    }
}
