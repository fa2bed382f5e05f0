//! PodSecurity: the pod security standards that a namespace's labels ask for (`baseline`, `restricted`), enforced on pods
//! and warned of in templates.

use api::{Status, Value};
use async_trait::async_trait;

use super::{Operation, Plugin, Review, pod_spec};

/// See the module.
pub struct PodSecurity;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("baseline") => Self::Baseline,
            Some("restricted") => Self::Restricted,
            _ => Self::Privileged,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

const BASELINE_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "",
];
const SAFE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];
const RESTRICTED_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "image",
];

fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn flag(v: &Value, pointer: &str) -> Option<bool> {
    v.pointer(pointer).and_then(Value::as_bool)
}

fn items<'a>(v: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    v.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn containers(spec: &Value) -> Vec<&Value> {
    ["/initContainers", "/containers", "/ephemeralContainers"].iter().flat_map(|p| items(spec, p)).collect()
}

/// The names of the containers for which `bad` holds, as the messages list them.
fn offenders(spec: &Value, bad: impl Fn(&Value) -> bool) -> Option<String> {
    let names: Vec<String> = containers(spec)
        .into_iter()
        .filter(|c| bad(c))
        .map(|c| format!("\"{}\"", text(c, "/name")))
        .collect();
    match names.len() {
        0 => None,
        1 => Some(format!("container {}", names[0])),
        _ => Some(format!("containers {}", names.join(", "))),
    }
}

/// What of a pod spec violates a level.
fn violations(level: Level, spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if level == Level::Privileged {
        return out;
    }
    let hosts: Vec<&str> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|f| spec.get(*f).and_then(Value::as_bool) == Some(true))
        .collect();
    if !hosts.is_empty() {
        let list: Vec<String> = hosts.iter().map(|h| format!("{h}=true")).collect();
        out.push(format!("host namespaces ({})", list.join(", ")));
    }
    if let Some(who) = offenders(spec, |c| flag(c, "/securityContext/privileged") == Some(true)) {
        out.push(format!("privileged ({who} must not set securityContext.privileged=true)"));
    }
    if level == Level::Baseline
        && let Some(who) = offenders(spec, |c| {
            items(c, "/securityContext/capabilities/add")
                .any(|a| !BASELINE_CAPABILITIES.contains(&a.as_str().unwrap_or("?")))
        })
    {
        out.push(format!("non-default capabilities ({who} must not include additional capabilities in securityContext.capabilities.add)"));
    }
    let host_paths: Vec<String> = items(spec, "/volumes")
        .filter(|v| v.get("hostPath").is_some())
        .map(|v| format!("\"{}\"", text(v, "/name")))
        .collect();
    if !host_paths.is_empty() && level == Level::Baseline {
        let word = if host_paths.len() == 1 { "volume" } else { "volumes" };
        out.push(format!("hostPath volumes ({word} {})", host_paths.join(", ")));
    }
    if let Some(who) = offenders(spec, |c| {
        items(c, "/ports").any(|p| p.get("hostPort").and_then(Value::as_i64).unwrap_or(0) != 0)
    }) {
        out.push(format!("hostPort ({who} uses a hostPort)"));
    }
    let sysctls: Vec<&str> = items(spec, "/securityContext/sysctls")
        .map(|s| text(s, "/name"))
        .filter(|n| !SAFE_SYSCTLS.contains(n))
        .collect();
    if !sysctls.is_empty() {
        out.push(format!("forbidden sysctls ({})", sysctls.join(", ")));
    }
    if let Some(who) = offenders(spec, |c| !matches!(text(c, "/securityContext/procMount"), "" | "Default")) {
        out.push(format!("procMount ({who} must not set securityContext.procMount)"));
    }
    let unconfined = |v: &Value| text(v, "/securityContext/seccompProfile/type") == "Unconfined";
    if unconfined(spec) {
        out.push(
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")".into(),
        );
    } else if let Some(who) = offenders(spec, unconfined) {
        out.push(format!(
            "seccompProfile ({who} must not set securityContext.seccompProfile.type to \"Unconfined\")"
        ));
    }
    if level == Level::Restricted {
        restricted(spec, &mut out);
    }
    out
}

