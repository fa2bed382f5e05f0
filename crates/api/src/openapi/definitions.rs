//! The definitions of a document: of the types in the tables, of what they are made of, and of custom resources.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Form, META, Texts, defaults, served};
use crate::kinds::{Version, VersionSchema};
use crate::schema::{Base, Field, ListType, MapType, Ty, TypeId, Wrap};
use crate::{Kind, Map};

/// Types of JSONSchemaProps' fields for which anything goes, by the last part of their names.
const ANY: [(&str, &str); 7] = [
    ("additionalItems", "JSONSchemaPropsOrBool"),
    ("additionalProperties", "JSONSchemaPropsOrBool"),
    ("default", "JSON"),
    ("dependencies", "JSONSchemaPropsOrStringArray"),
    ("enum", "JSON"),
    ("example", "JSON"),
    ("items", "JSONSchemaPropsOrArray"),
];

/// The name of the type of such a field.
fn any_json(owner: TypeId, field: &Field) -> Option<String> {
    let package = owner.name().strip_suffix(".JSONSchemaProps").filter(|_| field.ty.base == Base::Json)?;
    let (_, name) = ANY.iter().find(|(of, _)| *of == field.name)?;
    Some(format!("{package}.{name}"))
}

fn any_schema(ty: Ty, name: &str, form: Form) -> Map {
    wrapped(ty.wrap, Map::from_iter([("$ref".to_owned(), Value::from(form.reference(name)))]))
}

/// Types that the table has no row for.
const LEAVES: [(Base, &str, &str, &str); 6] = [
    (Base::Time, "io.k8s.apimachinery.pkg.apis.meta.v1.Time", "string", "date-time"),
    (Base::MicroTime, "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "string", "date-time"),
    (Base::Quantity, "io.k8s.apimachinery.pkg.api.resource.Quantity", "string", ""),
    (Base::IntOrString, "io.k8s.apimachinery.pkg.util.intstr.IntOrString", "string", "int-or-string"),
    (Base::Raw, "io.k8s.apimachinery.pkg.runtime.RawExtension", "object", ""),
    (Base::FieldsV1, "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "object", ""),
];

pub(super) fn insert(map: &mut Map, key: &str, value: impl Into<Value>) {
    map.insert(key.to_owned(), value.into());
}

fn leaf(base: Base, form: Form, docs: &Texts) -> Value {
    let mut map = Map::new();
    if let Some((_, name, kind, format)) = LEAVES.iter().find(|l| l.0 == base) {
        if let Some(text) = docs.of_type(name) {
            insert(&mut map, "description", text);
        }
        // In version 3 a quantity or port may be written as a number.
        match (form, base) {
            (Form::V3, Base::Quantity) => {
                insert(&mut map, "oneOf", json!([{"type": "string"}, {"type": "number"}]))
            }
            (Form::V3, Base::IntOrString) => {
                insert(&mut map, "format", *format);
                insert(&mut map, "oneOf", json!([{"type": "integer"}, {"type": "string"}]));
            }
            _ => {
                insert(&mut map, "type", *kind);
                if !format.is_empty() {
                    insert(&mut map, "format", *format);
                }
            }
        }
    }
    Value::Object(map)
}

fn base_schema(base: Base, form: Form) -> Map {
    let mut map = Map::new();
    let mut plain = |kind: &str, format: &str| {
        insert(&mut map, "type", kind);
        if !format.is_empty() {
            insert(&mut map, "format", format);
        }
    };
    match base {
        Base::String => plain("string", ""),
        Base::Int32 => plain("integer", "int32"),
        Base::Int64 => plain("integer", "int64"),
        Base::Double => plain("number", "double"),
        Base::Bool => plain("boolean", ""),
        Base::Bytes => plain("string", "byte"),
        Base::Json => {}
        Base::Type(t) => insert(&mut map, "$ref", form.reference(t.name())),
        base => {
            let name = LEAVES.iter().find(|l| l.0 == base).map(|l| l.1).unwrap_or_default();
            insert(&mut map, "$ref", form.reference(name));
        }
    }
    map
}

/// Gives a schema a default. A reference of version 3 may have no neighbours, and then stands in a list of one.
fn with_default(mut map: Map, default: Value) -> Map {
    beside_reference(&mut map);
    map.insert("default".to_owned(), default);
    map
}

/// Makes room beside a reference in version 3.
fn beside_reference(map: &mut Map) {
    if let Some(reference) = map.shift_remove("$ref") {
        insert(map, "allOf", json!([{"$ref": reference}]));
    }
}

fn type_schema(ty: Ty, form: Form) -> Map {
    wrapped(ty.wrap, base_schema(ty.base, form))
}

/// A list or map of what this is the schema of.
fn wrapped(wrap: Wrap, base: Map) -> Map {
    let list = |items: Map| {
        Map::from_iter([("type".to_owned(), json!("array")), ("items".to_owned(), Value::Object(items))])
    };
    let map = |values: Map| {
        Map::from_iter([
            ("type".to_owned(), json!("object")),
            ("additionalProperties".to_owned(), Value::Object(values)),
        ])
    };
    match wrap {
        Wrap::None => base,
        Wrap::List => list(base),
        Wrap::Map => map(base),
        Wrap::MapOfLists => map(list(base)),
    }
}

fn field_schema(owner: TypeId, field: &Field, form: Form, docs: &Texts) -> Value {
    let mut map = match any_json(owner, field) {
        Some(name) => any_schema(field.ty, &name, form),
        None => type_schema(field.ty, form),
    };
    // Version 2 has no defaults: upstream takes them out of it, for the sake of clients.
    if form == Form::V3
        && let Some(default) = defaults::of(owner, field)
    {
        map = with_default(map, default);
    }
    let told = docs.of_field(owner.name(), field.name).map(str::to_owned);
    let of_list = || list_text(field.name, listed(owner)?.short_name(), docs);
    if let Some(text) = told.or_else(of_list) {
        if form == Form::V3 {
            beside_reference(&mut map);
        }
        insert(&mut map, "description", text);
    }
    if let Some(list) = field.list {
        let kind = match list {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        };
        insert(&mut map, "x-kubernetes-list-type", kind);
    }
    if !field.keys.is_empty() {
        insert(&mut map, "x-kubernetes-list-map-keys", field.keys.iter().collect::<Vec<_>>());
    }
    if let Some(key) = field.merge_key {
        insert(&mut map, "x-kubernetes-patch-merge-key", key);
    }
    if !field.patch.is_empty() {
        insert(&mut map, "x-kubernetes-patch-strategy", field.patch.as_str());
    }
    if let Some(kind) = field.map {
        let kind = match kind {
            MapType::Atomic => "atomic",
            MapType::Granular => "granular",
        };
        insert(&mut map, "x-kubernetes-map-type", kind);
    }
    Value::Object(map)
}

/// A union of fields, one of which is there.
fn union<'a>(discriminator: &str, fields: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    let mut map = Map::new();
    if !discriminator.is_empty() {
        insert(&mut map, "discriminator", discriminator);
    }
    let fields: Map = fields.map(|(field, value)| (field.to_owned(), json!(value))).collect();
    insert(&mut map, "fields-to-discriminateBy", fields);
    Value::Object(map)
}

/// The kind of a type that every group and version has as one of its own.
fn everywhere(t: TypeId) -> Option<&'static str> {
    match t.name().strip_prefix(META) {
        Some(kind @ (".DeleteOptions" | ".WatchEvent")) => kind.strip_prefix('.'),
        _ => None,
    }
}

