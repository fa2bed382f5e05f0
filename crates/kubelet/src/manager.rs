//! Brings pods to their workers: finds what an earlier daemon left, follows the API, wakes those concerned when a
//! ConfigMap, Secret or claim changes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

use api::Object;
use api::podrefs::{Referred, references};
use client::{Change, Informers, gvr};
use runtime::{State, Status};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::admit::admit;
use crate::context::Context;
use crate::pod::operations::{SNAPSHOT_PREFIX, describe, last_words};
use crate::pod::registry::Handle;
use crate::pod::state::*;
use crate::pod::worker::{Message, Worker};
use crate::spec::{annotation, label};
use crate::view::{Pod, PodSpec};

/// What is found of one pod.
#[derive(Default)]
struct Found {
    namespace: String,
    name: String,
    state: PodState,
}

/// Runs the pods of the node until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    informers: Informers,
    mut left: Leftovers,
    shutdown: CancellationToken,
) -> Result<()> {
    let pods = informers.of(&gvr::PODS);
    let claims = informers.of(&gvr::PERSISTENT_VOLUME_CLAIMS);
    let mut changes = pods.subscribe();
    let mut config_maps = context.config_maps.subscribe();
    let mut secrets = context.secrets.subscribe();
    let mut claim_changes = claims.subscribe();
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = async { tokio::join!(pods.synced(), context.config_maps.synced(), context.secrets.synced(), context.services.synced()); } => {}
    }
    // Everything that is there has been sent by now: whatever of a pod is left and is not among it has no owner.
    let known: HashSet<String> = pods.list("").iter().map(|p| p.uid().to_owned()).collect();
    for (uid, found) in left.pods.extract_if(|uid, _| !known.contains(uid)) {
        let pod = orphan(&found.namespace, &found.name, &uid);
        let state = PodState { orphan: true, ..found.state };
        tracing::info!(pod = pod.title(), "taking down a pod that the cluster no longer knows");
        Worker::start(&context, pod, state);
    }
    sweep(&context, &known);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(change) = changes.recv() => pod_changed(&context, &mut left, change),
            Some(change) = config_maps.recv() => source_changed(&context, change.object(), Referred::ConfigMap),
            Some(change) = secrets.recv() => source_changed(&context, change.object(), Referred::Secret),
            Some(change) = claim_changes.recv() => source_changed(&context, change.object(), Referred::Claim),
        }
    }
}

fn pod_changed(context: &Arc<Context>, left: &mut Leftovers, change: Change) {
    let object = change.object().clone();
    if object.spec()["nodeName"] != context.node() {
        return;
    }
    if let (Some(old), Some(new)) = (&change.old, &change.new)
        && old.uid() != new.uid()
        && let Some(handle) = context.registry.get(old.uid())
    {
        let _ = handle.sender.send(Message::Gone);
    }
    let handle: Option<Handle> = context.registry.get(object.uid());
    if change.new.is_none() {
        if let Some(handle) = handle {
            let _ = handle.sender.send(Message::Gone);
        }
        return;
    }
    let pod = match Pod::of(&object) {
        Ok(pod) => pod,
        Err(error) => {
            tracing::error!(pod = object.name(), error, "a pod that cannot be understood is not run");
            context.recorder.event(
                &object,
                "Warning",
                "InvalidPod",
                format!("the node cannot run it: {error}"),
            );
            return;
        }
    };
    if let Some(handle) = handle
        && handle.sender.send(Message::Pod(pod.clone())).is_ok()
    {
        return;
    }
    let found = left.pods.remove(&pod.uid).map(|f| f.state);
    let is_new = found.is_none() && !pod.deleting && !pod.is_terminal();
    let mut state = found.unwrap_or_default();
    if is_new {
        let others: Vec<Pod> = context
            .registry
            .all()
            .iter()
            .map(|h| h.known.read().clone())
            .filter(|k| !k.pod.is_terminal() && k.state.failed.is_none() && !k.state.clean)
            .map(|k| k.pod)
            .collect();
        if let Err((reason, message)) = admit(&pod, others.iter()) {
            context.recorder.event(&pod.object, "Warning", &reason, message.clone());
            state.failed = Some((reason, message));
        }
    }
    if pod.is_terminal()
        && !pod.deleting
        && state.containers.is_empty()
        && state.sandbox == SandboxState::Absent
    {
        // Nothing of it is here and nothing will be; a worker comes with its deletion.
        return;
    }
    Worker::start(context, pod, state);
}

/// Pods that name the object look at it anew.
fn source_changed(context: &Context, object: &Object, kind: Referred) {
    for handle in context.registry.all() {
        let pod = handle.known.read().pod.object.clone();
        let names = |(what, name): &(Referred, String)| *what == kind && name == object.name();
        if pod.namespace() == object.namespace() && references(pod.value()).iter().any(names) {
            let _ = handle.sender.send(Message::Sources);
        }
    }
}

/// What an earlier daemon left running, by pod UID.
#[derive(Default)]
pub struct Leftovers {
    pods: HashMap<String, Found>,
    /// The addresses in use, with their pods.
    pub addresses: Vec<(String, IpAddr)>,
}

/// One thing that cannot be removed keeps nothing else from running: it is said, and the next start tries again.
fn tolerate<E: std::fmt::Display>(what: &'static str, id: &str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!(id, %error, "{what} could not be removed");
    }
}

