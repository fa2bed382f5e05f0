//! What a check runs in: a folder, a runtime, a busybox root, and helpers to run something and look at it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use oci_spec::runtime::Spec;
use runtime::{
    ContainerSpec, Exit, IoSpec, IoStream, LogSpec, Rootfs, Runtime, SeccompProfile, ShimCommand,
    ShimRuntime, StdinMode, Stream,
};

const BUSYBOX: &str = "/bin/busybox";

/// Why nothing can be tested here, if so.
pub fn lacking() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    match std::fs::read(BUSYBOX) {
        // A dynamically linked one, which names its interpreter in its first page, would need libraries in the root.
        Ok(bytes) if !bytes[..4096.min(bytes.len())].windows(9).any(|w| w == b"/ld-linux") => None,
        _ => Some("needs /bin/busybox (Debian's busybox-static)"),
    }
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub runtime: Arc<ShimRuntime>,
    cgroup: String,
    next: AtomicU32,
    /// A process whose namespaces a check joins.
    pub holder: AtomicU32,
}

/// What came out of a container or an exec.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
}

impl World {
    pub fn new(name: &str, tokio: &tokio::runtime::Handle) -> Self {
        let _enter = tokio.enter();
        let dir = tempfile::Builder::new().prefix("tug-runtime-").tempdir().unwrap();
        let root = dir.path().join("image");
        for folder in ["bin", "tmp", "etc", "proc", "sys", "dev", "root", "home/app"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        let list = std::process::Command::new(BUSYBOX).arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines() {
            let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
        }
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\napp:x:1001:\naudio:x:29:app\n").unwrap();
        let runtime = open(dir.path());
        let cgroup = format!("{}/{name}", cgroup());
        Self { dir, runtime, cgroup, next: AtomicU32::new(0), holder: AtomicU32::new(0) }
    }

    /// The runtime anew, as after the daemon's end.
    pub fn reopened(&self) -> Arc<ShimRuntime> {
        open(self.dir.path())
    }

    pub fn cgroup(&self, leaf: &str) -> String {
        format!("{}/{leaf}", self.cgroup)
    }

    /// A container of Docker's defaults that runs `args`.
    pub fn spec(&self, args: &[&str]) -> ContainerSpec {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("c{n}");
        let layer = self.dir.path().join(&id);
        for folder in ["upper", "work"] {
            std::fs::create_dir_all(layer.join(folder)).unwrap();
        }
        let mut oci: Spec = runtime::defaults::spec();
        oci.process_mut().as_mut().unwrap().set_args(Some(args.iter().map(|a| (*a).to_string()).collect()));
        oci.linux_mut().as_mut().unwrap().set_cgroups_path(Some(PathBuf::from(self.cgroup(&id))));
        ContainerSpec {
            oci,
            rootfs: Rootfs::Overlay {
                lower: vec![self.dir.path().join("image")],
                upper: layer.join("upper"),
                work: layer.join("work"),
                readonly: false,
            },
            io: IoSpec {
                tty: false,
                stdin: StdinMode::Closed,
                log: LogSpec::json_file(self.log(&id), None, 1),
                size: None,
            },
            init: false,
            runtime: other_runtime(),
            runtime_args: Vec::new(),
            seccomp: SeccompProfile::Default,
            annotations: Default::default(),
            labels: Default::default(),
            id,
        }
    }

    pub fn sh(&self, script: &str) -> ContainerSpec {
        self.spec(&["sh", "-c", script])
    }

    pub fn log(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    /// Creates, attaches, starts, waits.
    pub async fn run(&self, spec: &ContainerSpec) -> (Exit, Output) {
        let io = self.begin(spec).await;
        let output = collect(io).await;
        (self.runtime.wait(&spec.id).await.unwrap(), output)
    }

    /// Creates, attaches, starts.
    pub async fn begin(&self, spec: &ContainerSpec) -> IoStream {
        self.runtime.create(spec).await.unwrap();
        let io = self.runtime.attach(&spec.id).await.unwrap();
        self.runtime.start(&spec.id).await.unwrap();
        io
    }

    /// The standard output of a shell script that must succeed.
    pub async fn out(&self, script: &str) -> String {
        self.output_of(&self.sh(script)).await
    }

    pub async fn output_of(&self, spec: &ContainerSpec) -> String {
        let (exit, output) = self.run(spec).await;
        assert_eq!((exit.code, output.stderr.as_str()), (0, ""), "{output:?}");
        output.stdout
    }

    /// Deletes everything and makes sure that nothing is left.
    pub async fn clean(self) {
        for state in self.runtime.list().await.unwrap() {
            self.runtime.delete(&state.id, true).await.unwrap();
        }
        for sandbox in self.runtime.sandboxes().await.unwrap() {
            self.runtime.sandbox_delete(&sandbox.id).await.unwrap();
        }
        let left = std::fs::read_dir(self.dir.path().join("run/containers")).unwrap().count();
        assert_eq!(left, 0, "bundles are left");
        let hierarchies = sys::cgroup::Hierarchies::find().unwrap();
        sys::cgroup::Cgroup::at(&hierarchies, &self.cgroup).unwrap().delete().unwrap();
    }
}

/// So many seconds, or as many times more as `TUG_TEST_PATIENCE` says: for machines that are emulated.
pub fn patience(seconds: u64) -> std::time::Duration {
    let times = std::env::var("TUG_TEST_PATIENCE").ok().and_then(|t| t.parse().ok()).unwrap_or(1);
    std::time::Duration::from_secs(seconds * times)
}

/// The group of this run.
pub fn cgroup() -> String {
    format!("/tug-test-{}", std::process::id())
}

fn open(dir: &Path) -> Arc<ShimRuntime> {
    ShimRuntime::open(&dir.join("run"), &dir.join("state"), ShimCommand::default()).unwrap()
}

/// The checks hold for any OCI runtime: `TUG_TEST_RUNTIME=/usr/sbin/runc` runs them with another one.
pub fn other_runtime() -> Option<PathBuf> {
    std::env::var_os("TUG_TEST_RUNTIME").map(PathBuf::from)
}

/// Everything until the end.
pub async fn collect(mut io: IoStream) -> Output {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(chunk) = io.output.recv().await {
        match chunk.stream {
            Stream::Stdout => stdout.extend_from_slice(&chunk.data),
            Stream::Stderr => stderr.extend_from_slice(&chunk.data),
        }
    }
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    Output { stdout: text(stdout), stderr: text(stderr) }
}
