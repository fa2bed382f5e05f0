//! One container as the engine keeps it: what was asked for (durable), what became of it (volatile), and the
//! signals by which others wait for it.
//!
//! Two files per container: `config.json` is written once, durably, at creation (and when it is renamed, updated or
//! connected); `life.json` says what became of it and is replaced without fsync, because after a SIGKILL the page
//! cache still has it, and after a power loss every container has ended anyway.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use runtime::IoStream;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::health::Health;
use crate::model::{Config, EndpointSettings, HostConfig, Map};
use crate::mounts::MountPoint;

/// Where a container is in its life.
///
/// ```text
/// Created ──start──► Running ⇄ Paused
///    │                  │ process ended
///    │      ┌───────────┴──────────┐
///    │      ▼ policy says again    ▼ else
///    │  Restarting ──delay over──► Running        Exited ──start──► Running
///    └───────────────┬──────────────────────────────┘
///                    ▼ rm
///                 Removing ──► gone, or Dead if something of it could not be removed
/// ```
/// Only the operation that holds [`Container::op`] moves it out of Created, Exited, Removing and Dead; only the
/// watcher of its process moves it out of Running and Paused to Exited or Restarting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
    Removing,
    Dead,
}

impl Phase {
    /// The word of the API.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Restarting => "restarting",
            Phase::Exited => "exited",
            Phase::Removing => "removing",
            Phase::Dead => "dead",
        }
    }

    /// Whether there is a process.
    pub(crate) fn alive(self) -> bool {
        matches!(self, Phase::Running | Phase::Paused)
    }

    /// Whether there is a process, or will be by itself.
    pub(crate) fn up(self) -> bool {
        self.alive() || self == Phase::Restarting
    }
}

/// What was asked for: `config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub name: String,
    pub created: Timestamp,
    pub config: Config,
    pub host: HostConfig,
    /// The image's id.
    pub image: String,
    /// The program and its arguments, from entry point and command.
    pub args: Vec<String>,
    pub mounts: Vec<MountPoint>,
    /// The networks to be connected to, in order; by the network's name.
    pub endpoints: IndexMap<String, EndpointSettings>,
    /// The storage driver, as `inspect` names it.
    #[serde(default)]
    pub driver: String,
    /// What its users and groups are on the machine, if they are not the same.
    #[serde(default)]
    pub ids: Option<sys::userns::IdMaps>,
}

/// What became of it: `life.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Life {
    pub phase: Phase,
    pub pid: u32,
    pub exit_code: i32,
    pub error: String,
    pub oom_killed: bool,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Restarts by policy since it was last started by hand.
    pub restart_count: i64,
    /// It was stopped or killed on purpose.
    pub by_hand: bool,
    /// The delay before the last restart.
    pub last_delay: Duration,
    /// What it has got on its networks, by the network's name; empty while it has no process.
    pub attached: IndexMap<String, Attached>,
    /// What it had there when it had a process last: it gets the same addresses again if they are free.
    #[serde(skip)]
    pub detached: IndexMap<String, Attached>,
    /// The volumes that had to be mounted for it, or by a plugin.
    pub volumes: Vec<String>,
    /// The networks that the default routes of IPv4 and IPv6 lead to.
    pub gateways: [Option<String>; 2],
    /// Published ports as they are.
    pub ports: Vec<crate::ports::Published>,
    pub health: Option<Health>,
    /// Execs that were created and not yet ended.
    #[serde(skip)]
    pub execs: Vec<String>,
}

/// A live connection to a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Attached {
    pub network_id: String,
    pub endpoint_id: String,
    /// Its IPv4 address; unspecified if it has none.
    pub address: ipnet::IpNet,
    #[serde(default)]
    pub address6: Option<ipnet::IpNet>,
    pub gateway: Option<std::net::IpAddr>,
    #[serde(default)]
    pub gateway6: Option<std::net::IpAddr>,
    /// Its hardware address; empty until the interface is made, and for an ipvlan, which has its parent's.
    pub mac: String,
    /// The interface is made.
    #[serde(default)]
    pub made: bool,
    /// The host's end of the pair, by which it is detached.
    pub host_ifname: String,
    /// The container's end.
    pub ifname: String,
}

impl Attached {
    /// Its IPv4 address, if it has one.
    pub(crate) fn address4(&self) -> Option<ipnet::IpNet> {
        Some(self.address).filter(|a| !a.addr().is_unspecified())
    }

    /// Every address that it has.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = ipnet::IpNet> {
        self.address4().into_iter().chain(self.address6)
    }
}

