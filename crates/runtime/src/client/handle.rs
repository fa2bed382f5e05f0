//! One container as the daemon knows it, and the task that listens to its shim.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use sys::cgroup::Cgroup;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{broadcast, oneshot, watch};

use super::bundle::{self, Prepared};
use super::link::{self, Link, read_frame};
use super::{PATIENCE, ShimRuntime, remove_cgroup, streams};
use crate::protocol::{self, Answer, ExitRecord, Failure, FailureKind, Op, Reply};
use crate::{ContainerSpec, Error, Event, EventKind, Exit, IoStream, Result, State, Status};

/// A container.
#[derive(Debug)]
pub(super) struct Handle {
    pub id: String,
    pub spec: Arc<ContainerSpec>,
    pub cgroup: Option<Cgroup>,
    bundle: PathBuf,
    record: PathBuf,
    created_at: Timestamp,
    live: Mutex<Live>,
    ended: watch::Sender<Option<Exit>>,
    link: Mutex<Option<Arc<Link>>>,
    events: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct Live {
    pid: u32,
    status: Status,
    started_at: Option<Timestamp>,
}

impl Handle {
    /// The first process, while it is there.
    pub(super) fn pid(&self) -> Option<u32> {
        let live = self.live.lock();
        (live.status != Status::Stopped).then_some(live.pid)
    }

    pub(super) fn status(&self) -> Status {
        self.live.lock().status
    }

    pub(super) fn state(&self) -> State {
        let live = self.live.lock();
        State {
            id: self.id.clone(),
            pid: (live.status != Status::Stopped).then_some(live.pid),
            status: live.status,
            created_at: self.created_at,
            started_at: live.started_at,
            exit: *self.ended.borrow(),
            spec: self.spec.clone(),
        }
    }

    pub(super) fn ended(&self) -> watch::Receiver<Option<Exit>> {
        self.ended.subscribe()
    }

    pub(super) async fn wait_end(&self) {
        let _ = self.ended.subscribe().wait_for(Option::is_some).await;
    }

    pub(super) fn link(&self) -> Result<Arc<Link>> {
        match &*self.link.lock() {
            Some(link) if !link.closed() => Ok(link.clone()),
            _ => Err(self.invalid_state(Status::Stopped, "reach")),
        }
    }

    pub(super) fn cgroup(&self) -> Result<&Cgroup> {
        self.cgroup.as_ref().ok_or_else(|| Error::Invalid {
            field: "cgroups_path",
            message: format!("container {} was made without a cgroup", self.id),
        })
    }

    pub(super) fn invalid_state(&self, status: Status, action: &'static str) -> Error {
        let state = match status {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        };
        Error::InvalidState { id: self.id.clone(), state, action }
    }

    pub(super) fn shim_error(&self, message: impl Into<String>) -> Error {
        Error::Shim { id: self.id.clone(), message: message.into() }
    }

    /// What a shim's refusal means to the caller.
    pub(super) fn failure(&self, failure: Failure, action: &'static str) -> Error {
        match failure.kind {
            FailureKind::Exec(kind) => Error::Exec { kind, message: failure.message },
            FailureKind::Setup => Error::Create { message: failure.message },
            FailureKind::NotFound => self.shim_error(failure.message),
            FailureKind::State => match failure.message.as_str() {
                "running" => self.invalid_state(Status::Running, action),
                "stopped" | "not running" => self.invalid_state(Status::Stopped, action),
                _ => self.shim_error(failure.message),
            },
        }
    }

