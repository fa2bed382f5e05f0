//! A runtime without processes, for simulations and other crates' tests. What a container does is said by the test:
//! [`FakeRuntime::exit`] ends one, [`FakeRuntime::output`] makes it write, [`FakeRuntime::on_exec`] answers execs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use oci_spec::runtime::LinuxResources;
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{
    Chunk, ContainerSpec, Created, Error, Event, EventKind, ExecSpec, ExecStarted, Exit, IoStream, Result,
    Runtime, Sandbox, SandboxSpec, State, Stats, Status, StdinWriter, Stream,
};

/// What an exec writes to standard output, and its exit status.
pub type ExecAnswer = (Vec<u8>, i32);
type OnExec = Arc<dyn Fn(&str, &ExecSpec) -> ExecAnswer + Send + Sync>;

/// The fake.
pub struct FakeRuntime {
    containers: Mutex<BTreeMap<String, Container>>,
    sandboxes: Mutex<BTreeMap<String, FakeSandbox>>,
    events: broadcast::Sender<Event>,
    next_pid: AtomicU32,
    on_exec: Mutex<OnExec>,
}

struct FakeSandbox {
    spec: SandboxSpec,
    sandbox: Sandbox,
    gone: watch::Sender<bool>,
}

struct Container {
    state: State,
    resources: LinuxResources,
    ended: watch::Sender<Option<Exit>>,
    attached: Vec<mpsc::Sender<Chunk>>,
    signals: Vec<i32>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self {
            containers: Mutex::default(),
            sandboxes: Mutex::default(),
            events: broadcast::Sender::new(1 << 16),
            next_pid: AtomicU32::new(1000),
            on_exec: Mutex::new(Arc::new(|_, _| (Vec::new(), 0))),
        }
    }
}

impl FakeRuntime {
    /// One without containers.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Ends a running container.
    pub fn exit(&self, id: &str, code: i32) {
        self.end(id, Exit { code, signal: None, at: base::clock::now(), oom_killed: false });
    }

    /// Ends a running container in any way.
    pub fn end(&self, id: &str, exit: Exit) {
        let mut containers = self.containers.lock();
        let Some(c) = containers.get_mut(id) else { return };
        if c.state.status == Status::Stopped {
            return;
        }
        let started = c.state.started_at.is_some();
        c.state.status = Status::Stopped;
        c.state.pid = None;
        c.state.exit = Some(exit);
        c.attached.clear();
        c.ended.send_replace(Some(exit));
        drop(containers);
        if started {
            self.tell(id, EventKind::Exited { exec_id: None, exit });
        }
    }

    /// Ends what holds a sandbox, as the machine does when its memory is short.
    pub fn end_sandbox(&self, id: &str) {
        if let Some(s) = self.sandboxes.lock().get(id) {
            s.gone.send_replace(true);
        }
    }

    /// The ids of all sandboxes that were created and not deleted.
    pub fn sandbox_ids(&self) -> Vec<String> {
        self.sandboxes.lock().keys().cloned().collect()
    }

    /// Makes a container write something to whoever is attached.
    pub async fn output(&self, id: &str, stream: Stream, data: &[u8]) {
        let attached = self.containers.lock().get(id).map(|c| c.attached.clone()).unwrap_or_default();
        for to in attached {
            let _ = to.send(Chunk { stream, data: Bytes::copy_from_slice(data) }).await;
        }
    }

    /// Says what execs write and how they end.
    pub fn on_exec(&self, answer: impl Fn(&str, &ExecSpec) -> ExecAnswer + Send + Sync + 'static) {
        *self.on_exec.lock() = Arc::new(answer);
    }

    /// The signals that a container was sent.
    pub fn signals(&self, id: &str) -> Vec<i32> {
        self.containers.lock().get(id).map(|c| c.signals.clone()).unwrap_or_default()
    }

    /// The limits that a container was last updated to.
    pub fn resources(&self, id: &str) -> Option<LinuxResources> {
        self.containers.lock().get(id).map(|c| c.resources.clone())
    }

    fn tell(&self, id: &str, kind: EventKind) {
        let _ = self.events.send(Event { id: id.into(), kind });
    }

