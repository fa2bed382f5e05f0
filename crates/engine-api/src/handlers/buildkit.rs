//! `POST /grpc` and `POST /session`: connections that are given away to BuildKit's services, which speak HTTP/2.

use build::SessionHead;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper::upgrade::OnUpgrade;

use crate::body::{self, Answer};
use crate::call::Call;
use crate::{Error, Result, hijack};

/// The answer that gives the connection away.
fn take_over(call: &mut Call) -> Result<(Answer, OnUpgrade)> {
    let asked = call.headers().get(UPGRADE).and_then(|u| u.to_str().ok()).unwrap_or_default();
    if !asked.eq_ignore_ascii_case("h2c") {
        return Err(Error::invalid(format!("this path needs the header \"Upgrade: h2c\", not {asked:?}")));
    }
    let upgrade = hyper::upgrade::on(&mut call.request);
    let mut answer = body::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.clear();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("h2c"));
    Ok((answer, upgrade))
}

/// The client calls us.
pub(crate) async fn grpc(mut call: Call) -> Result<Answer> {
    let (answer, upgrade) = take_over(&mut call)?;
    tokio::spawn(async move {
        if let Some((stream, _)) = hijack::taken(upgrade).await {
            call.builder.serve_grpc(stream).await;
        }
    });
    Ok(answer)
}

/// We call the client.
pub(crate) async fn session(mut call: Call) -> Result<Answer> {
    let text = |name: &str| {
        let value = call.headers().get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let head = SessionHead {
        id: text("x-docker-expose-session-uuid"),
        name: text("x-docker-expose-session-name"),
        shared_key: text("x-docker-expose-session-sharedkey"),
        methods: call
            .headers()
            .get_all("x-docker-expose-session-grpc-method")
            .iter()
            .filter_map(|v| v.to_str().ok().map(ToOwned::to_owned))
            .collect(),
    };
    if head.id.is_empty() {
        return Err(Error::invalid("the header X-Docker-Expose-Session-Uuid must name the session"));
    }
    let (answer, upgrade) = take_over(&mut call)?;
    tokio::spawn(async move {
        if let Some((stream, _)) = hijack::taken(upgrade).await {
            call.builder.serve_session(head, stream).await;
        }
    });
    Ok(answer)
}
