//! Stop, kill, pause, rename, update, wait, remove, prune.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::container::{Container, Mark, Phase};
use crate::error::{Error, Result, conflict, invalid, system};
use crate::filters::Filters;
use crate::model::{HostConfig, Map, UpdateBody};
use crate::{Engine, names, spec, validate};

/// The signal that cannot be refused.
const SIGKILL: i32 = 9;
/// How long a process is given to stop, seconds.
const STOP_TIMEOUT: i64 = 10;

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// It is not running now.
    #[default]
    NotRunning,
    /// Its process ends next, from now on.
    NextExit,
    /// It is gone.
    Removed,
}

/// A registered wait.
#[derive(Debug)]
pub struct Waiter {
    receiver: watch::Receiver<Mark>,
    exits: u64,
    condition: WaitCondition,
}

impl Waiter {
    pub(crate) fn new(receiver: watch::Receiver<Mark>, condition: WaitCondition) -> Waiter {
        let exits = receiver.borrow().exits;
        Waiter { receiver, exits, condition }
    }

    /// Resolves to the exit status, and the error of the last start if there was one.
    pub async fn done(mut self) -> (i32, Option<String>) {
        let (exits, condition) = (self.exits, self.condition);
        let met = |mark: &Mark| match condition {
            // As Docker: once it waits, any end is one, also if the policy starts it again.
            WaitCondition::NotRunning => !mark.up || mark.exits > exits,
            WaitCondition::NextExit => mark.exits > exits || mark.removed,
            WaitCondition::Removed => mark.removed,
        };
        let seen = self.receiver.wait_for(met).await.ok().map(|mark| mark.clone());
        let mark = seen.unwrap_or_else(|| self.receiver.borrow().clone()); // the container is gone
        // As Docker: a container that is gone has no error any more.
        let error = Some(mark.error).filter(|e| !e.is_empty() && condition != WaitCondition::Removed);
        (mark.exit_code, error)
    }
}

impl Engine {
    /// Registers a wait: what happens after this call is not missed.
    pub fn wait(&self, reference: &str, condition: WaitCondition) -> Result<Waiter> {
        if let Some(waiter) = self.foreign_wait(reference)? {
            return Ok(waiter);
        }
        let container = self.find(reference)?;
        Ok(Waiter::new(container.mark.subscribe(), condition))
    }

    /// Stops a container: its signal, then SIGKILL after the timeout (-1 never).
    pub async fn stop(
        self: &Arc<Self>,
        reference: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        if self.foreign_stop(reference, signal, timeout).await? {
            return Ok(());
        }
        let container = self.find(reference)?;
        let _op = container.op.lock().await;
        self.stop_held(&container, signal, timeout).await
    }

    async fn stop_held(
        &self,
        container: &Arc<Container>,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let (own_signal, own_timeout) = {
            let inner = container.lock();
            let config = &inner.asked.config;
            (config.stop_signal.clone(), config.stop_timeout)
        };
        if !container.up() {
            return Err(Error::NotModified(String::new()));
        }
        self.reachable(container)?;
        let name = signal.map(str::to_owned).or(own_signal).filter(|s| !s.is_empty());
        let number = validate::parse_signal(name.as_deref().unwrap_or("SIGTERM"))?;
        // Seen and noted in one step: its end may be decided about at any moment.
        let phase = container.end_wanted();
        match phase {
            Phase::Running | Phase::Paused => {}
            Phase::Restarting => {
                self.give_up_restart(container);
                self.container_event(container, "stop", &[]);
                return Ok(());
            }
            _ => return Err(Error::NotModified(String::new())),
        }
        let timeout = timeout.or(own_timeout).unwrap_or(STOP_TIMEOUT);
        let mut mark = container.mark.subscribe();
        self.send_last(container, number).await?;
        if phase == Phase::Paused {
            self.thaw(container).await?;
        }
        let ended = {
            let gone = mark.wait_for(|m| !m.process);
            match u64::try_from(timeout) {
                // A timer by nature: the grace that was asked for.
                Ok(seconds) => tokio::time::timeout(Duration::from_secs(seconds), gone).await.is_ok(),
                Err(_) => gone.await.is_ok(),
            }
        };
        if !ended {
            self.send(container, SIGKILL).await?;
            let _ = mark.wait_for(|m| !m.process).await;
        }
        self.container_event(container, "stop", &[]);
        Ok(())
    }

