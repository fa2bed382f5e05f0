//! What flow schemas and priority levels may say.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::common::*;
use crate::field::{ErrorList, Path};
use crate::{meta, validate};

/// The name of the schema, and of the level, of requests that nothing holds up.
const EXEMPT: &str = "exempt";

pub(super) fn schema(errors: &mut ErrorList, obj: &Value) {
    let (spec, path) = (&obj["spec"], Path::new("spec"));
    let (precedence, at) = (&spec["matchingPrecedence"], path.child("matchingPrecedence"));
    match int(precedence) {
        n if n <= 0 => errors.invalid(&at, precedence, "must be a positive value"),
        n if n > 10_000 => errors.invalid(&at, precedence, "must not be greater than 10000"),
        1 if meta::name(obj) != EXEMPT => {
            let why = "only the schema named 'exempt' may have matchingPrecedence 1";
            errors.invalid(&at, precedence, why);
        }
        _ => {}
    }
    let (method, methods) = (&spec["distinguisherMethod"], ["ByNamespace", "ByUser"]);
    if !method.is_null() && !methods.contains(&text(&method["type"])) {
        let shown = json!({"Type": text(&method["type"])});
        errors.not_supported(&path.child("distinguisherMethod").child("type"), &shown, &methods);
    }
    let level = &spec["priorityLevelConfiguration"]["name"];
    let at = path.child("priorityLevelConfiguration").child("name");
    if empty(level) {
        errors.required(&at, "must reference a priority level");
    } else {
        each_why(errors, &at, level, validate::dns_subdomain);
    }
    for (i, rule) in items(&spec["rules"]).iter().enumerate() {
        check_rule(errors, rule, &path.child("rules").index(i));
    }
}

