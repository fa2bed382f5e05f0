//! Containers: everything with a short answer.

use engine::model::{CreateBody, UpdateBody};
use engine::{Error as EngineError, ListOptions};
use http::StatusCode;
use serde_json::json;

use crate::body::{self, Answer};
use crate::call::Call;
use crate::{Error, Result, compat};

pub(crate) async fn list(call: Call) -> Result<Answer> {
    let q = &call.query;
    let mut filters = q.filters()?;
    // Older clients have `since` and `before` beside the filters.
    for key in ["since", "before"] {
        if let Some(value) = q.text(key) {
            filters = filters.with(key, value);
        }
    }
    let limit: Option<i64> = q.number("limit")?;
    let options = ListOptions {
        all: q.flag("all"),
        limit: limit.and_then(|l| usize::try_from(l).ok()).filter(|l| *l > 0),
        size: q.flag("size"),
        filters,
    };
    let mut lines = call.engine.list(&options).await?;
    compat::list(call.version, &mut lines);
    Ok(body::ok(&lines))
}

pub(crate) async fn create(call: Call) -> Result<Answer> {
    let name = call.query.text("name").map(str::to_owned);
    let platform = match call.query.text("platform").filter(|_| call.at_least(1, 41)) {
        Some(platform) => Some(image::Platform::parse(platform)?),
        None => None,
    };
    let (engine, version) = (call.engine.clone(), call.version);
    let Some(mut request) = call.document::<CreateBody>().await? else {
        return Err(Error::invalid("invalid JSON: got EOF while reading request body"));
    };
    let warnings = compat::create(version, &mut request)?;
    let mut created = engine.create(name.as_deref(), request, platform).await?;
    created.warnings.extend(warnings);
    Ok(body::json(StatusCode::CREATED, &json!({"Id": created.id, "Warnings": created.warnings})))
}

pub(crate) async fn inspect(call: Call) -> Result<Answer> {
    let mut document = call.engine.inspect(call.id(), call.query.flag("size")).await?;
    compat::inspect(call.version, &mut document);
    Ok(body::ok(&document))
}

pub(crate) async fn top(call: Call) -> Result<Answer> {
    Ok(body::ok(&call.engine.top(call.id(), call.query.text("ps_args").unwrap_or("")).await?))
}

/// A terminal's size from the query.
pub(crate) fn size(call: &Call) -> Result<(u16, u16)> {
    let number = |key: &str| -> Result<u16> {
        call.query
            .number(key)?
            .ok_or_else(|| Error::invalid(format!("invalid resize height or width: {key} is missing")))
    };
    Ok((number("h")?, number("w")?))
}

pub(crate) async fn resize(call: Call) -> Result<Answer> {
    let (rows, columns) = size(&call)?;
    call.engine.resize(call.id(), rows, columns).await?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn start(call: Call) -> Result<Answer> {
    // More than `null` or `{}`: the host configuration that starts had until API 1.24.
    let length = call.headers().get(http::header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse().ok());
    if length.is_some_and(|l: u64| l > 7) || call.headers().contains_key(http::header::TRANSFER_ENCODING) {
        return Err(Error::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    if call.query.text("checkpoint").is_some() {
        return Err(Error::invalid("checkpoint is only supported in experimental mode"));
    }
    call.engine.start(call.id()).await?;
    Ok(body::no_content())
}

/// The signal to stop with, which a request can name since API 1.42.
fn stop_signal(call: &Call) -> Option<&str> {
    call.query.text("signal").filter(|_| call.at_least(1, 42))
}

pub(crate) async fn stop(call: Call) -> Result<Answer> {
    call.engine.stop(call.id(), stop_signal(&call), call.query.number("t")?).await?;
    Ok(body::no_content())
}

pub(crate) async fn restart(call: Call) -> Result<Answer> {
    call.engine.restart(call.id(), stop_signal(&call), call.query.number("t")?).await?;
    Ok(body::no_content())
}

pub(crate) async fn kill(call: Call) -> Result<Answer> {
    call.engine.kill(call.id(), call.query.text("signal")).await?;
    Ok(body::no_content())
}

pub(crate) async fn update(call: Call) -> Result<Answer> {
    let (engine, id) = (call.engine.clone(), call.id().to_owned());
    let since_pids = call.at_least(1, 40);
    let mut request: UpdateBody = call.json().await?;
    request.pids_limit = request.pids_limit.filter(|_| since_pids);
    Ok(body::ok(&engine.update(&id, request).await?))
}

pub(crate) async fn rename(call: Call) -> Result<Answer> {
    call.engine.rename(call.id(), call.query.text("name").unwrap_or("")).await?;
    Ok(body::no_content())
}

pub(crate) async fn pause(call: Call) -> Result<Answer> {
    call.engine.pause(call.id()).await?;
    Ok(body::no_content())
}

pub(crate) async fn unpause(call: Call) -> Result<Answer> {
    call.engine.unpause(call.id()).await?;
    Ok(body::no_content())
}

pub(crate) async fn remove(call: Call) -> Result<Answer> {
    let q = &call.query;
    match call.engine.remove(call.id(), q.flag("force"), q.flag("v"), q.flag("link")).await {
        Err(e @ EngineError::NotModified(_)) => Err(e.into()),
        other => Ok(other.map(|()| body::no_content())?),
    }
}

/// `docker rm --link container/alias`.
pub(crate) async fn remove_link(call: Call) -> Result<Answer> {
    if !call.query.flag("link") {
        return Err(EngineError::NotFound("page not found".into()).into());
    }
    call.engine.remove(&call.params.join("/"), false, false, true).await?;
    Ok(body::no_content())
}

pub(crate) async fn prune(call: Call) -> Result<Answer> {
    Ok(body::ok(&call.engine.prune(&call.query.filters()?).await?))
}
