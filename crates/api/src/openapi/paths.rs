//! The paths of a kind: what can be done with it, and which query parameters take part. Operations have upstream's names, by
//! which clients are generated.

use serde_json::{Value, json};

use super::{Form, Texts, definition_name, insert};
use crate::kinds::{Subresource, Version};
use crate::names::{Gvk, Gvr};
use crate::schema::TypeId;
use crate::{Kind, Map};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// In what an object is written; definitions' have no protobuf.
const TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// A query parameter: its name, type, and what it is for. The options of a deletion are described where their type is.
type Parameter = (&'static str, &'static str, &'static str);

const ALLOW_BOOKMARKS: Parameter = (
    "allowWatchBookmarks",
    "boolean",
    "Whether a watch may send events of type BOOKMARK, which only tell how far it is.",
);
const CONTINUE: Parameter =
    ("continue", "string", "Where the list goes on: what the part before ended with.");
const DRY_RUN: Parameter =
    ("dryRun", "string", "With the value All everything is done but that anything is stored.");
const FIELD_SELECTOR: Parameter =
    ("fieldSelector", "string", "Which objects, by their fields. All if it is empty.");
const LABEL_SELECTOR: Parameter =
    ("labelSelector", "string", "Which objects, by their labels. All if it is empty.");
const LIMIT: Parameter = (
    "limit",
    "integer",
    "How many objects an answer has at most. If there are more it ends with what to continue by.",
);
const VERSION: Parameter =
    ("resourceVersion", "string", "The state that is asked for. The newest if it is not given.");
const VERSION_MATCH: Parameter =
    ("resourceVersionMatch", "string", "Whether exactly that resourceVersion is meant, or one not older.");
const INITIAL_EVENTS: Parameter = (
    "sendInitialEvents",
    "boolean",
    "Whether a watch begins with an event for each object there is, and a bookmark after them.",
);
const TIMEOUT: Parameter =
    ("timeoutSeconds", "integer", "After how many seconds the call ends, whatever happens.");
const WATCH: Parameter = ("watch", "boolean", "Whether changes are sent as they happen, instead of a list.");
const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "Who makes the change. Needed to apply; of other changes it is the beginning of the user agent if it is not given.",
);
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What becomes of fields that are unknown or given twice: Ignore, Warn (if it is not given) or Strict.",
);
const FORCE: Parameter = ("force", "boolean", "Whether an apply takes fields over that others own.");
const GRACE: Parameter = ("gracePeriodSeconds", "integer", "");
const ORPHAN: Parameter = ("orphanDependents", "boolean", "");
const PROPAGATION: Parameter = ("propagationPolicy", "string", "");
const PRETTY: Parameter = ("pretty", "string", "Whether the answer is written for people to read.");

/// Query parameters by verb.
fn parameters(verb: &str) -> &'static [Parameter] {
    match verb {
        "list" => &[
            ALLOW_BOOKMARKS,
            CONTINUE,
            FIELD_SELECTOR,
            LABEL_SELECTOR,
            LIMIT,
            VERSION,
            VERSION_MATCH,
            INITIAL_EVENTS,
            TIMEOUT,
            WATCH,
        ],
        "deletecollection" => &[
            CONTINUE,
            DRY_RUN,
            FIELD_SELECTOR,
            GRACE,
            LABEL_SELECTOR,
            LIMIT,
            ORPHAN,
            PROPAGATION,
            VERSION,
            VERSION_MATCH,
            INITIAL_EVENTS,
            TIMEOUT,
        ],
        "create" | "update" => &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION],
        "patch" => &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE],
        "delete" => &[DRY_RUN, GRACE, ORPHAN, PROPAGATION],
        _ => &[],
    }
}

fn parameter(name: &str, kind: &str, place: &str, text: &str, form: Form) -> Value {
    let mut out = Map::new();
    if !text.is_empty() {
        insert(&mut out, "description", text);
    }
    insert(&mut out, "in", place);
    insert(&mut out, "name", name);
    if place == "path" {
        insert(&mut out, "required", true);
    }
    match form {
        Form::V2 => {
            insert(&mut out, "type", kind);
            insert(&mut out, "uniqueItems", true);
        }
        Form::V3 => insert(&mut out, "schema", json!({"type": kind, "uniqueItems": true})),
    }
    Value::Object(out)
}

fn queried((name, kind, text): Parameter, form: Form, docs: &Texts) -> Value {
    let told = docs.of_field(&format!("{META}.DeleteOptions"), name).filter(|_| text.is_empty());
    parameter(name, kind, "query", told.unwrap_or(text), form)
}

/// A word as part of an operation's name: what is no letter or digit begins another one.
fn camel(text: &str, mut capital: bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if !(c.is_alphabetic() || c == '_' || c.is_ascii_digit() && !out.is_empty()) {
            capital = true;
        } else if std::mem::take(&mut capital) {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

/// The group as operations call it.
fn group_word(group: &str) -> &str {
    if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) }
}

fn tag(group: &str, version: &str) -> String {
    format!("{}_{}", camel(group_word(group), false), camel(version, false))
}

