//! Whether this node takes a pod that was given to it: whoever bound it may have known less of the node, or asked nobody.

use oci_spec::runtime::LinuxNamespaceType;

use crate::view::{ContainerPort, Pod, Profile};

/// Why a pod is not taken: the reason and message of its status.
pub type Refusal = (String, String);

/// The kernel parameters that a pod may set because they concern it alone, with no limit of the node's behind them:
/// upstream's safe set.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Decides about a pod that is new here. `others` are the pods that are here and have not ended.
pub fn admit<'a>(pod: &Pod, mut others: impl Iterator<Item = &'a Pod>) -> Result<(), Refusal> {
    sysctls(pod)?;
    lacking(pod)?;
    let wanted: Vec<&ContainerPort> = pod.spec.host_ports().collect();
    let taken = |other: &Pod| other.spec.host_ports().any(|p| wanted.iter().any(|w| clash(w, p)));
    if !wanted.is_empty() && others.any(taken) {
        return Err(("NodePorts".into(), "Predicate NodePorts failed".into()));
    }
    Ok(())
}

fn sysctls(pod: &Pod) -> Result<(), Refusal> {
    let refused = |why: String| Err(("SysctlForbidden".to_owned(), format!("forbidden sysctl: {why}")));
    for sysctl in &pod.spec.security_context.sysctls {
        let name = sysctl.name.replace('/', ".");
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            return refused(format!("{:?} not allowlisted", sysctl.name));
        }
        let (host, whose) = match runtime::sysctl::namespace(&sysctl.name) {
            Some(LinuxNamespaceType::Ipc) => (pod.spec.host_ipc, "ipc"),
            _ => (pod.spec.host_network, "net"),
        };
        if host {
            return refused(format!("{:?} not allowed with host {whose} enabled", sysctl.name));
        }
    }
    Ok(())
}

/// What no pod gets on this node. Run without it, one would have less isolation than it asked for, or miss a device.
fn lacking(pod: &Pod) -> Result<(), Refusal> {
    let spec = &pod.spec;
    let confined = |p: &Option<Profile>| p.as_ref().is_some_and(|p| p.kind == "Localhost");
    let container = |asks: &dyn Fn(&crate::view::Container) -> bool, field: &str| {
        let named = spec.all().find(|(_, c)| asks(c));
        named.map(|(list, c)| format!("spec.{list}[{}].{field}", c.name))
    };
    let profile = "securityContext.appArmorProfile";
    let table = [
        (
            "UserNamespacesNotSupported",
            (spec.host_users == Some(false)).then(|| "spec.hostUsers".to_owned()),
            "this node gives pods no user namespace of their own; leave it out or set it to true",
        ),
        (
            "AppArmor",
            confined(&spec.security_context.app_armor_profile)
                .then(|| format!("spec.{profile}"))
                .or_else(|| container(&|c| confined(&c.security_context.app_armor_profile), profile))
                .map(|field| format!("Cannot enforce AppArmor: {field}")),
            "this node applies no profiles of its own; use the type RuntimeDefault or Unconfined",
        ),
        (
            "VolumeDevicesNotSupported",
            container(&|c| !c.volume_devices.is_empty(), "volumeDevices"),
            "this node hands out no block devices; mount a claim with volumeMode Filesystem by volumeMounts",
        ),
    ];
    match table.into_iter().find_map(|(reason, field, remedy)| Some((reason, field?, remedy))) {
        Some((reason, field, remedy)) => Err((reason.into(), format!("{field}: {remedy}"))),
        None => Ok(()),
    }
}

