//! Starting a container, watching its process, and what happens when that ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use runtime::{ExecErrorKind, Exit, Rootfs};
use tokio_util::sync::CancellationToken;

use crate::container::{Container, Phase};
use crate::error::{Error, Result, conflict};
use crate::files;
use crate::restart::{self, Ended};
use crate::{Engine, spec, validate};

impl Engine {
    /// Starts a container that is not running.
    pub async fn start(self: &Arc<Self>, reference: &str) -> Result<()> {
        let container = self.find(reference)?;
        let _op = container.op.lock().await;
        match container.phase() {
            Phase::Running => return Err(Error::NotModified(String::new())),
            Phase::Paused => {
                return Err(conflict("cannot start a paused container, try unpause instead"));
            }
            Phase::Restarting => container.restart.lock().cancel(),
            phase => validate::not_going(phase, "started")?,
        }
        {
            let mut inner = container.lock();
            inner.life.restart_count = 0;
            inner.life.last_delay = Duration::ZERO;
            inner.life.by_hand = false;
        }
        let result = self.launch(&container).await;
        if result.is_err() && container.lock().asked.host.auto_remove {
            self.discard(&container, true).await?;
        }
        result
    }

    /// Starts a container's process; whoever calls holds its `op`.
    pub(crate) async fn launch(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let result = self.try_launch(container).await;
        let Err(Failed { error, exit_code }) = result else { return Ok(()) };
        container.resolver.lock().take();
        if let Err(e) = self.runtime.delete(&container.id, true).await {
            tracing::warn!(container = %container.short(), error = %e, "a failed start could not be cleaned up");
        }
        self.disconnect_all(container).await;
        container.waiting.lock().clear();
        {
            let mut inner = container.lock();
            let fresh = inner.life.phase == Phase::Created;
            inner.life.phase = if fresh { Phase::Created } else { Phase::Exited };
            inner.life.exit_code = exit_code;
            inner.life.error = error.to_string();
            inner.life.pid = 0;
        }
        container.save_life();
        container.announce(|mark| mark.exits += 1);
        Err(error)
    }

    async fn try_launch(self: &Arc<Self>, container: &Arc<Container>) -> std::result::Result<(), Failed> {
        // Until it runs and is seen to: nobody mounts its layers beside it.
        let _layers = container.layers.write().await;
        let joined = self.joined(container)?;
        let links = self.prepare_endpoints(container).await?;
        let input = self.spec_input(container, &joined, links).await?;
        container.lock().life.health = None;
        self.create_connected(container, &input).await?;
        // Saved before the process runs: a daemon that comes back finds the addresses of what it finds running.
        container.save_life();
        self.attach_waiting(container).await;
        self.runtime.start(&container.id).await.map_err(exec_error)?;
        {
            let mut inner = container.lock();
            inner.life.phase = Phase::Running;
            inner.life.started_at = Some(base::clock::now());
            inner.life.finished_at = None;
            inner.life.exit_code = 0;
            inner.life.oom_killed = false;
            inner.life.error.clear();
        }
        self.attach_waiting(container).await;
        container.announce(|_| {});
        self.container_event(container, "start", &[]);
        self.start_health(container, true);
        container.save_life();
        self.watch_process(container);
        Ok(())
    }

    /// Gives everybody who waits for the container's start its streams.
    async fn attach_waiting(&self, container: &Container) {
        let waiting = std::mem::take(&mut *container.waiting.lock());
        for one in waiting.into_iter().filter(|one| !one.stream.is_closed()) {
            self.attach_now(container, one.stream, one.stdin).await;
        }
    }

    /// The processes whose namespaces are joined.
    fn joined(&self, container: &Container) -> Result<spec::Joined> {
        let own = container.lock().asked.clone();
        let host = &own.host;
        let pid = |mode: &str, what: &str| -> Result<Option<u32>> {
            let Some(reference) = mode.strip_prefix("container:") else { return Ok(None) };
            let other = self.find(reference)?;
            let inner = other.lock();
            crate::userns::can_join(&own, &inner.asked)?;
            if !inner.life.phase.alive() {
                return Err(conflict(format!("cannot join {what} of a non running container: {}", other.id)));
            }
            if inner.life.phase == Phase::Restarting {
                return Err(conflict(format!("cannot join {what} of a restarting container: {}", other.id)));
            }
            let shares = !matches!(inner.asked.host.ipc_mode.as_str(), "private" | "none");
            if what == "IPC" && !shares {
                return Err(Error::Invalid(format!(
                    "failed to join IPC namespace: container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                    other.id
                )));
            }
            Ok(Some(inner.life.pid))
        };
        Ok(spec::Joined {
            net: pid(&host.network_mode, "network")?,
            ipc: pid(&host.ipc_mode, "IPC")?,
            pid: pid(&host.pid_mode, "PID")?,
        })
    }