/// An article, unless the word is of several.
fn article(noun: &str) -> &'static str {
    if noun.ends_with('s') && !noun.ends_with("ss") {
        ""
    } else if noun.starts_with(|c: char| "aeiouAEIOU".contains(c)) {
        "an "
    } else {
        "a "
    }
}

/// What is answered, by its status.
fn responses(form: Form, codes: &[(&str, &str)], types: &[&str], definition: &str, known: bool) -> Value {
    let reference = || json!({"$ref": form.reference(definition)});
    let one = |text: &str| match form {
        _ if !known => json!({"description": text}),
        Form::V2 => json!({"description": text, "schema": reference()}),
        Form::V3 => {
            let content: Map =
                types.iter().map(|t| ((*t).to_owned(), json!({"schema": reference()}))).collect();
            json!({"description": text, "content": content})
        }
    };
    let mut all: Map = codes.iter().map(|(code, text)| ((*code).to_owned(), one(text))).collect();
    insert(&mut all, "401", json!({"description": "Unauthorized"}));
    Value::Object(all)
}

struct Target<'a> {
    kind: &'a Kind,
    version: &'a Version,
    /// The kind of what is sent and answered, and the definition of it.
    gvk: Gvk,
    definition: String,
    subresource: Option<&'a Subresource>,
    docs: &'a Texts,
}

impl Target<'_> {
    /// The name of an operation and what it does. `everywhere`: in all namespaces.
    fn words(&self, verb: &str, everywhere: bool) -> (String, String) {
        let kind = &self.kind.kind;
        let word = match verb {
            "get" => "read",
            "update" => "replace",
            "deletecollection" => "delete",
            other => other,
        };
        let sub = self.subresource.map(|s| s.name.as_str()).unwrap_or_default();
        let id = format!(
            "{word}{}{}{}{}{kind}{}{}",
            camel(group_word(&self.version.group), true),
            camel(&self.version.version, true),
            if verb == "deletecollection" { "Collection" } else { "" },
            if self.kind.namespaced && !everywhere { "Namespaced" } else { "" },
            camel(sub, true),
            if everywhere { "ForAllNamespaces" } else { "" },
        );
        let of = if sub.is_empty() { String::new() } else { format!("{sub} of ") };
        let text = match verb {
            "list" if self.version.verbs.contains(&"watch") => {
                format!("list or watch objects of kind {kind}")
            }
            "list" => format!("list objects of kind {kind}"),
            "get" | "update" => format!("{word} {of}the specified {kind}"),
            "patch" => format!("partially update {of}the specified {kind}"),
            "deletecollection" => format!("delete collection of {kind}"),
            _ => format!("{word} {of}{}{kind}", article(kind)),
        };
        (id, text)
    }

    fn operation(&self, verb: &str, everywhere: bool, form: Form) -> Value {
        let mut map = Map::new();
        let (id, text) = self.words(verb, everywhere);
        insert(&mut map, "description", text);
        insert(&mut map, "operationId", id);
        let custom = self.kind.custom;
        let body = match verb {
            "create" | "update" => Some(self.definition.clone()),
            "patch" => Some(format!("{META}.Patch")),
            "delete" | "deletecollection" => Some(format!("{META}.DeleteOptions")),
            _ => None,
        };
        let sent: Vec<&str> = match (verb, custom) {
            ("patch", true) => PATCH_TYPES.into_iter().filter(|t| !t.contains("strategic")).collect(),
            ("patch", false) => PATCH_TYPES.to_vec(),
            (_, true) => TYPES[..2].to_vec(),
            _ => vec!["*/*"],
        };
        let mut types = if custom { TYPES[..2].to_vec() } else { TYPES.to_vec() };
        if verb == "list" && !custom && self.version.verbs.contains(&"watch") {
            types.extend(STREAMS);
        }
        let mut list: Vec<Value> = Vec::new();
        if let Some(body) = body {
            let schema = json!({"$ref": form.reference(&body)});
            let required = !verb.starts_with("delete");
            match form {
                Form::V2 if required => {
                    list.push(json!({"in": "body", "name": "body", "required": true, "schema": schema}));
                }
                Form::V2 => list.push(json!({"in": "body", "name": "body", "schema": schema})),
                Form::V3 => {
                    let content: Map =
                        sent.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect();
                    insert(&mut map, "requestBody", json!({"content": content}));
                    if required {
                        map["requestBody"]["required"] = json!(true);
                    }
                }
            }
        }
        list.extend(parameters(verb).iter().map(|p| queried(*p, form, self.docs)));
        if !list.is_empty() {
            insert(&mut map, "parameters", list);
        }
        let answer = match verb {
            "list" => format!("{}List", self.definition),
            "delete" | "deletecollection" => format!("{META}.Status"),
            _ => self.definition.clone(),
        };
        const OK: (&str, &str) = ("200", "OK");
        const CREATED: (&str, &str) = ("201", "Created");
        const ACCEPTED: (&str, &str) = ("202", "Accepted");
        let codes: &[(&str, &str)] = match verb {
            "create" => &[OK, CREATED, ACCEPTED],
            "update" => &[OK, CREATED],
            "patch" if !custom => &[OK, CREATED],
            "delete" => &[OK, ACCEPTED],
            _ => &[OK],
        };
        if form == Form::V2 {
            insert(&mut map, "consumes", sent);
            insert(&mut map, "produces", types.clone());
            insert(&mut map, "schemes", ["https"].to_vec());
        }
        let known = custom || TypeId::named(&answer).is_some();
        insert(&mut map, "responses", responses(form, codes, &types, &answer, known));
        insert(&mut map, "tags", vec![tag(&self.version.group, &self.version.version)]);
        let action = match verb {
            "create" => "post",
            "update" => "put",
            other => other,
        };
        insert(&mut map, "x-kubernetes-action", action);
        let gvk = json!({"group": self.gvk.group, "version": self.gvk.version, "kind": self.gvk.kind});
        insert(&mut map, "x-kubernetes-group-version-kind", gvk);
        Value::Object(map)
    }

    /// A path with the operations that `verbs` allow there, as method and verb.
    fn item(
        &self,
        verbs: &[&str],
        methods: &[(&str, &str)],
        names: &[&str],
        everywhere: bool,
        form: Form,
    ) -> Option<Value> {
        let mut map = Map::new();
        for (method, verb) in methods {
            if verbs.contains(verb) {
                insert(&mut map, method, self.operation(verb, everywhere, form));
            }
        }
        if map.is_empty() {
            return None;
        }
        let text = |name: &str| match name {
            "name" => format!("name of the {}", self.gvk.kind),
            _ => "object name and auth scope, such as for teams and projects".to_owned(),
        };
        let mut list: Vec<Value> =
            names.iter().map(|n| parameter(n, "string", "path", &text(n), form)).collect();
        list.push(queried(PRETTY, form, self.docs));
        insert(&mut map, "parameters", list);
        Some(Value::Object(map))
    }
}

