//! Pod specs, wherever they occur: defaults, validation, quality of service.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::common::*;
use super::rules;
use crate::field::{ErrorList, Path};
use crate::podrefs::VOLUMES;
use crate::quantity::Quantity;
use crate::{Map, field, meta, validate};

/// Sets what a pod spec leaves out.
pub(super) fn default(spec: &mut Map) {
    set_text(spec, "restartPolicy", "Always");
    set_text(spec, "dnsPolicy", "ClusterFirst");
    set_text(spec, "schedulerName", "default-scheduler");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "securityContext", json!({}));
    // Two names of one field: whichever is given counts for both.
    let account = ["serviceAccountName", "serviceAccount"]
        .iter()
        .find_map(|k| spec.get(*k).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned));
    if let Some(account) = account {
        spec.insert("serviceAccountName".to_owned(), json!(account));
        spec.insert("serviceAccount".to_owned(), json!(account));
    }
    for volume in each(spec, "volumes") {
        default_volume(volume);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in each(spec, list) {
            default_container(container);
        }
    }
}

/// What is set for pods and not for templates of pods.
pub(super) fn default_pod_only(spec: &mut Map) {
    set(spec, "enableServiceLinks", true);
    let host = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            if host {
                for port in each(container, "ports") {
                    if let Some(n) = port.get("containerPort").cloned()
                        && port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0
                    {
                        port.insert("hostPort".to_owned(), n);
                    }
                }
            }
            // Where only a limit is given it is the request too.
            if let Some(resources) = sub(container, "resources")
                && let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned()
            {
                let requests = meta::entry(resources, "requests");
                for (name, amount) in limits {
                    set(requests, &name, amount);
                }
            }
        }
    }
}

fn default_volume(volume: &mut Map) {
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = sub(volume, source) {
            set(source, "defaultMode", 420);
            for item in each(source, "items") {
                if let Some(field) = sub(item, "fieldRef") {
                    set_text(field, "apiVersion", "v1");
                }
            }
            for part in each(source, "sources") {
                if let Some(token) = sub(part, "serviceAccountToken") {
                    set(token, "expirationSeconds", 3600);
                }
                if let Some(downward) = sub(part, "downwardAPI") {
                    for item in each(downward, "items") {
                        if let Some(field) = sub(item, "fieldRef") {
                            set_text(field, "apiVersion", "v1");
                        }
                    }
                }
            }
        }
    }
    if let Some(path) = sub(volume, "hostPath") {
        set(path, "type", "");
    }
    if let Some(claim) =
        sub(volume, "ephemeral").and_then(|e| sub(e, "volumeClaimTemplate")).and_then(|t| sub(t, "spec"))
    {
        set_text(claim, "volumeMode", "Filesystem");
    }
    if let Some(image) = volume.get_mut("image").and_then(Value::as_object_mut) {
        let policy = pull_policy(image.get("reference").and_then(Value::as_str).unwrap_or_default());
        set_text(image, "pullPolicy", policy);
    }
    if volume.iter().all(|(k, v)| k == "name" || v.is_null()) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
}

/// `Always` for images that are named by `latest` or by no tag, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn default_container(container: &mut Map) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
    set_text(container, "imagePullPolicy", pull_policy(&image));
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    set(container, "resources", json!({}));
    for port in each(container, "ports") {
        set_text(port, "protocol", "TCP");
    }
    for variable in each(container, "env") {
        if let Some(field) = sub(variable, "valueFrom").and_then(|v| sub(v, "fieldRef")) {
            set_text(field, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = sub(container, probe) {
            for (key, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                if probe.get(key).and_then(Value::as_i64).unwrap_or(0) == 0 {
                    probe.insert(key.to_owned(), json!(value));
                }
            }
            default_handler(probe);
            if let Some(grpc) = sub(probe, "grpc") {
                set(grpc, "service", "");
            }
        }
    }
    if let Some(lifecycle) = sub(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = sub(lifecycle, hook) {
                default_handler(hook);
            }
        }
    }
}

fn default_handler(handler: &mut Map) {
    if let Some(get) = sub(handler, "httpGet") {
        set_text(get, "path", "/");
        set_text(get, "scheme", "HTTP");
    }
}

