//! Configurations of admission webhooks, and how a webhook of any kind is reached.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy};
use crate::field::{ErrorList, Path};
use crate::{Release, cel, meta, validate};

const COLUMNS: Columns = Columns::Coded {
    columns: &[Column::name(), Column::int("Webhooks"), Column::text("Age")],
    cells: |o, now| vec![name_cell(o), json!(items(&o["webhooks"]).len()), age_cell(o, now)],
};
const OLD: Conversion = Conversion::Functions { to_storage, from_storage: |_| {} };
const PLAIN_HOOKS: Decl = Decl {
    group: "admissionregistration.k8s.io",
    categories: &["api-extensions"],
    conversions: &[("admissionregistration.k8s.io", "v1beta1", OLD)],
    columns: COLUMNS,
    ..PLAIN
};

pub(super) const DECLS: &[Decl] = &[
    Decl {
        resource: "mutatingwebhookconfigurations",
        strategy: || Arc::new(Webhooks { mutating: true }),
        ..PLAIN_HOOKS
    },
    Decl {
        resource: "validatingwebhookconfigurations",
        strategy: || Arc::new(Webhooks { mutating: false }),
        ..PLAIN_HOOKS
    },
];

/// The versions of AdmissionReview and ConversionReview that the server speaks.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const SELECTORS: [&str; 2] = ["namespaceSelector", "objectSelector"];
/// How many conditions a webhook may have.
const MAX_CONDITIONS: usize = 64;

struct Webhooks {
    mutating: bool,
}

