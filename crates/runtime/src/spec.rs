//! What a container, an exec and a sandbox are made from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

/// An option of a bind mount, with a relative path behind it: the part of its source that is bound. The shim looks for it
/// inside the source and refuses links that lead out, so that nobody who writes there can have another place mounted.
pub const SUBPATH: &str = "x-tug.subpath=";

/// Everything a shim needs to run a container.
///
/// Beyond the OCI specification: `oci.process.user.username`, when set, is a Docker user expression
/// (`name`, `uid`, `name:group`, `uid:gid`) that the first process resolves by /etc/passwd and /etc/group **inside the
/// container's root**; it then wins over `uid`, `gid`, and adds the user's groups to `additional_gids`.
/// `HOME` is set from /etc/passwd when the environment lacks it. A missing working directory is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// 64 hexadecimal digits in Docker's case; any file name of at most 128 bytes.
    pub id: String,
    /// Process, mounts (made after the root, in their order), hostname, and `linux`: namespaces (with paths: joined),
    /// resources, masked and read-only paths, devices, sysctls, `cgroups_path` (absolute, below each hierarchy's root).
    pub oci: Spec,
    /// The root file system.
    pub rootfs: Rootfs,
    /// Standard streams and the log.
    pub io: IoSpec,
    /// Whether the first process is a reaper of ours that runs the command as its child (`docker run --init`).
    #[serde(default)]
    pub init: bool,
    /// The system call filter.
    #[serde(default)]
    pub seccomp: SeccompProfile,
    /// Another OCI runtime's binary (`docker run --runtime`); none is the built-in one.
    #[serde(default)]
    pub runtime: Option<PathBuf>,
    /// What the other runtime is given before its own arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtime_args: Vec<String>,
    /// Free-form; Kubernetes' annotations of a pod's container.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Free-form; the engine finds containers of pods by these.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Where the system call filter comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// `oci.linux.seccomp` as it stands (none there: no filter).
    #[default]
    Spec,
    /// Docker's default profile, resolved for the process's capabilities.
    Default,
    /// A profile in Docker's JSON form, resolved for the process's capabilities.
    Docker(String),
    /// No filter.
    Unconfined,
}

/// The root file system. It is mounted inside the container's own mount namespace, so nothing is left on the machine
/// after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// An overlay.
    Overlay {
        /// The read-only layers, the top one first.
        lower: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
        /// Overlayfs' own folder, on the same file system as `upper`.
        work: PathBuf,
        /// Whether the container may not write.
        readonly: bool,
    },
    /// A folder.
    Path {
        /// The folder.
        path: PathBuf,
        /// Whether the container may not write.
        readonly: bool,
    },
}

impl Rootfs {
    /// Whether the container may not write.
    pub fn readonly(&self) -> bool {
        match self {
            Rootfs::Overlay { readonly, .. } | Rootfs::Path { readonly, .. } => *readonly,
        }
    }
}

/// Standard streams and the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoSpec {
    /// A terminal instead of three pipes.
    pub tty: bool,
    /// What happens to standard input.
    pub stdin: StdinMode,
    /// Where output is recorded.
    pub log: LogSpec,
    /// The terminal's first size: rows, columns.
    pub size: Option<(u16, u16)>,
}

impl Default for IoSpec {
    fn default() -> Self {
        Self { tty: false, stdin: StdinMode::Closed, log: LogSpec::None, size: None }
    }
}

/// What happens to standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdinMode {
    /// /dev/null.
    #[default]
    Closed,
    /// Stays open when whoever attached leaves.
    Open,
    /// Is closed when the first one who attached leaves (Docker's StdinOnce).
    OpenOnce,
}

/// Where output is recorded. Made by [`crate::logs::drivers::spec`] from a driver's name and options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogSpec {
    /// Nowhere.
    #[default]
    None,
    /// Docker's json-file format.
    JsonFile(LogFile),
    /// Docker's local format, compact.
    Local(LogFile),
    /// Sent somewhere.
    Remote(Box<RemoteLog>),
}

impl LogSpec {
    /// A file of the json-file format, as Kubernetes and tests want it.
    pub fn json_file(path: PathBuf, max_size: Option<u64>, max_files: u32) -> Self {
        Self::JsonFile(LogFile { path, max_size, max_files, compress: false, attributes: BTreeMap::new() })
    }

    /// The current file, if what was logged can be read again.
    pub fn path(&self) -> Option<&std::path::Path> {
        match self {
            LogSpec::None => None,
            LogSpec::JsonFile(file) | LogSpec::Local(file) => Some(&file.path),
            LogSpec::Remote(remote) => remote.cache.as_ref().map(|file| file.path.as_path()),
        }
    }
}

/// A log's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// The current file; older ones are `path.1`, `path.2`, …
    pub path: PathBuf,
    /// Bytes after which a new file is begun.
    pub max_size: Option<u64>,
    /// How many files are kept in all, at least 1.
    pub max_files: u32,
    /// Whether older files are compressed (`path.1.gz`).
    #[serde(default)]
    pub compress: bool,
    /// Written with every entry.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// A log that is sent somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteLog {
    /// The driver's name.
    pub driver: String,
    /// Its options, validated.
    pub options: BTreeMap<String, String>,
    /// What its messages are marked with.
    pub tag: String,
    /// The container's labels and variables that were asked for.
    pub attributes: BTreeMap<String, String>,
    /// What the messages say about the container.
    pub container: LoggedContainer,
    /// Where entries are kept too, so that they can be read here.
    pub cache: Option<LogFile>,
    /// Bytes that wait for the driver at most, beyond which entries are dropped; none: the container waits.
    pub buffer: Option<u64>,
}

/// What log drivers say about a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedContainer {
    /// Its id.
    pub id: String,
    /// Its name without a slash.
    pub name: String,
    /// Its image's id.
    pub image_id: String,
    /// Its image as it was asked for.
    pub image_name: String,
    /// Its command line.
    pub command: String,
    /// When it was created, RFC 3339.
    pub created: String,
}

/// One more process in a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Its id, unique in the container.
    pub exec_id: String,
    /// The process; `user.username` is resolved as for a container's first process.
    pub process: Process,
    /// A terminal instead of three pipes.
    pub tty: bool,
    /// Whether standard input is connected; else it is /dev/null.
    pub stdin: bool,
    /// The terminal's first size: rows, columns.
    pub size: Option<(u16, u16)>,
    /// Whether it has the container's system call filter lifted (`docker exec --privileged`).
    #[serde(default)]
    pub unconfined: bool,
}

/// A pod's namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The pod's id; any file name of at most 128 bytes.
    pub id: String,
    /// The pod's host name.
    pub hostname: String,
    /// The machine's network namespace instead of one of its own.
    pub host_network: bool,
    /// The machine's pid namespace for its containers.
    pub host_pid: bool,
    /// The machine's IPC namespace instead of one of its own.
    pub host_ipc: bool,
    /// One pid namespace for all its containers.
    pub share_pid: bool,
    /// Kernel parameters of its namespaces (`net.*`, `kernel.shm*`, `kernel.msg*`, `kernel.sem`, `fs.mqueue.*`).
    pub sysctls: BTreeMap<String, String>,
    /// The pod's cgroup, absolute, below each hierarchy's root: made if missing, removed with the sandbox.
    pub cgroup: String,
    /// Free-form.
    pub annotations: BTreeMap<String, String>,
}
