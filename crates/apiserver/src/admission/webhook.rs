//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: asks services outside what they think of a write.
//!
//! Webhooks' own configurations are never sent to webhooks, so that a broken one can always be removed.

use std::time::Duration;

use api::access::Ask;
use api::cel::{Authorizer, Unjudged};
use api::meta::text;
use api::{Status, Value};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use super::matching::{GROUP, Wanted, wanted};
use super::{Operation, Plugin, Review};
use crate::ApiServer;
use crate::authz::{Attributes, Decision};
use crate::callback::post;
use crate::metrics::{Called, Half, WAITED};
use crate::user::UserInfo;

const MUTATING: &str = "mutatingwebhookconfigurations";
const VALIDATING: &str = "validatingwebhookconfigurations";

/// See the module.
pub struct Webhooks;

fn list<'a>(v: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    v.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
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

/// The version of AdmissionReview that is spoken with a webhook.
fn review_version(hook: &Value) -> String {
    let known = list(hook, "/admissionReviewVersions").filter_map(Value::as_str);
    let version = { known }.find(|v| matches!(*v, "v1" | "v1beta1")).unwrap_or("v1");
    format!("admission.k8s.io/{version}")
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
    let version = review_version(&wanted.hook);
    Ok(json!({"kind": "AdmissionReview", "apiVersion": version, "request": request}))
}

/// What a webhook answered, if it is an answer to what it was asked.
fn response(answer: &Value, version: &str, uid: &str) -> Result<Value, String> {
    let Some(response) = answer.get("response").filter(|r| !r.is_null()) else {
        return Err("webhook response was absent".into());
    };
    // What spoke v1beta1 was never held to say so, nor to return the uid.
    if version.ends_with("/v1") {
        let is = (text(answer, "/apiVersion"), text(answer, "/kind"));
        if is != (version, "AdmissionReview") {
            return Err(format!(
                "expected webhook response of {version}, Kind=AdmissionReview, got {}, Kind={}",
                is.0, is.1
            ));
        }
        if text(response, "/uid") != uid {
            return Err(format!("expected response.uid=\"{uid}\", got \"{}\"", text(response, "/uid")));
        }
        if !text(response, "/patch").is_empty() && text(response, "/patchType").is_empty() {
            return Err("webhook returned response.patch but not response.patchType".into());
        }
    }
    match text(response, "/patchType") {
        "" | "JSONPatch" => Ok(response.clone()),
        other => Err(format!("unsupported patch type \"{other}\"")),
    }
}

/// Takes what a webhook answers to a review of that object.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_response(answer: &Value, object: &Value) {
    for version in ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"] {
        let Ok(response) = response(answer, version, "u") else { continue };
        if allows(&response) {
            let _ = patched(&response, object);
        } else {
            let refusal = refusal("a", &response);
            assert!(refusal.code >= 400, "{refusal:?}");
        }
    }
}

