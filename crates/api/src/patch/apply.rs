//! Server-side apply, and how every other write changes who owns what ([`super::managers`]).
//!
//! Every writer owns the fields that it has set. An apply states all the fields that its manager wants to own: what it states is laid
//! over the live object, what it stated the last time and no longer does goes unless somebody else owns it, and stating
//! another value for a field that somebody else owns is a conflict unless forced.
//!
//! What a manager owns is kept in the version that it spoke. Where that is not the writer's, objects are compared, and fields
//! taken away, in each of the versions, by conversions that the caller makes ([`Versions`]).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::fields::{self, Diff, Set};
use super::managers::{Entry, Writer, capped, check_managed, entries, strip, write_entries};
use crate::schema::Schema;
use crate::status::{Cause, Details};
use crate::{Status, meta};

/// A kind's versions, and its objects in each of them.
pub trait Versions {
    /// The schema of a version (`apps/v1`); nothing if there is no such version any more.
    fn schema(&self, api_version: &str) -> Option<Schema<'_>>;
    /// Objects in another version, in the same order; [`Stop::Convert`] where that is still to be made.
    fn convert(&self, objects: &[&Value], to: &str) -> Result<Vec<Value>, Stop>;
}

/// Why ownership cannot be told.
#[derive(Debug)]
pub enum Stop {
    /// The write is refused.
    Refused(Box<Status>),
    /// These objects must be known in the version `to` first; then the same is to be asked again.
    Convert {
        /// The objects.
        objects: Vec<Value>,
        /// The version, e.g. `apps/v1`.
        to: String,
    },
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Stop::Refused(Box::new(status))
    }
}

/// The objects of one version alone: nobody has spoken another.
#[derive(Clone, Copy, Debug)]
pub struct OneVersion<'a>(pub Schema<'a>);

impl Versions for OneVersion<'_> {
    fn schema(&self, _: &str) -> Option<Schema<'_>> {
        Some(self.0)
    }

    fn convert(&self, objects: &[&Value], _: &str) -> Result<Vec<Value>, Stop> {
        Ok(objects.iter().map(|o| (*o).clone()).collect())
    }
}

/// What a write changes, as seen in each version that a manager speaks.
struct Diffs<'a> {
    versions: &'a dyn Versions,
    old: &'a Value,
    new: &'a Value,
    /// By version; nothing for one that is no more.
    seen: BTreeMap<String, Option<Diff>>,
}

impl<'a> Diffs<'a> {
    /// Of two objects of version `api_version`.
    fn new(
        versions: &'a dyn Versions,
        old: &'a Value,
        new: &'a Value,
        api_version: &str,
    ) -> Result<Self, Stop> {
        let diff = fields::compare(Some(old), Some(new), schema_of(versions, api_version)?);
        let seen = BTreeMap::from([(api_version.to_owned(), Some(diff))]);
        Ok(Diffs { versions, old, new, seen })
    }

    /// Sees to it that the change is known in the versions of `managers`, and drops those whose version is no more. What
    /// changes nothing in one version changes nothing in another.
    fn cover(&mut self, managers: &mut Vec<Entry>) -> Result<(), Stop> {
        let nothing = self.seen.values().flatten().all(Diff::is_empty);
        for entry in managers.iter() {
            if self.seen.contains_key(&entry.api_version) {
                continue;
            }
            let diff = match self.versions.schema(&entry.api_version) {
                None => None,
                Some(_) if nothing => Some(Diff::default()),
                Some(schema) => {
                    let (old, new) = (bare(self.old), bare(self.new));
                    let both = self.versions.convert(&[&old, &new], &entry.api_version)?;
                    Some(fields::compare(both.first(), both.get(1), schema))
                }
            };
            self.seen.insert(entry.api_version.clone(), diff);
        }
        managers.retain(|e| self.seen.get(&e.api_version).is_some_and(Option::is_some));
        Ok(())
    }

    fn of(&self, entry: &Entry) -> &Diff {
        const NONE: &Diff = &Diff { changed: Set::NONE, removed: Set::NONE };
        self.seen.get(&entry.api_version).and_then(Option::as_ref).unwrap_or(NONE)
    }
}

