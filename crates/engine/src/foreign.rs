//! Containers of pods: made by the kubelet through the same runtime, shown here, and open to stop, kill, logs and
//! exec; everything else about them is the kubelet's.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use runtime::{EventKind, State, Status};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use crate::Engine;
use crate::container::Mark;
use crate::error::Result;
use crate::lifecycle::{WaitCondition, Waiter};
use crate::model::Map;

const NAME: &str = "io.kubernetes.container.name";
const RESTARTS: &str = "io.kubernetes.container.restartCount";

/// One pod's container.
#[derive(Debug)]
struct Entry {
    state: State,
    mark: watch::Sender<Mark>,
}

/// All of them, kept up to date by the runtime's events.
#[derive(Debug, Default)]
pub(crate) struct Foreign(Mutex<HashMap<String, Entry>>);

fn label<'a>(state: &'a State, key: &str) -> &'a str {
    let find = |m: &'a std::collections::BTreeMap<String, String>| m.get(key).map(String::as_str);
    find(&state.spec.labels).or_else(|| find(&state.spec.annotations)).unwrap_or("")
}

fn labels(state: &State) -> Map {
    let mut all: Map = state.spec.annotations.clone();
    all.extend(state.spec.labels.clone());
    all
}

/// `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`
fn name(state: &State) -> String {
    let part = |key| label(state, key);
    let attempt = match part(RESTARTS) {
        "" => "0",
        n => n,
    };
    format!(
        "k8s_{}_{}_{}_{}_{attempt}",
        part(NAME),
        part("io.kubernetes.pod.name"),
        part("io.kubernetes.pod.namespace"),
        part("io.kubernetes.pod.uid"),
    )
}

fn up(state: &State) -> bool {
    matches!(state.status, Status::Running | Status::Paused)
}

impl Foreign {
    pub(crate) fn insert(&self, state: State) {
        if label(&state, NAME).is_empty() {
            return;
        }
        let mut all = self.0.lock();
        let change = |mark: &mut Mark| {
            mark.up = up(&state);
            mark.process = mark.up;
            if let Some(exit) = &state.exit {
                mark.exit_code = exit.code;
                mark.exits = 1;
            }
        };
        match all.get_mut(&state.id) {
            Some(entry) => {
                entry.mark.send_modify(change);
                entry.state = state;
            }
            None => {
                let mut mark = Mark::default();
                change(&mut mark);
                all.insert(state.id.clone(), Entry { state, mark: watch::Sender::new(mark) });
            }
        }
    }

