//! Sets of fields: what a manager owns, and what differs between two objects.
//!
//! An element of a path is kept in the text form that `fieldsV1` uses: `f:NAME` a field, `k:{..}` the item of a list with these keys,
//! `v:VALUE` an item of a set.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::Map;
use crate::schema::{Base, ListType, Schema, Shape};

/// A set of fields, as a tree. The root is the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Is this path itself in the set?
    pub member: bool,
    /// What is below.
    pub children: BTreeMap<String, Set>,
}

impl Set {
    /// Nothing.
    pub const NONE: Set = Set { member: false, children: BTreeMap::new() };

    /// Only this path.
    pub fn leaf() -> Set {
        Set { member: true, children: BTreeMap::new() }
    }

    /// Is nothing in it?
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    fn put(&mut self, element: String, child: Set) {
        if !child.is_empty() {
            self.children.insert(element, child);
        }
    }

    /// What is in either.
    pub fn union(mut self, other: &Set) -> Set {
        self.member |= other.member;
        for (element, theirs) in &other.children {
            let ours = self.children.remove(element).unwrap_or_default();
            self.children.insert(element.clone(), ours.union(theirs));
        }
        self
    }

    /// What is in `self` and not in `other`.
    pub fn difference(&self, other: &Set) -> Set {
        let mut out = Set { member: self.member && !other.member, children: BTreeMap::new() };
        for (element, ours) in &self.children {
            let rest = match other.children.get(element) {
                Some(theirs) => ours.difference(theirs),
                None => ours.clone(),
            };
            out.put(element.clone(), rest);
        }
        out
    }

    /// What is in both.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Set { member: self.member && other.member, children: BTreeMap::new() };
        for (element, ours) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                out.put(element.clone(), ours.intersection(theirs));
            }
        }
        out
    }

    /// The `fieldsV1` form.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            map.insert(element.clone(), child.to_value());
        }
        Value::Object(map)
    }

    /// Of the `fieldsV1` form.
    pub fn from_value(value: &Value) -> Set {
        let mut set = Set::root_of(value);
        // The object itself is never owned.
        set.member = false;
        set
    }

    fn root_of(value: &Value) -> Set {
        let Some(map) = value.as_object() else { return Set::leaf() };
        if map.is_empty() {
            return Set::leaf();
        }
        let mut set = Set::default();
        for (element, child) in map {
            if element == "." {
                set.member = true;
            } else {
                set.children.insert(element.clone(), Set::root_of(child));
            }
        }
        set
    }

    /// The paths in it, in the form that messages have: `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.push_paths(String::new(), &mut out);
        out
    }

    fn push_paths(&self, prefix: String, out: &mut Vec<String>) {
        if self.member {
            out.push(prefix.clone());
        }
        for (element, child) in &self.children {
            child.push_paths(format!("{prefix}{}", show(element)), out);
        }
    }
}

fn show(element: &str) -> String {
    if let Some(name) = element.strip_prefix("f:") {
        return format!(".{name}");
    }
    if let Some(value) = element.strip_prefix("v:") {
        return format!("[={value}]");
    }
    if let Some(Ok(Value::Object(keys))) = element.strip_prefix("k:").map(serde_json::from_str) {
        let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
        return format!("[{}]", keys.join(","));
    }
    format!("[{}]", element.trim_start_matches("i:"))
}

/// How a value takes part in ownership.
pub enum Grain<'a> {
    /// As a whole.
    Leaf,
    /// Field by field; `named` are the fields of a struct, the others the entries of a map.
    Fields { named: bool },
    /// Item by item, by these keys of theirs.
    Items(Vec<&'a str>, Schema<'a>),
    /// Value by value.
    Values,
}

/// How a value of this schema takes part in ownership. `sample` decides where the schema does not.
pub fn grain<'a>(schema: Schema<'a>, sample: &Value) -> Grain<'a> {
    match schema.shape() {
        Shape::Any if matches!(schema, Schema::Builtin(..)) => Grain::Leaf,
        // Without a schema objects are granular and lists atomic.
        Shape::Any if sample.is_object() => Grain::Fields { named: false },
        Shape::Any | Shape::Scalar(_) => Grain::Leaf,
        Shape::Struct | Shape::Map(_) if schema.is_atomic_map() || !sample.is_object() => Grain::Leaf,
        Shape::Struct => Grain::Fields { named: true },
        Shape::Map(_) => Grain::Fields { named: false },
        Shape::List(_) if !sample.is_array() => Grain::Leaf,
        Shape::List(_) => match schema.list_type() {
            ListType::Atomic => Grain::Leaf,
            ListType::Set => Grain::Values,
            ListType::Map => Grain::Items(schema.list_keys(), schema.items()),
        },
    }
}

