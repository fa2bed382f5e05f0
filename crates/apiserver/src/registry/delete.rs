//! DELETE: at once, after a grace period, or when the last finalizer is gone.

use std::sync::Arc;

use api::object::Encoded;
use api::{Gvr, Object, Status, Value};
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
    /// From a body (null if there is none) and the query, which fills in what the body does not say.
    pub fn parse(body: &Value, query: &Query) -> Result<Self, Status> {
        let bad = Status::bad_request;
        let mut errors = api::ErrorList::new();
        // What is no text is told as an empty one.
        let said = body.get("dryRun").and_then(Value::as_array).into_iter().flatten();
        let said = said.map(|v| v.as_str().unwrap_or("")).chain(query.all("dryRun"));
        let mut options = Self { dry_run: crate::query::dry_run(said, &mut errors), ..Self::default() };
        if !errors.is_empty() {
            return Err(invalid(&errors.message()));
        }
        options.grace = match body.get("gracePeriodSeconds").and_then(Value::as_i64) {
            Some(s) => Some(s),
            None => query.number("gracePeriodSeconds").map_err(bad)?,
        };
        if options.grace.is_some_and(|s| s < 0) {
            // As upstream: a negative period is the shortest that still lets the kubelet do its work.
            options.grace = Some(1);
        }
        let text = |v: &Value, f: &str| v.get(f).and_then(Value::as_str).unwrap_or("").to_owned();
        options.propagation = match text(body, "propagationPolicy") {
            p if p.is_empty() => query.get("propagationPolicy").unwrap_or("").to_owned(),
            p => p,
        };
        let orphans = body
            .get("orphanDependents")
            .and_then(Value::as_bool)
            .or_else(|| query.some("orphanDependents").map(|v| v == "true"));
        if let Some(orphan) = orphans {
            if !options.propagation.is_empty() {
                return Err(invalid("orphanDependents and deletionPropagation cannot be both set"));
            }
            options.orphans = Some(orphan);
            options.propagation = if orphan { "Orphan" } else { "Background" }.to_owned();
        }
        if !matches!(options.propagation.as_str(), "" | "Orphan" | "Background" | "Foreground") {
            return Err(invalid(&format!(
                "propagationPolicy: Unsupported value: \"{}\": supported values: \"Foreground\", \"Background\", \"Orphan\"",
                options.propagation
            )));
        }
        let preconditions = body.get("preconditions").unwrap_or(&Value::Null);
        options.uid = preconditions.get("uid").and_then(Value::as_str).map(str::to_owned);
        if let Some(v) = preconditions.get("resourceVersion").and_then(Value::as_str) {
            options.revision = Some(crate::query::resource_version(v).map_err(bad)?);
        }
        Ok(options)
    }

    /// Whether the object is the one that is to go, as it is to be then.
    pub fn check(&self, gvr: &Gvr, object: &Object) -> Result<(), Status> {
        let (uid, revision) = (object.uid(), object.revision());
        let fail =
            |why: String| Err(Status::conflict(gvr, object.name(), &format!("Precondition failed: {why}")));
        match (&self.uid, self.revision) {
            (Some(u), _) if u != uid => fail(format!("UID in precondition: {u}, UID in object meta: {uid}")),
            (_, Some(r)) if r != revision => fail(format!(
                "ResourceVersion in precondition: {r}, ResourceVersion in object meta: {revision}"
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

fn invalid(why: &str) -> Status {
    Status::failure(422, "Invalid", format!("DeleteOptions.meta.k8s.io \"\" is invalid: {why}"))
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
        if !options.unasked {
            self.admit_delete(cx, name, old.value(), options).await?;
        }
        loop {
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
        options.check(&cx.gvr(), old).map_err(Missed::Failed)?;
        let mut new = old.value().clone();
        let orphans = cx.kind.strategy.orphans(&cx.version().api_version());
        set_propagation(&mut new, &options.propagation, orphans);
        let grace = cx.kind.strategy.grace(old.value(), options.grace);
        let now = base::clock::now();
        let already = api::meta::deleted(old.value());
        let stays = api::meta::finalizers(&new).next().is_some()
            || cx.kind.plural == "namespaces"
                && cx.kind.group.is_empty()
                && new.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        if grace > 0 || stays {
            let meta = api::meta::of_mut(&mut new);
            let before = meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
            match already {
                // A second delete can only shorten the time that is left.
                Some(_) if grace >= before => {}
                Some(started) => {
                    let began = started.as_second() - before;
                    let ends = jiff::Timestamp::from_second(began + grace).unwrap_or(now);
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
        let parse = |body: Value, query: &str| DeleteOptions::parse(&body, &Query::parse(Some(query)));
        assert_eq!(parse(json!(null), "gracePeriodSeconds=5").unwrap().grace, Some(5));
        assert_eq!(parse(json!({"gracePeriodSeconds": 0}), "gracePeriodSeconds=5").unwrap().grace, Some(0));
        assert_eq!(parse(json!({"orphanDependents": true}), "").unwrap().propagation, "Orphan");
        assert!(parse(json!({"propagationPolicy": "Sometimes"}), "").is_err());
        assert!(parse(json!({"dryRun": ["All"]}), "").unwrap().dry_run);
        let whole = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 5,
            "propagationPolicy": "Foreground", "preconditions": {"uid": "u", "resourceVersion": "7"}, "dryRun": ["All"]});
        assert_eq!(parse(whole.clone(), "").unwrap().document(), whole);
        let refused = parse(json!({"dryRun": ["Some"]}), "").unwrap_err();
        assert!(
            refused.message.contains("dryRun: Unsupported value: []string{\"Some\"}"),
            "{}",
            refused.message
        );
        assert!(parse(json!(null), "dryRun=").is_err());
    }
}
