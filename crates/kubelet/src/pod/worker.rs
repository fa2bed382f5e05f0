//! The task of one pod: takes messages, asks `decide`, starts what it says, reports the status.
//!
//! Everything that takes time runs beside the worker and comes back as a [`Message`], so that the worker always answers
//! at once: to a deletion while an image is pulled, to an exit while a hook runs.

use std::sync::Arc;
use std::time::Duration;

use api::Object;
use client::{PatchType, gvr};
use parking_lot::RwLock;
use runtime::Exit;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::decide::{Action, Why, decide};
use super::registry::{Handle, Known};
use super::state::*;
use super::{operations, status};
use crate::context::Context;
use crate::probe::{self, Found, Probed};
use crate::view::Pod;
use crate::volumes::Mounted;

/// The first delay of a restart's back-off; each further one is twice as long.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// The longest.
const LAST_BACKOFF: Duration = Duration::from_secs(300);
/// After running that long a container's back-off begins anew.
const BACKOFF_RESET: Duration = Duration::from_secs(600);
/// When to try again what failed for no reason that an event would tell the end of.
const RETRY: Duration = Duration::from_secs(10);
/// How long a container that is being replaced may be told of as it was: one report instead of three, if it is quick.
/// Upstream's kubelet looks at its runtime that often.
const REPLACEMENT: Duration = Duration::from_secs(1);
/// When to try calls to the API server again.
const API_RETRY: Duration = Duration::from_secs(1);
/// The exit status of what was killed.
const KILLED: i32 = 137;

/// What wakes a worker.
pub enum Message {
    /// The object has changed.
    Pod(Pod),
    /// The object is gone.
    Gone,
    /// A ConfigMap, Secret or claim that volumes or the environment refer to has changed.
    Sources,
    /// The volumes are there, or not.
    Volumes(Result<Mounted, String>),
    /// The sandbox is there, or not.
    Sandbox(Result<ReadySandbox, String>),
    /// The process that held the namespaces of the sandbox with this id has ended.
    SandboxEnded(String),
    /// What was left of a sandbox with this id that had ended is gone, or not.
    SandboxDropped(String, Result<(), String>),
    /// The image is there, or not: the container, what its image was called, what became of it.
    Image(String, String, ImageState),
    /// A run was started, or not.
    Started(String, Result<Run, Trouble>),
    /// The post-start hook of a run is over.
    Hooked(String, String, bool),
    /// A run has ended.
    Exited(String, String, Exit),
    /// The record of how a run ended is complete.
    Ended(String, String, Ended),
    /// A stop has done what it can; whether the run has ended.
    Stopped(String, String, bool),
    /// A probe of a run has found something.
    Probed(String, String, Found),
    /// What the pod had here is gone, or not; whether its records were kept, and which sandbox it had.
    TornDown(bool, Option<String>, Result<(), String>),
    /// A status was accepted, or not.
    Reported(Value, Result<Arc<Object>, client::Error>),
    /// The object's deletion was accepted.
    Deleted,
}

/// A pod's worker.
pub struct Worker {
    context: Arc<Context>,
    pod: Pod,
    state: PodState,
    mounted: Mounted,
    known: Arc<RwLock<Known>>,
    sender: mpsc::UnboundedSender<Message>,
    messages: mpsc::UnboundedReceiver<Message>,
    work: JoinSet<()>,
    probes: std::collections::BTreeMap<String, (String, AbortHandle)>,
    backoffs: std::collections::BTreeMap<String, Duration>,
    /// The grace period that stops in progress go by; it only ever shrinks.
    grace: watch::Sender<i64>,
    /// The status that was reported last.
    acked: Value,
    /// The object as the API gave it back then: what it says otherwise later, somebody else has written.
    told: Arc<Object>,
    reporting: bool,
    retry_report: Option<Instant>,
    /// Until then a container that is being replaced by another run is not told of as ended.
    hold_report: Option<Instant>,
    refresh: bool,
    /// Volumes are being prepared, which two must not do to one pod at once.
    preparing: bool,
}

