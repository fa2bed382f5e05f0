//! The kinds of resource.k8s.io: devices, classes of them, and claims to them, with their older shapes.

mod claim;
mod slice;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy};
use crate::field::{ErrorList, Path};
use crate::{Map, meta};

const CLAIM: Conversion = Conversion::Functions {
    to_storage: |o| requests(meta::child(o, "spec"), nest),
    from_storage: |o| requests(meta::child(o, "spec"), flatten),
};
const TEMPLATE: Conversion = Conversion::Functions {
    to_storage: |o| requests(meta::entry(meta::child(o, "spec"), "spec"), nest),
    from_storage: |o| requests(meta::entry(meta::child(o, "spec"), "spec"), flatten),
};

const AGE: Columns = Columns::Coded {
    columns: &[Column::name(), Column::text("Age")],
    cells: |o, now| vec![name_cell(o), age_cell(o, now)],
};

pub(super) const DECLS: &[Decl] = &[
    Decl {
        group: "resource.k8s.io",
        resource: "resourceclaims",
        answers_deleted: true,
        strategy: || Arc::new(Claim),
        conversions: &[("resource.k8s.io", "v1beta1", CLAIM)],
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("State"), Column::text("Age")],
            cells: |o, now| {
                let status = &o["status"];
                let mut words: Vec<&str> = Vec::new();
                let deleted = meta::is_deleting(o);
                if deleted {
                    words.push("deleted");
                }
                match (status["allocation"].is_null(), empty(&status["reservedFor"])) {
                    (true, _) if deleted => {}
                    (true, _) => words.push("pending"),
                    (false, true) => words.push("allocated"),
                    (false, false) => words.extend(["allocated", "reserved"]),
                }
                vec![name_cell(o), json!(words.join(",")), age_cell(o, now)]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "resource.k8s.io",
        resource: "resourceclaimtemplates",
        answers_deleted: true,
        strategy: || Arc::new(ClaimTemplate),
        conversions: &[("resource.k8s.io", "v1beta1", TEMPLATE)],
        columns: AGE,
        ..PLAIN
    },
    Decl {
        group: "resource.k8s.io",
        resource: "deviceclasses",
        answers_deleted: true,
        strategy: || Arc::new(DeviceClass),
        columns: AGE,
        ..PLAIN
    },
    Decl {
        group: "resource.k8s.io",
        resource: "resourceslices",
        answers_deleted: true,
        strategy: || Arc::new(ResourceSlice),
        conversions: &[(
            "resource.k8s.io",
            "v1beta1",
            Conversion::Functions { to_storage: slice_to_storage, from_storage: slice_from_storage },
        )],
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Node"),
                Column::text("Driver"),
                Column::text("Pool"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let spec = &o["spec"];
                vec![
                    name_cell(o),
                    json!(text(&spec["nodeName"])),
                    json!(text(&spec["driver"])),
                    json!(text(&spec["pool"]["name"])),
                    age_cell(o, now),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "resource.k8s.io",
        resource: "devicetaintrules",
        answers_deleted: true,
        strategy: || Arc::new(TaintRule),
        ..PLAIN
    },
];

/// In v1beta1 what a request asks for stands beside its name, in v1 below `exactly`.
fn requests(spec: &mut Map, change: fn(&mut Map)) {
    if let Some(devices) = sub(spec, "devices") {
        for request in each(devices, "requests") {
            change(request);
        }
    }
}

fn nest(request: &mut Map) {
    let mut exactly = Map::new();
    for field in
        ["deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity"]
    {
        if let Some(v) = request.shift_remove(field) {
            exactly.insert(field.to_owned(), v);
        }
    }
    if !exactly.is_empty() {
        request.insert("exactly".to_owned(), Value::Object(exactly));
    }
}

fn flatten(request: &mut Map) {
    if let Some(Value::Object(exactly)) = request.shift_remove("exactly") {
        request.extend(exactly);
    }
}

fn default_request(request: &mut Map) {
    set_text(request, "allocationMode", "ExactCount");
    if request.get("allocationMode").is_some_and(|m| m == "ExactCount") {
        set(request, "count", 1);
    }
    for toleration in each(request, "tolerations") {
        set_text(toleration, "operator", "Equal");
    }
}

fn default_requests(spec: &mut Map) {
    if let Some(devices) = sub(spec, "devices") {
        for request in each(devices, "requests") {
            if let Some(exactly) = sub(request, "exactly") {
                default_request(exactly);
            }
            each(request, "firstAvailable").for_each(default_request);
        }
    }
}

struct Claim;

impl Strategy for Claim {
    fn default(&self, obj: &mut Value) {
        default_requests(meta::child(obj, "spec"));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        claim::devices(&mut errors, &obj["spec"]["devices"], &Path::new("spec").child("devices"));
        errors
    }

    /// What is asked for does not change: who wants something else makes another object.
    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(&mut errors, &Path::new("spec"), &new["spec"], &old["spec"]);
        errors
    }

    /// A device that is no longer allocated has no status.
    fn prepare_status(&self, new: &mut Value, old: &Value) {
        claim::drop_deallocated(new, old);
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        claim::status(new, old)
    }
}

struct ClaimTemplate;

impl Strategy for ClaimTemplate {
    fn default(&self, obj: &mut Value) {
        default_requests(meta::entry(meta::child(obj, "spec"), "spec"));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        claim::template_metadata(&mut errors, &spec["metadata"], &path.child("metadata"));
        let at = path.child("spec").child("devices");
        claim::devices(&mut errors, &spec["spec"]["devices"], &at);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(&mut errors, &Path::new("spec"), &new["spec"], &old["spec"]);
        errors
    }
}

struct DeviceClass;

impl Strategy for DeviceClass {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        claim::selectors(&mut errors, &spec["selectors"], &path.child("selectors"));
        claim::each_config(&mut errors, &spec["config"], &path.child("config"), 32, |_, _, _| {});
        let name = &spec["extendedResourceName"];
        if !name.is_null() && !crate::quota::is_extended(text(name)) {
            let at = path.child("extendedResourceName");
            errors.invalid(&at, name, "must be a valid extended resource name");
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

const SLICE_FIELDS: &[Cow<'static, str>] = &[Cow::Borrowed("spec.nodeName"), Cow::Borrowed("spec.driver")];

struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn default(&self, obj: &mut Value) {
        for device in each(meta::child(obj, "spec"), "devices") {
            let mappings = device.get_mut("nodeAllocatableResourceMappings").and_then(Value::as_object_mut);
            for mapping in mappings.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
                set(mapping, "allocationMultiplier", "1");
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        slice::check(&mut errors, &obj["spec"], &Value::Null);
        errors
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        slice::check(&mut errors, &new["spec"], &old["spec"]);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let (n, o) = (&new["spec"], &old["spec"]);
        immutable(&mut errors, &path.child("pool").child("name"), &n["pool"]["name"], &o["pool"]["name"]);
        for field in ["driver", "nodeName"] {
            immutable(&mut errors, &path.child(field), &n[field], &o[field]);
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// Drivers look for their own slices, and kubelets for those of their node.
    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        SLICE_FIELDS
    }
}

struct TaintRule;

impl Strategy for TaintRule {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        slice::taint_rule(&mut errors, &obj["spec"], &Value::Null);
        errors
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        slice::taint_rule(&mut errors, &new["spec"], &old["spec"]["taint"]);
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (conditions, at) = (&new["status"]["conditions"], Path::new("status").child("conditions"));
        check_conditions(&mut errors, conditions, &at);
        if items(conditions).len() > 8 {
            errors.too_many(&at, items(conditions).len(), 8);
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// In v1beta1 what a device has stands below `basic`.
fn slice_to_storage(obj: &mut Value) {
    for device in each(meta::child(obj, "spec"), "devices") {
        if let Some(Value::Object(basic)) = device.shift_remove("basic") {
            device.extend(basic);
        }
    }
}

fn slice_from_storage(obj: &mut Value) {
    for device in each(meta::child(obj, "spec"), "devices") {
        let mut basic = std::mem::take(device);
        if let Some(name) = basic.shift_remove("name") {
            device.insert("name".to_owned(), name);
        }
        if !basic.is_empty() {
            device.insert("basic".to_owned(), Value::Object(basic));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::Gvr;

    #[test]
    fn slices_are_found_by_node_and_driver_in_each_version() {
        let slice = json!({"metadata": {"name": "a", "generation": 3},
            "spec": {"nodeName": "n1", "driver": "gpu.example.com", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}});
        for version in ["v1", "v1beta1", "v1beta2"] {
            let kind = kinds::by_gvr(&Gvr::new("resource.k8s.io", version, "resourceslices")).unwrap();
            for (text, want) in [
                ("spec.nodeName=n1,spec.driver=gpu.example.com", true),
                ("spec.nodeName=n2", false),
                ("spec.driver!=gpu.example.com", false),
            ] {
                assert_eq!(kind.field_selector(text).unwrap().matches(&slice), want, "{version}: {text}");
            }
            assert!(kind.field_selector("spec.pool=p").is_err());
        }
        let kind = kinds::by_gvr(&Gvr::new("resource.k8s.io", "v1", "resourceslices")).unwrap();
        let mut new = slice.clone();
        new["spec"]["pool"]["generation"] = json!(2);
        kind.prepare_update(&mut new, &slice, "");
        assert_eq!(new["metadata"]["generation"], 4);
        assert_eq!(kind.validate_update(&new, &slice, "").message(), "[]");
        new["spec"]["driver"] = json!("other.example.com");
        assert_eq!(
            kind.validate_update(&new, &slice, "").message(),
            "spec.driver: Invalid value: \"other.example.com\": field is immutable"
        );
    }

    #[test]
    fn requests_are_defaulted_and_stay() {
        let kind = kinds::by_gvr(&Gvr::new("resource.k8s.io", "v1", "resourceclaims")).unwrap();
        let mut claim = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"devices": {"requests": [
            {"name": "r", "exactly": {"deviceClassName": "c", "tolerations": [{"key": "k", "value": "v"}]}},
            {"name": "s", "firstAvailable": [{"name": "t", "deviceClassName": "c", "allocationMode": "All"}]}]}}});
        kind.default(&mut claim);
        assert_eq!(
            claim["spec"]["devices"]["requests"],
            json!([
                {"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1,
                    "tolerations": [{"key": "k", "value": "v", "operator": "Equal"}]}},
                {"name": "s", "firstAvailable": [{"name": "t", "deviceClassName": "c", "allocationMode": "All"}]}
            ])
        );
        let mut new = claim.clone();
        new["spec"]["devices"]["requests"][0]["exactly"]["count"] = json!(2);
        assert!(kind.validate_update(&new, &claim, "").message().ends_with("field is immutable"));
    }

    #[test]
    fn older_shapes_hold_the_same() {
        let v1 = json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "count": 2}}]}}});
        let mut old = v1.clone();
        requests(meta::child(&mut old, "spec"), flatten);
        assert_eq!(
            old["spec"]["devices"]["requests"][0],
            json!({"name": "r", "deviceClassName": "c", "count": 2})
        );
        requests(meta::child(&mut old, "spec"), nest);
        assert_eq!(old, v1);
        let v1 = json!({"spec": {"devices": [{"name": "d", "attributes": {"a": {"int": 1}}}]}});
        let mut old = v1.clone();
        slice_from_storage(&mut old);
        assert_eq!(
            old["spec"]["devices"][0],
            json!({"name": "d", "basic": {"attributes": {"a": {"int": 1}}}})
        );
        slice_to_storage(&mut old);
        assert_eq!(old, v1);
    }
}
