//! Requests that lead on: to a kubelet (logs, exec, attach, port-forward, node proxy), to a pod, or behind a service.
//!
//! A kubelet is spoken to over TLS with the API server's client certificate, and its certificate must be of our authority.
//! Here is what is asked of the caller first; [`target`] finds where the request leads, [`forward`] sends it there.

mod forward;
mod relay;
mod target;

use std::sync::Arc;

use api::{Kind, Status, Value};
use http::{Response, StatusCode, header};
use http_body_util::BodyExt;

pub use forward::Dialer;
pub(crate) use forward::{IDENTITY, Proof, Target, dial};

use self::forward::upgrade_of;
use crate::ApiServer;
use crate::admission::{self, Operation, Progress, Review};
use crate::authz::Attributes;
use crate::body::Body;
use crate::pipeline::Call;
use crate::rewrite::Place;

impl ApiServer {
    /// Answers a request on a connecting subresource.
    pub(crate) async fn connect(&self, call: Call, kind: &Arc<Kind>) -> Result<Response<Body>, Status> {
        let info = call.info.clone();
        let gvr = kind.gvr();
        let (namespace, sub) = (info.namespace.as_str(), info.subresource.as_str());
        let mut options = connect_options(&call)?;
        let mut warnings = Vec::new();
        let at = |v: &api::kinds::Version| v.group == info.group && v.version == info.version;
        let version = kind.versions.iter().position(at).unwrap_or(0);
        let known = kind.versions[version].subresource(sub);
        if sub != "proxy" && !known.is_some_and(|s| s.verbs.contains(&info.verb)) {
            return Err(Status::method_not_supported(&gvr, info.verb));
        }
        // A WebSocket begins with a GET: whoever may only read must not run anything by it.
        let runs = matches!(sub, "exec" | "attach" | "portforward");
        if runs && self.options.release >= api::Release::GET_NEEDS_CREATE {
            self.require(&Attributes { verb: "create", ..Attributes::of(&call.user, &info) })?;
        }
        let mut review = Review {
            server: self,
            user: &call.user,
            kind,
            gvr: &gvr,
            version,
            converter: None,
            subresource: sub,
            operation: Operation::Connect,
            namespace,
            name: &info.name,
            object: &mut options,
            old: None,
            dry_run: false,
            options: Value::Null,
            warnings: &mut warnings,
            progress: Progress::default(),
        };
        // A log is read; the others are connections, whose options admission may change.
        if sub != "log" {
            admission::mutate(&self.admission, &mut review).await?;
            admission::validate(&self.admission, &mut review).await.map(drop)?;
        }
        let safe = matches!(*call.request.method(), http::Method::GET | http::Method::HEAD);
        if sub == "proxy"
            && info.rest.is_empty()
            && !info.path.ends_with('/')
            && safe
            && upgrade_of(call.request.headers()).is_none()
        {
            // A page's relative links lead inside it only if its path ends with a slash.
            let query = call.request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            if let Ok(to) = header::HeaderValue::from_str(&format!("{}/{query}", info.path)) {
                response.headers_mut().insert(header::LOCATION, to);
            }
            return Ok(response);
        }
        let target = match (gvr.resource.as_ref(), sub) {
            ("pods", "proxy") => self.pod_target(&call)?,
            ("pods", _) => self.container_target(&call, &options)?,
            ("services", "proxy") => self.service_target(&call)?,
            ("nodes", "proxy") => self.node_target(&call)?,
            _ => return Err(Status::no_such_path()),
        };
        if sub == "log" {
            let response = self.forward(call, target).await?;
            return if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) };
        }
        if sub != "proxy" {
            return self.forward(call, target).await;
        }
        let place = place_of(&call, &target);
        // What is compressed cannot be looked into.
        let mut call = call;
        call.request.headers_mut().remove(header::ACCEPT_ENCODING);
        let mut response = self.forward(call, target).await?;
        let headers = response.headers_mut();
        if let Some(to) = headers.get(header::LOCATION).and_then(|v| v.to_str().ok())
            && let Ok(to) = header::HeaderValue::from_str(&place.url(to))
        {
            headers.insert(header::LOCATION, to);
        }
        let of = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
        let page = of(header::CONTENT_TYPE).trim_start().starts_with("text/html");
        if page
            && of(header::CONTENT_ENCODING).is_empty()
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            return Ok(rewritten(response, &place).await);
        }
        Ok(response)
    }
}

/// How much of what a kubelet says instead of a log is passed on.
const MAX_REFUSAL: usize = 64 << 10;

/// What a kubelet says in plain text instead of a log, as clients of this server are told.
async fn refusal(response: Response<Body>) -> Status {
    let (parts, body) = response.into_parts();
    let text = match http_body_util::Limited::new(body, MAX_REFUSAL).collect().await {
        Ok(text) => String::from_utf8_lossy(&text.to_bytes()).trim().to_owned(),
        Err(e) => format!("the kubelet's answer could not be read: {e}"),
    };
    match parts.status {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
        StatusCode::NOT_FOUND => Status::failure(404, "NotFound", text),
        other => Status::failure(other.as_u16(), "", text),
    }
}

/// Larger pages are passed on as they are.
const MAX_PAGE: usize = 8 << 20;

