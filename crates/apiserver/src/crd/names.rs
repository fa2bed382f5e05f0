//! The names of definitions: each kind of a group has its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::Value;
use api::meta::text;
use serde_json::json;

use super::words;

/// What a definition has been given, and whether it waits for more.
#[derive(Debug, Default, PartialEq, Eq)]
struct Given {
    resources: Vec<String>,
    kinds: Vec<String>,
    waits: bool,
}

impl Given {
    fn of(crd: &Value) -> Self {
        let names = crd.pointer("/status/acceptedNames").unwrap_or(&Value::Null);
        let several = |fields: [&str; 2]| fields.map(|f| text(names, f).to_owned()).to_vec();
        let mut resources = several(["/plural", "/singular"]);
        resources.extend(words(names, "/shortNames"));
        let waits = super::status::condition(crd, "NamesAccepted").is_some_and(|c| c["status"] == "False");
        Self { resources, kinds: several(["/kind", "/listKind"]), waits }
    }
}

/// The names that definitions have been given, by their groups.
#[derive(Debug, Default)]
pub(super) struct Names {
    groups: HashMap<String, BTreeMap<Arc<str>, Given>>,
}

impl Names {
    /// Notes what a definition has been given. Returns who waited for a name in its group, if it has other ones now.
    pub(super) fn note(&mut self, name: &Arc<str>, crd: &Value) -> Vec<Arc<str>> {
        let group = self.groups.entry(text(crd, "/spec/group").to_owned()).or_default();
        let given = Given::of(crd);
        match group.insert(name.clone(), given) {
            Some(before) if group.get(name) == Some(&before) => Vec::new(),
            None => Vec::new(),
            Some(_) => Self::waiting(group, name),
        }
    }

    /// Forgets a definition that is gone. Returns who waited for a name in its group.
    pub(super) fn forget(&mut self, name: &str) -> Vec<Arc<str>> {
        // A definition's name ends in its group.
        let Some((_, of)) = name.split_once('.') else { return Vec::new() };
        let Some(group) = self.groups.get_mut(of) else { return Vec::new() };
        group.remove(name);
        let waiting = Self::waiting(group, name);
        if group.is_empty() {
            self.groups.remove(of);
        }
        waiting
    }

    fn waiting(group: &BTreeMap<Arc<str>, Given>, but: &str) -> Vec<Arc<str>> {
        let waiting = group.iter().filter(|(name, given)| given.waits && &***name != but);
        waiting.map(|(name, _)| name.clone()).collect()
    }

    /// The definitions that are known.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<str>> {
        self.groups.values().flat_map(BTreeMap::keys)
    }

    /// The names in a definition's group that others have: of resources, and of kinds.
    fn taken(&self, crd: &Value) -> (HashSet<&str>, HashSet<&str>) {
        let (group, own) = (text(crd, "/spec/group"), api::meta::name(crd));
        let (mut resources, mut kinds) = (HashSet::new(), HashSet::new());
        for k in api::kinds::all().iter().filter(|k| k.group == group) {
            resources.extend([k.plural.as_str(), &k.singular]);
            resources.extend(k.short_names.iter().map(String::as_str));
            kinds.extend([k.kind.as_str(), &k.list_kind]);
        }
        for (_, given) in self.groups.get(group).into_iter().flatten().filter(|(name, _)| &***name != own) {
            resources.extend(given.resources.iter().map(String::as_str));
            kinds.extend(given.kinds.iter().map(String::as_str));
        }
        resources.remove("");
        kinds.remove("");
        (resources, kinds)
    }
}

/// The names of a definition that can be had, and why the others cannot: another kind of the group has them. What it has
/// been given it keeps.
pub(super) fn accept(crd: &Value, others: &Names) -> (Value, Option<(&'static str, String)>) {
    let (resources, kinds) = others.taken(crd);
    let wanted = crd.pointer("/spec/names").cloned().unwrap_or(Value::Null);
    let before = crd.pointer("/status/acceptedNames").cloned().unwrap_or(Value::Null);
    let mut accepted = wanted.clone();
    let mut conflict = None;
    for (field, reason, used) in [
        ("plural", "PluralConflict", &resources),
        ("singular", "SingularConflict", &resources),
        ("shortNames", "ShortNamesConflict", &resources),
        ("kind", "KindConflict", &kinds),
        ("listKind", "ListKindConflict", &kinds),
    ] {
        let named = |v: &Value| match &v[field] {
            Value::String(one) => vec![one.clone()],
            list => {
                list.as_array().into_iter().flatten().filter_map(|n| n.as_str().map(str::to_owned)).collect()
            }
        };
        let own = named(&before);
        let Some(name) = named(&wanted).into_iter().find(|n| used.contains(n.as_str()) && !own.contains(n))
        else {
            continue;
        };
        conflict = Some((reason, format!("\"{name}\" is already in use")));
        match before.get(field) {
            Some(kept) => accepted[field] = kept.clone(),
            // These two are never missing.
            None if matches!(field, "plural" | "kind") => accepted[field] = json!(""),
            None => {
                if let Some(map) = accepted.as_object_mut() {
                    map.shift_remove(field);
                }
            }
        }
    }
    (accepted, conflict)
}