/// Two ports clash if one listens where the other does.
fn clash(a: &ContainerPort, b: &ContainerPort) -> bool {
    let everywhere = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
    let protocol =
        |p: &ContainerPort| if p.protocol.is_empty() { "TCP".to_owned() } else { p.protocol.clone() };
    a.host_port == b.host_port
        && protocol(a) == protocol(b)
        && (everywhere(&a.host_ip) || everywhere(&b.host_ip) || a.host_ip == b.host_ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(ports: serde_json::Value) -> Pod {
        of(json!({"containers": [{"name": "c", "image": "i", "ports": ports}]}))
    }

    fn of(spec: serde_json::Value) -> Pod {
        let metadata = json!({"name": "p", "namespace": "n", "uid": "u"});
        Pod::of(&api::Object::from_value(json!({"metadata": metadata, "spec": spec}))).unwrap()
    }

    #[test]
    fn a_host_s_port_is_given_once() {
        let port = |ip: &str, protocol: &str| json!([{"containerPort": 80, "hostPort": 8080, "hostIP": ip, "protocol": protocol}]);
        for (a, b, taken) in [
            (port("", "TCP"), port("127.0.0.1", ""), true),
            (port("127.0.0.1", "TCP"), port("127.0.0.1", "TCP"), true),
            (port("127.0.0.1", "TCP"), port("127.0.0.2", "TCP"), false),
            (port("", "TCP"), port("", "UDP"), false),
            (json!([{"containerPort": 80}]), port("", "TCP"), false),
        ] {
            let other = pod(b.clone());
            assert_eq!(admit(&pod(a.clone()), [&other].into_iter()).is_err(), taken, "{a} {b}");
        }
    }

    #[test]
    fn a_sidecar_s_port_counts() {
        let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
        let sidecar =
            |policy| of(json!({"initContainers": [{"name": "s", "restartPolicy": policy, "ports": ports}]}));
        let other = pod(ports.clone());
        assert!(admit(&sidecar(json!("Always")), [&other].into_iter()).is_err());
        assert!(admit(&other, [&sidecar(json!("Always"))].into_iter()).is_err());
        assert!(admit(&sidecar(json!(null)), [&other].into_iter()).is_ok());
    }

    #[test]
    fn parameters_of_the_machine_are_not_the_pod_s() {
        let why = |mut spec: serde_json::Value, name: &str| {
            spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
            admit(&of(spec), std::iter::empty()).err().map(|(reason, why)| format!("{reason}: {why}"))
        };
        for name in ["kernel.shm_rmid_forced", "net.ipv4.tcp_syncookies", "net/ipv4/tcp_syncookies"] {
            assert_eq!(why(json!({}), name), None, "{name}");
        }
        for name in
            ["kernel.core_pattern", "vm.max_map_count", "net.core.somaxconn", "net.//.kernel.core_pattern"]
        {
            let want = format!("SysctlForbidden: forbidden sysctl: {name:?} not allowlisted");
            assert_eq!(why(json!({}), name), Some(want), "{name}");
        }
        for (host, name, whose) in [
            (json!({"hostNetwork": true}), "net.ipv4.tcp_syncookies", "net"),
            (json!({"hostIPC": true}), "kernel.shm_rmid_forced", "ipc"),
        ] {
            let want =
                format!("SysctlForbidden: forbidden sysctl: {name:?} not allowed with host {whose} enabled");
            assert_eq!(why(host, name), Some(want));
        }
    }

    #[test]
    fn what_the_node_lacks_is_refused() {
        let why = |spec: serde_json::Value| admit(&of(spec), std::iter::empty()).err();
        let with = |c: serde_json::Value| json!({"initContainers": [c], "containers": [{"name": "c"}]});
        let profile = |kind: &str| json!({"appArmorProfile": {"type": kind, "localhostProfile": "p"}});
        for (spec, reason, begin) in [
            (json!({"hostUsers": false}), "UserNamespacesNotSupported", "spec.hostUsers: "),
            (
                json!({"securityContext": profile("Localhost")}),
                "AppArmor",
                "Cannot enforce AppArmor: spec.securityContext.appArmorProfile: ",
            ),
            (
                with(json!({"name": "i", "securityContext": profile("Localhost")})),
                "AppArmor",
                "Cannot enforce AppArmor: spec.initContainers[i].securityContext.appArmorProfile: ",
            ),
            (
                with(json!({"name": "i", "volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]})),
                "VolumeDevicesNotSupported",
                "spec.initContainers[i].volumeDevices: ",
            ),
        ] {
            let (got, message) = why(spec.clone()).unwrap();
            assert!(got == reason && message.starts_with(begin), "{spec}: {got}: {message}");
        }
        for fine in [
            json!({}),
            json!({"hostUsers": true}),
            json!({"securityContext": profile("RuntimeDefault")}),
            with(json!({"name": "i", "securityContext": profile("Unconfined")})),
        ] {
            assert_eq!(why(fine.clone()), None, "{fine}");
        }
    }
}