/// The group and version of each built-in kind that is served.
fn group_versions<'a>(
    kinds: &'a [Arc<Kind>],
    only: Option<(&'a str, &'a str)>,
) -> BTreeSet<(&'a str, &'a str)> {
    // What is of every group is of the core one first of all.
    let core = ("", "v1");
    let own = served(kinds, only).filter(|(k, _)| !k.custom);
    own.map(|(_, v)| (v.group.as_str(), v.version.as_str())).chain([core]).collect()
}

fn definition(t: TypeId, form: Form, docs: &Texts, groups: &BTreeSet<(&str, &str)>) -> Value {
    let mut map = Map::new();
    let of_list = || listed(t).map(|item| list_itself(t.short_name(), item.short_name()));
    if let Some(text) = docs.of_type(t.name()).map(str::to_owned).or_else(of_list) {
        insert(&mut map, "description", text);
    }
    insert(&mut map, "type", "object");
    let required: Vec<&str> = t.fields().iter().filter(|f| f.required).map(|f| f.name).collect();
    if !required.is_empty() {
        insert(&mut map, "required", required);
    }
    if !t.fields().is_empty() {
        let properties: Map =
            t.fields().iter().map(|f| (f.name.to_owned(), field_schema(t, f, form, docs))).collect();
        insert(&mut map, "properties", Value::Object(properties));
    }
    if t.is_atomic() {
        insert(&mut map, "x-kubernetes-map-type", "atomic");
    }
    let unions: Vec<Value> = t.unions().map(|(discriminator, fields)| union(discriminator, fields)).collect();
    if !unions.is_empty() {
        insert(&mut map, "x-kubernetes-unions", unions);
    }
    let gvks: Vec<Value> = t
        .gvks()
        .map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind}))
        .chain(everywhere(t).into_iter().flat_map(|kind| {
            groups
                .iter()
                .map(move |(group, version)| json!({"group": group, "version": version, "kind": kind}))
        }))
        .collect();
    if !gvks.is_empty() {
        insert(&mut map, "x-kubernetes-group-version-kind", gvks);
    }
    Value::Object(map)
}

