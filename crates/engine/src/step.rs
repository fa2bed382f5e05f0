//! One step of a build: a process in a snapshot that somebody else made, with a network as a container has it.

use std::sync::Arc;

use oci_spec::runtime::{LinuxResources, Mount};
use runtime::{Chunk, ExecErrorKind, LogSpec, Rootfs};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::container::{Asked, Container, Life};
use crate::error::{Error, Result};
use crate::model::{Config, EndpointSettings, HostConfig};
use crate::{Engine, OWNER_LABEL, spec, validate};

/// What is to be run.
#[derive(Debug, Clone, Default)]
pub struct StepSpec {
    /// 64 hexadecimal digits: the container's id and the key of a snapshot that exists. It is neither made, committed
    /// nor discarded here.
    pub id: String,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The complete environment; PATH is added where it is missing.
    pub env: Vec<String>,
    /// Empty is `/`.
    pub working_dir: String,
    /// As in an image's configuration; empty is root.
    pub user: String,
    /// Empty is the id's first twelve digits.
    pub hostname: String,
    /// As `docker run --network` has it; empty is the default bridge.
    pub network_mode: String,
    /// `name:address`
    pub extra_hosts: Vec<String>,
    /// Bytes of /dev/shm.
    pub shm_size: Option<u64>,
    /// Further mounts, after the default ones.
    pub mounts: Vec<Mount>,
    /// Limits.
    pub resources: Option<LinuxResources>,
    /// Limits of its processes; the daemon's where there are none.
    pub ulimits: Vec<crate::model::Ulimit>,
    /// The cgroup below which its own is made, inside the instance's; empty is the one of all steps.
    pub cgroup_parent: String,
    /// All capabilities and devices, no filter.
    pub privileged: bool,
}

impl Engine {
    /// Runs a step and returns its exit code; its output is in `output` by then. Nothing of it is left, also when it
    /// is cancelled. It is no container of `docker ps`.
    pub async fn run_step(
        self: &Arc<Self>,
        step: StepSpec,
        output: mpsc::Sender<Chunk>,
        cancel: CancellationToken,
    ) -> Result<i32> {
        let mut host = HostConfig {
            network_mode: step.network_mode.clone(),
            extra_hosts: step.extra_hosts.clone(),
            shm_size: step.shm_size.and_then(|s| i64::try_from(s).ok()).unwrap_or(0),
            privileged: step.privileged,
            ulimits: step.ulimits.clone(),
            ..HostConfig::default()
        };
        host.log_config.driver = "none".into();
        validate::host(&mut host)?;
        let mut endpoints = indexmap::IndexMap::new();
        if let Some(other) = host.network_mode.strip_prefix("container:") {
            host.network_mode = format!("container:{}", self.find(other)?.id);
        } else {
            let net = self.networks.get(&host.network_mode)?;
            host.network_mode.clone_from(&net.record.name);
            endpoints.insert(net.record.name.clone(), EndpointSettings::default());
        }
        let hostname = match (step.hostname.as_str(), host.network_mode.as_str()) {
            ("", "host") => crate::system::hostname(),
            ("", _) => step.id.get(..12).unwrap_or(&step.id).to_owned(),
            (name, _) => name.to_owned(),
        };
        // What the whole machine is given to keeps its ids.
        let whole = host.privileged || host.network_mode == "host";
        let ids = self.ids.clone().filter(|_| !whole);
        let config = Config {
            hostname,
            user: step.user.clone(),
            env: step.env.clone(),
            working_dir: step.working_dir.clone(),
            ..Config::default()
        };
        let asked = Asked {
            name: format!("build-{}", &step.id[..12.min(step.id.len())]),
            created: base::clock::now(),
            config,
            host,
            image: String::new(),
            args: step.args.clone(),
            mounts: Vec::new(),
            endpoints,
            driver: "overlay2".into(),
            ids,
        };
        // Its files are of no use after it, so they lie in the run folder.
        let dir = self.instance().run_dir.join("build").join(&step.id);
        std::fs::create_dir_all(&dir).map_err(Error::io(dir.display()))?;
        let container = Container::new(step.id.clone(), dir.clone(), asked, Life::default());
        // A creation comes to its end: given up half-way, nobody would find what it goes on to make.
        let result = match self.make_step(&container, &step).await {
            Ok(()) => tokio::select! {
                result = self.carry_out(&step, output) => result,
                () = cancel.cancelled() => Err(Error::System("the build was cancelled".into())),
            },
            Err(e) => Err(e),
        };
        container.resolver.lock().take();
        let deleted = self.runtime.delete(&step.id, true).await;
        self.disconnect_all(&container).await;
        let _ = std::fs::remove_dir_all(&dir); // the run folder goes with a reboot
        deleted?;
        result
    }

