//! Calls of other servers that answer with JSON: webhooks, and servers behind this one that say what they serve.

use api::Value;
use api::meta::text;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use pki::Trust;

use crate::ApiServer;
use crate::body::BoxError;
use crate::pool::{Outgoing, Peer, Pool};

/// The longest answer that is read.
const MAX_ANSWER: usize = 8 << 20;

/// Reads a JSON document of a peer.
pub(crate) async fn fetch(pool: &Pool, peer: &Peer, path: &str, headers: HeaderMap) -> Result<Value, String> {
    let request = || {
        let mut request = Request::get(path)
            .header(header::HOST, format!("{}:{}", peer.host, peer.port))
            .header(header::ACCEPT, "application/json")
            .body(outgoing(Bytes::new()))
            .map_err(|e| e.to_string())?;
        request.headers_mut().extend(headers.clone());
        Ok(request)
    };
    exchange(pool, peer, request, true).await
}

fn outgoing(bytes: Bytes) -> Outgoing {
    Full::new(bytes).map_err(|e| -> BoxError { match e {} }).boxed_unsync()
}

/// One request with a JSON answer. One that may be `repeated` is, when a connection that was kept for it ends instead of
/// answering.
async fn exchange(
    pool: &Pool,
    peer: &Peer,
    request: impl Fn() -> Result<Request<Outgoing>, String>,
    repeated: bool,
) -> Result<Value, String> {
    let (response, lease) = loop {
        match pool.send(peer, request()?).await {
            Ok(answer) => break answer,
            // Each round uses up a connection that was kept, and a new one is the last.
            Err(failed) if failed.reused && repeated => {}
            Err(failed) => return Err(failed.why),
        }
    };
    let code = response.status();
    let limited = Limited::new(response.into_body(), MAX_ANSWER);
    let body = limited.collect().await.map_err(|e| e.to_string())?.to_bytes();
    lease.done();
    if !code.is_success() {
        return Err(format!("the server answered {code}"));
    }
    serde_json::from_slice(&body).map_err(|e| e.to_string())
}

/// The authorities (PEM) in the `caBundle` of an APIService or of the `clientConfig` of a webhook of any kind, if there is one.
/// One that cannot be read is an error: whoever named authorities is not to trust others.
pub(crate) fn ca_bundle(holder: &Value) -> Result<Option<String>, String> {
    let given = match holder.get("caBundle") {
        None | Some(Value::Null) => return Ok(None),
        Some(given) => given.as_str().ok_or("caBundle is not a string")?,
    };
    if given.is_empty() {
        return Ok(None);
    }
    let wrong = |e: &dyn std::fmt::Display| format!("unable to load root certificates of caBundle: {e}");
    let bytes = STANDARD.decode(given).map_err(|e| wrong(&e))?;
    // Between the certificates there may be whatever there is.
    let pem = String::from_utf8_lossy(&bytes).into_owned();
    pki::check_authorities(&pem).map_err(|e| wrong(&e))?;
    Ok(Some(pem))
}

/// Where a webhook listens, and who may answer there.
pub(crate) struct Callback {
    /// The server that is asked.
    pub peer: Peer,
    /// Path and query.
    pub path: String,
    /// The URL that messages name: of a service its name, not the endpoint that was chosen.
    pub shown: String,
}

/// Posts a JSON document to a webhook and reads the JSON answer. `repeated`: asking twice does no harm.
pub(crate) async fn post(
    pool: &Pool,
    to: &Callback,
    document: &Value,
    repeated: bool,
) -> Result<Value, String> {
    let body = Bytes::from(api::object::encode(document));
    let request = || {
        Request::post(&to.path)
            .header(header::HOST, &to.peer.name)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "kube-apiserver")
            .body(outgoing(body.clone()))
            .map_err(|e| e.to_string())
    };
    exchange(pool, &to.peer, request, repeated).await
}

impl ApiServer {
    /// Where a webhook's `clientConfig` leads. Where the configuration names no authority, a service's certificate is signed by
    /// the cluster's, and a URL's by that or by one that the system trusts.
    pub(crate) fn callback(&self, config: &Value, seconds: u64) -> Result<Callback, String> {
        let bundle = ca_bundle(config)?.map(Trust::Only);
        let own = || self.options.pki.ca_pem().to_owned();
        let peer = |host: String, port: u16, name: String, trust: Trust| Peer {
            host,
            port,
            name,
            trust: Some(trust),
            identified: false,
        };
        if let Some(service) = config.get("service").filter(|s| !s.is_null()) {
            let (ns, name) = (text(service, "/namespace"), text(service, "/name"));
            let wanted = service.get("port").and_then(Value::as_i64).unwrap_or(443);
            let path = format!("/{}?timeout={seconds}s", text(service, "/path").trim_start_matches('/'));
            let server = format!("{name}.{ns}.svc");
            let shown = format!("https://{server}:{wanted}{path}");
            let (host, port) = self
                .endpoint_of(ns, name, Some(&wanted.to_string()))
                .map_err(|s| format!("Post \"{shown}\": {}", s.message))?;
            let trust = bundle.unwrap_or_else(|| Trust::Only(own()));
            return Ok(Callback { peer: peer(host, port, server, trust), path, shown });
        }
        let url: http::Uri = text(config, "/url").parse().map_err(|e| format!("clientConfig.url: {e}"))?;
        let host = url.host().ok_or("clientConfig.url has no host")?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let separator = if url.query().is_some() { '&' } else { '?' };
        let path = url.path_and_query().map_or("/", |p| p.as_str());
        let path = format!("{path}{separator}timeout={seconds}s");
        let port = url.port_u16().unwrap_or(443);
        let shown = format!("https://{}{path}", url.authority().map_or("", |a| a.as_str()));
        let trust = bundle.unwrap_or_else(|| Trust::SystemAnd(own()));
        Ok(Callback { peer: peer(host.clone(), port, host, trust), path, shown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bundle_is_read_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pki = pki::Pki::open(dir.path()).unwrap();
        let read = |bundle: Value| ca_bundle(&json!({"caBundle": bundle}));
        assert_eq!(
            (read(Value::Null), read(json!("")), ca_bundle(&json!({}))),
            (Ok(None), Ok(None), Ok(None))
        );
        let commented = [b"J\xfcrgen's\n".as_slice(), pki.ca_pem().as_bytes()].concat();
        for good in [pki.ca_pem().as_bytes(), &commented] {
            assert!(read(json!(STANDARD.encode(good))).unwrap().unwrap().ends_with(pki.ca_pem()));
        }
        let cut = pki.ca_pem().split_at(pki.ca_pem().len() / 2).0;
        let encoded = ["\n", "nobody", cut].map(|text| json!(STANDARD.encode(text)));
        for bad in [json!("%"), json!("a"), json!(7), json!([])].iter().chain(&encoded) {
            let why = read(bad.clone()).unwrap_err();
            assert!(why.contains("caBundle"), "{bad}: {why}");
        }
    }
}