/// The name of the definition of a version's objects.
pub(super) fn definition_name(kind: &Kind, version: &Version) -> String {
    match &version.schema {
        VersionSchema::Table(t) => t.name().to_owned(),
        _ => {
            let mut parts: Vec<&str> = version.group.split('.').rev().collect();
            parts.extend([version.version.as_str(), kind.kind.as_str()]);
            parts.join(".")
        }
    }
}

/// A kind whose descriptions of what all kinds have are those of custom resources too.
pub(super) const MODEL: &str = "io.k8s.api.core.v1.ConfigMap";

fn custom_definition(kind: &Kind, version: &Version, form: Form, docs: &Texts) -> Value {
    let mut schema = match &version.schema {
        VersionSchema::Structural(s) => s.openapi(form == Form::V3),
        _ => json!({"type": "object"}),
    };
    let map = crate::meta::as_map(&mut schema);
    let structural = matches!(version.schema, VersionSchema::Structural(_));
    // Readers of version 2 take any property named for the only ones allowed.
    let open = map.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    if form == Form::V2 && open {
        *map = Map::from_iter([("type".to_owned(), json!("object"))]);
    } else if structural {
        let properties = crate::meta::entry(map, "properties");
        properties.values_mut().for_each(|v| add_embedded(v, form, docs));
        add_object(properties, form, docs);
    }
    let gvk = json!([{"group": version.group, "version": version.version, "kind": kind.kind}]);
    insert(map, "x-kubernetes-group-version-kind", gvk);
    add_selectable(map, kind);
    schema
}

/// The fields that field selectors may name.
fn add_selectable(map: &mut Map, kind: &Kind) {
    let fields: Vec<Value> =
        kind.strategy.selectable_fields().iter().map(|f| json!({"fieldPath": f})).collect();
    if !fields.is_empty() {
        insert(map, "x-kubernetes-selectable-fields", fields);
    }
}

/// Adds what every object has.
fn add_object(properties: &mut Map, form: Form, docs: &Texts) {
    for field in ["apiVersion", "kind"] {
        insert(properties, field, json!({"type": "string"}));
    }
    let reference = json!({"$ref": form.reference("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")});
    // Version 3 does not let a reference have neighbours.
    let metadata = if form == Form::V3 { json!({"allOf": [reference]}) } else { reference };
    insert(properties, "metadata", metadata);
    for field in ["apiVersion", "kind", "metadata"] {
        if let Some(text) = docs.of_field(MODEL, field) {
            properties[field]["description"] = json!(text);
        }
    }
}

/// The same in the places of a schema that hold whole objects.
fn add_embedded(schema: &mut Value, form: Form, docs: &Texts) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|v| add_embedded(v, form, docs));
    }
    for field in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(field) {
            add_embedded(inner, form, docs);
        }
    }
    let is = |what: &str| map.get(what).is_some_and(|v| v == true);
    if !is("x-kubernetes-embedded-resource") || form == Form::V2 && is("x-kubernetes-preserve-unknown-fields")
    {
        return;
    }
    add_object(crate::meta::entry(map, "properties"), form, docs);
    let mut required = map.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    for field in ["kind", "apiVersion"] {
        if !required.iter().any(|r| r == field) {
            required.push(json!(field));
        }
    }
    insert(map, "required", required);
}