fn schema_of<'a>(versions: &'a dyn Versions, api_version: &str) -> Result<Schema<'a>, Stop> {
    let unknown = || Status::bad_request(format!("there is no version \"{api_version}\" of this kind"));
    Ok(versions.schema(api_version).ok_or_else(unknown)?)
}

/// Without its managed fields, which do not take part in comparisons.
fn bare(obj: &Value) -> Value {
    let mut out = obj.clone();
    meta::of_mut(&mut out).shift_remove("managedFields");
    out
}

/// Refuses a configuration with fields that there are not, or with items that cannot be told apart: what nobody can own.
pub fn check(config: &Value, schema: Schema<'_>) -> Result<(), Status> {
    let Some(why) = fields::fault(config, schema, "") else { return Ok(()) };
    let (text, metadata) = (|v: &Value| v.as_str().unwrap_or_default().to_owned(), meta::of(config));
    Err(Status::bad_request(format!(
        "failed to create typed patch object ({}/{}; {}, Kind={}): {why}",
        text(&metadata["namespace"]),
        text(&metadata["name"]),
        text(&config["apiVersion"]),
        text(&config["kind"])
    )))
}

/// The manager by whose name kubectl applies, on either side.
const KUBECTL: &str = "kubectl";
/// Where kubectl keeps what it applied the last time that it did so itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How large all annotations of an object may be together.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// Applies a configuration to the live object (`None`: it is created) and returns the new object, with its managed fields.
/// All three are of the writer's version. Fields that others own and this configuration changes are conflicts (409) unless
/// `force`; for kubectl those are none that it has applied itself before. An apply that changes nothing returns the live
/// object.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    versions: &dyn Versions,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, Stop> {
    let mut new = applied(live, config, versions, writer, force)?;
    if writer.manager == KUBECTL && meta::annotation(&new, LAST_APPLIED).is_some_and(|v| !v.is_empty()) {
        keep_last_applied(&mut new, config);
    }
    Ok(new)
}

/// Says in the annotation that kubectl reads when it applies by itself what has been applied now. Nobody owns that.
fn keep_last_applied(object: &mut Value, config: &Value) {
    let mut stated = config.clone();
    if let Some(annotations) = meta::of_mut(&mut stated).get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.shift_remove(LAST_APPLIED);
    }
    let text = format!("{stated}\n");
    let annotations = meta::entry(meta::of_mut(object), "annotations");
    let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    let others: usize = annotations.iter().filter(|(key, _)| *key != LAST_APPLIED).map(size).sum();
    if others + LAST_APPLIED.len() + text.len() > MAX_ANNOTATIONS {
        annotations.shift_remove(LAST_APPLIED);
    } else {
        annotations.insert(LAST_APPLIED.to_owned(), Value::String(text));
    }
}

/// What kubectl applied by itself the last time, as far as that is still so: fields that were its own before anybody kept
/// count of owners.
fn last_applied(live: &Value, schema: Schema<'_>, api_version: &str) -> Option<Set> {
    let last: Value = serde_json::from_str(meta::annotation(live, LAST_APPLIED)?).ok()?;
    if last["apiVersion"] != api_version || fields::fault(&last, schema, "").is_some() {
        return None;
    }
    let diff = fields::compare(Some(&last), Some(live), schema);
    Some(fields::of(&last, schema).difference(&diff.changed).difference(&diff.removed))
}