/// What an item of a list is known by. A key that is left out is what the schema gives it; without that it is no part of it.
fn keys_of(item: &Value, keys: &[&str], items: Schema<'_>) -> Map {
    let mut sorted: Vec<&str> = keys.to_vec();
    sorted.sort_unstable();
    let value = |key: &str| match item.get(key) {
        Some(v) if !v.is_null() => Some(v.clone()),
        _ => items.field(key).and_then(Schema::key_default),
    };
    sorted.into_iter().filter_map(|key| Some((key.to_owned(), value(key)?))).collect()
}

/// The path element of a list's item.
pub fn element(item: &Value, grain: &Grain<'_>) -> String {
    match grain {
        Grain::Items(keys, items) => format!("k:{}", Value::Object(keys_of(item, keys, *items))),
        _ => format!("v:{item}"),
    }
}

fn field(name: &str) -> String {
    format!("f:{name}")
}

fn given(value: &Value) -> Option<&Value> {
    if value.is_null() { None } else { Some(value) }
}

/// The fields that a configuration speaks of.
pub fn of(value: &Value, schema: Schema<'_>) -> Set {
    let grain = grain(schema, value);
    match (&grain, value) {
        (Grain::Fields { named }, Value::Object(map)) => {
            let mut out = Set::default();
            for (name, v) in map {
                let mut child = of(v, schema.field(name).unwrap_or(Schema::Any));
                child.member |= !named || v.is_null() || v.as_object().is_some_and(Map::is_empty);
                out.put(field(name), child);
            }
            out
        }
        (Grain::Items(..) | Grain::Values, Value::Array(list)) => {
            let mut out = Set::default();
            for item in list {
                let mut child =
                    if matches!(grain, Grain::Values) { Set::leaf() } else { of(item, schema.items()) };
                child.member = true;
                out.put(element(item, &grain), child);
            }
            out
        }
        _ => Set::leaf(),
    }
}

/// The first part of a configuration whose owner could not be told, and why, in upstream's words: a field that there is not, an
/// item of a list that has no key, or two of one key.
pub fn fault(value: &Value, schema: Schema<'_>, path: &str) -> Option<String> {
    let grain = grain(schema, value);
    match (&grain, value) {
        (Grain::Fields { named }, Value::Object(map)) => map.iter().find_map(|(name, v)| {
            let path = format!("{path}.{name}");
            match schema.field(name) {
                Some(inner) => fault(v, inner, &path),
                None if *named => Some(format!("{path}: field not declared in schema")),
                None => fault(v, Schema::Any, &path),
            }
        }),
        (Grain::Items(..) | Grain::Values, Value::Array(list)) => {
            let mut seen = HashSet::new();
            list.iter().enumerate().find_map(|(i, item)| {
                if let Grain::Items(keys, items) = &grain
                    && keys_of(item, keys, *items).is_empty()
                {
                    let keys: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
                    return Some(format!(
                        "{path}: element {i}: associative list with keys has an element that omits all key fields [{}] \
                         (and doesn't have default values for any key fields)",
                        keys.join(" ")
                    ));
                }
                let key = element(item, &grain);
                let shown = show(&key);
                if !seen.insert(key) {
                    return Some(format!("{path}: duplicate entries for key {shown}"));
                }
                let inner = if matches!(grain, Grain::Values) { SCALAR } else { schema.items() };
                fault(item, inner, &format!("{path}{shown}"))
            })
        }
        _ => None,
    }
}

/// What differs between two objects.
#[derive(Debug, Default)]
pub struct Diff {
    /// Fields that `new` has and `old` has not, or has with another value.
    pub changed: Set,
    /// Fields that only `old` has.
    pub removed: Set,
}

impl Diff {
    /// Is there no difference?
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }

    fn put(&mut self, element: String, child: Diff) {
        self.changed.put(element.clone(), child.changed);
        self.removed.put(element, child.removed);
    }
}

/// Compares two objects.
pub fn compare(old: Option<&Value>, new: Option<&Value>, schema: Schema<'_>) -> Diff {
    let (old, new) = (old.and_then(given), new.and_then(given));
    let mut diff = Diff::default();
    if old == new {
        return diff;
    }
    let leaf = || match new {
        Some(_) => Diff { changed: Set::leaf(), removed: Set::default() },
        None => Diff { changed: Set::default(), removed: Set::leaf() },
    };
    let Some(sample) = new.or(old) else { return diff };
    let grain = grain(schema, sample);
    match grain {
        Grain::Leaf => return leaf(),
        Grain::Fields { named } => {
            let empty = Map::new();
            let (o, n) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            let (o, n) = (o.unwrap_or(&empty), n.unwrap_or(&empty));
            if o.is_empty() && n.is_empty() {
                return leaf();
            }
            for (name, v) in n {
                let inner = schema.field(name).unwrap_or(Schema::Any);
                diff.put(field(name), compare(o.get(name), Some(v), inner));
            }
            for (name, v) in o.iter().filter(|(name, _)| !n.contains_key(*name)) {
                let inner = schema.field(name).unwrap_or(Schema::Any);
                diff.put(field(name), compare(Some(v), None, inner));
            }
            diff.changed.member = old.is_none() && !named;
        }
        Grain::Items(..) | Grain::Values => {
            let empty = Vec::new();
            let (o, n) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
            let (o, n) = (o.unwrap_or(&empty), n.unwrap_or(&empty));
            if o.is_empty() && n.is_empty() {
                return leaf();
            }
            let items = if matches!(grain, Grain::Values) { SCALAR } else { schema.items() };
            let before: BTreeMap<String, &Value> = o.iter().map(|i| (element(i, &grain), i)).collect();
            let after: BTreeMap<String, &Value> = n.iter().map(|i| (element(i, &grain), i)).collect();
            for (key, item) in &after {
                let mut child = compare(before.get(key).copied(), Some(item), items);
                child.changed.member |= !before.contains_key(key);
                diff.put(key.clone(), child);
            }
            for (key, item) in before.iter().filter(|(k, _)| !after.contains_key(*k)) {
                let mut child = compare(Some(item), None, items);
                child.removed.member = true;
                diff.put(key.clone(), child);
            }
        }
    }
    diff.removed.member |= new.is_none();
    diff
}

