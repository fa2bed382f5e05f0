//! Pods' sandboxes as the daemon knows them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use sys::cgroup::{Cgroup, Hierarchies};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::watch;

use super::link::{self, Link, read_frame};
use super::{PATIENCE, ShimRuntime, bundle, remove_cgroup};
use crate::protocol::{self, Op, Reply, ShimConfig, ShimKind};
use crate::{Error, Result, Sandbox, SandboxSpec};

/// A sandbox.
#[derive(Debug)]
pub(super) struct SandboxHandle {
    pub spec: SandboxSpec,
    pid: u32,
    cgroup: Option<Cgroup>,
    bundle: PathBuf,
    link: Mutex<Arc<Link>>,
    /// Turns true when the shim has ended.
    gone: watch::Sender<bool>,
}

impl SandboxHandle {
    pub(super) fn describe(&self) -> Sandbox {
        Sandbox {
            id: self.spec.id.clone(),
            pid: self.pid,
            netns: format!("/proc/{}/ns/net", self.pid).into(),
        }
    }

    /// Turns true when the shim has ended.
    pub(super) fn end(&self) -> watch::Receiver<bool> {
        self.gone.subscribe()
    }

    pub(super) fn alive(&self) -> bool {
        !*self.gone.borrow()
    }
}

pub(super) async fn create(runtime: &ShimRuntime, spec: &SandboxSpec) -> Result<Arc<SandboxHandle>> {
    let cgroup_path = Some(spec.cgroup.clone()).filter(|c| !c.is_empty());
    let cgroup = runtime.cgroup_of(cgroup_path.as_deref())?;
    let path = runtime.run_dir.join("sandboxes").join(&spec.id);
    bundle::make(&path, "sandbox", &spec.id)?;
    let config = ShimConfig {
        id: spec.id.clone(),
        kind: ShimKind::Sandbox(Box::new(spec.clone())),
        hierarchies: runtime.hierarchies.clone(),
        cgroup: cgroup_path,
        created_at: base::clock::now(),
    };
    let started = bundle::write_json(&path.join("shim.json"), &config).and_then(|()| runtime.spawn(&path));
    let (socket, child) = started.map_err(|e| {
        let _ = bundle::remove(&path);
        Error::io(format!("start the shim of sandbox {}", spec.id))(e)
    })?;
    let socket = UnixStream::from_std(socket).map_err(Error::io("the shim's socket"))?;
    let (mut reader, writer) = socket.into_split();
    let hello = read_frame(&mut reader).await.ok().flatten();
    match hello.and_then(|(_, content)| serde_json::from_slice(&content).ok()) {
        Some(protocol::Event::Hello { pid, .. }) => {
            let handle = Arc::new(SandboxHandle {
                spec: spec.clone(),
                pid,
                cgroup,
                bundle: path,
                link: Mutex::new(Arc::new(Link::new(&spec.id, writer))),
                gone: watch::Sender::new(false),
            });
            tokio::spawn(listen(handle.clone(), reader, Some(child)));
            Ok(handle)
        }
        other => {
            let text = std::fs::read_to_string(path.join("shim.log")).unwrap_or_default();
            super::handle::reap(child).await;
            let _ = bundle::remove(&path);
            if let Some(cgroup) = &cgroup {
                let _ = cgroup.delete();
            }
            Err(match other {
                Some(protocol::Event::Failed(f)) => Error::Create { message: f.message },
                _ => {
                    Error::Shim { id: spec.id.clone(), message: format!("it ended at once: {}", text.trim()) }
                }
            })
        }
    }
}

async fn listen(handle: Arc<SandboxHandle>, reader: OwnedReadHalf, child: Option<std::process::Child>) {
    let mut connection = Some(reader);
    while let Some(mut reader) = connection {
        let link = handle.link.lock().clone();
        while let Ok(Some((kind, content))) = read_frame(&mut reader).await {
            if kind == protocol::REPLY {
                match serde_json::from_slice::<Reply>(&content) {
                    Ok(reply) => link.deliver(reply, |_| {}),
                    Err(e) => tracing::error!("shim of sandbox {}: {e}", handle.spec.id),
                }
            }
        }
        link.close();
        connection = regained(&handle).await;
    }
    handle.gone.send_replace(true);
    if let Some(child) = child {
        super::handle::reap(child).await;
    }
}

/// The connection is gone. A new one, if the shim is still there: its end is the end of every container of the pod.
async fn regained(handle: &SandboxHandle) -> Option<OwnedReadHalf> {
    let bundle = handle.bundle.clone();
    let greeted = tokio::task::spawn_blocking(move || link::greet(&bundle)).await.ok()?;
    let (hello, socket) = greeted.ok()??;
    if !matches!(hello, protocol::Event::Hello { pid, .. } if pid == handle.pid) {
        return None;
    }
    let (reader, writer) = link::to_tokio(socket).ok()?.into_split();
    tracing::warn!("the connection to the shim of sandbox {} was lost and is there again", handle.spec.id);
    *handle.link.lock() = Arc::new(Link::new(&handle.spec.id, writer));
    Some(reader)
}

/// What a sandbox was created from, as far as its bundle says it.
pub(super) fn spec(path: &Path) -> Option<SandboxSpec> {
    match bundle::config(path).ok()??.kind {
        ShimKind::Sandbox(spec) => Some(*spec),
        _ => None,
    }
}

/// Finds a sandbox again; none if it is gone.
pub(super) fn reopen(path: &Path, hierarchies: &Hierarchies) -> Result<Option<Arc<SandboxHandle>>> {
    let Some(config) = bundle::config(path)? else { return Ok(None) };
    let ShimKind::Sandbox(spec) = config.kind else { return Ok(None) };
    let cgroup = match &config.cgroup {
        Some(path) => Some(Cgroup::at(hierarchies, path).map_err(Error::io("the sandbox's cgroup"))?),
        None => None,
    };
    let hello = link::greet(path).map_err(Error::io(format!("ask the shim of {}", path.display())))?;
    match hello {
        Some((protocol::Event::Hello { pid, .. }, socket)) => {
            let socket = link::to_tokio(socket).map_err(Error::io("the shim's socket"))?;
            let (reader, writer) = socket.into_split();
            let handle = Arc::new(SandboxHandle {
                spec: *spec,
                pid,
                cgroup,
                bundle: path.into(),
                link: Mutex::new(Arc::new(Link::new(&config.id, writer))),
                gone: watch::Sender::new(false),
            });
            tokio::spawn(listen(handle.clone(), reader, None));
            Ok(Some(handle))
        }
        Some(_) => Err(Error::Shim { id: config.id, message: "it does not greet as one".into() }),
        None => {
            // Its shim was killed; what it held is gone with it.
            if let Some(cgroup) = &cgroup {
                let _ = cgroup.delete();
            }
            Ok(None)
        }
    }
}

pub(super) async fn delete(handle: &SandboxHandle) -> Result<()> {
    let id = &handle.spec.id;
    if handle.alive() {
        let link = handle.link.lock().clone();
        // It may be ending already.
        let _ = link.call(Op::Quit).await;
        let mut gone = handle.end();
        let ended = tokio::time::timeout(PATIENCE, gone.wait_for(|g| *g)).await;
        if ended.is_err() {
            return Err(Error::Shim { id: id.clone(), message: "the sandbox does not end".into() });
        }
    }
    if let Some(cgroup) = &handle.cgroup {
        remove_cgroup(cgroup).await.map_err(Error::io(format!("remove the cgroup of sandbox {id}")))?;
    }
    let path = &handle.bundle;
    bundle::remove(path).map_err(Error::io(format!("remove {}", path.display())))
}
