//! ping, info, version, system df, auth, and what this engine is not: a swarm.

use http::{HeaderValue, Method};

use crate::Result;
use crate::body::{self, Answer};
use crate::call::{AuthConfig, Call};

pub(crate) async fn ping(call: Call) -> Result<Answer> {
    let mut answer = if call.request.method() == Method::HEAD {
        let mut answer = body::text("");
        answer.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        answer
    } else {
        body::text("OK")
    };
    let headers = answer.headers_mut();
    // The classic builder: clients without BuildKit's need no session.
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static("inactive"));
    headers.insert("cache-control", HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert("pragma", HeaderValue::from_static("no-cache"));
    Ok(answer)
}

pub(crate) async fn info(call: Call) -> Result<Answer> {
    Ok(body::ok(&call.engine.info()))
}

pub(crate) async fn version(call: Call) -> Result<Answer> {
    Ok(body::ok(&call.engine.version()))
}

pub(crate) async fn disk_usage(call: Call) -> Result<Answer> {
    let types = call.query.all("type");
    for kind in &types {
        if !["container", "image", "volume", "build-cache"].contains(&kind.as_str()) {
            return Err(crate::Error::invalid(format!("unknown object type: {kind}")));
        }
    }
    Ok(body::ok(&call.engine.disk_usage(&types).await?))
}

/// `docker login`: asks the registry whether it takes the credentials.
pub(crate) async fn auth(call: Call) -> Result<Answer> {
    let config: AuthConfig = call.json().await?;
    let address = config.serveraddress.clone();
    image::registry::login(&address, &config.into_auth().unwrap_or_default()).await?;
    Ok(body::ok(&serde_json::json!({"Status": "Login Succeeded", "IdentityToken": ""})))
}

pub(crate) async fn no_swarm(_: Call) -> Result<Answer> {
    Err(engine::Error::Unavailable(
        "This node is not a swarm manager. This engine has no swarm mode: use Kubernetes, which it has."
            .into(),
    )
    .into())
}

pub(crate) async fn no_plugins(_: Call) -> Result<Answer> {
    Ok(body::ok(&serde_json::json!([])))
}
