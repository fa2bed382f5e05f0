//! Server-side apply and managed fields.
//!
//! Every writer owns the fields that it has set. An apply states all the fields that its manager wants to own: what it states is laid
//! over the live object, what it stated the last time and no longer does goes unless somebody else owns it, and stating
//! another value for a field that somebody else owns is a conflict unless forced.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{self, Set};
use crate::schema::Schema;
use crate::status::{Cause, Details};
use crate::{Status, meta};

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, or what is derived from the user agent.
    pub manager: &'a str,
    /// The time of the request.
    pub now: Timestamp,
    /// `""` or the subresource written through.
    pub subresource: &'a str,
    /// The version of the request, e.g. `apps/v1`.
    pub api_version: &'a str,
}

/// One entry of `metadata.managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    apply: bool,
    api_version: String,
    subresource: String,
    time: String,
    set: Set,
}

impl Entry {
    fn new(writer: Writer<'_>, apply: bool, set: Set) -> Entry {
        Entry {
            manager: writer.manager.to_owned(),
            apply,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: meta::time(writer.now),
            set,
        }
    }

    fn is(&self, writer: Writer<'_>, apply: bool) -> bool {
        self.apply == apply
            && self.manager == writer.manager
            && self.subresource == writer.subresource
            // An updater that changes versions gets an entry for each, as the fields may not be called the same.
            && (apply || self.api_version == writer.api_version)
    }

    fn parse(value: &Value) -> Entry {
        let text = |f: &str| value[f].as_str().unwrap_or_default().to_owned();
        Entry {
            manager: text("manager"),
            apply: value["operation"] == "Apply",
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            set: Set::from_value(&value["fieldsV1"]),
        }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({
            "manager": self.manager,
            "operation": if self.apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.to_value(),
        });
        if !self.subresource.is_empty() {
            value["subresource"] = json!(self.subresource);
        }
        value
    }

    /// How messages name it.
    fn show(&self) -> String {
        let mut out = format!("\"{}\"", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource \"{}\"", self.subresource));
        }
        if !self.apply {
            out.push_str(&format!(" using {}", self.api_version));
            if !self.time.is_empty() {
                out.push_str(&format!(" at {}", self.time));
            }
        }
        out
    }
}

fn entries(obj: &Value) -> Vec<Entry> {
    meta::of(obj)["managedFields"].as_array().into_iter().flatten().map(Entry::parse).collect()
}

fn write_entries(obj: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.set.is_empty());
    entries.sort_by(|a, b| (!a.apply, &a.time, &a.manager).cmp(&(!b.apply, &b.time, &b.manager)));
    let metadata = meta::of_mut(obj);
    if entries.is_empty() {
        metadata.shift_remove("managedFields");
    } else {
        let list: Vec<Value> = entries.iter().map(Entry::to_value).collect();
        metadata.insert("managedFields".to_owned(), Value::Array(list));
    }
}

/// Takes out what nobody owns: names, what the server sets, and the half of the object that is not written here.
fn strip(set: &mut Set, subresource: &str) {
    set.member = false;
    for field in ["f:apiVersion", "f:kind"] {
        set.children.remove(field);
    }
    match subresource {
        "" => {
            set.children.remove("f:status");
        }
        "status" => set.children.retain(|k, _| k == "f:status" || k == "f:metadata"),
        _ => {}
    }
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        for field in [
            "name",
            "namespace",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "uid",
            "generation",
            "managedFields",
            "resourceVersion",
        ] {
            metadata.children.remove(&format!("f:{field}"));
        }
        if metadata.children.is_empty() {
            set.children.remove("f:metadata");
        }
    }
}

/// Without its managed fields, which do not take part in comparisons.
fn bare(obj: &Value) -> Value {
    let mut out = obj.clone();
    meta::of_mut(&mut out).shift_remove("managedFields");
    out
}

