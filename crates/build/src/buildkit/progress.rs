//! What is told of a build, as BuildKit's vertices, statuses and logs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::Stream;
use image::Progress;
use parking_lot::Mutex;
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::proto::{StatusResponse, Timestamp, Vertex, VertexLog, VertexStatus};
use super::rpc;
use crate::error::Result;
use crate::report::{Listener, Told};

/// Bytes of output that are kept of one step.
const LOG_LIMIT: usize = 2 << 20;

/// Everything that was told of a build, for whoever asks at any time.
pub(crate) struct Log {
    all: Mutex<Vec<Arc<StatusResponse>>>,
    bytes: AtomicUsize,
    turn: watch::Sender<bool>,
}

impl Default for Log {
    fn default() -> Self {
        Self { all: Mutex::default(), bytes: AtomicUsize::new(0), turn: watch::Sender::new(false) }
    }
}

impl Log {
    pub fn push(&self, status: StatusResponse) {
        self.bytes.fetch_add(status.encoded_len(), Ordering::Relaxed);
        self.all.lock().push(Arc::new(status));
        self.turn.send_modify(|_| {});
    }

    /// What it takes, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Nothing more comes.
    pub fn end(&self) {
        self.turn.send_modify(|ended| *ended = true);
    }

    /// From the beginning to the end.
    pub fn stream(self: &Arc<Self>) -> impl Stream<Item = rpc::Result<StatusResponse>> + Send + 'static {
        let (log, turn) = (self.clone(), self.turn.subscribe());
        futures::stream::unfold((log, turn, 0), |(log, mut turn, at)| async move {
            loop {
                let ended = *turn.borrow_and_update();
                {
                    let all = log.all.lock();
                    if at < all.len() {
                        let mut batch = StatusResponse::default();
                        let until = all.len().min(at + 200);
                        for one in &all[at..until] {
                            batch.vertexes.extend(one.vertexes.iter().cloned());
                            batch.statuses.extend(one.statuses.iter().cloned());
                            batch.logs.extend(one.logs.iter().cloned());
                            batch.warnings.extend(one.warnings.iter().cloned());
                        }
                        drop(all);
                        return Some((Ok(batch), (log, turn, until)));
                    }
                }
                if ended || turn.changed().await.is_err() {
                    return None;
                }
            }
        })
    }
}

fn now() -> Timestamp {
    base::clock::now().into()
}

/// One line of the progress display.
#[derive(Clone)]
pub(crate) struct Line {
    log: Arc<Log>,
    vertex: Vertex,
    logged: usize,
}

impl Line {
    /// Begins a line.
    pub fn begin(log: &Arc<Log>, salt: &str, name: &str) -> Self {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(format!("{salt}\0{name}"))));
        let vertex = Vertex { digest, name: name.into(), started: Some(now()), ..Vertex::default() };
        log.push(StatusResponse { vertexes: vec![vertex.clone()], ..StatusResponse::default() });
        Self { log: log.clone(), vertex, logged: 0 }
    }

    pub fn digest(&self) -> &str {
        &self.vertex.digest
    }

    pub fn cached(&mut self) {
        self.vertex.cached = true;
    }

    /// Something of it that goes on, or has happened.
    pub fn status(&self, id: &str, current: u64, total: u64, done: bool) {
        let status = VertexStatus {
            id: id.into(),
            vertex: self.vertex.digest.clone(),
            name: String::new(),
            current: i64::try_from(current).unwrap_or(i64::MAX),
            total: i64::try_from(total).unwrap_or(0),
            timestamp: Some(now()),
            started: self.vertex.started,
            completed: done.then(now),
        };
        self.log.push(StatusResponse { statuses: vec![status], ..StatusResponse::default() });
    }

    pub fn output(&mut self, stderr: bool, mut data: Vec<u8>) {
        if self.logged > LOG_LIMIT {
            return;
        }
        self.logged += data.len();
        if self.logged > LOG_LIMIT {
            data.extend_from_slice(b"\n[output clipped, log limit 2MiB reached]\n");
        }
        let log = VertexLog {
            vertex: self.vertex.digest.clone(),
            timestamp: Some(now()),
            stream: if stderr { 2 } else { 1 },
            msg: data,
        };
        self.log.push(StatusResponse { logs: vec![log], ..StatusResponse::default() });
    }

    /// Ends the line as its work has ended.
    pub fn ends<T>(self, result: Result<T>) -> Result<T> {
        self.end(result.as_ref().err().map(ToString::to_string));
        result
    }

    /// Ends the line, with an error or without.
    pub fn end(mut self, error: Option<String>) {
        self.vertex.completed = Some(now());
        self.vertex.error = error.unwrap_or_default();
        self.log.push(StatusResponse { vertexes: vec![self.vertex], ..StatusResponse::default() });
    }
}

