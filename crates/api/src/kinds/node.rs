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

struct Node;

impl Strategy for Node {
    fn default(&self, obj: &mut Value) {
        if let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) {
            let capacity = status.get("capacity").cloned();
            if let Some(capacity) = capacity {
                set(status, "allocatable", capacity);
            }
        }
        meta::child(obj, "spec");
    }

    /// A kubelet registers its node together with its status.
    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let mut seen = HashSet::new();
        for (i, taint) in items(&obj["spec"]["taints"]).iter().enumerate() {
            let at = path.child("taints").index(i);
            if !seen.insert((text(&taint["key"]), text(&taint["effect"]))) {
                let why = "taints must be unique by key and effect pair";
                errors.push(ErrorType::Duplicate, &at, Some(show(taint)), why);
            }
            for why in validate::qualified_name(text(&taint["key"])) {
                errors.invalid(&at.child("key"), &taint["key"], why);
            }
            for why in validate::label_value(text(&taint["value"])) {
                errors.invalid(&at.child("value"), &taint["value"], why);
            }
            one_of(
                &mut errors,
                &at.child("effect"),
                &taint["effect"],
                &["NoExecute", "NoSchedule", "PreferNoSchedule"],
            );
        }
        for (i, cidr) in items(&obj["spec"]["podCIDRs"]).iter().enumerate() {
            for why in validate::cidr(text(cidr)) {
                errors.invalid(&path.child("podCIDRs").index(i), cidr, why);
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        for (field, named) in [("podCIDRs", "podCIDR"), ("podCIDR", "podCIDR"), ("providerID", "providerID")]
        {
            let (n, o) = (&new["spec"][field], &old["spec"][field]);
            if !empty(o) && n != o {
                let why = format!("node updates may not change {named} except from \"\" to valid");
                errors.forbidden(&path.child(field), why);
            }
        }
        errors
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
        for why in validate::qualified_name(text(finalizer)) {
            errors.invalid(&Path::new("spec").child("finalizers").index(i), finalizer, why);
        }
        super::rules::full_finalizer(
            &mut errors,
            &Path::new("spec").child("finalizers").index(i),
            text(finalizer),
        );
    }
    errors
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
            "spec.taints[1]: Duplicate value: {\"key\":\"a\",\"effect\":\"NoSchedule\"}: taints must be unique by key and effect pair"
        );
        for (field, named) in [("providerID", "providerID"), ("podCIDR", "podCIDR")] {
            let (new, old) = (node(json!({field: "10.0.1.0/24"})), node(json!({field: "10.0.0.0/24"})));
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
