//! A container's files: cp, diff, export.

use base64::Engine as _;
use engine::PathStat;
use http::{HeaderValue, StatusCode};

use crate::body::{self, Answer};
use crate::call::Call;
use crate::{Error, Result};

fn path(call: &Call) -> Result<String> {
    let path =
        call.query.text("path").ok_or_else(|| Error::invalid("bad parameter: path cannot be empty"))?;
    Ok(path.to_owned())
}

fn with_stat(mut answer: Answer, stat: &PathStat) -> Result<Answer> {
    let json = serde_json::to_vec(stat).map_err(|e| Error::Body(e.to_string()))?;
    let encoded = base64::engine::general_purpose::STANDARD.encode(json);
    let value = HeaderValue::from_str(&encoded).map_err(|e| Error::Body(e.to_string()))?;
    answer.headers_mut().insert("x-docker-container-path-stat", value);
    Ok(answer)
}

pub(crate) async fn stat(call: Call) -> Result<Answer> {
    let stat = call.engine.path_stat(call.id(), &path(&call)?).await?;
    with_stat(body::empty(StatusCode::OK), &stat)
}

pub(crate) async fn get(call: Call) -> Result<Answer> {
    let (stat, pieces) = call.engine.archive_get(call.id(), &path(&call)?).await?;
    with_stat(body::stream("application/x-tar", body::channel(pieces)), &stat)
}

pub(crate) async fn put(call: Call) -> Result<Answer> {
    let path = path(&call)?;
    let how = engine::Extraction {
        no_overwrite: call.query.flag("noOverwriteDirNonDir"),
        as_user: call.query.flag("copyUIDGID"),
    };
    let (engine, id) = (call.engine.clone(), call.id().to_owned());
    let tar = body::blocking_reader(call.request.into_body());
    engine.archive_put(&id, &path, tar, how).await?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn changes(call: Call) -> Result<Answer> {
    let changes = call.engine.changes(call.id()).await?;
    Ok(body::ok(&if changes.as_array().is_some_and(Vec::is_empty) {
        serde_json::Value::Null
    } else {
        changes
    }))
}

pub(crate) async fn export(call: Call) -> Result<Answer> {
    let pieces = call.engine.export(call.id()).await?;
    Ok(body::stream("application/octet-stream", body::channel(pieces)))
}
