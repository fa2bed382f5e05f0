//! Which backend a host and a path lead to (networking/v1 Ingress).

use std::collections::BTreeMap;

use api::Value;

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortRef {
    /// By its name.
    Name(String),
    /// By its number.
    Number(u16),
}

/// A Service's port that requests go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The Ingress's namespace, which is the Service's too.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// Its port.
    pub port: PortRef,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Path {
    path: String,
    exact: bool,
    backend: Backend,
}

impl Path {
    /// Prefixes match whole elements: `/foo` matches `/foo` and `/foo/bar`, not `/foobar`.
    fn matches(&self, path: &str) -> bool {
        if self.exact {
            return path == self.path;
        }
        let prefix = self.path.trim_end_matches('/');
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// All rules together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    hosts: BTreeMap<String, Vec<Path>>,
    /// Without their `*`.
    wildcards: BTreeMap<String, Vec<Path>>,
    any: Vec<Path>,
    default: Option<Backend>,
}

impl Routes {
    /// The rules of `ingresses`; where two say the same, the earlier in the list has it.
    pub fn new<'a>(ingresses: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut routes = Self::default();
        for ingress in ingresses {
            let namespace =
                ingress.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
            let spec = &ingress["spec"];
            if routes.default.is_none() {
                routes.default = backend(namespace, &spec["defaultBackend"]);
            }
            for rule in spec["rules"].as_array().into_iter().flatten() {
                let host = rule["host"].as_str().unwrap_or_default().to_ascii_lowercase();
                let paths = match host.strip_prefix('*') {
                    _ if host.is_empty() => &mut routes.any,
                    Some(suffix) => routes.wildcards.entry(suffix.to_owned()).or_default(),
                    None => routes.hosts.entry(host).or_default(),
                };
                for path in rule.pointer("/http/paths").and_then(Value::as_array).into_iter().flatten() {
                    let Some(backend) = backend(namespace, &path["backend"]) else { continue };
                    let exact = path["pathType"] == "Exact";
                    let path = path["path"].as_str().filter(|p| !p.is_empty()).unwrap_or("/").to_owned();
                    paths.push(Path { path, exact, backend });
                }
            }
        }
        routes
    }

    /// The backend of a request. The host is given without its port. Exact hosts come before wildcards, those before
    /// rules without host; exact paths before prefixes, longer ones before shorter ones.
    pub fn route(&self, host: &str, path: &str) -> Option<&Backend> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        // A wildcard stands for exactly one label.
        let wildcard = || host.find('.').and_then(|dot| self.wildcards.get(&host[dot..]));
        let paths = self.hosts.get(&host).or_else(wildcard).unwrap_or(&self.any);
        let mut best: Option<&Path> = None;
        for candidate in paths.iter().filter(|p| p.matches(path)) {
            let rank = |p: &Path| (p.exact, p.path.trim_end_matches('/').len());
            if best.is_none_or(|b| rank(candidate) > rank(b)) {
                best = Some(candidate);
            }
        }
        best.map(|p| &p.backend).or(self.default.as_ref())
    }
}

fn backend(namespace: &str, backend: &Value) -> Option<Backend> {
    let service = backend.pointer("/service/name")?.as_str()?.to_owned();
    let port = backend.pointer("/service/port")?;
    let port = match (port["name"].as_str().filter(|n| !n.is_empty()), port["number"].as_u64()) {
        (Some(name), _) => PortRef::Name(name.to_owned()),
        (None, number) => PortRef::Number(u16::try_from(number?).ok()?),
    };
    Some(Backend { namespace: namespace.to_owned(), service, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ingress(rules: Value) -> Value {
        json!({"metadata": {"namespace": "ns", "name": "i"}, "spec": {"rules": rules}})
    }

    fn paths(list: &[(&str, &str, &str)]) -> Value {
        let one = |(path, kind, service): &(&str, &str, &str)| json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"number": 80}}}});
        json!({"paths": list.iter().map(one).collect::<Vec<_>>()})
    }

    #[test]
    fn hosts_and_paths() {
        let one = ingress(json!([
            {"host": "a.example.com", "http": paths(&[
                ("/", "Prefix", "root"), ("/foo", "Prefix", "foo"), ("/foo/bar/", "Prefix", "bar"),
                ("/foo", "Exact", "exact"), ("/impl", "ImplementationSpecific", "impl"),
            ])},
            {"host": "*.example.com", "http": paths(&[("/", "Prefix", "wild")])},
            {"host": "narrow.example.com", "http": paths(&[("/only", "Prefix", "only")])},
            {"http": paths(&[("/any", "Prefix", "any")])},
        ]));
        let mut two =
            ingress(json!([{"host": "A.example.com", "http": paths(&[("/foo", "Exact", "late")])}]));
        two["spec"]["defaultBackend"] = json!({"service": {"name": "default", "port": {"name": "http"}}});
        let routes = Routes::new([&one, &two]);
        let cases = [
            ("a.example.com", "/", "root"),
            ("A.EXAMPLE.com.", "/x", "root"),
            ("a.example.com", "/foo", "exact"),
            ("a.example.com", "/foo/", "foo"),
            ("a.example.com", "/foobar", "root"),
            ("a.example.com", "/foo/bar", "bar"),
            ("a.example.com", "/foo/bar/baz", "bar"),
            ("a.example.com", "/impl/x", "impl"),
            ("b.example.com", "/", "wild"),
            ("x.y.example.com", "/any", "any"),
            ("example.com", "/any/x", "any"),
            ("narrow.example.com", "/only", "only"),
            ("narrow.example.com", "/else", "default"),
            ("none.org", "/", "default"),
        ];
        for (host, path, expected) in cases {
            assert_eq!(routes.route(host, path).unwrap().service, expected, "{host}{path}");
        }
        assert_eq!(routes.route("none.org", "/").unwrap().port, PortRef::Name("http".into()));
        assert_eq!(Routes::new([&one]).route("none.org", "/"), None);
        assert_eq!(
            Routes::new([&json!({"spec": {"rules": [{"http": {"paths": [{}]}}]}})]).route("", "/"),
            None
        );
    }
}
