//! The engine: what it holds, how it starts, and how it finds again what the daemon before it left running.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use image::ImageStore;
use ipnet::{IpNet, Ipv4Net};
use network::Network;
use parking_lot::{Mutex, RwLock};
use runtime::{Exit, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::container::{Container, Phase};
use crate::error::{Error, Result, system};
use crate::events::Bus;
use crate::exec::Exec;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::networks::{AddressPools, Networks};
use crate::quota::Quotas;
use crate::settings::Settings;
use crate::volumes::Volumes;

/// What an engine is made of.
pub struct EngineOptions {
    /// Its paths and names.
    pub instance: base::Instance,
    /// What runs its containers.
    pub runtime: Arc<dyn Runtime>,
    /// Its images.
    pub images: Arc<ImageStore>,
    /// Its bridges and ports.
    pub network: Arc<Network>,
    /// Its daemon.json.
    pub settings: Settings,
}

/// The engine. Cheap to share; every method may be called at any time from anywhere.
pub struct Engine {
    instance: base::Instance,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) network: Arc<Network>,
    pub(crate) events: Bus,
    settings: RwLock<Arc<Settings>>,
    pub(crate) metrics: Metrics,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    pub(crate) names: Mutex<Names>,
    pub(crate) volumes: Arc<Volumes>,
    /// What containers' layers may take.
    pub(crate) layer_quotas: Quotas,
    pub(crate) networks: Networks,
    /// The name servers of this machine.
    pub(crate) upstreams: network::dns::Upstreams,
    /// Held while a network is made or removed.
    pub(crate) network_changes: tokio::sync::Mutex<()>,
    pub(crate) execs: Mutex<HashMap<String, Arc<Exec>>>,
    pub(crate) foreign: crate::foreign::Foreign,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) id: String,
    /// What new containers' users and groups are on the machine, if they are not the same.
    pub(crate) ids: Option<sys::userns::IdMaps>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({})", self.instance.name())
    }
}

impl Engine {
    /// Starts the engine of an instance: finds its containers, volumes and networks, and brings what it knows in line
    /// with what the runtime says.
    pub async fn open(options: EngineOptions) -> Result<Arc<Engine>> {
        let EngineOptions { instance, runtime, images, network, settings } = options;
        configure_registries(&images, &settings);
        let root = instance.data_dir.join("engine");
        std::fs::create_dir_all(root.join("containers")).map_err(Error::io(root.display()))?;
        let id = engine_id(&root)?;
        let own = instance.address_pools.clone();
        let pools = if own.is_empty() { settings.address_pools()? } else { AddressPools::new(own)? };
        let pools = pools.with_local6(&id);
        let remap = settings.userns_remap.clone();
        let ids = crate::volumes::blocking(move || crate::userns::resolve(&remap)).await?;
        if crate::quota::default_size(&settings.storage_opts).is_ok_and(|s| s.is_some()) {
            match crate::system::backing(&instance.data_dir) {
                "xfs" => {}
                other => {
                    return Err(system(format!(
                        "Storage Option overlay2.size only supported for backingFS XFS. Found {other}"
                    )));
                }
            }
        }
        crate::limits::abilities().tell_lacking();
        let own = own_bridge(&network, &settings).await?;
        network.set_forwarding(settings.ip_forward);
        if settings.ip_forward_no_drop {
            network.let_pass()?;
        }
        let engine = Arc::new(Engine {
            ids,
            layer_quotas: Quotas::new(images.snapshots_dir(), "fs"),
            volumes: Arc::new(Volumes::open(instance.data_dir.join("volumes"))?),
            networks: Networks::open(root.join("networks"), &instance, pools, &settings, own)?,
            upstreams: network::dns::Upstreams::system(vec![crate::resolver::OWN.into()]),
            id,
            instance,
            runtime,
            images,
            network,
            events: Bus::default(),
            settings: RwLock::new(Arc::new(settings)),
            metrics: Metrics::default(),
            containers: RwLock::default(),
            names: Mutex::default(),
            network_changes: tokio::sync::Mutex::default(),
            execs: Mutex::default(),
            foreign: crate::foreign::Foreign::default(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        engine.reconcile().await?;
        Ok(engine)
    }

    /// Its paths and names.
    pub fn instance(&self) -> &base::Instance {
        &self.instance
    }

    /// Its images.
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.images
    }

    /// Its settings as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    /// Takes over from `new` what a running engine can change, and tells it as an event.
    pub fn reload(&self, new: &Settings) {
        let now = Arc::new(self.settings().reloaded(new));
        configure_registries(&self.images, &now);
        *self.settings.write() = now.clone();
        self.events.publish("daemon", "reload", &self.id, now.reload_attributes());
    }

    /// What it has counted and measured.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What runs its containers.
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.runtime
    }

    /// The bus of events.
    pub fn events(&self) -> &Bus {
        &self.events
    }

    /// Ends the engine's own tasks; containers go on.
    pub async fn shutdown(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) fn containers_dir(&self) -> PathBuf {
        self.instance.data_dir.join("engine/containers")
    }

    /// Every container, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.containers.read().values().cloned().collect()
    }

