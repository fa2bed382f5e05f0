//! OpenAPI documents of the served kinds, from the tables.
//!
//! Version 2 is one document with everything, as JSON or in gnostic's protobuf form; version 3 one document per group and version.
//! Documents are written piece by piece, so that making one takes little more memory than its bytes.

mod defaults;
mod paths;
mod proto;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::{Version, VersionSchema};
use crate::schema::{Base, Field, ListType, Ty, TypeId, Wrap};
use crate::{KUBERNETES_VERSION, Kind, Map, discovery};

pub use proto::v2_protobuf;

/// Where descriptions come from. They are not in the tables.
pub trait Docs: Send + Sync {
    /// All of them. Whoever makes a document asks for them once, and drops them when it is made.
    fn texts(&self) -> Texts;
}

/// Descriptions of types and fields.
#[derive(Default)]
pub struct Texts(std::collections::HashMap<Box<str>, Box<str>>);

impl Texts {
    /// Adds the description of a field, or of a type where `field` is empty.
    pub fn insert(&mut self, type_name: &str, field: &str, text: &str) {
        self.0.insert(Self::key(type_name, field), text.into());
    }

    fn key(type_name: &str, field: &str) -> Box<str> {
        [type_name, field].join("/").into()
    }

    /// Description of a type, by its name in the table.
    pub fn of_type(&self, type_name: &str) -> Option<&str> {
        self.of_field(type_name, "")
    }

    /// Description of a field.
    pub fn of_field(&self, type_name: &str, field: &str) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&*Self::key(type_name, field)).map(|t| &**t)
    }
}

/// No descriptions.
pub struct NoDocs;

impl Docs for NoDocs {
    fn texts(&self) -> Texts {
        Texts::default()
    }
}

/// Which form of OpenAPI.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

impl Form {
    fn reference(self, name: &str) -> String {
        match self {
            Form::V2 => format!("#/definitions/{name}"),
            Form::V3 => format!("#/components/schemas/{name}"),
        }
    }
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

fn insert(map: &mut Map, key: &str, value: impl Into<Value>) {
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
    let base = base_schema(ty.base, form);
    // What is in a list or a map is there, so it is at least what Go makes of nothing.
    let base = match defaults::zero(ty.base) {
        Some(zero) if form == Form::V3 && ty.wrap != Wrap::None => with_default(base, zero),
        _ => base,
    };
    let list = |items: Map| {
        Map::from_iter([("type".to_owned(), json!("array")), ("items".to_owned(), Value::Object(items))])
    };
    let map = |values: Map| {
        Map::from_iter([
            ("type".to_owned(), json!("object")),
            ("additionalProperties".to_owned(), Value::Object(values)),
        ])
    };
    match ty.wrap {
        Wrap::None => base,
        Wrap::List => list(base),
        Wrap::Map => map(base),
        Wrap::MapOfLists => map(list(base)),
    }
}

fn field_schema(owner: TypeId, field: &Field, form: Form, docs: &Texts) -> Value {
    let mut map = type_schema(field.ty, form);
    // Version 2 has no defaults: upstream takes them out of it, for the sake of clients.
    if form == Form::V3
        && let Some(default) = defaults::of(owner, field)
    {
        map = with_default(map, default);
    }
    if let Some(text) = docs.of_field(owner.name(), field.name) {
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
    let strategy = match (field.patch_merge, field.patch_retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => "",
    };
    if !strategy.is_empty() {
        insert(&mut map, "x-kubernetes-patch-strategy", strategy);
    }
    if field.map_atomic {
        insert(&mut map, "x-kubernetes-map-type", "atomic");
    }
    Value::Object(map)
}

fn definition(t: TypeId, form: Form, docs: &Texts) -> Value {
    let mut map = Map::new();
    if let Some(text) = docs.of_type(t.name()) {
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
    if crate::schema::Schema::is_atomic_map(t.schema()) {
        insert(&mut map, "x-kubernetes-map-type", "atomic");
    }
    let gvks: Vec<Value> = t
        .gvks()
        .map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind}))
        .collect();
    if !gvks.is_empty() {
        insert(&mut map, "x-kubernetes-group-version-kind", gvks);
    }
    Value::Object(map)
}