    fn remove(&self, id: &str) {
        if let Some(entry) = self.0.lock().remove(id) {
            entry.mark.send_modify(|m| {
                m.removed = true;
                m.up = false;
                m.process = false;
            });
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<State> {
        self.0.lock().get(id).map(|e| e.state.clone())
    }

    pub(crate) fn mark(&self, id: &str) -> Option<watch::Receiver<Mark>> {
        self.0.lock().get(id).map(|e| e.mark.subscribe())
    }

    /// The id that a reference is, or is the name of.
    fn exact(&self, reference: &str) -> Option<String> {
        let bare = reference.strip_prefix('/').unwrap_or(reference);
        let all = self.0.lock();
        if all.contains_key(bare) {
            return Some(bare.to_owned());
        }
        all.values().find(|e| name(&e.state) == bare).map(|e| e.state.id.clone())
    }

    /// The ids that begin so.
    fn beginning(&self, prefix: &str) -> Vec<String> {
        if prefix.is_empty() {
            return Vec::new();
        }
        self.0.lock().keys().filter(|id| id.starts_with(prefix)).cloned().collect()
    }

    pub(crate) fn list(&self) -> Vec<State> {
        self.0.lock().values().map(|e| e.state.clone()).collect()
    }
}

impl Engine {
    /// The id of the pod's container that a reference means, if it means one. Whole names and ids come before prefixes,
    /// the engine's own names before those of pods, and a prefix of several ids of both kinds is refused.
    pub(crate) fn pod(&self, reference: &str) -> Result<Option<String>> {
        let names = self.names.lock();
        if names.exact(reference).is_some() {
            return Ok(None);
        }
        if let Some(id) = self.foreign.exact(reference) {
            return Ok(Some(id));
        }
        let mut pods = self.foreign.beginning(reference);
        let Some(pod) = pods.pop() else { return Ok(None) };
        if !pods.is_empty() || names.beginning(reference).next().is_some() {
            return Err(crate::names::ambiguous(reference));
        }
        Ok(Some(pod))
    }

    /// Follows the runtime's events about containers that are not the engine's, and what nobody else follows of the
    /// engine's own.
    pub(crate) fn watch_foreign(self: &Arc<Self>) {
        let mut events = self.runtime.events();
        let engine = self.clone();
        self.spawn(async move {
            loop {
                match events.recv().await {
                    Ok(event) => engine.foreign_changed(&event.id, &event.kind).await,
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        let states = engine.runtime.list().await.unwrap_or_default();
                        let known: Vec<String> = engine.foreign.list().into_iter().map(|s| s.id).collect();
                        for id in known.iter().filter(|id| !states.iter().any(|s| s.id == **id)) {
                            engine.foreign.remove(id);
                            engine.forget_execs_of(id);
                        }
                        states.into_iter().for_each(|s| engine.foreign.insert(s));
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
    }

    async fn foreign_changed(&self, id: &str, kind: &EventKind) {
        if let Some(own) = self.by_id(id) {
            if *kind == EventKind::Oom && own.phase().alive() {
                self.out_of_memory(&own);
            }
            return;
        }
        let action = match kind {
            EventKind::Deleted => {
                if let Some(state) = self.foreign.get(id) {
                    self.foreign_event(&state, "destroy", &[]);
                }
                self.foreign.remove(id);
                self.forget_execs_of(id);
                return;
            }
            EventKind::Created => "create",
            EventKind::Started => "start",
            EventKind::Paused => "pause",
            EventKind::Resumed => "unpause",
            EventKind::Oom => "oom",
            EventKind::Exited { exec_id: None, .. } => "die",
            EventKind::Exited { .. } => return,
        };
        let Ok(state) = self.runtime.state(id).await else { return };
        self.foreign.insert(state.clone());
        let code = state.exit.map(|e| ("exitCode", e.code.to_string()));
        self.foreign_event(&state, action, code.as_slice());
    }

    fn foreign_event(&self, state: &State, action: &str, more: &[(&str, String)]) {
        if label(state, NAME).is_empty() {
            return;
        }
        let mut attributes = labels(state);
        attributes.insert("name".into(), name(state));
        attributes.insert("image".into(), label(state, "io.kubernetes.container.image").to_owned());
        attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        self.events.publish("container", action, &state.id, attributes);
    }

    pub(crate) fn foreign_wait(&self, reference: &str) -> Result<Option<Waiter>> {
        let Some(mark) = self.pod(reference)?.and_then(|id| self.foreign.mark(&id)) else { return Ok(None) };
        Ok(Some(Waiter::new(mark, WaitCondition::NotRunning)))
    }

    /// True if the reference is a pod's container; the signal is sent then.
    pub(crate) async fn foreign_kill(&self, reference: &str, signal: i32) -> Result<bool> {
        let Some(id) = self.pod(reference)? else { return Ok(false) };
        self.runtime.signal(&id, signal, false).await?;
        Ok(true)
    }

    /// True if the reference is a pod's container; it is stopped then. The kubelet decides what follows.
    pub(crate) async fn foreign_stop(
        &self,
        reference: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<bool> {
        let Some(id) = self.pod(reference)? else { return Ok(false) };
        let Some(mut mark) = self.foreign.mark(&id) else { return Ok(true) };
        let number = crate::validate::parse_signal(signal.filter(|s| !s.is_empty()).unwrap_or("TERM"))?;
        self.runtime.signal(&id, number, false).await?;
        let grace =
            std::time::Duration::from_secs(u64::try_from(timeout.unwrap_or(10)).unwrap_or(u64::MAX / 4));
        // A timer by nature: the grace that was asked for.
        if tokio::time::timeout(grace, mark.wait_for(|m| !m.process)).await.is_err() {
            self.runtime.signal(&id, 9, false).await?;
            let _ = mark.wait_for(|m| !m.process).await;
        }
        Ok(true)
    }
}

/// The state's word and sentence: `running`, `Up 2 minutes`.
pub(crate) fn status(state: &State) -> (&'static str, String) {
    let ago = |t: jiff::Timestamp| crate::list::ago(base::clock::between(t, base::clock::now()));
    match (state.status, state.exit) {
        (Status::Created, _) => ("created", "Created".into()),
        (Status::Running, _) => {
            ("running", format!("Up {}", ago(state.started_at.unwrap_or(state.created_at))))
        }
        (Status::Paused, _) => {
            ("paused", format!("Up {} (Paused)", ago(state.started_at.unwrap_or(state.created_at))))
        }
        (Status::Stopped, Some(exit)) => ("exited", format!("Exited ({}) {} ago", exit.code, ago(exit.at))),
        (Status::Stopped, None) => ("exited", "Exited".into()),
    }
}

fn command(state: &State) -> Vec<String> {
    state.spec.oci.process().as_ref().and_then(|p| p.args().clone()).unwrap_or_default()
}

/// One line of `docker ps`.
pub(crate) fn summary(state: &State) -> Value {
    let (word, sentence) = status(state);
    json!({
        "Id": state.id, "Names": [format!("/{}", name(state))],
        "Image": label(state, "io.kubernetes.container.image"), "ImageID": label(state, "io.kubernetes.container.imageID"),
        "Command": crate::list::command_line(&command(state)), "Created": state.created_at.as_second(),
        "Ports": [], "Labels": labels(state), "State": word, "Status": sentence,
        "HostConfig": {"NetworkMode": "none"}, "NetworkSettings": {"Networks": {}}, "Mounts": [],
    })
}

/// `docker inspect`, as far as it is known here.
pub(crate) fn document(state: &State) -> Value {
    let (word, _) = status(state);
    let args = command(state);
    let process = state.spec.oci.process().clone().unwrap_or_default();
    let time =
        |t: Option<jiff::Timestamp>| t.map_or("0001-01-01T00:00:00Z".to_owned(), base::clock::rfc3339_nano);
    let log = state.spec.io.log.path().map_or(String::new(), |p| p.display().to_string());
    json!({
        "Id": state.id, "Created": base::clock::rfc3339_nano(state.created_at), "Name": format!("/{}", name(state)),
        "Path": args.first(), "Args": args.get(1..).unwrap_or_default(),
        "State": {
            "Status": word, "Running": up(state), "Paused": state.status == Status::Paused, "Restarting": false,
            "OOMKilled": state.exit.is_some_and(|e| e.oom_killed), "Dead": false, "Pid": state.pid.unwrap_or(0),
            "ExitCode": state.exit.map_or(0, |e| e.code), "Error": "",
            "StartedAt": time(state.started_at), "FinishedAt": time(state.exit.map(|e| e.at)),
        },
        "Image": label(state, "io.kubernetes.container.imageID"), "LogPath": log, "RestartCount": label(state, RESTARTS).parse::<i64>().unwrap_or(0),
        "Driver": "overlay2", "Platform": "linux", "ExecIDs": null,
        "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": "json-file", "Config": {}}},
        "Mounts": [],
        "Config": {
            "Image": label(state, "io.kubernetes.container.image"), "Labels": labels(state), "Tty": state.spec.io.tty,
            "Env": process.env(), "Cmd": args, "WorkingDir": process.cwd(), "OpenStdin": state.spec.io.stdin != runtime::StdinMode::Closed,
        },
        "NetworkSettings": {"Networks": {}, "Ports": {}},
    })
}