fn check_rule(errors: &mut ErrorList, rule: &Value, path: &Path) {
    if empty(&rule["subjects"]) {
        errors.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in items(&rule["subjects"]).iter().enumerate() {
        check_subject(errors, subject, &path.child("subjects").index(i));
    }
    if empty(&rule["resourceRules"]) && empty(&rule["nonResourceRules"]) {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.required(path, why);
    }
    for (i, rule) in items(&rule["resourceRules"]).iter().enumerate() {
        check_resources(errors, rule, &path.child("resourceRules").index(i));
    }
    for (i, rule) in items(&rule["nonResourceRules"]).iter().enumerate() {
        let at = path.child("nonResourceRules").index(i);
        check_verbs(errors, rule, &at);
        check_urls(errors, &rule["nonResourceURLs"], &at.child("nonResourceURLs"));
    }
}

/// The kinds of subjects, each with the field that holds one.
const SUBJECTS: [(&str, &str); 3] =
    [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn check_subject(errors: &mut ErrorList, subject: &Value, path: &Path) {
    let kind = text(&subject["kind"]);
    if !SUBJECTS.iter().any(|(known, _)| *known == kind) {
        let kinds = ["Group", "ServiceAccount", "User"];
        errors.not_supported(&path.child("kind"), &subject["kind"], &kinds);
        return;
    }
    for (of, field) in SUBJECTS.iter().filter(|(of, _)| *of == kind) {
        let (given, at) = (&subject[*field], path.child(field));
        if given.is_null() {
            errors.required(&at, format!("{field} is required when subject kind is '{of}'"));
            continue;
        }
        if empty(&given["name"]) {
            errors.required(&at.child("name"), "");
        } else if *of == "ServiceAccount" && given["name"] != "*" {
            each_why(errors, &at.child("name"), &given["name"], validate::dns_subdomain);
        }
        if *of == "ServiceAccount" && empty(&given["namespace"]) {
            errors.required(&at.child("namespace"), "must specify namespace for service account");
        } else if *of == "ServiceAccount" {
            each_why(errors, &at.child("namespace"), &given["namespace"], validate::dns_label);
        }
    }
    for (of, field) in SUBJECTS.iter().filter(|(of, field)| *of != kind && !subject[*field].is_null()) {
        errors.forbidden(&path.child(field), format!("{field} is forbidden when subject kind is not '{of}'"));
    }
}

const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

fn wild(list: &Value) -> bool {
    items(list).iter().any(|v| v == "*")
}

/// Whoever means everything names nothing else.
fn alone(errors: &mut ErrorList, list: &Value, path: &Path, what: &str) {
    if items(list).len() > 1 && wild(list) {
        errors.invalid(path, list, format!("if '*' is present, must not specify other {what}"));
    }
}

fn check_verbs(errors: &mut ErrorList, rule: &Value, path: &Path) {
    let (verbs, at) = (&rule["verbs"], path.child("verbs"));
    if empty(verbs) {
        errors.required(&at, "verbs must contain at least one value");
    } else if wild(verbs) {
        alone(errors, verbs, &at, "verbs");
    } else if !items(verbs).iter().all(|verb| VERBS.contains(&text(verb))) {
        errors.not_supported(&at, verbs, &VERBS);
    }
}

fn check_resources(errors: &mut ErrorList, rule: &Value, path: &Path) {
    check_verbs(errors, rule, path);
    for (field, one, many) in
        [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")]
    {
        if empty(&rule[field]) {
            let why = format!("resource rules must supply at least one {one}");
            errors.required(&path.child(field), why);
        }
        alone(errors, &rule[field], &path.child(field), many);
    }
    let (namespaces, at) = (&rule["namespaces"], path.child("namespaces"));
    if empty(namespaces) && rule["clusterScope"] != true {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(&at, why);
    } else if wild(namespaces) {
        alone(errors, namespaces, &at, "namespaces");
    } else {
        for (i, namespace) in items(namespaces).iter().enumerate() {
            for why in validate::dns_label(text(namespace)) {
                let why = format!("each member of this list must be '*' or a DNS-1123 label; {why}");
                errors.invalid(&at.index(i), namespace, why);
            }
        }
    }
}

fn check_urls(errors: &mut ErrorList, urls: &Value, path: &Path) {
    if empty(urls) {
        errors.required(path, "nonResourceURLs must contain at least one value");
    } else if wild(urls) {
        alone(errors, urls, path, "non-resource URLs");
    } else {
        for (i, url) in items(urls).iter().enumerate() {
            if let Some(why) = no_url(text(url)) {
                errors.invalid(&path.index(i), url, why);
            }
        }
    }
}

fn no_url(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    if url.is_empty() {
        Some("must not be empty")
    } else if url == "/" {
        None
    } else if !url.starts_with('/') {
        Some("must start with slash")
    } else if url.contains(' ') {
        Some("must not contain white-space")
    } else if url.contains("//") {
        Some("must not contain double slash")
    } else if stars > 1 || stars == 1 && !url.ends_with("/*") {
        Some("wildcard can only do suffix matching")
    } else {
        None
    }
}

pub(super) fn level(errors: &mut ErrorList, obj: &Value) {
    const PRESERVED: &str = "flowcontrol.k8s.io/preserve-zero-concurrency-shares";
    if meta::annotation(obj, PRESERVED).is_some() {
        let at = Path::new("metadata").child("annotations");
        errors.forbidden(&at, format!("annotation '{PRESERVED}' is forbidden"));
    }
    let (spec, path) = (&obj["spec"], Path::new("spec"));
    let kind = &spec["type"];
    if (meta::name(obj) == EXEMPT) != (kind == "Exempt") {
        let why = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.invalid_str(&path.child("type"), text(kind), why);
    }
    let (limited, exempt) = (&spec["limited"], &spec["exempt"]);
    let (limited_at, exempt_at) = (path.child("limited"), path.child("exempt"));
    match text(kind) {
        "Exempt" => {
            if !limited.is_null() {
                errors.forbidden(&limited_at, "must be nil if the type is not Limited");
            }
            check_shares(errors, exempt, &exempt_at);
        }
        "Limited" => {
            if !exempt.is_null() {
                errors.forbidden(&exempt_at, "must be nil if the type is Limited");
            }
            if limited.is_null() {
                errors.required(&limited_at, "must not be empty when type is Limited");
            } else {
                check_limited(errors, limited, &limited_at);
            }
        }
        _ => errors.not_supported(&path.child("type"), kind, &["Exempt", "Limited"]),
    }
}

fn check_shares(errors: &mut ErrorList, of: &Value, path: &Path) {
    let (shares, lent) = (&of["nominalConcurrencyShares"], &of["lendablePercent"]);
    if int(shares) < 0 {
        errors.invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
    if !(0..=100).contains(&int(lent)) {
        errors.invalid(&path.child("lendablePercent"), lent, validate::between(0, 100));
    }
}

fn check_limited(errors: &mut ErrorList, limited: &Value, path: &Path) {
    check_shares(errors, limited, path);
    let (response, at) = (&limited["limitResponse"], path.child("limitResponse"));
    let queuing = &response["queuing"];
    match text(&response["type"]) {
        "Reject" if !queuing.is_null() => {
            let why = "must be nil if limited.limitResponse.type is not Limited";
            errors.forbidden(&at.child("queuing"), why);
        }
        "Reject" => {}
        "Queue" if queuing.is_null() => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            errors.required(&at.child("queuing"), why);
        }
        "Queue" => check_queues(errors, queuing, &at.child("queuing")),
        _ => errors.not_supported(&at.child("type"), &response["type"], &["Queue", "Reject"]),
    }
    let borrowed = &limited["borrowingLimitPercent"];
    if int(borrowed) < 0 {
        let why = "if specified, must be a non-negative integer";
        errors.invalid(&path.child("borrowingLimitPercent"), borrowed, why);
    }
}

const MAX_QUEUES: i64 = 10_000_000;
/// The bits of the hash of which a hand is dealt.
const HASH_BITS: u32 = 60;

fn check_queues(errors: &mut ErrorList, queuing: &Value, path: &Path) {
    let [length, queues, hand] = ["queueLengthLimit", "queues", "handSize"].map(|field| &queuing[field]);
    if int(length) <= 0 {
        errors.invalid(&path.child("queueLengthLimit"), length, "must be positive");
    }
    let at = path.child("queues");
    if int(queues) <= 0 {
        errors.invalid(&at, queues, "must be positive");
    } else if int(queues) > MAX_QUEUES {
        errors.invalid(&at, queues, format!("must not be greater than {MAX_QUEUES}"));
    }
    let (at, n, of) = (path.child("handSize"), int(hand), int(queues));
    if n <= 0 {
        errors.invalid(&at, hand, "must be positive");
    } else if n > of {
        errors.invalid(&at, hand, format!("should not be greater than queues ({of})"));
    } else {
        // Each card of the hand is one of those that are left.
        let ways: f64 = (0..n.min(HASH_BITS.into())).map(|dealt| ((of - dealt) as f64).log2()).sum();
        if ways.ceil() > f64::from(HASH_BITS) || n > HASH_BITS.into() {
            let why = format!(
                "required entropy bits of deckSize {of} and handSize {n} should not be greater than {HASH_BITS}"
            );
            errors.invalid(&at, hand, why);
        }
    }
}

pub(super) fn conditions(errors: &mut ErrorList, obj: &Value) {
    let mut types = HashSet::new();
    for (i, condition) in items(&obj["status"]["conditions"]).iter().enumerate() {
        let at = Path::new("status").child("conditions").index(i).child("type");
        if !types.insert(text(&condition["type"])) {
            errors.duplicate(&at, &condition["type"]);
        }
        if empty(&condition["type"]) {
            errors.required(&at, "");
        }
    }
}
