//! Networks.

use engine::model::{NetworkConnect, NetworkCreate, NetworkDisconnect};
use http::StatusCode;

use crate::Result;
use crate::body::{self, Answer};
use crate::call::Call;

pub(crate) async fn list(call: Call) -> Result<Answer> {
    // Before API 1.28 a list had the members.
    Ok(body::ok(&call.engine.network_list(&call.query.filters()?, !call.at_least(1, 28))?))
}

pub(crate) async fn create(call: Call) -> Result<Answer> {
    let engine = call.engine.clone();
    let has_ipv4_switch = call.at_least(1, 48);
    let mut request: NetworkCreate = call.json().await?;
    if !has_ipv4_switch {
        request.enable_ipv4 = None;
    }
    Ok(body::json(StatusCode::CREATED, &engine.network_create(request).await?))
}

pub(crate) async fn inspect(call: Call) -> Result<Answer> {
    let scope = call.query.text("scope").unwrap_or("");
    Ok(body::ok(&call.engine.network_inspect(call.id(), scope)?))
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
