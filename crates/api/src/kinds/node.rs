//! Nodes, Namespaces, ComponentStatuses.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Part, Strategy};
use crate::field::{ErrorList, ErrorType, Path, show};
use crate::{meta, validate};

pub(super) const DECLS: &[Decl] = &[
    Decl {
        resource: "nodes",
        short: &["no"],
        strategy: || Arc::new(Node),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Status"),
                Column::text("Roles"),
                Column::text("Age"),
                Column::text("Version"),
                Column::text("Internal-IP").wide(),
                Column::text("External-IP").wide(),
                Column::text("OS-Image").wide(),
                Column::text("Kernel-Version").wide(),
                Column::text("Container-Runtime").wide(),
            ],
            cells: node_cells,
        },
        ..PLAIN
    },
    Decl {
        resource: "namespaces",
        answers_deleted: true,
        short: &["ns"],
        strategy: || Arc::new(Namespace),
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("Status"), Column::text("Age")],
            cells: |o, now| vec![name_cell(o), json!(text(&o["status"]["phase"])), age_cell(o, now)],
        },
        ..PLAIN
    },
    Decl {
        resource: "componentstatuses",
        short: &["cs"],
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Status"),
                Column::text("Message"),
                Column::text("Error"),
            ],
            cells: |o, _| {
                let healthy = items(&o["conditions"]).iter().find(|c| c["type"] == "Healthy");
                let field = |f: &str| healthy.map(|c| text(&c[f]).to_owned()).unwrap_or_default();
                let status = match field("status").as_str() {
                    "True" => "Healthy",
                    "False" => "Unhealthy",
                    _ => "Unknown",
                };
                vec![name_cell(o), json!(status), json!(field("message")), json!(field("error"))]
            },
        },
        ..PLAIN
    },
];

fn node_cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let ready = items(&status["conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut word = match ready {
        Some(c) if c["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if spec["unschedulable"] == true {
        word.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in meta::labels(o).into_iter().flatten() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/").filter(|r| !r.is_empty()) {
            roles.push(role);
        } else if key == "kubernetes.io/role" && !text(value).is_empty() {
            roles.push(text(value));
        }
    }
    roles.sort_unstable();
    roles.dedup();
    let address = |kind: &str| {
        let found = items(&status["addresses"]).iter().find(|a| a["type"] == kind);
        or_none(found.map(|a| text(&a["address"])).unwrap_or_default())
    };
    let info = &status["nodeInfo"];
    let unknown = |f: &str| json!(if text(&info[f]).is_empty() { "<unknown>" } else { text(&info[f]) });
    vec![
        name_cell(o),
        json!(word),
        or_none(&roles.join(",")),
        age_cell(o, now),
        json!(text(&info["kubeletVersion"])),
        address("InternalIP"),
        address("ExternalIP"),
        unknown("osImage"),
        unknown("kernelVersion"),
        unknown("containerRuntimeVersion"),
    ]
}

const NODE_FIELDS: &[Cow<'static, str>] = &[Cow::Borrowed("spec.unschedulable")];

/// Of the two where taints once stood the server still looks at one, and nobody acts on either.
fn check_annotations(errors: &mut ErrorList, obj: &Value) {
    const TAINTS: &str = "scheduler.alpha.kubernetes.io/taints";
    let path = Path::new("metadata").child("annotations");
    let Some(given) = meta::annotation(obj, TAINTS).filter(|given| !given.is_empty()) else { return };
    match serde_json::from_str::<Value>(given) {
        Ok(taints @ (Value::Array(_) | Value::Null)) => check_taints(errors, &taints, &path.child(TAINTS)),
        Ok(_) => errors.invalid_str(&path, TAINTS, "must be a list of taints"),
        Err(why) => errors.invalid_str(&path, TAINTS, why.to_string()),
    }
}

fn check_taints(errors: &mut ErrorList, taints: &Value, path: &Path) {
    let mut seen = HashSet::new();
    for (i, taint) in items(taints).iter().enumerate() {
        let at = path.index(i);
        for why in validate::qualified_name(text(&taint["key"])) {
            errors.invalid_str(&at.child("key"), text(&taint["key"]), why);
        }
        let wrong = validate::label_value(text(&taint["value"]));
        if !wrong.is_empty() {
            errors.invalid(&at.child("value"), &taint["value"], wrong.join(";"));
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        one_of(errors, &at.child("effect"), &taint["effect"], &effects);
        if !seen.insert((text(&taint["key"]), text(&taint["effect"]))) {
            let why = "taints must be unique by key and effect pair";
            errors.push(ErrorType::Duplicate, &at, Some(show(taint)), why);
        }
    }
}

/// What a node says that it has and can do.
fn check_status(errors: &mut ErrorList, obj: &Value) {
    let (status, path) = (&obj["status"], Path::new("status"));
    for field in ["capacity", "allocatable"] {
        for (name, amount) in status[field].as_object().into_iter().flatten() {
            super::policy::check_amount_of(errors, &path.child(field).child(name), name, amount);
        }
    }
    let (features, at) = (items(&status["declaredFeatures"]), path.child("declaredFeatures"));
    let mut before: Option<&str> = None;
    for (i, feature) in features.iter().map(text).enumerate() {
        let at = at.index(i);
        if before == Some(feature) {
            errors.duplicate(&at, &json!(feature));
        } else if before.is_some_and(|before| before > feature) {
            errors.invalid_str(&at, feature, "list must be sorted alphabetically");
        }
        if let Some(why) = no_feature(feature) {
            errors.invalid_str(&at, feature, format!("invalid feature name {feature:?}: {why}"));
        }
        before = Some(feature);
    }
}

/// Why a text is no name of a feature, as `Feature/part` is.
fn no_feature(name: &str) -> Option<&'static str> {
    if name.len() > 253 {
        return Some("must be no more than 253 characters");
    }
    let segment = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic()) && s.bytes().all(|c| c.is_ascii_alphanumeric())
    };
    let good = name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(segment);
    (!good).then_some(
        "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
    )
}