/// Everything that changes.
#[derive(Debug)]
pub(crate) struct Inner {
    pub asked: Asked,
    pub life: Life,
    /// Whether it stays when its process ends, although it was started with `--rm`: see [`Container::keep`].
    pub kept: bool,
}

/// What waiters see.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mark {
    /// How often its process has ended.
    pub exits: u64,
    /// How it ended last.
    pub exit_code: i32,
    /// The error of the last start.
    pub error: String,
    /// Running, paused or about to be restarted.
    pub up: bool,
    /// There is a process now.
    pub process: bool,
    /// It is gone.
    pub removed: bool,
}

/// The file that marks the folder of a container with `--rm`.
const PASSING: &str = "passing";

/// Somebody attached before the start.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub stream: oneshot::Sender<Result<IoStream>>,
    /// Whether it has the input, too.
    pub stdin: bool,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub id: String,
    /// Its folder: the two files, the log, hostname, hosts and resolv.conf.
    pub dir: PathBuf,
    /// Held by the operation that changes its phase.
    pub op: tokio::sync::Mutex<()>,
    /// Overlayfs does not allow a layer to be written through two mounts at once. Held alone by whoever mounts the
    /// container's own layer: its start, and what writes into it while it does not run; shared by what writes into it
    /// through the root of its process, which a next start has to wait for.
    pub layers: Arc<tokio::sync::RwLock<()>>,
    inner: Mutex<Inner>,
    pub mark: watch::Sender<Mark>,
    pub waiting: Mutex<Vec<Waiting>>,
    /// What takes its interfaces away and gives its addresses back, after its end.
    pub leaving: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Cancelled to give up waiting for the next restart.
    pub restart: Mutex<CancellationToken>,
    /// Ends the health checks.
    pub health: Mutex<CancellationToken>,
    /// What serves names inside it; dropped with its process.
    pub resolver: Mutex<Option<crate::resolver::Guard>>,
}

/// See [`Container::keep`].
pub(crate) struct Keep<'a>(&'a Container);

impl Drop for Keep<'_> {
    fn drop(&mut self) {
        self.0.lock().kept = false;
    }
}