/// Tells the steps of a build.
pub(crate) struct Vertices {
    pub log: Arc<Log>,
    /// Makes the vertices of this build its own.
    pub salt: String,
    lines: Mutex<HashMap<usize, Line>>,
    resolving: Mutex<HashMap<usize, Line>>,
    resolved: Mutex<HashSet<String>>,
    failed: Mutex<Option<String>>,
}

impl Vertices {
    pub fn new(log: Arc<Log>) -> Self {
        Self {
            log,
            salt: base::rng::hex(8),
            lines: Mutex::default(),
            resolving: Mutex::default(),
            resolved: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// The digest of the step that failed first.
    pub fn failed(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    fn pull(&self, stage: usize, p: &Progress) {
        let resolving = self.resolving.lock();
        let lines = self.lines.lock();
        let Some(line) = resolving.get(&stage).or_else(|| lines.get(&stage)) else { return };
        if p.id.is_empty() {
            return;
        }
        let done = matches!(p.status.as_str(), "Download complete" | "Pull complete" | "Already exists");
        line.status(&p.id, p.current.unwrap_or(0), p.total.unwrap_or(0), done);
    }
}

#[async_trait]
impl Listener for Vertices {
    async fn tell(&self, stage: usize, told: Told) -> Result<()> {
        match told {
            Told::Resolving(name) => {
                if self.resolved.lock().insert(name.clone()) {
                    let line =
                        Line::begin(&self.log, &self.salt, &format!("[internal] load metadata for {name}"));
                    self.resolving.lock().insert(stage, line);
                }
            }
            Told::Resolved => {
                if let Some(line) = self.resolving.lock().remove(&stage) {
                    line.end(None);
                }
            }
            Told::Begin(step) => {
                let old = self.lines.lock().remove(&stage);
                if let Some(old) = old {
                    old.end(None);
                }
                if let Some(name) = step.vertex {
                    let line = Line::begin(&self.log, &format!("{} {stage}", self.salt), &name);
                    self.lines.lock().insert(stage, line);
                }
            }
            Told::Cached => {
                if let Some(line) = self.lines.lock().get_mut(&stage) {
                    line.cached();
                }
            }
            Told::Output(piece) => {
                if let Some(line) = self.lines.lock().get_mut(&stage) {
                    line.output(piece.stderr, piece.data.to_vec());
                }
            }
            Told::Pull(progress) => self.pull(stage, &progress),
            Told::Done(_) => {
                if let Some(line) = self.lines.lock().remove(&stage) {
                    line.end(None);
                }
            }
            Told::Failed(why) => {
                let resolving = self.resolving.lock().remove(&stage);
                let line = self.lines.lock().remove(&stage);
                for line in [resolving, line].into_iter().flatten() {
                    self.failed.lock().get_or_insert_with(|| line.digest().to_string());
                    line.end(Some(why.clone()));
                }
            }
            Told::Triggers(_) | Told::Running(_) | Told::Ran(_) => {}
        }
        Ok(())
    }

    fn stage_ended(&self, stage: usize) {
        // A stage that was cancelled has a step that did not end.
        let left = [self.lines.lock().remove(&stage), self.resolving.lock().remove(&stage)];
        for line in left.into_iter().flatten() {
            line.end(Some("context canceled".into()));
        }
    }
}
