//! What a kubelet tells of a pod's containers: who they run as, the health of their devices, their images mounted as volumes.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::resources::is_native;
use super::update::by_name;
use crate::field::{ErrorList, Path};
use crate::kinds::common::*;
use crate::quantity::Quantity;
use crate::validate;

/// The lists of statuses, each with the list of the containers that they are of.
const LISTS: [(&str, &str); 3] = [
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", ""),
];

pub(super) fn check(errors: &mut ErrorList, pod: &Value, path: &Path) {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    extended(
        errors,
        &status["extendedResourceClaimStatus"],
        spec,
        &path.child("extendedResourceClaimStatus"),
    );
    allocatable(errors, pod, &path.child("nodeAllocatableResourceClaimStatuses"));
    let windows = spec["os"]["name"] == "windows";
    for (list, containers) in LISTS {
        let of = by_name(&spec[containers]);
        for (i, container) in items(&status[list]).iter().enumerate() {
            let at = path.child(list).index(i);
            user(errors, &container["user"]["linux"], windows, &at.child("user").child("linux"));
            let (resources, at_resources) =
                (&container["allocatedResourcesStatus"], at.child("allocatedResourcesStatus"));
            if !containers.is_empty() {
                health(errors, resources, of.get(text(&container["name"])).copied(), &at_resources);
            } else if !empty(resources) {
                errors.forbidden(&at_resources, "must not be specified in container status");
            }
            for (j, mount) in items(&container["volumeMounts"]).iter().enumerate() {
                let image = &mount["volumeStatus"]["image"];
                if !image.is_null() {
                    let at = at.child("volumeMounts").index(j).child("volumeStatus");
                    image_ref(errors, image, &at.child("imageVolumeStatus").child("imageRef"));
                }
            }
        }
    }
}

fn user(errors: &mut ErrorList, linux: &Value, windows: bool, path: &Path) {
    if linux.is_null() {
        return;
    }
    if windows {
        errors.forbidden(path, "cannot be set for a windows pod");
        return;
    }
    let mut id = |at: Path, id: &Value| {
        if !(0..=i64::from(i32::MAX)).contains(&int(id)) {
            errors.invalid(&at, id, validate::between(0, i64::from(i32::MAX)));
        }
    };
    id(path.child("uid"), &linux["uid"]);
    id(path.child("gid"), &linux["gid"]);
    for (i, group) in items(&linux["supplementalGroups"]).iter().enumerate() {
        id(path.child("supplementalGroups").index(i), group);
    }
}

fn image_ref(errors: &mut ErrorList, image: &Value, path: &Path) {
    let given = text(&image["imageRef"]);
    if given.is_empty() {
        errors.required(path, "imageRef must not be empty");
    } else if given.len() > 256 {
        errors.too_long(path, 256);
    }
}

/// How the devices are that a container has. `container`: what it asked for, if there is such a container.
fn health(errors: &mut ErrorList, resources: &Value, container: Option<&Value>, path: &Path) {
    for (i, resource) in items(resources).iter().enumerate() {
        let (at, name) = (path.index(i), text(&resource["name"]));
        if let Some(container) = container {
            let asked = &container["resources"];
            let (known, why) = if name.starts_with("claim:") {
                let claims = items(&asked["claims"]).iter();
                let mut claims = claims.map(|c| match text(&c["request"]) {
                    "" => format!("claim:{}", text(&c["name"])),
                    request => format!("claim:{}/{request}", text(&c["name"])),
                });
                let why = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty";
                (claims.any(|c| c == name), why)
            } else {
                (!asked["requests"][name].is_null(), "must match one of the container's resource requests")
            };
            if !known {
                errors.invalid_str(&at.child("name"), name, why);
            }
        }
        let mut seen = HashSet::new();
        for (j, device) in items(&resource["resources"]).iter().enumerate() {
            let at = at.child("resources").index(j);
            let words = ["Healthy", "Unhealthy", "Unknown"];
            if !words.contains(&text(&device["health"])) {
                errors.not_supported(&at.child("health"), &json!(text(&device["health"])), &words);
            }
            match device["message"].as_str() {
                Some("") => errors.required(&at.child("message"), "must be non-empty if specified"),
                Some(long) if long.len() > 1024 => errors.too_long(&at.child("message"), 1024),
                _ => {}
            }
            if !seen.insert(text(&device["resourceID"])) {
                errors.duplicate(&at.child("resourceID"), &device["resourceID"]);
            }
        }
    }
}

/// Which request of a claim stands for which resource that a container asks for.
fn extended(errors: &mut ErrorList, status: &Value, spec: &Value, path: &Path) {
    if status.is_null() {
        return;
    }
    let lists = ["initContainers", "containers"].into_iter().flat_map(|list| items(&spec[list]));
    let containers: HashMap<&str, &Value> = lists.map(|c| (text(&c["name"]), c)).collect();
    let (mappings, at) = (items(&status["requestMappings"]), path.child("requestMappings"));
    if mappings.is_empty() {
        errors.required(&at, "at least one request mapping is required");
    }
    let mut seen = HashSet::new();
    for (i, mapping) in mappings.iter().enumerate() {
        let at = at.index(i);
        let [container, resource, request] =
            ["containerName", "resourceName", "requestName"].map(|field| text(&mapping[field]));
        match containers.get(container) {
            None => {
                let why =
                    "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                errors.invalid_str(&at.child("containerName"), container, why);
            }
            Some(c) if c["resources"]["requests"][resource].is_null() => {
                let why = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                errors.invalid_str(&at.child("resourceName"), resource, why);
            }
            Some(_) => {}
        }
        super::dns_label(errors, request, &path.child("requestName"));
        if !seen.insert((container, resource, request)) {
            for field in ["containerName", "resourceName", "requestName"] {
                errors.duplicate(&at.child(field), &mapping[field]);
            }
        }
    }
    let (claim, at) = (text(&status["resourceClaimName"]), path.child("resourceClaimName"));
    if claim.is_empty() {
        errors.required(&at, "");
    } else {
        super::secret_name(errors, claim, &at);
    }
}

/// What of a node's own resources a claim takes.
fn allocatable(errors: &mut ErrorList, pod: &Value, path: &Path) {
    let list = items(&pod["status"]["nodeAllocatableResourceClaimStatuses"]);
    for (i, status) in list.iter().enumerate() {
        let (at, name) = (path.index(i), text(&status["resourceClaimName"]));
        let name_at = at.child("resourceClaimName");
        if name.is_empty() {
            errors.required(&name_at, "must not be empty");
        }
        let claims = items(&pod["spec"]["resourceClaims"]).iter();
        let mut claims = claims.chain(items(&pod["status"]["resourceClaimStatuses"]));
        if !claims.any(|c| c["resourceClaimName"].as_str() == Some(name)) {
            errors.invalid_str(&name_at, name, "no mapping found in pod reference");
        }
        for field in ["containers", "resources"] {
            if empty(&status[field]) {
                errors.required(&at.child(field), "must not be empty");
            }
        }
        for (name, amount) in status["resources"].as_object().into_iter().flatten() {
            let at = at.child("resources").key(name);
            if !is_native(name) {
                errors.invalid_str(&at, name, "must be a node allocatable resource name");
            }
            if Quantity::of_value(amount).is_ok_and(|q| q.signum() < 0) {
                errors.invalid(&at, amount, "must be non-negative");
            }
        }
    }
}
