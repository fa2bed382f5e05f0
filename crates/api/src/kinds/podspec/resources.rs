//! Requests, limits and claims of containers and pods.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::{invalid_amount, secret_name};
use crate::field::{ErrorList, ErrorType, Path, quote};
use crate::kinds::common::*;
use crate::quantity::Quantity;
use crate::quota::{self, is_of_pods};
use crate::validate;

const HUGE_PAGES: &str = "hugepages-";
/// The nano-units of a whole one.
const WHOLE: i128 = 1_000_000_000;

/// Is it Kubernetes' own?
pub(super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// May there be less of it than is promised? Whole things and huge pages are handed out as they are asked for.
fn is_overcommitted(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

/// Says what is wrong with the name of a resource, and whether there is nothing.
fn standard_name(errors: &mut ErrorList, name: &str, path: &Path) -> bool {
    let whys = validate::qualified_name(name);
    let good = whys.is_empty();
    for why in whys {
        errors.invalid_str(path, name, why);
    }
    if good && !name.contains('/') && !quota::is_standard(name) {
        errors.invalid_str(path, name, "must be a standard resource type or fully qualified");
        return false;
    }
    good
}

/// The name of a resource that a container has.
pub(in crate::kinds) fn container_name(errors: &mut ErrorList, name: &str, path: &Path) {
    standard_name(errors, name, path);
    if !name.contains('/') {
        let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
        if !known {
            errors.invalid_str(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !quota::is_extended(name) {
        errors.invalid_str(path, name, "doesn't follow extended resource name standard");
    }
}

fn pod_name(errors: &mut ErrorList, name: &str, path: &Path) {
    if standard_name(errors, name, path) && !is_of_pods(name) {
        errors.not_supported(path, &json!(name), &["cpu", HUGE_PAGES, "memory"]);
    }
}

/// What a container that says no more has at most.
pub(in crate::kinds) fn check_limits(errors: &mut ErrorList, limits: &Value, path: &Path) {
    amounts(errors, &json!({"limits": limits}), path, container_name);
}

/// Those of a container, with what it claims of the pod's devices, which are sorted.
pub(super) fn check(errors: &mut ErrorList, resources: &Value, path: &Path, of_pod: &[&str]) {
    amounts(errors, resources, path, container_name);
    claimed(errors, &resources["claims"], &path.child("claims"), of_pod);
}

fn amounts(errors: &mut ErrorList, resources: &Value, path: &Path, name_of: fn(&mut ErrorList, &str, &Path)) {
    let (mut pages, mut compute) = (false, false);
    for kind in ["limits", "requests"] {
        let all = path.child(kind);
        for (name, amount) in resources[kind].as_object().into_iter().flatten() {
            let at = all.key(name);
            name_of(errors, name, &at);
            pages |= name.starts_with(HUGE_PAGES);
            compute |= matches!(name.as_str(), "cpu" | "memory");
            let q = match Quantity::of_value(amount) {
                Ok(q) => q,
                Err(e) => {
                    errors.invalid(&at, amount, e.to_string());
                    continue;
                }
            };
            if q.signum() < 0 {
                invalid_amount(errors, &at, q, "must be greater than or equal to 0");
            }
            if quota::is_extended(name) && q.nanos() % WHOLE != 0 {
                invalid_amount(errors, &at, q, "must be an integer");
            }
            if kind == "requests" {
                within_limit(errors, name, q, &resources["limits"][name], path);
            }
            if let Some(size) = name.strip_prefix(HUGE_PAGES) {
                let size = Quantity::parse(size).ok().filter(|s| s.signum() > 0 && s.nanos() % WHOLE == 0);
                if size.is_none_or(|s| q.value() % s.value() != 0) {
                    let why = format!("{q} is not positive integer multiple of {name}");
                    invalid_amount(errors, &at, q, &why);
                }
            }
        }
    }
    if pages && !compute {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// A request is at most what the limit is, and exactly that where more is not handed out than there is.
fn within_limit(errors: &mut ErrorList, name: &str, request: Quantity, limit: &Value, path: &Path) {
    let strict = !is_overcommitted(name);
    match Quantity::of_value(limit) {
        Ok(limit) if strict && request != limit => {
            let why = format!("must be equal to {name} limit of {limit}");
            invalid_amount(errors, &path.child("requests"), request, &why);
        }
        Ok(limit) if request > limit => {
            let why = format!("must be less than or equal to {name} limit of {limit}");
            invalid_amount(errors, &path.child("requests"), request, &why);
        }
        Err(_) if strict && limit.is_null() => {
            errors.required(&path.child("limits"), "Limit must be set for non overcommitable resources");
        }
        _ => {}
    }
}

/// What a container takes of the pod's claims: each whole, or by requests of it.
fn claimed(errors: &mut ErrorList, claims: &Value, path: &Path, known: &[&str]) {
    let mut whole = HashSet::new();
    let mut parts: HashMap<&str, HashSet<&str>> = HashMap::new();
    for (i, claim) in items(claims).iter().enumerate() {
        let (at, name, request) = (path.index(i), text(&claim["name"]), text(&claim["request"]));
        if name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        if whole.contains(name) {
            errors.duplicate(&at, &json!(name));
        } else if request.is_empty() {
            if parts.contains_key(name) {
                errors.duplicate(&at, &json!(name));
            }
            whole.insert(name);
        } else {
            super::dns_label(errors, request, &at.child("request"));
            if !parts.entry(name).or_default().insert(request) {
                errors.duplicate(&at, &json!(format!("{name}/{request}")));
            }
        }
        // The text is long where there is much to choose from.
        if known.binary_search(&name).is_err() && !errors.is_full() {
            let mut why = "must be one of the names in pod.spec.resourceClaims".to_owned();
            match known {
                [] => why.push_str(" which is empty"),
                known => why.push_str(&format!(": {}", known.join(", "))),
            }
            errors.push(ErrorType::NotFound, &at, Some(quote(name)), why);
        }
    }
}

/// The pod's claims of devices.
pub(super) fn check_claims(errors: &mut ErrorList, claims: &Value, path: &Path, mirrored: bool) {
    let mut names = HashSet::new();
    for (i, claim) in items(claims).iter().enumerate() {
        if mirrored {
            errors.forbidden(&Path::root(), "static pods do not support resource claims");
            continue;
        }
        let (at, name) = (path.index(i), text(&claim["name"]));
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !names.insert(name) {
            errors.duplicate(&at.child("name"), &claim["name"]);
        } else {
            super::dns_label(errors, name, &at.child("name"));
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|s| !claim[**s].is_null()).count() {
            0 => {
                let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid(&at, claim, why);
            }
            1 => {}
            _ => {
                let why =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid(&at, claim, why);
            }
        }
        for source in sources {
            if let Some(name) = claim[source].as_str() {
                secret_name(errors, name, &at.child(source));
            }
        }
    }
}

/// What the pod has as a whole: its containers' sum must fit into it.
pub(super) fn check_pod(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let (resources, at) = (&spec["resources"], path.child("resources"));
    if resources.is_null() {
        return;
    }
    if spec["os"]["name"] == "windows" {
        errors.forbidden(&at, "may not be set for a windows pod");
        return;
    }
    if !empty(&resources["claims"]) {
        errors.forbidden(&at.child("claims"), "claims may not be set for Resources at pod-level");
    }
    amounts(errors, resources, &at, pod_name);
    let pod = json!({"spec": spec});
    for kind in ["requests", "limits"] {
        for (name, sum) in quota::container_amounts(&pod, kind) {
            let counts = kind == "requests" || name.starts_with(HUGE_PAGES);
            let Some(has) = Quantity::of_value(&resources[kind][&name]).ok().filter(|_| counts) else {
                continue;
            };
            if sum > has {
                let why = format!("must be greater than or equal to aggregate container {kind} of {sum}");
                invalid_amount(errors, &at.child(kind).key(&name), has, &why);
            }
        }
    }
    for (i, container) in items(&spec["containers"]).iter().enumerate() {
        for (name, limit) in quota::amounts(container.pointer("/resources/limits")) {
            let Ok(has) = Quantity::of_value(&resources["limits"][&name]) else { continue };
            if limit > has {
                let at = at.child("containers").index(i).key(&name).child("limits");
                let why = format!("must be less than or equal to pod limits of {has}");
                invalid_amount(errors, &at, limit, &why);
            }
        }
    }
}

/// Completes what a pod has as a whole, where its limits say something of it: huge pages by what the containers may have, the
/// requests by what the containers ask for, or else by the limits.
pub(super) fn default_pod(spec: &mut crate::Map) {
    if spec.get("resources").is_none_or(|r| empty(&r["limits"])) {
        return;
    }
    let pod = json!({"spec": spec});
    let sums =
        |kind: &str| quota::container_amounts(&pod, kind).into_iter().filter(|(name, _)| is_of_pods(name));
    let resources = crate::meta::entry(spec, "resources");
    let limits = crate::meta::entry(resources, "limits");
    for (name, sum) in sums("limits").filter(|(name, _)| !is_overcommitted(name)) {
        set(limits, &name, sum.to_string());
    }
    let limits = limits.clone();
    let requests = crate::meta::entry(resources, "requests");
    for (name, sum) in sums("requests").filter(|(name, _)| is_overcommitted(name)) {
        set(requests, &name, sum.to_string());
    }
    for (name, limit) in limits.into_iter().filter(|(name, _)| is_of_pods(name)) {
        set(requests, &name, limit);
    }
}