/// The quality-of-service class of a pod spec: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for container in items(&spec["containers"]).iter().chain(items(&spec["initContainers"])) {
        let resources = &container["resources"];
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
    let metadata = path.child("metadata");
    errors.append(rules::labels(&template["metadata"]["labels"], &metadata.child("labels")));
    errors.append(rules::annotations(&template["metadata"]["annotations"], &metadata.child("annotations")));
    validate(errors, &template["spec"], &path.child("spec"));
    if !empty(&template["spec"]["ephemeralContainers"]) {
        errors.forbidden(
            &path.child("spec").child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// What is wrong with a pod spec at `path`.
pub(super) fn validate(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let volumes = validate_volumes(errors, &spec["volumes"], &path.child("volumes"));
    let containers = items(&spec["containers"]);
    let at = path.child("containers");
    if containers.is_empty() {
        errors.required(&at, "");
    }
    let mut names = HashSet::new();
    let mut host_ports = HashSet::new();
    for (i, c) in containers.iter().enumerate() {
        validate_container(errors, c, &at.index(i), &volumes, &mut names, &mut host_ports, false);
    }
    let at = path.child("initContainers");
    for (i, c) in items(&spec["initContainers"]).iter().enumerate() {
        let mut own_ports = HashSet::new();
        validate_container(errors, c, &at.index(i), &volumes, &mut names, &mut own_ports, true);
        let policy = &c["restartPolicy"];
        if !policy.is_null() && !matches!(text(policy), "Always" | "OnFailure" | "Never") {
            errors.not_supported(&at.index(i).child("restartPolicy"), policy, &["Always"]);
        }
    }
    let at = path.child("ephemeralContainers");
    for (i, c) in items(&spec["ephemeralContainers"]).iter().enumerate() {
        let mut own_ports = HashSet::new();
        validate_container(errors, c, &at.index(i), &volumes, &mut names, &mut own_ports, true);
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if !empty(&c[field]) {
                errors.forbidden(&at.index(i).child(field), "cannot be set for an Ephemeral Container");
            }
        }
    }
    one_of(errors, &path.child("restartPolicy"), &spec["restartPolicy"], &["Always", "OnFailure", "Never"]);
    one_of(
        errors,
        &path.child("dnsPolicy"),
        &spec["dnsPolicy"],
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    let grace = &spec["terminationGracePeriodSeconds"];
    non_negative(errors, &path.child("terminationGracePeriodSeconds"), grace);
    if let Some(n) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&n)
    {
        let why = validate::between(1, i64::from(i32::MAX));
        errors.invalid(&path.child("activeDeadlineSeconds"), &spec["activeDeadlineSeconds"], why);
    }
    for (field, check) in [
        ("hostname", validate::dns_label as fn(&str) -> Vec<String>),
        ("subdomain", validate::dns_label),
        ("nodeName", validate::dns_subdomain),
        ("serviceAccountName", validate::dns_subdomain),
        ("priorityClassName", validate::dns_subdomain),
        ("runtimeClassName", validate::dns_subdomain),
    ] {
        let value = text(&spec[field]);
        if !value.is_empty() {
            for why in check(value) {
                errors.invalid_str(&path.child(field), value, why);
            }
        }
    }
    errors.append(rules::labels(&spec["nodeSelector"], &path.child("nodeSelector")));
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        errors.invalid(
            &path.child("shareProcessNamespace"),
            &json!(true),
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    for (i, t) in items(&spec["tolerations"]).iter().enumerate() {
        validate_toleration(errors, t, &path.child("tolerations").index(i));
    }
    for (i, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        for why in validate::ip(text(&alias["ip"])) {
            errors.invalid(&path.child("hostAliases").index(i).child("ip"), &alias["ip"], why);
        }
    }
    if text(&spec["dnsPolicy"]) == "None" && empty(&spec["dnsConfig"]["nameservers"]) {
        errors.required(
            &path.child("dnsConfig").child("nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    validate_affinity(errors, &spec["affinity"], &path.child("affinity"));
    for (i, c) in items(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let at = path.child("topologySpreadConstraints").index(i);
        if int(&c["maxSkew"]) <= 0 {
            errors.invalid(&at.child("maxSkew"), &c["maxSkew"], "must be greater than zero");
        }
        if text(&c["topologyKey"]).is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        }
        one_of(
            errors,
            &at.child("whenUnsatisfiable"),
            &c["whenUnsatisfiable"],
            &["DoNotSchedule", "ScheduleAnyway"],
        );
    }
}

fn validate_affinity(errors: &mut ErrorList, affinity: &Value, path: &Path) {
    let required = &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let at = path.child("nodeAffinity").child("requiredDuringSchedulingIgnoredDuringExecution");
    if !required.is_null() && empty(&required["nodeSelectorTerms"]) {
        errors.required(&at.child("nodeSelectorTerms"), "must have at least one node selector term");
    }
    for (i, term) in items(&required["nodeSelectorTerms"]).iter().enumerate() {
        for (j, e) in items(&term["matchExpressions"]).iter().enumerate() {
            let at = at.child("nodeSelectorTerms").index(i).child("matchExpressions").index(j);
            one_of(
                errors,
                &at.child("operator"),
                &e["operator"],
                &["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"],
            );
            for why in validate::qualified_name(text(&e["key"])) {
                errors.invalid(&at.child("key"), &e["key"], why);
            }
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = path.child(kind);
        for (i, t) in
            items(&affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"]).iter().enumerate()
        {
            if text(&t["topologyKey"]).is_empty() {
                let at = at.child("requiredDuringSchedulingIgnoredDuringExecution").index(i);
                errors.required(&at.child("topologyKey"), "can not be empty");
            }
        }
        for (i, t) in
            items(&affinity[kind]["preferredDuringSchedulingIgnoredDuringExecution"]).iter().enumerate()
        {
            let at = at.child("preferredDuringSchedulingIgnoredDuringExecution").index(i);
            if !(1..=100).contains(&int(&t["weight"])) {
                errors.invalid(&at.child("weight"), &t["weight"], "must be in the range 1-100");
            }
            if text(&t["podAffinityTerm"]["topologyKey"]).is_empty() {
                errors.required(&at.child("podAffinityTerm").child("topologyKey"), "can not be empty");
            }
        }
    }
}

fn validate_toleration(errors: &mut ErrorList, t: &Value, path: &Path) {
    let key = text(&t["key"]);
    if !key.is_empty() {
        for why in validate::qualified_name(key) {
            errors.invalid_str(&path.child("key"), key, why);
        }
    }
    let operator = text(&t["operator"]);
    if key.is_empty() && operator != "Exists" {
        errors.invalid(
            &path.child("operator"),
            &t["operator"],
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    match operator {
        "" | "Equal" => {}
        "Exists" => {
            if !text(&t["value"]).is_empty() {
                errors.invalid(&path.child("operator"), t, "value must be empty when `operator` is 'Exists'");
            }
        }
        _ => errors.not_supported(&path.child("operator"), &t["operator"], &["Equal", "Exists"]),
    }
    if !text(&t["effect"]).is_empty() {
        one_of(errors, &path.child("effect"), &t["effect"], &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

fn validate_volumes<'a>(errors: &mut ErrorList, volumes: &'a Value, path: &Path) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (i, volume) in items(volumes).iter().enumerate() {
        let at = path.index(i);
        let name = text(&volume["name"]);
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            for why in validate::dns_label(name) {
                errors.invalid_str(&at.child("name"), name, why);
            }
            if names.contains(name) {
                errors.duplicate(&at.child("name"), &volume["name"]);
            }
        }
        names.insert(name);
        let mut sources = 0;
        for (kind, source) in
            volume.as_object().into_iter().flatten().filter(|(k, v)| *k != "name" && !v.is_null())
        {
            sources += 1;
            let at = at.child(kind);
            if sources > 1 {
                errors.forbidden(&at, "may not specify more than 1 volume type");
                continue;
            }
            let known = VOLUMES.iter().find(|v| v.field == kind.as_str());
            for field in known.into_iter().flat_map(|v| v.required) {
                if text(&source[*field]).is_empty() {
                    errors.required(&at.child(field), "");
                }
            }
            if kind == "hostPath" {
                for why in validate::path_without_backsteps(text(&source["path"])) {
                    errors.invalid(&at.child("path"), &source["path"], why);
                }
            }
        }
        if sources == 0 {
            errors.required(&at, "must specify a volume type");
        }
    }
    names
}

fn validate_container<'a>(
    errors: &mut ErrorList,
    c: &'a Value,
    path: &Path,
    volumes: &HashSet<&str>,
    names: &mut HashSet<&'a str>,
    host_ports: &mut HashSet<(i64, &'a str, &'a str)>,
    special: bool,
) {
    let name = text(&c["name"]);
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        for why in validate::dns_label(name) {
            errors.invalid_str(&path.child("name"), name, why);
        }
        if !names.insert(name) {
            errors.duplicate(&path.child("name"), &c["name"]);
        }
    }
    let image = text(&c["image"]);
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if image.trim() != image {
        errors.invalid_str(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    one_of(
        errors,
        &path.child("imagePullPolicy"),
        &c["imagePullPolicy"],
        &["Always", "IfNotPresent", "Never"],
    );
    one_of(
        errors,
        &path.child("terminationMessagePolicy"),
        &c["terminationMessagePolicy"],
        &["File", "FallbackToLogsOnError"],
    );
    let mut port_names = HashSet::new();
    for (i, p) in items(&c["ports"]).iter().enumerate() {
        let at = path.child("ports").index(i);
        let name = text(&p["name"]);
        if !name.is_empty() {
            for why in validate::port_name(name) {
                errors.invalid_str(&at.child("name"), name, why);
            }
            if !port_names.insert(name) {
                errors.duplicate(&at.child("name"), &p["name"]);
            }
        }
        if int(&p["containerPort"]) == 0 {
            errors.required(&at.child("containerPort"), "");
        } else {
            for why in validate::port_number(int(&p["containerPort"])) {
                errors.invalid(&at.child("containerPort"), &p["containerPort"], why);
            }
        }
        let host = int(&p["hostPort"]);
        if host != 0 {
            for why in validate::port_number(host) {
                errors.invalid(&at.child("hostPort"), &p["hostPort"], why);
            }
            let this = (host, text(&p["protocol"]), text(&p["hostIP"]));
            if !host_ports.insert(this) {
                let shown = format!("{}/{}/{}", this.1, this.2, this.0);
                errors.duplicate(&at.child("hostPort"), &json!(shown));
            }
        }
        one_of(errors, &at.child("protocol"), &p["protocol"], &["TCP", "UDP", "SCTP"]);
    }
    validate_env(errors, c, path);
    let mut paths = HashSet::new();
    for (i, m) in items(&c["volumeMounts"]).iter().enumerate() {
        let at = path.child("volumeMounts").index(i);
        let name = text(&m["name"]);
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(&at.child("name"), &m["name"]);
        }
        let mount = text(&m["mountPath"]);
        if mount.is_empty() {
            errors.required(&at.child("mountPath"), "");
        }
        if !paths.insert(mount) {
            errors.invalid_str(&at.child("mountPath"), mount, "must be unique");
        }
        let inner = text(&m["subPath"]);
        if inner.starts_with('/') {
            errors.invalid_str(&at.child("subPath"), inner, "must be a relative path");
        }
        for why in validate::path_without_backsteps(inner) {
            errors.invalid_str(&at.child("subPath"), inner, why);
        }
    }
    validate_resources(errors, &c["resources"], &path.child("resources"));
    if special && c["restartPolicy"] != "Always" {
        for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if !c[field].is_null() {
                errors.forbidden(
                    &path.child(field),
                    "may not be set for init containers without restartPolicy=Always",
                );
            }
        }
        return;
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &c[kind];
        if probe.is_null() {
            continue;
        }
        let at = path.child(kind);
        validate_handler(errors, probe, &at);
        for field in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            non_negative(errors, &at.child(field), &probe[field]);
        }
        if kind != "readinessProbe" && int(&probe["successThreshold"]) > 1 {
            errors.invalid(&at.child("successThreshold"), &probe["successThreshold"], "must be 1");
        }
    }
    for hook in ["postStart", "preStop"] {
        let handler = &c["lifecycle"][hook];
        if !handler.is_null() {
            validate_handler(errors, handler, &path.child("lifecycle").child(hook));
        }
    }
}

fn validate_env(errors: &mut ErrorList, c: &Value, path: &Path) {
    for (i, e) in items(&c["env"]).iter().enumerate() {
        let at = path.child("env").index(i);
        let name = text(&e["name"]);
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            for why in validate::env_name(name) {
                errors.invalid_str(&at.child("name"), name, why);
            }
        }
        let from = &e["valueFrom"];
        if from.is_null() {
            continue;
        }
        let at = at.child("valueFrom");
        let sources = from.as_object().map_or(0, |m| m.values().filter(|v| !v.is_null()).count());
        if !text(&e["value"]).is_empty() {
            errors.invalid_str(&at, "", "may not be specified when `value` is not empty");
        } else if sources == 0 {
            errors.invalid_str(&at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`");
        } else if sources > 1 {
            errors.invalid_str(&at, "", "may not have more than one field specified at a time");
        }
        let field = &from["fieldRef"];
        if !field.is_null() {
            let p = text(&field["fieldPath"]);
            let known = [
                "metadata.name",
                "metadata.namespace",
                "metadata.uid",
                "spec.nodeName",
                "spec.serviceAccountName",
                "status.hostIP",
                "status.hostIPs",
                "status.podIP",
                "status.podIPs",
            ];
            let at = at.child("fieldRef").child("fieldPath");
            let subscript = (p.starts_with("metadata.labels['") || p.starts_with("metadata.annotations['"))
                && p.ends_with("']");
            if p.is_empty() {
                errors.required(&at, "");
            } else if !known.contains(&p) && !subscript {
                if p.starts_with("metadata.") || p.starts_with("spec.") || p.starts_with("status.") {
                    errors.not_supported(&at, &field["fieldPath"], &known);
                } else {
                    errors.invalid_str(&at, p, "error converting fieldPath: field label not supported");
                }
            }
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            let r = &from[kind];
            if !r.is_null() && text(&r["key"]).is_empty() {
                errors.required(&at.child(kind).child("key"), "");
            }
        }
    }
}

fn validate_handler(errors: &mut ErrorList, handler: &Value, path: &Path) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<&str> = kinds.into_iter().filter(|k| !handler[*k].is_null()).collect();
    match given.as_slice() {
        [] => errors.required(path, "must specify a handler type"),
        [kind] => {
            let h = &handler[*kind];
            let at = path.child(kind);
            match *kind {
                "exec" if empty(&h["command"]) => errors.required(&at.child("command"), ""),
                "httpGet" | "tcpSocket" => {
                    validate_port(errors, &h["port"], &at.child("port"));
                    if *kind == "httpGet" {
                        one_of(errors, &at.child("scheme"), &h["scheme"], &["HTTP", "HTTPS"]);
                    }
                }
                _ => {}
            }
        }
        [_, more @ ..] => {
            for kind in more {
                errors.forbidden(&path.child(kind), "may not specify more than 1 handler type");
            }
        }
    }
}

/// A port by number or name.
pub(super) fn validate_port(errors: &mut ErrorList, port: &Value, path: &Path) {
    let whys = match port {
        Value::String(name) => validate::port_name(name),
        other => validate::port_number(int(other)),
    };
    for why in whys {
        errors.invalid(path, port, why);
    }
}

/// Requests and limits.
pub(super) fn validate_resources(errors: &mut ErrorList, resources: &Value, path: &Path) {
    for kind in ["limits", "requests"] {
        for (name, amount) in resources[kind].as_object().into_iter().flatten() {
            let at = path.child(kind);
            for why in validate::qualified_name(name) {
                errors.invalid_str(&at.key(name), name, why);
            }
            let standard = ["cpu", "memory", "ephemeral-storage", "storage"].contains(&name.as_str())
                || name.starts_with("hugepages-");
            if !standard && !name.contains('/') {
                errors.invalid_str(
                    &at.key(name),
                    name,
                    "must be a standard resource type or fully qualified",
                );
                errors.invalid_str(&at.key(name), name, "must be a standard resource for containers");
            }
            match Quantity::of_value(amount) {
                Err(e) => errors.invalid(&at.key(name), amount, e.to_string()),
                Ok(q) if q.signum() < 0 => {
                    errors.invalid(&at.key(name), amount, "must be greater than or equal to 0")
                }
                Ok(q) if kind == "requests" => {
                    let limit = &resources["limits"][name];
                    if let Ok(l) = Quantity::of_value(limit)
                        && q > l
                    {
                        let why = format!("must be less than or equal to {name} limit of {l}");
                        errors.push(field::ErrorType::Invalid, &at, Some(field::quote(&q.to_string())), why);
                    }
                }
                Ok(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, want) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("localhost:5000/a", "Always"),
            ("localhost:5000/a:2", "IfNotPresent"),
            ("a@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }

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
    }
}
