//! What the tests of several controllers need: a world of one fake API server and one machine under a paused clock.

use std::time::Duration;

use api::meta;
use client::Informers;
use client::fake::Fake;
use tokio_util::sync::CancellationToken;

use crate::{Action, Machine};

/// A fake API server with controllers at work.
pub(crate) struct World {
    pub(crate) fake: Fake,
    pub(crate) machine: Machine,
}

impl World {
    pub(crate) fn new() -> Self {
        let (fake, client) = Fake::new();
        let shutdown = CancellationToken::new();
        let informers = Informers::new(client.clone(), shutdown.clone());
        Self { fake, machine: Machine::new(client, informers, shutdown) }
    }

    /// Lets everything happen that happens within a second of virtual time.
    pub(crate) async fn settle(&self) {
        self.pass(Duration::from_secs(1)).await;
    }

    /// Lets virtual time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.machine.shutdown().cancel();
    }
}

/// Actions in words.
pub(crate) fn summary(actions: &[Action]) -> Vec<String> {
    let say = |a: &Action| match a {
        Action::Create { gvr, object, .. } => {
            let name =
                if meta::name(object).is_empty() { meta::generate_name(object) } else { meta::name(object) };
            format!("create {} {name}", gvr.resource)
        }
        Action::Update { gvr, object } => format!("update {}/{}", gvr.resource, meta::name(object)),
        Action::UpdateSub { gvr, sub, object } => format!("{sub} {}/{}", gvr.resource, meta::name(object)),
        Action::Patch { gvr, key, patch, .. } => format!("patch {}/{} {patch}", gvr.resource, key.name),
        Action::Delete { gvr, object, .. } => format!("delete {}/{}", gvr.resource, object.name()),
        Action::DeleteCollection { gvr, .. } => format!("delete all {}", gvr.resource),
        Action::Event { reason, message, .. } => format!("event {reason}: {message}"),
    };
    actions.iter().map(say).collect()
}
