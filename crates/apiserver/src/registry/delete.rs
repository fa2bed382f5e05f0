//! DELETE: at once, after a grace period, or when the last finalizer is gone.

use std::sync::Arc;

use api::object::Encoded;
use api::{Gvr, Kind, Object, Path, Status, Value};
use serde_json::json;
use store::Expect;

use super::update::is_finished;
use super::{Context, Missed};
use crate::ApiServer;
use crate::admission::{self, Operation, Progress, Review};
use crate::query::Query;

/// The finalizer that makes the garbage collector delete dependents first.
const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that makes it leave them without an owner.
const ORPHAN: &str = "orphan";

/// The options of a delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds the object has to end.
    pub grace: Option<i64>,
    /// `Orphan`, `Background`, `Foreground`, or empty for the kind's default.
    pub propagation: String,
    /// What `orphanDependents` said, which came before `propagation`.
    pub orphans: Option<bool>,
    /// Only this object, not another one of the same name.
    pub uid: Option<String>,
    /// Only if it has not changed.
    pub revision: Option<u64>,
    /// Do everything but delete.
    pub dry_run: bool,
    /// Nobody is asked whether it may go: what the server itself clears away.
    pub unasked: bool,
}

impl DeleteOptions {
    /// From a body. What the query says is nothing then, as upstream has it.
    pub fn of_body(body: &Value) -> Result<Self, Status> {
        let given = |field: &str| body.get(field).filter(|v| !v.is_null());
        let said = body.get("dryRun").and_then(Value::as_array).into_iter().flatten();
        let mut options = Self {
            grace: given("gracePeriodSeconds").and_then(Value::as_i64),
            orphans: given("orphanDependents").and_then(Value::as_bool),
            ..Self::default()
        };
        let policy = given("propagationPolicy").and_then(Value::as_str);
        // What is no text is told as an empty one.
        options.judge(policy, said.map(|v| v.as_str().unwrap_or("")))?;
        let preconditions = body.get("preconditions").unwrap_or(&Value::Null);
        options.uid = preconditions.get("uid").and_then(Value::as_str).map(str::to_owned);
        if let Some(v) = preconditions.get("resourceVersion").and_then(Value::as_str) {
            options.revision = Some(crate::query::resource_version(v).map_err(Status::bad_request)?);
        }
        Ok(options)
    }

    /// From the query of a request without a body.
    pub fn of_query(query: &Query) -> Result<Self, Status> {
        let mut options = Self {
            grace: query.number("gracePeriodSeconds").map_err(Status::bad_request)?,
            orphans: query.flag_if_set("orphanDependents"),
            ..Self::default()
        };
        options.judge(query.get("propagationPolicy"), query.all("dryRun"))?;
        Ok(options)
    }

    /// Takes what has to be judged, and brings the rest into its form.
    fn judge<'a>(
        &mut self,
        policy: Option<&str>,
        dry_run: impl Iterator<Item = &'a str>,
    ) -> Result<(), Status> {
        const POLICIES: [&str; 4] = ["Foreground", "Background", "Orphan", "nil"];
        let mut errors = api::ErrorList::new();
        let path = Path::new("propagationPolicy");
        if let Some(policy) = policy {
            if self.orphans.is_some() {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                errors.invalid_str(&path, policy, why);
            }
            if !POLICIES[..3].contains(&policy) {
                errors.not_supported_of(&path, &json!(policy), &POLICIES);
            }
        }
        self.dry_run = crate::query::dry_run(dry_run, &mut errors);
        crate::query::invalid("DeleteOptions", errors)?;
        self.propagation = match (policy, self.orphans) {
            (Some(policy), _) => policy,
            (None, Some(true)) => "Orphan",
            (None, Some(false)) => "Background",
            (None, None) => "",
        }
        .to_owned();
        // As upstream: a negative period is the shortest that still lets the kubelet do its work.
        self.grace = self.grace.map(|s| if s < 0 { 1 } else { s });
        Ok(())
    }

    /// Whether the object is the one that is to go, as it is to be then.
    pub fn check(&self, gvr: &Gvr, object: &Object) -> Result<(), Status> {
        let (uid, revision) = (object.uid(), object.revision());
        let fail = |why: String| Err(Status::conflict(gvr, object.name(), &why));
        match (&self.uid, self.revision) {
            (Some(u), _) if u != uid => fail(format!(
                "the UID in the precondition ({u}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
            )),
            (_, Some(r)) if r != revision => fail(format!(
                "the ResourceVersion in the precondition ({r}) does not match the ResourceVersion in record ({revision}). The object might have been modified"
            )),
            _ => Ok(()),
        }
    }

    /// As a document, for admission webhooks.
    fn document(&self) -> Value {
        let mut v = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(grace) = self.grace {
            v["gracePeriodSeconds"] = json!(grace);
        }
        if !self.propagation.is_empty() {
            v["propagationPolicy"] = json!(self.propagation);
        }
        let mut preconditions = api::Map::new();
        if let Some(uid) = &self.uid {
            preconditions.insert("uid".into(), json!(uid));
        }
        if let Some(revision) = self.revision {
            preconditions.insert("resourceVersion".into(), json!(revision.to_string()));
        }
        if !preconditions.is_empty() {
            v["preconditions"] = Value::Object(preconditions);
        }
        if self.dry_run {
            v["dryRun"] = json!(["All"]);
        }
        v
    }
}

