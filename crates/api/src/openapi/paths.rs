//! The paths of a kind: what can be done with it, and which query parameters take part. Operations have upstream's names, by
//! which clients are generated.

use serde_json::{Value, json};

use super::definitions::{definition_name, insert};
use super::{Form, META, Texts};
use crate::kinds::{Subresource, Version};
use crate::names::{Gvk, Gvr};
use crate::schema::TypeId;
use crate::{Kind, Map};

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
const UNREADABLE: Parameter = ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "");

/// The methods by which one connects to what a subresource leads to, and the query parameters that take part.
fn connection(subresource: &str) -> Option<(&'static [&'static str], &'static [Parameter])> {
    const BOTH: &[&str] = &["get", "post"];
    const EACH: &[&str] = &["get", "put", "post", "delete", "options", "head", "patch"];
    const CONTAINER: Parameter = (
        "container",
        "string",
        "The container. Not needed of a pod that has one, or says which it is by default.",
    );
    const STDERR: Parameter = ("stderr", "boolean", "Whether standard error is sent.");
    const STDIN: Parameter = ("stdin", "boolean", "Whether standard input is taken.");
    const STDOUT: Parameter = ("stdout", "boolean", "Whether standard output is sent.");
    const TTY: Parameter = ("tty", "boolean", "Whether it is done on a terminal.");
    Some(match subresource {
        "attach" => (BOTH, &[CONTAINER, STDERR, STDIN, STDOUT, TTY]),
        "exec" => (
            BOTH,
            &[
                ("command", "string", "A word of the command, which no shell reads; there may be several."),
                CONTAINER,
                STDERR,
                STDIN,
                STDOUT,
                TTY,
            ],
        ),
        "portforward" => (BOTH, &[("ports", "integer", "A port. Needed if the connection is a WebSocket.")]),
        "proxy" => (EACH, &[("path", "string", "What is asked for there.")]),
        _ => return None,
    })
}

/// Query parameters of a log.
const LOG: [Parameter; 10] = [
    (
        "container",
        "string",
        "The container. Not needed of a pod that has one, or says which it is by default.",
    ),
    ("follow", "boolean", "Whether what is written from now on is sent as it comes."),
    (
        "insecureSkipTLSVerifyBackend",
        "boolean",
        "Whether the node need not prove who it is. Then nothing proves that the log is the container's.",
    ),
    ("limitBytes", "integer", "How many bytes are sent at most."),
    PRETTY,
    ("previous", "boolean", "Whether the log of the container before this one is meant."),
    ("sinceSeconds", "integer", "How many seconds back it begins."),
    ("stream", "string", "Which stream of the container: All, Stdout or Stderr."),
    ("tailLines", "integer", "How many of the last lines are sent."),
    ("timestamps", "boolean", "Whether each line begins with when it was written."),
];

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
            UNREADABLE,
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
        "delete" => &[DRY_RUN, GRACE, UNREADABLE, ORPHAN, PROPAGATION],
        "watch" | "watchlist" => parameters("list"),
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

