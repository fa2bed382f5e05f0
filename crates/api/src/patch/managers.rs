//! Who owns what: the entries of `metadata.managedFields`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::Set;
use crate::meta;

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
    /// Whether the status is written through a subresource of its own, so that no other write owns any of it.
    pub has_status: bool,
}

/// One entry of `metadata.managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) apply: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: String,
    pub(super) set: Set,
}

impl Entry {
    pub(super) fn new(writer: Writer<'_>, apply: bool, set: Set) -> Entry {
        Entry {
            manager: writer.manager.to_owned(),
            apply,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: meta::time(writer.now),
            set,
        }
    }

    pub(super) fn is(&self, writer: Writer<'_>, apply: bool) -> bool {
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
    pub(super) fn show(&self) -> String {
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

pub(super) fn entries(obj: &Value) -> Vec<Entry> {
    meta::of(obj)["managedFields"].as_array().into_iter().flatten().map(Entry::parse).collect()
}

pub(super) fn write_entries(obj: &mut Value, mut entries: Vec<Entry>) {
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
pub(super) fn strip(set: &mut Set, writer: Writer<'_>) {
    set.member = false;
    for field in ["f:apiVersion", "f:kind"] {
        set.children.remove(field);
    }
    match writer.subresource {
        "" if writer.has_status => {
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

/// Says what in an object's managed fields no server can have written.
pub fn check_managed(obj: &Value) -> Result<(), String> {
    for (i, entry) in meta::of(obj)["managedFields"].as_array().into_iter().flatten().enumerate() {
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        if !matches!(text("operation"), "Apply" | "Update") {
            return Err("operation must be `Apply` or `Update`".to_owned());
        }
        if text("apiVersion").is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
            other => {
                return Err(format!(
                    "invalid fieldsType {} in managed fields entry {i}",
                    crate::field::quote(other)
                ));
            }
        }
        if !entry["fieldsV1"].is_object() && !entry["fieldsV1"].is_null() {
            return Err(format!("error decoding managed fields entry {i}: fieldsV1 is no object"));
        }
    }
    Ok(())
}

/// How many entries those who update have at most, as upstream.
pub(super) const MAX_UPDATERS: usize = 10;
/// Who has what those changed who updated longest ago, where there are more.
pub(super) const ANCIENT: &str = "ancient-changes";

/// Joins the oldest updaters of each version, so that names of programs that come and go do not gather for ever.
pub(super) fn capped(managers: Vec<Entry>) -> Vec<Entry> {
    let mut count = managers.iter().filter(|e| !e.apply).count();
    if count <= MAX_UPDATERS {
        return managers;
    }
    let (mut updaters, mut out): (Vec<Entry>, Vec<Entry>) = managers.into_iter().partition(|e| !e.apply);
    let age = |e: &Entry| (e.manager != ANCIENT, e.time.clone(), e.manager.clone());
    updaters.sort_by_key(age);
    let mut oldest: BTreeMap<String, usize> = BTreeMap::new();
    for entry in updaters {
        let place = oldest.get(&entry.api_version).filter(|_| count > MAX_UPDATERS);
        match place.and_then(|at| out.get_mut(*at)) {
            Some(joined) => {
                joined.manager = ANCIENT.to_owned();
                joined.subresource = String::new();
                joined.set = joined.set.clone().union(&entry.set);
                joined.time = entry.time;
                count -= 1;
            }
            None => {
                oldest.entry(entry.api_version.clone()).or_insert(out.len());
                out.push(entry);
            }
        }
    }
    out
}
