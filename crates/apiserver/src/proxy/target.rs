//! Where a request leads: to which kubelet, pod or endpoint of a service, and by what that proves who it is.

use std::sync::Arc;

use api::meta::text;
use api::{ErrorList, Gvk, Object, Path, Status, Value};

use super::forward::{Proof, Target};
use crate::ApiServer;
use crate::cache::local_key;
use crate::pipeline::Call;
use crate::query::Query;

/// Whether an address that a client may have written is one to be spoken to for him: this machine's own, and those of its
/// links, are not.
fn is_others(ip: &str) -> bool {
    api::validate::non_special_ip(ip).is_empty()
}

/// A connector that takes any certificate, for peers that are not to be verified by the user's own word.
fn unverified() -> tokio_rustls::TlsConnector {
    let config = sockets::AnyCertificate::client_config().with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

impl ApiServer {
    /// A node's address and its kubelet's port.
    pub(super) fn kubelet(&self, node: &str) -> Result<(String, u16), Status> {
        let gvr = api::names::gvr::NODES;
        let object = self.cache.kind("", "nodes").get(node).ok_or_else(|| Status::not_found(&gvr, node))?;
        let addresses =
            object.status().get("addresses").and_then(Value::as_array).cloned().unwrap_or_default();
        let of = |kind: &str| {
            addresses.iter().find(|a| text(a, "/type") == kind).map(|a| text(a, "/address").to_owned())
        };
        let host = of("InternalIP").or_else(|| of("Hostname")).or_else(|| of("ExternalIP"));
        let host = host.ok_or_else(|| Status::internal(format!("no address known for node \"{node}\"")))?;
        let port =
            object.value().pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
        Ok((host, port.and_then(|p| u16::try_from(p).ok()).unwrap_or(10250)))
    }

    pub(super) fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        self.cache
            .kind("", "pods")
            .get(&local_key(namespace, name))
            .ok_or_else(|| Status::not_found(&api::names::gvr::PODS, name))
    }

    /// Logs, exec, attach, port-forward; `options` are those that admission has let pass.
    pub(super) fn container_target(&self, call: &Call, options: &Value) -> Result<Target, Status> {
        let info = &call.info;
        let pod = self.pod(&info.namespace, &info.name)?;
        let spec = pod.spec();
        let query = &call.query;
        let mut pairs: Vec<(String, String)> = Vec::new();
        let mut path = match info.subresource.as_str() {
            "portforward" => {
                let ports = options.get("ports").and_then(Value::as_array).into_iter().flatten();
                let ports: Vec<String> = ports.filter_map(Value::as_i64).map(|p| p.to_string()).collect();
                if !ports.is_empty() {
                    pairs.push(("port".into(), ports.join(",")));
                }
                format!("/portForward/{}/{}", info.namespace, info.name)
            }
            sub => {
                let container = container_of(&pod, text(options, "/container"))?;
                let verb = if sub == "log" { "containerLogs" } else { sub };
                format!("/{verb}/{}/{}/{container}", info.namespace, info.name)
            }
        };
        match info.subresource.as_str() {
            "log" => pairs = log_options(query, &info.name)?,
            "exec" | "attach" => {
                let on = |name: &str| options.get(name).and_then(Value::as_bool) == Some(true);
                let command = options.get("command").and_then(Value::as_array);
                let any = ["stdin", "stdout", "stderr"].iter().any(|k| on(k));
                if !any {
                    return Err(Status::bad_request(
                        "you must specify at least one of stdin, stdout, stderr",
                    ));
                }
                if info.subresource == "exec" && command.is_none_or(Vec::is_empty) {
                    return Err(Status::bad_request("you must specify command for exec"));
                }
                for (ours, theirs) in
                    [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
                {
                    if on(ours) {
                        pairs.push((theirs.to_owned(), "1".to_owned()));
                    }
                }
                let words = command.into_iter().flatten().filter_map(Value::as_str);
                pairs.extend(words.map(|c| ("command".to_owned(), c.to_owned())));
            }
            _ => {}
        }
        let node = text(spec, "/nodeName");
        if node.is_empty() {
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", info.name)));
        }
        let (host, port) = self.kubelet(node)?;
        if !pairs.is_empty() {
            let encode = |s: &str| {
                percent_encoding::utf8_percent_encode(s, percent_encoding::NON_ALPHANUMERIC).to_string()
            };
            let query: Vec<String> =
                pairs.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
            path = format!("{path}?{}", query.join("&"));
        }
        Ok(Target::new(host, port, Proof::Node, path))
    }

    pub(super) fn pod_target(&self, call: &Call) -> Result<Target, Status> {
        let (scheme, name, port) = split_name(&call.info.name);
        let pod = self.pod(&call.info.namespace, &name)?;
        let host = text(pod.status(), "/podIP").to_owned();
        if host.is_empty() {
            return Err(Status::unavailable(format!(
                "no endpoints available for pod \"{name}\": it has no address yet"
            )));
        }
        if !is_others(&host) {
            let why = format!("address not allowed: pod \"{name}\" says that it is at {host}");
            return Err(Status::bad_request(why));
        }
        let ports = || {
            let containers = pod.spec().get("containers").and_then(Value::as_array);
            containers
                .into_iter()
                .flatten()
                .flat_map(|c| c.get("ports").and_then(Value::as_array).into_iter().flatten())
        };
        let number = |p: &Value| p.get("containerPort").and_then(Value::as_u64);
        let port = match port {
            None => ports().find_map(number).unwrap_or(80),
            Some(p) => match p.parse() {
                Ok(n) => n,
                Err(_) => ports().find(|q| text(q, "/name") == p).and_then(number).ok_or_else(|| {
                    Status::bad_request(format!("pod \"{name}\" has no port named \"{p}\""))
                })?,
            },
        };
        let port = u16::try_from(port).map_err(|_| Status::bad_request("invalid port"))?;
        Ok(Target::new(host, port, self.proof_of(&scheme), rest_path(call)))
    }

    /// A kubelet, which this server proves its identity to, or whatever else listens at a node's address, which it does not.
    pub(super) fn node_target(&self, call: &Call) -> Result<Target, Status> {
        let (scheme, name, port) = split_name(&call.info.name);
        let (host, kubelet) = self.kubelet(&name)?;
        let port = match port {
            None => kubelet,
            Some(p) => p.parse().map_err(|_| Status::bad_request(format!("invalid node port \"{p}\"")))?,
        };
        if port == kubelet {
            return Ok(Target::new(host, port, Proof::Node, rest_path(call)));
        }
        if !is_others(&host) {
            let why = format!("address not allowed: node \"{name}\" says that it is at {host}");
            return Err(Status::bad_request(why));
        }
        Ok(Target::new(host, port, self.proof_of(&scheme), rest_path(call)))
    }

    pub(super) fn service_target(&self, call: &Call) -> Result<Target, Status> {
        let (scheme, name, wanted) = split_name(&call.info.name);
        let (host, port) = self.endpoint_of(&call.info.namespace, &name, wanted.as_deref())?;
        Ok(Target::new(host, port, self.proof_of(&scheme), rest_path(call)))
    }

    /// The address of one of a service's ready endpoints, for the port of that name or number (or its only one, or 80).
    pub(crate) fn endpoint_of(
        &self,
        namespace: &str,
        name: &str,
        wanted: Option<&str>,
    ) -> Result<(String, u16), Status> {
        let key = local_key(namespace, name);
        let service = self
            .cache
            .kind("", "services")
            .get(&key)
            .ok_or_else(|| Status::not_found(&api::names::gvr::SERVICES, name))?;
        let ports = service.spec().get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
        let number = |p: &Value| p.get("port").and_then(Value::as_u64);
        let port = match wanted {
            None if ports.len() == 1 => ports.first(),
            None => ports.iter().find(|p| number(p) == Some(80)).or(ports.first()),
            Some(w) => {
                ports.iter().find(|p| text(p, "/name") == w || number(p).is_some_and(|n| n.to_string() == w))
            }
        };
        let none = || Status::unavailable(format!("no endpoints available for service \"{name}\""));
        let Some(port) = port else {
            let wanted = wanted.unwrap_or_default();
            return Err(Status::unavailable(format!(
                "no service port \"{wanted}\" found for service \"{name}\""
            )));
        };
        let port_name = text(port, "/name");
        let endpoints = self.cache.kind("", "endpoints").get(&key).ok_or_else(none)?;
        let mut candidates = Vec::new();
        for subset in endpoints.value().get("subsets").and_then(Value::as_array).into_iter().flatten() {
            let mut ports = subset.get("ports").and_then(Value::as_array).into_iter().flatten();
            let found = ports.find(|p| text(p, "/name") == port_name).and_then(number);
            let Some(n) = found.and_then(|n| u16::try_from(n).ok()) else { continue };
            for address in subset.get("addresses").and_then(Value::as_array).into_iter().flatten() {
                let ip = text(address, "/ip");
                if is_others(ip) {
                    candidates.push((ip.to_owned(), n));
                }
            }
        }
        if candidates.is_empty() {
            return Err(none());
        }
        let at = usize::try_from(base::rng::below(candidates.len() as u64)).unwrap_or(0);
        Ok(candidates.swap_remove(at))
    }

    /// Pods and services speak plain text unless they are asked for by `https:`; then nobody knows who signed for them.
    fn proof_of(&self, scheme: &str) -> Proof {
        if scheme != "https" {
            return Proof::Plain;
        }
        Proof::Named(unverified(), "localhost".to_owned())
    }
}

/// `https:name:port`, `name:port`, `name`: scheme, name, port.
pub(super) fn split_name(name: &str) -> (String, String, Option<String>) {
    let parts: Vec<&str> = name.split(':').collect();
    let port = |p: &str| (!p.is_empty()).then(|| p.to_owned());
    match parts[..] {
        [scheme, name, p] => (scheme.to_owned(), name.to_owned(), port(p)),
        [name, p] => (String::new(), name.to_owned(), port(p)),
        _ => (String::new(), name.to_owned(), None),
    }
}

/// The path behind `/proxy`, with the query.
pub(super) fn rest_path(call: &Call) -> String {
    let mut path = crate::path::proxied(&call.info.rest);
    if let Some(query) = call.request.uri().query() {
        path = format!("{path}?{query}");
    }
    path
}

/// What is asked of a log, checked, for a kubelet.
fn log_options(query: &Query, pod: &str) -> Result<Vec<(String, String)>, Status> {
    let mut errors = ErrorList::new();
    for (key, least, why) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        if let Some(n) = query.number::<i64>(key).map_err(Status::bad_request)?
            && n < least
        {
            errors.invalid(&Path::new(key), &n.into(), why);
        }
    }
    if let Some(since) = query.some("sinceTime") {
        since.parse::<jiff::Timestamp>().map_err(|e| Status::bad_request(format!("sinceTime: {e}")))?;
        if query.some("sinceSeconds").is_some() {
            errors
                .forbidden(&Path::new("[]"), "at most one of `sinceTime` or `sinceSeconds` may be specified");
        }
    }
    const STREAMS: [&str; 3] = ["All", "Stderr", "Stdout"];
    if let Some(stream) = query.some("stream").filter(|s| !STREAMS.contains(s)) {
        errors.not_supported(&Path::new("stream"), &stream.into(), &STREAMS);
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&Gvk::new("", "", "PodLogOptions"), pod, &errors));
    }
    let known = [
        "follow",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "timestamps",
        "tailLines",
        "limitBytes",
        "insecureSkipTLSVerifyBackend",
        "stream",
    ];
    let given = known.into_iter().filter_map(|key| Some((key.to_owned(), query.some(key)?.to_owned())));
    Ok(given.collect())
}

