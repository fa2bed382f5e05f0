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
    // Both builders are served; a client without BuildKit's plugin takes the classic one.
    let builder = if call.engine.settings().prefers_buildkit() { "2" } else { "1" };
    headers.insert("builder-version", HeaderValue::from_static(builder));
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
    let mut usage = call.engine.disk_usage(&types).await?;
    if types.is_empty() || types.iter().any(|t| t == "build-cache") {
        usage["BuildCache"] = build_cache(&call).await?;
    }
    Ok(body::ok(&usage))
}

/// What the build cache holds. A step's files that an image has too are shared: removing the step frees nothing.
async fn build_cache(call: &Call) -> Result<serde_json::Value> {
    let seconds = |s: i64| jiff::Timestamp::from_second(s).unwrap_or_default().to_string();
    let records = call.builder.cache_records().await?;
    let shown = records.iter().map(|r| {
        serde_json::json!({
            "ID": r.id,
            "Type": r.kind.name(),
            "Description": r.description,
            "InUse": r.in_use,
            "Shared": r.shared,
            "Size": r.size,
            "CreatedAt": r.created.to_string(),
            "LastUsedAt": seconds(r.used),
            "UsageCount": r.uses,
        })
    });
    Ok(shown.collect())
}

/// `docker login`: asks the registry whether it takes the credentials.
pub(crate) async fn auth(call: Call) -> Result<Answer> {
    let engine = call.engine.clone();
    let config: AuthConfig = call.json().await?;
    let address = config.serveraddress.clone();
    engine.registry_login(&address, &config.into_auth().unwrap_or_default()).await?;
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

pub(crate) async fn no_such_plugin(call: Call) -> Result<Answer> {
    Err(engine::Error::NotFound(format!("plugin {:?} not found", call.id())).into())
}

pub(crate) async fn plugins_refused(_: Call) -> Result<Answer> {
    Err(engine::Error::NotImplemented(
        "this engine does not install plugins: run the volume or network driver as a service of this machine"
            .into(),
    )
    .into())
}
