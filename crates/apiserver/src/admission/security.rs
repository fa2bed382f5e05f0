//! PodSecurity: the pod security standards that a namespace's labels ask for (`baseline`, `restricted`), enforced on pods
//! and warned of in templates, and of the pods that are there when a namespace asks for more.
//!
//! A label may name the version whose standard holds: what a later one added or allowed is left out then. What `audit` asks
//! for is noted beside the review, for the audit log.

use api::meta::text;
use api::podrefs::VOLUMES;
use api::{Status, Value};
use async_trait::async_trait;

use super::{Operation, Plugin, Review};

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

/// The version of a standard: the minor of `v1.MINOR`; of `latest` more than any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32);

const LATEST: Version = Version(u32::MAX);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(LATEST);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain = minor == "0" || !minor.starts_with('0') && minor.bytes().all(|c| c.is_ascii_digit());
        minor.parse().ok().filter(|_| plain).map(Self)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == LATEST { f.write_str("latest") } else { write!(f, "v1.{}", self.0) }
    }
}

/// What a namespace asks for in one mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    level: Level,
    version: Version,
}

/// What a namespace asks for.
struct Policies {
    enforce: Policy,
    warn: Policy,
    audit: Policy,
}

impl Policies {
    /// From labels. What cannot be read is taken for the strictest, and the newest, as upstream does.
    fn of(label: &dyn Fn(&str) -> Option<String>) -> Self {
        let none = Policy { level: Level::Privileged, version: LATEST };
        let of = |mode: &str, default: Policy| {
            let version = label(&format!("{LABEL}{mode}-version"));
            let version = version.map_or(default.version, |v| Version::parse(&v).unwrap_or(LATEST));
            match label(&format!("{LABEL}{mode}")) {
                Some(level) => Policy { level: Level::parse(&level), version },
                None => Policy { version, ..default },
            }
        };
        let enforce = of("enforce", none);
        // Warned of is what is enforced where nothing else is said.
        Self { enforce, warn: of("warn", enforce), audit: of("audit", none) }
    }
}

impl Policy {
    fn says(&self, wrong: &[String]) -> String {
        format!("violate PodSecurity \"{}:{}\": {}", self.level.name(), self.version, wrong.join(", "))
    }

    /// What of a pod, or of the pods of a template, violates it.
    fn violations(self, pod: &Value) -> Vec<String> {
        let part = |p: &str| pod.pointer(p).unwrap_or(&Value::Null);
        violations(self, part("/spec"), part("/metadata/annotations"))
    }
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
/// With the version since which each is thought safe.
const SAFE_SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

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

/// What of a pod violates a policy.
fn violations(policy: Policy, spec: &Value, annotations: &Value) -> Vec<String> {
    let Policy { level, version } = policy;
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
    // The restricted rule that contains this one is younger than the level.
    if (level == Level::Baseline || version < Version(22))
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
        .filter(|n| !SAFE_SYSCTLS.iter().any(|(safe, since)| safe == n && version >= Version(*since)))
        .collect();
    if !sysctls.is_empty() {
        out.push(format!("forbidden sysctls ({})", sysctls.join(", ")));
    }
    if let Some(who) = offenders(spec, |c| !matches!(text(c, "/securityContext/procMount"), "" | "Default")) {
        out.push(format!("procMount ({who} must not set securityContext.procMount)"));
    }
    if version >= Version(34) {
        out.extend(other_hosts(spec));
    }
    confinement(version, spec, annotations, &mut out);
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
        restricted(version, spec, &mut out);
    }
    out
}

/// Probes and hooks of other hosts, which make the node's kubelet ask whatever a pod names.
fn other_hosts(spec: &Value) -> Option<String> {
    const HANDLERS: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let hosts = |c: &Value| -> Vec<String> {
        let actions = HANDLERS.iter().flat_map(|h| ["httpGet", "tcpSocket"].map(|a| format!("{h}/{a}/host")));
        actions.map(|p| text(c, &p).to_owned()).filter(|h| !h.is_empty()).collect()
    };
    let who = offenders(spec, |c| !hosts(c).is_empty())?;
    let all: std::collections::BTreeSet<String> = containers(spec).into_iter().flat_map(hosts).collect();
    let named: Vec<String> = all.iter().map(|h| format!("\"{h}\"")).collect();
    let uses = if who.starts_with("containers ") { "use" } else { "uses" };
    let word = if named.len() == 1 { "host" } else { "hosts" };
    Some(format!("probe or lifecycle host ({who} {uses} probe or lifecycle {word} {})", named.join(", ")))
}