/// The schema of the values of a set: no object of theirs is looked into.
const SCALAR: Schema<'static> =
    Schema::Builtin(crate::schema::Ty { wrap: crate::schema::Wrap::None, base: Base::Json }, None);

/// Where each of some keys is first.
fn places(keys: &[String]) -> HashMap<&str, usize> {
    let mut places = HashMap::with_capacity(keys.len());
    for (i, key) in keys.iter().enumerate() {
        places.entry(key.as_str()).or_insert(i);
    }
    places
}

/// `live` with `config` laid over it: the configuration's fields win, the others stay.
pub fn merge(live: &Value, config: &Value, schema: Schema<'_>) -> Value {
    let grain = grain(schema, config);
    match (&grain, live, config) {
        (Grain::Fields { .. }, Value::Object(l), Value::Object(c)) => {
            let mut out = l.clone();
            for (name, v) in c {
                let merged = match l.get(name) {
                    Some(old) => merge(old, v, schema.field(name).unwrap_or(Schema::Any)),
                    None => v.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Grain::Items(..) | Grain::Values, Value::Array(l), Value::Array(c)) => {
            let keys = |list: &[Value]| list.iter().map(|i| element(i, &grain)).collect::<Vec<_>>();
            let (lk, ck) = (keys(l), keys(c));
            let (in_live, in_config) = (places(&lk), places(&ck));
            let overlaid =
                |key: &String, item: &Value| match in_live.get(key.as_str()).and_then(|i| l.get(*i)) {
                    Some(old) if matches!(grain, Grain::Items(..)) => merge(old, item, schema.items()),
                    _ => item.clone(),
                };
            // The configuration's items in its order; what only the live list has stays between its neighbours.
            let mut out = Vec::with_capacity(l.len() + c.len());
            let mut next = 0;
            for (key, item) in lk.iter().zip(l) {
                match in_config.get(key.as_str()) {
                    None => out.push(item.clone()),
                    Some(place) => {
                        while next <= *place {
                            if let (Some(key), Some(item)) = (ck.get(next), c.get(next)) {
                                out.push(overlaid(key, item));
                            }
                            next += 1;
                        }
                    }
                }
            }
            for (key, item) in ck.iter().zip(c).skip(next) {
                out.push(overlaid(key, item));
            }
            Value::Array(out)
        }
        _ => config.clone(),
    }
}

/// Takes the fields of `gone` out of `value`, except what is in `keep`. Objects and lists that this empties go too. Says whether
/// `value` itself is to go.
pub fn remove(value: &mut Value, gone: &Set, keep: &Set, schema: Schema<'_>) -> bool {
    let grain = grain(schema, value);
    let goes = |child_gone: &Set, child_keep: Option<&Set>| {
        child_gone.member && child_keep.is_none_or(Set::is_empty)
    };
    let none = Set::default();
    match value {
        Value::Object(map) if matches!(grain, Grain::Fields { .. }) => {
            let before = map.len();
            map.retain(|name, inner| {
                let element = field(name);
                let Some(child) = gone.children.get(&element) else { return true };
                let kept = keep.children.get(&element);
                let inner_schema = schema.field(name).unwrap_or(Schema::Any);
                !(goes(child, kept) || remove(inner, child, kept.unwrap_or(&none), inner_schema))
            });
            map.is_empty() && before > 0
        }
        Value::Array(list) if matches!(grain, Grain::Items(..) | Grain::Values) => {
            let before = list.len();
            let items = schema.items();
            list.retain_mut(|item| {
                let key = element(item, &grain);
                let Some(child) = gone.children.get(&key) else { return true };
                let kept = keep.children.get(&key);
                if goes(child, kept) {
                    return false;
                }
                remove(item, child, kept.unwrap_or(&none), items);
                true
            });
            list.is_empty() && before > 0
        }
        _ => gone.member && keep.is_empty(),
    }
}