/// What a delete did.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// The object is gone; its last state.
    Gone(Arc<Object>),
    /// It will go when its grace period or its finalizers have ended; its state now.
    Going(Arc<Object>),
}

impl ApiServer {
    /// Deletes the object `name`.
    pub async fn delete(
        &self,
        cx: &mut Context,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let mut old = self.get_object(cx, name).await?;
        let mut admitted = options.unasked;
        loop {
            options.check(&cx.gvr(), &old)?;
            if keeps_ending(&cx.kind, &old, options) {
                return Ok(Deleted::Going(old));
            }
            if !admitted {
                self.admit_delete(cx, name, old.value(), options).await?;
                admitted = true;
            }
            match self.delete_once(cx, name, options, &old).await {
                Ok(deleted) => {
                    return Ok(deleted);
                }
                Err(Missed::Failed(status)) => return Err(status),
                Err(Missed::Conflict(Some(newer))) => old = newer,
                Err(Missed::Conflict(None)) => return Err(Status::not_found(&cx.gvr(), name)),
            }
        }
    }

    async fn admit_delete(
        &self,
        cx: &mut Context,
        name: &str,
        old: &Value,
        options: &DeleteOptions,
    ) -> Result<(), Status> {
        let (gvr, user, kind, namespace) =
            (cx.kind.gvr(), cx.user.clone(), cx.kind.clone(), cx.namespace().to_owned());
        let mut object = Value::Null;
        let (version, converter) = (cx.version, cx.converter.clone());
        let mut review = Review {
            server: self,
            user: &user,
            kind: &kind,
            gvr: &gvr,
            version,
            converter: converter.as_deref(),
            subresource: "",
            operation: Operation::Delete,
            namespace: &namespace,
            name,
            object: &mut object,
            old: Some(old),
            dry_run: options.dry_run,
            options: options.document(),
            warnings: &mut cx.warnings,
            progress: Progress::default(),
        };
        admission::mutate(&self.admission, &mut review).await?;
        admission::validate(&self.admission, &mut review).await.map(drop)
    }

