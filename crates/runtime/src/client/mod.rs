//! The daemon's side: spawns shims, talks to them, finds them again.
//!
//! RUN-DIR/containers/ID is a container's bundle: `container.json` (what it was made from), `shim.json` (what its shim
//! needs), `sock` (the shim's socket), `shim.log`, `rootfs` (an empty folder to mount on, inside the container's mount
//! namespace). STATE-DIR/ID.json is the record of its exit. RUN-DIR/sandboxes/ID is the same for a pod.

mod bundle;
mod handle;
mod link;
mod sandbox;
mod streams;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use oci_spec::runtime::LinuxResources;
use parking_lot::Mutex;
use sys::cgroup::{Cgroup, Hierarchies};
use tokio::sync::{broadcast, oneshot};

use crate::protocol::{FailureKind, Op};
use crate::{
    ContainerSpec, Created, Error, Event, EventKind, ExecSpec, ExecStarted, Exit, IoStream, Result, Runtime,
    Sandbox, SandboxSpec, State, Stats, Status,
};
use handle::Handle;

/// How a shim is started.
#[derive(Debug, Clone, Default)]
pub struct ShimCommand {
    /// The executable; by default the running one.
    pub exe: Option<PathBuf>,
    /// Its first arguments; `shim` by default.
    pub args: Option<Vec<String>>,
}

/// Events that a slow subscriber may be behind before it loses some, and is told to look at everything anew.
const EVENTS: usize = 1024;
/// How long killed processes may take to go: the kernel may hold one in a system call on a dead disk for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a log's reader waits for a shim to log what its container has written: it may be busy with a hook.
const FLUSH: Duration = Duration::from_secs(2);

/// The built-in runtime.
#[derive(Debug)]
pub struct ShimRuntime {
    pub(crate) run_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    exe: Executable,
    args: Vec<String>,
    pub(crate) hierarchies: Hierarchies,
    containers: Mutex<HashMap<String, Arc<Handle>>>,
    /// Ids of bundles that could not be understood, or whose shim could not be asked.
    unreached: Mutex<Vec<String>>,
    unreached_sandboxes: Mutex<Vec<SandboxSpec>>,
    sandboxes: Mutex<HashMap<String, Arc<sandbox::SandboxHandle>>>,
    pub(crate) events: broadcast::Sender<Event>,
    filters: crate::seccomp::Cache,
}

/// The shim's executable. Where the kernel can, it is started from a read-only copy of its mount, so that no container
/// can write to it through /proc/PID/exe.
#[derive(Debug)]
struct Executable {
    path: PathBuf,
    /// Where the file lies in the machine's own mounts.
    origin: PathBuf,
    /// Keeps `path` (/proc/self/fd/N) alive.
    _mount: Option<OwnedFd>,
}

impl Executable {
    fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let path = match path {
            Some(path) => path,
            None => PathBuf::from("/proc/self/exe"),
        };
        // Not /proc/self/exe: a child would read its own.
        let origin = std::fs::read_link(&path).unwrap_or_else(|_| path.clone());
        match sys::mount::read_only_executable(&path) {
            Ok(fd) => {
                let path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into();
                Ok(Self { path, origin, _mount: Some(fd) })
            }
            Err(e) => {
                tracing::warn!("shims run from the writable file {}: {e}", path.display());
                Ok(Self { path: origin.clone(), origin, _mount: None })
            }
        }
    }
}

impl ShimRuntime {
    /// Finds what runs. `run_dir` is lost with a reboot, `state_dir` is not. Needs a tokio runtime.
    pub fn open(run_dir: &Path, state_dir: &Path, shim: ShimCommand) -> Result<Arc<ShimRuntime>> {
        for dir in
            [&run_dir.join("containers"), &run_dir.join("sandboxes"), &run_dir.join("seccomp"), state_dir]
        {
            std::fs::create_dir_all(dir).map_err(Error::io(format!("make {}", dir.display())))?;
        }
        let runtime = Arc::new(Self {
            run_dir: run_dir.canonicalize().map_err(Error::io(format!("{}", run_dir.display())))?,
            state_dir: state_dir.canonicalize().map_err(Error::io(format!("{}", state_dir.display())))?,
            exe: Executable::open(shim.exe).map_err(Error::io("the shim's executable"))?,
            args: shim.args.unwrap_or_else(|| vec!["shim".into()]),
            hierarchies: Hierarchies::find().map_err(Error::io("find the cgroup hierarchies"))?,
            containers: Mutex::default(),
            unreached: Mutex::default(),
            unreached_sandboxes: Mutex::default(),
            sandboxes: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
            filters: crate::seccomp::Cache::new(run_dir.join("seccomp")),
        });
        base::fsx::remove_leftovers(&runtime.state_dir).map_err(Error::io("remove leftovers"))?;
        runtime.find_containers()?;
        runtime.find_sandboxes()?;
        Ok(runtime)
    }