    /// The container that a name, an id or an id's prefix means.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Container>> {
        let id = self.names.lock().resolve(reference)?;
        self.containers.read().get(&id).cloned().ok_or_else(|| Error::no_container(reference))
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<Arc<Container>> {
        self.containers.read().get(id).cloned()
    }

    pub(crate) fn insert(&self, container: Arc<Container>) {
        self.containers.write().insert(container.id.clone(), container);
    }

    pub(crate) fn forget(&self, container: &Container) {
        self.containers.write().remove(&container.id);
        let mut names = self.names.lock();
        names.release(&container.name());
        names.forget(&container.id);
    }

    pub(crate) fn container_event(&self, container: &Container, action: &str, more: &[(&str, String)]) {
        self.events.publish("container", action, &container.id, container.attributes(more));
    }

    /// Runs a task that ends with the engine.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Reads the containers' folders and compares them with what the runtime knows.
    async fn reconcile(self: &Arc<Self>) -> Result<()> {
        let dir = self.containers_dir();
        let (mut found, mut unread) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&dir).map_err(Error::io(dir.display()))? {
            let path = entry.map_err(Error::io(dir.display()))?.path();
            let Some(id) = path.file_name().and_then(|n| n.to_str()).map(str::to_owned) else { continue };
            match Container::load(&id, &path) {
                Ok(container) => found.push(container),
                Err(_) if !path.join("config.json").exists() => {
                    // Creation writes config.json last, removal deletes it first.
                    tracing::info!(container = %id, "removing a half-made container");
                    let _ = std::fs::remove_dir_all(&path);
                    self.discard_leftover(&id).await;
                }
                Err(error) => unread.push((id, path, error)),
            }
        }
        for container in &found {
            self.insert(container.clone());
            let claimed = self.names.lock().claim(&container.name(), &container.id);
            if let Err(error) = claimed {
                // A power cut can have undone a renaming.
                let name = self.names.lock().generate(&container.id);
                tracing::warn!(container = %container.short(), %error, "it is called {name} from now on");
                container.lock().asked.name = name;
                container.save_asked()?;
            }
        }
        let states = self.runtime.list().await?;
        let unreached = self.runtime.unreached();
        let mut alive = Vec::new();
        for (id, path, error) in &unread {
            let known = states.iter().any(|s| s.id == *id) || unreached.contains(id);
            if Container::passing(path) && !known {
                // Torn by a power cut, after which it would have been removed all the same.
                tracing::info!(%error, "removing a container with --rm that cannot be read");
                let _ = std::fs::remove_dir_all(path);
                self.discard_leftover(id).await;
            } else {
                tracing::error!(%error, "a container cannot be read and is left alone, its process too");
                alive.push(id.clone());
            }
        }
        let mut running: HashMap<String, runtime::State> = HashMap::new();
        for state in states {
            if alive.contains(&state.id) {
                continue;
            }
            match state.spec.labels.get(crate::OWNER_LABEL).map(String::as_str) {
                Some("engine") if self.by_id(&state.id).is_some() => {
                    running.insert(state.id.clone(), state);
                }
                Some("engine" | "build") => {
                    tracing::info!(container = %state.id, "removing a container that nobody knows");
                    // What hangs in the kernel is tried again at the next start.
                    match self.runtime.delete(&state.id, true).await {
                        Ok(()) => self.discard_leftover(&state.id).await,
                        Err(error) => {
                            tracing::error!(container = %state.id, %error, "it could not be removed");
                        }
                    }
                }
                _ => self.foreign.insert(state),
            }
        }
        let mut keep: Vec<String> = Vec::new();
        let bridge = self.networks.get("bridge").map(|net| net.record.id.clone()).unwrap_or_default();
        for net in self.networks.list() {
            if !net.record.bridge.is_empty() {
                keep.push(net.record.bridge.clone());
            }
            // The default bridge is made when the first container needs it, the others stand.
            if net.record.id != bridge
                && let Err(error) = self.link_up(&net).await
            {
                tracing::error!(network = %net.record.name, %error, "the network's link could not be made");
            }
        }
        // The pods' bridge is the kubelet's.
        let pods = self.instance.link("p");
        let kept = self.network.retain_bridges(|name| name == pods || keep.iter().any(|k| k == name)).await;
        if let Err(error) = kept {
            tracing::error!(%error, "bridges that nobody needs could not be removed");
        }
        self.watch_foreign();
        // Before anything is started again, or it would be given what those have that are found later.
        for container in &found {
            let runs = running.get(&container.id).is_some_and(|s| s.pid.is_some());
            if runs || unreached.contains(&container.id) {
                self.claim_addresses(container);
            }
        }
        for container in found {
            if unreached.contains(&container.id) {
                // It may well run: what is known of it stays, and the next start asks again.
                tracing::error!(container = %container.short(), "its shim could not be asked: it is left alone");
                alive.push(container.id.clone());
                continue;
            }
            let state = running.remove(&container.id);
            if state.as_ref().is_some_and(|s| s.pid.is_some() && s.started_at.is_some()) {
                alive.push(container.id.clone());
            }
            self.resume(container, state).await;
        }
        let kept = self
            .network
            .ports()
            .retain(|owner| owner.starts_with("pod:") || alive.iter().any(|id| id == owner));
        if let Err(error) = kept {
            tracing::error!(%error, "ports that nobody publishes any more could not be freed");
        }
        Ok(())
    }

    /// Removes the layer of a container that is gone; if it cannot be, the next start tries again.
    async fn discard_leftover(&self, id: &str) {
        if let Err(error) = self.discard_layer(id).await {
            tracing::error!(container = %id, %error, "its layer could not be removed");
        }
    }

    /// Takes one container over from the daemon before.
    async fn resume(self: &Arc<Self>, container: Arc<Container>, state: Option<runtime::State>) {
        let phase = container.phase();
        match state {
            Some(state) if state.pid.is_some() && state.started_at.is_some() => {
                {
                    let mut inner = container.lock();
                    inner.life.phase =
                        if state.status == runtime::Status::Paused { Phase::Paused } else { Phase::Running };
                    inner.life.pid = state.pid.unwrap_or_default();
                    // Saved as running: its time is ours. Else the daemon died between the start and that.
                    if !phase.alive() || inner.life.started_at.is_none() {
                        inner.life.started_at = state.started_at;
                        inner.life.finished_at = None;
                        inner.life.exit_code = 0;
                    }
                }
                container.announce(|_| {});
                self.rejoin(&container).await;
                self.watch_process(&container);
                self.start_health(&container, false);
            }
            Some(state) if state.exit.is_some() && phase.alive() => {
                // It ended while no daemon ran: what happens now is what would have happened then.
                self.watch_process(&container);
            }
            Some(_) => {
                // Created and never started, or its end is already known: only the runtime's part is left over.
                if let Err(error) = self.runtime.delete(&container.id, true).await {
                    tracing::warn!(container = %container.short(), %error, "leftovers could not be removed");
                }
                self.resume_dead(container).await;
            }
            None => self.resume_dead(container).await,
        }
    }

    /// A container without any trace in the runtime: the machine was restarted, or it had ended before.
    async fn resume_dead(self: &Arc<Self>, container: Arc<Container>) {
        let (phase, end) = {
            let inner = container.lock();
            let life = &inner.life;
            let exit = |at| Exit { code: life.exit_code, signal: None, at, oom_killed: life.oom_killed };
            (life.phase, life.finished_at.map(exit))
        };
        match (phase, end) {
            // The daemon was killed while it cleaned up: how it ended had been noted.
            (Phase::Running | Phase::Paused, Some(exit)) => {
                let engine = self.clone();
                self.spawn(async move { engine.ended(&container, exit).await });
                return;
            }
            // It had ended, and what becomes of it was decided: only what is left of the wait is to come.
            (Phase::Restarting, Some(exit)) => {
                let waited = base::clock::between(exit.at, base::clock::now());
                let delay = container.lock().life.last_delay.saturating_sub(waited);
                self.release_volumes(&container, true).await;
                container.announce(|_| {});
                let given_up = container.next_restart();
                self.restart_later(&container, delay, given_up);
                return;
            }
            _ => {}
        }
        let (again, remove) = {
            let mut inner = container.lock();
            let was_running = phase.up();
            if was_running {
                inner.life.phase = Phase::Exited;
                inner.life.pid = 0;
                inner.life.attached.clear();
                inner.life.ports.clear();
                inner.life.exit_code = 255;
                inner.life.finished_at = Some(base::clock::now());
            }
            if inner.life.phase == Phase::Removing {
                inner.life.phase = Phase::Dead;
            }
            let started = inner.life.phase == Phase::Exited;
            let policy = &inner.asked.host.restart_policy;
            let again = started && crate::restart::after_reboot(policy, was_running, inner.life.by_hand);
            (again, inner.life.phase == Phase::Dead || (started && inner.asked.host.auto_remove))
        };
        self.release_volumes(&container, true).await;
        container.announce(|_| {});
        container.save_life();
        if remove {
            if let Err(error) = self.discard(&container, true).await {
                tracing::warn!(container = %container.short(), %error, "it could not be removed");
            }
        } else if again {
            let engine = self.clone();
            self.spawn(async move {
                let _op = container.op.lock().await;
                if let Err(error) = engine.launch(&container).await {
                    tracing::warn!(container = %container.short(), %error, "it could not be started again");
                }
            });
        }
    }
}

