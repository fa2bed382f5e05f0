//! What a cloned child does: the container's first process, or an exec. Neither function returns: each ends in the
//! program it was cloned for, or tells the shim why not and exits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::{LinuxNamespaceType, Process};
use rustix::fs::{Mode, OFlags};
use sys::cgroup::Cgroup;
use sys::mount::{self, attr};
use sys::process::Fork;
use sys::seccomp::Program;

use super::hooks;
use super::process::{Extras, become_user, prepare};
use super::rootfs;
use super::sync::{self, Message};
use crate::protocol::{ContainerConfig, Failure, Step};
use crate::{ContainerSpec, ExecSpec};

/// The standard streams of a child.
pub(super) struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl Stdio {
    /// Gives pipes to the root of a container with a user namespace, who gives them on to the process's user.
    pub(super) fn give(&self, config: &ContainerConfig) -> Result<(), Failure> {
        if config.uid_map.is_empty() {
            return Ok(());
        }
        let uid = sys::userns::outside(&config.uid_map, 0).map(rustix::fs::Uid::from_raw);
        let gid = sys::userns::outside(&config.gid_map, 0).map(rustix::fs::Gid::from_raw);
        for fd in [&self.stdin, &self.stdout, &self.stderr] {
            let kind = rustix::fs::fstat(fd).map(|s| rustix::fs::FileType::from_raw_mode(s.st_mode));
            if kind == Ok(rustix::fs::FileType::Fifo) {
                rustix::fs::fchown(fd, uid, gid).step(|| "give the standard streams to root".into())?;
            }
        }
        Ok(())
    }

    /// Inside the container's root: an input that is the machine's null device becomes the container's own, as it is
    /// there under its name. Where there is none, or something else, it stays.
    fn take_own_null(&mut self) {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if rootfs::is_null_device(&self.stdin)
            && let Ok(own) = rustix::fs::open("/dev/null", flags, Mode::empty())
            && rootfs::is_null_device(&own)
            && rustix::fs::fcntl_setfl(&own, OFlags::empty()).is_ok()
        {
            self.stdin = own;
        }
    }
}

/// What the first process needs.
pub(super) struct First<'a> {
    pub config: &'a ContainerConfig,
    pub cgroup: Option<&'a Cgroup>,
    /// The cgroup, if this process was not cloned into it.
    pub enters: Option<&'a Cgroup>,
    pub unified: bool,
    pub sync: OwnedFd,
    /// None: a terminal is made.
    pub stdio: Option<Stdio>,
    /// Bind mounts that could be made by the shim only, by their number.
    pub binds: Vec<(usize, OwnedFd)>,
}

fn fail(sync: &OwnedFd, failure: Failure) -> ! {
    let _ = sync::send(sync, &Message::Failed(failure), None);
    std::process::exit(1)
}

/// A panic in a child must not unwind into the shim's code, of which the child is a copy.
fn guarded(body: impl FnOnce()) -> ! {
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    std::process::exit(70)
}

/// The container's first process.
pub(super) fn first(plan: First<'_>) -> ! {
    guarded(move || {
        let mut keep = vec![plan.sync.as_fd()];
        if let Some(io) = &plan.stdio {
            keep.extend([io.stdin.as_fd(), io.stdout.as_fd(), io.stderr.as_fd()]);
        }
        keep.extend(plan.binds.iter().map(|(_, tree)| tree.as_fd()));
        sys::process::close_others(&keep);
        let First { config, cgroup, enters, unified, sync, stdio, binds } = plan;
        if let Some(cgroup) = enters
            // First of all, so that whatever it uses is counted, and a cgroup namespace has its root there.
            && let Err(failure) = cgroup.enter().step(|| "enter the cgroup".into())
        {
            fail(&sync, failure)
        }
        if !config.uid_map.is_empty() && config.user_namespace.is_none() {
            // Until the shim has written the maps this process is nobody.
            match sync::receive(&sync) {
                Ok(Some((Message::Go, _))) => {}
                _ => std::process::exit(1),
            }
        }
        match build(config, cgroup, unified, &sync, stdio, binds) {
            Ok((spec, stdio)) => run(&spec, config, sync, stdio),
            Err(failure) => fail(&sync, failure),
        }
    })
}

