//! Networks.

use engine::model::{NetworkConnect, NetworkCreate, NetworkDisconnect};
use http::StatusCode;

use crate::Result;
use crate::body::{self, Answer};
use crate::call::Call;

pub(crate) async fn list(call: Call) -> Result<Answer> {
    Ok(body::ok(&call.engine.network_list(&call.query.filters()?)?))
}

pub(crate) async fn create(call: Call) -> Result<Answer> {
    let engine = call.engine.clone();
    let request: NetworkCreate = call.json().await?;
    Ok(body::json(StatusCode::CREATED, &engine.network_create(request).await?))
}

pub(crate) async fn inspect(call: Call) -> Result<Answer> {
    Ok(body::ok(&call.engine.network_inspect(call.id())?))
}

pub(crate) async fn remove(call: Call) -> Result<Answer> {
    call.engine.network_remove(call.id()).await?;
    Ok(body::no_content())
}

pub(crate) async fn connect(call: Call) -> Result<Answer> {
    let (engine, id) = (call.engine.clone(), call.id().to_owned());
    let request: NetworkConnect = call.json().await?;
    engine.network_connect(&id, request).await?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn disconnect(call: Call) -> Result<Answer> {
    let (engine, id) = (call.engine.clone(), call.id().to_owned());
    let request: NetworkDisconnect = call.json().await?;
    engine.network_disconnect(&id, &request.container, request.force).await?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn prune(call: Call) -> Result<Answer> {
    Ok(body::ok(&call.engine.network_prune(&call.query.filters()?).await?))
}