    /// Refuses to end what nobody would hear the end of.
    fn reachable(&self, container: &Container) -> Result<()> {
        if container.phase().alive() && self.runtime.unreached().contains(&container.id) {
            return Err(system(format!(
                "container {} is left alone: its shim could not be asked when the engine started, so whether it runs is not known. Start the engine again to have it asked again",
                container.id
            )));
        }
        Ok(())
    }

    /// Lets a frozen container go on after a signal, which it sees only then. After SIGKILL the runtime has done so.
    async fn thaw(&self, container: &Container) -> Result<()> {
        match self.runtime.resume(&container.id).await {
            Ok(()) | Err(runtime::Error::NotFound { .. } | runtime::Error::InvalidState { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        turn(container, Phase::Paused, Phase::Running);
        Ok(())
    }

    /// Ends the wait for the next restart; the container is exited then.
    fn give_up_restart(&self, container: &Container) {
        container.restart.lock().cancel();
        container.lock().life.phase = Phase::Exited;
        container.save_life();
        container.announce(|_| {});
    }

    /// Sends a signal that is to end it, after [`Container::end_wanted`]; if it cannot be sent, all is as before.
    async fn send_last(&self, container: &Container, signal: i32) -> Result<()> {
        let sent = self.send(container, signal).await;
        if sent.is_err() {
            container.lock().life.by_hand = false;
            container.save_life();
        }
        sent
    }

    async fn send(&self, container: &Container, signal: i32) -> Result<()> {
        // With the machine's pid namespace its children would survive the first process.
        let all = signal == SIGKILL && container.lock().asked.host.pid_mode == "host";
        let sent = self.runtime.signal(&container.id, signal, all).await;
        match sent {
            Ok(()) => {}
            // It ended in between: that is what was wanted.
            Err(runtime::Error::NotFound { .. } | runtime::Error::InvalidState { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        self.container_event(container, "kill", &[("signal", signal.to_string())]);
        Ok(())
    }

    /// Sends a signal; with SIGKILL waits until the process has ended.
    pub async fn kill(self: &Arc<Self>, reference: &str, signal: Option<&str>) -> Result<()> {
        let number = validate::parse_signal(signal.filter(|s| !s.is_empty()).unwrap_or("KILL"))?;
        if self.foreign_kill(reference, number).await? {
            return Ok(());
        }
        let found = self.find(reference);
        let container = found.map_err(|e| e.map(|t| format!("cannot kill container: {reference}: {t}")))?;
        self.reachable(&container)?;
        let stops = {
            let inner = container.lock();
            let own = inner.asked.config.stop_signal.as_deref().and_then(|s| validate::parse_signal(s).ok());
            number == SIGKILL || own.is_none_or(|o| o == number)
        };
        let mut mark = container.mark.subscribe();
        let exits = mark.borrow().exits;
        let mut phase = if stops { container.end_wanted() } else { container.phase() };
        if phase == Phase::Restarting {
            // There is no process to send it to; what it means is that there shall be none.
            if !stops {
                return Ok(());
            }
            let _op = container.op.lock().await;
            phase = container.phase();
            if phase == Phase::Restarting {
                self.give_up_restart(&container);
            }
            // One that was just being started gets it now.
            if !phase.alive() {
                return Ok(());
            }
        }
        if !phase.alive() {
            return Err(conflict(format!(
                "cannot kill container: {}: container {} is not running",
                reference.trim_start_matches('/'),
                container.id
            )));
        }
        if stops {
            self.send_last(&container, number).await?;
            if phase == Phase::Paused {
                self.thaw(&container).await?;
            }
        } else {
            // A frozen one gets it when it goes on.
            self.send(&container, number).await?;
        }
        if number == SIGKILL {
            let _ = mark.wait_for(|m| m.exits > exits || m.removed).await;
        }
        Ok(())
    }

    /// Stops, if it runs, and starts.
    pub async fn restart(
        self: &Arc<Self>,
        reference: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let container = self.find(reference)?;
        let _op = container.op.lock().await;
        validate::not_going(container.phase(), "restarted")?;
        let stopped = {
            // A container with --rm is not removed in between.
            let _kept = container.keep();
            self.stop_held(&container, signal, timeout).await
        };
        match stopped {
            Ok(()) | Err(Error::NotModified(_)) => {}
            Err(e) => return Err(e),
        }
        {
            let mut inner = container.lock();
            inner.life.by_hand = false;
            inner.life.restart_count = 0;
        }
        self.launch(&container).await?;
        self.container_event(&container, "restart", &[]);
        Ok(())
    }

    /// Freezes it.
    pub async fn pause(&self, reference: &str) -> Result<()> {
        let container = self.find(reference)?;
        let _op = container.op.lock().await;
        match container.phase() {
            Phase::Running => {}
            Phase::Paused => return Err(conflict(format!("Container {} is already paused", container.id))),
            Phase::Restarting => {
                return Err(conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => return Err(conflict(format!("Container {} is not running", container.id))),
        }
        self.runtime.pause(&container.id).await?;
        turn(&container, Phase::Running, Phase::Paused);
        container.announce(|_| {});
        container.save_life();
        self.container_event(&container, "pause", &[]);
        Ok(())
    }

    /// Thaws it.
    pub async fn unpause(&self, reference: &str) -> Result<()> {
        let container = self.find(reference)?;
        let _op = container.op.lock().await;
        if container.phase() != Phase::Paused {
            return Err(conflict(format!("Container {} is not paused", container.id)));
        }
        self.runtime.resume(&container.id).await?;
        turn(&container, Phase::Paused, Phase::Running);
        container.announce(|_| {});
        container.save_life();
        self.container_event(&container, "unpause", &[]);
        Ok(())
    }

    /// Gives it another name.
    pub async fn rename(&self, reference: &str, name: &str) -> Result<()> {
        let container = self.find(reference)?;
        let _op = container.op.lock().await;
        validate::not_going(container.phase(), "renamed")?;
        if name.is_empty() {
            return Err(invalid("Neither old nor new names may be empty"));
        }
        let failed = |e: Error| e.map(|text| format!("Error when allocating new name: {text}"));
        let with_slash = format!("/{}", name.trim_start_matches('/'));
        let new = names::check(&with_slash).map_err(failed)?.to_owned();
        let old = container.name();
        if old == new {
            return Err(invalid("Renaming a container with the same name as its current name"));
        }
        {
            let mut all = self.names.lock();
            all.claim(&new, &container.id).map_err(failed)?;
            all.release(&old);
        }
        container.lock().asked.name.clone_from(&new);
        if let Err(error) = container.save_asked() {
            let mut all = self.names.lock();
            all.claim(&old, &container.id)?;
            all.release(&new);
            container.lock().asked.name = old;
            return Err(error);
        }
        let asked = container.lock().asked.endpoints.clone();
        let attached: Vec<String> = container.lock().life.attached.keys().cloned().collect();
        for network in attached {
            let Ok(net) = self.networks.get(&network) else { continue };
            self.enter_names(&container, &net, &asked.get(&network).cloned().unwrap_or_default());
        }
        self.container_event(&container, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// Changes limits and the restart policy, of a running container at once.
    pub async fn update(&self, reference: &str, request: UpdateBody) -> Result<Value> {
        let container = self.find(reference)?;
        let _op = container.op.lock().await;
        validate::not_going(container.phase(), "updated")?;
        let mut asked = request.as_host();
        let warnings = crate::limits::check(&mut asked, true)?;
        validate::restart_policy(&asked.restart_policy)?;
        let cannot = |e: Error| {
            let text = format!("Cannot update container {}: {e}", container.id);
            if matches!(e, Error::Conflict(_)) { conflict(text) } else { system(text) }
        };
        let mut host = container.lock().asked.host.clone();
        apply(&mut host, &asked).map_err(cannot)?;
        if container.phase().alive() {
            let changes = spec::resources(&asked);
            self.runtime.update(&container.id, &changes).await.map_err(|e| cannot(e.into()))?;
        }
        container.lock().asked.host = host;
        container.save_asked()?;
        self.container_event(&container, "update", &[]);
        Ok(json!({"Warnings": if warnings.is_empty() { Value::Null } else { json!(warnings) }}))
    }

    /// Removes a container.
    pub async fn remove(
        self: &Arc<Self>,
        reference: &str,
        force: bool,
        volumes: bool,
        link: bool,
    ) -> Result<()> {
        if link {
            return self.remove_link(reference);
        }
        let container = self.find(reference)?;
        let _op = match container.op.try_lock() {
            Ok(guard) => guard,
            Err(_) if container.phase() == Phase::Removing => {
                return Err(conflict(format!("removal of container {} is already in progress", reference)));
            }
            Err(_) => {
                // A stop may be waiting for a long time until the process has ended; force does not wait for that.
                if force && container.phase().alive() {
                    self.reachable(&container)?;
                    container.end_wanted();
                    self.send_last(&container, SIGKILL).await?;
                }
                container.op.lock().await
            }
        };
        let (phase, name) = {
            let inner = container.lock();
            (inner.life.phase, inner.asked.name.clone())
        };
        if self.by_id(&container.id).is_none() {
            return Err(Error::no_container(reference));
        }
        if force {
            self.reachable(&container)?;
        }
        match phase {
            Phase::Removing => {
                return Err(conflict(format!("removal of container {reference} is already in progress")));
            }
            Phase::Running | Phase::Restarting if !force => {
                return Err(conflict(format!(
                    "cannot remove container \"{name}\": container is {}: stop the container before removing or force remove",
                    phase.word()
                )));
            }
            Phase::Paused if !force => {
                return Err(conflict(format!(
                    "cannot remove container \"{name}\": container is paused and must be unpaused first"
                )));
            }
            Phase::Restarting => self.give_up_restart(&container),
            Phase::Running | Phase::Paused => {
                let mut mark = container.mark.subscribe();
                container.end_wanted();
                // Whoever removes it here removes it, not the watcher of its process.
                let _kept = container.keep();
                self.send_last(&container, SIGKILL).await?;
                if phase == Phase::Paused {
                    self.thaw(&container).await?;
                }
                let _ = mark.wait_for(|m| !m.process).await;
            }
            _ => {}
        }
        self.discard(&container, volumes).await
    }

    /// Removes a link of the default network, given as `container/alias`.
    fn remove_link(&self, reference: &str) -> Result<()> {
        let (name, alias) = reference.trim_start_matches('/').rsplit_once('/').ok_or_else(|| {
            invalid(format!("Invalid link name: {reference}: it should be CONTAINER/ALIAS"))
        })?;
        let container = self.find(name)?;
        let known = {
            let mut inner = container.lock();
            let links = &mut inner.asked.host.links;
            let before = links.len();
            links.retain(|l| crate::create::parse_link(l).is_ok_and(|(_, a)| a != alias));
            links.len() < before
        };
        if !known {
            return Err(Error::NotFound(format!("Cannot get parent {name} for link {alias}: no such link")));
        }
        container.save_asked()
    }

    /// Takes away everything of a container that has no process; whoever calls holds its `op`.
    pub(crate) async fn discard(self: &Arc<Self>, container: &Arc<Container>, volumes: bool) -> Result<()> {
        let before = std::mem::replace(&mut container.lock().life.phase, Phase::Removing);
        container.waiting.lock().clear();
        self.disconnect_all(container).await;
        let fail = |e: Error| {
            container.lock().life.phase = if before == Phase::Removing { Phase::Dead } else { before };
            e
        };
        self.runtime.delete(&container.id, true).await.map_err(|e| fail(e.into()))?;
        self.discard_image_mounts(container).await.map_err(fail)?;
        // Without this file it is half-made, and the next start removes the rest.
        match std::fs::remove_file(container.dir.join("config.json")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(fail(system(format!("removing container {}: {e}", container.short()))));
            }
            _ => {}
        }
        self.discard_layer(&container.id).await.map_err(fail)?;
        // Nobody needs to wait for the rest of its folder.
        let gone = container.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = std::fs::remove_dir_all(&gone.dir) {
                tracing::warn!(container = %gone.short(), %error, "its folder could not be removed");
            }
        });
        self.forget(container);
        self.forget_execs(container);
        if volumes {
            self.remove_anonymous(container).await;
        }
        self.container_event(container, "destroy", &[]);
        container.mark.send_modify(|mark| {
            mark.removed = true;
            mark.up = false;
            mark.process = false;
        });
        Ok(())
    }

    /// Removes the volumes of a container that is gone which nobody named.
    pub(crate) async fn remove_anonymous(&self, container: &Container) {
        let mounts = container.lock().asked.mounts.clone();
        for point in mounts.iter().filter(|p| p.anonymous && p.kind == "volume" && !p.name.is_empty()) {
            match self.volume_remove(&point.name, true).await {
                Ok(()) | Err(Error::Conflict(_)) => {} // another container has it by --volumes-from
                Err(error) => tracing::warn!(volume = %point.name, %error, "an anonymous volume stays"),
            }
        }
    }

    /// Removes every container that does not run.
    pub async fn prune(self: &Arc<Self>, filters: &Filters) -> Result<Value> {
        filters.only(&["label", "label!", "until"])?;
        let until = filters.get("until").first().map(|t| crate::filters::timestamp(t)).transpose()?;
        let mut deleted = Vec::new();
        let mut freed = 0;
        for container in self.all() {
            let fits = {
                let inner = container.lock();
                matches!(inner.life.phase, Phase::Created | Phase::Exited | Phase::Dead)
                    && until.is_none_or(|u| inner.asked.created <= u)
                    && filters.labels(&inner.asked.config.labels)
            };
            if !fits {
                continue;
            }
            let size = self.images.usage(&container.id).await.unwrap_or(0);
            if self.remove(&container.id, false, false, false).await.is_ok() {
                freed += size;
                deleted.push(container.id.clone());
            }
        }
        self.events.publish(
            "container",
            "prune",
            "",
            Map::from([("reclaimed".to_owned(), freed.to_string())]),
        );
        Ok(json!({"ContainersDeleted": deleted, "SpaceReclaimed": freed}))
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, reference: &str, rows: u16, columns: u16) -> Result<()> {
        if let Some(id) = self.pod(reference)? {
            return Ok(self.runtime.resize(&id, None, rows, columns).await?);
        }
        let container = self.find(reference)?;
        if !container.phase().alive() {
            return Err(conflict(format!(
                "cannot resize a stopped container: container {} is not running",
                container.id
            )));
        }
        self.runtime.resize(&container.id, None, rows, columns).await?;
        let size = [("height", rows.to_string()), ("width", columns.to_string())];
        self.container_event(&container, "resize", &size);
        Ok(())
    }

    /// Ends every container and waits for it; each has its own stop signal and timeout.
    pub async fn stop_all(self: &Arc<Self>) -> Result<()> {
        let mut all = tokio::task::JoinSet::new();
        for container in self.all() {
            if container.up() {
                let engine = self.clone();
                all.spawn(async move {
                    let by_hand = container.lock().life.by_hand;
                    let _op = container.op.lock().await;
                    let result = engine.stop_held(&container, None, None).await;
                    // It comes back by its restart policy when the engine does.
                    container.lock().life.by_hand = by_hand;
                    container.save_life();
                    result
                });
            }
        }
        let mut first = Ok(());
        while let Some(result) = all.join_next().await {
            match result {
                Ok(Ok(()) | Err(Error::NotModified(_))) => {}
                Ok(Err(e)) => first = first.and(Err(e)),
                Err(e) => first = first.and(Err(system(e.to_string()))),
            }
        }
        first
    }
}

/// Puts what an update asks for into a host configuration; zero leaves a value.
fn apply(host: &mut HostConfig, update: &HostConfig) -> Result<()> {
    let conflicts = [
        (
            update.nano_cpus > 0 && host.cpu_period > 0,
            "Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            update.nano_cpus > 0 && host.cpu_quota > 0,
            "Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            update.cpu_period > 0 && host.nano_cpus > 0,
            "CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            update.cpu_quota > 0 && host.nano_cpus > 0,
            "CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
    ];
    if let Some((_, text)) = conflicts.into_iter().find(|(conflicting, _)| *conflicting) {
        return Err(conflict(format!("Conflicting options: {text}")));
    }
    // Docker's own words; -1 is no limit.
    if update.memory != 0
        && update.memory > host.memory_swap
        && host.memory_swap != -1
        && update.memory_swap == 0
    {
        return Err(conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    if host.auto_remove && !matches!(update.restart_policy.name.as_str(), "" | "no") {
        return Err(conflict(
            "Restart policy cannot be updated because AutoRemove is enabled for the container",
        ));
    }
    let number = |own: &mut i64, new: i64| {
        if new != 0 {
            *own = new;
        }
    };
    number(&mut host.cpu_shares, update.cpu_shares);
    number(&mut host.memory, update.memory);
    number(&mut host.memory_swap, update.memory_swap);
    number(&mut host.memory_reservation, update.memory_reservation);
    number(&mut host.nano_cpus, update.nano_cpus);
    number(&mut host.cpu_period, update.cpu_period);
    number(&mut host.cpu_quota, update.cpu_quota);
    number(&mut host.cpu_realtime_period, update.cpu_realtime_period);
    number(&mut host.cpu_realtime_runtime, update.cpu_realtime_runtime);
    if update.blkio_weight != 0 {
        host.blkio_weight = update.blkio_weight;
    }
    let text = |own: &mut String, new: &String| {
        if !new.is_empty() {
            own.clone_from(new);
        }
    };
    text(&mut host.cpuset_cpus, &update.cpuset_cpus);
    text(&mut host.cpuset_mems, &update.cpuset_mems);
    if let Some(limit) = update.pids_limit {
        host.pids_limit = Some(limit.max(0));
    }
    if !update.restart_policy.name.is_empty() {
        host.restart_policy = update.restart_policy.clone();
    }
    Ok(())
}

/// Changes the phase, unless it has become another meanwhile: its process may have ended.
fn turn(container: &Container, from: Phase, to: Phase) {
    let mut inner = container.lock();
    if inner.life.phase == from {
        inner.life.phase = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_leave_what_is_zero() {
        let mut host = HostConfig { memory: 1 << 26, cpu_shares: 7, ..HostConfig::default() };
        let memory = |memory, memory_swap| HostConfig { memory, memory_swap, ..HostConfig::default() };
        assert!(apply(&mut host, &memory(1 << 27, 0)).is_err(), "beyond the swap limit that is there");
        apply(&mut host, &memory(1 << 27, -1)).unwrap();
        assert_eq!((host.memory, host.memory_swap, host.cpu_shares), (1 << 27, -1, 7));
        host.nano_cpus = 1_000_000_000;
        let quota = HostConfig { cpu_quota: 5000, ..HostConfig::default() };
        assert!(matches!(apply(&mut host, &quota), Err(Error::Conflict(_))));
        host.auto_remove = true;
        let mut policy = HostConfig::default();
        policy.restart_policy.name = "always".into();
        assert!(apply(&mut host, &policy).is_err());
    }

    #[tokio::test]
    async fn waiters() {
        let (sender, receiver) = watch::channel(Mark { up: true, process: true, ..Mark::default() });
        let waiter = |condition| Waiter { receiver: receiver.clone(), exits: 0, condition };
        let next = tokio::spawn(waiter(WaitCondition::NextExit).done());
        let stopped = tokio::spawn(waiter(WaitCondition::NotRunning).done());
        let removed = tokio::spawn(waiter(WaitCondition::Removed).done());
        // It ended, and its policy starts it again.
        sender.send_modify(|m| {
            m.exits = 1;
            m.exit_code = 7;
        });
        assert_eq!(next.await.unwrap(), (7, None));
        sender.send_modify(|m| m.up = false);
        assert_eq!(stopped.await.unwrap().0, 7);
        assert!(!removed.is_finished());
        sender.send_modify(|m| m.removed = true);
        assert_eq!(removed.await.unwrap().0, 7);
    }
}
