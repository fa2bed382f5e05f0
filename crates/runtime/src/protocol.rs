//! Messages between the daemon and a shim, over the shim's socket.
//!
//! A frame is a kind (1 byte), a length (4 bytes, little endian) and so many bytes. A connection begins as a control
//! connection: the shim sends a [`Event::Hello`], the daemon requests, the shim answers each and sends events. An
//! `Attach` or `Exec` request turns it, with its answer, into a stream connection that carries one process's standard
//! streams and nothing else. Both sides come from the same binary or from neighbouring versions of it: unknown fields
//! are ignored, new ones have defaults.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{ExecErrorKind, ExecSpec, Exit, IoSpec};

/// A request (JSON), daemon to shim.
pub(crate) const REQUEST: u8 = 1;
/// Bytes for standard input.
pub(crate) const STDIN: u8 = 2;
/// The end of standard input.
pub(crate) const STDIN_END: u8 = 3;
/// An answer (JSON), shim to daemon.
pub(crate) const REPLY: u8 = 16;
/// An event (JSON).
pub(crate) const EVENT: u8 = 17;
/// Bytes of standard output.
pub(crate) const STDOUT: u8 = 18;
/// Bytes of standard error.
pub(crate) const STDERR: u8 = 19;
/// The streams have ended; for an exec its [`Exit`] (JSON).
pub(crate) const END: u8 = 20;

/// Bytes before a frame's content.
pub(crate) const HEADER: usize = 5;
/// The longest content of a frame that is accepted.
pub(crate) const MAX_FRAME: usize = 16 << 20;

/// Appends a frame.
pub(crate) fn frame(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(content.len() as u32).to_le_bytes());
    out.extend_from_slice(content);
}

/// Appends a frame with a JSON content.
pub(crate) fn json_frame(out: &mut Vec<u8>, kind: u8, content: &impl Serialize) {
    let at = out.len();
    out.extend_from_slice(&[kind, 0, 0, 0, 0]);
    serde_json::to_writer(&mut *out, content).expect("our own messages serialise: maps have string keys");
    let length = (out.len() - at - HEADER) as u32;
    out[at + 1..at + HEADER].copy_from_slice(&length.to_le_bytes());
}

/// The kind and the length of a frame's content, once its header is there.
pub(crate) fn header(bytes: &[u8]) -> Option<(u8, usize)> {
    let h = bytes.first_chunk::<HEADER>()?;
    Some((h[0], u32::from_le_bytes([h[1], h[2], h[3], h[4]]) as usize))
}

/// What the shim of a container needs itself; the child it clones reads `container.json`, so that the shim stays small.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShimConfig {
    /// The container's or sandbox's id.
    pub id: String,
    /// What it is for.
    pub kind: ShimKind,
    /// Where the machine's cgroups are.
    pub hierarchies: sys::cgroup::Hierarchies,
    /// The container's cgroup; none means the shim's own.
    pub cgroup: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ShimKind {
    Container(Box<ContainerConfig>),
    Sandbox(Box<crate::SandboxSpec>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerConfig {
    /// `CLONE_NEW*` bits of the namespaces that are made with the first process.
    pub namespaces: u64,
    /// Whether it has a cgroup namespace of its own.
    #[serde(default)]
    pub cgroup_namespace: bool,
    /// A pid namespace to join.
    pub pid_namespace: Option<PathBuf>,
    /// Another OCI runtime's binary.
    #[serde(default)]
    pub external: Option<PathBuf>,
    /// The compiled system call filter.
    pub seccomp: Option<PathBuf>,
    /// Flags for seccomp(2).
    pub seccomp_flags: u32,
    /// Standard streams and log.
    pub io: IoSpec,
    /// Limits.
    pub resources: Option<oci_spec::runtime::LinuxResources>,
    /// Ids of a user namespace: inside, outside, count.
    pub uid_map: Vec<(u32, u32, u32)>,
    /// As `uid_map`.
    pub gid_map: Vec<(u32, u32, u32)>,
    /// A user namespace to join, which the maps are those of.
    #[serde(default)]
    pub user_namespace: Option<PathBuf>,
    /// Programs to run at moments of its life.
    #[serde(default)]
    pub hooks: Option<Box<HookConfig>>,
    /// Where the exit record goes.
    pub exit_record: PathBuf,
}

/// Hooks, and what the state that they are given says beside the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HookConfig {
    pub hooks: oci_spec::runtime::Hooks,
    pub oci_version: String,
    pub bundle: PathBuf,
    pub annotations: std::collections::HashMap<String, String>,
}

/// What a shim leaves behind when its container has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    pub id: String,
    pub started_at: Option<Timestamp>,
    pub exit: Exit,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub seq: u64,
    pub op: Op,
    /// For an attach: it has the output only, so that its end is not that of the input.
    #[serde(default)]
    pub output_only: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Op {
    Start,
    Signal {
        signal: i32,
        all: bool,
    },
    Exec(Box<ExecSpec>),
    Attach,
    /// Answered when everything that the first process has written is logged. A shim of an earlier version does not know it
    /// and ends the connection.
    Flush,
    Resize {
        exec_id: Option<String>,
        rows: u16,
        cols: u16,
    },
    /// Ends the sandbox's shim.
    Quit,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub seq: u64,
    pub result: std::result::Result<Answer, Failure>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The process, for an exec.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Whether standard input is connected, for an attach.
    #[serde(default)]
    pub stdin: bool,
    /// When it was started, for a start.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
}

/// Why something failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FailureKind {
    /// A step of making the container.
    Setup,
    /// The command.
    Exec(ExecErrorKind),
    /// The container's state does not allow it.
    State,
    /// No such exec.
    NotFound,
}

impl Failure {
    pub(crate) fn setup(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Setup, message: message.into() }
    }
}

/// Writes a file that its owner alone can read.
pub(crate) fn write_private(path: &std::path::Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(content)
}

/// A step and why it failed, from an error.
pub(crate) trait Step<T> {
    fn step(self, what: impl FnOnce() -> String) -> std::result::Result<T, Failure>;
}

impl<T, E: Into<std::io::Error>> Step<T> for std::result::Result<T, E> {
    fn step(self, what: impl FnOnce() -> String) -> std::result::Result<T, Failure> {
        self.map_err(|e| Failure::setup(format!("{}: {}", what(), plain(&e.into()))))
    }
}

/// An error's text as Go has it.
pub(crate) fn plain(e: &std::io::Error) -> String {
    base::errno::words(e.to_string())
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// Of a new container, before anything else: its first process and namespaces are there, the rest is being made.
    Born {
        pid: u32,
    },
    /// The first frame of a control connection.
    Hello {
        pid: u32,
        started_at: Option<Timestamp>,
    },
    /// Instead of `Hello`: the container could not be made.
    Failed(Failure),
    Exited {
        exec_id: Option<String>,
        exit: Exit,
    },
    Oom,
}
