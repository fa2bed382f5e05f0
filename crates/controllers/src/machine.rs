//! What all controllers share: informers → keys → queue → [`Controller::reconcile`] (observe, decide) → carry out.
//!
//! A key is in one pair of hands at a time, and it stays there until the caches show what was just done for it. So a
//! decision is never made on a state from before the previous one, and no expectations have to be counted.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use api::{Gvr, Key, Object, Value, meta};
use async_trait::async_trait;
use client::{
    Change, Client, DeleteOptions, Error, Informer, Informers, PatchType, Recorder, Result, WorkQueue,
};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long to wait for the caches to show what was done, before deciding on what they show anyway. It is a guard against
/// a cache that has lost its server, whose return nothing else announces.
const CATCH_UP: Duration = Duration::from_secs(30);
/// How many keys of one controller are worked on at once.
const WORKERS: usize = 8;
/// How many objects one decision makes or deletes at most; the rest is for the next.
pub(crate) const BURST: usize = 500;

/// One thing to do. Actions are carried out in order; neighbours that make (or delete) objects of one resource go together.
#[derive(Debug, Clone)]
pub enum Action {
    /// Make an object (its namespace is in its metadata).
    Create {
        /// The resource.
        gvr: Gvr,
        /// The object.
        object: Value,
        /// Whom to tell about it.
        announce: Option<Announce>,
    },
    /// Replace an object, if it is still at the revision that it names.
    Update {
        /// The resource.
        gvr: Gvr,
        /// The object.
        object: Value,
    },
    /// Replace an object's sub-resource (`status`, `finalize`), if it is still at the revision that it names.
    UpdateSub {
        /// The resource.
        gvr: Gvr,
        /// The sub-resource.
        sub: &'static str,
        /// The object.
        object: Value,
    },
    /// Merge-patch an object, or with `sub` its sub-resource.
    Patch {
        /// The resource.
        gvr: Gvr,
        /// Its namespace and name.
        key: Key,
        /// The sub-resource; `""`: the object itself.
        sub: &'static str,
        /// An RFC 7386 patch.
        patch: Value,
    },
    /// Delete an object, unless another one has its name by now. That it is gone already is as good.
    Delete {
        /// The resource.
        gvr: Gvr,
        /// The object.
        object: Arc<Object>,
        /// How.
        options: DeleteOptions,
        /// Whom to tell about it.
        announce: Option<Announce>,
    },
    /// Delete every object of a resource in a namespace.
    DeleteCollection {
        /// The resource.
        gvr: Gvr,
        /// The namespace.
        namespace: String,
    },
    /// Tell people something about an object.
    Event {
        /// The object.
        about: Arc<Object>,
        /// `Normal` or `Warning`.
        kind: &'static str,
        /// The reason.
        reason: &'static str,
        /// The text.
        message: String,
    },
}

impl Action {
    /// Replaces an object's status.
    pub fn status(gvr: &Gvr, object: &Object, status: Value) -> Action {
        let mut value = object.value().clone();
        value["status"] = status;
        Action::UpdateSub { gvr: gvr.clone(), sub: "status", object: value }
    }

    /// Deletes an object and says nothing.
    pub fn delete(gvr: &Gvr, object: &Arc<Object>) -> Action {
        let options = DeleteOptions::uid(object.uid());
        Action::Delete { gvr: gvr.clone(), object: object.clone(), options, announce: None }
    }

    /// Patches an object.
    pub fn patch(gvr: &Gvr, object: &Object, patch: Value) -> Action {
        Action::Patch { gvr: gvr.clone(), key: object.key(), sub: "", patch }
    }