impl Strategy for Webhooks {
    fn default(&self, obj: &mut Value) {
        for hook in each(meta::as_map(obj), "webhooks") {
            set_text(hook, "failurePolicy", "Fail");
            set_text(hook, "matchPolicy", "Equivalent");
            set(hook, "namespaceSelector", json!({}));
            set(hook, "objectSelector", json!({}));
            set(hook, "timeoutSeconds", 10);
            if self.mutating {
                set_text(hook, "reinvocationPolicy", "Never");
            }
            for rule in each(hook, "rules") {
                set_text(rule, "scope", "*");
            }
            if let Some(service) = sub(hook, "clientConfig").and_then(|c| sub(c, "service")) {
                set(service, "port", 443);
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        self.check(obj, &Value::Null)
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        self.check(new, old)
    }

    /// Since v1 a webhook must be able to leave off what it does beside answering; what once was otherwise may stay.
    fn validate_sent(&self, api_version: &str, _: Release, new: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = ErrorList::new();
        let does_more = |hook: &Value| matches!(text(&hook["sideEffects"]), "Some" | "Unknown");
        if api_version == "admissionregistration.k8s.io/v1beta1"
            || old.is_some_and(|old| items(&old["webhooks"]).iter().any(does_more))
        {
            return errors;
        }
        for (i, hook) in items(&new["webhooks"]).iter().enumerate().filter(|(_, hook)| does_more(hook)) {
            let at = Path::new("webhooks").index(i).child("sideEffects");
            errors.not_supported(&at, &hook["sideEffects"], &["None", "NoneOnDryRun"]);
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

impl Webhooks {
    /// What was wrong with `old` as a whole may stay: names that are not unique, versions that the server does not
    /// speak, selectors of values that are no labels', and conditions, if none changed.
    fn check(&self, obj: &Value, old: &Value) -> ErrorList {
        let (mut errors, before) = (ErrorList::new(), items(&old["webhooks"]));
        let hooks = items(&obj["webhooks"]);
        let names = before.iter().map(|hook| text(&hook["name"])).filter(|name| !name.is_empty());
        let unique = names.clone().collect::<HashSet<_>>().len() == names.count();
        let spoken = before
            .iter()
            .map(|hook| items(&hook["admissionReviewVersions"]))
            .all(|list| list.is_empty() || list.iter().any(|v| REVIEWS.contains(&text(v))));
        let selects =
            before.iter().flat_map(|hook| SELECTORS.map(|field| &hook[field])).all(has_label_values);
        let same_conditions = !old.is_null()
            && hooks.len() == before.len()
            && hooks.iter().zip(before).all(|(a, b)| a["matchConditions"] == b["matchConditions"]);
        let mut seen = HashSet::new();
        for (i, hook) in hooks.iter().enumerate() {
            let at = Path::new("webhooks").index(i);
            self.check_hook(&mut errors, hook, &at, selects);
            check_client(&mut errors, &at.child("clientConfig"), &hook["clientConfig"]);
            if !same_conditions {
                check_conditions(&mut errors, &at.child("matchConditions"), &hook["matchConditions"], &[]);
            }
            let (field, versions) = ("admissionReviewVersions", &hook["admissionReviewVersions"]);
            check_versions(&mut errors, &at.child(field), versions, spoken);
            let name = text(&hook["name"]);
            if !name.is_empty() && !seen.insert(name) && unique {
                errors.duplicate(&at.child("name"), &hook["name"]);
            }
        }
        errors
    }

    fn check_hook(&self, errors: &mut ErrorList, hook: &Value, at: &Path, selects: bool) {
        let (name, name_at) = (text(&hook["name"]), at.child("name"));
        let wrong = validate::dns_subdomain(name);
        if name.is_empty() {
            errors.required(&name_at, "");
        } else if !wrong.is_empty() {
            errors.invalid_str(&name_at, name, wrong.join(","));
        } else if name.split('.').count() < 3 {
            let why = "should be a domain with at least three segments separated by dots";
            errors.invalid_str(&name_at, name, why);
        }
        for (j, rule) in items(&hook["rules"]).iter().enumerate() {
            check_rule(errors, &at.child("rules").index(j), rule);
        }
        one_of(errors, &at.child("failurePolicy"), &hook["failurePolicy"], &["Fail", "Ignore"]);
        one_of(errors, &at.child("matchPolicy"), &hook["matchPolicy"], &["Equivalent", "Exact"]);
        let (effects, effects_at) = (&hook["sideEffects"], at.child("sideEffects"));
        match text(effects) {
            // See `validate_sent`.
            "None" | "NoneOnDryRun" | "Some" | "Unknown" => {}
            _ if effects.is_null() => {
                errors.required(&effects_at, "must specify one of None, NoneOnDryRun");
            }
            _ => errors.not_supported(&effects_at, effects, &["None", "NoneOnDryRun"]),
        }
        if !(1..=30).contains(&int(&hook["timeoutSeconds"])) {
            errors.invalid(
                &at.child("timeoutSeconds"),
                &hook["timeoutSeconds"],
                "the timeout value must be between 1 and 30 seconds",
            );
        }
        for field in SELECTORS {
            let keys;
            let selector = if selects {
                &hook[field]
            } else {
                keys = without_values(&hook[field]);
                &keys
            };
            check_selector(errors, &at.child(field), selector);
        }
        if self.mutating {
            let field = "reinvocationPolicy";
            one_of(errors, &at.child(field), &hook[field], &["IfNeeded", "Never"]);
        }
    }
}

fn has_label_values(selector: &Value) -> bool {
    let expressions = items(&selector["matchExpressions"]).iter().flat_map(|e| items(&e["values"]));
    let labels = selector["matchLabels"].as_object().into_iter().flat_map(serde_json::Map::values);
    labels.chain(expressions).all(|value| validate::label_value(text(value)).is_empty())
}

/// A selector as it is, but for its values: each is empty, which a label's may be.
fn without_values(selector: &Value) -> Value {
    let mut keys = selector.clone();
    if let Some(labels) = keys.get_mut("matchLabels").and_then(Value::as_object_mut) {
        labels.values_mut().for_each(|value| *value = json!(""));
    }
    for expression in keys.as_object_mut().into_iter().flat_map(|keys| each(keys, "matchExpressions")) {
        if let Some(values) = expression.get_mut("values").and_then(Value::as_array_mut) {
            values.iter_mut().for_each(|value| *value = json!(""));
        }
    }
    keys
}

/// v1beta1 has defaults of its own.
fn to_storage(obj: &mut Value) {
    for hook in each(meta::as_map(obj), "webhooks") {
        set_text(hook, "failurePolicy", "Ignore");
        set_text(hook, "matchPolicy", "Exact");
        set_text(hook, "sideEffects", "Unknown");
        set(hook, "timeoutSeconds", 30);
        if hook.get("admissionReviewVersions").is_none_or(empty) {
            hook.insert("admissionReviewVersions".to_owned(), json!(["v1beta1"]));
        }
    }
}

/// The versions of a review that a webhook understands: one that the server speaks must be among them.
pub(super) fn check_reviews(errors: &mut ErrorList, path: &Path, versions: &Value) {
    check_versions(errors, path, versions, true);
}

fn check_versions(errors: &mut ErrorList, path: &Path, versions: &Value, must_speak: bool) {
    let list = items(versions);
    if list.is_empty() {
        errors.required(path, format!("must specify one of {}", REVIEWS.join(", ")));
        return;
    }
    let mut seen = HashSet::new();
    for (i, version) in list.iter().enumerate() {
        if !seen.insert(text(version)) {
            errors.invalid(&path.index(i), version, "duplicate version");
            continue;
        }
        for why in validate::dns_1035_label(text(version)) {
            errors.invalid(&path.index(i), version, why);
        }
    }
    if must_speak && !list.iter().any(|v| REVIEWS.contains(&text(v))) {
        errors.invalid(path, versions, format!("must include at least one of {}", REVIEWS.join(", ")));
    }
}

/// Where a webhook is: by its URL, or by its service.
pub(super) fn check_client(errors: &mut ErrorList, path: &Path, config: &Value) {
    match (&config["url"], &config["service"]) {
        (Value::Null, service) if !service.is_null() => {
            check_service(errors, &path.child("service"), service)
        }
        (url, Value::Null) if !url.is_null() => check_url(errors, &path.child("url"), text(url)),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn check_url(errors: &mut ErrorList, path: &Path, given: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let url = match url::Url::parse(given) {
        Ok(url) => url,
        Err(e) => {
            errors.required(path, format!("url must be a valid URL: {e}{FORM}"));
            return;
        }
    };
    if url.scheme() != "https" {
        errors.invalid_str(path, url.scheme(), format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        errors.invalid_str(path, "", format!("host must be specified{FORM}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        errors.invalid_str(path, url.username(), "user information is not permitted in the URL");
    }
    if let Some(fragment) = url.fragment() {
        errors.invalid_str(path, fragment, "fragments are not permitted in the URL");
    }
    if let Some(query) = url.query() {
        errors.invalid_str(path, query, "query parameters are not permitted in the URL");
    }
}

fn check_service(errors: &mut ErrorList, path: &Path, service: &Value) {
    for field in ["name", "namespace"] {
        if text(&service[field]).is_empty() {
            errors.required(&path.child(field), format!("service {field} is required"));
        }
    }
    for why in validate::port_number(service["port"].as_i64().unwrap_or(443)) {
        errors.invalid(&path.child("port"), &service["port"], format!("port is not valid: {why}"));
    }
    let (given, at) = (text(&service["path"]), path.child("path"));
    if matches!(given, "" | "/") {
        return;
    }
    let Some(segments) = given.strip_prefix('/') else {
        errors.invalid_str(&at, given, "must start with a '/'");
        return;
    };
    let segments: Vec<&str> = segments.strip_suffix('/').unwrap_or(segments).split('/').collect();
    for (i, segment) in segments.iter().enumerate() {
        if segment.is_empty() {
            errors.invalid_str(&at, given, format!("segment[{i}] may not be empty"));
            continue;
        }
        for why in validate::dns_subdomain(segment) {
            errors.invalid_str(&at, given, format!("segment[{i}]: {why}"));
        }
    }
}

/// What a rule of a webhook or a policy matches.
pub(super) fn check_rule(errors: &mut ErrorList, path: &Path, rule: &Value) {
    let stars = |errors: &mut ErrorList, field: &str, what: &str| {
        let list = items(&rule[field]);
        if list.is_empty() {
            errors.required(&path.child(field), "");
        }
        if list.len() > 1 && list.iter().any(|v| v == "*") {
            let why = format!("if '*' is present, must not specify other {what}");
            errors.invalid(&path.child(field), &rule[field], why);
        }
    };
    stars(errors, "operations", "operations");
    for (i, operation) in items(&rule["operations"]).iter().enumerate() {
        let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        one_of(errors, &path.child("operations").index(i), operation, &known);
    }
    stars(errors, "apiGroups", "API groups");
    stars(errors, "apiVersions", "API versions");
    for (i, _) in items(&rule["apiVersions"]).iter().enumerate().filter(|(_, version)| empty(version)) {
        errors.required(&path.child("apiVersions").index(i), "");
    }
    check_resources(errors, &path.child("resources"), &rule["resources"]);
    one_of(errors, &path.child("scope"), &rule["scope"], &["*", "Cluster", "Namespaced"]);
}

fn check_resources(errors: &mut ErrorList, path: &Path, resources: &Value) {
    let list = items(resources);
    if list.is_empty() {
        errors.required(path, "");
    }
    let (mut resources_of_all, mut parts_of_all) = (HashSet::new(), HashSet::new());
    // What upstream keeps of the resources without a subresource: whether the last one is a name.
    let mut last_is_named = false;
    for (i, given) in list.iter().enumerate() {
        let Some((resource, part)) = text(given).split_once('/') else {
            if empty(given) {
                errors.required(&path.index(i), "");
            } else {
                last_is_named = given != "*";
            }
            continue;
        };
        let mut both = |all: &str| {
            let why = format!("if '{all}' is present, must not specify {resource}/{part}");
            errors.invalid(&path.index(i), given, why);
        };
        if resources_of_all.contains(resource) {
            both(&format!("{resource}/*"));
        }
        if parts_of_all.contains(part) {
            both(&format!("*/{part}"));
        }
        if part == "*" {
            resources_of_all.insert(resource);
        }
        if resource == "*" {
            parts_of_all.insert(part);
        }
    }
    if list.len() > 1 && list.iter().any(|v| v == "*/*") {
        errors.invalid(path, resources, "if '*/*' is present, must not specify other resources");
    }
    if last_is_named && list.iter().any(|v| v == "*") {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, resources, why);
    }
}

/// When a webhook or a policy is asked. `more`: what a condition may speak of beside what every webhook's may.
pub(super) fn check_conditions(
    errors: &mut ErrorList,
    path: &Path,
    conditions: &Value,
    more: &[&'static str],
) {
    let list = items(conditions);
    if list.len() > MAX_CONDITIONS {
        errors.too_many(path, list.len(), MAX_CONDITIONS);
    }
    let mut names = HashSet::new();
    for (i, condition) in list.iter().enumerate().take(MAX_CONDITIONS) {
        let (at, expression) = (path.index(i), text(&condition["expression"]).trim());
        if expression.is_empty() {
            errors.required(&at.child("expression"), "");
        } else if let Err(why) = cel::check_condition(expression, more) {
            errors.invalid_str(&at.child("expression"), expression, why);
        }
        let (name, at) = (&condition["name"], at.child("name"));
        if empty(name) {
            errors.required(&at, "");
        } else {
            each_why(errors, &at, name, validate::qualified_name);
            if !names.insert(text(name)) {
                errors.duplicate(&at, name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn side_effects_are_of_the_past() {
        let config = |effects: &str| json!({"webhooks": [{"sideEffects": "None"}, {"sideEffects": effects}]});
        let strategy = Webhooks { mutating: true };
        for (effects, good) in [("None", true), ("NoneOnDryRun", true), ("Some", false), ("Unknown", false)] {
            let sent = |version: &str, old: Option<&str>| {
                let api_version = format!("admissionregistration.k8s.io/{version}");
                strategy
                    .validate_sent(
                        &api_version,
                        Release::current(),
                        &config(effects),
                        old.map(config).as_ref(),
                    )
                    .message()
            };
            assert!(
                good || sent("v1", None)
                    == format!(
                        "webhooks[1].sideEffects: Unsupported value: \"{effects}\": supported values: \"None\", \"NoneOnDryRun\""
                    )
            );
            assert_eq!(sent("v1", None) == "[]", good, "{effects}");
            assert_eq!(sent("v1", Some("None")) == "[]", good, "{effects}");
            assert_eq!(sent("v1", Some("Some")), "[]", "what was so may stay");
            assert_eq!(sent("v1beta1", None), "[]");
        }
    }

    #[test]
    fn bad_configurations_are_refused() {
        let kind = kinds::by_gvk(&crate::Gvk::new(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingWebhookConfiguration",
        ))
        .unwrap();
        let good = json!({"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"service": {"name": "s", "namespace": "n", "path": "/a/b"}},
            "matchConditions": [{"name": "one", "expression": "request.userInfo.username != 'x'"}],
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]});
        let at = "webhooks[0]";
        for (patch, want) in [
            (json!({}), "[]".to_owned()),
            (
                json!({"clientConfig": {"url": "https://a"}}),
                format!("{at}.clientConfig: Required value: exactly one of url or service is required"),
            ),
            (
                json!({"clientConfig": {"service": null, "url": "http://a?x=y"}}),
                format!(
                    "[{at}.clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path], {at}.clientConfig.url: Invalid value: \"x=y\": query parameters are not permitted in the URL]"
                ),
            ),
            (
                json!({"clientConfig": {"service": {"path": "a"}}}),
                format!("{at}.clientConfig.service.path: Invalid value: \"a\": must start with a '/'"),
            ),
            (
                json!({"admissionReviewVersions": ["v7"]}),
                format!(
                    "{at}.admissionReviewVersions: Invalid value: [\"v7\"]: must include at least one of v1, v1beta1"
                ),
            ),
            (
                json!({"rules": [{"apiGroups": ["*", "apps"], "apiVersions": ["v1"], "operations": ["LOOK"], "resources": ["*"]}]}),
                format!(
                    "[{at}.rules[0].operations[0]: Unsupported value: \"LOOK\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\", {at}.rules[0].apiGroups: Invalid value: [\"*\",\"apps\"]: if '*' is present, must not specify other API groups]"
                ),
            ),
            (
                json!({"matchConditions": [{"name": "a", "expression": "true"}, {"name": "a", "expression": ""}]}),
                format!(
                    "[{at}.matchConditions[1].expression: Required value, {at}.matchConditions[1].name: Duplicate value: \"a\"]"
                ),
            ),
            (
                json!({"matchConditions": [{"name": "a", "expression": "request.operation"}, {"name": "b", "expression": "nothing == 1"}]}),
                format!(
                    "{at}.matchConditions[1].expression: Invalid value: \"nothing == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '')\n | nothing == 1\n | ^"
                ),
            ),
            (
                json!({"matchConditions": [{"name": "a", "expression": "'a' + 'b'"}]}),
                format!(
                    "{at}.matchConditions[0].expression: Invalid value: \"'a' + 'b'\": must evaluate to bool"
                ),
            ),
        ] {
            let mut hook = good.clone();
            crate::patch::merge_patch(&mut hook, &patch);
            let mut obj = json!({"metadata": {"name": "x"}, "webhooks": [hook]});
            kind.default(&mut obj);
            assert_eq!(kind.validate_create(&obj).message(), want);
        }
    }
}
