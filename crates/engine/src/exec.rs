//! `docker exec`: one more process in a running container.

use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Process;
use parking_lot::Mutex;
use runtime::{ExecSpec, Exit, IoStream};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::container::{Container, Phase};
use crate::error::{Error, Result, conflict, invalid, not_found, system};
use crate::model::{Config, ExecConfig, HostConfig};
use crate::{Engine, spec};

/// How long a request to resize waits for the exec's start.
const READY: Duration = Duration::from_secs(10);
/// How many ended execs of one container are remembered.
const REMEMBERED: usize = 64;
/// How many execs of one container may be there that nobody has started: one more, and the oldest is forgotten.
const PREPARED: usize = 1024;

/// One exec.
#[derive(Debug)]
pub(crate) struct Exec {
    pub id: String,
    pub container: String,
    pub config: ExecConfig,
    created: jiff::Timestamp,
    state: Mutex<ExecState>,
    /// True once its process runs or could not be started.
    begun: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy, Default)]
struct ExecState {
    /// It was started once; a second time is refused.
    started: bool,
    running: bool,
    pid: u32,
    exit_code: Option<i32>,
}

/// How to start an exec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecStart {
    /// Nobody reads its output.
    pub detach: bool,
    /// Rows and columns of its terminal.
    pub size: Option<(u16, u16)>,
}

impl Engine {
    /// Prepares an exec; its id.
    pub fn exec_create(&self, reference: &str, config: ExecConfig) -> Result<String> {
        let (id, foreign) = match self.pod(reference)? {
            Some(id) => (id, true),
            None => (self.runnable(reference)?.id.clone(), false),
        };
        if config.cmd.is_empty() {
            return Err(invalid("No exec command specified"));
        }
        crate::attach::DetachKeys::parse(&config.detach_keys)?;
        let exec = Arc::new(Exec {
            id: base::rng::hex(32),
            container: id.clone(),
            config,
            created: base::clock::now(),
            state: Mutex::default(),
            begun: watch::Sender::new(false),
        });
        let mut all = self.execs.lock();
        let mut ended: Vec<String> = all
            .values()
            .filter(|e| e.container == id && e.state.lock().exit_code.is_some())
            .map(|e| e.id.clone())
            .collect();
        if ended.len() >= REMEMBERED {
            // Ids are random: which of the ended ones go does not matter.
            ended.truncate(REMEMBERED / 2);
            all.retain(|id, _| !ended.contains(id));
        }
        let prepared = all.values().filter(|e| e.container == id && !e.state.lock().started);
        let mut oldest = None;
        if prepared.clone().count() >= PREPARED {
            oldest = prepared.min_by_key(|e| e.created).map(|e| e.id.clone());
        }
        if let Some(oldest) = &oldest {
            all.remove(oldest);
        }
        all.insert(exec.id.clone(), exec.clone());
        drop(all);
        if !foreign {
            let container = self.find(&id)?;
            {
                let mut inner = container.lock();
                inner.life.execs.retain(|id| Some(id) != oldest.as_ref());
                inner.life.execs.push(exec.id.clone());
            }
            let action = format!("exec_create: {}", line(&exec.config.cmd));
            self.container_event(&container, &action, &[("execID", exec.id.clone())]);
        }
        Ok(exec.id.clone())
    }

    /// A container in which something can be executed.
    fn runnable(&self, reference: &str) -> Result<Arc<Container>> {
        let container = self.find(reference)?;
        match container.phase() {
            Phase::Running => Ok(container),
            Phase::Paused => {
                Err(conflict(format!("Container {reference} is paused, unpause the container before exec")))
            }
            Phase::Restarting => Err(conflict(format!(
                "Container {} is restarting, wait until the container is running",
                container.id
            ))),
            _ => Err(conflict(format!("container {} is not running", container.id))),
        }
    }

    fn exec(&self, id: &str) -> Result<Arc<Exec>> {
        self.execs.lock().get(id).cloned().ok_or_else(|| not_found(format!("No such exec instance: {id}")))
    }

    /// Whether an exec has a terminal, and its detach keys.
    pub fn exec_tty(&self, id: &str) -> Result<(bool, String)> {
        let exec = self.exec(id)?;
        Ok((exec.config.tty, exec.config.detach_keys.clone()))
    }

    /// Whether an exec may be started now; called before the answer is begun.
    pub fn exec_check(&self, id: &str) -> Result<()> {
        let exec = self.exec(id)?;
        if exec.state.lock().started {
            return Err(conflict(format!("exec command {id} has already run")));
        }
        if self.foreign.get(&exec.container).is_none() {
            self.runnable(&exec.container)?;
        }
        Ok(())
    }

