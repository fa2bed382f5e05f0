//! What a request is about: group, version, resource, namespace, name, subresource and verb, read from method and
//! path alone, as upstream's RequestInfo does. Pure; knows nothing of which resources exist.

use http::Method;

/// The parts of a request's path and its verb; what authorization looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether this is a request for an API resource; otherwise only `path` and `verb` matter.
    pub is_resource: bool,
    /// The whole path, decoded.
    pub path: String,
    /// get, list, watch, create, update, patch, delete, deletecollection; for other paths the method in lower case.
    pub verb: &'static str,
    /// The API group, empty for the core group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The namespace, empty for none.
    pub namespace: String,
    /// The resource's plural name.
    pub resource: String,
    /// The subresource, empty for none.
    pub subresource: String,
    /// The object's name, empty for a collection.
    pub name: String,
    /// What follows the subresource, as it was sent, without its first slash (the rest of a proxied path: see [`proxied`]).
    pub rest: String,
    /// The field selector, of the query, of what reads or deletes many: authorization may go by it.
    pub fields: String,
}

/// What the path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// An API resource.
    Resource,
    /// `/api`
    Versions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group,
    /// `/api/VERSION` or `/apis/GROUP/VERSION`
    Version,
    /// Everything else.
    Other,
}

fn decode(s: &str) -> String {
    percent_encoding::percent_decode_str(s).decode_utf8_lossy().into_owned()
}

/// What stands for itself in a path, as Go's `net/url` writes one: the rest is escaped.
const IN_PATH: percent_encoding::AsciiSet = percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// The path under which a proxied request leads on, from what follows `proxy` in its own: an escaped slash separates like any
/// other (many clients escape the whole of it), and nothing leads above the root.
pub fn proxied(rest: &str) -> String {
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(rest).collect();
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in decoded.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            part => kept.push(part),
        }
    }
    let mut path = String::new();
    for part in &kept {
        path.push('/');
        path.extend(percent_encoding::percent_encode(part, &IN_PATH));
    }
    if path.is_empty() || decoded.ends_with(b"/") {
        path.push('/');
    }
    path
}

/// Whether every `%` of a path begins an escape.
pub fn is_escaped(path: &str) -> bool {
    path.split('%')
        .skip(1)
        .all(|after| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}

fn plain_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "unknown",
    }
}