fn applied(
    live: Option<&Value>,
    config: &Value,
    versions: &dyn Versions,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, Stop> {
    if !meta::of(config)["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil").into());
    }
    let schema = schema_of(versions, writer.api_version)?;
    check(config, schema)?;
    let mut wanted = fields::of(config, schema);
    strip(&mut wanted, writer);
    let Some(live) = live else {
        let mut new = config.clone();
        write_entries(&mut new, vec![Entry::new(writer, true, wanted)]);
        return Ok(new);
    };
    let mut managers = entries(live);
    let before = managers.clone();
    if managers.is_empty() {
        // What was there before anybody said whose it is belongs to nobody in particular.
        let mut all = fields::of(&bare(live), schema);
        let first = Writer { manager: "before-first-apply", subresource: "", ..writer };
        strip(&mut all, first);
        managers.push(Entry::new(first, false, all));
    }
    let old = bare(live);
    let mut stated = config.clone();
    // A resourceVersion in the configuration is a precondition, which the caller has checked.
    meta::of_mut(&mut stated).shift_remove("resourceVersion");
    let mut new = fields::merge(&old, &stated, schema);
    if let Some(last) = managers.iter().find(|e| e.is(writer, true)) {
        let mut owned = BTreeMap::from([(writer.api_version, wanted.clone())]);
        for entry in managers.iter().filter(|e| !e.is(writer, true)) {
            let all = owned.remove(entry.api_version.as_str()).unwrap_or_default();
            owned.insert(&entry.api_version, all.union(&entry.set));
        }
        new = take_away(new, last, &mut owned, versions, writer.api_version)?;
    }
    let mut diffs = Diffs::new(versions, &old, &new, writer.api_version)?;
    let mine = managers.iter().position(|e| e.is(writer, true)).map(|i| managers.remove(i));
    diffs.cover(&mut managers)?;
    let mut conflicts: Vec<(&Entry, Set)> = Vec::new();
    for entry in &managers {
        let both = entry.set.intersection(&diffs.of(entry).changed);
        if !both.is_empty() {
            conflicts.push((entry, both));
        }
    }
    if !force && !conflicts.is_empty() {
        if writer.manager == KUBECTL
            && let Some(own) = last_applied(&old, schema, writer.api_version)
        {
            conflicts.iter_mut().for_each(|(_, set)| *set = set.difference(&own));
            conflicts.retain(|(_, set)| !set.is_empty());
        }
        if !conflicts.is_empty() {
            return Err(conflict(&conflicts).into());
        }
    }
    for entry in &mut managers {
        let diff = diffs.of(entry);
        entry.set = entry.set.difference(&diff.changed).difference(&diff.removed);
    }
    managers.push(match mine {
        Some(entry) if entry.set == wanted && entry.api_version == writer.api_version => entry,
        _ => Entry::new(writer, true, wanted),
    });
    managers.retain(|e| !e.set.is_empty());
    let same = |a: &[Entry], b: &[Entry]| a.len() == b.len() && a.iter().all(|e| b.contains(e));
    let unchanged = diffs.seen.get(writer.api_version).and_then(Option::as_ref).is_some_and(Diff::is_empty);
    if unchanged && same(&managers, &before) {
        return Ok(live.clone());
    }
    write_entries(&mut new, managers);
    Ok(new)
}

/// `merged`, an object of version `own`, without what its manager stated the `last` time and is in none of the sets that
/// are `owned`, by version, now.
fn take_away(
    merged: Value,
    last: &Entry,
    owned: &mut BTreeMap<&str, Set>,
    versions: &dyn Versions,
    own: &str,
) -> Result<Value, Stop> {
    let here = owned.remove(last.api_version.as_str()).unwrap_or_default();
    let gone = last.set.difference(&here);
    // What is no version any more has no fields that could go.
    let Some(schema) = versions.schema(&last.api_version).filter(|_| !gone.is_empty()) else {
        return Ok(merged);
    };
    let seen = |value: &Value, from: &str, to: &str| {
        if from == to {
            return Ok(value.clone());
        }
        versions.convert(&[value], to).map(|mut one| one.pop().unwrap_or_default())
    };
    let mut rest = seen(&merged, own, &last.api_version)?;
    fields::remove(&mut rest, &gone, &here, schema);
    let mut at = last.api_version.as_str();
    // What somebody owns under the name that it has in another version stays.
    for (version, theirs) in owned.iter() {
        let Some(schema) = versions.schema(version).filter(|_| !theirs.is_empty()) else { continue };
        let mut whole = seen(&merged, own, version)?;
        let less = seen(&rest, at, version)?;
        let gone = fields::compare(Some(&whole), Some(&less), schema).removed;
        fields::remove(&mut whole, &gone, theirs, schema);
        (rest, at) = (whole, version);
    }
    seen(&rest, at, own)
}

