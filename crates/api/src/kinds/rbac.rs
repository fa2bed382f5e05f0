//! Roles and bindings, certificate requests, admission policies, APIServices.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Part, Strategy};
use crate::field::{ErrorList, Path};
use crate::patch::identity;
use crate::{meta, validate};

const ROLE: Decl = Decl { group: "rbac.authorization.k8s.io", strategy: || Arc::new(Role), ..PLAIN };
const BINDING: Decl = Decl {
    group: "rbac.authorization.k8s.io",
    strategy: || Arc::new(Binding),
    conversions: &[(
        "rbac.authorization.k8s.io",
        "v1alpha1",
        Conversion::Functions { to_storage: subjects_to_storage, from_storage: subjects_from_storage },
    )],
    columns: Columns::Coded {
        columns: &[
            Column::name(),
            Column::text("Role"),
            Column::text("Age"),
            Column::text("Users").wide(),
            Column::text("Groups").wide(),
            Column::text("ServiceAccounts").wide(),
        ],
        cells: |o, now| {
            let subjects = |kind: &str| {
                let of = items(&o["subjects"]).iter().filter(|s| s["kind"] == kind);
                let names: Vec<String> = of
                    .map(|s| match text(&s["namespace"]) {
                        "" => text(&s["name"]).to_owned(),
                        ns => format!("{ns}/{}", text(&s["name"])),
                    })
                    .collect();
                json!(names.join(", "))
            };
            let role = format!("{}/{}", text(&o["roleRef"]["kind"]), text(&o["roleRef"]["name"]));
            vec![
                name_cell(o),
                json!(role),
                age_cell(o, now),
                subjects("User"),
                subjects("Group"),
                subjects("ServiceAccount"),
            ]
        },
    },
    ..PLAIN
};

const POLICY: Decl = Decl {
    group: "admissionregistration.k8s.io",
    categories: &["api-extensions"],
    strategy: || Arc::new(AdmissionPolicy),
    ..PLAIN
};
const POLICY_BINDING: Columns = Columns::Coded {
    columns: &[Column::name(), Column::text("PolicyName"), Column::text("ParamRef"), Column::text("Age")],
    cells: |o, now| {
        let param = &o["spec"]["paramRef"];
        let param = match (text(&param["namespace"]), text(&param["name"])) {
            (_, "") if param["selector"].is_null() => json!("<unset>"),
            (_, "") => selector_cell(&param["selector"]),
            // Whether it lives in a namespace at all cannot be told from here.
            ("", name) => json!(format!("*/{name}")),
            (namespace, name) => json!(format!("{namespace}/{name}")),
        };
        vec![name_cell(o), json!(text(&o["spec"]["policyName"])), param, age_cell(o, now)]
    },
};