    /// Starts it. The streams are there even when detached; dropping them lets it run.
    pub async fn exec_start(self: &Arc<Self>, id: &str, start: ExecStart) -> Result<IoStream> {
        self.exec_check(id)?;
        let exec = self.exec(id)?;
        {
            let mut state = exec.state.lock();
            if std::mem::replace(&mut state.started, true) {
                return Err(conflict(format!("exec command {id} has already run")));
            }
        }
        let config = &exec.config;
        let prepared = async {
            let (base, container) = match self.foreign.get(&exec.container) {
                Some(state) => (state.spec.oci.process().clone().unwrap_or_default(), None),
                None => {
                    let container = self.runnable(&exec.container)?;
                    (self.exec_base(&container).await?, Some(container))
                }
            };
            Ok::<_, Error>((exec_process(base, config)?, container))
        };
        let (process, container) = match prepared.await {
            Ok(prepared) => prepared,
            Err(error) => {
                exec.state.lock().exit_code = Some(126);
                exec.begun.send_replace(true);
                if let Some(container) = self.by_id(&exec.container) {
                    container.lock().life.execs.retain(|id| *id != exec.id);
                }
                return Err(error);
            }
        };
        let spec = ExecSpec {
            exec_id: exec.id.clone(),
            process,
            tty: config.tty,
            stdin: config.attach_stdin && !start.detach,
            size: start
                .size
                .or(config.console_size.map(|[rows, columns]| (rows, columns)))
                .filter(|(r, c)| *r > 0 && *c > 0),
            unconfined: config.privileged,
        };
        if let Some(container) = &container {
            let action = format!("exec_start: {}", line(&config.cmd));
            self.container_event(container, &action, &[("execID", exec.id.clone())]);
        }
        let started = match self.runtime.exec(&exec.container, &spec).await {
            Ok(started) => started,
            Err(error) => {
                let code = match &error {
                    runtime::Error::Exec { kind: runtime::ExecErrorKind::NotFound, .. } => 127,
                    _ => 126,
                };
                exec.state.lock().exit_code = Some(code);
                exec.begun.send_replace(true);
                if let Some(container) = &container {
                    container.lock().life.execs.retain(|id| *id != exec.id);
                }
                return Err(match error {
                    runtime::Error::Exec { message, .. } => Error::Invalid(format!(
                        "OCI runtime exec failed: exec failed: unable to start container process: {message}"
                    )),
                    other => other.into(),
                });
            }
        };
        {
            let mut state = exec.state.lock();
            state.running = true;
            state.pid = started.pid;
        }
        exec.begun.send_replace(true);
        let mut io = started.io;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        if let Some(exit) = io.exit.replace(receiver) {
            let engine = self.clone();
            self.spawn(async move {
                let exit = exit.await.ok();
                engine.exec_ended(&exec, container.as_deref(), exit);
                if let Some(exit) = exit {
                    let _ = sender.send(exit); // nobody may be waiting
                }
            });
        }
        Ok(io)
    }

    fn exec_ended(&self, exec: &Exec, container: Option<&Container>, exit: Option<Exit>) {
        let code = exit.map_or(137, |e| e.code);
        {
            let mut state = exec.state.lock();
            state.running = false;
            state.exit_code = Some(code);
        }
        if let Some(container) = container {
            container.lock().life.execs.retain(|id| *id != exec.id);
            let attributes = [("execID", exec.id.clone()), ("exitCode", code.to_string())];
            self.container_event(container, "exec_die", &attributes);
        }
    }

    /// What an exec inherits of its container: everything that its first process was started with, links' variables
    /// and groups included.
    async fn exec_base(&self, container: &Container) -> Result<Process> {
        let state = self.runtime.state(&container.id).await?;
        let mut process = state.spec.oci.process().clone().unwrap_or_default();
        let mut env = process.env().clone().unwrap_or_default();
        // Each process has this by its own terminal.
        let asked = container.lock().asked.config.env.iter().any(|v| v.starts_with("TERM="));
        env.retain(|v| asked || !v.starts_with("TERM="));
        process.set_env(Some(env));
        Ok(process)
    }

    /// Tells that a client has left an exec by the detach keys.
    pub fn exec_detached(&self, id: &str) {
        let Ok(exec) = self.exec(id) else { return };
        if let Some(container) = self.by_id(&exec.container) {
            self.container_event(&container, "exec_detach", &[("execID", exec.id.clone())]);
        }
    }

    /// Sets the size of an exec's terminal.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let exec = self.exec(id)?;
        // A client sets the size as soon as it has asked for the start. A timer by nature: Docker's patience.
        let mut begun = exec.begun.subscribe();
        if tokio::time::timeout(READY, begun.wait_for(|b| *b)).await.is_err() {
            return Err(system("timeout waiting for exec session ready"));
        }
        if !exec.state.lock().running {
            return Err(conflict(format!("exec {id} is not running")));
        }
        Ok(self.runtime.resize(&exec.container, Some(id), rows, columns).await?)
    }

    /// `GET /exec/{id}/json`
    pub fn exec_inspect(&self, id: &str) -> Result<Value> {
        let exec = self.exec(id)?;
        let state = *exec.state.lock();
        let config = &exec.config;
        Ok(json!({
            "ID": exec.id, "ContainerID": exec.container, "Running": state.running, "ExitCode": state.exit_code,
            "Pid": state.pid, "CanRemove": state.exit_code.is_some(), "DetachKeys": config.detach_keys,
            "OpenStdin": config.attach_stdin, "OpenStdout": config.attach_stdout, "OpenStderr": config.attach_stderr,
            "ProcessConfig": {
                "tty": config.tty, "entrypoint": config.cmd.first(), "arguments": config.cmd.get(1..).unwrap_or_default(),
                "privileged": config.privileged, "user": config.user,
            },
        }))
    }

    /// The execs of a container go with its process.
    pub(crate) fn forget_execs(&self, container: &Container) {
        container.lock().life.execs.clear();
        if self.by_id(&container.id).is_none() {
            self.forget_execs_of(&container.id);
        }
        // Those that were not started never will be.
        self.execs.lock().retain(|_, e| e.container != container.id || e.state.lock().started);
    }

    pub(crate) fn forget_execs_of(&self, container: &str) {
        self.execs.lock().retain(|_, e| e.container != container);
    }
}