/// The name of the definition of a version's objects.
fn definition_name(kind: &Kind, version: &Version) -> String {
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
const MODEL: &str = "io.k8s.api.core.v1.ConfigMap";

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
    for field in ["apiVersion", "kind", "metadata"] {
        if let Some(text) = docs.of_field(&format!("{MODEL}List"), field) {
            properties[field]["description"] = json!(text);
        }
    }
    properties["items"]["description"] = json!(format!("List of {}.", kind.plural));
    let mut map = Map::new();
    insert(&mut map, "description", format!("{} is a list of {}", kind.list_kind, kind.kind));
    insert(&mut map, "type", "object");
    insert(&mut map, "required", vec!["items"]);
    insert(&mut map, "properties", Value::Object(properties));
    let gvk = json!([{"group": version.group, "version": version.version, "kind": kind.list_kind}]);
    insert(&mut map, "x-kubernetes-group-version-kind", gvk);
    add_selectable(&mut map, kind);
    Value::Object(map)
}

/// Every definition of a document: those of `roots` and of what they refer to, then those of custom resources.
fn definitions<'a>(
    kinds: &'a [Arc<Kind>],
    only: Option<(&'a str, &'a str)>,
    form: Form,
    docs: &'a Texts,
) -> impl Iterator<Item = (String, Value)> + 'a {
    let mut types: BTreeSet<TypeId> = BTreeSet::new();
    let mut leaves: Vec<Base> = Vec::new();
    let mut open: Vec<TypeId> = Vec::new();
    match only {
        None => open.extend(TypeId::all()),
        Some((group, version)) => {
            let common = [
                "APIResourceList",
                "DeleteOptions",
                "ListMeta",
                "ObjectMeta",
                "Patch",
                "Status",
                "WatchEvent",
            ];
            for name in common {
                open.extend(TypeId::named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")));
            }
            for (kind, v) in served(kinds, only) {
                open.extend(TypeId::of_gvk(group, version, &kind.list_kind));
                if let VersionSchema::Table(t) = v.schema {
                    open.push(t);
                }
                for sub in &v.subresources {
                    open.extend(TypeId::of_gvk(&sub.gvk.group, &sub.gvk.version, &sub.gvk.kind));
                }
            }
        }
    }
    while let Some(t) = open.pop() {
        if !types.insert(t) {
            continue;
        }
        for field in t.fields() {
            match field.ty.base {
                Base::Type(inner) => open.push(inner),
                base if LEAVES.iter().any(|l| l.0 == base) && !leaves.contains(&base) => leaves.push(base),
                _ => {}
            }
        }
    }
    let tables = types.into_iter().map(move |t| (t.name().to_owned(), definition(t, form, docs)));
    let leaves = LEAVES
        .into_iter()
        .filter(move |l| leaves.contains(&l.0))
        .map(move |l| (l.1.to_owned(), leaf(l.0, form, docs)));
    let customs = served(kinds, only).filter(|(k, _)| k.custom).flat_map(move |(k, v)| {
        let name = definition_name(k, v);
        [(format!("{name}List"), custom_list(k, v, form, docs)), (name, custom_definition(k, v, form, docs))]
    });
    tables.chain(leaves).chain(customs)
}

/// Kinds with the versions that are served: all, or of one group and version.
fn served<'a>(
    kinds: &'a [Arc<Kind>],
    only: Option<(&'a str, &'a str)>,
) -> impl Iterator<Item = (&'a Kind, &'a Version)> {
    kinds.iter().flat_map(|k| k.versions.iter().map(move |v| (&**k, v))).filter(move |(_, v)| {
        v.served && only.is_none_or(|(group, version)| v.group == group && v.version == version)
    })
}

/// Writes `{"a":..,"b":..}` from an iterator.
fn push_entries(out: &mut Vec<u8>, entries: impl Iterator<Item = (String, Value)>) {
    out.push(b'{');
    for (i, (name, value)) in entries.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend(crate::object::encode(&Value::String(name)));
        out.push(b':');
        out.extend(crate::object::encode(&value));
    }
    out.push(b'}');
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": KUBERNETES_VERSION})
}

/// The paths of other servers' documents.
fn foreign_paths(others: &[Arc<Value>]) -> impl Iterator<Item = (String, Value)> + '_ {
    let of = |o: &'_ Arc<Value>| o["paths"].as_object().into_iter().flatten().map(owned).collect::<Vec<_>>();
    others.iter().flat_map(of)
}

