//! What is known of one pod on this node: the observed half of `decide`.
//!
//! Everything here can be found again after a restart: from the runtime's list of sandboxes and containers (with the
//! labels and annotations that `spec` gives them), from files below the pod's folder, from what the API was told of
//! containers whose records a reboot has taken, or by probing again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use tokio::time::Instant;

/// The sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SandboxState {
    /// None yet, or gone.
    #[default]
    Absent,
    /// Being made.
    Creating,
    /// Namespaces and network stand.
    Ready(ReadySandbox),
    /// The process that held its namespaces has ended; what is left of the one with this id is to be removed.
    Gone(String),
    /// It could not be made; to be tried again at this time.
    Failed(Instant),
    /// Being taken down.
    Removing,
}

/// A sandbox that can take containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadySandbox {
    /// Its id in the runtime.
    pub id: String,
    /// The process that holds its namespaces.
    pub pid: u32,
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
}

/// The pod's volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum VolumesState {
    /// Nothing has been done.
    #[default]
    Absent,
    /// Being set up.
    Preparing,
    /// All are there.
    Ready,
    /// Some could not be set up; to be tried again at this time, or when something they need changes.
    Failed(Instant),
}

/// An image that a container needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ImageState {
    /// Not looked for yet for the next start.
    #[default]
    Unknown,
    /// Being looked for or pulled.
    Pulling,
    /// Here, with this id.
    Ready(String),
    /// Not to be had; to be tried again at this time.
    Failed {
        /// `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull`, `InvalidImageName`.
        reason: &'static str,
        /// What is wrong.
        message: String,
        /// When to try again.
        until: Instant,
    },
}

/// One run of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its id in the runtime.
    pub id: String,
    /// How often the container had been run before.
    pub attempt: u32,
    /// The image it was made from, as the pod named it then.
    pub image: String,
    /// That image's id.
    pub image_id: String,
    /// The sandbox it belongs to.
    pub sandbox: String,
    /// What it is doing.
    pub phase: RunPhase,
}

/// What a run is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunPhase {
    /// Its process runs.
    Running {
        /// Since when.
        started: Timestamp,
    },
    /// Its process has ended.
    Exited(Ended),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit status.
    pub code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, `StartError`.
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// When it was started.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
}

/// What is known of one container of the pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerState {
    /// The latest run.
    pub run: Option<Run>,
    /// The run before it.
    pub last: Option<Run>,
    /// The image for the next run.
    pub image: ImageState,
    /// A run is being made.
    pub starting: bool,
    /// It is being stopped.
    pub stopping: bool,
    /// The pod names another image than its run has: it is started anew, whatever the restart policy.
    pub replaced: bool,
    /// Why it cannot be started, and when to try again: `CreateContainerError`, `CreateContainerConfigError`, ...
    pub trouble: Option<Trouble>,
    /// Restarts wait until then.
    pub backoff: Option<Instant>,
    /// The delay of the latest back-off, for its message.
    pub backoff_delay: std::time::Duration,
    /// The post-start hook has run and the startup probe has succeeded.
    pub started: bool,
    /// The readiness probe succeeds; a container without one is ready when it has started.
    pub ready: bool,
    /// A liveness or startup probe has failed for good: the run must end, with this grace period if it names one.
    pub unhealthy: Option<Unhealthy>,
}

/// Why a probe wants a container restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhealthy {
    /// `liveness` or `startup`.
    pub probe: &'static str,
    /// The probe's own grace period.
    pub grace: Option<i64>,
}

/// Why a container cannot be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The reason that its status shows.
    pub reason: &'static str,
    /// The message.
    pub message: String,
    /// When to try again.
    pub until: Instant,
}

impl ContainerState {
    /// The latest run, if its process runs.
    pub fn running(&self) -> Option<&Run> {
        self.run.as_ref().filter(|r| matches!(r.phase, RunPhase::Running { .. }))
    }

    /// How the latest run ended, if it has.
    pub fn ended(&self) -> Option<&Ended> {
        match self.run.as_ref().map(|r| &r.phase) {
            Some(RunPhase::Exited(ended)) => Some(ended),
            _ => None,
        }
    }

    /// How often it was restarted.
    pub fn restarts(&self) -> u32 {
        self.run.as_ref().map_or(0, |r| r.attempt)
    }

    /// Whether nothing of it runs and nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.running().is_none() && !self.starting && !self.stopping
    }
}

/// What is known of one pod.
#[derive(Debug, Clone, Default)]
pub struct PodState {
    /// The sandbox.
    pub sandbox: SandboxState,
    /// The volumes.
    pub volumes: VolumesState,
    /// The containers by name.
    pub containers: BTreeMap<String, ContainerState>,
    /// The pod is no longer in the API: nobody wants to know.
    pub orphan: bool,
    /// It must end for this reason although nobody deleted it: eviction, deadline, refusal. Reason and message.
    pub failed: Option<(String, String)>,
    /// The status that says how all containers ended has been accepted.
    pub settled: bool,
    /// Everything on this node has been taken down.
    pub clean: bool,
    /// The API object is being deleted.
    pub deleting_object: bool,
    /// When the pod was first seen here (`status.startTime`).
    pub start_time: Option<Timestamp>,
    /// When the active deadline ends.
    pub deadline: Option<Instant>,
}

impl PodState {
    /// A container's state; the default one if nothing is known.
    pub fn of(&self, name: &str) -> &ContainerState {
        static NONE: std::sync::LazyLock<ContainerState> = std::sync::LazyLock::new(ContainerState::default);
        self.containers.get(name).unwrap_or(&NONE)
    }

    /// The sandbox, if it is ready.
    pub fn ready_sandbox(&self) -> Option<&ReadySandbox> {
        match &self.sandbox {
            SandboxState::Ready(sandbox) => Some(sandbox),
            _ => None,
        }
    }

    /// The id of the sandbox of which something is there.
    pub fn sandbox_id(&self) -> Option<&str> {
        match &self.sandbox {
            SandboxState::Ready(sandbox) => Some(&sandbox.id),
            SandboxState::Gone(id) => Some(id),
            _ => None,
        }
    }

    /// A container's state within the present sandbox: runs of an earlier one do not count.
    pub fn here(&self, name: &str) -> Option<&Run> {
        let run = self.of(name).run.as_ref()?;
        match &self.sandbox {
            SandboxState::Ready(sandbox) if sandbox.id != run.sandbox => None,
            SandboxState::Absent
            | SandboxState::Creating
            | SandboxState::Gone(_)
            | SandboxState::Failed(_) => None,
            _ => Some(run),
        }
    }
}