/// Where what is behind a proxy is, for its clients and for us.
fn place_of(call: &Call, target: &Target) -> Place {
    let path = call.request.uri().path();
    let prefix = path.strip_suffix(call.info.rest.as_str()).unwrap_or(path).trim_end_matches('/');
    let mut hosts = vec![format!("{}:{}", target.host, target.port), target.host.clone()];
    hosts.extend(call.request.uri().authority().map(ToString::to_string));
    hosts.push(call.header("host").to_owned());
    hosts.retain(|h| !h.is_empty());
    Place { prefix: prefix.to_owned(), hosts }
}

/// The page with its links changed.
async fn rewritten(response: Response<Body>, place: &Place) -> Response<Body> {
    let (mut parts, mut body) = response.into_parts();
    let mut page = Vec::new();
    while page.len() <= MAX_PAGE {
        match body.frame().await {
            Some(Ok(frame)) => page.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(e)) => {
                let broken = futures::stream::iter([Ok(bytes::Bytes::from(page)), Err(e)]);
                return Response::from_parts(parts, Body::Stream(Box::pin(broken)));
            }
            None => {
                let page = match String::from_utf8(page) {
                    Ok(text) => place.html(&text).into_bytes(),
                    Err(other) => other.into_bytes(),
                };
                parts.headers.remove(header::CONTENT_LENGTH);
                return Response::from_parts(parts, Body::from(page));
            }
        }
    }
    let rest = futures::StreamExt::chain(
        futures::stream::iter([Ok(bytes::Bytes::from(page))]),
        body.into_data_stream(),
    );
    Response::from_parts(parts, Body::Stream(Box::pin(rest)))
}

/// What is asked for, as the object that admission sees.
fn connect_options(call: &Call) -> Result<Value, Status> {
    let (info, query) = (&call.info, &call.query);
    let of = match info.resource.as_str() {
        "pods" => "Pod",
        "services" => "Service",
        _ => "Node",
    };
    let kind = match info.subresource.as_str() {
        "exec" => "Exec",
        "attach" => "Attach",
        "portforward" => "PortForward",
        "log" => "Log",
        _ => "Proxy",
    };
    let mut options = serde_json::json!({"kind": format!("{of}{kind}Options"), "apiVersion": "v1"});
    if let Some(container) = query.some("container").filter(|_| matches!(kind, "Exec" | "Attach" | "Log")) {
        options["container"] = container.into();
    }
    match kind {
        "Exec" | "Attach" => {
            for name in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|n| query.flag(n)) {
                options[name] = true.into();
            }
            let command: Vec<&str> = query.all("command").collect();
            if !command.is_empty() {
                options["command"] = command.into();
            }
        }
        "PortForward" => {
            let ports = query.all("ports").filter(|p| !p.is_empty()).flat_map(|p| p.split(','));
            let ports = ports.map(|p| {
                p.parse::<i32>().map_err(|_| {
                    Status::bad_request(format!("strconv.ParseInt: parsing {p:?}: invalid syntax"))
                })
            });
            let ports: Vec<i32> = ports.collect::<Result<_, _>>()?;
            if !ports.is_empty() {
                options["ports"] = ports.into();
            }
        }
        "Proxy" if !call.info.rest.is_empty() || call.info.path.ends_with('/') => {
            options["path"] = crate::path::proxied(&call.info.rest).into();
        }
        _ => {}
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Payload;
    use http::Request;
    use serde_json::json;

    fn call(uri: &str) -> Call {
        let request = Request::get(uri).header("host", "server:6443");
        let request = request.body(Payload::Bytes(bytes::Bytes::new())).unwrap();
        let (_, info) = crate::path::RequestInfo::parse(request.method(), request.uri().path(), false);
        let query = crate::query::Query::parse(request.uri().query());
        Call { user: Arc::new(crate::UserInfo::master("a")), info, query, request }
    }

    #[test]
    fn admission_sees_what_a_connection_asks_for() {
        for (uri, want) in [
            (
                "/api/v1/namespaces/n/pods/p/attach?stdin=true&container=c&tty=false",
                json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": true, "container": "c"}),
            ),
            (
                "/api/v1/namespaces/n/pods/p/exec?command=ls&command=-l&stdout=1",
                json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdout": true, "command": ["ls", "-l"]}),
            ),
            (
                "/api/v1/namespaces/n/pods/p/portforward?ports=80,81&ports=82",
                json!({"kind": "PodPortForwardOptions", "apiVersion": "v1", "ports": [80, 81, 82]}),
            ),
            (
                "/api/v1/namespaces/n/services/s/proxy/x/y",
                json!({"kind": "ServiceProxyOptions", "apiVersion": "v1", "path": "/x/y"}),
            ),
        ] {
            assert_eq!(connect_options(&call(uri)).unwrap(), want, "{uri}");
        }
        let bad = call("/api/v1/namespaces/n/pods/p/portforward?ports=80,web");
        assert_eq!(connect_options(&bad).unwrap_err().code, 400);
    }

    #[test]
    fn pages_are_placed_behind_their_proxy() {
        let target = Target::new("10.0.0.1".into(), 80, Proof::Plain, "/x".into());
        for uri in [
            "/api/v1/namespaces/proxy-1/pods/p/proxy/",
            "/api/v1/namespaces/proxy-1/pods/p/proxy/a/proxy/b",
            "/api/v1/namespaces/proxy-1/pods/p/proxy/a/",
        ] {
            let place = place_of(&call(uri), &target);
            assert_eq!(place.prefix, "/api/v1/namespaces/proxy-1/pods/p/proxy", "{uri}");
            assert_eq!(place.hosts, ["10.0.0.1:80", "10.0.0.1", "server:6443"]);
        }
    }
}
