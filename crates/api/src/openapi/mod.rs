//! OpenAPI documents of the served kinds, from the tables.
//!
//! Version 2 is one document with everything, as JSON or in gnostic's protobuf form; version 3 one document per group and version.
//! Documents are written piece by piece, so that making one takes little more memory than its bytes.

mod defaults;
mod definitions;
mod paths;
mod proto;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::Version;
use crate::schema::TypeId;
use crate::{KUBERNETES_VERSION, Kind, Map, discovery};
use definitions::{definitions, roots};

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
        let exact = |name: &str| self.0.get(&*Self::key(name, field)).map(|t| &**t);
        exact(type_name).or_else(|| kin(type_name).iter().find_map(|name| exact(name)))
    }
}

/// Where a type of a version of the past may be today, whose descriptions hold for it as well.
fn kin(type_name: &str) -> Vec<String> {
    let mut parts = type_name.rsplitn(3, '.');
    let (Some(name), Some(version), Some(package)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let packages: &[&str] = match package {
        "io.k8s.api.extensions" => &["io.k8s.api.apps", "io.k8s.api.networking", "io.k8s.api.policy"],
        package => &[package],
    };
    let today = ["v1", "v2"].into_iter().filter(|today| *today != version);
    today.flat_map(|today| packages.iter().map(move |p| format!("{p}.{today}.{name}"))).collect()
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

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

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
    let mut out = Vec::with_capacity(5 << 20);
    out.extend_from_slice(b"{\"swagger\":\"2.0\",\"info\":");
    out.extend(crate::object::encode(&info()));
    out.extend_from_slice(b",\"paths\":");
    let texts = docs.texts();
    push_entries(&mut out, all_paths(kinds, &texts).chain(foreign_paths(others)));
    out.extend_from_slice(b",\"definitions\":");
    let own = definitions(kinds, None, roots(kinds, None), Form::V2, &texts);
    push_entries(&mut out, with_foreign_definitions(own, others));
    out.extend_from_slice(b",\"securityDefinitions\":");
    out.extend(crate::object::encode(&security()));
    out.extend_from_slice(b",\"security\":[{\"BearerToken\":[]}]}");
    out
}

/// The paths of version 2: of the server itself and of discovery, and of all kinds.
fn all_paths<'a>(kinds: &'a [Arc<Kind>], docs: &'a Texts) -> impl Iterator<Item = (String, Value)> + 'a {
    let mut found: Vec<(String, Value)> =
        paths::FIXED.iter().map(|fixed| (format!("/{}/", fixed.path), fixed.item(Form::V2))).collect();
    found.push(paths::of_version("", "v1", Form::V2));
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
    paths::FIXED.iter().for_each(|fixed| add(fixed.path.to_owned()));
    add("api/v1".to_owned());
    for (group, versions) in discovery::groups(kinds) {
        add(format!("apis/{group}"));
        for version in versions {
            add(format!("apis/{group}/{version}"));
        }
    }
    json!({"paths": paths})
}

/// A document of the index by its path, e.g. `apis/apps/v1`, as JSON; `None` if nothing is served there.
pub fn v3(kinds: &[Arc<Kind>], path: &str, docs: &dyn Docs) -> Option<Vec<u8>> {
    if let Some(fixed) = paths::FIXED.iter().find(|fixed| fixed.path == path) {
        let item = (format!("/{path}/"), fixed.item(Form::V3));
        return Some(small_v3(item, fixed.definition, docs));
    }
    let parts: Vec<&str> = path.split('/').collect();
    let (group, version) = match parts[..] {
        ["api", version] => ("", version),
        ["apis", group, version] => (group, version),
        ["apis", group] => {
            served(kinds, None).find(|(_, v)| v.group == group)?;
            let definition = format!("{META}.APIGroup");
            return Some(small_v3(paths::of_group(group, Form::V3), &definition, docs));
        }
        _ => return None,
    };
    let only = Some((group, version));
    served(kinds, only).next()?;
    let texts = docs.texts();
    let of_kinds = served(kinds, only).flat_map(|(k, v)| paths::of(k, v, Form::V3, &texts));
    let paths = std::iter::once(paths::of_version(group, version, Form::V3)).chain(of_kinds);
    let definitions = definitions(kinds, only, roots(kinds, only), Form::V3, &texts);
    Some(written_v3(512 << 10, paths, definitions))
}

/// A document of one path, and what its answer is made of.
fn small_v3(item: (String, Value), definition: &str, docs: &dyn Docs) -> Vec<u8> {
    let texts = docs.texts();
    let roots = TypeId::named(definition).into_iter().collect();
    let definitions = definitions(&[], Some(("", "")), roots, Form::V3, &texts);
    written_v3(8 << 10, std::iter::once(item), definitions)
}

fn written_v3(
    size: usize,
    paths: impl Iterator<Item = (String, Value)>,
    definitions: impl Iterator<Item = (String, Value)>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(b"{\"openapi\":\"3.0.0\",\"info\":");
    out.extend(crate::object::encode(&info()));
    out.extend_from_slice(b",\"paths\":");
    push_entries(&mut out, paths);
    out.extend_from_slice(b",\"components\":{\"schemas\":");
    push_entries(&mut out, definitions);
    out.extend_from_slice(b",\"securitySchemes\":");
    out.extend(crate::object::encode(&security()));
    out.extend_from_slice(b"}}");
    out
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
        let doc: Value = serde_json::from_slice(&v3(kinds::all(), "apis/apps/v1", &Echo).unwrap()).unwrap();
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
        assert!(v3(kinds::all(), "apis/apps/v9", &NoDocs).is_none());
        let index = v3_index(kinds::all(), &|p| p.len().to_string());
        assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], "/openapi/v3/apis/apps/v1?hash=12");
    }

    #[test]
    fn defaults_are_told_in_version_3_alone() {
        let doc: Value = serde_json::from_slice(&v3(kinds::all(), "api/v1", &NoDocs).unwrap()).unwrap();
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
            ("ContainerStatus", "state", json!({"allOf": reference("ContainerState"), "default": {}})),
            (
                "ReplicationControllerSpec",
                "replicas",
                json!({"type": "integer", "format": "int32", "default": 1}),
            ),
            ("ContainerRestartRule", "action", json!({"type": "string"})),
            (
                "ConfigMap",
                "binaryData",
                json!({"type": "object", "additionalProperties": {"type": "string", "format": "byte"}}),
            ),
        ] {
            assert_eq!(field(of, name), want, "{of}.{name}");
        }
        // What is in lists and maps is there.
        assert_eq!(field("Container", "ports")["items"], reference("ContainerPort")[0]);
        assert_eq!(field("Container", "args")["items"], json!({"type": "string"}));
        assert!(field("ScaleIOVolumeSource", "secretRef").get("default").is_none(), "it is a pointer");
        let old: Value = serde_json::from_slice(&v2(kinds::all(), &NoDocs, &[])).unwrap();
        assert_eq!(
            old["definitions"]["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"],
            json!({"type": "string"})
        );
    }

    /// The definitions of version 2 and of all documents of version 3, and each document.
    fn documents() -> Vec<(String, Value)> {
        let kinds = kinds::all();
        let index = v3_index(kinds, &|_| String::new());
        let mut all = vec![("v2".to_owned(), v2(kinds, &NoDocs, &[]))];
        for path in index["paths"].as_object().unwrap().keys() {
            all.push((
                path.clone(),
                v3(kinds, path, &NoDocs).unwrap_or_else(|| panic!("no document at {path}")),
            ));
        }
        all.into_iter().map(|(path, bytes)| (path, serde_json::from_slice(&bytes).unwrap())).collect()
    }

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(list) => list.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }

    /// Whatever document is taken: what it refers to is in it, no two operations have one name, and each open part of a path is
    /// a parameter.
    #[test]
    fn documents_are_whole() {
        let documents = documents();
        assert!(documents.len() > 60);
        for (path, document) in &documents {
            let mut found = Vec::new();
            references(document, &mut found);
            for reference in found {
                let place = document.pointer(reference.trim_start_matches('#'));
                assert!(place.is_some_and(Value::is_object), "{path}: {reference}");
            }
            let mut names = std::collections::HashSet::new();
            for (at, item) in document["paths"].as_object().unwrap() {
                let item = item.as_object().unwrap();
                let named = |name: &str| {
                    let list = item.get("parameters").and_then(Value::as_array);
                    list.into_iter().flatten().any(|p| p["in"] == "path" && p["name"] == name)
                };
                for part in at.split('/').filter_map(|p| p.strip_prefix('{')?.strip_suffix('}')) {
                    assert!(named(part), "{path}: {at}: {part}");
                }
                for operation in item.iter().filter(|(method, _)| *method != "parameters").map(|(_, o)| o) {
                    let id = operation["operationId"].as_str().unwrap();
                    assert!(names.insert(id.to_owned()), "{path}: {at}: {id} is another's name");
                    assert!(operation["responses"]["401"].is_object());
                }
            }
        }
    }

    /// What tools go by when they merge, of types and of fields.
    #[test]
    fn how_things_merge_is_told() {
        let document: Value = serde_json::from_slice(&v2(kinds::all(), &NoDocs, &[])).unwrap();
        let of = |name: &str, field: &str, mark: &str| {
            let definition = &document["definitions"][format!("io.k8s.{name}")];
            let place = if field.is_empty() { definition } else { &definition["properties"][field] };
            place[format!("x-kubernetes-{mark}")].clone()
        };
        for (name, field, mark, want) in [
            ("api.core.v1.NodeSelector", "", "map-type", json!("atomic")),
            ("api.admissionregistration.v1.ParamRef", "", "map-type", json!("atomic")),
            ("api.autoscaling.v2.CrossVersionObjectReference", "", "map-type", Value::Null),
            ("api.core.v1.PersistentVolumeSpec", "claimRef", "map-type", json!("granular")),
            ("api.core.v1.ServiceSpec", "selector", "map-type", json!("atomic")),
            ("api.core.v1.PodSpec", "containers", "list-type", json!("map")),
            ("api.core.v1.ServiceSpec", "ports", "list-map-keys", json!(["port", "protocol"])),
            ("api.core.v1.PodSpec", "volumes", "patch-strategy", json!("merge,retainKeys")),
            ("api.policy.v1.PodDisruptionBudgetSpec", "selector", "patch-strategy", json!("replace")),
            (
                "api.core.v1.SeccompProfile",
                "",
                "unions",
                json!([{"discriminator": "type", "fields-to-discriminateBy": {"localhostProfile": "LocalhostProfile"}}]),
            ),
        ] {
            assert_eq!(of(name, field, mark), want, "{name} {field} {mark}");
        }
        let options = of("apimachinery.pkg.apis.meta.v1.DeleteOptions", "", "group-version-kind");
        let options = options.as_array().unwrap();
        let here =
            |group: &str, version: &str| json!({"group": group, "version": version, "kind": "DeleteOptions"});
        assert_eq!(options[0], here("", "v1"));
        assert!(options.contains(&here("apps", "v1")) && options.contains(&here("storage.k8s.io", "v1")));
        let schema = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        assert_eq!(
            document["definitions"][schema]["properties"]["items"]["$ref"],
            json!(format!("#/definitions/{schema}OrArray"))
        );
    }

    #[test]
    fn lists_and_kinds_of_the_past_are_described() {
        struct Told;
        impl Docs for Told {
            fn texts(&self) -> Texts {
                let mut texts = Texts::default();
                texts.insert(definitions::MODEL, "kind", "which kind");
                texts.insert("io.k8s.api.batch.v1.CronJob", "", "by the clock");
                texts.insert("io.k8s.api.apps.v1.DeploymentSpec", "replicas", "how many");
                texts
            }
        }
        let document: Value = serde_json::from_slice(&v2(kinds::all(), &Told, &[])).unwrap();
        let of = |name: &str| &document["definitions"][format!("io.k8s.api.{name}")];
        assert_eq!(of("core.v1.PodList")["description"], "PodList is a list of Pod");
        assert_eq!(of("core.v1.PodList")["properties"]["kind"]["description"], "which kind");
        assert_eq!(of("batch.v1beta1.CronJob")["description"], "by the clock");
        assert_eq!(of("core.v1.Pod").get("description"), None);
    }

    #[test]
    fn each_path_is_described_as_it_is_served() {
        let documents = documents();
        let two = &documents[0].1["paths"];
        let pod = "/api/v1/namespaces/{namespace}/pods/{name}";
        for (path, method, id, action) in [
            (format!("{pod}/log"), "get", "readCoreV1NamespacedPodLog", "get"),
            (format!("{pod}/exec"), "post", "connectCoreV1PostNamespacedPodExec", "connect"),
            (
                format!("{pod}/proxy/{{path}}"),
                "head",
                "connectCoreV1HeadNamespacedPodProxyWithPath",
                "connect",
            ),
            ("/api/v1/nodes/{name}/proxy".into(), "options", "connectCoreV1OptionsNodeProxy", "connect"),
            ("/api/v1/watch/pods".into(), "get", "watchCoreV1PodListForAllNamespaces", "watchlist"),
            (
                "/apis/apps/v1/watch/namespaces/{namespace}/deployments/{name}".into(),
                "get",
                "watchAppsV1NamespacedDeployment",
                "watch",
            ),
            ("/api/v1/watch/nodes".into(), "get", "watchCoreV1NodeList", "watchlist"),
        ] {
            let operation = &two[&path][method];
            assert_eq!(
                (&operation["operationId"], &operation["x-kubernetes-action"]),
                (&json!(id), &json!(action)),
                "{path}"
            );
        }
        let options = json!({"group": "", "version": "v1", "kind": "PodExecOptions"});
        assert_eq!(two[format!("{pod}/exec")]["get"]["x-kubernetes-group-version-kind"], options);
        let log = &two[format!("{pod}/log")]["get"];
        assert_eq!(
            (&log["produces"][0], &log["responses"]["200"]["schema"]),
            (&json!("text/plain"), &json!({"type": "string"}))
        );
        assert!(two["/api/v1/watch/componentstatuses"].is_null(), "what cannot be watched has no such path");
        let answer = |path: &str| two[path]["delete"]["responses"]["200"]["schema"]["$ref"].clone();
        assert_eq!(answer(pod), "#/definitions/io.k8s.api.core.v1.Pod");
        assert_eq!(
            answer("/api/v1/namespaces/{namespace}/secrets/{name}"),
            "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Status"
        );
        for path in ["/version/", "/apis/", "/openid/v1/jwks/", "/.well-known/openid-configuration/"] {
            assert!(two[path]["get"]["operationId"].is_string(), "{path}");
            let three = documents.iter().find(|(of, _)| *of == path.trim_matches('/')).unwrap();
            assert_eq!(three.1["paths"][path]["get"]["operationId"], two[path]["get"]["operationId"]);
        }
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