fn check_addresses(errors: &mut ErrorList, obj: &Value) {
    let mut seen = HashSet::new();
    for (i, address) in items(&obj["status"]["addresses"]).iter().enumerate() {
        if !seen.insert((text(&address["type"]), text(&address["address"]))) {
            errors.duplicate(&Path::new("status").child("addresses").index(i), address);
        }
    }
}

/// Where a node's configuration is: wanted, or `found`.
fn check_source(errors: &mut ErrorList, path: &Path, source: &Value, found: bool) {
    let (map, at) = (&source["configMap"], path.child("configMap"));
    if map.is_null() {
        errors.invalid(path, source, "exactly one reference subfield must be non-nil");
        return;
    }
    for field in ["uid", "resourceVersion"] {
        match (found, empty(&map[field])) {
            (true, true) => errors.required(&at.child(field), ""),
            (false, false) => errors.forbidden(&at.child(field), format!("{field} must not be set in spec")),
            _ => {}
        }
    }
    let rules: [(&str, NameRule); 3] = [
        ("namespace", validate::dns_label),
        ("name", validate::dns_subdomain),
        ("kubeletConfigKey", validate::config_key),
    ];
    for (field, rule) in rules {
        let given = text(&map[field]);
        if given.is_empty() {
            errors.required(&at.child(field), "");
            continue;
        }
        for why in rule(given) {
            errors.invalid_str(&at.child(field), given, why);
        }
    }
}

struct Node;

impl Strategy for Node {
    fn default(&self, obj: &mut Value) {
        if let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) {
            let capacity =
                status.get("capacity").filter(|_| status.get("allocatable").is_none_or(empty)).cloned();
            if let Some(capacity) = capacity {
                status.insert("allocatable".to_owned(), capacity);
            }
        }
        first_of_list(meta::child(obj, "spec"), "podCIDR", "podCIDRs", |cidr| cidr);
    }

    /// Nobody is told by it any more where its configuration is.
    fn prepare_create(&self, obj: &mut Value) {
        meta::child(obj, "spec").shift_remove("configSource");
        if let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) {
            status.shift_remove("config");
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        if old["spec"]["configSource"].is_null() {
            meta::child(new, "spec").shift_remove("configSource");
        }
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        if old["status"]["config"].is_null() {
            meta::child(new, "status").shift_remove("config");
        }
    }

    /// A kubelet registers its node together with its status.
    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_annotations(&mut errors, obj);
        check_taints(&mut errors, &obj["spec"]["taints"], &Path::new("metadata").child("taints"));
        check_status(&mut errors, obj);
        let capacity = &obj["status"]["nodeInfo"]["swap"]["capacity"];
        if !capacity.is_null() && int(capacity) <= 0 {
            let at = Path::new("metadata").child("nodeSwapStatus").child("capacity");
            errors.invalid(&at, capacity, "must be greater than 0");
        }
        let (cidrs, at) = (&obj["spec"]["podCIDRs"], Path::new("spec").child("podCIDRs"));
        for (i, cidr) in items(cidrs).iter().enumerate() {
            for why in validate::strict_cidr(text(cidr)) {
                errors.invalid(&at.index(i), cidr, why);
            }
        }
        if !one_of_each_family(items(cidrs).iter().map(text)) {
            errors.invalid(&at, cidrs, "may specify no more than one CIDR for each IP family");
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_addresses(&mut errors, new);
        let path = Path::new("spec");
        for (field, named) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
            let (n, o) = (&new["spec"][field], &old["spec"][field]);
            if !empty(o) && n != o {
                let why = format!("node updates may not change {named} except from \"\" to valid");
                errors.forbidden(&path.child(field), why);
            }
        }
        let source = &new["spec"]["configSource"];
        if !source.is_null() {
            check_source(&mut errors, &path.child("configSource"), source, false);
        }
        if text(&new["spec"]["externalID"]) != text(&old["spec"]["externalID"]) {
            errors.forbidden(&path.child("externalID"), "may not be updated");
        }
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_annotations(&mut errors, new);
        check_status(&mut errors, new);
        check_addresses(&mut errors, new);
        let (config, at) = (&new["status"]["config"], Path::new("status").child("config"));
        for field in ["assigned", "active", "lastKnownGood"] {
            if !config[field].is_null() {
                check_source(&mut errors, &at.child(field), &config[field], true);
            }
        }
        errors
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        let mut told = Vec::new();
        if !obj["spec"]["configSource"].is_null() {
            told.push("spec.configSource: the feature is removed".to_owned());
        }
        if !empty(&obj["spec"]["externalID"]) {
            told.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        told
    }

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        NODE_FIELDS
    }
}