    /// A new connection to the shim.
    pub(super) async fn connect(&self) -> Result<UnixStream> {
        let lost = |e: io::Error| match e.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                self.invalid_state(Status::Stopped, "reach")
            }
            _ => Error::io(format!("connect to the shim of {}", self.id))(e),
        };
        let socket = match link::connect_now(&self.bundle) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                // Its queue is full. The kernel tells nobody when there is room, so a thread waits.
                let bundle = self.bundle.clone();
                let waits = tokio::task::spawn_blocking(move || link::connect(&bundle));
                waits.await.map_err(|e| self.shim_error(e.to_string()))?
            }
            other => other,
        };
        socket.and_then(link::to_tokio).map_err(lost)
    }

    /// A connection of its own for the streams that `op` opens; `action` is what errors call it.
    pub(super) async fn open(
        &self,
        op: Op,
        with_stdin: bool,
        action: &'static str,
    ) -> Result<(Answer, IoStream)> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let socket = self.connect().await?;
        match streams::open(&self.id, socket, op, with_stdin).await {
            Ok(answered) => answered.map_err(|failure| self.failure(failure, action)),
            // The container has ended in this moment, and its shim.
            Err(e) if matches!(e.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) => {
                Err(self.invalid_state(Status::Stopped, action))
            }
            Err(e) => Err(self.shim_error(e.to_string())),
        }
    }

    /// Waits until everything that the first process has written is logged.
    pub(super) async fn flush(&self) -> Result<()> {
        // Not on the control connection: a shim that does not know the request ends the one that it came on.
        let (mut reader, mut writer) = self.connect().await?.into_split();
        let request = protocol::Request { seq: 0, op: Op::Flush, output_only: true };
        let asked = streams::ask(&mut reader, &mut writer, &request).await;
        asked
            .map_err(Error::io(format!("ask the shim of {}", self.id)))?
            .map_err(|f| self.failure(f, "flush"))?;
        Ok(())
    }

    pub(super) async fn freeze(self: &Arc<Self>, frozen: bool) -> Result<()> {
        self.cgroup()?;
        let this = self.clone();
        // It may have to wait for processes in system calls.
        let done = tokio::task::spawn_blocking(move || match &this.cgroup {
            Some(cgroup) => cgroup.freeze(frozen),
            None => Ok(()),
        });
        let what = if frozen { "pause" } else { "resume" };
        done.await
            .map_err(|e| self.shim_error(e.to_string()))?
            .map_err(Error::io(format!("{what} container {}", self.id)))?;
        let mut live = self.live.lock();
        live.status = match (live.status, frozen) {
            (Status::Running, true) => Status::Paused,
            (Status::Paused, false) => Status::Running,
            (other, _) => other,
        };
        Ok(())
    }

    /// Kills everything and waits for the end.
    pub(super) async fn kill(self: &Arc<Self>, status: Status) -> Result<()> {
        if let Ok(link) = self.link() {
            // It may end by itself at the same moment.
            let _ = link.call(Op::Signal { signal: nix::libc::SIGKILL, all: false }).await;
        }
        if status == Status::Paused {
            self.freeze(false).await?;
        }
        match tokio::time::timeout(PATIENCE, self.wait_end()).await {
            Ok(()) => Ok(()),
            Err(_) => {
                Err(self.shim_error(format!("its processes did not end within {PATIENCE:?} of SIGKILL")))
            }
        }
    }

    fn tell(&self, kind: EventKind) {
        let _ = self.events.send(Event { id: self.id.clone(), kind });
    }

    /// The container has ended. Told once, before anybody can find it stopped: whoever does may delete it, which is
    /// told too.
    fn end(&self, exit: Exit, started_at: Option<Timestamp>, tell: bool) {
        let mut live = self.live.lock();
        self.ended.send_modify(|e| {
            if e.is_none() && tell {
                self.tell(EventKind::Exited { exec_id: None, exit });
            }
            e.get_or_insert(exit);
        });
        live.status = Status::Stopped;
        live.started_at = live.started_at.or(started_at);
    }

    /// Handles one frame of the control connection.
    fn hear(&self, kind: u8, content: &[u8]) -> serde_json::Result<()> {
        match kind {
            protocol::REPLY => {
                let reply: Reply = serde_json::from_slice(content)?;
                let link = self.link.lock().clone();
                if let Some(link) = link {
                    link.deliver(reply, |answer| {
                        {
                            let mut live = self.live.lock();
                            live.status = Status::Running;
                            live.started_at = answer.started_at;
                        }
                        self.tell(EventKind::Started);
                    });
                }
            }
            protocol::EVENT => match serde_json::from_slice(content)? {
                protocol::Event::Exited { exec_id: None, exit } => self.end(exit, None, true),
                protocol::Event::Exited { exec_id, exit } => self.tell(EventKind::Exited { exec_id, exit }),
                protocol::Event::Oom => self.tell(EventKind::Oom),
                protocol::Event::Born { .. } | protocol::Event::Hello { .. } | protocol::Event::Failed(_) => {
                }
            },
            _ => {}
        }
        Ok(())
    }

    /// The control connection is gone. A new one, if the shim is still there: one broken frame is no reason to end a
    /// container.
    async fn regained(&self) -> Option<OwnedReadHalf> {
        let old = self.link.lock().take();
        if let Some(link) = old {
            link.close();
        }
        if self.ended.borrow().is_some() || read_record(&self.record).is_some() {
            return None;
        }
        let (mut reader, writer) = self.connect().await.ok()?.into_split();
        // Time alone can tell a shim that hangs.
        let hello = tokio::time::timeout(PATIENCE, read_frame(&mut reader)).await.ok()?.ok()??;
        match serde_json::from_slice(&hello.1).ok()? {
            protocol::Event::Hello { pid, .. } if pid == self.live.lock().pid => {}
            _ => return None,
        }
        tracing::warn!("the connection to the shim of {} was lost and is there again", self.id);
        *self.link.lock() = Some(Arc::new(Link::new(&self.id, writer)));
        Some(reader)
    }

    /// There is no shim any more: the container has ended, or its shim was killed.
    async fn lost(&self) {
        if self.ended.borrow().is_some() {
            return;
        }
        match read_record(&self.record) {
            Some(record) => {
                // A container that never ran, or whose start failed, ends without an event: its start has the error.
                let tell = record.started_at.is_some();
                self.end(record.exit, record.started_at, tell);
            }
            None => {
                let started = self.live.lock().started_at;
                let exit = orphaned(&self.id, self.cgroup.as_ref(), &self.record, started).await;
                self.end(exit, started, started.is_some());
            }
        }
    }
}