/// These definitions, and of other servers' documents those whose names are not among them.
fn with_foreign_definitions<'a>(
    own: impl Iterator<Item = (String, Value)> + 'a,
    others: &'a [Arc<Value>],
) -> impl Iterator<Item = (String, Value)> + 'a {
    let foreign = others.iter().flat_map(|o| o["definitions"].as_object().into_iter().flatten().map(owned));
    let mut seen = std::collections::HashSet::new();
    own.chain(foreign).filter(move |(name, _)| seen.insert(name.clone()))
}

fn owned((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

/// `/openapi/v2` as JSON; `others` are the documents of servers behind this one.
pub fn v2(kinds: &[Arc<Kind>], docs: &dyn Docs, others: &[Arc<Value>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(3 << 20);
    out.extend_from_slice(b"{\"swagger\":\"2.0\",\"info\":");
    out.extend(crate::object::encode(&info()));
    out.extend_from_slice(b",\"paths\":");
    let texts = docs.texts();
    push_entries(&mut out, all_paths(kinds, &texts).chain(foreign_paths(others)));
    out.extend_from_slice(b",\"definitions\":");
    let own = definitions(kinds, None, Form::V2, &texts);
    push_entries(&mut out, with_foreign_definitions(own, others));
    out.extend_from_slice(b",\"securityDefinitions\":");
    out.extend(crate::object::encode(&security()));
    out.extend_from_slice(b",\"security\":[{\"BearerToken\":[]}]}");
    out
}

/// The paths of version 2: of discovery, and of all kinds.
fn all_paths<'a>(kinds: &'a [Arc<Kind>], docs: &'a Texts) -> impl Iterator<Item = (String, Value)> + 'a {
    let mut found = vec![paths::of_group("", Form::V2), paths::of_version("", "v1", Form::V2)];
    for (group, versions) in discovery::groups(kinds) {
        found.push(paths::of_group(&group, Form::V2));
        found.extend(versions.iter().map(|version| paths::of_version(&group, version, Form::V2)));
    }
    found.into_iter().chain(served(kinds, None).flat_map(move |(k, v)| paths::of(k, v, Form::V2, docs)))
}

/// How a client says who it is, if not by a certificate.
fn security() -> Value {
    json!({"BearerToken": {
        "description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"}})
}

/// `/openapi/v3`: the index. `hash` is the query part that makes a document cacheable; it is given the group-version path, e.g.
/// `apis/apps/v1`.
pub fn v3_index(kinds: &[Arc<Kind>], hash: &dyn Fn(&str) -> String) -> Value {
    let mut paths = Map::new();
    let mut add = |path: String| {
        let url = format!("/openapi/v3/{path}?hash={}", hash(&path));
        paths.insert(path, json!({"serverRelativeURL": url}));
    };
    add("api/v1".to_owned());
    for (group, versions) in discovery::groups(kinds) {
        for version in versions {
            add(format!("apis/{group}/{version}"));
        }
    }
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION` as JSON; `None` if nothing is served there.
pub fn v3(kinds: &[Arc<Kind>], group: &str, version: &str, docs: &dyn Docs) -> Option<Vec<u8>> {
    let only = Some((group, version));
    served(kinds, only).next()?;
    let mut out = Vec::with_capacity(512 << 10);
    out.extend_from_slice(b"{\"openapi\":\"3.0.0\",\"info\":");
    out.extend(crate::object::encode(&info()));
    out.extend_from_slice(b",\"paths\":");
    let texts = docs.texts();
    let of_kinds = served(kinds, only).flat_map(|(k, v)| paths::of(k, v, Form::V3, &texts));
    push_entries(&mut out, std::iter::once(paths::of_version(group, version, Form::V3)).chain(of_kinds));
    out.extend_from_slice(b",\"components\":{\"schemas\":");
    push_entries(&mut out, definitions(kinds, only, Form::V3, &texts));
    out.extend_from_slice(b",\"securitySchemes\":");
    out.extend(crate::object::encode(&security()));
    out.extend_from_slice(b"}}");
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    struct Echo;
    impl Docs for Echo {
        fn texts(&self) -> Texts {
            let mut texts = Texts::default();
            texts.insert("io.k8s.api.core.v1.PodSpec", "containers", "what runs");
            texts
        }
    }

    #[test]
    fn version_3_has_what_clients_look_for() {
        let doc: Value = serde_json::from_slice(&v3(kinds::all(), "apps", "v1", &Echo).unwrap()).unwrap();
        let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
        let patch = &doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["name"] == "fieldValidation" && p["in"] == "query")
        );
        assert_eq!(
            doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"]["post"]["x-kubernetes-group-version-kind"],
            gvk
        );
        let schemas = &doc["components"]["schemas"];
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["description"], "what runs");
        assert_eq!(schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"], json!([gvk]));
        // Everything that is referred to is there.
        fn check(value: &Value, schemas: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(r)) = map.get("$ref") {
                        let name = r.rsplit('/').next().unwrap();
                        assert!(!schemas[name].is_null(), "{name} is missing");
                    }
                    map.values().for_each(|v| check(v, schemas));
                }
                Value::Array(list) => list.iter().for_each(|v| check(v, schemas)),
                _ => {}
            }
        }
        check(&doc, schemas);
        assert!(v3(kinds::all(), "apps", "v9", &NoDocs).is_none());
        let index = v3_index(kinds::all(), &|p| p.len().to_string());
        assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], "/openapi/v3/apis/apps/v1?hash=12");
    }

    #[test]
    fn defaults_are_told_in_version_3_alone() {
        let doc: Value = serde_json::from_slice(&v3(kinds::all(), "", "v1", &NoDocs).unwrap()).unwrap();
        let field = |of: &str, field: &str| {
            doc["components"]["schemas"][format!("io.k8s.api.core.v1.{of}")]["properties"][field].clone()
        };
        let reference = |to: &str| json!([{"$ref": format!("#/components/schemas/io.k8s.api.core.v1.{to}")}]);
        for (of, name, want) in [
            ("ContainerPort", "protocol", json!({"type": "string", "default": "TCP"})),
            ("ContainerPort", "containerPort", json!({"type": "integer", "format": "int32", "default": 0})),
            ("ContainerPort", "hostPort", json!({"type": "integer", "format": "int32"})),
            ("Container", "resources", json!({"allOf": reference("ResourceRequirements"), "default": {}})),
            ("AzureDiskVolumeSource", "readOnly", json!({"type": "boolean", "default": false})),
            ("ConfigMapKeySelector", "name", json!({"type": "string", "default": ""})),
            ("Pod", "spec", json!({"allOf": reference("PodSpec"), "default": {}})),
            (
                "ConfigMap",
                "binaryData",
                json!({"type": "object", "additionalProperties": {"type": "string", "format": "byte"}}),
            ),
        ] {
            assert_eq!(field(of, name), want, "{of}.{name}");
        }
        assert_eq!(
            field("Container", "ports")["items"],
            json!({"allOf": reference("ContainerPort"), "default": {}})
        );
        assert_eq!(field("Container", "args")["items"], json!({"type": "string", "default": ""}));
        assert!(field("ScaleIOVolumeSource", "secretRef").get("default").is_none(), "it is a pointer");
        let old: Value = serde_json::from_slice(&v2(kinds::all(), &NoDocs, &[])).unwrap();
        assert_eq!(
            old["definitions"]["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"],
            json!({"type": "string"})
        );
    }

    /// A row that names nothing would say nothing.
    #[test]
    fn each_default_is_of_a_field_that_there_is() {
        defaults::rows().for_each(|(name, field)| {
            let found =
                TypeId::all().any(|t| t.name().ends_with(&format!(".{name}")) && t.field(field).is_some());
            assert!(found, "{name}.{field}");
        });
    }

    #[test]
    fn version_2_is_whole() {
        let bytes = v2(kinds::all(), &NoDocs, &[]);
        let doc: Value = serde_json::from_slice(&bytes).unwrap();
        assert!(doc["definitions"].as_object().unwrap().len() > 900);
        assert_eq!(
            doc["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["spec"]["$ref"],
            "#/definitions/io.k8s.api.core.v1.PodSpec"
        );
        let proto = v2_protobuf(kinds::all(), &NoDocs, &[]);
        assert!(proto.len() > 100_000 && proto.len() < bytes.len() * 2);
    }
}
