//! Disruption budgets, priority classes, quotas, limit ranges.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Generic, Strategy};
use crate::field::{ErrorList, Path};
use crate::quantity::Quantity;
use crate::{intstr, meta, quota, validate};

pub(super) const DECLS: &[Decl] = &[
    Decl {
        group: "policy",
        resource: "poddisruptionbudgets",
        short: &["pdb"],
        strategy: || Arc::new(Budget),
        conversions: &[(
            "policy",
            "v1beta1",
            Conversion::Functions { to_storage: budget_to_storage, from_storage: budget_from_storage },
        )],
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Min Available"),
                Column::text("Max Unavailable"),
                Column::int("Allowed Disruptions"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let show = |v: &Value| json!(if v.is_null() { "N/A".to_owned() } else { intstr::show(v) });
                vec![
                    name_cell(o),
                    show(&o["spec"]["minAvailable"]),
                    show(&o["spec"]["maxUnavailable"]),
                    json!(int(&o["status"]["disruptionsAllowed"])),
                    age_cell(o, now),
                ]
            },
        },
        ..PLAIN
    },
    Decl { group: "policy", resource: "podsecuritypolicies", short: &["psp"], ..PLAIN },
    Decl {
        group: "scheduling.k8s.io",
        resource: "priorityclasses",
        short: &["pc"],
        strategy: || Arc::new(PriorityClass),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::int("Value"),
                Column::text("Global-Default"),
                Column::text("Age"),
                Column::text("PreemptionPolicy"),
            ],
            cells: |o, now| {
                let default = o["globalDefault"] == true;
                vec![
                    name_cell(o),
                    json!(int(&o["value"])),
                    json!(default),
                    age_cell(o, now),
                    json!(text(&o["preemptionPolicy"])),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        resource: "resourcequotas",
        answers_deleted: true,
        short: &["quota"],
        strategy: || Arc::new(Quota),
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("Request"), Column::text("Limit"), Column::text("Age")],
            cells: |o, now| {
                let (mut requests, mut limits) = (Vec::new(), Vec::new());
                for (name, hard) in o["status"]["hard"].as_object().into_iter().flatten() {
                    let used = &o["status"]["used"][name];
                    let used = if used.is_null() { "0" } else { text(used) };
                    let line = format!("{name}: {used}/{}", text(hard));
                    if name.starts_with("limits") { limits.push(line) } else { requests.push(line) }
                }
                requests.sort();
                limits.sort();
                vec![name_cell(o), json!(requests.join(", ")), json!(limits.join(", ")), age_cell(o, now)]
            },
        },
        ..PLAIN
    },
    Decl { resource: "limitranges", short: &["limits"], strategy: || Arc::new(LimitRange), ..PLAIN },
    Decl {
        group: "internal.apiserver.k8s.io",
        resource: "storageversions",
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("CommonEncodingVersion"),
                Column::text("StorageVersions"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let status = &o["status"];
                let of = items(&status["storageVersions"]).iter();
                let of = of.map(|v| format!("{}={}", text(&v["apiServerID"]), text(&v["encodingVersion"])));
                let common = text(&status["commonEncodingVersion"]);
                vec![
                    name_cell(o),
                    json!(if common.is_empty() { "<unset>" } else { common }),
                    json!(few(of.collect(), "<unset>")),
                    age_cell(o, now),
                ]
            },
        },
        ..PLAIN
    },
    Decl { group: "scheduling.k8s.io", resource: "podgroups", strategy: || Arc::new(Generic), ..PLAIN },
];

struct Budget;

impl Strategy for Budget {
    fn no_status(&self) -> Value {
        json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0})
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
            errors.invalid(&path, spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for field in ["minAvailable", "maxUnavailable"] {
            super::deployment::check_amount(&mut errors, &path.child(field), &spec[field]);
            super::deployment::check_at_most_all(&mut errors, &path.child(field), &spec[field]);
        }
        check_selector(&mut errors, &path.child("selector"), &spec["selector"]);
        let (policy, words) = (&spec["unhealthyPodEvictionPolicy"], ["AlwaysAllow", "IfHealthyBudget"]);
        if !policy.is_null() && !words.contains(&text(policy)) {
            errors.not_supported(&path.child("unhealthyPodEvictionPolicy"), policy, &words);
        }
        errors
    }

    /// Values that no label can have may stay where some were.
    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        keeping_odd_values(self.validate(new), &self.validate(old))
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let status = &new["status"];
        check_conditions(&mut errors, &status["conditions"], &Path::new("status").child("conditions"));
        let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        check_counts(&mut errors, status, &counts);
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// In v1beta1 an empty selector selects no pod, in v1 every pod; this key, which no pod has, says the former.
const SELECTS_NONE: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