fn policy_cells(o: &Value, rules: &str, now: Timestamp) -> Vec<Value> {
    let (spec, param) = (&o["spec"], &o["spec"]["paramKind"]);
    let param = if param.is_null() {
        "<unset>".to_owned()
    } else {
        format!("{}/{}", text(&param["apiVersion"]), text(&param["kind"]))
    };
    vec![name_cell(o), json!(items(&spec[rules]).len()), json!(param), age_cell(o, now)]
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// Subjects of v1alpha1 have an apiVersion where later ones have a group.
fn subjects_to_storage(obj: &mut Value) {
    for subject in each(meta::as_map(obj), "subjects") {
        let version = subject.shift_remove("apiVersion").unwrap_or_default();
        let kind = subject.get("kind").map(text).unwrap_or_default();
        let group = match kind {
            "ServiceAccount" => "",
            "User" | "Group" => RBAC,
            _ => crate::names::split_api_version(text(&version)).0,
        };
        // Of old, a user of any name was all that are authenticated.
        if kind == "User" && subject.get("name").is_some_and(|n| n == "*") {
            subject.insert("kind".to_owned(), json!("Group"));
            subject.insert("name".to_owned(), json!("system:authenticated"));
        }
        if !group.is_empty() {
            subject.insert("apiGroup".to_owned(), json!(group));
        }
    }
}

fn subjects_from_storage(obj: &mut Value) {
    for subject in each(meta::as_map(obj), "subjects") {
        let group = subject.shift_remove("apiGroup").unwrap_or_default();
        let version = match (subject.get("kind").map(text).unwrap_or_default(), text(&group)) {
            ("ServiceAccount", "") => "v1".to_owned(),
            ("User" | "Group", RBAC) => format!("{RBAC}/v1alpha1"),
            (_, group) => format!("{group}/"),
        };
        subject.insert("apiVersion".to_owned(), json!(version));
    }
}

pub(super) const DECLS: &[Decl] = &[
    Decl {
        group: "authentication.k8s.io",
        resource: "selfsubjectreviews",
        // Asked for by `kubectl auth whoami` up to 1.27.
        older: &["v1beta1", "v1alpha1"],
        ..PLAIN
    },
    Decl { resource: "roles", ..ROLE },
    Decl { resource: "clusterroles", ..ROLE },
    Decl { resource: "rolebindings", ..BINDING },
    Decl { resource: "clusterrolebindings", ..BINDING },
    Decl {
        group: "certificates.k8s.io",
        resource: "certificatesigningrequests",
        short: &["csr"],
        strategy: || Arc::new(SigningRequest),
        conversions: &[(
            "certificates.k8s.io",
            "v1beta1",
            Conversion::Functions {
                to_storage: |o| {
                    let spec = meta::child(o, "spec");
                    set_text(spec, "signerName", "kubernetes.io/legacy-unknown");
                    if spec.get("usages").is_none_or(empty) {
                        spec.insert("usages".to_owned(), json!(["digital signature", "key encipherment"]));
                    }
                    let status = sub(meta::as_map(o), "status");
                    for condition in status.into_iter().flat_map(|s| each(s, "conditions")) {
                        set_text(condition, "status", "True");
                    }
                },
                from_storage: |_| {},
            },
        )],
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Age"),
                Column::text("SignerName"),
                Column::text("Requestor"),
                Column::text("RequestedDuration"),
                Column::text("Condition"),
            ],
            cells: |o, now| {
                let (spec, status) = (&o["spec"], &o["status"]);
                let has = |kind: &str| items(&status["conditions"]).iter().any(|c| c["type"] == kind);
                let mut words: Vec<&str> = Vec::new();
                if has("Denied") {
                    words.push("Denied");
                } else if has("Approved") {
                    words.push("Approved");
                } else {
                    words.push("Pending");
                }
                if has("Failed") {
                    words.push("Failed");
                }
                if !empty(&status["certificate"]) {
                    words.push("Issued");
                }
                let lasts =
                    spec["expirationSeconds"].as_i64().map(crate::duration::human).unwrap_or_default();
                vec![
                    name_cell(o),
                    age_cell(o, now),
                    or_none(text(&spec["signerName"])),
                    json!(text(&spec["username"])),
                    or_none(&lasts),
                    json!(words.join(",")),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        resource: "validatingadmissionpolicies",
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::int("Validations"),
                Column::text("ParamKind"),
                Column::text("Age"),
            ],
            cells: |o, now| policy_cells(o, "validations", now),
        },
        ..POLICY
    },
    Decl { resource: "validatingadmissionpolicybindings", columns: POLICY_BINDING, ..POLICY },
    Decl {
        resource: "mutatingadmissionpolicies",
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::int("Mutations"),
                Column::text("ParamKind"),
                Column::text("Age"),
            ],
            cells: |o, now| policy_cells(o, "mutations", now),
        },
        ..POLICY
    },
    Decl { resource: "mutatingadmissionpolicybindings", columns: POLICY_BINDING, ..POLICY },
    Decl {
        group: "certificates.k8s.io",
        resource: "clustertrustbundles",
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("SignerName")],
            cells: |o, _| vec![name_cell(o), json!(text(&o["spec"]["signerName"]))],
        },
        ..PLAIN
    },
    Decl {
        group: "apiregistration.k8s.io",
        resource: "apiservices",
        categories: &["api-extensions"],
        strategy: || Arc::new(ApiService),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Service"),
                Column::text("Available"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let service = &o["spec"]["service"];
                let service = if service.is_null() {
                    "Local".to_owned()
                } else {
                    format!("{}/{}", text(&service["namespace"]), text(&service["name"]))
                };
                let available = items(&o["status"]["conditions"]).iter().find(|c| c["type"] == "Available");
                let word = match available {
                    Some(c) if c["status"] == "True" => "True".to_owned(),
                    Some(c) => format!("{} ({})", text(&c["status"]), text(&c["reason"])),
                    None => "Unknown".to_owned(),
                };
                vec![name_cell(o), json!(service), json!(word), age_cell(o, now)]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "authorization.k8s.io",
        resource: "subjectaccessreviews",
        conversions: &[("authorization.k8s.io", "v1beta1", REVIEW)],
        ..PLAIN
    },
    Decl {
        group: "authorization.k8s.io",
        resource: "localsubjectaccessreviews",
        conversions: &[("authorization.k8s.io", "v1beta1", REVIEW)],
        ..PLAIN
    },
];

