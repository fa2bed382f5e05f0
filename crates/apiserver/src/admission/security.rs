//! PodSecurity: the pod security standards that a namespace's labels ask for (`baseline`, `restricted`), enforced on pods
//! and warned of in templates, and of the pods that are there when a namespace asks for more.
//!
//! The standards are those of the newest version, whatever version a label names; `audit` has no log to write to.

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

/// The labels' prefix.
const LABEL: &str = "pod-security.kubernetes.io/";

/// What a namespace asks for in one mode.
struct Policy {
    level: Level,
    version: String,
}

impl Policy {
    fn of(labels: &dyn Fn(&str) -> Option<String>, mode: &str) -> Option<Self> {
        let level = labels(&format!("{LABEL}{mode}"))?;
        let version = labels(&format!("{LABEL}{mode}-version")).unwrap_or_else(|| "latest".into());
        Some(Self { level: Level::parse(&level), version })
    }

    /// What is enforced, and what is warned of: the same where nothing else is said.
    fn pair(labels: &dyn Fn(&str) -> Option<String>) -> (Self, Self) {
        let none = || Self { level: Level::Privileged, version: "latest".into() };
        let enforce = Self::of(labels, "enforce").unwrap_or_else(none);
        let warn = Self::of(labels, "warn")
            .unwrap_or_else(|| Self { level: enforce.level, version: enforce.version.clone() });
        (enforce, warn)
    }

    fn says(&self, wrong: &[String]) -> String {
        format!("violate PodSecurity \"{}:{}\": {}", self.level.name(), self.version, wrong.join(", "))
    }
}

/// The annotations of a pod, or of the pods that a template makes.
fn annotations<'a>(gvr: &api::Gvr, object: &'a Value) -> &'a Value {
    let path = match gvr.resource.as_ref() {
        "pods" => "/metadata/annotations",
        "podtemplates" => "/template/metadata/annotations",
        "cronjobs" => "/spec/jobTemplate/spec/template/metadata/annotations",
        _ => "/spec/template/metadata/annotations",
    };
    object.pointer(path).unwrap_or(&Value::Null)
}