/// A process that joins a user namespace to clone the first process there, as a child of the shim.
pub(super) fn between(path: &Path, mut plan: First<'_>, to: OwnedFd) -> ! {
    guarded(move || {
        // First of all, as the first process would, and while it is root of the machine.
        let mut enter = || match plan.enters.take() {
            Some(cgroup) => cgroup.enter().step(|| "enter the cgroup".into()),
            None => Ok(()),
        };
        let config = plan.config;
        let cloned = enter().and_then(|()| {
            let what = || format!("join user namespace {}", path.display());
            let open = |path: &Path| {
                rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step(what)
            };
            let pids = config.pid_namespace.as_deref().map(open).transpose()?;
            setns(open(path)?, CloneFlags::CLONE_NEWUSER).step(what)?;
            if let Some(pids) = pids {
                setns(pids, CloneFlags::CLONE_NEWPID).step(|| "join the pid namespace".into())?;
            }
            sys::process::clone3_sibling(config.namespaces).step(|| "clone the first process".into())
        });
        let said = match cloned {
            Ok(Fork::Child) => {
                drop(to);
                first(plan)
            }
            Ok(Fork::Parent(pid)) => Message::Cloned(pid),
            Err(failure) => Message::Failed(failure),
        };
        let _ = sync::send(&to, &said, None);
    })
}