fn read_record(path: &Path) -> Option<ExitRecord> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// A shim was killed: without it nobody holds the container's streams or reaps it, so it is ended too.
async fn orphaned(id: &str, cgroup: Option<&Cgroup>, record: &Path, started_at: Option<Timestamp>) -> Exit {
    tracing::error!("the shim of container {id} was killed: ending the container");
    if let Some(cgroup) = cgroup {
        let _ = cgroup.signal_all(nix::libc::SIGKILL);
        if let Err(e) = remove_cgroup(cgroup).await {
            tracing::error!("container {id}: {e}");
        }
    }
    let exit =
        Exit { code: 137, signal: Some(nix::libc::SIGKILL), at: base::clock::now(), oom_killed: false };
    let bytes = serde_json::to_vec(&ExitRecord { id: id.into(), started_at, exit });
    if let Err(e) = bytes.map_err(io::Error::from).and_then(|b| base::fsx::write_atomic(record, &b, 0o600)) {
        tracing::error!("exit record {}: {e}", record.display());
    }
    exit
}

/// Listens to a shim until it ends.
async fn listen(handle: Arc<Handle>, reader: OwnedReadHalf, child: Option<std::process::Child>) {
    let mut connection = Some(reader);
    while let Some(mut reader) = connection {
        loop {
            match read_frame(&mut reader).await {
                Ok(Some((kind, content))) => {
                    if let Err(e) = handle.hear(kind, &content) {
                        tracing::error!("shim of {}: {e}", handle.id);
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    tracing::error!("shim of {}: {e}", handle.id);
                    break;
                }
            }
        }
        connection = handle.regained().await;
    }
    handle.lost().await;
    if let Some(child) = child {
        reap(child).await;
    }
}

/// Collects a shim that is about to exit.
pub(super) async fn reap(mut child: std::process::Child) {
    if matches!(child.try_wait(), Ok(None)) {
        let _ = tokio::task::spawn_blocking(move || child.wait()).await;
    }
}

/// Starts the shim of a new container; it is created when this returns. `born` is told its first process before that.
pub(super) async fn spawn(
    runtime: &ShimRuntime,
    prepared: Prepared,
    born: oneshot::Sender<u32>,
) -> Result<Arc<Handle>> {
    let Prepared { path, spec, cgroup, created_at } = prepared;
    let id = spec.id.clone();
    let give_up = |e: Error| {
        let _ = bundle::remove(&path);
        e
    };
    let (socket, child) =
        runtime.spawn(&path).map_err(Error::io(format!("start the shim of {id}"))).map_err(give_up)?;
    let socket = UnixStream::from_std(socket).map_err(Error::io("the shim's socket"))?;
    let (mut reader, writer) = socket.into_split();
    let mut born = Some(born);
    let mut tell = |pid| {
        if let Some(born) = born.take() {
            let _ = born.send(pid); // who asked may have given up
        }
    };
    let event = loop {
        let frame = read_frame(&mut reader).await.ok().flatten();
        match frame.and_then(|(_, content)| serde_json::from_slice(&content).ok()) {
            Some(protocol::Event::Born { pid }) => tell(pid),
            other => break other,
        }
    };
    let pid = match event {
        Some(protocol::Event::Hello { pid, .. }) => {
            tell(pid);
            pid
        }
        other => {
            let text = std::fs::read_to_string(path.join("shim.log")).unwrap_or_default();
            reap(child).await;
            let _ = bundle::remove(&path);
            return Err(match other {
                Some(protocol::Event::Failed(f)) => match f.kind {
                    FailureKind::Exec(kind) => Error::Exec { kind, message: f.message },
                    _ => Error::Create { message: f.message },
                },
                _ => Error::Shim { id, message: format!("it ended at once: {}", text.trim()) },
            });
        }
    };
    let handle = Arc::new(Handle {
        record: bundle::record_path(&runtime.state_dir, &id),
        id: id.clone(),
        spec,
        cgroup,
        bundle: path,
        created_at,
        live: Mutex::new(Live { pid, status: Status::Created, started_at: None }),
        ended: watch::Sender::new(None),
        link: Mutex::new(Some(Arc::new(Link::new(&id, writer)))),
        events: runtime.events.clone(),
    });
    tokio::spawn(listen(handle.clone(), reader, Some(child)));
    Ok(handle)
}

/// Finds a container again; none if it was never made.
pub(super) fn reopen(runtime: &ShimRuntime, path: &Path) -> Result<Option<Arc<Handle>>> {
    let Some(config) = bundle::config(path)? else { return Ok(None) };
    let broken = |e: serde_json::Error| Error::io(format!("{}", path.display()))(e.into());
    let spec =
        std::fs::read(path.join("container.json")).map_err(Error::io(format!("{}", path.display())))?;
    let spec: ContainerSpec = serde_json::from_slice(&spec).map_err(broken)?;
    let cgroup = runtime.cgroup_of(config.cgroup.as_deref())?;
    let record = bundle::record_path(&runtime.state_dir, &config.id);
    let mut live = Live { pid: 0, status: Status::Stopped, started_at: None };
    let mut connection = None;
    // If it ends while it is asked, its record is there.
    let greeted = link::greet(path).map_err(Error::io(format!("ask the shim of {}", config.id)))?;
    if let Some((event, socket)) = greeted {
        let protocol::Event::Hello { pid, started_at } = event else {
            return Err(Error::Shim { id: config.id, message: "it does not greet as one".into() });
        };
        let frozen = cgroup.as_ref().is_some_and(Cgroup::frozen);
        let status = match (started_at, frozen) {
            (None, _) => Status::Created,
            (Some(_), true) => Status::Paused,
            (Some(_), false) => Status::Running,
        };
        live = Live { pid, status, started_at };
        connection = Some(socket);
    }
    let handle = Arc::new(Handle {
        id: config.id.clone(),
        spec: Arc::new(spec),
        cgroup,
        bundle: path.into(),
        record,
        created_at: config.created_at,
        live: Mutex::new(live),
        ended: watch::Sender::new(None),
        link: Mutex::default(),
        events: runtime.events.clone(),
    });
    match connection {
        Some(socket) => {
            let socket = link::to_tokio(socket).map_err(Error::io("the shim's socket"))?;
            let (reader, writer) = socket.into_split();
            *handle.link.lock() = Some(Arc::new(Link::new(&config.id, writer)));
            tokio::spawn(listen(handle.clone(), reader, None));
        }
        None => match read_record(&handle.record) {
            Some(record) => handle.end(record.exit, record.started_at, false),
            None => {
                // Its end must be known before anyone asks: recorded as of now, cleaned up behind.
                if let Some(cgroup) = &handle.cgroup {
                    let _ = cgroup.signal_all(nix::libc::SIGKILL);
                }
                let exit = Exit {
                    code: 137,
                    signal: Some(nix::libc::SIGKILL),
                    at: base::clock::now(),
                    oom_killed: false,
                };
                handle.end(exit, None, false);
                let this = handle.clone();
                tokio::spawn(async move {
                    orphaned(&this.id, this.cgroup.as_ref(), &this.record, None).await;
                });
            }
        },
    }
    Ok(Some(handle))
}