/// Whether all of a webhook's conditions hold. One that does not is enough; else those that cannot be told are an error.
fn conditions_hold(hook: &Value, request: &Value, authorizer: &dyn Authorizer) -> Result<bool, String> {
    let mut budget = api::cel::CONDITIONS_BUDGET;
    let null = Value::Null;
    let part = |name: &str| request.get(name).unwrap_or(&null);
    let variables = [("object", part("object")), ("oldObject", part("oldObject")), ("request", request)];
    let (mut failed, mut holds) = (Vec::new(), true);
    for condition in list(hook, "/matchConditions") {
        let judged = match api::cel::Program::parse(text(condition, "/expression")) {
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

/// Asks one webhook, and counts that. Nothing: it is not to be asked, or could not be and its policy is to go on without.
async fn ask(r: &Review<'_>, wanted: &Wanted, form: Form, half: Half) -> Result<Option<Value>, Status> {
    let started = Instant::now();
    let mut called = None;
    let answer = asked(r, wanted, form, &mut called).await;
    let called = match &answer {
        Ok(None) => called,
        Ok(Some(response)) if allows(response) => Some(Called::Passed),
        Ok(Some(response)) => Some(Called::Refused(code_of(response))),
        Err(_) => called.or(Some(Called::NotAsked)),
    };
    if let Some(called) = called {
        let metrics = &r.server.metrics.admission;
        metrics.webhook(text(&wanted.hook, "/name"), half, r.operation, called, started.elapsed());
    }
    answer
}

/// Asks one webhook; `called` is what became of it where it gave no answer.
async fn asked(
    r: &Review<'_>,
    wanted: &Wanted,
    form: Form,
    called: &mut Option<Called>,
) -> Result<Option<Value>, Status> {
    let hook = &wanted.hook;
    let name = text(hook, "/name").to_owned();
    let uid = base::rng::uuid();
    let review = request(r, wanted, form, &uid).await?;
    let allowed = Allowed {
        server: r.server,
        user: r.user,
        about: [&r.gvr.group, &r.gvr.resource, r.subresource, r.namespace, r.name],
    };
    match conditions_hold(hook, &review["request"], &allowed) {
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
        Err(why) => return Err(r.forbidden(why)),
    }
    let effects = text(hook, "/sideEffects");
    let harmless = effects == "None" || r.dry_run && effects == "NoneOnDryRun";
    if r.dry_run && !harmless {
        return Err(Status::bad_request(format!("admission webhook \"{name}\" does not support dry run")));
    }
    let seconds = hook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(10);
    let config = hook.get("clientConfig").unwrap_or(&Value::Null);
    let answer = match r.server.callback(config, seconds) {
        Ok(to) => {
            // A peer that never answers sends no event: its configuration says how long it may take.
            let posted = post(&r.server.pool, &to, &review, harmless);
            let answered = tokio::time::timeout(Duration::from_secs(seconds), posted).await;
            let answer = answered.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
            answer.map_err(|why| format!("Post \"{}\": {why}", to.shown))
        }
        Err(e) => Err(e),
    };
    let answer = answer.and_then(|v| response(&v, &review_version(hook), &uid));
    match answer {
        Ok(response) => Ok(Some(response)),
        Err(why) if text(hook, "/failurePolicy") == "Ignore" => {
            tracing::warn!(webhook = name, why, "webhook failed; going on without it, as its policy says");
            *called = Some(Called::Failed { open: true });
            Ok(None)
        }
        Err(why) => {
            *called = Some(Called::Failed { open: false });
            Err(Status::internal(format!("failed calling webhook \"{name}\": failed to call webhook: {why}")))
        }
    }
}

/// Whether the webhook lets the write pass.
fn allows(response: &Value) -> bool {
    response.get("allowed").and_then(Value::as_bool) == Some(true)
}

/// The code that a webhook refuses with.
fn code_of(response: &Value) -> u16 {
    let code = response.pointer("/status/code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok());
    code.filter(|c| *c >= 400).unwrap_or(403)
}

/// Refuses if the webhook did.
fn judge(r: &mut Review<'_>, hook: &Value, response: &Value) -> Result<(), Status> {
    let name = text(hook, "/name");
    r.warnings.extend(list(response, "/warnings").filter_map(|w| w.as_str().map(str::to_owned)));
    for (key, value) in response.get("auditAnnotations").and_then(Value::as_object).into_iter().flatten() {
        r.progress.notes.push((format!("{name}/{key}"), value.as_str().unwrap_or("").to_owned()));
    }
    if allows(response) { Ok(()) } else { Err(refusal(name, response)) }
}

/// What the client is told of a webhook that refuses.
fn refusal(name: &str, response: &Value) -> Status {
    let why = match (text(response, "/status/message"), text(response, "/status/reason")) {
        ("", "") => format!("admission webhook \"{name}\" denied the request without explanation"),
        ("", reason) => format!("admission webhook \"{name}\" denied the request: {reason}"),
        (message, _) => format!("admission webhook \"{name}\" denied the request: {message}"),
    };
    let reason = match text(response, "/status/reason") {
        "" => "Forbidden",
        reason => reason,
    };
    Status::failure(code_of(response), reason, why)
}

/// The object as a webhook wants it; nothing if it has no wish.
fn patched(response: &Value, seen: &Value) -> Result<Option<Value>, String> {
    let encoded = text(response, "/patch");
    if encoded.is_empty() {
        return Ok(None);
    }
    let bytes = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
    let patch: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let patched = api::patch::json_patch(seen, &patch).map_err(|s| s.message)?;
    Ok((patched != *seen).then_some(patched))
}

async fn mutate_with(r: &mut Review<'_>, wanted: &Wanted) -> Result<bool, Status> {
    let form = Form::of(r);
    let hook = &wanted.hook;
    let Some(response) = ask(r, wanted, form, Half::Admit).await? else { return Ok(false) };
    judge(r, hook, &response)?;
    if text(&response, "/patch").is_empty() || r.operation == Operation::Delete {
        return Ok(false);
    }
    let name = text(hook, "/name");
    let seen = shown(r, form, r.object, wanted.version).await?;
    let patched = patched(&response, &seen)
        .map_err(|why| Status::internal(format!("failed calling webhook \"{name}\": {why}")))?;
    let Some(patched) = patched else { return Ok(false) };
    let before = r.object.clone();
    take_back(r, form, patched, wanted.version).await?;
    Ok(before != *r.object)
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
        r.gvr.group != GROUP
            && (!r.server.cache.kind(GROUP, MUTATING).is_empty()
                || !r.server.cache.kind(GROUP, VALIDATING).is_empty())
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let hooks = wanted(r, MUTATING)?;
        let _waiting = Waiting(Instant::now());
        // Other plugins may have changed what the webhooks made of the object.
        if r.progress.rounds.second && r.progress.rounds.left.as_ref().is_some_and(|left| left != r.object) {
            r.progress.rounds.due.append(&mut r.progress.rounds.asked);
        }
        for wanted in &hooks {
            if r.progress.rounds.second && !r.progress.rounds.due.contains(&wanted.id) {
                continue;
            }
            if mutate_with(r, wanted).await? {
                r.progress.rounds.again = true;
                r.progress.rounds.due.append(&mut r.progress.rounds.asked);
            }
            if text(&wanted.hook, "/reinvocationPolicy") == "IfNeeded" {
                r.progress.rounds.asked.push(wanted.id.clone());
            }
        }
        let some = !(r.progress.rounds.asked.is_empty() && r.progress.rounds.due.is_empty());
        r.progress.rounds.left = some.then(|| r.object.clone());
        Ok(())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let form = Form::of(r);
        let hooks = wanted(r, VALIDATING)?;
        let _waiting = Waiting(Instant::now());
        // None of them changes anything, so they are asked at once; the first in their order that refuses is heard.
        let asked = &*r;
        let answers = join_all(hooks.iter().map(|wanted| ask(asked, wanted, form, Half::Validate))).await;
        for (wanted, answer) in hooks.iter().zip(answers) {
            if let Some(response) = answer? {
                judge(r, &wanted.hook, &response)?;
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

    #[test]
    fn answers_are_judged() {
        let v1 = "admission.k8s.io/v1";
        let full =
            |response: Value| json!({"apiVersion": v1, "kind": "AdmissionReview", "response": response});
        assert!(response(&full(json!({"uid": "u", "allowed": true})), v1, "u").is_ok());
        assert!(response(&json!({"response": {"allowed": true}}), "admission.k8s.io/v1beta1", "u").is_ok());
        for (answer, want) in [
            (json!({}), "webhook response was absent"),
            (
                json!({"response": {"uid": "u"}}),
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got , Kind=",
            ),
            (full(json!({"uid": "v"})), "expected response.uid=\"u\", got \"v\""),
            (
                full(json!({"uid": "u", "patch": "W10="})),
                "webhook returned response.patch but not response.patchType",
            ),
            (full(json!({"uid": "u", "patchType": "Magic"})), "unsupported patch type \"Magic\""),
        ] {
            assert_eq!(response(&answer, v1, "u").unwrap_err(), want);
        }
    }

    #[test]
    fn conditions_may_ask_what_the_user_may() {
        let holds = |expression: &str| {
            api::cel::check_condition(expression, &[]).unwrap();
            let hook = json!({"matchConditions": [{"name": "c", "expression": expression}]});
            conditions_hold(&hook, &json!({}), &OfPods).unwrap()
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
            json!({"matchConditions": all})
        };
        assert_eq!(conditions_hold(&json!({}), &request, &OfPods), Ok(true));
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
