//! The environment of a container, and the values that the downward API gives. Pure: objects come through [`Sources`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::quantity::Quantity;
use serde_json::Value;

use crate::view::{Container, FieldRef, Pod, ResourceFieldRef};

/// What the environment may refer to.
pub trait Sources {
    /// The string `data` of a ConfigMap; none if there is no such object.
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;
    /// The decoded `data` of a Secret; none if there is no such object.
    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;
    /// The values of Services: those of `namespace`, and `kubernetes` of `default`.
    fn services(&self) -> Vec<std::sync::Arc<api::Object>>;
}

/// What a pod has from its node.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The node's name.
    pub node: String,
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
    /// The pod's addresses.
    pub pod_ips: Vec<IpAddr>,
    /// The node's allocatable CPU, in thousandths.
    pub cpu_milli: i64,
    /// The node's allocatable memory, in bytes.
    pub memory: i64,
}

/// The environment: Services first, then `envFrom`, then `env`, later ones winning and seeing earlier ones in `$(NAME)`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    sources: &dyn Sources,
) -> Result<Vec<(String, String)>, String> {
    let mut env = Env::default();
    let mut room = Room::default();
    let links = pod.spec.enable_service_links.unwrap_or(true);
    for service in sources.services() {
        let own = service.namespace() == pod.namespace;
        let master = service.namespace() == "default" && service.name() == "kubernetes";
        if (own && links) || master {
            service_variables(service.name(), service.spec(), &mut env);
        }
    }
    for from in &container.env_from {
        let (reference, data, kind) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(r), _) => (r, sources.config_map(&r.name), "configmap"),
            (_, Some(r)) => (r, sources.secret(&r.name), "secret"),
            _ => continue,
        };
        match data {
            Some(data) => {
                for (key, value) in data {
                    let name = format!("{}{key}", from.prefix);
                    // What cannot be a name is left out, as upstream does.
                    if !name.is_empty() && !name.contains('=') {
                        env.set(name, String::from_utf8_lossy(&value).into_owned());
                    }
                }
            }
            None if reference.optional => {}
            None => return Err(format!("{kind} \"{}\" not found", reference.name)),
        }
    }
    for var in &container.env {
        let value = match &var.value_from {
            None => room.expand(&var.value, |name| env.get(name))?,
            Some(source) => {
                if let Some(field) = &source.field_ref {
                    field_value(pod, field, facts)?
                } else if let Some(field) = &source.resource_field_ref {
                    resource_value(pod, container, field, facts)?
                } else {
                    let (reference, data, kind) = match (&source.config_map_key_ref, &source.secret_key_ref) {
                        (Some(r), _) => (r, sources.config_map(&r.name), "configmap"),
                        (_, Some(r)) => (r, sources.secret(&r.name), "secret"),
                        _ => continue,
                    };
                    match data.as_ref().map(|d| d.get(&reference.key)) {
                        Some(Some(value)) => String::from_utf8_lossy(value).into_owned(),
                        _ if reference.optional => continue,
                        None => return Err(format!("{kind} \"{}\" not found", reference.name)),
                        Some(None) => {
                            let kind = if kind == "secret" { "Secret" } else { "ConfigMap" };
                            return Err(format!(
                                "couldn't find key {} in {kind} {}/{}",
                                reference.key, pod.namespace, reference.name
                            ));
                        }
                    }
                }
            }
        };
        env.set(var.name.clone(), value);
    }
    Ok(env.list)
}

/// Variables in their order, each once.
#[derive(Default)]
pub struct Env {
    /// Names and values.
    pub list: Vec<(String, String)>,
    at: BTreeMap<String, usize>,
}

impl Env {
    /// Adds a variable, or changes it where it is.
    pub fn set(&mut self, name: String, value: String) {
        match self.at.get(&name) {
            Some(i) => self.list[*i].1 = value,
            None => {
                self.at.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.at.get(name).map(|i| self.list[*i].1.as_str())
    }
}

/// `KUBIA_SERVICE_HOST` and its relatives, as Docker links once had them.
fn service_variables(name: &str, spec: &Value, env: &mut Env) {
    let ip = spec["clusterIP"].as_str().unwrap_or_default();
    let Some(ports) = spec["ports"].as_array().filter(|p| !p.is_empty()) else { return };
    if ip.is_empty() || ip == "None" || spec["type"] == "ExternalName" {
        return;
    }
    let upper = |text: &str| text.to_ascii_uppercase().replace(['-', '.'], "_");
    let prefix = upper(name);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let number = |port: &Value| port["port"].as_u64().unwrap_or_default();
    env.set(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    env.set(format!("{prefix}_SERVICE_PORT"), number(&ports[0]).to_string());
    for port in ports {
        if let Some(port_name) = port["name"].as_str().filter(|n| !n.is_empty()) {
            env.set(format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), number(port).to_string());
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_ascii_lowercase(), number(port));
        if i == 0 {
            env.set(format!("{prefix}_PORT"), url.clone());
        }
        let prefix = format!("{prefix}_PORT_{}_{}", number(port), protocol.to_ascii_uppercase());
        env.set(prefix.clone(), url);
        env.set(format!("{prefix}_PROTO"), protocol.to_ascii_lowercase());
        env.set(format!("{prefix}_PORT"), number(port).to_string());
        env.set(format!("{prefix}_ADDR"), ip.to_owned());
    }
}

/// The longest text that a program can have as an argument or a variable (MAX_ARG_STRLEN of Linux).
const LONGEST: usize = 128 << 10;
/// What all of them can have together, whatever the limits of the program are (three quarters of _STK_LIM).
const TOGETHER: usize = 6 << 20;

/// How much texts may still become by what is put in for names: each may double the one before it, and with less than fifty
/// of them there would be no end.
pub struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(TOGETHER)
    }
}

