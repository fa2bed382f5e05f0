//! Calls of other servers that answer with JSON: webhooks, and servers behind this one that say what they serve.

use std::sync::Arc;

use api::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;

use crate::ApiServer;
use crate::proxy::{Proof, Stream, dial};

/// The longest answer that is read.
const MAX_ANSWER: usize = 8 << 20;

fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// Reads a JSON document of a peer.
pub(crate) async fn fetch(
    host: &str,
    port: u16,
    proof: &Proof,
    path: &str,
    headers: HeaderMap,
) -> Result<Value, String> {
    let tls = match proof {
        Proof::Named(connector, name) => Some((connector, name.as_str())),
        _ => None,
    };
    let stream = dial(host, port, tls).await.map_err(|e| e.to_string())?;
    let mut request = Request::get(path)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::ACCEPT, "application/json")
        .body(Full::new(bytes::Bytes::new()))
        .map_err(|e| e.to_string())?;
    request.headers_mut().extend(headers);
    exchange(stream, request).await
}

/// One request with a JSON answer.
async fn exchange(stream: Box<dyn Stream>, request: Request<Full<bytes::Bytes>>) -> Result<Value, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let code = response.status();
    let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    let body = limited.collect().await.map_err(|e| e.to_string())?.to_bytes();
    if !code.is_success() {
        return Err(format!("the server answered {code}"));
    }
    serde_json::from_slice(&body).map_err(|e| e.to_string())
}

/// Where a webhook listens, and who may answer there.
pub(crate) struct Callback {
    /// Address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// The name its certificate must bear.
    pub name: String,
    /// The authorities that may have signed it, PEM.
    pub authority: String,
    /// The URL that messages name: of a service its name, not the endpoint that was chosen.
    pub shown: String,
}

/// Posts a JSON document to a webhook and reads the JSON answer.
pub(crate) async fn post(to: &Callback, document: &Value) -> Result<Value, String> {
    let config = pki::client_config(&to.authority, None).map_err(|e| e.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = dial(&to.host, to.port, Some((&connector, &to.name))).await.map_err(|e| e.to_string())?;
    let request = Request::post(&to.path)
        .header(header::HOST, &to.name)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "kube-apiserver")
        .body(Full::new(bytes::Bytes::from(api::object::encode(document))))
        .map_err(|e| e.to_string())?;
    exchange(stream, request).await
}

impl ApiServer {
    /// Where a webhook's `clientConfig` leads. What a service's certificate is signed by is the cluster's authority if the
    /// configuration names no other.
    pub(crate) fn callback(&self, config: &Value, seconds: u64) -> Result<Callback, String> {
        let bundle = STANDARD.decode(text(config, "/caBundle")).ok().and_then(|b| String::from_utf8(b).ok());
        let authority =
            bundle.filter(|b| !b.is_empty()).unwrap_or_else(|| self.options.pki.ca_pem().to_owned());
        if let Some(service) = config.get("service").filter(|s| !s.is_null()) {
            let (ns, name) = (text(service, "/namespace"), text(service, "/name"));
            let wanted = service.get("port").and_then(Value::as_i64).unwrap_or(443);
            let path = format!("/{}?timeout={seconds}s", text(service, "/path").trim_start_matches('/'));
            let server = format!("{name}.{ns}.svc");
            let shown = format!("https://{server}:{wanted}{path}");
            let (host, port) = self
                .endpoint_of(ns, name, Some(&wanted.to_string()))
                .map_err(|s| format!("Post \"{shown}\": {}", s.message))?;
            return Ok(Callback { host, port, path, name: server, authority, shown });
        }
        let url: http::Uri = text(config, "/url").parse().map_err(|e| format!("clientConfig.url: {e}"))?;
        let host = url.host().ok_or("clientConfig.url has no host")?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let separator = if url.query().is_some() { '&' } else { '?' };
        let path = url.path_and_query().map_or("/", |p| p.as_str());
        let path = format!("{path}{separator}timeout={seconds}s");
        let port = url.port_u16().unwrap_or(443);
        let shown = format!("https://{}{path}", url.authority().map_or("", |a| a.as_str()));
        Ok(Callback { port, path, name: host.clone(), host, authority, shown })
    }
}