    /// Starts a shim for a bundle; returns our end of its connection.
    fn spawn(&self, bundle: &Path) -> io::Result<(std::os::unix::net::UnixStream, std::process::Child)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let log = std::fs::File::create(bundle.join("shim.log"))?;
        let child = std::process::Command::new(&self.exe.path)
            .args(&self.args)
            .arg(bundle)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()?;
        ours.set_nonblocking(true)?;
        Ok((ours, child))
    }

    async fn attach_to(&self, id: &str, input: bool) -> Result<IoStream> {
        let handle = self.handle(id)?;
        let status = handle.status();
        if status == Status::Stopped {
            return Err(handle.invalid_state(status, "attach to"));
        }
        let with_stdin = input && handle.spec.io.stdin != crate::StdinMode::Closed;
        let (_, mut io) = handle.open(Op::Attach, with_stdin, "attach to").await?;
        io.exit = None;
        Ok(io)
    }

    fn handle(&self, id: &str) -> Result<Arc<Handle>> {
        if let Some(found) = self.containers.lock().get(id) {
            return Ok(found.clone());
        }
        if self.unreached.lock().iter().any(|u| u == id) {
            return Err(Error::Shim {
                id: id.into(),
                message:
                    "it could not be asked when this daemon started, so what becomes of the container is \
                          unknown: start the daemon again to ask once more, or end the shim by hand"
                        .into(),
            });
        }
        Err(Error::NotFound { what: "container", id: id.into() })
    }

    fn find_containers(self: &Arc<Self>) -> Result<()> {
        let dir = self.run_dir.join("containers");
        for entry in std::fs::read_dir(&dir).map_err(Error::io(format!("read {}", dir.display())))? {
            let bundle = entry.map_err(Error::io("read a folder"))?.path();
            match handle::reopen(self, &bundle) {
                Ok(Some(handle)) => {
                    self.containers.lock().insert(handle.id.clone(), handle);
                }
                Ok(None) => {
                    tracing::info!("removing the half-made container {}", bundle.display());
                    remove_leftover(&bundle);
                }
                // One that cannot be understood (of another version, say) must not keep the others from being found.
                Err(e) => {
                    tracing::error!("container {}: {e}", bundle.display());
                    let id = bundle.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    self.unreached.lock().push(id);
                }
            }
        }
        Ok(())
    }

    fn find_sandboxes(self: &Arc<Self>) -> Result<()> {
        let dir = self.run_dir.join("sandboxes");
        for entry in std::fs::read_dir(&dir).map_err(Error::io(format!("read {}", dir.display())))? {
            let bundle = entry.map_err(Error::io("read a folder"))?.path();
            match sandbox::reopen(&bundle, &self.hierarchies) {
                Ok(Some(handle)) => {
                    self.sandboxes.lock().insert(handle.spec.id.clone(), handle);
                }
                Ok(None) => remove_leftover(&bundle),
                Err(e) => {
                    tracing::error!("sandbox {}: {e}", bundle.display());
                    self.unreached_sandboxes.lock().extend(sandbox::spec(&bundle));
                }
            }
        }
        Ok(())
    }

    fn cgroup_of(&self, path: Option<&str>) -> Result<Option<Cgroup>> {
        let Some(path) = path else { return Ok(None) };
        let cgroup = Cgroup::at(&self.hierarchies, path)
            .map_err(|e| Error::Invalid { field: "cgroups_path", message: e.to_string() })?;
        Ok(Some(cgroup))
    }

    fn tell(&self, id: &str, kind: EventKind) {
        // Nobody listening is no error.
        let _ = self.events.send(Event { id: id.into(), kind });
    }
}

/// Removes a bundle that belongs to nobody; if it cannot be, the next start tries again.
fn remove_leftover(bundle: &Path) {
    if let Err(e) = bundle::remove(bundle) {
        tracing::error!("{} could not be removed: {e}", bundle.display());
    }
}

/// Ids become file names.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.chars().all(plain) {
        return Err(Error::Invalid {
            field: "id",
            message: format!("{id:?} is not 1 to 128 letters, digits, -, _ or ."),
        });
    }
    Ok(())
}

