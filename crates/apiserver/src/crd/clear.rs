//! The end of a definition: its objects go first.

use std::sync::Arc;

use api::kinds::CLEANUP;
use api::kinds::crd::outline;
use api::object::Encoded;
use api::{Kind, Object, Status, Value};
use tokio_util::sync::CancellationToken;

use super::kind::kind_of;
use super::status::set_condition;
use super::{AGAIN, write};
use crate::ApiServer;
use crate::registry::{Context, DeleteOptions};
use crate::user::UserInfo;

/// Deletes a definition's objects, waits until they are gone, and lets the definition go; whatever fails is tried again.
pub(super) async fn clear(server: Arc<ApiServer>, crd: Arc<Object>, shutdown: CancellationToken) {
    let terminating = |status: &'static str, reason: &'static str, message: String| {
        move |old: &Value| {
            let mut new = old.clone();
            set_condition(&mut new, "Terminating", status, reason, &message);
            new
        }
    };
    let kind = kind_of(&outline(crd.json()), crd.json()).map(Arc::new);
    let mut said = "";
    while let Some(kind) = &kind {
        let cache = server.cache.kind(&kind.group, &kind.plural);
        let (snapshot, mut watcher) = server.cache.list_and_watch(cache, "");
        if snapshot.items.is_empty() {
            break;
        }
        let failed = empty(&server, kind, snapshot.items).await.err();
        let (reason, message) = match &failed {
            None => ("InstanceDeletionInProgress", "CustomResource deletion is in progress".to_owned()),
            Some(status) => {
                tracing::warn!(crd = crd.name(), error = %status.message, "a definition's objects are not cleared yet");
                ("InstanceDeletionFailed", format!("could not issue all deletes: {}", status.message))
            }
        };
        let mut again = failed.is_some();
        if said != reason {
            match write(&server, crd.name(), "status", &terminating("True", reason, message)).await {
                Ok(()) => said = reason,
                Err(_) => again = true,
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            // What goes, and what comes nevertheless.
            _ = watcher.next() => {}
            () = tokio::time::sleep(AGAIN), if again => {}
        }
    }
    let ended = terminating("False", "InstanceDeletionCompleted", "removed all instances".into());
    let release = move |old: &Value| {
        let mut new = ended(old);
        api::meta::remove_finalizer(&mut new, CLEANUP);
        new
    };
    while let Err(status) = write(&server, crd.name(), "", &release).await {
        tracing::warn!(crd = crd.name(), error = %status.message, "a definition is not let go yet");
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Deletes objects of a kind that ends, without asking anybody; fails if one cannot be deleted, when all were tried.
async fn empty(server: &ApiServer, kind: &Arc<Kind>, items: Vec<Arc<Encoded>>) -> Result<(), Status> {
    let user = Arc::new(UserInfo::master("system:apiserver"));
    let options = DeleteOptions { unasked: true, ..DeleteOptions::default() };
    let mut failed = Ok(());
    for item in items.iter().filter(|i| !i.is_deleting()) {
        let mut cx = Context::internal(user.clone(), kind.clone(), item.namespace(), item.name());
        match server.delete(&mut cx, item.name(), &options).await {
            Err(status) if status.code != 404 => failed = Err(status),
            _ => {}
        }
    }
    failed
}