/// SELinux, AppArmor and Windows: nobody may step out of what confines him.
fn confinement(version: Version, spec: &Value, annotations: &Value, out: &mut Vec<String>) {
    const TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let bad = |v: &Value| {
        let options = |f: &str| text(v, &format!("/securityContext/seLinuxOptions/{f}"));
        let kind = options("type");
        let known = TYPES.contains(&kind) && (kind != "container_engine_t" || version >= Version(31));
        !known || !options("user").is_empty() || !options("role").is_empty()
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

fn restricted(version: Version, spec: &Value, out: &mut Vec<String>) {
    // What Windows does not have its pods need not say.
    let windows = version >= Version(25) && text(spec, "/os/name") == "windows";
    if version >= Version(8)
        && !windows
        && let Some(who) =
            offenders(spec, |c| flag(c, "/securityContext/allowPrivilegeEscalation") != Some(false))
    {
        out.push(format!("allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"));
    }
    let drops = |c: &Value| items(c, "/securityContext/capabilities/drop").any(|d| d == "ALL");
    let adds = |c: &Value| items(c, "/securityContext/capabilities/add").any(|a| a != "NET_BIND_SERVICE");
    if version >= Version(22)
        && !windows
        && let Some(who) = offenders(spec, |c| !drops(c) || adds(c))
    {
        out.push(format!(
            "unrestricted capabilities ({who} must set securityContext.capabilities.drop=[\"ALL\"])"
        ));
    }
    let volumes: Vec<String> = items(spec, "/volumes")
        .filter(|v| !VOLUMES.iter().any(|k| k.restricted && v.get(k.field).is_some()))
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
    if version < Version(23) {
        // Not looked at yet.
    } else if root(spec) {
        out.push("runAsUser=0 (pod must not set runAsUser=0)".into());
    } else if let Some(who) = offenders(spec, root) {
        out.push(format!("runAsUser=0 ({who} must not set runAsUser=0)"));
    }
    let good =
        |v: &Value| matches!(text(v, "/securityContext/seccompProfile/type"), "RuntimeDefault" | "Localhost");
    if version >= Version(19)
        && !windows
        && !good(spec)
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
                || matches!(r.subresource, "" | "ephemeralcontainers") && r.kind.pod_of(r.object).is_some())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        if r.gvr.resource == "namespaces" {
            return namespace(r);
        }
        let Some(namespace) = r.server.cache.kind("", "namespaces").get(r.namespace) else { return Ok(()) };
        let label = |name: &str| namespace.labels().get(name).map(str::to_owned);
        let Policies { enforce, warn, audit } = Policies::of(&label);
        if enforce.level.max(warn.level).max(audit.level) == Level::Privileged {
            return Ok(());
        }
        let Some(pod) = r.kind.pod_of(r.object) else { return Ok(()) };
        let before = r.old.and_then(|o| r.kind.pod_of(o)).and_then(|p| p.get("spec"));
        if before.is_some() && before == pod.get("spec") {
            return Ok(());
        }
        let wrong = audit.violations(pod);
        if !wrong.is_empty() {
            let note = format!("would {}", audit.says(&wrong));
            r.progress.notes.push((format!("{LABEL}audit-violations"), note));
        }
        if r.kind.template.is_none() {
            r.progress.notes.push((
                format!("{LABEL}enforce-policy"),
                format!("{}:{}", enforce.level.name(), enforce.version),
            ));
            let wrong = enforce.violations(pod);
            if !wrong.is_empty() {
                return Err(r.forbidden(enforce.says(&wrong).replacen("violate", "violates", 1)));
            }
        }
        // Pods of a template would be refused later, where nobody looks: say so now.
        let wrong = warn.violations(pod);
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
    let levels = ["privileged", "baseline", "restricted"];
    for mode in ["enforce", "warn", "audit"] {
        let level = (format!("{LABEL}{mode}"), format!("must be one of {}", levels.join(", ")));
        let version = (format!("{LABEL}{mode}-version"), "must be \"latest\" or \"v1.x\"".to_owned());
        for (of_level, (key, why)) in [(true, level), (false, version)] {
            let Some(given) = label_of(r.object, &key) else { continue };
            let good = if of_level { levels.contains(&given) } else { Version::parse(given).is_some() };
            // What was wrong before may stay as it is.
            if !good && r.old.and_then(|o| label_of(o, &key)) != Some(given) {
                errors.invalid_str(&path.key(&key), given, why);
            }
        }
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&r.kind.gvk(), r.name, &errors));
    }
    let of = |object: &Value| {
        let label = |name: &str| label_of(object, name).map(str::to_owned);
        Policies::of(&label).enforce
    };
    let (new, old) = (of(r.object), r.old.map(of));
    if old.is_none_or(|old| old.level > new.level || old == new) || new.level == Level::Privileged {
        return Ok(());
    }
    let mut found: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for pod in r.server.cache.kind("", "pods").all(r.name) {
        let wrong = new.violations(pod.value());
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

    fn violations(level: Level, spec: &Value, annotations: &Value) -> Vec<String> {
        super::violations(Policy { level, version: LATEST }, spec, annotations)
    }

    #[test]
    fn versions() {
        for (text, want) in [
            ("latest", Some(LATEST)),
            ("v1.0", Some(Version(0))),
            ("v1.25", Some(Version(25))),
            ("v1.025", None),
            ("v2.1", None),
            ("1.25", None),
            ("v1.+5", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), want, "{text}");
        }
        let plain = json!({"containers": [{"name": "a"}]});
        let names = |minor: u32| -> Vec<String> {
            let policy = Policy { level: Level::Restricted, version: Version(minor) };
            let all = super::violations(policy, &plain, &Value::Null);
            all.iter().map(|w| w.split(" (").next().unwrap().to_owned()).collect()
        };
        assert_eq!(names(0), ["runAsNonRoot != true"]);
        assert_eq!(names(18), ["allowPrivilegeEscalation != false", "runAsNonRoot != true"]);
        assert_eq!(names(32).len(), 4);
        // A capability beyond the default ones is refused by every version of both levels.
        let capable = json!({"containers": [{"name": "a", "securityContext":
            {"capabilities": {"add": ["SYS_ADMIN"], "drop": ["ALL"]}}}]});
        for (level, minor, n) in [
            (Level::Baseline, 21, 1),
            (Level::Baseline, 30, 1),
            (Level::Restricted, 21, 1),
            (Level::Restricted, 22, 1),
        ] {
            let all = super::violations(Policy { level, version: Version(minor) }, &capable, &Value::Null);
            assert_eq!(
                all.iter().filter(|w| w.contains("capabilities (")).count(),
                n,
                "{level:?} {minor}: {all:?}"
            );
        }
        let probing = json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 1}},
            "lifecycle": {"preStop": {"tcpSocket": {"host": "10.0.0.2", "port": 1}}}}]});
        for (minor, want) in [
            (33, vec![]),
            (
                34,
                vec![
                    r#"probe or lifecycle host (container "a" uses probe or lifecycle hosts "10.0.0.1", "10.0.0.2")"#,
                ],
            ),
        ] {
            let policy = Policy { level: Level::Baseline, version: Version(minor) };
            assert_eq!(super::violations(policy, &probing, &Value::Null), want);
        }
        let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"}]}});
        for (minor, n) in [(31, 1), (32, 0)] {
            let policy = Policy { level: Level::Baseline, version: Version(minor) };
            assert_eq!(super::violations(policy, &sysctl, &Value::Null).len(), n);
        }
        let windows = json!({"os": {"name": "windows"}, "containers": [{"name": "a"}]});
        assert_eq!(violations(Level::Restricted, &windows, &Value::Null).len(), 1);
        let label = |name: &str| match name {
            "pod-security.kubernetes.io/enforce" => Some("baseline".to_owned()),
            "pod-security.kubernetes.io/enforce-version" => Some("v1.20".to_owned()),
            _ => None,
        };
        let policies = Policies::of(&label);
        assert_eq!(policies.enforce, Policy { level: Level::Baseline, version: Version(20) });
        assert_eq!(policies.warn, policies.enforce);
        assert_eq!(policies.audit.level, Level::Privileged);
    }

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