/// What is answered, by its status: of this definition, or text if it has no name.
fn responses(form: Form, codes: &[(&str, &str)], types: &[&str], definition: &str) -> Value {
    let schema = || match definition {
        "" => json!({"type": "string"}),
        name => json!({"$ref": form.reference(name)}),
    };
    let one = |text: &str| match form {
        Form::V2 => json!({"description": text, "schema": schema()}),
        Form::V3 => {
            let content: Map = types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema()}))).collect();
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
            "watchlist" => "watch",
            "log" => "read",
            other => other,
        };
        let sub = self.subresource.map(|s| s.name.as_str()).unwrap_or_default();
        let id = format!(
            "{word}{}{}{}{}{kind}{}{}{}",
            camel(group_word(&self.version.group), true),
            camel(&self.version.version, true),
            if verb == "deletecollection" { "Collection" } else { "" },
            if self.kind.namespaced && !everywhere { "Namespaced" } else { "" },
            camel(sub, true),
            if verb == "watchlist" { "List" } else { "" },
            if everywhere { "ForAllNamespaces" } else { "" },
        );
        let of = if sub.is_empty() { String::new() } else { format!("{sub} of ") };
        let text = match verb {
            "list" if self.version.verbs.contains(&"watch") => {
                format!("list or watch objects of kind {kind}")
            }
            "list" => format!("list objects of kind {kind}"),
            "watchlist" => format!(
                "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list operation instead."
            ),
            "watch" => format!(
                "watch changes to an object of kind {kind}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
            ),
            "get" | "log" | "update" => format!("{word} {of}the specified {kind}"),
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
        match verb {
            "log" => types.insert(0, "text/plain"),
            "list" | "watch" | "watchlist" if !custom => types.extend(STREAMS),
            _ => {}
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
        let queries: &[Parameter] = if verb == "log" { &LOG } else { parameters(verb) };
        list.extend(queries.iter().map(|p| queried(*p, form, self.docs)));
        if !list.is_empty() {
            insert(&mut map, "parameters", list);
        }
        let answer = match verb {
            "list" => format!("{}List", self.definition),
            "delete" if self.kind.answers_deleted && !custom => self.definition.clone(),
            "delete" | "deletecollection" => format!("{META}.Status"),
            "watch" | "watchlist" => format!("{META}.WatchEvent"),
            "log" => String::new(),
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
        insert(&mut map, "responses", responses(form, codes, &types, &answer));
        insert(&mut map, "tags", vec![tag(&self.version.group, &self.version.version)]);
        let action = match verb {
            "create" => "post",
            "update" => "put",
            "log" => "get",
            other => other,
        };
        self.mark(&mut map, action);
        Value::Object(map)
    }

    /// Says what an operation does, and to which kind.
    fn mark(&self, map: &mut Map, action: &str) {
        insert(map, "x-kubernetes-action", action);
        let gvk = json!({"group": self.gvk.group, "version": self.gvk.version, "kind": self.gvk.kind});
        insert(map, "x-kubernetes-group-version-kind", gvk);
    }

    /// The path of a subresource that leads somewhere else; `below`: with a path of what is there.
    fn connection(
        &self,
        methods: &[&str],
        queries: &[Parameter],
        names: &[&str],
        below: bool,
        form: Form,
    ) -> Value {
        const ANY: [&str; 1] = ["*/*"];
        let mut item = Map::new();
        let sub = self.subresource.map(|s| s.name.as_str()).unwrap_or_default();
        for method in methods {
            let id = format!(
                "connect{}{}{}{}{}{}{}",
                camel(group_word(&self.version.group), true),
                camel(&self.version.version, true),
                camel(method, true),
                if self.kind.namespaced { "Namespaced" } else { "" },
                self.kind.kind,
                camel(sub, true),
                if below { "WithPath" } else { "" },
            );
            let mut map = Map::new();
            let text = format!("connect {} requests to {sub} of {}", method.to_uppercase(), self.kind.kind);
            insert(&mut map, "description", text);
            insert(&mut map, "operationId", id);
            if form == Form::V2 {
                insert(&mut map, "consumes", ANY.to_vec());
                insert(&mut map, "produces", ANY.to_vec());
                insert(&mut map, "schemes", ["https"].to_vec());
            }
            insert(&mut map, "responses", responses(form, &[("200", "OK")], &ANY, ""));
            insert(&mut map, "tags", vec![tag(&self.version.group, &self.version.version)]);
            self.mark(&mut map, "connect");
            insert(&mut item, method, map);
        }
        let mut list = self.names(names, form);
        if below {
            list.push(parameter("path", "string", "path", "path to the resource", form));
        }
        list.extend(queries.iter().map(|p| queried(*p, form, self.docs)));
        insert(&mut item, "parameters", list);
        Value::Object(item)
    }

    /// The parts of a path that are open.
    fn names(&self, names: &[&str], form: Form) -> Vec<Value> {
        let text = |name: &str| match name {
            "name" => format!("name of the {}", self.gvk.kind),
            _ => "object name and auth scope, such as for teams and projects".to_owned(),
        };
        names.iter().map(|n| parameter(n, "string", "path", &text(n), form)).collect()
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
        let mut list = self.names(names, form);
        if verbs != ["log"] {
            list.push(queried(PRETTY, form, self.docs));
        }
        insert(&mut map, "parameters", list);
        Some(Value::Object(map))
    }
}

/// A path of the server itself.
pub(super) struct Fixed {
    /// Without slashes around it; the document of version 3 that describes it is called by it.
    pub(super) path: &'static str,
    id: &'static str,
    text: &'static str,
    tag: &'static str,
    takes: &'static [&'static str],
    gives: &'static [&'static str],
    /// What is answered; text if it has no name.
    pub(super) definition: &'static str,
}