fn conflict(conflicts: &[(&Entry, Set)]) -> Status {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    let mut only = String::new();
    for (entry, set) in conflicts {
        lines.push(format!("conflicts with {}:", entry.show()));
        for path in set.paths() {
            lines.push(format!("- {path}"));
            only = format!("conflict with {}: {path}", entry.show());
            causes.push(Cause {
                reason: "FieldManagerConflict".to_owned(),
                message: format!("conflict with {}", entry.show()),
                field: path,
            });
        }
    }
    let message = if causes.len() == 1 {
        format!("Apply failed with 1 conflict: {only}")
    } else {
        format!("Apply failed with {} conflicts: {}", causes.len(), lines.join("\n"))
    };
    let mut status = Status::failure(409, "Conflict", message);
    status.details = Some(Details { causes, ..Details::default() });
    status
}

/// Notes in `new`'s managed fields which fields a create, update or other patch has changed since `old`. Both are of the
/// writer's version.
///
/// What the client sent as managed fields counts if it sent any (an empty list gives them up); else the live object's.
pub fn track_update(
    old: Option<&Value>,
    new: &mut Value,
    versions: &dyn Versions,
    writer: Writer<'_>,
) -> Result<(), Stop> {
    // A subresource says nothing of them.
    let given = meta::of(new)["managedFields"].as_array().filter(|_| writer.subresource.is_empty());
    let mut managers = match (given, old) {
        (Some(list), _) if !list.is_empty() && check_managed(new).is_ok() => entries(new),
        // One empty entry, or an empty list, is how a client asks to start afresh.
        (Some(list), Some(_)) if list.iter().all(|e| *e == json!({})) && list.len() <= 1 => Vec::new(),
        (_, Some(old)) => entries(old),
        _ => Vec::new(),
    };
    // Of what nobody keeps count of, it is not begun before it is applied.
    if old.is_some() && managers.is_empty() {
        meta::of_mut(new).shift_remove("managedFields");
        return Ok(());
    }
    // Nothing is written before all is known. What managed fields say of themselves is stripped from the differences.
    let (mut changed, removed);
    match old {
        None => {
            let schema = schema_of(versions, writer.api_version)?;
            (changed, removed) = (fields::compare(None, Some(new), schema).changed, Set::default());
            strip(&mut changed, writer);
            // Whoever creates an object owns all of it.
            managers.retain(|e| e.is(writer, false));
        }
        Some(old) => {
            let mut diffs = Diffs::new(versions, old, new, writer.api_version)?;
            diffs.cover(&mut managers)?;
            let stripped = |diff: &Diff| {
                let (mut changed, mut removed) = (diff.changed.clone(), diff.removed.clone());
                strip(&mut changed, writer);
                strip(&mut removed, writer);
                (changed, removed)
            };
            for entry in managers.iter_mut().filter(|e| !e.is(writer, false)) {
                let (changed, removed) = stripped(diffs.of(entry));
                entry.set = entry.set.difference(&changed).difference(&removed);
            }
            (changed, removed) =
                diffs.seen.get(writer.api_version).and_then(Option::as_ref).map(stripped).unwrap_or_default();
        }
    }
    match managers.iter_mut().find(|e| e.is(writer, false)) {
        Some(entry) => {
            let set = entry.set.difference(&removed).union(&changed);
            if set != entry.set {
                *entry = Entry::new(writer, false, set);
            }
        }
        None if !changed.is_empty() => managers.push(Entry::new(writer, false, changed)),
        None => {}
    }
    managers.retain(|e| !e.set.is_empty());
    write_entries(new, capped(managers));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::managers::{ANCIENT, MAX_UPDATERS};
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    fn schema() -> Schema<'static> {
        kinds::by_gvr(&gvr::DEPLOYMENTS).unwrap().schema()
    }

    fn apply(
        live: Option<&Value>,
        config: &Value,
        schema: Schema<'_>,
        writer: Writer<'_>,
        force: bool,
    ) -> Result<Value, Status> {
        super::apply(live, config, &OneVersion(schema), writer, force).map_err(|stop| match stop {
            Stop::Refused(status) => *status,
            Stop::Convert { to, .. } => panic!("nothing is to be converted to {to}"),
        })
    }

    fn track_update(old: Option<&Value>, new: &mut Value, schema: Schema<'_>, writer: Writer<'_>) {
        super::track_update(old, new, &OneVersion(schema), writer).unwrap();
    }

    fn by(manager: &str) -> Writer<'_> {
        Writer {
            manager,
            now: "2024-01-01T00:00:00Z".parse().unwrap(),
            subresource: "",
            api_version: "apps/v1",
            has_status: true,
        }
    }

    fn custom(spec: &Value) -> crate::kinds::crd::Structural {
        let status = json!({"type": "object", "properties": {"phase": {"type": "string"}}});
        let raw = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": spec}, "status": status}});
        crate::kinds::crd::Structural::compile(&raw, &crate::Path::root()).unwrap()
    }

    #[test]
    fn keys_that_are_left_out_are_what_the_schema_gives_them() {
        let rules = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "mode"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"},
                "mode": {"type": "string", "default": "soft"}, "protocol": {"type": "string"}, "n": {"type": "integer"}}}});
        let structural = custom(&json!({"rules": rules}));
        let schema = Schema::Custom(&structural);
        let config = |rules: Value| json!({"metadata": {"name": "a"}, "spec": {"rules": rules}});
        let first = config(json!([{"name": "r", "n": 1}]));
        let mut live = apply(None, &first, schema, by("x"), false).unwrap();
        structural.fill_in(&mut live);
        let again = apply(Some(&live), &first, schema, by("x"), false).unwrap();
        assert_eq!(again, live, "applied twice it is the same");
        let other = config(json!([{"name": "r", "mode": "hard", "n": 2}]));
        let both = apply(Some(&live), &other, schema, by("y"), false).unwrap();
        assert_eq!(both["spec"]["rules"].as_array().unwrap().len(), 2);
        let twice = config(json!([{"name": "r"}, {"name": "r", "mode": "soft"}]));
        let error = apply(None, &twice, schema, by("x"), false).unwrap_err();
        assert!(
            error.message.contains("duplicate entries for key [mode=\"soft\",name=\"r\"]"),
            "{}",
            error.message
        );
        let mut unnamed = super::tests::config(None, "i");
        unnamed["spec"]["template"]["spec"]["containers"] = json!([{"image": "i"}]);
        let error = apply(None, &unnamed, super::tests::schema(), by("x"), false).unwrap_err();
        assert!(
            error.message.ends_with(
                ".spec.template.spec.containers: element 0: associative list with keys has an element that omits all key \
                 fields [\"name\"] (and doesn't have default values for any key fields)"
            ),
            "{}",
            error.message
        );
    }

    #[test]
    fn a_status_without_a_subresource_is_owned() {
        let structural = custom(&json!({}));
        let schema = Schema::Custom(&structural);
        let config = json!({"metadata": {"name": "a"}, "status": {"phase": "p"}});
        for (has_status, want) in [(true, None), (false, Some(&json!({"f:phase": {}})))] {
            let live = apply(None, &config, schema, Writer { has_status, ..by("x") }, false).unwrap();
            let set = entries(&live).first().map(|e| e.set.to_value()).unwrap_or_default();
            assert_eq!(set.get("f:status"), want);
        }
    }

    fn config(replicas: Option<i64>, image: &str) -> Value {
        let mut v = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]}}}});
        if let Some(n) = replicas {
            v["spec"]["replicas"] = json!(n);
        }
        v
    }

    #[test]
    fn fields_that_there_are_not_are_refused() {
        let mut unknown = config(None, "a");
        unknown["spec"]["template"]["spec"]["containers"][0]["imag"] = json!("b");
        unknown["metadata"]["labels"]["anything"] = json!("c");
        let error = apply(None, &unknown, schema(), by("a"), false).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (
                400,
                "failed to create typed patch object (/d; apps/v1, Kind=Deployment): \
                 .spec.template.spec.containers[name=\"c\"].imag: field not declared in schema"
            )
        );
    }

    #[test]
    fn items_of_one_key_are_refused() {
        let mut twice = config(None, "a");
        let container = twice["spec"]["template"]["spec"]["containers"][0].clone();
        twice["spec"]["template"]["spec"]["containers"] = json!([container.clone(), container]);
        for live in [None, Some(&config(None, "a"))] {
            let error = apply(live, &twice, schema(), by("a"), true).unwrap_err();
            assert_eq!(
                (error.code, error.message.as_str()),
                (
                    400,
                    "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: \
                     duplicate entries for key [name=\"c\"]"
                )
            );
        }
        let mut set = config(None, "a");
        set["metadata"]["finalizers"] = json!(["x/y", "x/y"]);
        let error = apply(None, &set, schema(), by("a"), false).unwrap_err();
        assert!(error.message.ends_with(".metadata.finalizers: duplicate entries for key [=\"x/y\"]"));
    }

    #[test]
    fn fields_have_upstream_s_form() {
        let live = apply(None, &config(Some(1), "i"), schema(), by("x"), false).unwrap();
        let entry = &live["metadata"]["managedFields"][0];
        assert_eq!((&entry["operation"], &entry["time"]), (&json!("Apply"), &json!("2024-01-01T00:00:00Z")));
        assert_eq!(
            entry["fieldsV1"],
            json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers":
                {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}})
        );
    }

    /// What is atomic is owned as a whole, so that what another states beside it is a conflict; what is not is owned field by field.
    #[test]
    fn objects_are_owned_as_their_types_say() {
        let at = |pointer: &str, inner: Value| {
            pointer.rsplit('/').filter(|p| !p.is_empty()).fold(inner, |inner, name| json!({name: inner}))
        };
        for (kind, pointer, one, two, whole) in [
            (
                "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy",
                "/spec/paramKind",
                "apiVersion",
                "kind",
                true,
            ),
            (
                "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicyBinding",
                "/spec/paramRef",
                "name",
                "namespace",
                true,
            ),
            (
                "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy",
                "/spec/matchConstraints",
                "matchPolicy",
                "objectSelector",
                true,
            ),
            (
                "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy",
                "/spec/paramKind",
                "apiVersion",
                "kind",
                true,
            ),
            ("autoscaling/v1/HorizontalPodAutoscaler", "/spec/scaleTargetRef", "kind", "name", true),
            ("autoscaling/v2/HorizontalPodAutoscaler", "/spec/scaleTargetRef", "kind", "name", false),
            ("/v1/PersistentVolume", "/spec/claimRef", "name", "namespace", false),
            ("/v1/Event", "/involvedObject", "name", "namespace", true),
            ("/v1/PersistentVolume", "/spec/csi/nodeStageSecretRef", "name", "namespace", true),
            ("/v1/Service", "/spec/selector", "a", "b", true),
            ("rbac.authorization.k8s.io/v1/RoleBinding", "/roleRef", "kind", "name", true),
            ("/v1/PersistentVolumeClaim", "/status/allocatedResourceStatuses", "a", "b", false),
        ] {
            let gvk: Vec<&str> = kind.split('/').collect();
            let [group, version, name] = gvk[..] else { panic!("{kind}") };
            let schema = crate::schema::TypeId::of_gvk(group, version, name).unwrap().schema();
            let config = |field: &str| {
                let mut config = at(
                    pointer,
                    json!({field: if field == "objectSelector" { json!({}) } else { json!("x") }}),
                );
                config["metadata"] = json!({"name": "n"});
                config
            };
            let live = apply(None, &config(one), schema, by("x"), false).unwrap();
            let both = apply(Some(&live), &config(two), schema, by("y"), false);
            match both {
                Err(status) => {
                    assert!(whole, "{kind}: {status:?}");
                    let place = pointer.replace('/', ".");
                    assert!(
                        status.message.ends_with(&format!("conflict with \"x\": {place}")),
                        "{}",
                        status.message
                    );
                }
                Ok(both) => {
                    assert!(!whole, "{kind}: {both}");
                    assert!(
                        both.pointer(&format!("{pointer}/{one}")).is_some()
                            && both.pointer(&format!("{pointer}/{two}")).is_some()
                    );
                }
            }
        }
    }

    #[test]
    fn another_s_field_is_a_conflict_unless_forced() {
        let live = apply(None, &config(Some(1), "i"), schema(), by("x"), false).unwrap();
        let same = apply(Some(&live), &config(Some(1), "i"), schema(), by("x"), false).unwrap();
        assert_eq!(same, live);
        let error = apply(Some(&live), &config(Some(2), "i"), schema(), by("y"), false).unwrap_err();
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"x\": .spec.replicas");
        assert_eq!(error.details.unwrap().causes[0].reason, "FieldManagerConflict");
        let forced = apply(Some(&live), &config(Some(2), "i"), schema(), by("y"), true).unwrap();
        assert_eq!(forced["spec"]["replicas"], 2);
        // x no longer owns the replicas: leaving them out does not remove them, and y's stay.
        let after = apply(Some(&forced), &config(None, "i"), schema(), by("x"), false).unwrap();
        assert_eq!(after["spec"]["replicas"], 2);
    }

    #[test]
    fn kubectl_goes_on_with_what_it_applied_itself() {
        let annotated = |replicas, image: &str, last: &Value| {
            let mut object = config(Some(replicas), image);
            object["metadata"]["annotations"] = json!({LAST_APPLIED: last.to_string()});
            object
        };
        let mut live = annotated(3, "i", &config(Some(3), "i"));
        track_update(None, &mut live, schema(), by("kubectl-client-side-apply"));
        let next = config(Some(5), "j");
        for manager in ["someone", "kubectl"] {
            let result = apply(Some(&live), &next, schema(), by(manager), false);
            assert_eq!(result.is_ok(), manager == "kubectl", "{result:?}");
        }
        let new = apply(Some(&live), &next, schema(), by("kubectl"), false).unwrap();
        assert_eq!(new["spec"]["replicas"], 5);
        let kept = meta::annotation(&new, LAST_APPLIED).unwrap();
        assert_eq!(serde_json::from_str::<Value>(kept).unwrap(), next, "the other side knows, too");
        let owned = entries(&new).into_iter().find(|e| e.apply).unwrap();
        assert!(!owned.set.paths().iter().any(|p| p.contains("last-applied")), "{:?}", owned.set.paths());
        // What has been changed since is somebody else's.
        let mut live = annotated(9, "i", &config(Some(3), "i"));
        track_update(None, &mut live, schema(), by("kubectl-client-side-apply"));
        let error = apply(Some(&live), &next, schema(), by("kubectl"), false).unwrap_err();
        assert_eq!(
            error.message,
            "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1 at 2024-01-01T00:00:00Z: .spec.replicas"
        );
        // Without the annotation there is nothing to keep.
        let plain = apply(None, &config(Some(1), "i"), schema(), by("kubectl"), false).unwrap();
        assert_eq!(meta::annotation(&plain, LAST_APPLIED), None);
        let mut large = config(Some(1), "i");
        large["metadata"]["annotations"] =
            json!({LAST_APPLIED: "{}", "x": "y".repeat(MAX_ANNOTATIONS - 200)});
        let kept = apply(None, &large, schema(), by("kubectl"), false).unwrap();
        assert_eq!(meta::annotation(&kept, LAST_APPLIED), None, "it would be too large");
    }

    #[test]
    fn what_is_no_longer_stated_goes() {
        let live = apply(None, &config(Some(1), "i"), schema(), by("x"), false).unwrap();
        let mut less = config(None, "j");
        less["metadata"].as_object_mut().unwrap().remove("labels");
        less["spec"]["template"]["spec"]["containers"] = json!([{"name": "e", "image": "k"}]);
        let new = apply(Some(&live), &less, schema(), by("x"), false).unwrap();
        assert!(new["spec"].get("replicas").is_none());
        assert!(new["metadata"].get("labels").is_none());
        assert_eq!(new["spec"]["template"]["spec"]["containers"], json!([{"name": "e", "image": "k"}]));
    }

    #[test]
    fn updates_take_ownership() {
        let live = apply(None, &config(Some(1), "i"), schema(), by("x"), false).unwrap();
        let mut new = live.clone();
        new["spec"]["replicas"] = json!(5);
        track_update(Some(&live), &mut new, schema(), by("kubectl-edit"));
        let managers = entries(&new);
        assert_eq!(managers.len(), 2);
        assert_eq!(managers[1].set.paths(), [".spec.replicas"]);
        assert!(!managers[0].set.paths().contains(&".spec.replicas".to_owned()));
        let error = apply(Some(&new), &config(Some(1), "i"), schema(), by("x"), false).unwrap_err();
        assert!(
            error.message.contains(
                "conflict with \"kubectl-edit\" using apps/v1 at 2024-01-01T00:00:00Z: .spec.replicas"
            ),
            "{}",
            error.message
        );
        let mut status = new.clone();
        status["status"] = json!({"replicas": 1});
        track_update(Some(&new), &mut status, schema(), Writer { subresource: "status", ..by("controller") });
        let entry = entries(&status).into_iter().find(|e| e.subresource == "status").unwrap();
        assert_eq!(entry.set.paths(), [".status.replicas"]);
        let mut untouched = status.clone();
        track_update(Some(&status), &mut untouched, schema(), by("nobody"));
        assert_eq!(untouched, status);
    }

    #[test]
    fn old_updaters_are_joined() {
        let mut object = config(Some(1), "i");
        track_update(None, &mut object, schema(), by("maker"));
        for i in 0..30 {
            let old = object.clone();
            object["metadata"]["labels"][format!("l{i}")] = json!("v");
            let (manager, now) = (format!("m{i}"), format!("2024-01-01T00:01:{i:02}Z"));
            track_update(
                Some(&old),
                &mut object,
                schema(),
                Writer { now: now.parse().unwrap(), ..by(&manager) },
            );
        }
        let managers = entries(&object);
        assert_eq!(managers.len(), MAX_UPDATERS);
        let ancient = managers.iter().find(|e| e.manager == ANCIENT).unwrap();
        let paths = ancient.set.paths();
        assert!(
            paths.contains(&".spec.replicas".to_owned())
                && paths.contains(&".metadata.labels.l20".to_owned())
        );
        assert!(!paths.contains(&".metadata.labels.l21".to_owned()), "{paths:?}");
        assert_eq!(ancient.time, "2024-01-01T00:01:20Z");
    }

    proptest::proptest! {
        #[test]
        fn applying_gives_what_is_stated(a in 0i64..5, b in 0i64..5, i in "[a-c]", j in "[a-c]") {
            let live = apply(None, &config(Some(a), &i), schema(), by("x"), false).unwrap();
            let new = apply(Some(&live), &config(Some(b), &j), schema(), by("x"), false).unwrap();
            proptest::prop_assert_eq!(bare(&new), config(Some(b), &j));
            let forced = apply(Some(&new), &config(Some(a), &i), schema(), by("y"), true).unwrap();
            proptest::prop_assert_eq!(bare(&forced), config(Some(a), &i));
        }

        #[test]
        fn sets_round_trip(paths in proptest::collection::vec("[a-c]", 0..6)) {
            let object: Value = paths.iter().fold(json!({}), |inner, p| json!({p.as_str(): inner, "x": 1}));
            let set = fields::of(&object, Schema::Any);
            proptest::prop_assert_eq!(Set::from_value(&set.to_value()), Set { member: false, ..set.clone() });
            proptest::prop_assert!(set.difference(&set).is_empty());
            proptest::prop_assert_eq!(set.intersection(&set), set.clone());
            proptest::prop_assert_eq!(set.clone().union(&set), set);
        }
    }
}