    fn with<T>(&self, id: &str, f: impl FnOnce(&mut Container) -> Result<T>) -> Result<T> {
        match self.containers.lock().get_mut(id) {
            Some(c) => f(c),
            None => Err(Error::NotFound { what: "container", id: id.into() }),
        }
    }
}

fn expect(c: &Container, wanted: &[Status], action: &'static str) -> Result<()> {
    if wanted.contains(&c.state.status) {
        return Ok(());
    }
    let state = match c.state.status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Stopped => "stopped",
    };
    Err(Error::InvalidState { id: c.state.id.clone(), state, action })
}

const ALIVE: [Status; 3] = [Status::Created, Status::Running, Status::Paused];

#[async_trait]
impl Runtime for FakeRuntime {
    async fn create(&self, spec: &ContainerSpec) -> Result<Created> {
        let pid = self.next_pid.fetch_add(1, Ordering::Relaxed);
        {
            let mut containers = self.containers.lock();
            if containers.contains_key(&spec.id) {
                return Err(Error::AlreadyExists { what: "container", id: spec.id.clone() });
            }
            let resources = spec.oci.linux().as_ref().and_then(|l| l.resources().clone()).unwrap_or_default();
            let state = State {
                id: spec.id.clone(),
                pid: Some(pid),
                status: Status::Created,
                created_at: base::clock::now(),
                started_at: None,
                exit: None,
                spec: Arc::new(spec.clone()),
            };
            let container = Container {
                state,
                resources,
                ended: watch::Sender::new(None),
                attached: Vec::new(),
                signals: Vec::new(),
            };
            containers.insert(spec.id.clone(), container);
        }
        self.tell(&spec.id, EventKind::Created);
        Ok(Created { pid })
    }

    async fn start(&self, id: &str) -> Result<()> {
        self.with(id, |c| {
            expect(c, &[Status::Created], "start")?;
            c.state.status = Status::Running;
            c.state.started_at = Some(base::clock::now());
            Ok(())
        })?;
        self.tell(id, EventKind::Started);
        Ok(())
    }

    async fn signal(&self, id: &str, signal: i32, _all: bool) -> Result<()> {
        self.with(id, |c| {
            expect(c, &ALIVE, "signal")?;
            c.signals.push(signal);
            Ok(())
        })?;
        if signal == nix::libc::SIGKILL || signal == nix::libc::SIGTERM {
            let at = base::clock::now();
            self.end(id, Exit { code: 128 + signal, signal: Some(signal), at, oom_killed: false });
        }
        Ok(())
    }

    async fn exec(&self, id: &str, exec: &ExecSpec) -> Result<ExecStarted> {
        self.with(id, |c| expect(c, &[Status::Running], "exec in"))?;
        let answer = self.on_exec.lock().clone();
        let (data, code) = answer(id, exec);
        let (chunks, output) = mpsc::channel(1);
        if !data.is_empty() {
            // There is room for one, and nobody else sends.
            let _ = chunks.try_send(Chunk { stream: Stream::Stdout, data: data.into() });
        }
        let (exited, exit) = oneshot::channel();
        let ended = Exit { code, signal: None, at: base::clock::now(), oom_killed: false };
        let _ = exited.send(ended);
        self.tell(id, EventKind::Exited { exec_id: Some(exec.exec_id.clone()), exit: ended });
        let stdin = exec.stdin.then(|| StdinWriter::new(tokio::io::sink()));
        let pid = self.next_pid.fetch_add(1, Ordering::Relaxed);
        Ok(ExecStarted { pid, io: IoStream { stdin, output, exit: Some(exit) } })
    }

    async fn attach(&self, id: &str) -> Result<IoStream> {
        let (chunks, output) = mpsc::channel(64);
        self.with(id, |c| {
            expect(c, &ALIVE, "attach to")?;
            c.attached.push(chunks);
            Ok(())
        })?;
        Ok(IoStream { stdin: Some(StdinWriter::new(tokio::io::sink())), output, exit: None })
    }

    async fn resize(&self, id: &str, _exec_id: Option<&str>, _rows: u16, _cols: u16) -> Result<()> {
        self.with(id, |c| expect(c, &ALIVE, "resize"))
    }