/// Removes a cgroup whose processes have been killed.
async fn remove_cgroup(cgroup: &Cgroup) -> io::Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        match cgroup.delete() {
            // A timer, because cgroup version 1 has no event for the end of the last process.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && tokio::time::Instant::now() < deadline => {
                let _ = cgroup.signal_all(nix::libc::SIGKILL);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            other => return other,
        }
    }
}

#[async_trait]
impl Runtime for ShimRuntime {
    async fn create(&self, spec: &ContainerSpec) -> Result<Created> {
        self.create_telling(spec, oneshot::channel().0).await
    }

    async fn create_telling(&self, spec: &ContainerSpec, born: oneshot::Sender<u32>) -> Result<Created> {
        check_id(&spec.id)?;
        let prepared = bundle::prepare(self, spec)?;
        let handle = handle::spawn(self, prepared, born).await?;
        let pid = handle.pid();
        self.containers.lock().insert(spec.id.clone(), handle.clone());
        self.tell(&spec.id, EventKind::Created);
        pid.map(|pid| Created { pid }).ok_or_else(|| Error::Shim {
            id: spec.id.clone(),
            message: "the first process ended before it could be started".into(),
        })
    }

    async fn start(&self, id: &str) -> Result<()> {
        let handle = self.handle(id)?;
        match handle.status() {
            Status::Created => {}
            other => return Err(handle.invalid_state(other, "start")),
        }
        match handle.link()?.call(Op::Start).await? {
            Ok(_) => Ok(()),
            Err(failure) => {
                // The shim records it as ended; by then nothing of it is left.
                handle.wait_end().await;
                Err(handle.failure(failure, "start"))
            }
        }
    }

    async fn signal(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let handle = self.handle(id)?;
        let status = handle.status();
        if status == Status::Stopped {
            return Err(handle.invalid_state(status, "signal"));
        }
        // A shim that is gone before it answers has seen its container end.
        let asked = handle.link()?.call(Op::Signal { signal, all }).await;
        let result = asked.map_err(|_| handle.invalid_state(Status::Stopped, "signal"))?;
        if status == Status::Paused && signal == nix::libc::SIGKILL {
            // A frozen process dies when it thaws.
            handle.freeze(false).await?;
        }
        result.map(drop).map_err(|f| handle.failure(f, "signal"))
    }

    async fn exec(&self, id: &str, exec: &ExecSpec) -> Result<ExecStarted> {
        let handle = self.handle(id)?;
        match handle.status() {
            Status::Running => {}
            other => return Err(handle.invalid_state(other, "exec in")),
        }
        let (answer, io) = handle.open(Op::Exec(Box::new(exec.clone())), exec.stdin, "exec in").await?;
        let pid = answer.pid.ok_or_else(|| handle.shim_error("an exec without a pid"))?;
        Ok(ExecStarted { pid, io })
    }

    async fn attach(&self, id: &str) -> Result<IoStream> {
        self.attach_to(id, true).await
    }

    async fn watch(&self, id: &str) -> Result<IoStream> {
        self.attach_to(id, false).await
    }

    async fn flush_log(&self, id: &str) {
        let Ok(handle) = self.handle(id) else { return };
        if !matches!(handle.status(), Status::Running | Status::Paused) {
            return; // all of an ended one's output is there before its end is told
        }
        match tokio::time::timeout(FLUSH, handle.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(id, %error, "its log may lack what it has just written"),
            Err(_) => tracing::warn!(id, "its shim is busy: its log may lack what it has just written"),
        }
    }

    async fn resize(&self, id: &str, exec_id: Option<&str>, rows: u16, cols: u16) -> Result<()> {
        let handle = self.handle(id)?;
        let op = Op::Resize { exec_id: exec_id.map(String::from), rows, cols };
        match handle.link()?.call(op).await? {
            Ok(_) => Ok(()),
            Err(f) if f.kind == FailureKind::NotFound => {
                Err(Error::NotFound { what: "exec", id: exec_id.unwrap_or(id).into() })
            }
            Err(f) => Err(handle.failure(f, "resize")),
        }
    }

    async fn pause(&self, id: &str) -> Result<()> {
        let handle = self.handle(id)?;
        match handle.status() {
            Status::Running => {}
            other => return Err(handle.invalid_state(other, "pause")),
        }
        handle.freeze(true).await?;
        self.tell(id, EventKind::Paused);
        Ok(())
    }

    async fn resume(&self, id: &str) -> Result<()> {
        let handle = self.handle(id)?;
        match handle.status() {
            Status::Paused => {}
            other => return Err(handle.invalid_state(other, "resume")),
        }
        handle.freeze(false).await?;
        self.tell(id, EventKind::Resumed);
        Ok(())
    }