/// Asks the runtime what there is.
pub async fn leftovers(context: &Context) -> Result<Leftovers> {
    let runtime = &context.options.runtime;
    let mut left = Leftovers::default();
    for sandbox in runtime.sandboxes().await? {
        let spec = match runtime.sandbox_spec(&sandbox.id).await {
            Ok(spec) => spec,
            Err(error) => {
                tracing::warn!(sandbox = sandbox.id, %error, "a sandbox cannot be read and is left alone");
                continue;
            }
        };
        let of = |key: &str| spec.annotations.get(key).cloned().unwrap_or_default();
        let ips: Vec<IpAddr> = of(annotation::IPS).split(',').filter_map(|ip| ip.parse().ok()).collect();
        let uid = of(label::UID);
        if uid.is_empty() {
            continue;
        }
        let complete =
            std::fs::read(context.sandbox_mark(&uid)).is_ok_and(|made| made == sandbox.id.as_bytes());
        if !complete {
            tracing::info!(pod = of(label::POD), sandbox = sandbox.id, "a half-made sandbox is made anew");
            tolerate("a half-made sandbox", &sandbox.id, runtime.sandbox_delete(&sandbox.id).await);
            continue;
        }
        if !spec.host_network {
            left.addresses.extend(ips.iter().map(|ip| (uid.clone(), *ip)));
        }
        let found = left.pods.entry(uid).or_default();
        (found.namespace, found.name) = (of(label::NAMESPACE), of(label::POD));
        found.state.sandbox = SandboxState::Ready(ReadySandbox { id: sandbox.id, pid: sandbox.pid, ips });
    }
    // Its pod gets another one; but whoever got its address too would not be reached.
    for spec in runtime.unreached_sandboxes().iter().filter(|s| !s.host_network) {
        let ips = spec.annotations.get(annotation::IPS).map_or("", String::as_str);
        let owner = format!("sandbox {}", spec.id);
        left.addresses.extend(ips.split(',').filter_map(|ip| Some((owner.clone(), ip.parse().ok()?))));
    }
    let mut runs: BTreeMap<(String, String), Vec<Run>> = BTreeMap::new();
    for state in runtime.list().await? {
        let of = |key: &str| state.spec.labels.get(key).cloned().unwrap_or_default();
        let (uid, container) = (of(label::UID), of(label::CONTAINER));
        if uid.is_empty() || container.is_empty() {
            continue;
        }
        let found = left.pods.entry(uid.clone()).or_default();
        (found.namespace, found.name) = (of(label::NAMESPACE), of(label::POD));
        match run_of(&state) {
            Some(run) => runs.entry((uid, container)).or_default().push(run),
            // Made but never started: the daemon died in between. It is made again.
            None => tolerate("a half-made container", &state.id, runtime.delete(&state.id, true).await),
        }
    }
    for ((uid, container), mut runs) in runs {
        runs.sort_by_key(|r| r.attempt);
        let state = &mut left.pods.entry(uid).or_default().state;
        let known = state.containers.entry(container).or_default();
        known.run = runs.pop();
        known.last = runs.pop();
        for old in runs {
            tolerate("an old container", &old.id, runtime.delete(&old.id, true).await);
        }
    }
    let used: HashSet<&str> = left
        .pods
        .values()
        .flat_map(|f| f.state.containers.values())
        .flat_map(|c| [&c.run, &c.last])
        .flatten()
        .map(|r| r.id.as_str())
        .collect();
    for key in context.options.images.snapshot_keys() {
        if key.strip_prefix(SNAPSHOT_PREFIX).is_some_and(|id| !used.contains(id)) {
            tolerate("a container's snapshot", &key, context.options.images.discard(&key).await);
        }
    }
    Ok(left)
}

fn run_of(state: &State) -> Option<Run> {
    let of = |key: &str| state.spec.annotations.get(key).cloned().unwrap_or_default();
    let phase = match (state.status, &state.exit) {
        (_, Some(exit)) => {
            let started = state.started_at.unwrap_or(exit.at);
            RunPhase::Exited(describe(exit, started, last_words(&of(annotation::MESSAGE_PATH))))
        }
        (Status::Running | Status::Paused, None) => {
            RunPhase::Running { started: state.started_at.unwrap_or(state.created_at) }
        }
        _ => return None,
    };
    Some(Run {
        id: state.id.clone(),
        attempt: of(annotation::ATTEMPT).parse().unwrap_or(0),
        image: state.spec.labels.get(label::IMAGE).cloned().unwrap_or_default(),
        image_id: of(annotation::IMAGE),
        sandbox: of(annotation::SANDBOX),
        phase,
    })
}

/// What is to be taken down of a pod whose object is gone.
fn orphan(namespace: &str, name: &str, uid: &str) -> Pod {
    let object = Object::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": uid}, "spec": {},
    }));
    Pod {
        namespace: namespace.into(),
        name: name.into(),
        uid: uid.into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        deleting: false,
        deletion_grace: None,
        spec: Arc::new(PodSpec::default()),
        phase: String::new(),
        object,
    }
}

/// Removes the folders of pods that are neither known nor being taken down.
fn sweep(context: &Context, known: &HashSet<String>) {
    for root in [context.durable_root(), context.volatile_root()] {
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if known.contains(&uid) || context.registry.get(&uid).is_some() {
                continue;
            }
            if let Err(error) = crate::volumes::remove(&context.volatile(&uid), &context.durable(&uid)) {
                tracing::warn!(uid, %error, "the folder of a pod that is gone could not be removed");
            }
        }
    }
}
