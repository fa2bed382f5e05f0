//! What pod specs leave out.

use serde_json::{Value, json};

use crate::kinds::common::*;
use crate::kinds::volumes::default_source;
use crate::quantity::Quantity;
use crate::{Map, meta};

use super::resources;

/// Sets what a pod spec leaves out.
pub(in crate::kinds) fn default(spec: &mut Map) {
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
    if let Some(overhead) = sub(spec, "overhead") {
        round_up(overhead);
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
pub(in crate::kinds) fn default_pod_only(spec: &mut Map) {
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
    resources::default_pod(spec);
}

fn default_volume(volume: &mut Map) {
    default_source(volume);
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
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    match (last.split_once(':'), digest) {
        (Some((_, "latest")), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

/// Amounts are whole thousandths.
fn round_up(amounts: &mut Map) {
    for amount in amounts.values_mut() {
        let Ok(q) = Quantity::of_value(amount) else { continue };
        let rounded = Quantity::of_milli(q.milli());
        if q.nanos() % 1_000_000 != 0 && q < rounded {
            *amount = json!(rounded.to_string());
        }
    }
}

fn default_container(container: &mut Map) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
    set_text(container, "imagePullPolicy", pull_policy(&image));
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    set(container, "resources", json!({}));
    if let Some(resources) = sub(container, "resources") {
        for kind in ["limits", "requests"] {
            sub(resources, kind).into_iter().for_each(round_up);
        }
    }
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
            ("a:1@sha256:00", "IfNotPresent"),
            ("a:latest@sha256:00", "Always"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }

    /// `given` with what it leaves out, of what `want` names.
    fn completed(given: Value, want: Value) {
        let mut spec = given;
        let map = meta::as_map(&mut spec);
        default(map);
        default_pod_only(map);
        let shown = |pointer: &str| spec.pointer(pointer).cloned().unwrap_or_default();
        for (pointer, value) in want.as_object().into_iter().flatten() {
            assert_eq!(shown(pointer), *value, "{pointer} of {spec}");
        }
    }

    #[test]
    fn what_is_left_out() {
        completed(
            json!({"volumes": [{"iscsi": {}}, {"rbd": {"pool": "mine"}}, {"azureDisk": {}}, {"scaleIO": {}}, {}],
                "hostNetwork": true, "serviceAccount": "me", "overhead": {"cpu": "1u"},
                "containers": [{"ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 82}],
                    "resources": {"limits": {"cpu": "0.0001", "memory": "7Ei"}},
                    "livenessProbe": {"grpc": {"port": 1}}, "readinessProbe": {"httpGet": {"port": 1}}}]}),
            json!({"/volumes/0/iscsi": {"iscsiInterface": "default"},
                "/volumes/1/rbd": {"pool": "mine", "user": "admin", "keyring": "/etc/ceph/keyring"},
                "/volumes/2/azureDisk": {"cachingMode": "ReadWrite", "kind": "Shared", "fsType": "ext4", "readOnly": false},
                "/volumes/3/scaleIO": {"storageMode": "ThinProvisioned", "fsType": "xfs"}, "/volumes/4/emptyDir": {},
                "/serviceAccountName": "me", "/enableServiceLinks": true, "/overhead/cpu": "1m",
                "/containers/0/ports/0/hostPort": 80, "/containers/0/ports/1/hostPort": 82,
                "/containers/0/resources/requests": {"cpu": "1m", "memory": "7Ei"},
                "/containers/0/livenessProbe": {"grpc": {"port": 1, "service": ""}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "/containers/0/readinessProbe/httpGet": {"port": 1, "path": "/", "scheme": "HTTP"}}),
        );
    }

    #[test]
    fn what_a_pod_has_as_a_whole() {
        let asks = json!({"requests": {"cpu": "100m", "ephemeral-storage": "1Gi"}});
        let of = |resources: Value| json!({"resources": resources, "containers": [{"resources": asks}, {"resources": asks}]});
        let limits = json!({"cpu": "1", "memory": "1Gi"});
        completed(
            of(json!({"limits": limits})),
            json!({"/resources": {"limits": limits, "requests": {"cpu": "200m", "memory": "1Gi"}}}),
        );
        completed(
            of(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "300m"}})),
            json!({"/resources/requests": {"cpu": "300m"}}),
        );
        // Without limits nothing is said.
        completed(of(json!({"requests": {"cpu": "1"}})), json!({"/resources": {"requests": {"cpu": "1"}}}));
        let pages = json!({"limits": {"hugepages-2Mi": "2Mi"}});
        completed(
            json!({"resources": {"limits": {"memory": "1Gi"}}, "containers": [{"resources": pages}, {"resources": pages}]}),
            json!({"/resources/limits": {"memory": "1Gi", "hugepages-2Mi": "4Mi"},
                "/resources/requests": {"memory": "1Gi", "hugepages-2Mi": "4Mi"}}),
        );
    }
}