impl Container {
    pub(crate) fn new(id: String, dir: PathBuf, asked: Asked, life: Life) -> Arc<Container> {
        let mark = Mark {
            exit_code: life.exit_code,
            up: life.phase.up(),
            process: life.phase.alive(),
            ..Mark::default()
        };
        Arc::new(Container {
            id,
            dir,
            op: tokio::sync::Mutex::new(()),
            layers: Arc::default(),
            inner: Mutex::new(Inner { asked, life, kept: false }),
            mark: watch::Sender::new(mark),
            waiting: Mutex::default(),
            leaving: Mutex::default(),
            restart: Mutex::default(),
            health: Mutex::default(),
            resolver: Mutex::default(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// While the guard lives, the end of its process does not remove it: whoever holds the guard decides what becomes of
    /// it.
    pub(crate) fn keep(&self) -> Keep<'_> {
        self.lock().kept = true;
        Keep(self)
    }

    /// Whether it is running, paused or about to be restarted.
    pub(crate) fn up(&self) -> bool {
        self.phase().up()
    }

    /// Says its phase; if it is up, it is noted that its end is wanted, so that it is not started again when it comes, also
    /// by a daemon that comes back in between.
    pub(crate) fn end_wanted(&self) -> Phase {
        let (phase, policy) = {
            let mut inner = self.inner.lock();
            let phase = inner.life.phase;
            inner.life.by_hand |= phase.up();
            (phase, phase.up() && !matches!(inner.asked.host.restart_policy.name.as_str(), "" | "no"))
        };
        if policy {
            self.save_life();
        }
        phase
    }

    /// Takes the place of what cancels the wait for the restart before.
    pub(crate) fn next_restart(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *self.restart.lock() = token.clone();
        token
    }

    /// Lets somebody attach when it is started next, unless it runs already; those who have gone meanwhile are forgotten.
    /// A start looks for who waits once more when it has made the container run, under the same lock.
    pub(crate) fn attach_later(&self, one: Waiting) -> std::result::Result<(), Waiting> {
        let mut waiting = self.waiting.lock();
        if self.phase().alive() {
            return Err(one);
        }
        waiting.retain(|w| !w.stream.is_closed());
        waiting.push(one);
        Ok(())
    }

    pub(crate) fn phase(&self) -> Phase {
        self.inner.lock().life.phase
    }

    pub(crate) fn name(&self) -> String {
        self.inner.lock().asked.name.clone()
    }

    pub(crate) fn short(&self) -> &str {
        &self.id[..12]
    }

    /// Writes what was asked for, durably; of a container with `--rm` only so that a SIGKILL of the daemon does not
    /// lose it, because after a power loss it is removed anyway: a mark says so where the file can be torn.
    pub(crate) fn save_asked(&self) -> Result<()> {
        let (bytes, passing) = {
            let inner = self.inner.lock();
            let bytes = serde_json::to_vec(&inner.asked);
            let bytes = bytes.map_err(|e| Error::System(format!("container {}: {e}", self.id)))?;
            (bytes, inner.asked.host.auto_remove)
        };
        let file = self.dir.join("config.json");
        let written = if passing {
            // Before the file, in the order in which the disk gets to know of them.
            std::fs::write(self.dir.join(PASSING), b"")
                .and_then(|()| base::fsx::write_volatile(&file, &bytes, 0o600))
        } else {
            base::fsx::write_atomic(&file, &bytes, 0o600)
        };
        written.map_err(Error::io(format_args!("saving container {}", self.short())))
    }

    /// Whether a folder is that of a container with `--rm`.
    pub(crate) fn passing(dir: &Path) -> bool {
        dir.join(PASSING).exists()
    }

    /// Writes what became of it. A failure is logged: the container's process matters more.
    pub(crate) fn save_life(&self) {
        let bytes = serde_json::to_vec(&self.inner.lock().life);
        let write = |bytes: Vec<u8>| base::fsx::write_volatile(&self.dir.join("life.json"), &bytes, 0o600);
        if let Err(error) = bytes.map_err(std::io::Error::other).and_then(write) {
            tracing::warn!(container = %self.short(), %error, "the container's state could not be saved");
        }
    }

    /// Reads a container's two files; an unreadable `life.json` (power loss) is as good as none.
    pub(crate) fn load(id: &str, dir: &Path) -> Result<Arc<Container>> {
        let bytes =
            std::fs::read(dir.join("config.json")).map_err(Error::io(format_args!("container {id}")))?;
        let asked: Asked = serde_json::from_slice(&bytes)
            .map_err(|e| Error::System(format!("container {id}: config.json: {e}")))?;
        let life = std::fs::read(dir.join("life.json")).ok().and_then(|b| serde_json::from_slice(&b).ok());
        Ok(Container::new(id.to_owned(), dir.to_owned(), asked, life.unwrap_or_default()))
    }

    /// Attributes of its events: image, name and labels, and `more`.
    pub(crate) fn attributes(&self, more: &[(&str, String)]) -> Map {
        let inner = self.inner.lock();
        let mut map = inner.asked.config.labels.clone();
        map.insert("image".into(), inner.asked.config.image.clone());
        map.insert("name".into(), inner.asked.name.clone());
        map.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        map
    }

    /// Tells waiters the phase.
    pub(crate) fn announce(&self, change: impl FnOnce(&mut Mark)) {
        let (phase, exit_code, error) = {
            let inner = self.inner.lock();
            (inner.life.phase, inner.life.exit_code, inner.life.error.clone())
        };
        self.mark.send_modify(|mark| {
            mark.up = phase.up();
            mark.process = phase.alive();
            mark.exit_code = exit_code;
            mark.error = error;
            change(mark);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(dir: &Path) -> Arc<Container> {
        let asked: Asked = serde_json::from_value(serde_json::json!({
            "name": "n", "created": "2026-01-01T00:00:00Z", "config": {}, "host": {}, "image": "", "args": [],
            "mounts": [], "endpoints": {},
        }))
        .unwrap();
        Container::new("ab".repeat(32), dir.to_owned(), asked, Life::default())
    }

    #[test]
    fn who_has_gone_is_not_waited_for() {
        let container = container(Path::new("/"));
        let (stays, mut stream) = oneshot::channel();
        assert!(container.attach_later(Waiting { stream: stays, stdin: false }).is_ok());
        for _ in 0..10 {
            assert!(container.attach_later(Waiting { stream: oneshot::channel().0, stdin: true }).is_ok());
        }
        assert_eq!(container.waiting.lock().len(), 2, "the first, and the last of those that have gone");
        assert!(stream.try_recv().is_err());
        container.lock().life.phase = Phase::Running;
        assert!(container.attach_later(Waiting { stream: oneshot::channel().0, stdin: true }).is_err());
    }

    #[test]
    fn passing_containers_are_marked() {
        let dir = tempfile::tempdir().unwrap();
        let container = container(dir.path());
        container.save_asked().unwrap();
        assert!(!Container::passing(dir.path()));
        container.lock().asked.host.auto_remove = true;
        container.save_asked().unwrap();
        assert!(Container::passing(dir.path()));
    }
}