/// v1beta1 calls `groups` `group`.
const REVIEW: Conversion = Conversion::Functions {
    to_storage: |o| rename(o, "group", "groups"),
    from_storage: |o| rename(o, "groups", "group"),
};

fn rename(obj: &mut Value, from: &str, to: &str) {
    let spec = meta::child(obj, "spec");
    if let Some(v) = spec.shift_remove(from) {
        spec.insert(to.to_owned(), v);
    }
}

struct Role;

impl Strategy for Role {
    fn default(&self, obj: &mut Value) {
        set(meta::as_map(obj), "rules", Value::Null);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, rule) in items(&obj["rules"]).iter().enumerate() {
            let at = Path::new("rules").index(i);
            if empty(&rule["verbs"]) {
                errors.required(&at.child("verbs"), "verbs must contain at least one value");
            }
            if empty(&rule["nonResourceURLs"]) {
                if empty(&rule["apiGroups"]) {
                    errors.required(
                        &at.child("apiGroups"),
                        "resource rules must supply at least one api group",
                    );
                }
                if empty(&rule["resources"]) {
                    errors
                        .required(&at.child("resources"), "resource rules must supply at least one resource");
                }
            } else if !empty(&rule["apiGroups"])
                || !empty(&rule["resources"])
                || !empty(&rule["resourceNames"])
            {
                errors.invalid(
                    &at.child("nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            } else if !meta::namespace(obj).is_empty() {
                errors.invalid(
                    &at.child("nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    "namespaced rules cannot apply to non-resource URLs",
                );
            }
        }
        errors
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::path_segment_name(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

struct Binding;

impl Strategy for Binding {
    fn default(&self, obj: &mut Value) {
        let map = meta::as_map(obj);
        if let Some(role) = sub(map, "roleRef") {
            set_text(role, "apiGroup", RBAC);
        }
        for subject in each(map, "subjects") {
            if subject.get("kind").is_some_and(|k| k == "User" || k == "Group") {
                set_text(subject, "apiGroup", RBAC);
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (role, at) = (&obj["roleRef"], Path::new("roleRef"));
        if role["apiGroup"] != RBAC {
            errors.not_supported(&at.child("apiGroup"), &role["apiGroup"], &[RBAC]);
        }
        let kinds: &[&str] =
            if meta::namespace(obj).is_empty() { &["ClusterRole"] } else { &["ClusterRole", "Role"] };
        if !kinds.contains(&text(&role["kind"])) {
            errors.not_supported(&at.child("kind"), &role["kind"], kinds);
        }
        if text(&role["name"]).is_empty() {
            errors.required(&at.child("name"), "");
        }
        for (i, subject) in items(&obj["subjects"]).iter().enumerate() {
            let at = Path::new("subjects").index(i);
            if text(&subject["name"]).is_empty() {
                errors.required(&at.child("name"), "");
            }
            match text(&subject["kind"]) {
                "ServiceAccount" => {
                    if !text(&subject["apiGroup"]).is_empty() {
                        errors.not_supported(&at.child("apiGroup"), &subject["apiGroup"], &[""]);
                    }
                    if text(&subject["namespace"]).is_empty() && !meta::namespace(obj).is_empty()
                        || text(&subject["namespace"]).is_empty()
                    {
                        errors.required(&at.child("namespace"), "");
                    }
                }
                "User" | "Group" => {
                    if subject["apiGroup"] != RBAC {
                        errors.not_supported(&at.child("apiGroup"), &subject["apiGroup"], &[RBAC]);
                    }
                }
                _ => errors.not_supported(
                    &at.child("kind"),
                    &subject["kind"],
                    &["Group", "ServiceAccount", "User"],
                ),
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if new["roleRef"] != old["roleRef"] {
            errors.invalid(&Path::new("roleRef"), &new["roleRef"], "cannot change roleRef");
        }
        errors
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::path_segment_name(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

const CSR_FIELDS: &[Cow<'static, str>] = &[Cow::Borrowed("spec.signerName")];

struct SigningRequest;

impl Strategy for SigningRequest {
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::as_map(new).insert("spec".to_owned(), old["spec"].clone());
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        if empty(&spec["request"]) {
            errors.invalid(
                &path.child("request"),
                &spec["request"],
                "PEM block type must be CERTIFICATE REQUEST",
            );
        }
        let signer = text(&spec["signerName"]);
        if signer.is_empty() {
            errors.required(&path.child("signerName"), "");
        } else if !signer.contains('/') {
            errors.invalid_str(
                &path.child("signerName"),
                signer,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            );
        }
        if spec["expirationSeconds"].as_i64().is_some_and(|n| n < 600) {
            errors.invalid(
                &path.child("expirationSeconds"),
                &spec["expirationSeconds"],
                "may not specify a duration less than 600 seconds (10 minutes)",
            );
        }
        let usages = items(&spec["usages"]);
        if usages.is_empty() {
            errors.required(&path.child("usages"), "");
        }
        let mut seen = HashSet::new();
        for (i, usage) in usages.iter().enumerate() {
            if !seen.insert(identity(usage)) {
                errors.duplicate(&path.child("usages").index(i), usage);
            }
        }
        let path = Path::new("status").child("conditions");
        let conditions = items(&obj["status"]["conditions"]);
        let mut seen = HashSet::new();
        for (i, condition) in conditions.iter().enumerate() {
            let at = path.index(i);
            if text(&condition["type"]).is_empty() {
                errors.required(&at.child("type"), "");
            }
            let supported: &[&str] = match text(&condition["type"]) {
                "Approved" | "Denied" | "Failed" => &["True"],
                _ => &["False", "True", "Unknown"],
            };
            one_of(&mut errors, &at.child("status"), &condition["status"], supported);
            if !seen.insert(identity(&condition["type"])) {
                errors.duplicate(&at.child("type"), &condition["type"]);
            }
        }
        if has(obj, "Approved") && has(obj, "Denied") {
            let why = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(&path, &obj["status"]["conditions"], why);
        }
        errors
    }

    fn part(&self, subresource: &str) -> Option<Part> {
        match subresource {
            "approval" => Some(Part { put: put_approval, validate: validate_conditions }),
            "status" => Some(Part { put: put_answer, validate: validate_answer }),
            _ => None,
        }
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::path_segment_name(name, prefix)
    }

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        CSR_FIELDS
    }
}

fn has(request: &Value, kind: &str) -> bool {
    items(&request["status"]["conditions"]).iter().any(|c| c["type"] == kind)
}

/// Conditions that say whether a request is approved.
fn is_approval(condition: &Value) -> bool {
    matches!(text(&condition["type"]), "Approved" | "Denied")
}

/// Upstream lets both parts of a request bring its metadata along.
fn put_metadata(sent: &Value, into: &mut Value) {
    meta::as_map(into).insert("metadata".to_owned(), sent["metadata"].clone());
}

/// Who approves says nothing of the certificate.
fn put_approval(sent: &Value, into: &mut Value) {
    put_metadata(sent, into);
    let status = meta::child(into, "status");
    match sent["status"].get("conditions") {
        Some(conditions) => status.insert("conditions".to_owned(), conditions.clone()),
        None => status.shift_remove("conditions"),
    };
}

/// Who signs does not approve.
fn put_answer(sent: &Value, into: &mut Value) {
    put_metadata(sent, into);
    let kept = items(&into["status"]["conditions"]).iter().filter(|c| is_approval(c)).cloned();
    let said = items(&sent["status"]["conditions"]).iter().filter(|c| !is_approval(c)).cloned();
    let conditions: Vec<Value> = kept.chain(said).collect();
    let mut status = sent["status"].clone();
    let map = meta::as_map(&mut status);
    map.shift_remove("conditions");
    if !conditions.is_empty() {
        map.insert("conditions".to_owned(), conditions.into());
    }
    meta::as_map(into).insert("status".to_owned(), status);
}

/// What has been decided stays.
fn validate_conditions(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for kind in ["Approved", "Denied", "Failed"] {
        if has(old, kind) && !has(new, kind) {
            let why = format!("updates may not remove a condition of type \"{kind}\"");
            errors.forbidden(&Path::new("status").child("conditions"), why);
        }
    }
    errors
}

fn validate_answer(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validate_conditions(new, old);
    let (before, now) = (&old["status"]["certificate"], &new["status"]["certificate"]);
    if !empty(before) && before != now {
        let why = "updates may not modify existing certificate content";
        errors.forbidden(&Path::new("status").child("certificate"), why);
    }
    errors
}

struct AdmissionPolicy;

impl Strategy for AdmissionPolicy {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        if spec.contains_key("validations")
            || spec.contains_key("mutations")
            || spec.contains_key("matchConstraints")
        {
            set_text(spec, "failurePolicy", "Fail");
        }
        for field in ["matchConstraints", "matchResources"] {
            if let Some(matches) = sub(spec, field) {
                set_text(matches, "matchPolicy", "Equivalent");
                set(matches, "namespaceSelector", json!({}));
                set(matches, "objectSelector", json!({}));
                for list in ["resourceRules", "excludeResourceRules"] {
                    for rule in each(matches, list) {
                        set_text(rule, "scope", "*");
                    }
                }
            }
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, _: &Value) -> Vec<String> {
        vec!["stored, but this server does not enforce it yet".to_owned()]
    }
}

struct ApiService;

impl Strategy for ApiService {
    fn default(&self, obj: &mut Value) {
        if let Some(service) =
            obj.get_mut("spec").and_then(|s| s.get_mut("service")).and_then(Value::as_object_mut)
        {
            set(service, "port", 443);
        }
    }

    fn no_status(&self) -> Value {
        json!({})
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let want = format!("{}.{}", text(&spec["version"]), text(&spec["group"]));
        if meta::name(obj) != want {
            let at = Path::new("metadata").child("name");
            errors.invalid_str(
                &at,
                meta::name(obj),
                format!("must be `spec.version+\".\"+spec.group`: \"{want}\""),
            );
        }
        for field in ["groupPriorityMinimum", "versionPriority"] {
            if int(&spec[field]) <= 0 {
                errors.invalid(&path.child(field), &spec[field], "must be positive");
            }
        }
        let trust_all = path.child("insecureSkipTLSVerify");
        let trusts_all = spec["insecureSkipTLSVerify"] == true;
        if spec["service"].is_null() {
            if !empty(&spec["caBundle"]) {
                let why = "local APIServices may not have a caBundle";
                errors.invalid(&path.child("caBundle"), &spec["caBundle"], why);
            }
            if trusts_all {
                let why = "local APIServices may not have insecureSkipTLSVerify";
                errors.invalid(&trust_all, &json!(true), why);
            }
            return errors;
        }
        for field in ["namespace", "name"] {
            if empty(&spec["service"][field]) {
                errors.required(&path.child("service").child(field), "");
            }
        }
        if trusts_all && !empty(&spec["caBundle"]) {
            errors.invalid(&trust_all, &json!(true), "may not be true if caBundle is present");
        }
        errors
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::path_segment_name(name, prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    #[test]
    fn who_makes_an_admission_policy_is_told_that_nothing_enforces_it() {
        let mut seen = 0;
        for kind in crate::kinds::all().iter().filter(|k| k.plural.contains("admissionpolic")) {
            let told = kind.warnings(&json!({}), None);
            assert_eq!(told, ["stored, but this server does not enforce it yet"], "{kind:?}");
            seen += 1;
        }
        assert_eq!(seen, 4);
    }

    #[test]
    fn usages_occur_once_however_many_there_are() {
        let kind = kinds::by_gvr(&gvr::CERTIFICATE_SIGNING_REQUESTS).unwrap();
        let mut usages: Vec<String> = (0..20_000).map(|i| format!("u{i}")).collect();
        let request = |usages: &[String]| json!({"metadata": {"name": "r"}, "spec": {"request": "cg==", "signerName": "a.b/c", "usages": usages}});
        let duplicates = |usages: &[String]| {
            let errors = kind.validate_create(&request(usages));
            errors.into_iter().filter(|e| e.kind == crate::field::ErrorType::Duplicate).count()
        };
        assert_eq!(duplicates(&usages), 0);
        usages[19_999] = "u0".to_owned();
        assert_eq!(duplicates(&usages), 1);
    }

    #[test]
    fn who_signs_does_not_approve() {
        let kind = kinds::by_gvr(&gvr::CERTIFICATE_SIGNING_REQUESTS).unwrap();
        let condition = |of: &str| json!({"type": of, "status": "True", "reason": "r"});
        let request = |conditions: &[&str], certificate: &str| {
            let conditions: Vec<Value> = conditions.iter().map(|of| condition(of)).collect();
            json!({"metadata": {"name": "r"}, "spec": {"request": "cg==", "signerName": "a.b/c", "usages": ["client auth"]},
                "status": {"conditions": conditions, "certificate": certificate}})
        };
        // What is there, what is sent, and what becomes of it.
        for (sub, old, sent, conditions, certificate, why) in [
            ("approval", request(&[], ""), request(&["Approved"], "eA=="), "Approved", "", "[]"),
            (
                "approval",
                request(&["Approved"], "eA=="),
                request(&["Denied"], ""),
                "Denied",
                "eA==",
                "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"",
            ),
            ("status", request(&[], ""), request(&["Approved", "Failed"], "eA=="), "Failed", "eA==", "[]"),
            ("status", request(&["Approved"], ""), request(&[], "eA=="), "Approved", "eA==", "[]"),
            (
                "status",
                request(&["Approved"], "eA=="),
                request(&[], "eQ=="),
                "Approved",
                "eQ==",
                "status.certificate: Forbidden: updates may not modify existing certificate content",
            ),
        ] {
            let mut new = sent.clone();
            new["metadata"]["annotations"] = json!({"by": "me"});
            new["spec"]["signerName"] = json!("x.y/z");
            kind.prepare_update(&mut new, &old, sub);
            assert_eq!(new["metadata"]["annotations"]["by"], "me");
            assert_eq!(new["spec"], old["spec"]);
            let found: Vec<&str> =
                items(&new["status"]["conditions"]).iter().map(|c| text(&c["type"])).collect();
            assert_eq!(
                (found.join(" ").as_str(), &new["status"]["certificate"]),
                (conditions, &json!(certificate))
            );
            assert_eq!(kind.validate_update(&new, &old, sub).message(), why);
        }
        let old = request(&[], "");
        let mut nothing = json!({"metadata": {"name": "r"}});
        kind.prepare_update(&mut nothing, &old, "approval");
        assert_eq!(nothing["status"].get("conditions"), None, "a null is no list");
        let mut both = request(&["Approved", "Denied"], "");
        assert!(kind.validate_create(&both).message().contains("mutually exclusive"));
        both["status"] = json!({"conditions": [{"type": "Approved", "status": "False"}]});
        both["spec"]["usages"] = json!(["any", "any"]);
        assert_eq!(
            kind.validate_create(&both).message(),
            "[spec.usages[1]: Duplicate value: \"any\", status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\"]"
        );
    }
}
