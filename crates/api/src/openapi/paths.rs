//! The paths of a kind: what can be done with it, and which query parameters take part.

use serde_json::{Value, json};

use super::{Form, definition_name, insert};
use crate::kinds::{Subresource, Version};
use crate::names::{Gvk, Gvr};
use crate::schema::TypeId;
use crate::{Kind, Map};

const JSON_TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Query parameters by verb: name and whether it is a boolean, an integer or text.
fn parameters(verb: &str) -> &'static [(&'static str, &'static str)] {
    match verb {
        "list" | "deletecollection" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        "create" | "update" => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]
        }
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        _ => &[],
    }
}

fn parameter(name: &str, kind: &str, place: &str, form: Form) -> Value {
    let required = place == "path";
    match form {
        Form::V2 => {
            json!({"name": name, "in": place, "type": kind, "required": required, "uniqueItems": true})
        }
        Form::V3 => {
            json!({"name": name, "in": place, "required": required, "schema": {"type": kind, "uniqueItems": true}})
        }
    }
}

struct Target<'a> {
    kind: &'a Kind,
    version: &'a Version,
    /// The kind of what is sent and answered, and the definition of it.
    gvk: Gvk,
    definition: String,
    subresource: Option<&'a Subresource>,
}

impl Target<'_> {
    fn operation(&self, verb: &str, form: Form) -> Value {
        let mut map = Map::new();
        let sub = self.subresource.map(|s| s.name.as_str()).unwrap_or_default();
        let action = match verb {
            "create" => "post",
            "update" => "put",
            other => other,
        };
        let scope = if self.kind.namespaced { "Namespaced" } else { "" };
        let id = format!(
            "{verb}{}{}{scope}{}{sub}",
            self.version.group.replace('.', ""),
            self.version.version,
            self.kind.kind
        );
        insert(&mut map, "description", format!("{verb} {} {sub}", self.kind.kind).trim().to_owned());
        insert(&mut map, "operationId", id);
        let mut list: Vec<Value> =
            parameters(verb).iter().map(|(n, k)| parameter(n, k, "query", form)).collect();
        let body = match verb {
            "create" | "update" => Some(self.definition.clone()),
            "patch" => Some("io.k8s.apimachinery.pkg.apis.meta.v1.Patch".to_owned()),
            "delete" | "deletecollection" => {
                Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned())
            }
            _ => None,
        };
        let types: &[&str] = if verb == "patch" { &PATCH_TYPES } else { &JSON_TYPES };
        let schema = |name: &str| match name.rsplit('.').next() {
            Some("Patch") => json!({"type": "object"}),
            _ => json!({"$ref": form.reference(name)}),
        };
        if let Some(body) = body {
            let required = !verb.starts_with("delete");
            match form {
                Form::V2 => {
                    list.push(
                        json!({"in": "body", "name": "body", "required": required, "schema": schema(&body)}),
                    );
                    insert(&mut map, "consumes", types.to_vec());
                }
                Form::V3 => {
                    let content: Map =
                        types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema(&body)}))).collect();
                    insert(&mut map, "requestBody", json!({"required": required, "content": content}));
                }
            }
        }
        if !list.is_empty() {
            insert(&mut map, "parameters", list);
        }
        let answer = match verb {
            "list" => format!("{}List", self.definition),
            "delete" | "deletecollection" => "io.k8s.apimachinery.pkg.apis.meta.v1.Status".to_owned(),
            _ => self.definition.clone(),
        };
        let code = if verb == "create" { "201" } else { "200" };
        let known = self.kind.custom || TypeId::named(&answer).is_some();
        let response = match form {
            _ if !known => json!({"description": "OK"}),
            Form::V2 => json!({"description": "OK", "schema": {"$ref": form.reference(&answer)}}),
            Form::V3 => {
                let content: Map = JSON_TYPES
                    .iter()
                    .map(|t| ((*t).to_owned(), json!({"schema": {"$ref": form.reference(&answer)}})))
                    .collect();
                json!({"description": "OK", "content": content})
            }
        };
        if form == Form::V2 {
            insert(&mut map, "produces", JSON_TYPES.to_vec());
        }
        insert(&mut map, "responses", json!({code: response}));
        insert(&mut map, "x-kubernetes-action", action);
        let gvk = json!({"group": self.gvk.group, "version": self.gvk.version, "kind": self.gvk.kind});
        insert(&mut map, "x-kubernetes-group-version-kind", gvk);
        Value::Object(map)
    }

    /// A path with the operations that `verbs` allow there, as method and verb.
    fn item(&self, verbs: &[&str], methods: &[(&str, &str)], names: &[&str], form: Form) -> Option<Value> {
        let mut map = Map::new();
        for (method, verb) in methods {
            if verbs.contains(verb) {
                insert(&mut map, method, self.operation(verb, form));
            }
        }
        if map.is_empty() {
            return None;
        }
        let list: Vec<Value> = names.iter().map(|n| parameter(n, "string", "path", form)).collect();
        if !list.is_empty() {
            insert(&mut map, "parameters", list);
        }
        Some(Value::Object(map))
    }
}

/// The paths of a kind in a version.
pub(super) fn of(kind: &Kind, version: &Version, form: Form) -> Vec<(String, Value)> {
    let gvr: Gvr = version.gvr(kind);
    let namespace = kind.namespaced.then_some("{namespace}");
    let base = gvr.path(namespace);
    let collection: &[&str] = if kind.namespaced { &["namespace"] } else { &[] };
    let object: &[&str] = if kind.namespaced { &["name", "namespace"] } else { &["name"] };
    let whole = Target {
        kind,
        version,
        gvk: version.gvk(kind),
        definition: definition_name(kind, version),
        subresource: None,
    };
    let mut out = Vec::new();
    let mut add = |path: String, item: Option<Value>| out.extend(item.map(|i| (path, i)));
    let methods = [("get", "list"), ("post", "create"), ("delete", "deletecollection")];
    add(base.clone(), whole.item(&version.verbs, &methods, collection, form));
    if kind.namespaced {
        add(gvr.path(None), whole.item(&version.verbs, &[("get", "list")], &[], form));
    }
    let methods = [("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];
    add(format!("{base}/{{name}}"), whole.item(&version.verbs, &methods, object, form));
    for sub in &version.subresources {
        let definition = if sub.gvk == whole.gvk {
            whole.definition.clone()
        } else {
            TypeId::of_gvk(&sub.gvk.group, &sub.gvk.version, &sub.gvk.kind)
                .map(|t| t.name().to_owned())
                .unwrap_or_default()
        };
        if definition.is_empty() {
            continue; // connections carry no objects
        }
        let target = Target { kind, version, gvk: sub.gvk.clone(), definition, subresource: Some(sub) };
        let methods = [("get", "get"), ("post", "create"), ("put", "update"), ("patch", "patch")];
        add(format!("{base}/{{name}}/{}", sub.name), target.item(&sub.verbs, &methods, object, form));
    }
    out
}
