//! Pod specs, wherever they occur: defaults, validation, quality of service.

mod containers;
mod defaults;
mod env;
mod probes;
mod resources;
mod scheduling;
mod security;
mod status;
mod update;
mod volumes;

use std::collections::HashMap;

use serde_json::{Value, json};

use super::common::*;
use super::rules;
use crate::field::{ErrorList, ErrorType, Path, quote};
use crate::quantity::Quantity;
use crate::{meta, validate};

pub(in crate::kinds) use defaults::{default, default_pod_only};
pub(in crate::kinds) use probes::validate_port;
pub(in crate::kinds) use resources::{check_limits, container_name as container_resource};
pub(in crate::kinds) use scheduling::{node_selector, tolerations};
pub(in crate::kinds) use update::{
    by_name, validate_ephemeral, validate_resize, validate_status, validate_update,
};
pub(in crate::kinds) use volumes::{iscsi_name, signer_name, volume_source};

/// Says that a pod stands for one of a node's own files.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod spec that is looked at.
struct Spec<'a> {
    spec: &'a Value,
    /// The pod whose it is; a template has none.
    pod: Option<&'a Value>,
    /// Names of the claims of devices, sorted.
    claims: Vec<&'a str>,
}

impl<'a> Spec<'a> {
    fn new(spec: &'a Value, pod: Option<&'a Value>) -> Spec<'a> {
        let names = items(&spec["resourceClaims"]).iter().map(|c| text(&c["name"]));
        let mut claims: Vec<&str> = names.filter(|n| !n.is_empty()).collect();
        claims.sort_unstable();
        claims.dedup();
        Spec { spec, pod, claims }
    }

    fn pod_name(&self) -> Option<&'a str> {
        self.pod.map(meta::name).filter(|n| !n.is_empty())
    }
}