/// Applies a configuration to the live object (`None`: it is created) and returns the new object, with its managed fields.
/// Fields that others own and this configuration changes are conflicts (409) unless `force`. An apply that changes nothing
/// returns the live object.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    schema: Schema<'_>,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    if !meta::of(config)["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    if let Some((path, key)) = fields::duplicate(config, schema, "") {
        let (text, metadata) = (|v: &Value| v.as_str().unwrap_or_default().to_owned(), meta::of(config));
        return Err(Status::bad_request(format!(
            "failed to create typed patch object ({}/{}; {}, Kind={}): {path}: duplicate entries for key {key}",
            text(&metadata["namespace"]),
            text(&metadata["name"]),
            text(&config["apiVersion"]),
            text(&config["kind"])
        )));
    }
    let mut wanted = fields::of(config, schema);
    strip(&mut wanted, writer.subresource);
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
        strip(&mut all, "");
        let first = Writer { manager: "before-first-apply", subresource: "", ..writer };
        managers.push(Entry::new(first, false, all));
    }
    let old = bare(live);
    let mut stated = config.clone();
    // A resourceVersion in the configuration is a precondition, which the caller has checked.
    meta::of_mut(&mut stated).shift_remove("resourceVersion");
    let mut new = fields::merge(&old, &stated, schema);
    let last = managers.iter().find(|e| e.is(writer, true)).map(|e| e.set.clone()).unwrap_or_default();
    let others = managers.iter().filter(|e| !e.is(writer, true)).fold(Set::default(), |s, e| s.union(&e.set));
    let owned = others.union(&wanted);
    let gone = last.difference(&owned);
    fields::remove(&mut new, &gone, &owned, schema);

    let diff = fields::compare(Some(&old), Some(&new), schema);
    let mut conflicts: Vec<(&Entry, Set)> = Vec::new();
    for entry in managers.iter().filter(|e| !e.is(writer, true)) {
        let both = entry.set.intersection(&diff.changed);
        if !both.is_empty() {
            conflicts.push((entry, both));
        }
    }
    if !force && !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    for entry in managers.iter_mut().filter(|e| !e.is(writer, true)) {
        entry.set = entry.set.difference(&diff.changed).difference(&diff.removed);
    }
    match managers.iter_mut().find(|e| e.is(writer, true)) {
        Some(entry) if entry.set == wanted && entry.api_version == writer.api_version => {}
        Some(entry) => *entry = Entry::new(writer, true, wanted),
        None => managers.push(Entry::new(writer, true, wanted)),
    }
    managers.retain(|e| !e.set.is_empty());
    if diff.changed.is_empty() && diff.removed.is_empty() && managers == before {
        return Ok(live.clone());
    }
    write_entries(&mut new, managers);
    Ok(new)
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

/// Notes in `new`'s managed fields which fields a create, update or other patch has changed since `old`.
///
/// What the client sent as managed fields counts if it sent any (an empty list gives them up); else the live object's.
pub fn track_update(old: Option<&Value>, new: &mut Value, schema: Schema<'_>, writer: Writer<'_>) {
    let given = meta::of(new)["managedFields"].as_array();
    let mut managers = match (given, old) {
        (Some(list), _) if !list.is_empty() && list.iter().all(|e| e["manager"].is_string()) => entries(new),
        // One empty entry, or an empty list, is how a client asks to start afresh.
        (Some(_), Some(_)) => Vec::new(),
        (_, Some(old)) => entries(old),
        _ => Vec::new(),
    };
    meta::of_mut(new).shift_remove("managedFields");
    let old = old.map(bare);
    let diff = fields::compare(old.as_ref(), Some(new), schema);
    let mut changed = diff.changed;
    strip(&mut changed, writer.subresource);
    let mut removed = diff.removed;
    strip(&mut removed, writer.subresource);
    for entry in managers.iter_mut().filter(|e| !e.is(writer, false)) {
        entry.set = entry.set.difference(&changed).difference(&removed);
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
    write_entries(new, managers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    fn schema() -> Schema<'static> {
        kinds::by_gvr(&gvr::DEPLOYMENTS).unwrap().schema()
    }

    fn by(manager: &str) -> Writer<'_> {
        Writer {
            manager,
            now: "2024-01-01T00:00:00Z".parse().unwrap(),
            subresource: "",
            api_version: "apps/v1",
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