/// Makes everything; returns when the shim says go.
fn build(
    config: &ContainerConfig,
    cgroup: Option<&Cgroup>,
    unified: bool,
    sync: &OwnedFd,
    stdio: Option<Stdio>,
    binds: Vec<(usize, OwnedFd)>,
) -> Result<(Loaded, Stdio), Failure> {
    let bytes = std::fs::read("container.json").step(|| "read container.json".into())?;
    let spec: ContainerSpec =
        serde_json::from_slice(&bytes).map_err(|e| Failure::setup(format!("container.json: {e}")))?;
    drop(bytes);
    let process = spec.oci.process().as_ref().ok_or_else(|| Failure::setup("process is missing"))?;
    let linux = spec.oci.linux().as_ref();
    let user_namespace = !config.uid_map.is_empty();
    let seccomp = filter(config)?;
    rustix::process::setsid().step(|| "setsid".into())?;
    // Before it is someone else, to whom its own files in /proc would not belong.
    prepare(process)?;
    let place = rustix::fs::open("rootfs", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step(|| "open the root's folder".into())?;
    let mut sources = rootfs::early_copies(&spec.oci)?;
    for (number, tree) in binds {
        if let Some(source) = sources.get_mut(number) {
            *source = Some(rootfs::Source::Tree(tree));
        }
    }
    if user_namespace {
        // Root of the namespace may not look into folders of the machine's root, as whom this process can still look.
        for (source, opened) in sources.iter_mut().zip(rootfs::open_sources(&spec.oci)?) {
            *source = source.take().or(opened);
        }
        become_root()?;
    }
    let null = rootfs::null_device()?;
    let namespaces = linux.and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
    let own = |kind| namespaces.iter().any(|n| n.typ() == kind && n.path().is_none());
    for namespace in namespaces {
        let Some(path) = namespace.path() else { continue };
        // The pid namespace was joined by the shim, before it cloned.
        let flag = match namespace.typ() {
            LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
            LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
            LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
            LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            // The process that cloned this one has joined it.
            LinuxNamespaceType::User | LinuxNamespaceType::Pid => continue,
            other => return Err(Failure::setup(format!("joining a {other:?} namespace is not supported"))),
        };
        let what = || format!("join namespace {}", path.display());
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step(what)?;
        setns(&fd, flag).step(what)?;
    }
    if user_namespace && own(LinuxNamespaceType::Ipc) {
        nix::sched::unshare(CloneFlags::CLONE_NEWIPC).step(|| "unshare the IPC namespace".into())?;
    }
    let cgroup_namespace = own(LinuxNamespaceType::Cgroup);
    if cgroup_namespace {
        // Its root is the group that the process is in at this moment.
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).step(|| "unshare the cgroup namespace".into())?;
    }
    if own(LinuxNamespaceType::Uts) {
        if let Some(name) = spec.oci.hostname().as_deref().filter(|n| !n.is_empty()) {
            rustix::system::sethostname(name.as_bytes()).step(|| format!("set host name {name}"))?;
        }
        if let Some(name) = spec.oci.domainname().as_deref().filter(|n| !n.is_empty()) {
            rustix::system::setdomainname(name.as_bytes()).step(|| format!("set domain name {name}"))?;
        }
    }
    let env = rootfs::Environment { cgroup, unified, cgroup_namespace, user_namespace };
    // With a user namespace the shim has mounted it, since an overlay's layers are the machine's.
    let rootfs = (!user_namespace).then_some(&spec.rootfs);
    let root = rootfs::mount_root(rootfs, place.as_fd(), linux)?;
    drop(place);
    rootfs::mounts(root.as_fd(), &spec.oci, &env, sources)?;
    rootfs::devices(root.as_fd(), &spec.oci, &env)?;
    rootfs::working_folder(root.as_fd(), process.cwd(), None)?;
    let mut stdio = match stdio {
        Some(stdio) => stdio,
        None => {
            let path = Path::new("dev/pts/ptmx");
            let (master, slave) = terminal(
                sys::rooted::open(root.as_fd(), path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())
                    .step(|| "open /dev/pts/ptmx".into())?,
            )?;
            let console =
                sys::rooted::ensure(root.as_fd(), Path::new("dev/console"), sys::rooted::Kind::File)
                    .step(|| "make /dev/console".into())?;
            mount::clone_fd(slave.as_fd(), false)
                .and_then(|tree| mount::attach(tree.as_fd(), console.as_fd()))
                .step(|| "bind the terminal to /dev/console".into())?;
            sync::send(sync, &Message::Terminal, Some(master.as_fd()))
                .step(|| "hand the terminal over".into())?;
            three(slave)?
        }
    };
    if let Some(hooks) = &config.hooks {
        sync::send(sync, &Message::Hooks, None).step(|| "tell the shim".into())?;
        match sync::receive(sync) {
            Ok(Some((Message::Go, _))) => {}
            _ => std::process::exit(1), // a hook has failed, or the shim is gone
        }
        hooks::run(hooks, hooks::Kind::CreateContainer, &spec.id, own_pid())?;
    }
    let old_root = mount::pivot_root(root.as_fd()).step(|| "pivot_root".into())?;
    drop(root);
    stdio.take_own_null();
    let mut parameters = None;
    if let Some(linux) = linux {
        rootfs::share_root(linux)?;
        parameters = rootfs::parameters(linux)?;
        rootfs::hide(linux, null)?;
    }
    if spec.rootfs.readonly() || spec.oci.root().as_ref().is_some_and(|r| r.readonly() == Some(true)) {
        let root =
            rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(|| "open /".into())?;
        mount::set_attributes(root.as_fd(), attr::RDONLY, 0, None, false)
            .step(|| "make / read-only".into())?;
    }
    sync::send(sync, &Message::Ready, None).step(|| "tell the shim".into())?;
    // After the word, so that nobody waits for what the kernel waits for.
    old_root.leave().step(|| "leave the machine's root".into())?;
    match sync::receive(sync) {
        Ok(Some((Message::Go, _))) => {}
        _ => std::process::exit(1), // the shim is gone
    }
    if let (Some(parameters), Some(linux)) = (parameters, linux) {
        // Only now, because those of the network may be an interface's own, which is there now.
        rootfs::sysctls(parameters.as_fd(), linux)?;
    }
    let (id, init) = (spec.id, spec.init);
    let mut oci = spec.oci;
    let process = oci.process_mut().take().ok_or_else(|| Failure::setup("process is missing"))?;
    Ok((Loaded { id, process, init, seccomp }, stdio))
}

/// What is needed after `Go`; the rest of the specification is gone by then.
struct Loaded {
    id: String,
    process: Process,
    init: bool,
    seccomp: Option<(Program, u32)>,
}

fn filter(config: &ContainerConfig) -> Result<Option<(Program, u32)>, Failure> {
    let Some(path) = &config.seccomp else { return Ok(None) };
    let what = || format!("read seccomp program {}", path.display());
    let program = std::fs::read(path).and_then(Program::from_bytes).step(what)?;
    Ok(Some((program, config.seccomp_flags)))
}

fn become_root() -> Result<(), Failure> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let _ = setgroups(&[]); // forbidden in some user namespaces, where there is nothing to drop
    let (gid, uid) = (Gid::from_raw(0), Uid::from_raw(0));
    setresgid(gid, gid, gid).step(|| "become group 0 of the user namespace".into())?;
    setresuid(uid, uid, uid).step(|| "become user 0 of the user namespace".into())
}

