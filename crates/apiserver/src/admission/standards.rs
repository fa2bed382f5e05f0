//! The pod security standards: what of a pod violates `baseline` or `restricted`, in the words of the original.
//!
//! Each check says since which version of the standards it is made, and how it was made before.

use std::collections::BTreeSet;

use api::Value;
use api::meta::{items, text};
use api::podrefs::VOLUMES;

use super::security::{Level, Policy, Version};

/// Something that is wrong with a pod: what, and in which part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: &'static str,
    pub(super) detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.reason, self.detail)
    }
}

/// What is looked at: the spec of a pod and its annotations, by the standards of a version.
struct Pod<'a> {
    spec: &'a Value,
    annotations: &'a Value,
    version: Version,
}

type Check = fn(&Pod<'_>) -> Option<Violation>;

/// The checks of `baseline`, in the order in which they are told. `restricted` has others in the place of some since a version.
const BASELINE: [(Check, Option<u32>); 12] = [
    (app_armor, None),
    (added_capabilities, Some(22)),
    (host_namespaces, None),
    (host_paths, Some(0)),
    (host_ports, None),
    (other_hosts, None),
    (privileged, None),
    (proc_mount, Some(35)),
    (se_linux, None),
    (seccomp, Some(19)),
    (sysctls, None),
    (host_process, None),
];
/// What `restricted` checks beside, and since when.
const RESTRICTED: [(Check, u32); 7] = [
    (escalation, 8),
    (all_capabilities, 22),
    (any_proc_mount, 35),
    (volume_types, 0),
    (non_root, 0),
    (root_user, 23),
    (any_seccomp, 19),
];

/// What of a pod violates a policy.
pub(super) fn violations(policy: Policy, spec: &Value, annotations: &Value) -> Vec<Violation> {
    let Policy { level, version } = policy;
    let pod = Pod { spec, annotations, version };
    let since = |minor: u32| version >= Version(minor);
    let restricted = level == Level::Restricted;
    let baseline = BASELINE.into_iter().filter(|(_, other)| !(restricted && other.is_some_and(since)));
    let beside = RESTRICTED.into_iter().filter(|(_, minor)| restricted && since(*minor));
    let checks = baseline.map(|(check, _)| check).chain(beside.map(|(check, _)| check));
    if level == Level::Privileged { Vec::new() } else { checks.filter_map(|check| check(&pod)).collect() }
}

fn flag(v: &Value, pointer: &str) -> Option<bool> {
    v.pointer(pointer).and_then(Value::as_bool)
}

fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = names.into_iter().map(|n| format!("\"{}\"", n.as_ref())).collect();
    all.join(", ")
}

/// The word for one, or for several.
fn word(one: &'static str, several: &'static str, n: usize) -> &'static str {
    if n == 1 { one } else { several }
}

impl Pod<'_> {
    fn containers(&self) -> impl Iterator<Item = &Value> {
        ["/initContainers", "/containers", "/ephemeralContainers"]
            .into_iter()
            .flat_map(|p| items(self.spec, p))
    }

    /// The names of the containers for which `bad` holds.
    fn where_<'a>(&'a self, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| bad(c)).map(|c| text(c, "/name")).collect()
    }

    /// Who does something bad, of the pod itself and its containers: `pod and container "a"`. Nothing: nobody.
    fn setters<'a>(&'a self, mut bad: impl FnMut(&'a Value) -> bool) -> Option<String> {
        let pod = bad(self.spec).then(|| "pod".to_owned());
        let containers = self.where_(bad);
        let containers = (!containers.is_empty()).then(|| named(&containers));
        let all: Vec<String> = pod.into_iter().chain(containers).collect();
        (!all.is_empty()).then(|| all.join(" and "))
    }

    /// Whether the pod's users are none of the node.
    fn is_apart(&self) -> bool {
        self.version >= Version(35) && flag(self.spec, "/hostUsers") == Some(false)
    }

    /// Whether it runs where much of what others must say does not exist.
    fn is_windows(&self) -> bool {
        self.version >= Version(25) && text(self.spec, "/os/name") == "windows"
    }
}

/// `container "a"`, `containers "a", "b"`.
fn named(containers: &[&str]) -> String {
    format!("{} {}", word("container", "containers", containers.len()), quoted(containers))
}

