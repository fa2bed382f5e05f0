//! The APIServices of what this server answers for itself.
//!
//! Those of built-in groups are looked after when the server starts and are the administrator's then; those of custom
//! resources come and go with their definitions. What somebody else has made under one of their names stays: it says by its
//! labels that it is not ours.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::discovery::{is_registered, priority};
use api::object::Encoded;
use api::{Object, Status, Value};
use futures::StreamExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{GROUP, PLURAL};
use crate::ApiServer;
use crate::registry::{DeleteOptions, Own};

/// The label by which we know ours.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Its value where they are looked after when the server starts only.
const ON_START: &str = "onstart";
/// Its value where they always are.
const ALWAYS: &str = "true";
/// How long a failure waits to be tried again. What failed does not say when it would succeed.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// By name: the APIServices there should be.
type Wanted = BTreeMap<String, Value>;

/// The APIService of a group and version that this server answers for itself.
fn local(group: &str, version: &str, managed: &str) -> (String, Value) {
    let name = format!("{version}.{group}");
    let (minimum, of_version) = priority(group, version);
    let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": name, "labels": {MANAGED: managed}},
        "spec": {"group": group, "version": version,
            "groupPriorityMinimum": minimum, "versionPriority": of_version}});
    (name, service)
}

/// What is to be done about one name.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    Create,
    Update,
    Delete,
}

/// Compares what is wanted under a name with what is there, each by how it is managed, when the server starts or later. `same`:
/// they say the same.
fn decide(wanted: Option<&str>, now: Option<&str>, same: bool, starting: bool) -> Action {
    // What is looked after only when the server starts is not looked after later.
    let ours = |managed: &&str| *managed == ALWAYS || *managed == ON_START && starting;
    match (wanted.filter(ours), now) {
        (Some(_), None) => Action::Create,
        (Some(_), Some(now)) if ours(&now) && !same => Action::Update,
        (None, Some(now)) if ours(&now) => Action::Delete,
        _ => Action::Nothing,
    }
}

/// What there should be: `built_in` too, or only for custom resources.
fn wanted(server: &ApiServer, built_in: bool) -> Wanted {
    let kinds = server.kinds.load();
    let mut all = Wanted::new();
    let served = |v: &&api::kinds::Version| v.served && is_registered(&v.group);
    if built_in {
        let versions = kinds.built_in().iter().flat_map(|k| &k.versions).filter(served);
        all.extend(versions.map(|v| local(&v.group, &v.version, ON_START)));
    }
    for custom in kinds.custom().values() {
        for v in custom.stored.versions.iter().filter(served) {
            // One that is built in has its own.
            if kinds.built_in().iter().all(|k| k.served(&v.group, &v.version).is_none()) {
                let (name, service) = local(&v.group, &v.version, ALWAYS);
                all.insert(name, service);
            }
        }
    }
    all
}

/// Looks after the APIServices until `shutdown`. Those of the start are there when this returns, but for what could not be
/// written: that is tried again, and it is the start until nothing has failed.
pub(super) async fn start(server: &Arc<ApiServer>, shutdown: CancellationToken) {
    let services = server.cache.kind(GROUP, PLURAL);
    let (_, mut watcher) = server.cache.list_and_watch(services.clone(), "");
    let mut known = Known::default();
    let mut again = !known.settle(server, true).await;
    let mut starting = again;
    let server = server.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = server.kinds_changed.notified() => {}
                changed = watcher.next() => if changed.is_err() {
                    (_, watcher) = server.cache.list_and_watch(services.clone(), "");
                },
                () = tokio::time::sleep(AGAIN), if again => {}
            }
            again = !known.settle(&server, starting).await;
            starting &= again;
        }
    });
}

/// Which APIServices have been looked at and are as they should be, so that they need not be read again.
#[derive(Default)]
struct Known {
    revisions: HashMap<String, u64>,
    wanted: Wanted,
}