    /// The runtime's specification, with everything on disk that it refers to.
    async fn spec_input(
        &self,
        container: &Arc<Container>,
        joined: &spec::Joined,
        links: crate::connect::Links,
    ) -> Result<runtime::ContainerSpec> {
        let asked = container.lock().asked.clone();
        let snapshot = self.images.snapshot(&container.id)?;
        let files = self.write_files(container, &links)?;
        let log = crate::logs::log_spec(container, &asked)?;
        for point in &asked.mounts {
            if point.kind == "bind" && !point.source.exists() {
                if !point.make_source {
                    return Err(Error::Invalid(format!(
                        "invalid mount config for type \"bind\": bind source path does not exist: {}",
                        point.source.display()
                    )));
                }
                std::fs::create_dir_all(&point.source).map_err(Error::io(format_args!(
                    "error while creating mount source path '{}'",
                    point.source.display()
                )))?;
            }
        }
        if asked.mounts.iter().any(|p| !matches!(p.propagation.as_str(), "" | "private" | "rprivate")) {
            let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            asked.mounts.iter().try_for_each(|p| crate::mounts::check_spread(p, &info))?;
        }
        let groups = self.groups(&asked.host.group_add, &snapshot).await?;
        let parent = if asked.host.cgroup_parent.is_empty() {
            format!("{}/docker", self.instance().cgroup_parent())
        } else {
            let parent = crate::mounts::clean(&asked.host.cgroup_parent);
            format!("{}{parent}", self.instance().cgroup_parent())
        };
        let mut image_mounts = HashMap::new();
        for (number, point) in asked.mounts.iter().enumerate().filter(|(_, p)| p.kind == "image") {
            image_mounts.insert(point.destination.clone(), self.image_mount(container, number, point).await?);
        }
        let mut asked = asked;
        // Who shares a network has its name there.
        if let Some(other) =
            asked.host.network_mode.strip_prefix("container:").and_then(|r| self.find(r).ok())
        {
            let theirs = other.lock().asked.config.clone();
            (asked.config.hostname, asked.config.domainname) = (theirs.hostname, theirs.domainname);
        }
        let hostname = asked.config.hostname.clone();
        self.hold_volumes(container, &mut asked.mounts).await?;
        spec::build(spec::Input {
            id: &container.id,
            asked: &asked,
            rootfs: Rootfs::Overlay {
                lower: snapshot.lower,
                upper: snapshot.upper,
                work: snapshot.work,
                readonly: asked.host.readonly_rootfs,
            },
            hostname,
            link_env: links.variables,
            groups,
            joined: joined.clone(),
            files,
            log,
            cgroup: format!("{parent}/{}", container.id),
            image_mounts,
            cdi_dirs: self.settings().cdi_dirs(),
            runtime: self.settings().runtime(&asked.host.runtime)?,
        })
    }

    /// Waits for the end of a container's process on a task of its own.
    pub(crate) fn watch_process(self: &Arc<Self>, container: &Arc<Container>) {
        let (engine, container) = (self.clone(), container.clone());
        self.spawn(async move {
            match engine.runtime.wait(&container.id).await {
                Ok(exit) => engine.ended(&container, exit).await,
                Err(error) => {
                    tracing::error!(container = %container.short(), %error, "its process is lost");
                    let exit = Exit { code: 255, signal: None, at: base::clock::now(), oom_killed: false };
                    engine.ended(&container, exit).await;
                }
            }
        });
    }

    /// Begins health checks, if the container has any.
    pub(crate) fn start_health(self: &Arc<Self>, container: &Arc<Container>, anew: bool) {
        let plan = {
            let mut inner = container.lock();
            let config = &inner.asked.config;
            let plan = crate::health::plan(config.healthcheck.as_ref(), &config.shell);
            if plan.is_some() && (anew || inner.life.health.is_none()) {
                inner.life.health = Some(crate::health::Health::starting());
            }
            plan
        };
        if let Some(plan) = plan {
            let stop = CancellationToken::new();
            *container.health.lock() = stop.clone();
            self.spawn(crate::health::watch(self.clone(), container.clone(), plan, stop));
        }
    }