/// The container meant: the one named, the only one, the one an annotation names, or the first.
fn container_of(pod: &Object, named: &str) -> Result<String, Status> {
    let spec = pod.spec();
    let names = |list: &str| {
        let items = spec.get(list).and_then(Value::as_array);
        items.into_iter().flatten().map(|c| text(c, "/name").to_owned()).collect::<Vec<_>>()
    };
    let containers = names("containers");
    let init = names("initContainers");
    let ephemeral = names("ephemeralContainers");
    if !named.is_empty() {
        if containers.iter().chain(&init).chain(&ephemeral).any(|c| c == named) {
            return Ok(named.to_owned());
        }
        return Err(Status::bad_request(format!("container {named} is not valid for pod {}", pod.name())));
    }
    if let [only] = &containers[..] {
        return Ok(only.clone());
    }
    if let Some(default) = pod.annotation("kubectl.kubernetes.io/default-container")
        && containers.iter().any(|c| c == default)
    {
        return Ok(default.to_owned());
    }
    let choose = format!("choose one of: [{}]", containers.join(" "));
    let init = if init.is_empty() {
        String::new()
    } else {
        format!(" or one of the init containers: [{}]", init.join(" "))
    };
    Err(Status::bad_request(format!(
        "a container name must be specified for pod {}, {choose}{init}",
        pod.name()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_with_scheme_and_port() {
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(split_name("a"), (String::new(), "a".into(), None));
        assert_eq!(split_name("a:80"), (String::new(), "a".into(), some("80")));
        assert_eq!(split_name("https:a:web"), ("https".into(), "a".into(), some("web")));
        assert_eq!(split_name("https:a:"), ("https".into(), "a".into(), None));
    }

    #[test]
    fn containers_are_chosen_or_asked_for() {
        let one =
            Object::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}));
        assert_eq!(container_of(&one, "").unwrap(), "a");
        let why = container_of(&one, "nope").unwrap_err().message;
        assert_eq!(why, "container nope is not valid for pod p");
        let two = Object::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
        );
        let why = container_of(&two, "").unwrap_err().message;
        assert_eq!(why, "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(container_of(&two, "b").unwrap(), "b");
    }

    #[test]
    fn options_of_logs() {
        let of = |query: &str| log_options(&Query::parse(Some(query)), "p").map_err(|s| (s.code, s.message));
        let given = of("tailLines=0&limitBytes=1&sinceSeconds=1&stream=Stdout&container=c&follow=").unwrap();
        let keys: Vec<&str> = given.iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(keys, ["sinceSeconds", "tailLines", "limitBytes", "stream"]);
        let invalid = |why: &str| Err((422, format!("PodLogOptions \"p\" is invalid: {why}")));
        for (query, want) in [
            ("tailLines=-1", invalid("tailLines: Invalid value: -1: must be greater than or equal to 0")),
            ("limitBytes=0", invalid("limitBytes: Invalid value: 0: must be greater than 0")),
            ("sinceSeconds=0", invalid("sinceSeconds: Invalid value: 0: must be greater than 0")),
            (
                "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
                invalid("[]: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"),
            ),
            (
                "stream=Both",
                invalid(
                    "stream: Unsupported value: \"Both\": supported values: \"All\", \"Stderr\", \"Stdout\"",
                ),
            ),
        ] {
            assert_eq!(of(query), want, "{query}");
        }
        for query in ["tailLines=x", "sinceTime=yesterday"] {
            assert_eq!(of(query).unwrap_err().0, 400, "{query}");
        }
    }
}