    async fn delete_once(
        &self,
        cx: &mut Context,
        name: &str,
        options: &DeleteOptions,
        old: &Arc<Object>,
    ) -> Result<Deleted, Missed> {
        let mut new = old.value().clone();
        if cx.kind.strategy.is_collected() {
            let orphans = cx.kind.strategy.orphans(&cx.version().api_version());
            set_propagation(&mut new, &options.propagation, orphans);
        } else {
            set_propagation(&mut new, "Background", false);
        }
        let now = base::clock::now();
        let already = api::meta::deleted(old.value());
        // What ends within a grace period gets another only from who asks for one.
        let grace = match options.grace {
            Some(asked) if grace_of(old.value()) > 0 => asked,
            asked => cx.kind.strategy.grace(old.value(), asked),
        };
        if already.is_none() {
            cx.kind.strategy.prepare_delete(&mut new, &api::meta::time(now));
        }
        let stays = api::meta::finalizers(&new).next().is_some() || is_held_namespace(&cx.kind, &new);
        if grace > 0 || stays {
            let before = grace_of(&new);
            let meta = api::meta::of_mut(&mut new);
            match already {
                // A second delete can only shorten the time that is left.
                Some(_) if grace >= before => {}
                Some(started) => {
                    let (ends, grace) = shortened(started, before, grace, now);
                    meta.insert("deletionTimestamp".into(), json!(api::meta::time(ends)));
                    meta.insert("deletionGracePeriodSeconds".into(), json!(grace));
                }
                None => {
                    let ends = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
                    meta.insert("deletionTimestamp".into(), json!(api::meta::time(ends)));
                    meta.insert("deletionGracePeriodSeconds".into(), json!(grace));
                    if let Some(g) = meta.get("generation").and_then(Value::as_i64) {
                        meta.insert("generation".into(), json!(g + 1));
                    }
                }
            }
            if cx.kind.plural == "namespaces" && cx.kind.group.is_empty() {
                api::meta::child(&mut new, "status").insert("phase".into(), json!("Terminating"));
            }
            if !(is_finished(&cx.kind, &new) && already.is_some()) {
                if options.dry_run || &new == old.value() {
                    return Ok(Deleted::Going(Object::from_value(new)));
                }
                let object = self.put(cx, name, new, Expect::ModRevision(old.revision())).await?;
                return Ok(Deleted::Going(object));
            }
        }
        if options.dry_run {
            return Ok(Deleted::Gone(old.clone()));
        }
        let revision = self.remove(cx, name, old.revision()).await?;
        let mut last = old.value().clone();
        api::object::set_revision(&mut last, revision);
        Ok(Deleted::Gone(Object::from_value(last)))
    }

    /// Deletes each of `names`; what is gone already is no failure.
    pub async fn delete_all(
        &self,
        cx: &mut Context,
        items: Vec<Arc<Encoded>>,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Encoded>>, Status> {
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            let mut one = cx.clone();
            one.info.namespace = item.namespace().to_owned();
            match self.delete(&mut one, item.name(), options).await {
                Ok(Deleted::Gone(object) | Deleted::Going(object)) => out.push(object.encoded().clone()),
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        Ok(out)
    }
}

/// The grace period within which an object ends; 0 if it does not end, or is to end at once.
fn grace_of(object: &Value) -> i64 {
    api::meta::of(object).get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0)
}

/// A namespace that is yet to be emptied?
fn is_held_namespace(kind: &Kind, object: &Value) -> bool {
    kind.plural == "namespaces"
        && kind.group.is_empty()
        && object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty())
}

/// Does an object end already, so that another delete changes nothing about it, its finalizers included? The time it has can
/// only be shortened.
fn keeps_ending(kind: &Kind, object: &Object, options: &DeleteOptions) -> bool {
    let before = grace_of(object.value());
    object.is_deleting()
        && (is_held_namespace(kind, object.value())
            || before > 0 && options.grace.is_none_or(|asked| asked >= before))
}

/// When an object is to end that `ends` after `before` seconds, if it is to have no more than `grace`, and how many of them that
/// leaves: not in the past.
fn shortened(ends: jiff::Timestamp, before: i64, grace: i64, now: jiff::Timestamp) -> (jiff::Timestamp, i64) {
    let sooner = ends.as_second().saturating_sub(before).saturating_add(grace);
    match jiff::Timestamp::from_second(sooner) {
        Ok(sooner) if sooner >= now => (sooner, grace),
        // The least that still leaves its end to the kubelet.
        _ => (now, grace.min(1)),
    }
}