/// The address of the bridge that somebody else has made for the default network; `None` if it has none, or if the bridge
/// is ours.
async fn own_bridge(network: &Network, settings: &Settings) -> Result<Option<Ipv4Net>> {
    let Ok(Some(name)) = settings.own_bridge() else { return Ok(None) };
    if !network.link().list().await?.iter().any(|l| l.name == name && l.kind == "bridge") {
        return Err(system(format!("bridge device with non default name {name} must be created manually")));
    }
    let addresses = network.link().addresses(name).await?;
    Ok(addresses.iter().find_map(|a| match a {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    }))
}

/// Tells the images what the settings say of registries.
fn configure_registries(images: &ImageStore, settings: &Settings) {
    let before = images.registry_config();
    images.configure_registries(image::RegistryConfig {
        insecure: settings.insecure_registries.clone(),
        mirrors: settings.registry_mirrors.clone(),
        certificates: before.certificates,
        patience: before.patience,
        ..settings.transfers()
    });
}

/// The engine's id: made once, kept.
fn engine_id(root: &std::path::Path) -> Result<String> {
    let path = root.join("id");
    if let Ok(id) = std::fs::read_to_string(&path) {
        return Ok(id.trim().to_owned());
    }
    let id = base::rng::uuid();
    base::fsx::write_atomic(&path, id.as_bytes(), 0o600).map_err(Error::io(path.display()))?;
    Ok(id)
}