impl Known {
    /// Makes what there is what there should be. Returns whether all could be written.
    async fn settle(&mut self, server: &Arc<ApiServer>, starting: bool) -> bool {
        let wanted = wanted(server, starting);
        let (snapshot, _) = server.cache.list_and_watch(server.cache.kind(GROUP, PLURAL), "");
        let there: HashMap<&str, &Arc<Encoded>> = snapshot.items.iter().map(|s| (s.name(), s)).collect();
        let managed = |service: &Encoded| service.labels().get(MANAGED).unwrap_or_default().to_owned();
        let mut todo = Vec::new();
        for (name, service) in &wanted {
            let now = there.get(name.as_str()).copied();
            let looked_at = now.is_some_and(|now| self.revisions.get(name) == Some(&now.revision()));
            if looked_at && self.wanted.get(name) == Some(service) {
                continue;
            }
            let same = now.is_some_and(|now| *now.object().spec() == service["spec"]);
            let how = service["metadata"]["labels"][MANAGED].as_str();
            let action = decide(how, now.map(|now| managed(now)).as_deref(), same, starting);
            todo.push((action, name.clone(), Some(service), now));
        }
        for (name, now) in there.iter().filter(|(name, _)| !wanted.contains_key(**name)) {
            let action = decide(None, Some(&managed(now)), false, starting);
            todo.push((action, (*name).to_owned(), None, Some(*now)));
        }
        todo.retain(|(action, ..)| *action != Action::Nothing);
        let carry_out =
            async |(action, name, service, now): (Action, String, Option<&Value>, Option<&Arc<Encoded>>)| {
                let done = carry_out(server, &action, &name, service, now).await;
                done.inspect_err(|status| {
                    tracing::warn!(service = name, error = %status.message, "APIService not written");
                })
                .map_err(|_| name)
            };
        let done: Vec<Result<(), String>> =
            futures::stream::iter(todo).map(carry_out).buffer_unordered(16).collect().await;
        let mut revisions: HashMap<String, u64> =
            there.iter().map(|(name, s)| ((*name).to_owned(), s.revision())).collect();
        for failed in done.iter().filter_map(|d| d.as_ref().err()) {
            revisions.remove(failed);
        }
        (self.revisions, self.wanted) = (revisions, wanted);
        done.iter().all(Result::is_ok)
    }
}

async fn carry_out(
    server: &Arc<ApiServer>,
    action: &Action,
    name: &str,
    service: Option<&Value>,
    now: Option<&Arc<Encoded>>,
) -> Result<(), Status> {
    match (action, service, now) {
        (Action::Create, Some(service), _) => crate::bootstrap::ensure(server, service.clone()).await,
        (Action::Update, Some(service), _) => {
            let own = Own { resource: (GROUP, PLURAL), namespace: "", name, subresource: "", dry_run: false };
            let change = &mut |old: &Arc<Object>| {
                let mut new = old.value().clone();
                // Who has taken it over meanwhile keeps it.
                if old.labels().get(MANAGED).is_some() {
                    new["spec"] = service["spec"].clone();
                }
                Ok(new)
            };
            server.modify_own(&own, change).await
        }
        (Action::Delete, _, Some(now)) => {
            let options = DeleteOptions {
                uid: Some(now.uid().to_owned()),
                revision: Some(now.revision()),
                ..DeleteOptions::default()
            };
            let mut cx = crate::bootstrap::context(server, now.object().value())?;
            match server.delete(&mut cx, name, &options).await {
                // It is gone, or another one: then there is an event of it.
                Err(status) if matches!(status.code, 404 | 409) => Ok(()),
                done => done.map(|_| ()),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_follows_what_is_served() {
        let (always, start, others) = (Some(ALWAYS), Some(ON_START), Some(""));
        for (wanted, now, same, starting, want) in [
            (None, None, false, false, Action::Nothing),
            (always, None, false, false, Action::Create),
            (start, None, false, true, Action::Create),
            // Who takes one of these away has it away until the server starts again.
            (start, None, false, false, Action::Nothing),
            (always, always, true, false, Action::Nothing),
            (always, always, false, false, Action::Update),
            (start, start, false, true, Action::Update),
            (start, start, false, false, Action::Nothing),
            (None, always, false, false, Action::Delete),
            (None, start, false, true, Action::Delete),
            (None, start, false, false, Action::Nothing),
            // Somebody else's.
            (always, others, false, false, Action::Nothing),
            (start, others, false, true, Action::Nothing),
            (None, others, false, true, Action::Nothing),
        ] {
            let shown = format!("{wanted:?} {now:?} {same} {starting}");
            assert_eq!(decide(wanted, now, same, starting), want, "{shown}");
        }
        let (name, service) = local("", "v1", ON_START);
        assert_eq!((name.as_str(), &service["spec"]["groupPriorityMinimum"]), ("v1.", &json!(18000)));
        let (name, service) = local("x.example", "v1beta1", ALWAYS);
        assert_eq!(name, "v1beta1.x.example");
        assert_eq!(service["spec"]["groupPriorityMinimum"], 1000);
        assert_eq!(service["spec"]["versionPriority"], 100);
    }
}
