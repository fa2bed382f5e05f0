//! The end of a definition: its objects go first.

use std::sync::Arc;

use api::kinds::CLEANUP;
use api::kinds::crd::outline;
use api::meta::text;
use api::object::Encoded;
use api::{Kind, Object, Status, Value};
use tokio_util::sync::CancellationToken;

use super::kind::kind_of;
use super::status::{is_true, set_condition};
use super::{AGAIN, GROUP, PLURAL, is_built_in, write};
use crate::ApiServer;
use crate::registry::{Context, DeleteOptions};
use crate::user::UserInfo;

/// Why nothing is cleared for a definition, as a reason and in words: what is stored under its name is none of its own.
fn spared(crd: &Value) -> Option<(&'static str, &'static str)> {
    if is_built_in(text(crd, "/spec/group"), text(crd, "/spec/names/plural")) {
        return Some(("OverlappingBuiltInResource", "instances overlap with built-in resources in storage"));
    }
    (!is_true(crd, "Established")).then_some(("NeverEstablished", "resource was never established"))
}

fn terminating(crd: &mut Value, status: &str, reason: &str, message: &str) {
    set_condition(crd, "Terminating", status, reason, message);
}

/// The definition as it is now, if it is still that one and waits for its objects to go.
fn held(server: &ApiServer, crd: &Object) -> Option<Arc<Object>> {
    let now = server.cache.kind(GROUP, PLURAL).get(crd.name())?;
    let waits = now.uid() == crd.uid()
        && now.is_deleting()
        && api::meta::finalizers(&outline(now.json())).any(|f| f == CLEANUP);
    waits.then_some(now)
}

/// Deletes a definition's objects, waits until they are gone, and lets the definition go; whatever fails is tried again.
/// Ends, too, when somebody else has let it go: what is there then may be another's.
pub(super) async fn clear(server: Arc<ApiServer>, crd: Arc<Object>, shutdown: CancellationToken) {
    let mut said = "";
    while let Some(now) = held(&server, &crd) {
        let definition = outline(now.json());
        let spares = spared(&definition).is_some();
        let kind = if spares { None } else { kind_of(&definition, now.json()).map(Arc::new) };
        if let Some(kind) = &kind {
            let cache = server.cache.kind(&kind.group, &kind.plural);
            let (snapshot, mut watcher) = server.cache.list_and_watch(cache, "");
            // What was listed is of this definition if that is there still.
            if held(&server, &crd).is_none() {
                return;
            }
            if !snapshot.items.is_empty() {
                let failed = empty(&server, kind, snapshot.items).await.err();
                let (reason, message) = match &failed {
                    None => {
                        ("InstanceDeletionInProgress", "CustomResource deletion is in progress".to_owned())
                    }
                    Some(status) => {
                        tracing::warn!(crd = crd.name(), error = %status.message, "a definition's objects are not cleared yet");
                        let why = format!("could not issue all deletes: {}", status.message);
                        ("InstanceDeletionFailed", why)
                    }
                };
                let mut again = failed.is_some();
                if said != reason {
                    let say = |old: &Value| {
                        let mut new = old.clone();
                        terminating(&mut new, "True", reason, &message);
                        new
                    };
                    match write(&server, &crd, "status", &say).await {
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
                continue;
            }
        }
        let why = |old: &Value| match spared(old) {
            // Established meanwhile: that has objects to be cleared.
            None if spares => None,
            None => Some(("InstanceDeletionCompleted", "removed all instances")),
            why => why,
        };
        let say = |old: &Value| {
            let mut new = old.clone();
            if let Some((reason, message)) = why(old) {
                terminating(&mut new, "False", reason, message);
            }
            new
        };
        let release = |old: &Value| {
            let mut new = old.clone();
            if why(old).is_some() {
                api::meta::remove_finalizer(&mut new, CLEANUP);
            }
            new
        };
        let released = async {
            write(&server, &crd, "status", &say).await?;
            write(&server, &crd, "", &release).await?;
            server.cache.caught_up().await.map_err(Status::internal)
        };
        if let Err(status) = released.await {
            tracing::warn!(crd = crd.name(), error = %status.message, "a definition is not let go yet");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

/// Deletes objects of a kind that ends, without asking anybody; fails if one cannot be deleted, when all were tried.
async fn empty(server: &ApiServer, kind: &Arc<Kind>, items: Vec<Arc<Encoded>>) -> Result<(), Status> {
    let user = Arc::new(UserInfo::master("system:apiserver"));
    let mut failed = Ok(());
    for item in items.iter().filter(|i| !i.is_deleting()) {
        let mut cx = Context::internal(user.clone(), kind.clone(), item.namespace(), item.name());
        let uid = Some(item.uid().to_owned());
        let options = DeleteOptions { unasked: true, uid, ..DeleteOptions::default() };
        match server.delete(&mut cx, item.name(), &options).await {
            // Gone, and there may be another one.
            Err(status) if !matches!(status.code, 404 | 409) => failed = Err(status),
            _ => {}
        }
    }
    failed
}