fn found(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

/// A violation by the containers that there are, if there are any.
fn by(containers: &[&str], reason: &'static str, what: impl std::fmt::Display) -> Option<Violation> {
    if containers.is_empty() { None } else { found(reason, format!("{} {what}", named(containers))) }
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let setters = pod.setters(|v| {
        let kind = text(v, "/securityContext/appArmorProfile/type");
        let bad = !matches!(kind, "" | "RuntimeDefault" | "Localhost");
        bad.then(|| values.insert(kind)).is_some()
    });
    let good = |v: &str| matches!(v, "" | "runtime/default") || v.starts_with("localhost/");
    let annotations = pod.annotations.as_object().into_iter().flatten();
    let mut annotated: Vec<String> = annotations
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(_, value)| !good(value))
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    annotated.sort();
    let by_annotation =
        (!annotated.is_empty()).then(|| word("annotation", "annotations", annotated.len()).to_owned());
    let who: Vec<String> = setters.into_iter().chain(by_annotation).collect();
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().map(str::to_owned).chain(annotated).collect();
    found(
        word("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)),
    )
}

fn added_capabilities(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 13] = [
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
    ];
    let (who, added) = adding(pod, |c| ALLOWED.contains(&c));
    by(&who, "non-default capabilities", not_included(added))
}

/// The containers that add other capabilities than those that are `allowed`, and these.
fn adding<'a>(pod: &'a Pod<'_>, allowed: impl Fn(&str) -> bool) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let mut others = BTreeSet::new();
    let who = pod.where_(|c| {
        let added = items(c, "/securityContext/capabilities/add").filter_map(Value::as_str);
        let bad: Vec<&str> = added.filter(|a| !allowed(a)).collect();
        others.extend(&bad);
        !bad.is_empty()
    });
    (who, others)
}

fn not_included(capabilities: BTreeSet<&str>) -> String {
    format!("must not include {} in securityContext.capabilities.add", quoted(capabilities))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
    let shared = shared.filter(|f| pod.spec.get(*f).and_then(Value::as_bool) == Some(true));
    let shared: Vec<String> = shared.map(|f| format!("{f}=true")).collect();
    if shared.is_empty() { None } else { found("host namespaces", shared.join(", ")) }
}

fn host_paths(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = items(pod.spec, "/volumes").filter(|v| v.get("hostPath").is_some_and(|p| !p.is_null()));
    let names: Vec<&str> = volumes.map(|v| text(v, "/name")).collect();
    let volumes = word("volume", "volumes", names.len());
    if names.is_empty() { None } else { found("hostPath volumes", format!("{volumes} {}", quoted(names))) }
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let who = pod.where_(|c| {
        let used = items(c, "/ports").filter_map(|p| p.get("hostPort")?.as_i64()).filter(|p| *p != 0);
        let used: Vec<String> = used.map(|p| p.to_string()).collect();
        let bad = !used.is_empty();
        ports.extend(used);
        bad
    });
    let listed: Vec<String> = ports.into_iter().collect();
    let (uses, what) = (word("uses", "use", who.len()), word("hostPort", "hostPorts", listed.len()));
    by(&who, "hostPort", format!("{uses} {what} {}", listed.join(", ")))
}

/// Probes and hooks of other hosts, which make the node's kubelet ask whatever a pod names.
fn other_hosts(pod: &Pod<'_>) -> Option<Violation> {
    const HANDLERS: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    if pod.version < Version(34) {
        return None;
    }
    let mut hosts = BTreeSet::<&str>::new();
    let mut who = pod.where_(|c| {
        let actions = HANDLERS.iter().flat_map(|h| ["httpGet", "tcpSocket"].map(|a| format!("{h}/{a}/host")));
        let named: Vec<&str> = actions.map(|p| text(c, &p)).filter(|h| !h.is_empty()).collect();
        hosts.extend(&named);
        !named.is_empty()
    });
    who.sort_unstable();
    let uses = word("uses", "use", who.len());
    let what = word("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    by(&who, "probe or lifecycle host", format!("{uses} {what} {}", quoted(hosts)))
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.where_(|c| flag(c, "/securityContext/privileged") == Some(true));
    by(&who, "privileged", "must not set securityContext.privileged=true")
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_apart() { None } else { any_proc_mount(pod) }
}

fn any_proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let who = pod.where_(|c| {
        let kind = text(c, "/securityContext/procMount");
        let bad = !matches!(kind, "" | "Default");
        bad.then(|| kinds.insert(kind)).is_some()
    });
    by(&who, "procMount", format!("must not set securityContext.procMount to {}", quoted(kinds)))
}