fn none_selector() -> Value {
    json!({"matchExpressions": [{"key": SELECTS_NONE, "operator": "Exists"}]})
}

fn budget_to_storage(obj: &mut Value) {
    if obj["spec"]["selector"].as_object().is_some_and(|s| s.values().all(empty)) {
        meta::child(obj, "spec").insert("selector".to_owned(), none_selector());
    }
}

fn budget_from_storage(obj: &mut Value) {
    if obj["spec"]["selector"] == none_selector() {
        meta::child(obj, "spec").insert("selector".to_owned(), json!({}));
    }
}

struct PriorityClass;

impl Strategy for PriorityClass {
    fn default(&self, obj: &mut Value) {
        let map = meta::as_map(obj);
        set(map, "preemptionPolicy", "PreemptLowerPriority");
        set(map, "value", 0);
    }

    /// It never becomes another one: what may change of it counts for nobody.
    fn prepare_create(&self, obj: &mut Value) {
        meta::of_mut(obj).insert("generation".to_owned(), json!(1));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let name = meta::name(obj);
        let value = int(&obj["value"]);
        if name.starts_with("system-") {
            let known = match name {
                "system-node-critical" => Some(2_000_001_000),
                "system-cluster-critical" => Some(2_000_000_000),
                _ => None,
            };
            let why = match known {
                None => Some(format!("{name} is not a known system priority class")),
                Some(n) if n != value => Some(format!("value of {name} PriorityClass must be {n}")),
                Some(_) if obj["globalDefault"] == true => {
                    Some(format!("globalDefault of {name} PriorityClass must be false"))
                }
                Some(_) => None,
            };
            if let Some(why) = why {
                let why = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                errors.forbidden(&Path::new("metadata").child("name"), why);
            }
        } else if value > 1_000_000_000 {
            errors.forbidden(
                &Path::new("value"),
                "maximum allowed value of a user defined priority is 1000000000",
            );
        }
        let (policy, at) = (&obj["preemptionPolicy"], Path::new("preemptionPolicy"));
        if !policy.is_null() {
            one_of(&mut errors, &at, policy, &["PreemptLowerPriority", "Never"]);
        }
        errors
    }

    /// What was wrong with it may stay: nothing of that can change.
    fn validate_changed(&self, _: &Value, _: &Value) -> ErrorList {
        ErrorList::new()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if new["value"] != old["value"] {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        immutable(
            &mut errors,
            &Path::new("preemptionPolicy"),
            &new["preemptionPolicy"],
            &old["preemptionPolicy"],
        );
        errors
    }
}

/// Checks the name of a resource; says whether it is of the form of one.
fn check_resource(errors: &mut ErrorList, path: &Path, name: &str) -> bool {
    let wrong = validate::qualified_name(name);
    let good = wrong.is_empty();
    for why in wrong {
        errors.invalid_str(path, name, why);
    }
    if good && !name.contains('/') && !quota::is_standard(name) {
        errors.invalid_str(path, name, "must be a standard resource type or fully qualified");
    }
    good
}

/// Checks the amounts of a quota, set or used.
fn check_amounts(errors: &mut ErrorList, path: &Path, amounts: &Value) {
    for (name, amount) in amounts.as_object().into_iter().flatten() {
        let at = path.key(name);
        check_resource(errors, &at, name);
        if !name.contains('/') && !quota::COUNTED.contains(&name.as_str()) && !quota::is_huge_pages(name) {
            errors.invalid_str(&at, name, "must be a standard resource for quota");
        }
        check_amount_of(errors, &at, name, amount);
    }
}

/// Checks an amount of a resource: not negative, and whole where it is counted.
pub(super) fn check_amount_of(errors: &mut ErrorList, path: &Path, name: &str, amount: &Value) {
    let Ok(quantity) = Quantity::of_value(amount) else { return };
    if quantity.signum() < 0 {
        errors.invalid(path, amount, "must be greater than or equal to 0");
    }
    let measured =
        ["cpu", "memory", "storage"].iter().any(|unit| name.ends_with(unit)) || quota::is_huge_pages(name);
    let counted = quota::COUNTED.contains(&name) && !measured || quota::is_extended(name);
    if counted && quantity.nanos() % 1_000_000_000 != 0 {
        errors.invalid(path, amount, "must be an integer");
    }
}

/// What can be counted of pods.
const POD: &[&str] =
    &["pods", "cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// What can be counted in a scope; nothing if there is no such scope.
fn countable(scope: &str) -> Option<&'static [&'static str]> {
    let countable: &'static [&'static str] = match scope {
        "BestEffort" => &["pods"],
        "VolumeAttributesClass" => &["persistentvolumeclaims", "requests.storage"],
        "Terminating" | "NotTerminating" | "NotBestEffort" => POD,
        "PriorityClass" | "CrossNamespacePodAffinity" => POD,
        _ => return None,
    };
    Some(countable)
}

