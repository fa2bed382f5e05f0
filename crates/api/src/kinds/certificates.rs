//! Requests for certificates, and bundles of those that are trusted.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::podspec::signer_name;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Part, Strategy};
use crate::field::{ErrorList, Path};
use crate::patch::identity;
use crate::{meta, validate};

pub(super) const DECLS: &[Decl] = &[
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
        group: "certificates.k8s.io",
        resource: "clustertrustbundles",
        strategy: || Arc::new(TrustBundle),
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("SignerName")],
            cells: |o, _| vec![name_cell(o), json!(text(&o["spec"]["signerName"]))],
        },
        ..PLAIN
    },
    Decl {
        group: "certificates.k8s.io",
        resource: "podcertificaterequests",
        strategy: || Arc::new(PodRequest),
        ..PLAIN
    },
];

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
        signer_name(&mut errors, text(&spec["signerName"]), &path.child("signerName"));
        if spec["expirationSeconds"].as_i64().is_some_and(|n| n < 600) {
            errors.invalid(
                &path.child("expirationSeconds"),
                &spec["expirationSeconds"],
                "may not specify a duration less than 600 seconds (10 minutes)",
            );
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

    /// What is asked for cannot change, and what was told of it wrongly may stay.
    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(new);
        let before: HashSet<String> = self.validate(old).0.iter().map(ToString::to_string).collect();
        errors.0.retain(|e| !before.contains(&e.to_string()));
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

struct TrustBundle;

impl Strategy for TrustBundle {
    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::dns_subdomain_name(name.rsplit(':').next().unwrap_or(name), prefix)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (signer, path) = (text(&obj["spec"]["signerName"]), Path::new("spec").child("signerName"));
        if !signer.is_empty() {
            signer_name(&mut errors, signer, &path);
        }
        errors
    }

    /// A bundle is called after its signer.
    fn validate_create(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (signer, name) = (text(&obj["spec"]["signerName"]), meta::name(obj));
        let at = Path::new("metadata").child("name");
        let prefix = format!("{}:", signer.replace('/', ":"));
        if signer.is_empty() && name.contains(':') {
            errors.invalid_str(
                &at,
                name,
                "ClusterTrustBundle without signer name must not have \":\" in its name",
            );
        } else if !signer.is_empty() && !name.starts_with(&prefix) {
            let why =
                format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
            errors.invalid_str(&at, name, why);
        }
        let (bundle, at) = (text(&obj["spec"]["trustBundle"]), Path::new("spec").child("trustBundle"));
        check_bundle(&mut errors, bundle, &at);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (n, o, path) = (&new["spec"], &old["spec"], Path::new("spec"));
        if n["trustBundle"] != o["trustBundle"] {
            check_bundle(&mut errors, text(&n["trustBundle"]), &path.child("trustBundle"));
        }
        immutable(&mut errors, &path.child("signerName"), &n["signerName"], &o["signerName"]);
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn check_bundle(errors: &mut ErrorList, bundle: &str, path: &Path) {
    const MOST_BYTES: usize = 1 << 20;
    if bundle.len() > MOST_BYTES {
        errors.too_long(path, MOST_BYTES);
    } else if !bundle.contains("-----BEGIN ") {
        errors.invalid_str(path, "<value omitted>", "at least one trust anchor must be provided");
    }
}

struct PodRequest;

const HOUR: i64 = 3600;

impl Strategy for PodRequest {
    fn validate_create(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let signer = text(&spec["signerName"]);
        signer_name(&mut errors, signer, &path.child("signerName"));
        for of in ["pod", "serviceAccount", "node"] {
            let name = format!("{of}Name");
            each_why(&mut errors, &path.child(&name), &spec[&name], validate::dns_subdomain);
            let (uid, at) = (&spec[format!("{of}UID")], path.child(&format!("{of}UID")));
            if empty(uid) {
                errors.invalid_str(&at, "", "must not be empty");
            } else if text(uid).len() > 128 {
                errors.too_long(&at, 128);
            }
        }
        let (seconds, at) = (&spec["maxExpirationSeconds"], path.child("maxExpirationSeconds"));
        let most = if signer.starts_with("kubernetes.io/") { 24 * HOUR } else { 91 * 24 * HOUR };
        if seconds.is_null() {
            errors.required(&at, "must be set");
            return errors;
        }
        if !(HOUR..=most).contains(&int(seconds)) {
            errors.invalid(&at, seconds, format!("must be in the range [{HOUR}, {most}]"));
        }
        let given = ["stubPKCS10Request", "pkixPublicKey", "proofOfPossession"].map(|f| !empty(&spec[f]));
        if !matches!(given, [true, false, false] | [false, true, true]) {
            let why = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
            errors.wrong(&path, why);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(&mut errors, &Path::new("spec"), &new["spec"], &old["spec"]);
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        check_outcome(new, old)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

const OUTCOMES: [&str; 3] = ["Issued", "Denied", "Failed"];

fn outcome(request: &Value) -> Option<&str> {
    let conditions = items(&request["status"]["conditions"]).iter();
    conditions.filter(|c| c["status"] == "True").map(|c| text(&c["type"])).find(|t| OUTCOMES.contains(t))
}

fn check_outcome(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let (conditions, at) = (&new["status"]["conditions"], path.child("conditions"));
    let mut known = 0;
    for (i, condition) in items(conditions).iter().enumerate() {
        // So upstream writes it.
        let at = at.child(&format!("[{i}]"));
        if !OUTCOMES.contains(&text(&condition["type"])) {
            errors.not_supported(&at.child("type"), &condition["type"], &OUTCOMES);
            continue;
        }
        known += 1;
        if known > 1 {
            let why = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.invalid(&at.child("type"), &condition["type"], why);
        }
        if condition["status"] != "True" {
            errors.not_supported(&at.child("status"), &condition["status"], &["True"]);
        }
    }
    check_conditions(&mut errors, conditions, &at);
    if !errors.is_empty() {
        return errors;
    }
    let plain = |status: &Value| {
        status.as_object().is_some_and(|s| s.iter().all(|(k, v)| k == "conditions" || empty(v)))
    };
    let why = match (outcome(old), outcome(new)) {
        (Some(_), _) if new["status"] != old["status"] => {
            "immutable after PodCertificateRequest is issued, denied, or failed"
        }
        (None, Some("Denied" | "Failed")) if !plain(&new["status"]) => {
            "non-condition status fields must be empty when denying or failing the PodCertificateRequest"
        }
        (None, None) if new["status"] != old["status"] => {
            "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\""
        }
        (None, Some("Issued")) => return check_issued(&new["status"]),
        _ => return errors,
    };
    errors.wrong(&path, why);
    errors
}

/// What is said with a certificate of how long it holds.
fn check_issued(status: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let chain = &status["certificateChain"];
    if !text(chain).contains("-----BEGIN ") {
        let why = "issued certificate chain must contain at least one certificate";
        errors.invalid_str(&path.child("certificateChain"), text(chain), why);
        return errors;
    }
    for (field, why) in [
        ("notBefore", "must be present and consistent with the issued certificate"),
        ("notAfter", "must be present and consistent with the issued certificate"),
        ("beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]"),
    ] {
        if empty(&status[field]) {
            errors.required(&path.child(field), why);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

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