const NAMESPACE_FIELDS: &[Cow<'static, str>] = &[Cow::Borrowed("status.phase")];

struct Namespace;

impl Strategy for Namespace {
    fn default(&self, obj: &mut Value) {
        let name = meta::name(obj).to_owned();
        if !name.is_empty() {
            meta::set_label(obj, "kubernetes.io/metadata.name", name);
        }
        if let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) {
            set_text(status, "phase", "Active");
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        let list = spec.entry("finalizers").or_insert_with(|| json!([]));
        if !items(list).iter().any(|f| f == "kubernetes")
            && let Some(list) = list.as_array_mut()
        {
            list.push(json!("kubernetes"));
        }
        meta::as_map(obj).insert("status".to_owned(), json!({"phase": "Active"}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        // spec.finalizers change through the finalize subresource only.
        let map = meta::as_map(new);
        match old.get("spec") {
            Some(spec) => map.insert("spec".to_owned(), spec.clone()),
            None => map.shift_remove("spec"),
        };
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for finalizer in items(&obj["spec"]["finalizers"]) {
            check_finalizer(&mut errors, &Path::new("spec").child("finalizers"), text(finalizer));
        }
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let phase = &new["status"]["phase"];
        let (only, when) =
            if meta::is_deleting(new) { ("Terminating", "is not empty") } else { ("Active", "is empty") };
        if phase != only {
            let why = format!("may only be '{only}' if `deletionTimestamp` {when}");
            errors.invalid_str(&Path::new("status").child("Phase"), text(phase), why);
        }
        errors
    }

    fn part(&self, subresource: &str) -> Option<Part> {
        (subresource == "finalize").then_some(Part { put: put_finalizers, validate: validate_finalizers })
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::dns_label_name(name, prefix)
    }

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        NAMESPACE_FIELDS
    }
}

fn put_finalizers(sent: &Value, into: &mut Value) {
    let spec = meta::child(into, "spec");
    match sent["spec"].get("finalizers") {
        Some(f) => spec.insert("finalizers".to_owned(), f.clone()),
        None => spec.shift_remove("finalizers"),
    };
}

fn validate_finalizers(new: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, finalizer) in items(&new["spec"]["finalizers"]).iter().enumerate() {
        check_finalizer(&mut errors, &Path::new("spec").child("finalizers").index(i), text(finalizer));
    }
    errors
}

fn check_finalizer(errors: &mut ErrorList, path: &Path, finalizer: &str) {
    for why in validate::qualified_name(finalizer) {
        errors.invalid_str(path, finalizer, why);
    }
    super::rules::full_finalizer(errors, path, finalizer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    #[test]
    fn taints_are_unique_and_what_a_node_is_stays() {
        let kind = kinds::by_gvr(&gvr::NODES).unwrap();
        let node = |spec: Value| json!({"metadata": {"name": "n"}, "spec": spec});
        let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect});
        let two = json!([taint("a", "NoSchedule"), taint("a", "NoExecute"), taint("b", "NoSchedule")]);
        assert!(kind.validate_create(&node(json!({"taints": two}))).is_empty());
        let same = json!([taint("a", "NoSchedule"), taint("a", "NoSchedule")]);
        assert_eq!(
            kind.validate_create(&node(json!({"taints": same}))).message(),
            "metadata.taints[1]: Duplicate value: {\"key\":\"a\",\"effect\":\"NoSchedule\"}: taints must be unique by key and effect pair"
        );
        for (field, named) in [("providerID", "providerID"), ("podCIDRs", "podCIDR")] {
            let of = |value: &str| {
                node(json!({field: if field == named { json!(value) } else { json!([value]) }}))
            };
            let (new, old) = (of("10.0.1.0/24"), of("10.0.0.0/24"));
            assert_eq!(
                kind.validate_update(&new, &old, "").message(),
                format!(
                    "spec.{field}: Forbidden: node updates may not change {named} except from \"\" to valid"
                )
            );
            assert!(kind.validate_update(&new, &node(json!({})), "").is_empty());
        }
    }
}