/// A command as events show it: the program, a space, and its arguments.
fn line(command: &[String]) -> String {
    command.split_first().map_or_else(String::new, |(program, rest)| format!("{program} {}", rest.join(" ")))
}

fn exec_process(mut process: Process, config: &ExecConfig) -> Result<Process> {
    let env = process.env().clone().unwrap_or_default();
    let mut env = spec::merge_environment(env, &config.env);
    if config.tty && !env.iter().any(|v| v.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    process.set_terminal(Some(config.tty)).set_args(Some(config.cmd.0.clone())).set_env(Some(env));
    if !config.working_dir.is_empty() {
        if !config.working_dir.starts_with('/') {
            return Err(invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                config.working_dir
            )));
        }
        process.set_cwd(config.working_dir.clone().into());
    }
    if !config.user.is_empty() {
        let groups = process.user().additional_gids().clone().unwrap_or_default();
        process.set_user(spec::user(&config.user, &groups));
    }
    if config.privileged {
        let all = HostConfig { privileged: true, ..HostConfig::default() };
        let full = spec::process(&Config::default(), &all, "", &[], &[])?;
        process.set_capabilities(full.capabilities().clone());
    }
    Ok(process)
}

/// Runs a health check's command; its exit status (-1 if it did not run or took too long) and its output.
pub(crate) async fn probe(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    command: &[String],
    timeout: Duration,
    limit: usize,
) -> (i32, String) {
    let exec_id = base::rng::hex(32);
    let tell = |what: &str, more: &[(&str, String)]| {
        let mut attributes = vec![("execID", exec_id.clone())];
        attributes.extend_from_slice(more);
        engine.container_event(container, what, &attributes);
    };
    let line = line(command);
    tell(&format!("exec_create: {line}"), &[]);
    let pid = std::sync::atomic::AtomicI32::new(0);
    let output = Mutex::new(Vec::new());
    let run = async {
        let config = ExecConfig { cmd: command.to_vec().into(), ..ExecConfig::default() };
        let process = exec_process(engine.exec_base(container).await?, &config)?;
        let spec = ExecSpec {
            exec_id: exec_id.clone(),
            process,
            tty: false,
            stdin: false,
            size: None,
            unconfined: false,
        };
        tell(&format!("exec_start: {line}"), &[]);
        let mut started = engine.runtime.exec(&container.id, &spec).await?;
        pid.store(i32::try_from(started.pid).unwrap_or(0), std::sync::atomic::Ordering::Relaxed);
        while let Some(chunk) = started.io.output.recv().await {
            let mut output = output.lock();
            let room = limit.saturating_sub(output.len());
            output.extend_from_slice(&chunk.data[..chunk.data.len().min(room)]);
        }
        let exit = match started.io.exit {
            Some(exit) => exit.await.ok(),
            None => None,
        };
        let code = exit.map_or(-1, |e| e.code);
        tell("exec_die", &[("exitCode", code.to_string())]);
        Ok::<_, Error>(code)
    };
    let text = || String::from_utf8_lossy(&output.lock()).into_owned();
    // A timer by nature: the check's own timeout.
    match tokio::time::timeout(timeout, run).await {
        Ok(Ok(code)) => (code, text()),
        Ok(Err(error)) => (-1, error.to_string()),
        Err(_) => {
            let pid = pid.load(std::sync::atomic::Ordering::Relaxed);
            if pid > 0 {
                // It may have ended in this very moment.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            let late = format!("Health check exceeded timeout ({})", crate::health::go_duration(timeout));
            match text() {
                said if said.is_empty() => (-1, late),
                said => (-1, format!("{late}: {said}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_and_user() {
        let mut base = Process::default();
        base.set_env(Some(vec!["A=1".into()]));
        let config = ExecConfig {
            env: vec!["A=2".into(), "B=3".into()],
            user: "nobody".into(),
            working_dir: "/tmp".into(),
            cmd: vec!["sh".to_owned()].into(),
            ..ExecConfig::default()
        };
        let process = exec_process(base.clone(), &config).unwrap();
        assert_eq!(process.env().as_ref().unwrap(), &["A=2", "B=3"]);
        assert_eq!(process.user().username().as_deref(), Some("nobody"));
        let relative = ExecConfig { working_dir: "tmp".into(), ..config };
        assert!(exec_process(base, &relative).is_err());
    }
}