/// All of them.
pub(super) const FIXED: [Fixed; 5] = [
    Fixed {
        path: ".well-known/openid-configuration",
        id: "getServiceAccountIssuerOpenIDConfiguration",
        text: "get what OpenID Connect has to know of the issuer of service accounts' tokens",
        tag: "WellKnown",
        takes: &[],
        gives: &["application/json"],
        definition: "",
    },
    Fixed {
        path: "api",
        id: "getCoreAPIVersions",
        text: "get available API versions",
        tag: "core",
        takes: &TYPES,
        gives: &TYPES,
        definition: "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions",
    },
    Fixed {
        path: "apis",
        id: "getAPIVersions",
        text: "get available API versions",
        tag: "apis",
        takes: &TYPES,
        gives: &TYPES,
        definition: "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList",
    },
    Fixed {
        path: "openid/v1/jwks",
        id: "getServiceAccountIssuerOpenIDKeyset",
        text: "get the keys by which service accounts' tokens are verified",
        tag: "openid",
        takes: &[],
        gives: &["application/jwk-set+json"],
        definition: "",
    },
    Fixed {
        path: "version",
        id: "getCodeVersion",
        text: "get the version information for this server",
        tag: "version",
        takes: &["application/json"],
        gives: &["application/json"],
        definition: "io.k8s.apimachinery.pkg.version.Info",
    },
];

impl Fixed {
    /// What a document says of it.
    pub(super) fn item(&self, form: Form) -> Value {
        read_only(form, self.id, self.text, self.tag, [self.takes, self.gives], self.definition)
    }
}

/// A path that can be read; in which types it is asked for and answered.
fn read_only(
    form: Form,
    id: &str,
    text: &str,
    tag: &str,
    [takes, gives]: [&[&str]; 2],
    definition: &str,
) -> Value {
    let mut map = Map::new();
    insert(&mut map, "description", text);
    insert(&mut map, "operationId", id);
    if form == Form::V2 {
        if !takes.is_empty() {
            insert(&mut map, "consumes", takes.to_vec());
        }
        insert(&mut map, "produces", gives.to_vec());
        insert(&mut map, "schemes", ["https"].to_vec());
    }
    insert(&mut map, "responses", responses(form, &[("200", "OK")], gives, definition));
    insert(&mut map, "tags", vec![tag]);
    json!({"get": map})
}

/// A path of discovery.
fn discovered(form: Form, id: &str, text: &str, tag: &str, answer: &str) -> Value {
    read_only(form, id, text, tag, [&TYPES, &TYPES], &format!("{META}.{answer}"))
}

/// The path that lists what a group and version have.
pub(super) fn of_version(group: &str, version: &str, form: Form) -> (String, Value) {
    let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
    let id = format!("get{}{}APIResources", camel(group_word(group), true), camel(version, true));
    let item = discovered(form, &id, "get available resources", &tag(group, version), "APIResourceList");
    (format!("{root}/{version}/"), item)
}

/// The path that lists the versions of a group other than the core one.
pub(super) fn of_group(group: &str, form: Form) -> (String, Value) {
    let id = format!("get{}APIGroup", camel(group_word(group), true));
    let item =
        discovered(form, &id, "get information of a group", &camel(group_word(group), false), "APIGroup");
    (format!("/apis/{group}/"), item)
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
    if version.has_verb("watch") && !kind.custom {
        let root = Gvr::owned(version.group.as_str(), version.version.as_str(), "").path(None);
        let watched = |path: &str| format!("{root}watch/{}", path.strip_prefix(&root).unwrap_or(path));
        let list = [("get", "watchlist")];
        add(watched(&base), whole.item(&["watchlist"], &list, collection, false, form));
        if kind.namespaced {
            add(watched(&gvr.path(None)), whole.item(&["watchlist"], &list, &[], true, form));
        }
        let item = whole.item(&["watch"], &[("get", "watch")], object, false, form);
        add(watched(&format!("{base}/{{name}}")), item);
    }
    for sub in &version.subresources {
        let path = format!("{base}/{{name}}/{}", sub.name);
        let target = |definition: String| Target {
            kind,
            version,
            gvk: sub.gvk.clone(),
            definition,
            subresource: Some(sub),
            docs,
        };
        if let Some((methods, queries)) = connection(&sub.name) {
            let target = target(String::new());
            add(path.clone(), Some(target.connection(methods, queries, object, false, form)));
            if sub.name == "proxy" {
                let below = target.connection(methods, queries, object, true, form);
                add(format!("{path}/{{path}}"), Some(below));
            }
            continue;
        }
        if sub.name == "log" {
            let item = target(String::new()).item(&["log"], &[("get", "log")], object, false, form);
            add(path, item);
            continue;
        }
        let definition = if sub.gvk == whole.gvk {
            whole.definition.clone()
        } else {
            TypeId::of_gvk(&sub.gvk.group, &sub.gvk.version, &sub.gvk.kind)
                .map(|t| t.name().to_owned())
                .unwrap_or_default()
        };
        let methods = [("get", "get"), ("post", "create"), ("put", "update"), ("patch", "patch")];
        add(path, target(definition).item(&sub.verbs, &methods, object, false, form));
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