impl Worker {
    /// A worker for a pod of which `state` is known already (nothing, for a new one).
    pub fn start(context: &Arc<Context>, pod: Pod, state: PodState) -> Handle {
        let (sender, messages) = mpsc::unbounded_channel();
        let known = Arc::new(RwLock::new(Known { pod: pod.clone(), state: state.clone() }));
        let handle = Handle { sender: sender.clone(), known: known.clone() };
        context.registry.insert(&pod.uid, handle.clone());
        let worker = Self {
            context: context.clone(),
            acked: pod.object.status().clone(),
            told: pod.object.clone(),
            pod,
            state,
            mounted: Mounted::default(),
            known,
            sender,
            messages,
            work: JoinSet::new(),
            probes: Default::default(),
            backoffs: Default::default(),
            grace: watch::Sender::new(i64::MAX),
            reporting: false,
            retry_report: None,
            hold_report: None,
            refresh: false,
            preparing: false,
        };
        tokio::spawn(worker.run());
        handle
    }

    async fn run(mut self) {
        let uid = self.pod.uid.clone();
        self.adopt();
        while let Some(wake) = self.act() {
            while self.work.try_join_next().is_some() {}
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What runs goes on; what was half done is found by the next kubelet.
                () = self.context.shutdown.cancelled() => return,
                message = self.messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => break,
                },
                // Back-offs, deadlines and renewals end without an event.
                () = timer => self.elapsed(),
            }
            while let Ok(message) = self.messages.try_recv() {
                self.take(message);
            }
        }
        self.context.registry.remove(&uid);
        self.context.tokens.forget(&uid);
        self.context.pulls.forget(&uid);
    }

    /// Takes care of what an earlier daemon started.
    fn adopt(&mut self) {
        if let Some(sandbox) = self.state.ready_sandbox() {
            let id = sandbox.id.clone();
            self.wait_sandbox(id);
        }
        let spec = self.pod.spec.clone();
        for (_, c) in spec.all() {
            let run = self.state.of(&c.name).run.clone().or_else(|| status::recall(&self.pod, &c.name));
            let Some(run) = run else { continue };
            // What waits after an end that the policy makes final is to have another image.
            let over = matches!(&run.phase, RunPhase::Exited(e) if !spec.restarts(c, e.code));
            let replaced = over && status::was_waiting(&self.pod, &c.name, &run.id);
            let container = self.state.containers.entry(c.name.clone()).or_default();
            (container.run, container.replaced) = (Some(run), replaced);
        }
        let names: Vec<String> = self.state.containers.keys().cloned().collect();
        for name in names {
            let Some(run) = self.state.of(&name).running().cloned() else { continue };
            self.wait(&name, &run.id);
            let (started, ready) = status::as_reported(&self.pod, &name);
            let container = self.state.containers.entry(name.clone()).or_default();
            (container.started, container.ready) = (started, ready);
            self.probe(&name, &run.id);
        }
        if self.state.start_time.is_none() {
            let before = self.pod.object.status()["startTime"].as_str().and_then(|t| t.parse().ok());
            self.state.start_time = Some(before.unwrap_or_else(base::clock::now));
        }
        self.set_deadline();
    }

    /// The active deadline may be set, or shortened, while the pod runs.
    fn set_deadline(&mut self) {
        if let (Some(seconds), Some(start)) = (self.pod.spec.active_deadline_seconds, self.state.start_time) {
            let ran = base::clock::between(start, base::clock::now());
            let left = Duration::from_secs(seconds.max(0) as u64).saturating_sub(ran);
            self.state.deadline = Some(base::clock::later(Instant::now(), left));
        }
    }

    fn elapsed(&mut self) {
        let now = Instant::now();
        if self.state.deadline.is_some_and(|d| d <= now) && self.state.failed.is_none() {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.context.recorder.event(&self.pod.object, "Normal", "DeadlineExceeded", message.clone());
            self.state.failed = Some(("DeadlineExceeded".into(), message));
        }
        for container in self.state.containers.values_mut() {
            if container.backoff.is_some_and(|b| b <= now) {
                container.backoff = None;
            }
        }
        if self.mounted.renew.is_some_and(|r| r <= now) {
            self.mounted.renew = None;
            self.refresh = true;
        }
        if self.retry_report.is_some_and(|r| r <= now) {
            self.retry_report = None;
        }
        if self.hold_report.is_some_and(|r| r <= now) {
            self.hold_report = None;
        }
    }

    /// Decides and starts until nothing new comes of it. None: the pod is over. Else when to look again.
    fn act(&mut self) -> Option<Option<Instant>> {
        loop {
            let current = self.status();
            let reported = current == self.acked;
            let hold = self.hold_report.filter(|_| self.state.containers.values().any(|c| c.replaced));
            let waits = self.reporting || self.retry_report.is_some() || hold.is_some();
            if !reported && !waits && !self.state.orphan {
                self.report(current);
            }
            let mut wake: Option<Instant> = self.mounted.renew;
            wake = earliest(wake, self.retry_report);
            wake = earliest(wake, hold);
            let mut again = false;
            for action in decide(&self.pod, &self.state, Instant::now()) {
                match action {
                    Action::Wake(at) => wake = earliest(wake, Some(at)),
                    Action::Forget => return None,
                    Action::Settle => {
                        if reported && !self.reporting {
                            self.state.settled = true;
                            again = true;
                        }
                    }
                    action => {
                        self.begin(action);
                        again = true;
                    }
                }
            }
            let stale = self.refresh && self.state.volumes == VolumesState::Ready;
            if stale && !self.preparing && !self.pod.deleting {
                self.refresh = false;
                self.prepare_volumes();
            }
            if !again {
                let mut known = self.known.write();
                known.pod = self.pod.clone();
                known.state = self.state.clone();
                return Some(wake);
            }
        }
    }

    fn status(&self) -> Value {
        let hosts = self.context.host_ips();
        status::status(&self.pod, &self.state, &self.acked, &hosts, base::clock::now())
    }

    fn spawn<F, Fut>(&mut self, operation: F)
    where
        F: FnOnce(Arc<Context>, Pod) -> Fut,
        Fut: Future<Output = Message> + Send + 'static,
    {
        let (work, sender) = (operation(self.context.clone(), self.pod.clone()), self.sender.clone());
        self.work.spawn(async move {
            let _ = sender.send(work.await);
        });
    }

    fn container(&mut self, name: &str) -> &mut ContainerState {
        self.state.containers.entry(name.to_owned()).or_default()
    }

    fn begin(&mut self, action: Action) {
        match action {
            Action::PrepareVolumes => {
                self.state.volumes = VolumesState::Preparing;
                self.prepare_volumes();
            }
            Action::CreateSandbox => {
                self.state.sandbox = SandboxState::Creating;
                self.spawn(operations::sandbox);
            }
            Action::DropSandbox => {
                if let SandboxState::Gone(id) =
                    std::mem::replace(&mut self.state.sandbox, SandboxState::Removing)
                {
                    self.spawn(|context, pod| operations::drop_sandbox(context, pod, id));
                }
            }
            Action::EnsureImage(name) => {
                self.container(&name).image = ImageState::Pulling;
                self.spawn(|context, pod| operations::image(context, pod, name));
            }
            Action::Start(name) => self.start_run(name),
            Action::Stop { name, grace, why } => self.stop_run(name, grace, why),
            Action::TearDown { keep } => {
                let sandbox = self.state.sandbox_id().map(String::from);
                self.state.sandbox = SandboxState::Removing;
                let ids = self.run_ids();
                self.spawn(|context, pod| operations::tear_down(context, pod, sandbox, ids, keep));
            }
            Action::DeleteObject => {
                self.state.deleting_object = true;
                self.spawn(operations::delete);
            }
            Action::Settle | Action::Forget | Action::Wake(_) => {}
        }
    }

    fn prepare_volumes(&mut self) {
        self.preparing = true;
        let fresh = self.state.containers.values().all(|c| c.run.is_none());
        self.spawn(move |context, pod| operations::volumes(context, pod, fresh));
    }

    fn run_ids(&self) -> Vec<String> {
        let runs = self.state.containers.values().flat_map(|c| [&c.run, &c.last]).flatten();
        runs.map(|r| r.id.clone()).collect()
    }

    fn start_run(&mut self, name: String) {
        let Some(sandbox) = self.state.ready_sandbox().cloned() else { return };
        let volumes = self.mounted.sources.clone();
        let container = self.container(&name);
        let ImageState::Ready(image) = container.image.clone() else { return };
        container.starting = true;
        container.trouble = None;
        let attempt = container.run.as_ref().map_or(0, |r| r.attempt + 1);
        // Two runs are kept: the latest and the one before it. What is older goes now.
        let old = container.last.take().map(|r| r.id);
        let plan = operations::Plan { name, attempt, image, sandbox, volumes, old };
        self.spawn(|context, pod| operations::start(context, pod, plan));
    }

    fn stop_run(&mut self, name: String, grace: i64, why: Why) {
        let Some(id) = self.state.of(&name).running().map(|r| r.id.clone()) else { return };
        let container = self.container(&name);
        container.stopping = true;
        container.replaced = why == Why::Replaced;
        let message = match why {
            Why::PodEnds | Why::SidecarDone => format!("Stopping container {name}"),
            Why::SandboxGone => format!("Stopping container {name}: the pod's sandbox is gone"),
            Why::Replaced => format!("Container {name} definition changed, will be restarted"),
            Why::Liveness | Why::Startup => {
                let probe = if why == Why::Startup { "startup" } else { "liveness" };
                let spec = &self.pod.spec;
                let again = spec.container(&name).is_some_and(|c| spec.restarts(c, KILLED));
                let next = if again { "will be restarted" } else { "will be killed" };
                format!("Container {name} failed {probe} probe, {next}")
            }
        };
        let field = self.pod.spec.field_path(&name);
        self.context.recorder.event_at(&self.pod.object, &field, "Normal", "Killing", message);
        if let Some((_, probes)) = self.probes.remove(&name) {
            probes.abort();
        }
        let limit = self.grace.subscribe();
        let ip = self.address();
        self.spawn(|context, pod| operations::stop(context, pod, name, id, ip, grace, limit));
    }

    fn address(&self) -> std::net::IpAddr {
        let own = self.state.ready_sandbox().and_then(|s| s.ips.first().copied());
        own.unwrap_or(self.context.options.instance.node_ip)
    }

    /// Sends the end of a run when it comes.
    fn wait(&mut self, name: &str, id: &str) {
        let (name, id) = (name.to_owned(), id.to_owned());
        self.spawn(|context, _| async move {
            let exit = match context.options.runtime.wait(&id).await {
                Ok(exit) => exit,
                Err(error) => {
                    tracing::warn!(container = id, %error, "a container is lost");
                    Exit { code: KILLED, signal: None, at: base::clock::now(), oom_killed: false }
                }
            };
            Message::Exited(name, id, exit)
        });
    }

    /// Sends the end of a sandbox when it comes.
    fn wait_sandbox(&mut self, id: String) {
        self.spawn(|context, _| async move {
            if let Err(error) = context.options.runtime.sandbox_wait(&id).await {
                tracing::warn!(sandbox = id, %error, "a sandbox is lost");
            }
            Message::SandboxEnded(id)
        });
    }

    /// Starts the probes of a run.
    fn probe(&mut self, name: &str, id: &str) {
        let Some(container) = self.pod.spec.container(name).cloned() else { return };
        let (startup, liveness, readiness) =
            (&container.startup_probe, &container.liveness_probe, &container.readiness_probe);
        if startup.is_none() && liveness.is_none() && readiness.is_none() {
            return;
        }
        let (found, mut results) = mpsc::unbounded_channel();
        let started = self.state.of(name).started;
        let probed = Probed { pod: self.pod.clone(), container, id: id.to_owned(), ip: self.address() };
        let probes = probe::run(self.context.clone(), probed, started, found);
        let (sender, name, id) = (self.sender.clone(), name.to_owned(), id.to_owned());
        let key = (name.clone(), id.clone());
        let task = self.work.spawn(async move {
            let forward = async {
                while let Some(found) = results.recv().await {
                    let _ = sender.send(Message::Probed(name.clone(), id.clone(), found));
                }
            };
            tokio::join!(probes, forward);
        });
        if let Some((_, old)) = self.probes.insert(key.0, (key.1, task)) {
            old.abort();
        }
    }

    fn report(&mut self, status: Value) {
        self.reporting = true;
        let mut patch = status.clone();
        // A patch removes what is null: what was said and is no longer true must go.
        if let (Some(old), Some(new)) = (self.acked.as_object(), patch.as_object_mut()) {
            for name in ["reason", "message", "podIP", "podIPs"] {
                if old.contains_key(name) && !new.contains_key(name) {
                    new.insert(name.to_owned(), Value::Null);
                }
            }
        }
        let patch = status::as_patch(patch);
        self.spawn(|context, pod| async move {
            let body = json!({"metadata": {"uid": pod.uid}, "status": patch});
            let result = context
                .client
                .patch_sub(&gvr::PODS, &pod.namespace, &pod.name, "status", PatchType::Strategic, &body)
                .await;
            Message::Reported(status, result)
        });
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.changed(pod),
            Message::Gone => {
                self.state.orphan = true;
                self.grace.send_if_modified(|g| std::mem::replace(g, (*g).min(1)) > 1);
            }
            Message::Sources => {
                self.refresh = true;
                if let VolumesState::Failed(until) = &mut self.state.volumes {
                    *until = Instant::now();
                }
                for container in self.state.containers.values_mut() {
                    if let Some(trouble) =
                        container.trouble.as_mut().filter(|t| t.reason == "CreateContainerConfigError")
                    {
                        trouble.until = Instant::now();
                    }
                }
            }
            Message::Volumes(result) => {
                self.preparing = false;
                self.volumes(result);
            }
            Message::Sandbox(Ok(sandbox)) => {
                self.wait_sandbox(sandbox.id.clone());
                self.state.sandbox = SandboxState::Ready(sandbox);
            }
            Message::SandboxEnded(id) => {
                if self.state.ready_sandbox().is_some_and(|s| s.id == id) {
                    let text = "Pod sandbox changed, it will be killed and re-created.";
                    self.context.recorder.event(&self.pod.object, "Normal", "SandboxChanged", text);
                    self.state.sandbox = SandboxState::Gone(id);
                }
            }
            Message::SandboxDropped(_, Ok(())) => self.state.sandbox = SandboxState::Absent,
            Message::SandboxDropped(id, Err(error)) => {
                tracing::warn!(
                    pod = self.pod.title(),
                    error,
                    "an ended sandbox could not be removed; trying again"
                );
                self.spawn(|context, pod| async move {
                    // No event tells when a busy mount or cgroup becomes free.
                    tokio::time::sleep(API_RETRY).await;
                    operations::drop_sandbox(context, pod, id).await
                });
            }
            Message::Sandbox(Err(error)) => {
                let text = format!("Failed to create pod sandbox: {error}");
                self.context.recorder.event(&self.pod.object, "Warning", "FailedCreatePodSandBox", text);
                self.state.sandbox = SandboxState::Failed(Instant::now() + RETRY);
            }
            Message::Image(name, wanted, image) => {
                let current = self.pod.spec.container(&name).is_some_and(|c| c.image == wanted);
                self.container(&name).image = if current { image } else { ImageState::Unknown };
            }
            Message::Started(name, result) => self.run_started(&name, result),
            Message::Hooked(name, id, good) => {
                if self.is_current(&name, &id) {
                    self.hooked(&name, &id, good);
                }
            }
            Message::Exited(name, id, exit) => self.exited(&name, &id, exit),
            Message::Ended(name, id, ended) => self.ended(&name, &id, ended),
            // After an end it is over when the end is here: until then the run seems to go on.
            Message::Stopped(name, id, ended) => {
                if !ended && self.is_current(&name, &id) {
                    self.container(&name).stopping = false;
                }
            }
            Message::Probed(name, id, found) => {
                if self.is_current(&name, &id) {
                    let plain = self.pod.spec.container(&name).is_some_and(|c| c.readiness_probe.is_none());
                    let container = self.container(&name);
                    match found {
                        Found::Started => {
                            container.started = true;
                            container.ready |= plain;
                        }
                        Found::Ready(ready) => container.ready = ready,
                        Found::Unhealthy(unhealthy) => container.unhealthy = Some(unhealthy),
                    }
                }
            }
            Message::TornDown(kept, sandbox, result) => {
                self.state.sandbox = SandboxState::Absent;
                match result {
                    Ok(()) => self.state.clean = !kept,
                    Err(error) => {
                        tracing::warn!(
                            pod = self.pod.title(),
                            error,
                            "what a pod had could not be taken down; trying again"
                        );
                        self.state.sandbox = SandboxState::Removing;
                        let ids = self.run_ids();
                        self.spawn(|context, pod| async move {
                            // No event tells when a busy mount or cgroup becomes free.
                            tokio::time::sleep(API_RETRY).await;
                            operations::tear_down(context, pod, sandbox, ids, kept).await
                        });
                    }
                }
            }
            Message::Reported(sent, result) => self.reported(sent, result),
            // Its informer tells when it is gone for everybody.
            Message::Deleted => {}
        }
    }

    fn changed(&mut self, pod: Pod) {
        if pod.deleting {
            let grace = pod.grace();
            self.grace.send_if_modified(|g| std::mem::replace(g, (*g).min(grace)) > grace);
        }
        let refreshed = pod.labels != self.pod.labels || pod.annotations != self.pod.annotations;
        self.refresh |= refreshed;
        if pod.is_terminal() && !self.pod.is_terminal() && self.acked["phase"] != pod.phase.as_str() {
            // Somebody else said so (eviction, a node's controller): the containers must end.
            self.state.settled = false;
        }
        let rescheduled = pod.spec.active_deadline_seconds != self.pod.spec.active_deadline_seconds;
        for container in pod.spec.containers.iter().chain(&pod.spec.init_containers) {
            let before = self.pod.spec.container(&container.name);
            if before.is_some_and(|b| b.image != container.image) {
                let state = self.container(&container.name);
                // What is being fetched comes to nothing when it is there.
                if state.image != ImageState::Pulling {
                    state.image = ImageState::Unknown;
                }
            }
        }
        self.pod = pod;
        if rescheduled {
            self.set_deadline();
        }
        self.heed_others();
    }

    /// Somebody else may have written what is ours to say: a node's controller that had not heard of us, a user. Taking
    /// it for what was reported makes the difference be reported again.
    fn heed_others(&mut self) {
        let object = &self.pod.object;
        if self.reporting || object.revision() <= self.told.revision() {
            return;
        }
        if !status::agree(object.status(), self.told.status())
            && let Some(acked) = self.acked.as_object_mut()
        {
            for part in status::OBSERVED {
                acked.insert((*part).to_owned(), object.status()[*part].clone());
            }
        }
        self.told = object.clone();
    }

    fn volumes(&mut self, result: Result<Mounted, String>) {
        match result {
            Ok(mounted) => {
                self.mounted = mounted;
                self.state.volumes = VolumesState::Ready;
            }
            Err(error) => {
                self.context.recorder.event(&self.pod.object, "Warning", "FailedMount", error);
                // What is mounted stays; a refresh that failed is tried again.
                if self.state.volumes == VolumesState::Ready {
                    self.mounted.renew = Some(Instant::now() + RETRY);
                } else {
                    self.state.volumes = VolumesState::Failed(Instant::now() + RETRY);
                }
            }
        }
    }

    fn is_current(&self, name: &str, id: &str) -> bool {
        self.state.of(name).running().is_some_and(|r| r.id == id)
    }

    fn run_started(&mut self, name: &str, result: Result<Run, Trouble>) {
        let spec = self.pod.spec.clone();
        let has = |probe: fn(&crate::view::Container) -> bool| spec.container(name).is_some_and(probe);
        let hook = spec.container(name).and_then(|c| c.lifecycle.post_start.clone());
        let container = self.container(name);
        container.starting = false;
        // The next start looks for the image again: it may have been removed or moved.
        container.image = ImageState::Unknown;
        let run = match result {
            Ok(run) => run,
            Err(trouble) => {
                container.trouble = Some(trouble);
                return;
            }
        };
        container.replaced = false;
        container.last = container.run.take();
        container.unhealthy = None;
        container.started = !has(|c| c.startup_probe.is_some()) && hook.is_none();
        container.ready = !has(|c| c.readiness_probe.is_some());
        container.run = Some(run.clone());
        match &run.phase {
            RunPhase::Running { .. } => {
                self.wait(name, &run.id);
                match hook {
                    Some(hook) => {
                        let (ip, name) = (self.address(), name.to_owned());
                        self.spawn(|context, pod| {
                            operations::post_start(context, pod, name, run.id, ip, hook)
                        });
                    }
                    None => self.probe(name, &run.id),
                }
            }
            RunPhase::Exited(ended) => {
                let ended = ended.clone();
                self.back_off(name, &ended);
            }
        }
    }

    fn hooked(&mut self, name: &str, id: &str, good: bool) {
        if !good {
            let unhealthy = Unhealthy { probe: "startup", grace: None };
            self.container(name).unhealthy = Some(unhealthy);
            return;
        }
        let startup = self.pod.spec.container(name).is_some_and(|c| c.startup_probe.is_some());
        self.container(name).started = !startup;
        self.probe(name, id);
    }

    fn exited(&mut self, name: &str, id: &str, exit: Exit) {
        if !self.is_current(name, id) {
            return;
        }
        if let Some((_, probes)) = self.probes.remove(name) {
            probes.abort();
        }
        let (name, id) = (name.to_owned(), id.to_owned());
        self.spawn(|context, _| operations::ended(context, name, id, exit));
    }

    fn ended(&mut self, name: &str, id: &str, ended: Ended) {
        if !self.is_current(name, id) {
            return;
        }
        let container = self.container(name);
        let replaced = container.replaced;
        container.started = false;
        container.ready = false;
        container.stopping = false;
        container.unhealthy = None;
        container.image = ImageState::Unknown;
        if let Some(run) = &mut container.run {
            run.phase = RunPhase::Exited(ended.clone());
        }
        if replaced {
            // Another image, another history.
            self.backoffs.remove(name);
            self.hold_report = Some(Instant::now() + REPLACEMENT);
        } else {
            self.back_off(name, &ended);
        }
    }

    /// The first restart is immediate; further ones wait, longer each time, unless the container ran long enough.
    fn back_off(&mut self, name: &str, ended: &Ended) {
        let ran = base::clock::between(ended.started, ended.finished);
        let known = self.backoffs.get(name).copied().filter(|_| ran < BACKOFF_RESET);
        let Some(delay) = known else {
            self.backoffs.insert(name.to_owned(), FIRST_BACKOFF);
            return;
        };
        self.backoffs.insert(name.to_owned(), (delay * 2).min(LAST_BACKOFF));
        let container = self.container(name);
        container.backoff = Some(Instant::now() + delay);
        container.backoff_delay = delay;
        let spec = &self.pod.spec;
        let again = spec.container(name).is_some_and(|c| spec.restarts(c, ended.code));
        if again && !self.pod.deleting {
            let field = self.pod.spec.field_path(name);
            let message = format!(
                "Back-off restarting failed container {name} in pod {}_{}({})",
                self.pod.name, self.pod.namespace, self.pod.uid
            );
            self.context.recorder.event_at(&self.pod.object, &field, "Warning", "BackOff", message);
        }
    }

    fn reported(&mut self, sent: Value, result: Result<Arc<Object>, client::Error>) {
        self.reporting = false;
        match result {
            Ok(object) => {
                self.acked = sent;
                self.told = object;
                self.heed_others();
            }
            // Another pod of that name, or none: what is said about this one interests nobody.
            Err(e) if e.is_not_found() || e.is_conflict() => {
                tracing::debug!(pod = self.pod.title(), error = %e, "a status was not wanted");
                self.acked = sent;
            }
            Err(error) => {
                tracing::warn!(pod = self.pod.title(), %error, "a pod's status could not be reported; trying again");
                self.retry_report = Some(Instant::now() + API_RETRY);
            }
        }
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