impl Room {
    /// Replaces `$(NAME)` by its value; `$$` is a dollar, and what is not known stays as it is. A text that no program can
    /// have is refused.
    pub fn expand<'v>(
        &mut self,
        text: &str,
        value: impl Fn(&str) -> Option<&'v str>,
    ) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(named) = rest.strip_prefix('(') {
                // Behind the last name there is none any more, however often one begins.
                let Some((name, after)) = named.split_once(')') else {
                    out.push_str("$(");
                    out.push_str(&named.replace("$$", "$"));
                    rest = "";
                    break;
                };
                match value(name) {
                    Some(value) => {
                        if out.len() + value.len() > LONGEST || value.len() > self.0 {
                            return Err(format!(
                                "what is put in for $({name}) makes the arguments and the environment longer than those of a program can be"
                            ));
                        }
                        self.0 -= value.len();
                        out.push_str(value);
                    }
                    None => {
                        out.push_str("$(");
                        out.push_str(name);
                        out.push(')');
                    }
                }
                rest = after;
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// The value of a `fieldRef`.
pub fn field_value(pod: &Pod, field: &FieldRef, facts: &Facts) -> Result<String, String> {
    let path = field.field_path.as_str();
    let join = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        return match map {
            "metadata.labels" => Ok(pod.labels.get(key).cloned().unwrap_or_default()),
            "metadata.annotations" => Ok(pod.annotations.get(key).cloned().unwrap_or_default()),
            _ => Err(format!("fieldPath \"{path}\" does not support subscript")),
        };
    }
    Ok(match path {
        "metadata.name" => pod.name.clone(),
        "metadata.namespace" => pod.namespace.clone(),
        "metadata.uid" => pod.uid.clone(),
        "metadata.labels" => lines(&pod.labels),
        "metadata.annotations" => lines(&pod.annotations),
        "spec.nodeName" => facts.node.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => join(&facts.host_ips),
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => join(&facts.pod_ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// A map as a file of the downward API: `key="value"` lines, values quoted as Go does.
fn lines(map: &BTreeMap<String, String>) -> String {
    map.iter()
        .map(|(k, v)| format!("{k}={}\n", Value::from(v.as_str())))
        .collect::<String>()
        .trim_end()
        .to_owned()
}

/// The value of a `resourceFieldRef`; a missing limit is what the node has.
pub fn resource_value(
    pod: &Pod,
    container: &Container,
    field: &ResourceFieldRef,
    facts: &Facts,
) -> Result<String, String> {
    let container = match field.container_name.as_str() {
        "" => container,
        name => pod.spec.container(name).ok_or_else(|| format!("container {name} not found"))?,
    };
    let (list, name) = field
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", field.resource))?;
    let of_node = || match name {
        "cpu" => Some(Quantity::of_milli(facts.cpu_milli)),
        "memory" => Some(Quantity::of(facts.memory, api::quantity::Format::Binary)),
        _ => None,
    };
    let quantity = match list {
        "limits" => container.resources.limit(name).or_else(of_node),
        "requests" => container.resources.request(name),
        _ => return Err(format!("unsupported container resource : {}", field.resource)),
    };
    let nanos = quantity.map_or(0, Quantity::nanos);
    let divisor = match &field.divisor {
        Value::Null => None,
        value => Quantity::of_value(value).ok().filter(|q| !q.is_zero()),
    };
    let divisor = divisor.map_or(1_000_000_000, Quantity::nanos);
    Ok(((nanos + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::Object;
    use serde_json::json;

    use super::*;
    use crate::view::tests::pod;

    struct Test;

    fn map(list: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        list.iter().map(|(k, v)| (k.to_string(), v.as_bytes().to_vec())).collect()
    }

    impl Sources for Test {
        fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
            (name == "cm").then(|| map(&[("sleep-interval", "3"), ("k", "v")]))
        }
        fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
            (name == "s").then(|| map(&[("password", "hunter2")]))
        }
        fn services(&self) -> Vec<Arc<Object>> {
            let service = |ns: &str, name: &str, ip: &str| {
                Object::from_value(
                    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": ns},
                    "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"port": 443}]}}),
                )
            };
            vec![
                service("ns", "kubia-web", "10.96.0.7"),
                service("ns", "headless", "None"),
                service("other", "x", "10.96.0.8"),
                service("default", "kubernetes", "10.96.0.1"),
            ]
        }
    }

    fn facts() -> Facts {
        Facts {
            node: "n".into(),
            host_ips: vec!["10.0.0.1".parse().unwrap()],
            pod_ips: vec!["10.244.0.5".parse().unwrap()],
            cpu_milli: 2000,
            memory: 1 << 30,
        }
    }

    fn env(container: Value) -> Result<BTreeMap<String, String>, String> {
        let p = pod(json!({"containers": [container]}));
        environment(&p, &p.spec.containers[0], &facts(), &Test).map(|e| e.into_iter().collect())
    }

    #[test]
    fn everything_together() {
        let got = env(json!({"name": "a", "resources": {"limits": {"memory": "64Mi"}},
            "envFrom": [{"prefix": "C_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(NOPE)-$$(A)"},
                {"name": "HOST", "value": "$(KUBIA_WEB_SERVICE_HOST)"},
                {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "no", "optional": true}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}))
        .unwrap();
        let want = [
            ("A", "1"),
            ("B", "1-$(NOPE)-$(A)"),
            ("HOST", "10.96.0.7"),
            ("P", "hunter2"),
            ("IP", "10.244.0.5"),
            ("L", "a"),
            ("M", "64"),
            ("CPU", "2"),
            ("C_sleep-interval", "3"),
            ("KUBIA_WEB_SERVICE_PORT", "80"),
            ("KUBIA_WEB_SERVICE_PORT_HTTP", "80"),
            ("KUBIA_WEB_PORT", "tcp://10.96.0.7:80"),
            ("KUBIA_WEB_PORT_443_TCP_ADDR", "10.96.0.7"),
            ("KUBIA_WEB_PORT_80_TCP_PORT", "80"),
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ];
        for (name, value) in want {
            assert_eq!(got.get(name).map(String::as_str), Some(value), "{name}");
        }
        for name in ["O", "HEADLESS_SERVICE_HOST", "X_SERVICE_HOST"] {
            assert!(!got.contains_key(name), "{name}");
        }
    }

    #[test]
    fn what_is_missing_has_a_name() {
        let table = [
            (
                json!({"name": "a", "envFrom": [{"configMapRef": {"name": "no"}}]}),
                "configmap \"no\" not found",
            ),
            (
                json!({"name": "a", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
                "couldn't find key k in Secret ns/s",
            ),
        ];
        for (container, want) in table {
            assert_eq!(env(container).unwrap_err(), want);
        }
    }

    #[test]
    fn expansion() {
        let value = |n: &str| (n == "A").then_some("x");
        for (text, want) in [
            ("$(A)", "x"),
            ("$$(A)", "$(A)"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("a$b$(B)", "a$b$(B)"),
            ("$(A)$(A$$$(", "x$(A$$("),
            ("$(A$$$$", "$(A$$"),
            ("$$$(A)", "$x"),
        ] {
            assert_eq!(Room::default().expand(text, value).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_no_program_can_have_is_not_made() {
        let doubled = |from: usize, to: usize| -> Vec<Value> {
            let value = |i: usize| {
                if i == 0 { "0123456789abcdef".to_owned() } else { format!("$(V{0})$(V{0})", i - 1) }
            };
            (from..to).map(|i| json!({"name": format!("V{i}"), "value": value(i)})).collect()
        };
        assert_eq!(env(json!({"name": "a", "env": doubled(0, 13)})).unwrap()["V12"].len(), 64 << 10);
        let refused = env(json!({"name": "a", "env": doubled(0, 50)})).unwrap_err();
        assert!(refused.starts_with("what is put in for $(V13)"), "{refused}");
        // Many texts that a program could have, and all of them it could not.
        let mut many = doubled(0, 13);
        many.extend((0..200).map(|i| json!({"name": format!("W{i}"), "value": "$(V12)"})));
        assert!(env(json!({"name": "a", "env": many})).is_err());
        // Many names that do not end.
        let open = "$(".repeat(1 << 20);
        assert_eq!(Room::default().expand(&open, |_| None), Ok(open.clone()));
    }

    #[test]
    fn labels_as_a_file() {
        let map = [("a".to_string(), "x\"y".to_string()), ("b".to_string(), "1".to_string())].into();
        assert_eq!(lines(&map), "a=\"x\\\"y\"\nb=\"1\"");
    }
}