fn restricted(spec: &Value, out: &mut Vec<String>) {
    if let Some(who) =
        offenders(spec, |c| flag(c, "/securityContext/allowPrivilegeEscalation") != Some(false))
    {
        out.push(format!("allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"));
    }
    let drops = |c: &Value| items(c, "/securityContext/capabilities/drop").any(|d| d == "ALL");
    let adds = |c: &Value| items(c, "/securityContext/capabilities/add").any(|a| a != "NET_BIND_SERVICE");
    if let Some(who) = offenders(spec, |c| !drops(c) || adds(c)) {
        out.push(format!(
            "unrestricted capabilities ({who} must set securityContext.capabilities.drop=[\"ALL\"])"
        ));
    }
    let volumes: Vec<String> = items(spec, "/volumes")
        .filter(|v| !RESTRICTED_VOLUMES.iter().any(|k| v.get(*k).is_some()))
        .map(|v| format!("\"{}\"", text(v, "/name")))
        .collect();
    if !volumes.is_empty() {
        out.push(format!(
            "restricted volume types (volumes {} use restricted volume types)",
            volumes.join(", ")
        ));
    }
    let pod = flag(spec, "/securityContext/runAsNonRoot");
    if let Some(who) = offenders(spec, |c| flag(c, "/securityContext/runAsNonRoot").or(pod) != Some(true)) {
        out.push(format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"));
    }
    let root = |v: &Value| v.pointer("/securityContext/runAsUser").and_then(Value::as_i64) == Some(0);
    if root(spec) {
        out.push("runAsUser=0 (pod must not set runAsUser=0)".into());
    } else if let Some(who) = offenders(spec, root) {
        out.push(format!("runAsUser=0 ({who} must not set runAsUser=0)"));
    }
    let good =
        |v: &Value| matches!(text(v, "/securityContext/seccompProfile/type"), "RuntimeDefault" | "Localhost");
    if !good(spec)
        && let Some(who) = offenders(spec, |c| !good(c))
    {
        out.push(format!("seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"));
    }
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        matches!(r.operation, Operation::Create | Operation::Update)
            && (r.subresource.is_empty() || r.is("pods") || r.subresource == "ephemeralcontainers")
            && pod_spec(r.gvr, r.object).is_some()
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let Some(namespace) = r.server.cache.kind("", "namespaces").get(r.namespace) else { return Ok(()) };
        let level =
            |mode: &str| Level::parse(namespace.labels().get(&format!("pod-security.kubernetes.io/{mode}")));
        let (enforce, warn) = (level("enforce"), level("warn"));
        if enforce.max(warn) == Level::Privileged {
            return Ok(());
        }
        let Some(spec) = pod_spec(r.gvr, r.object) else { return Ok(()) };
        if r.old.and_then(|o| pod_spec(r.gvr, o)) == Some(spec) {
            return Ok(());
        }
        let is_pod = r.gvr.resource == "pods";
        let version =
            namespace.labels().get("pod-security.kubernetes.io/enforce-version").unwrap_or("latest");
        if is_pod {
            let wrong = violations(enforce, spec);
            if !wrong.is_empty() {
                return Err(r.forbidden(format!(
                    "violates PodSecurity \"{}:{version}\": {}",
                    enforce.name(),
                    wrong.join(", ")
                )));
            }
        }
        // Pods of a template would be refused later, where nobody looks: say so now.
        let wrong = violations(if is_pod { warn } else { warn.max(enforce) }, spec);
        if !wrong.is_empty() {
            let name = if is_pod { warn } else { warn.max(enforce) }.name();
            r.warnings.push(format!("would violate PodSecurity \"{name}:{version}\": {}", wrong.join(", ")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn levels() {
        let plain = json!({"containers": [{"name": "a"}]});
        assert!(violations(Level::Baseline, &plain).is_empty());
        assert_eq!(violations(Level::Restricted, &plain).len(), 4);
        let host = json!({"hostNetwork": true, "containers": [{"name": "a", "securityContext": {"privileged": true}}],
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}]});
        assert!(violations(Level::Privileged, &host).is_empty());
        assert_eq!(
            violations(Level::Baseline, &host),
            [
                "host namespaces (hostNetwork=true)",
                "privileged (container \"a\" must not set securityContext.privileged=true)",
                "hostPath volumes (volume \"v\")"
            ]
        );
        let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}}}]});
        assert_eq!(violations(Level::Restricted, &good), Vec::<String>::new());
    }
}