/// Namespace subresources: what may follow `/namespaces/NAME/` without being a resource inside it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads method and path; `watch` says whether the query asks for a watch.
    pub fn parse(method: &Method, raw_path: &str, watch: bool) -> (Route, Self) {
        let mut info = Self { path: decode(raw_path), verb: plain_verb(method), ..Self::default() };
        let raw: Vec<&str> = raw_path.trim_matches('/').split('/').collect();
        let parts: Vec<String> = raw.iter().map(|p| decode(p)).collect();
        let rest = match parts[0].as_str() {
            "api" => {
                if parts.len() == 1 {
                    return (Route::Versions, info);
                }
                info.version = parts[1].clone();
                2
            }
            "apis" => {
                if parts.len() == 1 {
                    return (Route::Groups, info);
                }
                info.group = parts[1].clone();
                if parts.len() == 2 {
                    return (Route::Group, info);
                }
                info.version = parts[2].clone();
                3
            }
            _ => return (Route::Other, info),
        };
        let mut at = rest;
        if parts.len() == at {
            return (Route::Version, info);
        }
        let by_path = parts[at] == "watch" && parts.len() > at + 1;
        if by_path {
            at += 1;
        }
        let watch = watch || by_path;
        info.is_resource = true;
        if parts[at] == "namespaces" && parts.len() > at + 1 {
            info.namespace = parts[at + 1].clone();
            if parts.len() > at + 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[at + 2].as_str()) {
                at += 2;
            }
        }
        info.resource = parts[at].clone();
        info.name = parts.get(at + 1).cloned().unwrap_or_default();
        info.subresource = parts.get(at + 2).cloned().unwrap_or_default();
        if raw.len() > at + 3 {
            info.rest = raw[at + 3..].join("/");
        }
        if !info.rest.is_empty() || info.subresource == "proxy" {
            // A trailing slash is part of a proxied path.
            if raw_path.ends_with('/') && !info.rest.is_empty() {
                info.rest.push('/');
            }
        }
        info.verb = match *method {
            Method::GET | Method::HEAD => match (watch, info.name.is_empty()) {
                (true, true) => "watch",
                (false, true) => "list",
                // Of one object the query asks in vain: only a path can.
                _ if by_path && info.subresource.is_empty() => "watch",
                _ => "get",
            },
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if info.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ => plain_verb(method),
        };
        (Route::Resource, info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, path: &str) -> String {
        let (route, i) = RequestInfo::parse(&method, path, false);
        format!(
            "{route:?} {} g={} v={} ns={} r={} n={} s={} rest={}",
            i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource, i.rest
        )
    }

    #[test]
    fn what_is_proxied_is_escaped_as_go_does() {
        for (rest, want) in [
            ("", "/"),
            ("stats/summary", "/stats/summary"),
            ("stats%2Fsummary", "/stats/summary"),
            ("a/b%2F", "/a/b/"),
            ("a//b/./c", "/a/b/c"),
            ("a/..%2f../b", "/b"),
            ("%2e%2e/", "/"),
            ("a%20b%3Fc%23d%25e", "/a%20b%3Fc%23d%25e"),
            ("%ff(x)*'!", "/%FF%28x%29%2A%27%21"),
            ("a:b@c;d=e,f&g+h$i~", "/a:b@c;d=e,f&g+h$i~"),
        ] {
            assert_eq!(proxied(rest), want, "{rest}");
        }
    }

    #[test]
    fn only_collections_are_watched_by_query() {
        let verb = |path: &str| RequestInfo::parse(&Method::GET, path, true).1.verb;
        assert_eq!(verb("/api/v1/pods"), "watch");
        assert_eq!(verb("/api/v1/namespaces/a/secrets"), "watch");
        assert_eq!(verb("/api/v1/namespaces/a/secrets/s"), "get");
        assert_eq!(verb("/api/v1/namespaces/a/pods/p/log"), "get");
        assert_eq!(verb("/api/v1/watch/namespaces/a/pods/p"), "watch");
    }

    #[test]
    fn escapes() {
        for (path, want) in
            [("/a/%2F%c3%a9", true), ("/a", true), ("/%zz", false), ("/a%2", false), ("/%", false)]
        {
            assert_eq!(is_escaped(path), want, "{path}");
        }
    }

    #[test]
    fn paths() {
        for (method, path, want) in [
            (Method::GET, "/api", "Versions get g= v= ns= r= n= s= rest="),
            (Method::GET, "/apis/apps", "Group get g=apps v= ns= r= n= s= rest="),
            (Method::GET, "/apis/apps/v1", "Version get g=apps v=v1 ns= r= n= s= rest="),
            (Method::GET, "/api/v1/pods", "Resource list g= v=v1 ns= r=pods n= s= rest="),
            (Method::GET, "/api/v1/watch/pods", "Resource watch g= v=v1 ns= r=pods n= s= rest="),
            (Method::POST, "/api/v1/namespaces/a/pods", "Resource create g= v=v1 ns=a r=pods n= s= rest="),
            (Method::GET, "/api/v1/namespaces/a", "Resource get g= v=v1 ns=a r=namespaces n=a s= rest="),
            (
                Method::PUT,
                "/api/v1/namespaces/a/finalize",
                "Resource update g= v=v1 ns=a r=namespaces n=a s=finalize rest=",
            ),
            (Method::DELETE, "/api/v1/nodes", "Resource deletecollection g= v=v1 ns= r=nodes n= s= rest="),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods/p/proxy/x/y%2Fz/",
                "Resource get g= v=v1 ns=a r=pods n=p s=proxy rest=x/y%2Fz/",
            ),
            (Method::GET, "/healthz", "Other get g= v= ns= r= n= s= rest="),
        ] {
            assert_eq!(info(method, path), want, "{path}");
        }
    }
}
