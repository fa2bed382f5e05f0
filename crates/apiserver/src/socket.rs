//! Watches and logs over WebSocket, for browsers: each piece of the answer is one message.

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use remotecommand::negotiate::{self, Agreement, Carrier};
use remotecommand::websocket::{Form, send_pieces};

use api::Status;

use crate::body::Body;
use crate::path::RequestInfo;
use crate::pipeline::Payload;

/// The subprotocols; a client that names none gets binary messages of a log, text of a watch.
const PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];
/// A token for the server, in the only header that a browser lets a page set.
const TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// A connection that is to become a WebSocket.
pub(crate) struct Socket {
    upgrade: OnUpgrade,
    agreement: Agreement,
    form: Form,
}

/// What of the request asks for a WebSocket, if it is one that is answered by a stream. The request is an ordinary one
/// afterwards.
pub(crate) fn asked(request: &mut Request<Payload>, info: &RequestInfo) -> Result<Option<Socket>, Status> {
    let log = info.resource == "pods" && info.subresource == "log" && info.verb == "get";
    if !(log || info.verb == "watch") || !negotiate::is_upgrade(request.headers()) {
        return Ok(None);
    }
    let agreement = negotiate::agree(&without_token(request.headers()), &[], &PROTOCOLS, "")
        .map_err(|r| Status::failure(r.status.as_u16(), "BadRequest", r.message))?;
    if agreement.carrier != Carrier::WebSocket {
        return Err(Status::bad_request("unable to upgrade: a stream is to be had over websocket only"));
    }
    let form = match agreement.protocol.as_str() {
        "base64.binary.k8s.io" => Form::Base64,
        "binary.k8s.io" => Form::Binary,
        _ if log => Form::Binary,
        _ => Form::Text,
    };
    let upgrade = hyper::upgrade::on(&mut *request);
    for name in [header::CONNECTION, header::UPGRADE] {
        request.headers_mut().remove(name);
    }
    Ok(Some(Socket { upgrade, agreement, form }))
}

fn without_token(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    let offered: Vec<String> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|p| p.trim().to_owned())
        .filter(|p| !p.starts_with(TOKEN))
        .collect();
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Ok(value) = offered.join(",").parse()
        && !offered.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    headers
}

impl Socket {
    /// Sends an answer over the WebSocket; one that is no success stays what it is.
    pub(crate) fn carry(self, response: Response<Body>) -> Response<Body> {
        if response.status() != StatusCode::OK {
            return response;
        }
        let pieces = response.into_body().into_data_stream();
        // What breaks a stream off ends it, as it does without a WebSocket.
        let pieces = pieces.take_while(|p| std::future::ready(p.is_ok()));
        let pieces = pieces.filter_map(|p| std::future::ready(p.ok().filter(|p: &Bytes| !p.is_empty())));
        let (upgrade, form) = (self.upgrade, self.form);
        tokio::spawn(async move {
            match upgrade.await {
                Ok(io) => send_pieces(TokioIo::new(io), std::pin::pin!(pieces), form).await,
                Err(error) => tracing::debug!(%error, "the connection did not become a WebSocket"),
            }
        });
        self.agreement.response.map(|()| Body::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    /// A watch, log or read that wants to be a WebSocket with these subprotocols.
    fn ask(path: &str, watch: bool, protocols: &str) -> Result<Option<(Form, bool)>, Status> {
        let mut request = Request::get(path)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        if !protocols.is_empty() {
            request = request.header("sec-websocket-protocol", protocols);
        }
        let mut request = request.body(Payload::Bytes(Bytes::new())).unwrap();
        let (_, info) = RequestInfo::parse(&Method::GET, path, watch);
        let socket = asked(&mut request, &info)?;
        let plain = !negotiate::is_upgrade(request.headers());
        Ok(socket.map(|s| (s.form, plain)))
    }

    #[test]
    fn what_streams_can_be_a_websocket() {
        let log = "/api/v1/namespaces/n/pods/p/log";
        let token = "base64url.bearer.authorization.k8s.io.dA";
        for (path, watch, protocols, want) in [
            ("/api/v1/pods", true, "", Some((Form::Text, true))),
            ("/api/v1/pods", true, "base64.binary.k8s.io", Some((Form::Base64, true))),
            (log, false, "", Some((Form::Binary, true))),
            (log, false, &format!("{token}, binary.k8s.io"), Some((Form::Binary, true))),
            (log, false, token, Some((Form::Binary, true))),
            ("/api/v1/pods", false, "", None),
            ("/api/v1/namespaces/n/pods/p/exec", false, "v4.channel.k8s.io", None),
        ] {
            assert_eq!(ask(path, watch, protocols).unwrap(), want, "{path} {protocols}");
        }
        assert_eq!(ask(log, false, "v9.other").unwrap_err().code, 403);
    }

    #[test]
    fn a_refusal_stays_what_it_is() {
        let mut request = Request::get("/api/v1/pods")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(Payload::Bytes(Bytes::new()))
            .unwrap();
        let (_, info) = RequestInfo::parse(&Method::GET, "/api/v1/pods", true);
        let socket = asked(&mut request, &info).unwrap().unwrap();
        let mut refused = Response::new(Body::default());
        *refused.status_mut() = StatusCode::FORBIDDEN;
        assert_eq!(socket.carry(refused).status(), StatusCode::FORBIDDEN);
    }
}