/// As the container sees it.
fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The other end of a terminal, from its master.
fn terminal(master: OwnedFd) -> Result<(OwnedFd, OwnedFd), Failure> {
    rustix::pty::unlockpt(&master).step(|| "unlock the terminal".into())?;
    let flags =
        rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).step(|| "open the terminal".into())?;
    Ok((master, slave))
}

fn three(slave: OwnedFd) -> Result<Stdio, Failure> {
    let copy = |fd: &OwnedFd| fd.try_clone().step(|| "copy the terminal's descriptor".into());
    Ok(Stdio { stdin: copy(&slave)?, stdout: copy(&slave)?, stderr: slave })
}

/// From `Go` to the program.
fn run(loaded: &Loaded, config: &ContainerConfig, sync: OwnedFd, stdio: Stdio) {
    let tty = config.io.tty;
    let extras = Extras {
        seccomp: loaded.seccomp.clone(),
        stdio: Some(&stdio),
        user_namespace: !config.uid_map.is_empty(),
    };
    if tty {
        let _ = rustix::process::ioctl_tiocsctty(&stdio.stdin);
    }
    let ready = match become_user(&loaded.process, extras) {
        Ok(ready) => ready,
        Err(failure) => fail(&sync, failure),
    };
    if let Some(hooks) = &config.hooks
        && let Err(failure) = hooks::run(hooks, hooks::Kind::StartContainer, &loaded.id, own_pid())
    {
        fail(&sync, failure)
    }
    if loaded.init
        && let Err(e) = super::reaper::fork(&stdio.stdin, super::reaper::leave_shim)
    {
        fail(&sync, Failure::setup(format!("fork: {e}")))
    }
    let failure = ready.exec(&stdio);
    fail(&sync, failure)
}

/// What an exec needs.
pub(super) struct Second<'a> {
    pub spec: &'a ExecSpec,
    pub config: &'a ContainerConfig,
    /// The cgroup, if this process was not cloned into it.
    pub enters: Option<&'a Cgroup>,
    /// The container's first process.
    pub target: BorrowedFd<'a>,
    pub sync: OwnedFd,
    pub stdio: Option<Stdio>,
}

/// An exec: joins the container of `target`.
pub(super) fn second(plan: Second<'_>) -> ! {
    guarded(move || {
        let mut keep = vec![plan.sync.as_fd(), plan.target];
        if let Some(io) = &plan.stdio {
            keep.extend([io.stdin.as_fd(), io.stdout.as_fd(), io.stderr.as_fd()]);
        }
        sys::process::close_others(&keep);
        let sync = plan.sync.try_clone();
        let Ok(sync) = sync else { std::process::exit(1) };
        if let Err(failure) = join(plan) {
            fail(&sync, failure)
        }
    })
}

fn join(plan: Second<'_>) -> Result<(), Failure> {
    let Second { spec, config, enters, target, sync, stdio } = plan;
    let process = &spec.process;
    let seccomp = if spec.unconfined { None } else { filter(config)? };
    rustix::process::setsid().step(|| "setsid".into())?;
    // Joining a namespace makes this process visible inside the container while its executable is still ours: nobody
    // there may trace it or open its files.
    nix::sys::prctl::set_dumpable(false).step(|| "make undumpable".into())?;
    prepare(process)?;
    if let Some(cgroup) = enters {
        cgroup.enter().step(|| "enter the cgroup".into())?;
    }
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    let user_namespace = !config.uid_map.is_empty();
    if user_namespace {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    setns(target, flags).step(|| "join the container's namespaces".into())?;
    if user_namespace {
        become_root()?;
    }
    let stdio = match stdio {
        Some(mut stdio) => {
            stdio.take_own_null();
            stdio
        }
        None => {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let (master, slave) = terminal(
                rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty())
                    .step(|| "open /dev/pts/ptmx".into())?,
            )?;
            // Here, because nobody waits for the shim: the program may look at it before the shim has it.
            if let Some((rows, cols)) = spec.size {
                super::stdio::resize(&master, rows, cols).step(|| "set the terminal's size".into())?;
            }
            sync::send(&sync, &Message::Terminal, Some(master.as_fd()))
                .step(|| "hand the terminal over".into())?;
            rustix::process::ioctl_tiocsctty(&slave).step(|| "take the terminal".into())?;
            three(slave)?
        }
    };
    let ready = become_user(process, Extras { seccomp, stdio: Some(&stdio), user_namespace })?;
    drop(sync);
    Err(ready.exec(&stdio))
}