    async fn update(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        let handle = self.handle(id)?;
        let status = handle.status();
        if status == Status::Stopped {
            return Err(handle.invalid_state(status, "update"));
        }
        let cgroup = handle.cgroup()?;
        for warning in cgroup.apply(resources).map_err(Error::io(format!("update container {id}")))? {
            tracing::warn!("container {id}: {warning}");
        }
        Ok(())
    }

    async fn stats(&self, id: &str) -> Result<Stats> {
        let handle = self.handle(id)?;
        let status = handle.status();
        match handle.cgroup()?.stats() {
            Ok(stats) => Ok(stats),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(handle.invalid_state(status, "measure")),
            Err(e) => Err(Error::io(format!("statistics of {id}"))(e)),
        }
    }

    async fn pids(&self, id: &str) -> Result<Vec<u32>> {
        let handle = self.handle(id)?;
        if handle.status() == Status::Stopped {
            return Ok(Vec::new());
        }
        handle.cgroup()?.pids().map_err(Error::io(format!("processes of {id}")))
    }

    async fn state(&self, id: &str) -> Result<State> {
        Ok(self.handle(id)?.state())
    }

    async fn list(&self) -> Result<Vec<State>> {
        let mut out: Vec<State> = self.containers.lock().values().map(|h| h.state()).collect();
        out.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(out)
    }

    fn unreached(&self) -> Vec<String> {
        self.unreached.lock().clone()
    }

    async fn delete(&self, id: &str, force: bool) -> Result<()> {
        let handle = match self.handle(id) {
            Ok(handle) => handle,
            Err(Error::NotFound { .. }) => return Ok(()), // what is not there need not be removed
            Err(e) => return Err(e),
        };
        let status = handle.status();
        if status != Status::Stopped {
            if !force {
                return Err(handle.invalid_state(status, "delete"));
            }
            handle.kill(status).await?;
        }
        if let Some(cgroup) = &handle.cgroup {
            remove_cgroup(cgroup).await.map_err(Error::io(format!("remove the cgroup of {id}")))?;
        }
        let bundle = self.run_dir.join("containers").join(id);
        bundle::remove(&bundle).map_err(Error::io(format!("remove {}", bundle.display())))?;
        let record = bundle::record_path(&self.state_dir, id);
        match std::fs::remove_file(&record) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", record.display()))(e));
            }
            _ => {}
        }
        if self.containers.lock().remove(id).is_some() {
            self.tell(id, EventKind::Deleted);
        }
        Ok(())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    async fn sandbox_create(&self, spec: &SandboxSpec) -> Result<Sandbox> {
        check_id(&spec.id)?;
        let handle = sandbox::create(self, spec).await?;
        let sandbox = handle.describe();
        self.sandboxes.lock().insert(spec.id.clone(), handle);
        Ok(sandbox)
    }

    async fn sandbox_delete(&self, id: &str) -> Result<()> {
        let Some(handle) = self.sandboxes.lock().get(id).cloned() else { return Ok(()) };
        sandbox::delete(&handle).await?;
        self.sandboxes.lock().remove(id);
        Ok(())
    }

    async fn sandbox_wait(&self, id: &str) -> Result<()> {
        let found = self.sandboxes.lock().get(id).map(|s| s.end());
        let Some(mut gone) = found else { return Err(Error::NotFound { what: "sandbox", id: id.into() }) };
        // Without its handle there is no sandbox either.
        let _ = gone.wait_for(|gone| *gone).await;
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        Ok(self.sandboxes.lock().values().filter(|s| s.alive()).map(|s| s.describe()).collect())
    }

    fn unreached_sandboxes(&self) -> Vec<SandboxSpec> {
        self.unreached_sandboxes.lock().clone()
    }

    async fn sandbox_spec(&self, id: &str) -> Result<SandboxSpec> {
        let found = self.sandboxes.lock().get(id).map(|s| s.spec.clone());
        found.ok_or_else(|| Error::NotFound { what: "sandbox", id: id.into() })
    }

    async fn wait(&self, id: &str) -> Result<Exit> {
        let handle = self.handle(id)?;
        // Without a reference of ours, so that the wait ends when the container is deleted before it has run.
        let mut ended = handle.ended();
        drop(handle);
        let exit = ended.wait_for(Option::is_some).await.ok().and_then(|e| *e);
        exit.ok_or_else(|| Error::NotFound { what: "container", id: id.into() })
    }
}