/// Two of them together leave nothing.
fn conflicting(scopes: &BTreeSet<&str>) -> usize {
    let pairs = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
    pairs.iter().filter(|pair| pair.iter().all(|scope| scopes.contains(scope))).count()
}

/// Judges the scopes of a quota, however they are said.
fn scopes(spec: &Value, errors: &mut ErrorList) {
    let hard: Vec<&str> = spec["hard"].as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect();
    let unfit = |scope: &str| {
        let out = |k: &&str| {
            quota::COUNTED.contains(k) && countable(scope).is_some_and(|countable| !countable.contains(k))
        };
        hard.iter().any(out)
    };
    const UNFIT: &str = "unsupported scope applied to resource";
    // Each error shows the whole list.
    let (given, path) = (&spec["scopes"], Path::new("spec").child("scopes"));
    let plain: BTreeSet<&str> = items(given).iter().map(text).collect();
    for scope in &plain {
        if countable(scope).is_none() {
            errors.invalid(&path, given, "unsupported scope");
        }
        if unfit(scope) {
            errors.invalid(&path, given, UNFIT);
        }
    }
    (0..conflicting(&plain)).for_each(|_| errors.invalid(&path, given, "conflicting scopes"));
    let selector = &spec["scopeSelector"];
    let path = Path::new("spec").child("scopeSelector").child("matchExpressions");
    let mut selected = BTreeSet::new();
    for term in items(&selector["matchExpressions"]) {
        let (scope, operator) = (text(&term["scopeName"]), text(&term["operator"]));
        if countable(scope).is_none() {
            errors.invalid_str(&path.child("scopeName"), scope, "unsupported scope");
        }
        if unfit(scope) {
            errors.invalid(&path, selector, UNFIT);
        }
        let by_value = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if operator != "Exists" && !by_value && countable(scope).is_some() {
            errors.invalid_str(
                &path.child("operator"),
                operator,
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            );
        }
        let chosen = !items(&term["values"]).is_empty();
        match operator {
            "In" | "NotIn" if !chosen => errors.required(
                &path.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if chosen => errors.invalid(
                &path.child("values"),
                &term["values"],
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid_str(&path.child("operator"), other, "not a valid selector operator"),
        }
        selected.insert(scope);
    }
    (0..conflicting(&selected)).for_each(|_| errors.invalid(&path, given, "conflicting scopes"));
}

struct Quota;

impl Strategy for Quota {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_amounts(&mut errors, &Path::new("spec").child("hard"), &obj["spec"]["hard"]);
        scopes(&obj["spec"], &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let set = |spec: &Value| -> BTreeSet<String> {
            items(&spec["scopes"]).iter().map(|scope| text(scope).to_owned()).collect()
        };
        if set(&new["spec"]) != set(&old["spec"]) {
            let at = Path::new("spec").child("scopes");
            errors.invalid(&at, &new["spec"]["scopes"], "field is immutable");
        }
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["hard", "used"] {
            check_amounts(&mut errors, &Path::new("status").child(field), &new["status"][field]);
        }
        errors
    }
}

struct LimitRange;

impl Strategy for LimitRange {
    fn default(&self, obj: &mut Value) {
        // For containers what is not said follows from what is: a maximum is the default limit, a default limit the default
        // request, and a minimum the default request where there is no limit.
        for item in each(meta::child(obj, "spec"), "limits") {
            if item.get("type").is_none_or(|t| t != "Container") {
                continue;
            }
            for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
                let Some(source) = item.get(from).and_then(Value::as_object).cloned() else { continue };
                let target = meta::entry(item, to);
                for (name, amount) in source {
                    set(target, &name, amount);
                }
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("limits");
        let mut seen = BTreeSet::new();
        for (i, item) in items(&obj["spec"]["limits"]).iter().enumerate() {
            let at = path.index(i);
            let kind = text(&item["type"]);
            check_limit_type(&mut errors, &at.child("type"), kind);
            if !seen.insert(kind) {
                errors.duplicate(&at.child("type"), &item["type"]);
            }
            check_limits(&mut errors, &at, kind, item);
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn check_limit_type(errors: &mut ErrorList, path: &Path, kind: &str) {
    let wrong = validate::qualified_name(kind);
    if wrong.is_empty()
        && !kind.contains('/')
        && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind)
    {
        errors.invalid_str(path, kind, "must be a standard limit type or fully qualified");
    }
    for why in wrong {
        errors.invalid_str(path, kind, why);
    }
}

/// Checks what one item of a limit range says of its type.
fn check_limits(errors: &mut ErrorList, path: &Path, kind: &str, item: &Value) {
    let mut names = BTreeSet::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let at = path.child(field);
        if kind == "Pod" && field.starts_with("default") {
            if !empty(&item[field]) {
                errors.forbidden(&at, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, _) in item[field].as_object().into_iter().flatten() {
            names.insert(name.as_str());
            check_resource(errors, &at.key(name), name);
            if !matches!(kind, "Pod" | "Container") {
                continue;
            }
            let of_containers = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
            if !name.contains('/') && !of_containers && !name.starts_with("hugepages-") {
                errors.invalid_str(&at.key(name), name, "must be a standard resource for containers");
            } else if name.contains('/') && !name.contains("kubernetes.io/") && !quota::is_extended(name) {
                errors.invalid_str(&at.key(name), name, "doesn't follow extended resource name standard");
            }
        }
    }
    let given = |field: &str| !item[field]["storage"].is_null();
    if kind == "PersistentVolumeClaim" && !given("min") && !given("max") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&path.child("limits"), why);
    }
    for name in names {
        let amount = |field: &str| {
            let unsaid = kind == "Pod" && field.starts_with("default");
            Quantity::of_value(&item[field][name]).ok().filter(|_| !unsaid)
        };
        let (max, min) = (amount("max"), amount("min"));
        let (limit, request) = (amount("default"), amount("defaultRequest"));
        // Where it is told and which of the two is shown are upstream's.
        for (low, low_name, high, high_name, field, shown) in [
            (min, "min", max, "max", "min", min),
            (min, "min", request, "default request", "defaultRequest", request),
            (request, "default request", max, "max", "defaultRequest", request),
            (request, "default request", limit, "default limit", "defaultRequest", request),
            (min, "min", limit, "default", "default", min),
            (limit, "default", max, "max", "default", max),
        ] {
            if let (Some(l), Some(h), Some(shown)) = (low, high, shown)
                && l > h
            {
                let why = format!("{low_name} value {l} is greater than {high_name} value {h}");
                errors.invalid_str(&path.child(field).key(name), &shown.to_string(), why);
            }
        }
        if let Some(ratio) = amount("maxLimitRequestRatio") {
            let at = path.child("maxLimitRequestRatio").key(name);
            if ratio.nanos() < 1_000_000_000 {
                errors.invalid_str(&at, &ratio.to_string(), format!("ratio {ratio} is less than 1"));
            }
            if let (Some(max), Some(min)) = (max, min) {
                let most = max.as_f64() / min.as_f64();
                if ratio.as_f64() > most {
                    let why = format!("ratio {ratio} is greater than max/min = {most:.6}");
                    errors.invalid_str(&at, &ratio.to_string(), why);
                }
            }
        }
        let overcommitted =
            (!name.contains('/') || name.contains("kubernetes.io/")) && !name.starts_with("hugepages-");
        if let (Some(limit), Some(request)) = (limit, request)
            && limit != request
            && !overcommitted
        {
            let why = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
            errors.invalid_str(&path.child("defaultRequest").key(name), &request.to_string(), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    #[test]
    fn quotas_count_what_can_be_counted() {
        let kind = kinds::by_gvr(&gvr::RESOURCE_QUOTAS).unwrap();
        for (hard, why) in [
            (
                json!({"pods": "3", "requests.cpu": "500m", "limits.memory": "1Gi", "requests.nvidia.com/gpu": "1",
                "count/widgets.example.com": "5", "hugepages-2Mi": "2Mi", "requests.storage": "1.5Gi",
                "fast.storageclass.storage.k8s.io/requests.storage": "10Gi"}),
                "[]",
            ),
            (
                json!({"podz": "1"}),
                "[spec.hard[podz]: Invalid value: \"podz\": must be a standard resource type or fully qualified, spec.hard[podz]: Invalid value: \"podz\": must be a standard resource for quota]",
            ),
            (
                json!({"storage": "1"}),
                "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota",
            ),
            (json!({"pods": "1500m"}), "spec.hard[pods]: Invalid value: \"1500m\": must be an integer"),
            (
                json!({"count/pods": "1500m"}),
                "spec.hard[count/pods]: Invalid value: \"1500m\": must be an integer",
            ),
            (
                json!({"cpu": "-1"}),
                "spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
        ] {
            let quota = json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": hard}});
            assert_eq!(kind.validate_create(&quota).message(), why);
            let old = json!({"metadata": {"name": "q", "namespace": "n"}});
            let mut new = old.clone();
            new["status"] = json!({"hard": quota["spec"]["hard"]});
            assert_eq!(kind.validate_update(&new, &old, "status").message(), why.replace("spec.", "status."));
        }
        let scoped =
            |scopes: Value| json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"scopes": scopes}});
        let old = scoped(json!(["Terminating", "NotBestEffort"]));
        assert!(kind.validate_update(&scoped(json!(["NotBestEffort", "Terminating"])), &old, "").is_empty());
        let message = kind.validate_update(&scoped(json!(["Terminating"])), &old, "").message();
        assert_eq!(message, "spec.scopes: Invalid value: [\"Terminating\"]: field is immutable");
    }

    #[test]
    fn limit_ranges_fit_together() {
        let kind = kinds::by_gvr(&gvr::LIMIT_RANGES).unwrap();
        for (limits, why) in [
            (
                json!([{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}},
                {"type": "Pod", "max": {"memory": "1Gi"}}, {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
                {"type": "example.com/thing"}]),
                "[]",
            ),
            (json!([{"type": "Pod"}, {"type": "Pod"}]), "spec.limits[1].type: Duplicate value: \"Pod\""),
            (
                json!([{"type": "Node"}]),
                "spec.limits[0].type: Invalid value: \"Node\": must be a standard limit type or fully qualified",
            ),
            (
                json!([{"type": "Pod", "default": {"cpu": "1"}}]),
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            ),
            (
                json!([{"type": "PersistentVolumeClaim"}]),
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ),
            (
                json!([{"type": "Container", "max": {"pods": "1"}}]),
                "spec.limits[0].max[pods]: Invalid value: \"pods\": must be a standard resource for containers",
            ),
            (
                json!([{"type": "Container", "min": {"cpu": "3"}, "max": {"cpu": "2"}}]),
                "spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2",
            ),
            (
                json!([{"type": "Container", "defaultRequest": {"cpu": "3"}, "default": {"cpu": "2"}}]),
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than default limit value 2",
            ),
            (
                json!([{"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}}]),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ),
            (
                json!([{"type": "Pod", "max": {"cpu": "3"}, "min": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "2"}}]),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"2\": ratio 2 is greater than max/min = 1.500000",
            ),
            (
                json!([{"type": "Container", "default": {"example.com/gpu": "2"}, "defaultRequest": {"example.com/gpu": "1"}}]),
                "spec.limits[0].defaultRequest[example.com/gpu]: Invalid value: \"1\": default value 2 must equal to defaultRequest value 1 in example.com/gpu",
            ),
        ] {
            let range = json!({"metadata": {"name": "l", "namespace": "n"}, "spec": {"limits": limits}});
            assert_eq!(kind.validate_create(&range).message(), why);
        }
    }
}