    /// A container's process has ended.
    pub(crate) async fn ended(self: &Arc<Self>, container: &Arc<Container>, exit: Exit) {
        container.health.lock().cancel();
        container.resolver.lock().take();
        self.forget_execs(container);
        let oom_told = {
            // The runtime is about to forget how it ended: a daemon that comes back in between knows it from here.
            let mut inner = container.lock();
            inner.life.exit_code = exit.code;
            inner.life.finished_at = Some(exit.at);
            let told = inner.life.oom_killed;
            inner.life.oom_killed |= exit.oom_killed;
            told
        };
        container.save_life();
        if let Err(error) = self.runtime.delete(&container.id, true).await {
            tracing::warn!(container = %container.short(), %error, "its leftovers could not be removed");
        }
        self.disconnect_all(container).await;
        // There before anybody can see that it waits, so that it can be given up.
        let given_up = container.next_restart();
        let (delay, remove) = {
            let mut inner = container.lock();
            let started = inner.life.started_at.unwrap_or(exit.at);
            // Decided where it takes effect: whoever stops it meanwhile finds it running, and must be heard.
            let ended = Ended {
                exit_code: exit.code,
                by_hand: inner.life.by_hand || self.shutdown.is_cancelled(),
                restarts: inner.life.restart_count,
                ran_for: base::clock::between(started, exit.at),
                last_delay: inner.life.last_delay,
            };
            let delay = restart::decide(&inner.asked.host.restart_policy, ended);
            inner.life.phase = if delay.is_some() { Phase::Restarting } else { Phase::Exited };
            inner.life.pid = 0;
            if let Some(delay) = delay {
                inner.life.restart_count += 1;
                inner.life.last_delay = delay;
            }
            (delay, delay.is_none() && inner.asked.host.auto_remove && !inner.kept)
        };
        if exit.oom_killed && !oom_told {
            self.container_event(container, "oom", &[]);
        }
        let ran = {
            let inner = container.lock();
            base::clock::between(inner.life.started_at.unwrap_or(exit.at), exit.at).as_secs()
        };
        self.container_event(
            container,
            "die",
            &[("exitCode", exit.code.to_string()), ("execDuration", ran.to_string())],
        );
        if !remove {
            container.save_life();
        }
        if let Some(delay) = delay {
            self.restart_later(container, delay, given_up);
        }
        container.announce(|mark| mark.exits += 1);
        if remove {
            let _op = container.op.lock().await;
            if container.phase() == Phase::Exited
                && let Err(error) = self.discard(container, true).await
            {
                tracing::warn!(container = %container.short(), %error, "it could not be removed");
            }
        }
    }

    /// The kernel has killed one of a container's processes for want of memory, not always the first.
    pub(crate) fn out_of_memory(&self, container: &Container) {
        container.lock().life.oom_killed = true;
        container.save_life();
        self.container_event(container, "oom", &[]);
    }

    /// Starts a container again after a while, unless that is given up.
    pub(crate) fn restart_later(
        self: &Arc<Self>,
        container: &Arc<Container>,
        delay: Duration,
        given_up: CancellationToken,
    ) {
        let (engine, container) = (self.clone(), container.clone());
        self.spawn(async move { engine.restart_after(&container, delay, given_up).await });
    }

    async fn restart_after(
        self: Arc<Self>,
        container: &Arc<Container>,
        delay: Duration,
        given_up: CancellationToken,
    ) {
        // A timer by nature: the back-off.
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = given_up.cancelled() => return,
        }
        let _op = container.op.lock().await;
        if given_up.is_cancelled() || container.phase() != Phase::Restarting {
            return;
        }
        if let Err(error) = self.launch(container).await {
            tracing::warn!(container = %container.short(), %error, "it could not be restarted");
        }
    }

    /// hostname, hosts and resolv.conf; those of the other container if its network is shared.
    pub(crate) fn write_files(
        &self,
        container: &Container,
        links: &crate::connect::Links,
    ) -> Result<Option<std::path::PathBuf>> {
        let asked = container.lock().asked.clone();
        if let Some(other) = asked.host.network_mode.strip_prefix("container:") {
            return Ok(Some(self.find(other)?.dir.clone()));
        }
        let user_network = container.lock().life.attached.keys().any(|n| crate::networks::user_defined(n));
        let ids = asked.ids.as_ref();
        files::write(&container.dir, "hostname", &format!("{}\n", asked.config.hostname), ids)?;
        let hosts = if asked.host.network_mode == "host" {
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            for (address, names) in &links.extra {
                text.push_str(&format!("{address}\t{}\n", names.join(" ")));
            }
            text
        } else {
            let mut lines = links.extra.clone();
            let names = files::own_names(&asked.config);
            for attached in container.lock().life.attached.values() {
                lines.extend(attached.addresses().map(|a| (a.addr().to_string(), names.clone())));
            }
            files::hosts(&lines)
        };
        files::write(&container.dir, "hosts", &hosts, ids)?;
        let resolv = if asked.host.network_mode == "host" && asked.host.dns.is_empty() {
            std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
        } else {
            files::resolv(&asked.host, user_network)
        };
        files::write(&container.dir, "resolv.conf", &resolv, ids)?;
        Ok(Some(container.dir.clone()))
    }
}

/// A start that failed, and the exit status that the container has for it.
struct Failed {
    error: Error,
    exit_code: i32,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        // Docker's number for "it is not the command's fault".
        Failed { error, exit_code: 128 }
    }
}

/// The runtime's words for a command that cannot be executed, as the client expects them.
fn exec_error(e: runtime::Error) -> Failed {
    match e {
        runtime::Error::Exec { kind, message } => {
            let known = ["not found", "no such file", "permission denied", "is a directory"];
            let hint = match kind {
                ExecErrorKind::NotFound if !known[..2].iter().any(|k| message.contains(k)) => {
                    ": no such file or directory"
                }
                ExecErrorKind::NotExecutable if !known[2..].iter().any(|k| message.contains(k)) => {
                    ": permission denied"
                }
                _ => "",
            };
            let error = Error::Invalid(format!(
                "failed to create task for container: OCI runtime create failed: unable to start container process: {message}{hint}"
            ));
            Failed { error, exit_code: if kind == ExecErrorKind::NotFound { 127 } else { 126 } }
        }
        other => Error::from(other).into(),
    }
}
