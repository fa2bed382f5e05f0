//! Whether this node takes a pod that was given to it: whoever bound it may have known less of the node, or asked nobody.

use crate::view::{ContainerPort, Pod};

/// Why a pod is not taken: the reason and message of its status.
pub type Refusal = (String, String);

/// Decides about a pod that is new here. `others` are the pods that are here and have not ended.
pub fn admit<'a>(pod: &Pod, mut others: impl Iterator<Item = &'a Pod>) -> Result<(), Refusal> {
    let wanted: Vec<&ContainerPort> = host_ports(pod).collect();
    let taken = |other: &Pod| host_ports(other).any(|p| wanted.iter().any(|w| clash(w, p)));
    if !wanted.is_empty() && others.any(taken) {
        return Err(("NodePorts".into(), "Predicate NodePorts failed".into()));
    }
    Ok(())
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    pod.spec.containers.iter().flat_map(|c| &c.ports).filter(|p| p.host_port != 0)
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
        let object = api::Object::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": ports}]}}));
        Pod::of(&object).unwrap()
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
}