    async fn pause(&self, id: &str) -> Result<()> {
        self.with(id, |c| {
            expect(c, &[Status::Running], "pause")?;
            c.state.status = Status::Paused;
            Ok(())
        })?;
        self.tell(id, EventKind::Paused);
        Ok(())
    }

    async fn resume(&self, id: &str) -> Result<()> {
        self.with(id, |c| {
            expect(c, &[Status::Paused], "resume")?;
            c.state.status = Status::Running;
            Ok(())
        })?;
        self.tell(id, EventKind::Resumed);
        Ok(())
    }

    async fn update(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        self.with(id, |c| {
            expect(c, &ALIVE, "update")?;
            c.resources = resources.clone();
            Ok(())
        })
    }

    async fn stats(&self, id: &str) -> Result<Stats> {
        self.with(id, |_| Ok(Stats::default()))
    }

    async fn pids(&self, id: &str) -> Result<Vec<u32>> {
        self.with(id, |c| Ok(c.state.pid.into_iter().collect()))
    }

    async fn state(&self, id: &str) -> Result<State> {
        self.with(id, |c| Ok(c.state.clone()))
    }

    async fn list(&self) -> Result<Vec<State>> {
        Ok(self.containers.lock().values().map(|c| c.state.clone()).collect())
    }

    async fn delete(&self, id: &str, force: bool) -> Result<()> {
        match self.with(id, |c| expect(c, &[Status::Stopped], "delete")) {
            Ok(()) => {}
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(_) if force => self.signal(id, nix::libc::SIGKILL, true).await?,
            Err(e) => return Err(e),
        }
        self.containers.lock().remove(id);
        self.tell(id, EventKind::Deleted);
        Ok(())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    async fn sandbox_create(&self, spec: &SandboxSpec) -> Result<Sandbox> {
        let pid = self.next_pid.fetch_add(1, Ordering::Relaxed);
        let sandbox = Sandbox { id: spec.id.clone(), pid, netns: format!("/proc/{pid}/ns/net").into() };
        let mut sandboxes = self.sandboxes.lock();
        if sandboxes.contains_key(&spec.id) {
            return Err(Error::AlreadyExists { what: "sandbox", id: spec.id.clone() });
        }
        let made =
            FakeSandbox { spec: spec.clone(), sandbox: sandbox.clone(), gone: watch::Sender::new(false) };
        sandboxes.insert(spec.id.clone(), made);
        Ok(sandbox)
    }

    async fn sandbox_delete(&self, id: &str) -> Result<()> {
        if let Some(s) = self.sandboxes.lock().remove(id) {
            s.gone.send_replace(true);
        }
        Ok(())
    }

    async fn sandbox_wait(&self, id: &str) -> Result<()> {
        let found = self.sandboxes.lock().get(id).map(|s| s.gone.subscribe());
        let Some(mut gone) = found else { return Err(Error::NotFound { what: "sandbox", id: id.into() }) };
        // Without its record there is no sandbox either.
        let _ = gone.wait_for(|gone| *gone).await;
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        let all = self.sandboxes.lock();
        Ok(all.values().filter(|s| !*s.gone.borrow()).map(|s| s.sandbox.clone()).collect())
    }

    async fn sandbox_spec(&self, id: &str) -> Result<SandboxSpec> {
        let found = self.sandboxes.lock().get(id).map(|s| s.spec.clone());
        found.ok_or_else(|| Error::NotFound { what: "sandbox", id: id.into() })
    }

    async fn wait(&self, id: &str) -> Result<Exit> {
        let mut ended = self.with(id, |c| Ok(c.ended.subscribe()))?;
        let exit = ended.wait_for(Option::is_some).await.ok().and_then(|e| *e);
        exit.ok_or_else(|| Error::NotFound { what: "container", id: id.into() })
    }
}

/// Every container's state by id, for tests that look at all at once.
pub async fn statuses(runtime: &FakeRuntime) -> HashMap<String, Status> {
    runtime.list().await.unwrap_or_default().into_iter().map(|s| (s.id, s.status)).collect()
}