/// A path of discovery.
fn discovered(form: Form, id: String, text: &str, tag: String, answer: &str) -> Value {
    let answer = format!("{META}.{answer}");
    let known = TypeId::named(&answer).is_some();
    let mut map = Map::new();
    insert(&mut map, "description", text);
    insert(&mut map, "operationId", id);
    if form == Form::V2 {
        insert(&mut map, "consumes", TYPES.to_vec());
        insert(&mut map, "produces", TYPES.to_vec());
        insert(&mut map, "schemes", ["https"].to_vec());
    }
    insert(&mut map, "responses", responses(form, &[("200", "OK")], &TYPES, &answer, known));
    insert(&mut map, "tags", vec![tag]);
    json!({"get": map})
}

/// The path that lists what a group and version have.
pub(super) fn of_version(group: &str, version: &str, form: Form) -> (String, Value) {
    let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
    let id = format!("get{}{}APIResources", camel(group_word(group), true), camel(version, true));
    let item = discovered(form, id, "get available resources", tag(group, version), "APIResourceList");
    (format!("{root}/{version}/"), item)
}

/// The path that lists the versions of a group.
pub(super) fn of_group(group: &str, form: Form) -> (String, Value) {
    let word = camel(group_word(group), false);
    if group.is_empty() {
        let id = "getCoreAPIVersions".to_owned();
        return ("/api/".to_owned(), discovered(form, id, "get available API versions", word, "APIVersions"));
    }
    let id = format!("get{}APIGroup", camel(group_word(group), true));
    (format!("/apis/{group}/"), discovered(form, id, "get information of a group", word, "APIGroup"))
}

/// The paths of a kind in a version.
pub(super) fn of(kind: &Kind, version: &Version, form: Form, docs: &Texts) -> Vec<(String, Value)> {
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
        docs,
    };
    let mut out = Vec::new();
    let mut add = |path: String, item: Option<Value>| out.extend(item.map(|i| (path, i)));
    let methods = [("get", "list"), ("post", "create"), ("delete", "deletecollection")];
    add(base.clone(), whole.item(&version.verbs, &methods, collection, false, form));
    if kind.namespaced {
        add(gvr.path(None), whole.item(&version.verbs, &[("get", "list")], &[], true, form));
    }
    let methods = [("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];
    add(format!("{base}/{{name}}"), whole.item(&version.verbs, &methods, object, false, form));
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
        let target = Target { kind, version, gvk: sub.gvk.clone(), definition, subresource: Some(sub), docs };
        let methods = [("get", "get"), ("post", "create"), ("put", "update"), ("patch", "patch")];
        let item = target.item(&sub.verbs, &methods, object, false, form);
        add(format!("{base}/{{name}}/{}", sub.name), item);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_joined() {
        for (text, capital, want) in [
            ("rbac.authorization", false, "rbacAuthorization"),
            ("stable.example-x.com", true, "StableExampleXCom"),
            ("v1beta1", true, "V1beta1"),
            ("", true, ""),
        ] {
            assert_eq!(camel(text, capital), want);
        }
        assert_eq!([article("Endpoints"), article("Ingress"), article("Pod")], ["", "an ", "a "]);
    }
}