impl Level {
    /// A level that is unknown is taken for the strictest, as upstream does.
    fn parse(text: &str) -> Self {
        match text {
            "baseline" => Self::Baseline,
            "privileged" => Self::Privileged,
            _ => Self::Restricted,
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

/// What of a pod violates a level.
fn violations(level: Level, spec: &Value, annotations: &Value) -> Vec<String> {
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
    confinement(spec, annotations, &mut out);
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

/// SELinux, AppArmor and Windows: nobody may step out of what confines him.
fn confinement(spec: &Value, annotations: &Value, out: &mut Vec<String>) {
    const TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let bad = |v: &Value| {
        let options = |f: &str| text(v, &format!("/securityContext/seLinuxOptions/{f}"));
        !TYPES.contains(&options("type")) || !options("user").is_empty() || !options("role").is_empty()
    };
    if bad(spec) {
        out.push("seLinuxOptions (pod set forbidden securityContext.seLinuxOptions)".into());
    } else if let Some(who) = offenders(spec, bad) {
        out.push(format!("seLinuxOptions ({who} set forbidden securityContext.seLinuxOptions)"));
    }
    let unconfined = |v: &Value| text(v, "/securityContext/appArmorProfile/type") == "Unconfined";
    if unconfined(spec) {
        out.push(
            "forbidden AppArmor profile (pod must not set securityContext.appArmorProfile.type to \"Unconfined\")".into(),
        );
    } else if let Some(who) = offenders(spec, unconfined) {
        out.push(format!(
            "forbidden AppArmor profile ({who} must not set securityContext.appArmorProfile.type to \"Unconfined\")"
        ));
    }
    let profiles: Vec<String> = annotations
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(_, value)| !matches!(*value, "" | "runtime/default") && !value.starts_with("localhost/"))
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    match profiles.len() {
        0 => {}
        1 => out.push(format!("forbidden AppArmor profile ({})", profiles[0])),
        _ => out.push(format!("forbidden AppArmor profiles ({})", profiles.join(", "))),
    }
    let host = |v: &Value| flag(v, "/securityContext/windowsOptions/hostProcess") == Some(true);
    if host(spec) {
        out.push("hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)".into());
    } else if let Some(who) = offenders(spec, host) {
        out.push(format!("hostProcess ({who} must not set securityContext.windowsOptions.hostProcess=true)"));
    }
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
        let namespace = r.gvr.group.is_empty() && r.gvr.resource == "namespaces" && r.subresource.is_empty();
        matches!(r.operation, Operation::Create | Operation::Update)
            && (namespace
                || (r.subresource.is_empty() || r.is("pods") || r.subresource == "ephemeralcontainers")
                    && pod_spec(r.gvr, r.object).is_some())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        if r.gvr.resource == "namespaces" {
            return namespace(r);
        }
        let Some(namespace) = r.server.cache.kind("", "namespaces").get(r.namespace) else { return Ok(()) };
        let label = |name: &str| namespace.labels().get(name).map(str::to_owned);
        let (enforce, warn) = Policy::pair(&label);
        if enforce.level.max(warn.level) == Level::Privileged {
            return Ok(());
        }
        let Some(spec) = pod_spec(r.gvr, r.object) else { return Ok(()) };
        if r.old.and_then(|o| pod_spec(r.gvr, o)) == Some(spec) {
            return Ok(());
        }
        let annotations = annotations(r.gvr, r.object);
        if r.gvr.resource == "pods" {
            let wrong = violations(enforce.level, spec, annotations);
            if !wrong.is_empty() {
                return Err(r.forbidden(enforce.says(&wrong).replacen("violate", "violates", 1)));
            }
        }
        // Pods of a template would be refused later, where nobody looks: say so now.
        let wrong = violations(warn.level, spec, annotations);
        if !wrong.is_empty() {
            r.warnings.push(format!("would {}", warn.says(&wrong)));
        }
        Ok(())
    }
}

/// A namespace's labels have to be good, and whoever asks for more is told which pods would not get in.
fn namespace(r: &mut Review<'_>) -> Result<(), Status> {
    let mut errors = api::ErrorList::new();
    let path = api::Path::new("metadata").child("labels");
    for mode in ["enforce", "warn", "audit"] {
        let key = format!("{LABEL}{mode}");
        let Some(level) = label_of(r.object, &key) else { continue };
        let known = ["privileged", "baseline", "restricted"];
        if !known.contains(&level) && r.old.and_then(|o| label_of(o, &key)) != Some(level) {
            let path = path.key(&key);
            errors.invalid_str(&path, level, format!("must be one of {}", known.join(", ")));
        }
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&r.kind.gvk(), r.name, &errors));
    }
    let of = |object: &Value| {
        let label = |name: &str| label_of(object, name).map(str::to_owned);
        Policy::pair(&label).0
    };
    let (new, old) = (of(r.object), r.old.map(of));
    if old.is_none_or(|old| old.level >= new.level) {
        return Ok(());
    }
    let mut found: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for pod in r.server.cache.kind("", "pods").all(r.name) {
        let value = pod.value();
        let spec = value.get("spec").unwrap_or(&Value::Null);
        let wrong =
            violations(new.level, spec, value.pointer("/metadata/annotations").unwrap_or(&Value::Null));
        if !wrong.is_empty() {
            // The check's name without what it says of containers.
            let names: Vec<&str> = wrong.iter().map(|w| w.split(" (").next().unwrap_or(w)).collect();
            found.entry(names.join(", ")).or_default().push(pod.name().to_owned());
        }
    }
    if !found.is_empty() {
        r.warnings.push(format!(
            "existing pods in namespace \"{}\" violate the new PodSecurity enforce level \"{}:{}\"",
            r.name,
            new.level.name(),
            new.version
        ));
    }
    for (wrong, pods) in found {
        let others = match pods.len() {
            1 => String::new(),
            2 => " (and 1 other pod)".into(),
            n => format!(" (and {} other pods)", n - 1),
        };
        r.warnings.push(format!("{}{others}: {wrong}", pods[0]));
    }
    Ok(())
}

/// A label of an object's metadata.
fn label_of<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    api::meta::of(object).get("labels")?.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn levels() {
        let plain = json!({"containers": [{"name": "a"}]});
        assert!(violations(Level::Baseline, &plain, &Value::Null).is_empty());
        assert_eq!(violations(Level::Restricted, &plain, &Value::Null).len(), 4);
        let host = json!({"hostNetwork": true, "containers": [{"name": "a", "securityContext": {"privileged": true}}],
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}]});
        assert!(violations(Level::Privileged, &host, &Value::Null).is_empty());
        assert_eq!(
            violations(Level::Baseline, &host, &Value::Null),
            [
                "host namespaces (hostNetwork=true)",
                "privileged (container \"a\" must not set securityContext.privileged=true)",
                "hostPath volumes (volume \"v\")"
            ]
        );
        let stepped_out = json!({"securityContext": {"seLinuxOptions": {"user": "u"}, "windowsOptions": {"hostProcess": true}},
            "containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]});
        let profiles = json!({"container.apparmor.security.beta.kubernetes.io/a": "unconfined"});
        assert_eq!(
            violations(Level::Baseline, &stepped_out, &profiles),
            [
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions)",
                "forbidden AppArmor profile (container \"a\" must not set securityContext.appArmorProfile.type to \"Unconfined\")",
                "forbidden AppArmor profile (container.apparmor.security.beta.kubernetes.io/a=\"unconfined\")",
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)"
            ]
        );
        let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}}}]});
        assert_eq!(violations(Level::Restricted, &good, &Value::Null), Vec::<String>::new());
    }
}
