//! Which streaming protocol a request asks for, and the 101 answer to it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Response, StatusCode};

use crate::Rejection;

static STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
static ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What carries the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// SPDY/3.1.
    Spdy,
    /// WebSocket.
    WebSocket,
}

/// What was agreed.
#[derive(Debug)]
pub struct Agreement {
    /// What carries the streams.
    pub carrier: Carrier,
    /// The subprotocol; empty if the client named none.
    pub protocol: String,
    /// The answer that switches protocols.
    pub response: Response<()>,
}

/// Whether the request wants to leave HTTP at all.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    tokens(headers, &CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade")) && headers.contains_key(UPGRADE)
}

/// Chooses the first of `spdy` or `websocket` (best first) that the client offers. A client that names none gets `default`.
pub fn agree(
    headers: &HeaderMap,
    spdy: &[&str],
    websocket: &[&str],
    default: &str,
) -> Result<Agreement, Rejection> {
    let refuse = |status, message: String| Err(Rejection { status, message, accepted: spdy.join(",") });
    if !is_upgrade(headers) {
        return refuse(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: missing upgrade headers in request: Connection: Upgrade and Upgrade: SPDY/3.1 or websocket".into(),
        );
    }
    let upgrade: Vec<&str> = tokens(headers, &UPGRADE).collect();
    let (carrier, offered, known, name) = if upgrade.iter().any(|u| u.eq_ignore_ascii_case("websocket")) {
        let offered: Vec<&str> = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
        (Carrier::WebSocket, offered, websocket, &SEC_WEBSOCKET_PROTOCOL)
    } else if upgrade.iter().any(|u| u.eq_ignore_ascii_case("spdy/3.1")) {
        let offered: Vec<&str> = tokens(headers, &STREAM_PROTOCOL).collect();
        (Carrier::Spdy, offered, spdy, &STREAM_PROTOCOL)
    } else {
        return refuse(
            StatusCode::BAD_REQUEST,
            format!("unable to upgrade to {}: want SPDY/3.1 or websocket", upgrade.join(", ")),
        );
    };
    let chosen = known.iter().find(|k| offered.contains(*k)).copied();
    let protocol = match chosen {
        Some(protocol) => protocol,
        None if offered.is_empty() => default,
        None => {
            return refuse(
                StatusCode::FORBIDDEN,
                format!(
                    "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {known:?}"
                ),
            );
        }
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if carrier == Carrier::WebSocket {
        let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
            return refuse(StatusCode::BAD_REQUEST, "unable to upgrade: Sec-WebSocket-Key is missing".into());
        };
        out.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        if let Ok(value) = HeaderValue::from_str(&accept) {
            out.insert(http::header::SEC_WEBSOCKET_ACCEPT, value);
        }
    } else {
        out.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    }
    if chosen.is_some()
        && let Ok(value) = HeaderValue::from_str(protocol)
    {
        out.insert(name, value);
    }
    Ok(Agreement { carrier, protocol: protocol.to_owned(), response })
}

/// The header that tells a refused client what it could have asked for.
pub(crate) fn accepted_header() -> HeaderName {
    ACCEPTED.clone()
}

/// A bearer token sent as a WebSocket subprotocol, for browsers, which can send no Authorization header.
pub fn bearer_token(headers: &HeaderMap) -> Option<String> {
    let encoded = tokens(headers, &SEC_WEBSOCKET_PROTOCOL)
        .find_map(|t| t.strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    let standard: String = encoded.trim_end_matches('=').replace('-', "+").replace('_', "/");
    let padded = format!("{standard}{}", "=".repeat((4 - standard.len() % 4) % 4));
    String::from_utf8(STANDARD.decode(padded).ok()?).ok()
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    const SPDY: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io"];
    const WS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];

    #[test]
    fn chooses_the_best_common_version() {
        let agreed = agree(
            &headers(&[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "SPDY/3.1"),
                ("x-stream-protocol-version", "v3.channel.k8s.io"),
                ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ]),
            SPDY,
            WS,
            "",
        )
        .unwrap();
        assert_eq!((agreed.carrier, agreed.protocol.as_str()), (Carrier::Spdy, "v4.channel.k8s.io"));
        assert_eq!(agreed.response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
        let agreed = agree(
            &headers(&[
                ("connection", "upgrade"),
                ("upgrade", "WebSocket"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-protocol", "x, v5.channel.k8s.io"),
            ]),
            SPDY,
            WS,
            "",
        )
        .unwrap();
        // The key and its answer are RFC 6455's own example.
        assert_eq!(agreed.response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(agreed.protocol, "v5.channel.k8s.io");
    }

    #[test]
    fn refuses_with_a_reason() {
        let table: &[(&[(&'static str, &str)], StatusCode)] = &[
            (&[], StatusCode::BAD_REQUEST),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], StatusCode::BAD_REQUEST),
            (&[("connection", "upgrade"), ("upgrade", "websocket")], StatusCode::BAD_REQUEST),
            (
                &[("connection", "upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v9")],
                StatusCode::FORBIDDEN,
            ),
        ];
        for (list, status) in table {
            assert_eq!(agree(&headers(list), SPDY, WS, "").unwrap_err().status, *status);
        }
    }

    #[test]
    fn tokens_for_browsers() {
        let h = headers(&[(
            "sec-websocket-protocol",
            "base64url.bearer.authorization.k8s.io.aGk, v4.channel.k8s.io",
        )]);
        assert_eq!(bearer_token(&h).as_deref(), Some("hi"));
    }
}
