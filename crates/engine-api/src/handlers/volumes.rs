//! Volumes.

use engine::model::VolumeCreate;
use http::StatusCode;

use crate::Result;
use crate::body::{self, Answer};
use crate::call::Call;

pub(crate) async fn list(call: Call) -> Result<Answer> {
    Ok(body::ok(&call.engine.volume_list(&call.query.filters()?).await?))
}

pub(crate) async fn create(call: Call) -> Result<Answer> {
    let engine = call.engine.clone();
    let request: VolumeCreate = call.json().await?;
    Ok(body::json(StatusCode::CREATED, &engine.volume_create(request).await?))
}

pub(crate) async fn inspect(call: Call) -> Result<Answer> {
    Ok(body::ok(&call.engine.volume_inspect(call.id()).await?))
}

pub(crate) async fn remove(call: Call) -> Result<Answer> {
    call.engine.volume_remove(call.id(), call.query.flag("force")).await?;
    Ok(body::no_content())
}

pub(crate) async fn prune(call: Call) -> Result<Answer> {
    let mut filters = call.query.filters()?;
    // Before API 1.42 a prune took named volumes too.
    if !call.at_least(1, 42) && filters.get("all").is_empty() {
        filters = filters.with("all", "true");
    }
    Ok(body::ok(&call.engine.volume_prune(&filters).await?))
}