    /// An event.
    pub fn event(
        about: &Arc<Object>,
        kind: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Action {
        Action::Event { about: about.clone(), kind, reason, message: message.into() }
    }
}

/// Whom to tell that something was made or deleted, or could not be. `{}` stands for the object's name in the text of
/// success, for the error in that of failure.
#[derive(Debug, Clone)]
pub struct Announce {
    /// The object that the events are about.
    pub about: Arc<Object>,
    /// Reason and text of success.
    pub success: (&'static str, String),
    /// Reason and text of failure.
    pub failure: (&'static str, String),
}

impl Announce {
    /// `Created pod: x`, as most controllers say it.
    pub fn created(about: &Arc<Object>, what: &str) -> Option<Announce> {
        Some(Announce {
            about: about.clone(),
            success: ("SuccessfulCreate", format!("Created {what}: {{}}")),
            failure: ("FailedCreate", "Error creating: {}".into()),
        })
    }

    /// `Deleted pod: x`.
    pub fn deleted(about: &Arc<Object>, what: &str) -> Option<Announce> {
        Some(Announce {
            about: about.clone(),
            success: ("SuccessfulDelete", format!("Deleted {what}: {{}}")),
            failure: ("FailedDelete", "Error deleting: {}".into()),
        })
    }
}

/// What a controller wants done about a key.
#[derive(Debug, Default)]
pub struct Decision {
    /// What to do now.
    pub actions: Vec<Action>,
    /// When to look again though nothing may have happened: only for what time alone changes.
    pub again: Option<Duration>,
}

impl Decision {
    /// Looks again after `delay`, or sooner if that was decided already.
    pub fn after(&mut self, delay: Duration) {
        self.again = Some(self.again.map_or(delay, |a| a.min(delay)));
    }
}

impl From<Vec<Action>> for Decision {
    fn from(actions: Vec<Action>) -> Self {
        Self { actions, again: None }
    }
}

/// Which keys a change concerns.
pub type Keys = Box<dyn Fn(&Change) -> Vec<Key> + Send + Sync>;

/// A resource that a controller looks at.
pub struct Source {
    /// Its objects.
    pub informer: Arc<Informer>,
    /// Which of the controller's keys a change of one of them concerns.
    pub keys: Keys,
}

impl Source {
    /// The objects are the controller's keys themselves.
    pub fn own(informer: &Arc<Informer>) -> Source {
        Source { informer: informer.clone(), keys: Box::new(|c| vec![c.object().key()]) }
    }

    /// Any other relation.
    pub fn with(
        informer: &Arc<Informer>,
        keys: impl Fn(&Change) -> Vec<Key> + Send + Sync + 'static,
    ) -> Source {
        Source { informer: informer.clone(), keys: Box::new(keys) }
    }

    /// Only looked at: its changes concern nobody at once, but it must be complete before anything is decided.
    pub fn read(informer: &Arc<Informer>) -> Source {
        Source::with(informer, |_| Vec::new())
    }
}

/// One controller. See the crate's first lines.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// Its name, as upstream's: the source of its events.
    fn name(&self) -> &'static str;
    /// What it looks at.
    fn sources(&self) -> Vec<Source>;
    /// Keys that it finds out about by itself, not from a source; asked for once.
    fn wakes(&self) -> Option<mpsc::UnboundedReceiver<Key>> {
        None
    }
    /// Observes and decides. `failure` is what went wrong the last time that this key was worked on.
    async fn reconcile(&self, key: &Key, failure: Option<&str>) -> Result<Decision>;
}

/// Starts controllers and carries out what they decide.
pub struct Machine {
    client: Client,
    informers: Informers,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Machine {
    /// A machine whose controllers call through `client` and end with `shutdown`.
    pub fn new(client: Client, informers: Informers, shutdown: CancellationToken) -> Self {
        Self { client, informers, shutdown, tasks: TaskTracker::new() }
    }

    /// The informer of a resource.
    pub fn informer(&self, gvr: &Gvr) -> Arc<Informer> {
        self.informers.of(gvr)
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn informers(&self) -> &Informers {
        &self.informers
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Resolves once every task has ended, which they do after shutdown.
    pub async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Starts a controller.
    pub fn start(&self, controller: impl Controller) {
        let name = controller.name();
        let sources = controller.sources();
        let queue = WorkQueue::named(name.trim_end_matches("-controller"));
        if let Some(mut wakes) = controller.wakes() {
            let (queue, shutdown) = (queue.clone(), self.shutdown.clone());
            self.tasks.spawn(async move {
                while let Some(Some(key)) = shutdown.run_until_cancelled(wakes.recv()).await {
                    queue.add(key);
                }
            });
        }
        let informers: Vec<Arc<Informer>> = sources.iter().map(|s| s.informer.clone()).collect();
        for source in sources {
            let (queue, shutdown) = (queue.clone(), self.shutdown.clone());
            self.tasks.spawn(async move {
                let mut changes = source.informer.subscribe();
                while let Some(Some(change)) = shutdown.run_until_cancelled(changes.recv()).await {
                    for key in (source.keys)(&change) {
                        queue.add(key);
                    }
                }
                queue.close();
            });
        }
        let hands = Arc::new(Hands {
            controller: Box::new(controller),
            client: self.client.named(name),
            recorder: crate::recorder(self, name),
            informers: informers.iter().map(|i| (i.gvr().clone(), i.clone())).collect(),
            queue,
            failures: Mutex::default(),
        });
        let shutdown = self.shutdown.clone();
        let workers = self.tasks.clone();
        self.tasks.spawn(async move {
            let synced = async {
                for informer in &informers {
                    informer.synced().await;
                }
            };
            if shutdown.run_until_cancelled(synced).await.is_none() {
                return;
            }
            for _ in 0..WORKERS {
                let (hands, shutdown) = (hands.clone(), shutdown.clone());
                workers.spawn(async move {
                    shutdown.run_until_cancelled(hands.work()).await;
                });
            }
        });
    }
}

/// What works on one controller's queue.
struct Hands {
    controller: Box<dyn Controller>,
    client: Client,
    recorder: Recorder,
    informers: HashMap<Gvr, Arc<Informer>>,
    queue: WorkQueue<Key>,
    failures: Mutex<HashMap<Key, String>>,
}

impl Hands {
    async fn work(&self) {
        while let Some(key) = self.queue.next().await {
            let failure = self.failures.lock().get(&key).cloned();
            let outcome = AssertUnwindSafe(self.once(&key, failure.as_deref())).catch_unwind().await;
            let name = self.controller.name();
            match outcome {
                Ok(Ok(again)) => {
                    if failure.is_some() {
                        self.failures.lock().remove(&key);
                        self.queue.add(key.clone()); // what was said about the failure must be taken back
                    }
                    self.queue.forget(&key);
                    if let Some(delay) = again {
                        self.queue.add_after(key.clone(), delay);
                    }
                }
                Ok(Err(e)) if e.is_conflict() => {
                    tracing::trace!(controller = name, %key, error = %e, "changed in between");
                    self.queue.add_failed(key.clone());
                }
                Ok(Err(e)) => {
                    tracing::debug!(controller = name, %key, error = %e, "failed, trying again");
                    self.failures.lock().insert(key.clone(), e.to_string());
                    self.queue.add_failed(key.clone());
                }
                Err(_) => {
                    tracing::error!(controller = name, %key, "the controller panicked over this object");
                    self.queue.add_failed(key.clone());
                }
            }
            self.queue.done(&key);
        }
    }

    async fn once(&self, key: &Key, failure: Option<&str>) -> Result<Option<Duration>> {
        let Decision { actions, again } = self.controller.reconcile(key, failure).await?;
        if actions.is_empty() {
            return Ok(again);
        }
        tracing::trace!(controller = self.controller.name(), %key, actions = actions.len(), "carrying out");
        let mut seen = Seen::default();
        let result = self.carry_out(actions, &mut seen).await;
        if tokio::time::timeout(CATCH_UP, seen.in_caches(&self.informers)).await.is_err() {
            tracing::warn!(controller = self.controller.name(), %key, "the cache is behind by more than {CATCH_UP:?}");
        }
        result.map(|()| again)
    }

    async fn carry_out(&self, actions: Vec<Action>, seen: &mut Seen) -> Result<()> {
        let mut rest = actions.into_iter().peekable();
        while let Some(first) = rest.next() {
            let mut group = vec![first];
            while let Some(next) = rest.next_if(|n| together(&group[0], n)) {
                group.push(next);
            }
            if let [_] = group.as_slice() {
                self.one(group.remove(0), seen).await?;
            } else {
                self.batch(group, seen).await?;
            }
        }
        Ok(())
    }

    /// Slow start: 1, 2, 4, ... at once, so that what must fail fails once and not hundreds of times.
    async fn batch(&self, mut group: Vec<Action>, seen: &mut Seen) -> Result<()> {
        let mut size = if matches!(group[0], Action::Delete { .. }) { group.len() } else { 1 };
        while !group.is_empty() {
            let now: Vec<Action> = group.drain(..size.min(group.len())).collect();
            let results = futures::future::join_all(now.into_iter().map(|action| async {
                let mut seen = Seen::default();
                let result = self.one(action, &mut seen).await;
                (result, seen)
            }))
            .await;
            let mut failed = None;
            for (result, one) in results {
                seen.merge(one);
                if let Err(e) = result {
                    failed = Some(e);
                }
            }
            if let Some(e) = failed {
                return Err(e);
            }
            size *= 2;
        }
        Ok(())
    }

    async fn one(&self, action: Action, seen: &mut Seen) -> Result<()> {
        match action {
            Action::Create { gvr, object, announce } => {
                let result = self.client.create(&gvr, meta::namespace(&object), &object).await;
                self.announce(announce.as_ref(), result.as_ref().map(|o| o.name()));
                match result {
                    Ok(made) => seen.wrote(gvr, &made),
                    // Nothing more is to be done there; the namespace's end will end this object too.
                    Err(e) if e.is_namespace_terminating() => {}
                    Err(e) => return Err(e),
                }
            }
            Action::Update { gvr, object } => {
                seen.wrote(gvr.clone(), &*self.client.update(&gvr, &object).await?)
            }
            Action::UpdateSub { gvr, sub, object } => {
                match self.client.update_sub(&gvr, sub, &object).await {
                    Ok(written) => seen.wrote(gvr, &written),
                    Err(e) if e.is_not_found() => {}
                    Err(e) => return Err(e),
                }
            }
            Action::Patch { gvr, key, sub, patch } => {
                let result = if sub.is_empty() {
                    self.client.patch(&gvr, &key.namespace, &key.name, PatchType::Merge, &patch).await
                } else {
                    self.client
                        .patch_sub(&gvr, &key.namespace, &key.name, sub, PatchType::Merge, &patch)
                        .await
                };
                match result {
                    Ok(written) => seen.wrote(gvr, &written),
                    Err(e) if e.is_not_found() => {}
                    Err(e) => return Err(e),
                }
            }
            Action::Delete { gvr, object, options, announce } => {
                let result = self.client.delete(&gvr, object.namespace(), object.name(), &options).await;
                match result {
                    Ok(_) => self.announce(announce.as_ref(), Ok(object.name())),
                    // Gone, or another one has taken its name: the one that was meant is gone.
                    Err(e) if e.is_not_found() || e.is_conflict() => {}
                    Err(e) => {
                        self.announce(announce.as_ref(), Err(&e));
                        return Err(e);
                    }
                }
                seen.gone.push((gvr, object));
            }
            Action::DeleteCollection { gvr, namespace } => {
                let (all, options) = (client::ListOptions::default(), DeleteOptions::background());
                match self.client.delete_collection(&gvr, &namespace, &all, &options).await {
                    Err(e) if !e.is_not_found() => return Err(e),
                    _ => {}
                }
            }
            Action::Event { about, kind, reason, message } => {
                self.recorder.event(&about, kind, reason, message)
            }
        }
        Ok(())
    }

    fn announce(&self, announce: Option<&Announce>, result: std::result::Result<&str, &Error>) {
        let Some(a) = announce else { return };
        match result {
            Ok(name) => self.recorder.event(&a.about, "Normal", a.success.0, a.success.1.replace("{}", name)),
            Err(e) if e.is_namespace_terminating() => {}
            Err(e) => {
                self.recorder.event(
                    &a.about,
                    "Warning",
                    a.failure.0,
                    a.failure.1.replace("{}", &e.to_string()),
                );
            }
        }
    }
}

fn together(a: &Action, b: &Action) -> bool {
    match (a, b) {
        (Action::Create { gvr: a, .. }, Action::Create { gvr: b, .. })
        | (Action::Delete { gvr: a, .. }, Action::Delete { gvr: b, .. }) => a == b,
        _ => false,
    }
}

/// What was done, and the caches must show.
#[derive(Default)]
struct Seen {
    written: HashMap<Gvr, u64>,
    gone: Vec<(Gvr, Arc<Object>)>,
}

impl Seen {
    fn wrote(&mut self, gvr: Gvr, object: &Object) {
        let newest = self.written.entry(gvr).or_default();
        *newest = object.revision().max(*newest);
    }

    fn merge(&mut self, other: Seen) {
        for (gvr, revision) in other.written {
            let newest = self.written.entry(gvr).or_default();
            *newest = revision.max(*newest);
        }
        self.gone.extend(other.gone);
    }

    async fn in_caches(&self, informers: &HashMap<Gvr, Arc<Informer>>) {
        for (gvr, revision) in &self.written {
            if let Some(informer) = informers.get(gvr) {
                informer.reached(*revision).await;
            }
        }
        for (gvr, object) in &self.gone {
            if let Some(informer) = informers.get(gvr) {
                informer.gone(object.namespace(), object.name(), object.uid()).await;
            }
        }
    }
}