    async fn make_step(self: &Arc<Self>, container: &Arc<Container>, step: &StepSpec) -> Result<()> {
        let links = self.prepare_endpoints(container).await?;
        let files = self.write_files(container, &links)?;
        let snapshot = self.images.snapshot(&step.id)?;
        let asked = container.lock().asked.clone();
        let net = match asked.host.network_mode.strip_prefix("container:") {
            Some(other) => Some(self.find(other)?.lock().life.pid),
            None => None,
        };
        let mut spec = spec::build(spec::Input {
            id: &step.id,
            asked: &asked,
            rootfs: Rootfs::Overlay {
                lower: snapshot.lower,
                upper: snapshot.upper,
                work: snapshot.work,
                readonly: false,
            },
            hostname: asked.config.hostname.clone(),
            link_env: Vec::new(),
            groups: Vec::new(),
            joined: spec::Joined { net, ..spec::Joined::default() },
            files,
            log: LogSpec::None,
            cgroup: match step.cgroup_parent.as_str() {
                "" => format!("{}/build/{}", self.instance().cgroup_parent(), step.id),
                parent => {
                    let parent = crate::mounts::clean(parent);
                    format!("{}{parent}/{}", self.instance().cgroup_parent(), step.id)
                }
            },
            image_mounts: Default::default(),
            cdi_dirs: Vec::new(),
            runtime: self.settings().runtime(&asked.host.runtime)?,
        })?;
        let mut mounts = spec.oci.mounts().clone().unwrap_or_default();
        mounts.extend(step.mounts.iter().cloned().map(|mut m| {
            // Caches, secrets and other stages hold the step's own ids.
            let mut options = m.options().clone().unwrap_or_default();
            if asked.ids.is_some() && options.iter().any(|o| matches!(o.as_str(), "bind" | "rbind")) {
                options.push("idmap".into());
                m.set_options(Some(options));
            }
            m
        }));
        spec.oci.set_mounts(Some(mounts));
        if let Some(limits) = &step.resources {
            let mut linux = spec.oci.linux().clone().unwrap_or_default();
            let mut limits = limits.clone();
            if let Some(own) = linux.resources() {
                limits.set_devices(own.devices().clone());
            }
            linux.set_resources(Some(limits));
            spec.oci.set_linux(Some(linux));
        }
        spec.labels.insert(OWNER_LABEL.to_owned(), "build".to_owned());
        self.create_connected(container, &spec).await
    }

    async fn carry_out(self: &Arc<Self>, step: &StepSpec, output: mpsc::Sender<Chunk>) -> Result<i32> {
        let mut io = self.runtime.attach(&step.id).await?;
        match self.runtime.start(&step.id).await {
            Ok(()) => {}
            Err(runtime::Error::Exec { kind, message }) => {
                let chunk = Chunk { stream: runtime::Stream::Stderr, data: format!("{message}\n").into() };
                let _ = output.send(chunk).await; // the client may be gone
                return Ok(if kind == ExecErrorKind::NotFound { 127 } else { 126 });
            }
            Err(e) => return Err(e.into()),
        }
        while let Some(chunk) = io.output.recv().await {
            if output.send(chunk).await.is_err() {
                break;
            }
        }
        Ok(self.runtime.wait(&step.id).await?.code)
    }
}

/// Limits for the steps of a build, checked as a container's are; none if nothing is limited.
pub fn limits(host: &HostConfig) -> Result<Option<LinuxResources>> {
    let mut host = host.clone();
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory * 2;
    }
    crate::limits::check(&mut host, false)?;
    let limits = spec::resources(&host);
    let nothing = limits.memory().is_none() && limits.cpu().is_none();
    Ok((!nothing).then_some(limits))
}