/// Puts on the object what makes the garbage collector follow `policy`. If that is empty an earlier policy stays; without
/// one, what it owns is orphaned if the kind `orphans` by default.
fn set_propagation(object: &mut Value, policy: &str, orphans: bool) {
    match policy {
        "Orphan" => {
            api::meta::remove_finalizer(object, FOREGROUND);
            api::meta::add_finalizer(object, ORPHAN);
        }
        "Foreground" => {
            api::meta::remove_finalizer(object, ORPHAN);
            api::meta::add_finalizer(object, FOREGROUND);
        }
        "Background" => {
            api::meta::remove_finalizer(object, ORPHAN);
            api::meta::remove_finalizer(object, FOREGROUND);
        }
        _ if orphans && !api::meta::finalizers(object).any(|f| f == FOREGROUND) => {
            api::meta::add_finalizer(object, ORPHAN);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_kinds_orphan_unless_told_otherwise() {
        let kind = |group, plural| api::kinds::all().iter().find(|k| k.group == group && k.plural == plural);
        for (group, plural, version, want) in [
            ("batch", "jobs", "batch/v1", true),
            ("", "replicationcontrollers", "v1", true),
            ("batch", "cronjobs", "batch/v1beta1", true),
            ("batch", "cronjobs", "batch/v1", false),
            ("apps", "replicasets", "apps/v1", false),
        ] {
            assert_eq!(kind(group, plural).unwrap().strategy.orphans(version), want, "{plural} of {version}");
        }
        for (before, policy, orphans, want) in [
            (json!([]), "", true, json!([ORPHAN])),
            (json!([]), "Background", true, json!([])),
            (json!([FOREGROUND]), "", true, json!([FOREGROUND])),
            (json!([ORPHAN]), "", true, json!([ORPHAN])),
            (json!(["x"]), "", true, json!(["x", ORPHAN])),
            (json!(["x"]), "", false, json!(["x"])),
            (json!([ORPHAN]), "Foreground", true, json!([FOREGROUND])),
        ] {
            let mut object = json!({"metadata": {"finalizers": before}});
            set_propagation(&mut object, policy, orphans);
            let after: Vec<&str> = api::meta::finalizers(&object).collect();
            assert_eq!(json!(after), want, "{policy:?}");
        }
    }

    #[test]
    fn options_are_read_from_body_and_query() {
        let body = |body: Value| DeleteOptions::of_body(&body);
        let query = |query: &str| DeleteOptions::of_query(&Query::parse(Some(query)));
        assert_eq!(query("gracePeriodSeconds=5").unwrap().grace, Some(5));
        assert_eq!(body(json!({"gracePeriodSeconds": -1})).unwrap().grace, Some(1));
        for (given, want) in [
            (body(json!({"orphanDependents": true})), "Orphan"),
            (query("orphanDependents=False"), "Background"),
            (query("propagationPolicy=Foreground"), "Foreground"),
            (body(json!({"orphanDependents": null, "propagationPolicy": null})), ""),
        ] {
            assert_eq!(given.unwrap().propagation, want);
        }
        let whole = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 5,
            "propagationPolicy": "Foreground", "preconditions": {"uid": "u", "resourceVersion": "7"}, "dryRun": ["All"]});
        assert_eq!(body(whole.clone()).unwrap().document(), whole);
        for (refused, why) in [
            (
                body(json!({"propagationPolicy": "Sometimes"})),
                "propagationPolicy: Unsupported value: \"Sometimes\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
            ),
            (
                body(json!({"propagationPolicy": "Orphan", "orphanDependents": true})),
                "propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set",
            ),
            (
                body(json!({"dryRun": ["Some"]})),
                "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
            ),
            (query("dryRun="), "dryRun: Unsupported value: [\"\"]: supported values: \"All\""),
        ] {
            let refused = refused.unwrap_err();
            let want = format!("DeleteOptions.meta.k8s.io \"\" is invalid: {why}");
            assert_eq!((refused.code, refused.message), (422, want));
            assert_eq!(refused.details.unwrap().causes.len(), 1);
        }
    }

    #[test]
    fn what_is_to_end_sooner_does_not_end_before_it_was_told_to() {
        let at = |s| jiff::Timestamp::from_second(s).unwrap();
        for (before, grace, now, want) in
            [(30, 10, 975, (at(980), 10)), (30, 10, 990, (at(990), 1)), (30, 0, 990, (at(990), 0))]
        {
            assert_eq!(shortened(at(1000), before, grace, at(now)), want, "{before} {grace} {now}");
        }
    }
}