fn se_linux(pod: &Pod<'_>) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let setters = pod.setters(|v| {
        let Some(options) = v.pointer("/securityContext/seLinuxOptions") else { return false };
        let kind = text(options, "/type");
        let known = match kind {
            "" | "container_t" | "container_init_t" | "container_kvm_t" => true,
            "container_engine_t" => pod.version >= Version(31),
            _ => false,
        };
        let (has_user, has_role) = (!text(options, "/user").is_empty(), !text(options, "/role").is_empty());
        if !known {
            types.insert(kind);
        }
        user |= has_user;
        role |= has_role;
        !known || has_user || has_role
    })?;
    let types = (!types.is_empty())
        .then(|| format!("{} {}", word("type", "types", types.len()), quoted(types.iter())));
    let rest = [(user, "user may not be set"), (role, "role may not be set")];
    let rest = rest.into_iter().filter(|(set, _)| *set).map(|(_, what)| what.to_owned());
    let bad: Vec<String> = types.into_iter().chain(rest).collect();
    let what = "set forbidden securityContext.seLinuxOptions";
    found("seLinuxOptions", format!("{setters} {what}: {}", bad.join("; ")))
}

/// The type of the profile that a pod or container has set.
fn profile(v: &Value) -> Option<&str> {
    v.pointer("/securityContext/seccompProfile").filter(|p| !p.is_null()).map(|p| text(p, "/type"))
}

fn is_confined(profile: &str) -> bool {
    matches!(profile, "RuntimeDefault" | "Localhost")
}

fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    if pod.version < Version(19) {
        return seccomp_annotations(pod);
    }
    let mut values = BTreeSet::new();
    let setters = pod.setters(|v| {
        let bad = profile(v).filter(|p| !is_confined(p));
        values.extend(bad);
        bad.is_some()
    })?;
    let what = "must not set securityContext.seccompProfile.type to";
    found("seccompProfile", format!("{setters} {what} {}", quoted(values)))
}

/// Before there was a field for it, annotations said how a pod was confined.
fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let of = |key: String| {
        let value = pod.annotations.get(&key)?.as_str()?;
        let good = matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
        (!good).then(|| format!("{key}=\"{value}\""))
    };
    let container =
        |c: &Value| of(format!("container.seccomp.security.alpha.kubernetes.io/{}", text(c, "/name")));
    let own = of("seccomp.security.alpha.kubernetes.io/pod".to_owned());
    let all: BTreeSet<String> = own.into_iter().chain(pod.containers().filter_map(container)).collect();
    let what = word("annotation", "annotations", all.len());
    let listed: Vec<String> = all.into_iter().collect();
    if listed.is_empty() {
        return None;
    }
    found("seccompProfile", format!("forbidden {what} {}", listed.join(", ")))
}

fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    /// With the version since which each is thought safe.
    const SAFE: [(&str, u32); 12] = [
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
    let safe = |name: &str| SAFE.iter().any(|(safe, since)| *safe == name && pod.version >= Version(*since));
    let names = items(pod.spec, "/securityContext/sysctls").map(|s| text(s, "/name"));
    let bad: Vec<&str> = names.filter(|name| !safe(name)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

fn host_process(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.setters(|v| flag(v, "/securityContext/windowsOptions/hostProcess") == Some(true))?;
    found("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn escalation(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let who = pod.where_(|c| flag(c, "/securityContext/allowPrivilegeEscalation") != Some(false));
    let what = "must set securityContext.allowPrivilegeEscalation=false";
    by(&who, "allowPrivilegeEscalation != false", what)
}

fn all_capabilities(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let drops = |c: &Value| items(c, "/securityContext/capabilities/drop").any(|d| d == "ALL");
    let keeping = pod.where_(|c| !drops(c));
    let (who, added) = adding(pod, |c| c == "NET_BIND_SERVICE");
    let keeping = (!keeping.is_empty())
        .then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    let adding = (!who.is_empty()).then(|| format!("{} {}", named(&who), not_included(added)));
    let all: Vec<String> = keeping.into_iter().chain(adding).collect();
    if all.is_empty() { None } else { found("unrestricted capabilities", all.join("; ")) }
}

fn volume_types(pod: &Pod<'_>) -> Option<Violation> {
    let of = |v: &Value, restricted: bool| {
        let has = |field: &str| v.get(field).is_some_and(|s| !s.is_null());
        VOLUMES.iter().find(|k| k.restricted == restricted && has(k.field)).map(|k| k.field)
    };
    let bad: Vec<&Value> = items(pod.spec, "/volumes").filter(|v| of(v, true).is_none()).collect();
    let types: BTreeSet<&str> = bad.iter().map(|v| of(v, false).unwrap_or("unknown")).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        word("volume", "volumes", bad.len()),
        quoted(bad.iter().map(|v| text(v, "/name"))),
        word("uses", "use", bad.len()),
        word("restricted volume type", "restricted volume types", types.len()),
        quoted(types)
    );
    found("restricted volume types", detail)
}

fn non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.is_apart() {
        return None;
    }
    let said = |v: &Value| flag(v, "/securityContext/runAsNonRoot");
    if let Some(who) = pod.setters(|v| said(v) == Some(false)) {
        return found(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let for_all = said(pod.spec) == Some(true);
    let silent = pod.where_(|c| !for_all && said(c).is_none());
    let violation = by(&silent, REASON, "must set securityContext.runAsNonRoot=true");
    violation.map(|v| Violation { detail: format!("pod or {}", v.detail), ..v })
}

fn root_user(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_apart() {
        return None;
    }
    let root = |v: &Value| v.pointer("/securityContext/runAsUser").and_then(Value::as_i64) == Some(0);
    found("runAsUser=0", format!("{} must not set runAsUser=0", pod.setters(root)?))
}

fn any_seccomp(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    if let Some(violation) = seccomp(pod) {
        return Some(violation);
    }
    let for_all = profile(pod.spec).is_some();
    let silent = pod.where_(|c| !for_all && profile(c).is_none());
    let what = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    by(&silent, "seccompProfile", what).map(|v| Violation { detail: format!("pod or {}", v.detail), ..v })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(level: Level, minor: u32, spec: &Value, annotations: &Value) -> Vec<String> {
        let all = violations(Policy { level, version: Version(minor) }, spec, annotations);
        all.iter().map(ToString::to_string).collect()
    }

    const LATEST: u32 = u32::MAX;

    #[test]
    fn checks_are_made_since_a_version() {
        let plain = json!({"containers": [{"name": "a"}]});
        let capable = json!({"containers": [{"name": "a", "securityContext":
            {"capabilities": {"add": ["SYS_ADMIN"], "drop": ["ALL"]}}}]});
        let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"}]}});
        let root = json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": true, "seccompProfile": {"type": "Localhost"}}});
        let apart = json!({"hostUsers": false, "securityContext": {"runAsUser": 0}, "containers": [{"name": "a",
            "securityContext": {"procMount": "Unmasked", "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"}}}]});
        let windows = json!({"os": {"name": "windows"}, "containers": [{"name": "a"}]});
        let path = json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]});
        use Level::{Baseline, Privileged, Restricted};
        for (level, minor, spec, want) in [
            (Restricted, 0, &plain, &["runAsNonRoot != true"][..]),
            (Restricted, 18, &plain, &["allowPrivilegeEscalation != false", "runAsNonRoot != true"]),
            (
                Restricted,
                32,
                &plain,
                &[
                    "allowPrivilegeEscalation != false",
                    "unrestricted capabilities",
                    "runAsNonRoot != true",
                    "seccompProfile",
                ],
            ),
            (Baseline, LATEST, &plain, &[]),
            (Baseline, LATEST, &capable, &["non-default capabilities"]),
            (Restricted, 7, &capable, &["non-default capabilities", "runAsNonRoot != true"]),
            (Baseline, 31, &sysctl, &["forbidden sysctls"]),
            (Baseline, 32, &sysctl, &[]),
            (Restricted, 22, &root, &[]),
            (Restricted, 23, &root, &["runAsUser=0"]),
            (Restricted, 34, &apart, &["procMount", "runAsNonRoot != true", "runAsUser=0"]),
            (Restricted, 35, &apart, &["procMount"]),
            (Baseline, 34, &apart, &["procMount"]),
            (Baseline, 35, &apart, &[]),
            (Restricted, 25, &windows, &["runAsNonRoot != true"]),
            (Baseline, LATEST, &path, &["hostPath volumes"]),
            (Restricted, LATEST, &path, &["restricted volume types"]),
            (Privileged, LATEST, &path, &[]),
        ] {
            let all = violations(Policy { level, version: Version(minor) }, spec, &Value::Null);
            let reasons: Vec<&str> = all.iter().map(|v| v.reason).collect();
            assert_eq!(reasons, want, "{level:?} {minor}: {spec}");
        }
    }

    #[test]
    fn everything_is_told_in_the_original_s_words() {
        let annotations = json!({"container.apparmor.security.beta.kubernetes.io/a": "unconfined",
            "seccomp.security.alpha.kubernetes.io/pod": "unconfined"});
        let spec = json!({"hostNetwork": true, "hostIPC": true,
            "securityContext": {"seLinuxOptions": {"user": "u", "type": "t"}, "windowsOptions": {"hostProcess": true},
                "seccompProfile": {"type": "Unconfined"}, "sysctls": [{"name": "x"}, {"name": "y"}]},
            "volumes": [{"name": "v", "hostPath": {}}, {"name": "w", "nfs": {}}, {"name": "ok", "emptyDir": {}}],
            "initContainers": [{"name": "i", "ports": [{"hostPort": 80}]}],
            "containers": [
                {"name": "a", "ports": [{"hostPort": 443}], "livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 1}},
                    "securityContext": {"privileged": true, "procMount": "Unmasked", "runAsUser": 0,
                        "appArmorProfile": {"type": "Unconfined"}, "capabilities": {"add": ["SYS_ADMIN", "NET_RAW"]}}},
                {"name": "b", "securityContext": {"seLinuxOptions": {"role": "r"}, "runAsNonRoot": false}}]});
        assert_eq!(
            told(Level::Baseline, LATEST, &spec, &annotations),
            [
                r#"forbidden AppArmor profiles (container "a" and annotation must not set AppArmor profile type to "Unconfined", "container.apparmor.security.beta.kubernetes.io/a="unconfined"")"#,
                r#"non-default capabilities (container "a" must not include "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)"#,
                "host namespaces (hostNetwork=true, hostIPC=true)",
                r#"hostPath volumes (volume "v")"#,
                r#"hostPort (containers "i", "a" use hostPorts 443, 80)"#,
                r#"probe or lifecycle host (container "a" uses probe or lifecycle host "10.0.0.1")"#,
                r#"privileged (container "a" must not set securityContext.privileged=true)"#,
                r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
                r#"seLinuxOptions (pod and container "b" set forbidden securityContext.seLinuxOptions: type "t"; user may not be set; role may not be set)"#,
                r#"seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
                "forbidden sysctls (x, y)",
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ]
        );
        let restricted = told(Level::Restricted, LATEST, &spec, &Value::Null);
        for want in [
            r#"allowPrivilegeEscalation != false (containers "i", "a", "b" must set securityContext.allowPrivilegeEscalation=false)"#,
            r#"unrestricted capabilities (containers "i", "a", "b" must set securityContext.capabilities.drop=["ALL"]; container "a" must not include "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)"#,
            r#"restricted volume types (volumes "v", "w" use restricted volume types "hostPath", "nfs")"#,
            r#"runAsNonRoot != true (container "b" must not set securityContext.runAsNonRoot=false)"#,
            r#"runAsUser=0 (container "a" must not set runAsUser=0)"#,
        ] {
            assert!(restricted.iter().any(|w| w == want), "{want} in {restricted:#?}");
        }
        let one = json!({"volumes": [{"name": "v", "hostPath": {}}], "containers": [{"name": "a"}]});
        let restricted = told(Level::Restricted, LATEST, &one, &Value::Null);
        for want in [
            r#"restricted volume types (volume "v" uses restricted volume type "hostPath")"#,
            r#"runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true)"#,
            r#"seccompProfile (pod or container "a" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
        ] {
            assert!(restricted.iter().any(|w| w == want), "{want} in {restricted:#?}");
        }
        assert_eq!(
            told(Level::Baseline, 18, &json!({}), &annotations),
            [
                r#"forbidden AppArmor profile (annotation must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/a="unconfined"")"#,
                r#"seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#,
            ]
        );
        let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}]});
        assert_eq!(told(Level::Restricted, LATEST, &good, &Value::Null), Vec::<String>::new());
    }
}