/// The quality-of-service class of a pod spec: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &Value) -> &'static str {
    let whole = &spec["resources"];
    let of_pod = ["requests", "limits"].into_iter().any(|kind| {
        whole[kind]
            .as_object()
            .is_some_and(|amounts| amounts.keys().any(|name| crate::quota::is_of_pods(name)))
    });
    let of_containers = || {
        let all = items(&spec["containers"]).iter().chain(items(&spec["initContainers"]));
        all.map(|c| &c["resources"]).collect()
    };
    // What the pod has as a whole counts alone.
    let counted: Vec<&Value> = if of_pod { vec![whole] } else { of_containers() };
    let (mut any, mut guaranteed) = (false, true);
    for resources in counted {
        for name in ["cpu", "memory"] {
            let amount =
                |kind: &str| Quantity::of_value(&resources[kind][name]).ok().filter(|q| !q.is_zero());
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What is wrong with a PodTemplateSpec at `path`.
pub(super) fn validate_template(errors: &mut ErrorList, template: &Value, path: &Path) {
    let (metadata, at) = (meta::of(template), path.child("spec"));
    errors.append(rules::labels(&metadata["labels"], &path.child("labels")));
    errors.append(rules::annotations(&metadata["annotations"], &path.child("annotations")));
    let of = Spec::new(&template["spec"], None);
    annotations(errors, &of, metadata, &path.child("annotations"));
    validate(errors, &of, &at);
    security::matching_profiles(errors, of.spec, metadata, &at);
    if !empty(&of.spec["ephemeralContainers"]) {
        let why = "ephemeral containers not allowed in pod template";
        errors.forbidden(&at.child("ephemeralContainers"), why);
    }
}

/// The template of a StatefulSet as its pods have it: with a volume for each of its claims.
pub(super) fn with_claims(set: &Value) -> Value {
    let mut template = set["template"].clone();
    let claims = items(&set["volumeClaimTemplates"]);
    if claims.is_empty() {
        return template;
    }
    let made = claims.iter().map(|claim| {
        let name = meta::name(claim);
        (name, json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
    });
    let mut made: HashMap<&str, Value> = made.collect();
    let volumes = meta::child(&mut template, "spec").entry("volumes").or_insert(Value::Null);
    let given = std::mem::take(volumes);
    let mut all: Vec<Value> =
        items(&given).iter().map(|v| made.remove(text(&v["name"])).unwrap_or_else(|| v.clone())).collect();
    all.extend(claims.iter().filter_map(|claim| made.remove(meta::name(claim))));
    *volumes = Value::Array(all);
    template
}

/// What is wrong with a pod, new or changed.
pub(super) fn validate_pod(errors: &mut ErrorList, pod: &Value) {
    let (metadata, path) = (meta::of(pod), Path::new("spec"));
    let of = Spec::new(&pod["spec"], Some(pod));
    annotations(errors, &of, metadata, &Path::new("metadata").child("annotations"));
    validate(errors, &of, &path);
    if empty(&of.spec["serviceAccountName"]) {
        for (i, volume) in items(&of.spec["volumes"]).iter().enumerate() {
            let at = path.child("volumes").index(i).child("projected").child("sources");
            for (j, source) in items(&volume["projected"]["sources"]).iter().enumerate() {
                if !source["serviceAccountToken"].is_null() {
                    let at = at.index(j).child("serviceAccountToken");
                    errors.forbidden(&at, "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (i, c) in items(&of.spec[list]).iter().enumerate() {
            containers::image_of_pod(errors, c, &path.child(list).index(i));
        }
    }
}

/// What is wrong with a new pod, beyond what [`validate_pod`] says.
pub(super) fn validate_new_pod(errors: &mut ErrorList, pod: &Value) {
    let (spec, path) = (&pod["spec"], Path::new("spec"));
    if !empty(&spec["ephemeralContainers"]) {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !empty(&spec["nodeName"]) && !empty(&spec["schedulingGates"]) {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), why);
    }
    security::matching_profiles(errors, spec, meta::of(pod), &path);
}

/// Annotations that mean something for the pod.
fn annotations(errors: &mut ErrorList, of: &Spec<'_>, metadata: &Value, path: &Path) {
    let all = &metadata["annotations"];
    if empty(all) {
        return;
    }
    if let Some(mirrored) = all[MIRROR].as_str().filter(|_| empty(&of.spec["nodeName"])) {
        let why = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid_str(&path.key(MIRROR), mirrored, why);
    }
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if let Some(cost) = all[COST].as_str() {
        // As upstream has it: no sign, no zeros before it.
        let plain = !cost.starts_with('+') && (cost == "0" || !cost.trim_start_matches('-').starts_with('0'));
        if !plain || cost.parse::<i32>().is_err() {
            errors.invalid_str(&path.key(COST), cost, "must be a 32bit integer");
        }
    }
    security::annotations(errors, of, metadata, path);
}

/// What is wrong with a pod spec at `path`.
fn validate(errors: &mut ErrorList, of: &Spec<'_>, path: &Path) {
    let spec = of.spec;
    let grace = &spec["terminationGracePeriodSeconds"];
    if grace.is_null() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let mounted = volumes::check(errors, of, &path.child("volumes"));
    let mirrored = of.pod.is_some_and(|pod| meta::annotation(pod, MIRROR).is_some());
    resources::check_claims(errors, &spec["resourceClaims"], &path.child("resourceClaims"), mirrored);
    containers::check(errors, of, &mounted, path);
    resources::check_pod(errors, spec, path);
    containers::check_host_network(errors, of, path);
    one_of(errors, &path.child("restartPolicy"), &spec["restartPolicy"], &["Always", "OnFailure", "Never"]);
    one_of(
        errors,
        &path.child("dnsPolicy"),
        &spec["dnsPolicy"],
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    errors.append(rules::labels(&spec["nodeSelector"], &path.child("nodeSelector")));
    security::check_pod(errors, spec, path);
    scheduling::affinity(errors, &spec["affinity"], &path.child("affinity"));
    dns(errors, spec, &path.child("dnsConfig"));
    scheduling::gates(errors, spec, path);
    scheduling::spreading(errors, of, &path.child("topologySpreadConstraints"));
    security::host_processes(errors, spec, path);
    security::host_users(errors, spec, path);
    host_name(errors, spec, &path.child("hostnameOverride"));
    names(errors, spec, path);
    if let Some(n) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&n)
    {
        let why = validate::between(1, i64::from(i32::MAX));
        errors.invalid(&path.child("activeDeadlineSeconds"), &spec["activeDeadlineSeconds"], why);
    }
    scheduling::tolerations(errors, &spec["tolerations"], &path.child("tolerations"));
    host_aliases(errors, &spec["hostAliases"], &path.child("hostAliases"));
    if !spec["preemptionPolicy"].is_null() {
        let policies = ["Never", "PreemptLowerPriority"];
        one_of(errors, &path.child("preemptionPolicy"), &spec["preemptionPolicy"], &policies);
    }
    let overhead = json!({"resources": {"limits": spec["overhead"]}});
    resources::check(errors, &overhead["resources"], &path.child("overhead"), &[]);
    security::operating_system(errors, spec, path);
    let group = &spec["schedulingGroup"];
    if !group.is_null() {
        let at = path.child("schedulingGroup").child("podGroupName");
        match group["podGroupName"].as_str() {
            None => errors.invalid(&at, &Value::Null, "must specify one of: `podGroupName`"),
            Some(name) => subdomain(errors, name, &at),
        }
    }
    env::check_files(errors, spec, path);
}

fn names(errors: &mut ErrorList, spec: &Value, path: &Path) {
    type Rule = fn(&mut ErrorList, &str, &Path);
    const NAMES: [(&str, Rule); 6] = [
        ("serviceAccountName", subdomain),
        ("nodeName", subdomain),
        ("hostname", dns_label),
        ("subdomain", dns_label),
        ("priorityClassName", subdomain),
        ("runtimeClassName", subdomain),
    ];
    for (field, rule) in NAMES {
        let name = text(&spec[field]);
        let given = !name.is_empty() || field == "runtimeClassName" && !spec[field].is_null();
        if given {
            rule(errors, name, &path.child(field));
        }
    }
}

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LIST: usize = 2048;

fn dns(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let config = &spec["dnsConfig"];
    let (servers, at) = (items(&config["nameservers"]), path.child("nameservers"));
    if spec["dnsPolicy"] == "None" && servers.is_empty() {
        if config.is_null() {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else {
            errors.required(&at, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
        return;
    }
    if servers.len() > MAX_NAMESERVERS {
        let why = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.invalid(&at, &config["nameservers"], why);
    }
    for (i, server) in servers.iter().enumerate() {
        for why in validate::ip(text(server)) {
            errors.invalid(&at.index(i), server, why);
        }
    }
    let (searches, at) = (items(&config["searches"]), path.child("searches"));
    if searches.len() > MAX_SEARCHES {
        let why = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.invalid(&at, &config["searches"], why);
    }
    let together: usize = searches.iter().map(|s| text(s).len() + 1).sum();
    if together > MAX_SEARCH_LIST + 1 {
        let why = format!(
            "must not have more than {MAX_SEARCH_LIST} characters (including spaces) in the search list"
        );
        errors.invalid(&at, &config["searches"], why);
    }
    for (i, search) in searches.iter().enumerate() {
        let domain = text(search);
        if domain != "." {
            let domain = domain.strip_suffix('.').unwrap_or(domain);
            for why in subdomain_with_underscores(domain) {
                errors.invalid_str(&at.index(i), domain, why);
            }
        }
    }
    for (i, option) in items(&config["options"]).iter().enumerate() {
        if empty(&option["name"]) {
            errors.required(&path.child("options").index(i), "must not be empty");
        }
    }
}

const UNDERSCORED: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";

/// A domain as names of services are in DNS: its labels may begin with an underscore, and have more of them.
fn subdomain_with_underscores(name: &str) -> Vec<String> {
    let good = |l: &str| {
        let l = l.strip_prefix('_').unwrap_or(l);
        let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        l.starts_with(ends) && l.ends_with(ends) && l.chars().all(|c| ends(c) || c == '-' || c == '_')
    };
    let mut whys = Vec::new();
    if name.len() > 253 {
        whys.push("must be no more than 253 bytes".to_owned());
    }
    if !name.split('.').all(good) {
        whys.push(UNDERSCORED.to_owned());
    }
    whys
}

const MAX_HOST_NAME: usize = 64;

fn host_name(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let Some(name) = spec["hostnameOverride"].as_str() else { return };
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec[field] == true {
            errors.forbidden(path, format!("may not be specified when {field} is true"));
        }
    }
    if name.len() > MAX_HOST_NAME {
        errors.too_long(path, MAX_HOST_NAME);
    }
    subdomain(errors, name, path);
}

fn host_aliases(errors: &mut ErrorList, aliases: &Value, path: &Path) {
    for (i, alias) in items(aliases).iter().enumerate() {
        let at = path.index(i);
        for why in validate::ip(text(&alias["ip"])) {
            errors.invalid(&at.child("ip"), &alias["ip"], why);
        }
        for (j, name) in items(&alias["hostnames"]).iter().enumerate() {
            subdomain(errors, text(name), &at.child("hostnames").index(j));
        }
    }
}

/// Every container of a spec, with its path, in the order in which they start.
fn every_container<'a>(spec: &'a Value, path: &Path) -> impl Iterator<Item = (&'a Value, Path)> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists
        .map(|list| (items(&spec[list]), path.child(list)))
        .into_iter()
        .flat_map(|(containers, at)| containers.iter().enumerate().map(move |(i, c)| (c, at.index(i))))
}

/// A value that is given and must be one of a few. An absent one is good; an empty one is not, unless it is among them.
fn among(errors: &mut ErrorList, value: &Value, path: &Path, supported: &[&str]) {
    if !value.is_null() && !supported.contains(&text(value)) {
        errors.not_supported(path, value, supported);
    }
}

fn dns_label(errors: &mut ErrorList, name: &str, path: &Path) {
    for why in validate::dns_label(name) {
        errors.invalid_str(path, name, why);
    }
}

fn subdomain(errors: &mut ErrorList, name: &str, path: &Path) {
    for why in validate::dns_subdomain(name) {
        errors.invalid_str(path, name, why);
    }
}

/// The name of another object; ConfigMaps and claims have names of the same form.
fn secret_name(errors: &mut ErrorList, name: &str, path: &Path) {
    subdomain(errors, name, path);
}

fn qualified_name(errors: &mut ErrorList, name: &str, path: &Path) {
    for why in validate::qualified_name(name) {
        errors.invalid_str(path, name, why);
    }
}

/// A path that stays below where it begins.
fn relative_path(errors: &mut ErrorList, given: &str, path: &Path) {
    if given.starts_with('/') {
        errors.invalid_str(path, given, "must be a relative path");
    }
    for why in validate::path_without_backsteps(given) {
        errors.invalid_str(path, given, why);
    }
}

/// As [`relative_path`]; what begins with two dots is the kubelet's own.
fn unreserved_path(errors: &mut ErrorList, given: &str, path: &Path) {
    relative_path(errors, given, path);
    if given.starts_with("..") && !given.starts_with("../") {
        errors.invalid_str(path, given, "must not start with '..'");
    }
}

fn invalid_amount(errors: &mut ErrorList, path: &Path, amount: Quantity, why: &str) {
    errors.push(ErrorType::Invalid, path, Some(quote(&amount.to_string())), why);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service() {
        let with = |r: Value| json!({"containers": [{"resources": r}]});
        assert_eq!(qos_class(&with(json!({}))), "BestEffort");
        assert_eq!(qos_class(&with(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let limits = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(
            qos_class(&with(json!({"limits": limits, "requests": {"cpu": "1000m", "memory": "1024Mi"}}))),
            "Guaranteed"
        );
        assert_eq!(qos_class(&with(json!({"limits": limits, "requests": {"cpu": "1m"}}))), "Burstable");
        let mut whole = with(json!({"requests": {"cpu": "1m"}}));
        whole["resources"] = json!({"limits": limits, "requests": limits});
        assert_eq!(qos_class(&whole), "Guaranteed");
        whole["resources"] = json!({"requests": {"memory": "1Gi"}});
        assert_eq!(qos_class(&whole), "Burstable");
    }
}