fn custom_list(kind: &Kind, version: &Version, form: Form, docs: &Texts) -> Value {
    let item = json!({"$ref": form.reference(&definition_name(kind, version))});
    let mut properties = Map::new();
    for field in ["apiVersion", "kind"] {
        insert(&mut properties, field, json!({"type": "string"}));
    }
    insert(&mut properties, "items", json!({"type": "array", "items": item}));
    let reference = json!({"$ref": form.reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")});
    let metadata = if form == Form::V3 { json!({"allOf": [reference]}) } else { reference };
    insert(&mut properties, "metadata", metadata);
    for field in LIST_FIELDS {
        if let Some(text) = list_text(field, &kind.plural, docs) {
            properties[field]["description"] = json!(text);
        }
    }
    let mut map = Map::new();
    insert(&mut map, "description", list_itself(&kind.list_kind, &kind.kind));
    insert(&mut map, "type", "object");
    insert(&mut map, "required", vec!["items"]);
    insert(&mut map, "properties", Value::Object(properties));
    let gvk = json!([{"group": version.group, "version": version.version, "kind": kind.list_kind}]);
    insert(&mut map, "x-kubernetes-group-version-kind", gvk);
    add_selectable(&mut map, kind);
    Value::Object(map)
}

const LIST_FIELDS: [&str; 4] = ["apiVersion", "items", "kind", "metadata"];

/// The type of a list's items, if it is a list of objects.
fn listed(t: TypeId) -> Option<TypeId> {
    t.gvks().next()?;
    match t.field("items").filter(|_| t.field("metadata").is_some())?.ty {
        Ty { wrap: Wrap::List, base: Base::Type(item) } => Some(item),
        _ => None,
    }
}

fn list_itself(list: &str, item: &str) -> String {
    format!("{list} is a list of {item}")
}

/// What is told of a list's fields, which is the same of all lists. Those of its type and kind are an object's.
fn list_text(field: &str, of: &str, docs: &Texts) -> Option<String> {
    let common = docs.of_field(MODEL, if field == "apiVersion" { field } else { "kind" })?;
    Some(match field {
        "items" => format!("List of {of}."),
        "metadata" => {
            "What is true of the list as a whole, as the state of the cluster that it shows.".to_owned()
        }
        _ => common.to_owned(),
    })
}

/// Types that a document begins with: all there are, or those of a group and version and what these have to do with.
pub(super) fn roots(kinds: &[Arc<Kind>], only: Option<(&str, &str)>) -> Vec<TypeId> {
    let Some((group, version)) = only else { return TypeId::all().collect() };
    let common =
        ["APIResourceList", "DeleteOptions", "ListMeta", "ObjectMeta", "Patch", "Status", "WatchEvent"];
    let mut roots: Vec<TypeId> =
        common.iter().filter_map(|name| TypeId::named(&format!("{META}.{name}"))).collect();
    for (kind, v) in served(kinds, only) {
        roots.extend(TypeId::of_gvk(group, version, &kind.list_kind));
        if let VersionSchema::Table(t) = v.schema {
            roots.push(t);
        }
        for sub in &v.subresources {
            roots.extend(TypeId::of_gvk(&sub.gvk.group, &sub.gvk.version, &sub.gvk.kind));
        }
    }
    roots
}

/// Every definition of a document: those of `open` and of what they refer to, then those of custom resources.
pub(super) fn definitions<'a>(
    kinds: &'a [Arc<Kind>],
    only: Option<(&'a str, &'a str)>,
    mut open: Vec<TypeId>,
    form: Form,
    docs: &'a Texts,
) -> impl Iterator<Item = (String, Value)> + 'a {
    let mut types: BTreeSet<TypeId> = BTreeSet::new();
    let mut leaves: Vec<Base> = Vec::new();
    let mut any: BTreeSet<String> = BTreeSet::new();
    while let Some(t) = open.pop() {
        if !types.insert(t) {
            continue;
        }
        for field in t.fields() {
            any.extend(any_json(t, field));
            match field.ty.base {
                Base::Type(inner) => open.push(inner),
                base if LEAVES.iter().any(|l| l.0 == base) && !leaves.contains(&base) => leaves.push(base),
                _ => {}
            }
        }
    }
    let groups = group_versions(kinds, only);
    let tables = types.into_iter().map(move |t| (t.name().to_owned(), definition(t, form, docs, &groups)));
    let any = any.into_iter().map(|name| {
        let text = docs.of_type(&name).map(|text| ("description".to_owned(), Value::from(text)));
        (name, Value::Object(text.into_iter().collect()))
    });
    let leaves = LEAVES
        .into_iter()
        .filter(move |l| leaves.contains(&l.0))
        .map(move |l| (l.1.to_owned(), leaf(l.0, form, docs)));
    let customs = served(kinds, only).filter(|(k, _)| k.custom).flat_map(move |(k, v)| {
        let name = definition_name(k, v);
        [(format!("{name}List"), custom_list(k, v, form, docs)), (name, custom_definition(k, v, form, docs))]
    });
    tables.chain(any).chain(leaves).chain(customs)
}
