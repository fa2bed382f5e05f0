//! Making a container: by cloning its first process, or by another OCI runtime.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::wait::waitpid;
use rustix::fs::{Mode, OFlags};
use sys::cgroup::Cgroup;
use sys::process::Fork;

use super::child::{self, First};
use super::external::External;
use super::hooks;
use super::mapped;
use super::rootfs;
use super::stdio::Streams;
use super::sync::{self, Message};
use crate::protocol::{self, ContainerConfig, Event, Failure, Step};
use crate::{ContainerSpec, Exit, StdinMode};

/// A process of ours: the container's first one (`exec_id` none) or an exec.
pub(super) struct Process {
    pub key: u64,
    pub exec_id: Option<String>,
    pub pid: i32,
    pub streams: Streams,
    /// Open until execve has succeeded.
    pub sync: Option<OwnedFd>,
    /// Who waits for execve.
    pub starter: Option<(u64, u64)>,
    /// Said by the child instead of execve.
    pub failure: Option<Failure>,
    pub exit: Option<Exit>,
    pub size: Option<(u16, u16)>,
    pub tty: bool,
}

/// The key of the first process.
pub(super) const FIRST: u64 = 0;
pub(super) const NEWPID: u64 = nix::sched::CloneFlags::CLONE_NEWPID.bits() as u64;

/// A container whose first process waits.
pub(super) struct Made {
    pub process: Process,
    pub pidfd: OwnedFd,
    /// Its mount namespace.
    pub mounts: Option<OwnedFd>,
    /// Becomes readable when memory runs out.
    pub oom: Option<OwnedFd>,
    /// The shim's own pid namespace, if the container has another.
    pub home: Option<OwnedFd>,
    pub external: Option<External>,
}

fn notice(cgroup: &Cgroup) -> Option<OwnedFd> {
    match cgroup.oom_event() {
        Ok(fd) => fd,
        Err(e) => {
            eprintln!("no notice of lack of memory: {e}");
            None
        }
    }
}

fn pidfd(pid: i32) -> Result<OwnedFd, Failure> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| Failure::setup("there is no pid"))?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).step(|| "pidfd_open".into())
}

/// By another runtime, which makes the cgroup and everything else but the root.
pub(super) fn by_runtime(
    binary: &Path,
    id: &str,
    config: &ContainerConfig,
    cgroup: Option<&Cgroup>,
) -> Result<Made, Failure> {
    let (mut streams, stdio) = Streams::make(config.io.tty, config.io.stdin != StdinMode::Closed)?;
    stdio.iter().try_for_each(|io| io.give(config))?;
    let (external, made) = External::create(binary, id, config, stdio)?;
    if let Some(master) = made.terminal {
        streams.set_terminal(master, config.io.size)?;
    }
    let process = Process {
        key: FIRST,
        exec_id: None,
        pid: made.pid,
        streams,
        sync: None,
        starter: None,
        failure: None,
        exit: None,
        size: config.io.size,
        tty: config.io.tty,
    };
    let pidfd = pidfd(made.pid)?;
    Ok(Made {
        process,
        pidfd,
        mounts: None,
        oom: cgroup.and_then(notice),
        home: None,
        external: Some(external),
    })
}

/// By cloning: namespaces with clone3, everything inside them by the child.
pub(super) fn by_clone(
    id: &str,
    config: &ContainerConfig,
    cgroup: Option<&Cgroup>,
    unified: bool,
    daemon: &OwnedFd,
) -> Result<Made, Failure> {
    if let Some(cgroup) = cgroup {
        cgroup.create().step(|| "make the cgroup".into())?;
        if let Some(resources) = &config.resources {
            for warning in cgroup.apply(resources).step(|| "set limits".into())? {
                eprintln!("{warning}");
            }
            if let Some(rules) = resources.devices() {
                let rules = crate::defaults::with_standard_devices(rules);
                cgroup.set_devices(&rules).step(|| "set device rules".into())?;
            }
        }
    }
    let oom = cgroup.and_then(notice);
    let (streams, stdio) = Streams::make(config.io.tty, config.io.stdin != StdinMode::Closed)?;
    stdio.iter().try_for_each(|io| io.give(config))?;
    let (ours, theirs) = sync::pair().step(|| "make a socket pair".into())?;
    let mut home = None;
    let joins_user = config.user_namespace.is_some();
    if let Some(path) = config.pid_namespace.as_ref().filter(|_| !joins_user) {
        home = Some(own_namespace()?);
        enter_pid_namespace(path)?;
    }
    let into = match cgroup {
        Some(cgroup) => cgroup.clone_into().step(|| "open the cgroup".into())?,
        None => None,
    };
    let binds = match mapped::Ids::of(config)? {
        Some(ids) => mount_here(&ids)?,
        None => Vec::new(),
    };
    let enters = cgroup.filter(|_| into.is_none());
    let first = First { config, cgroup, enters, unified, sync: theirs, stdio, binds };
    let pid = match &config.user_namespace {
        Some(path) => clone_in_user_namespace(path, into, first)?,
        None => {
            let fork = sys::process::clone3(config.namespaces, into.as_ref().map(AsFd::as_fd));
            match fork.step(|| "clone the first process".into())? {
                Fork::Child => child::first(first),
                Fork::Parent(pid) => {
                    drop(first);
                    pid
                }
            }
        }
    };
    let mut born = Vec::new();
    protocol::json_frame(&mut born, protocol::EVENT, &Event::Born { pid: pid as u32 });
    // A daemon that is gone has no more use for it.
    let _ = rustix::net::send(daemon, &born, rustix::net::SendFlags::NOSIGNAL);
    if let Some(home) = &home {
        back_to(home)?;
    } else if config.namespaces & NEWPID != 0 || config.pid_namespace.is_some() {
        home = Some(own_namespace()?);
    }
    let mut process = Process {
        key: FIRST,
        exec_id: None,
        pid,
        streams,
        sync: Some(ours),
        starter: None,
        failure: None,
        exit: None,
        size: config.io.size,
        tty: config.io.tty,
    };
    let made = || -> Result<(OwnedFd, OwnedFd), Failure> {
        if !config.uid_map.is_empty() && config.user_namespace.is_none() {
            sys::userns::write_maps(pid, &config.uid_map, &config.gid_map).step(|| "map ids".into())?;
            let sync = process.sync.as_ref().ok_or_else(|| Failure::setup("no connection to the child"))?;
            sync::send(sync, &Message::Go, None).step(|| "tell the child".into())?;
        }
        wait_ready(&mut process, id, config)?;
        let mounts =
            rustix::fs::open(format!("/proc/{pid}/ns/mnt"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .step(|| "open the mount namespace".into())?;
        Ok((pidfd(pid)?, mounts))
    }();
    match made {
        Ok((pidfd, mounts)) => Ok(Made { process, pidfd, mounts: Some(mounts), oom, home, external: None }),
        Err(failure) => {
            let _ = sys::process::kill(pid, libc::SIGKILL);
            let _ = waitpid(nix::unistd::Pid::from_raw(pid), None);
            Err(failure)
        }
    }
}

fn own_namespace() -> Result<OwnedFd, Failure> {
    rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .step(|| "open the pid namespace".into())
}

pub(super) fn enter_pid_namespace(path: &Path) -> Result<(), Failure> {
    let what = || format!("join pid namespace {}", path.display());
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step(what)?;
    nix::sched::setns(&fd, nix::sched::CloneFlags::CLONE_NEWPID).step(what)
}

pub(super) fn back_to(home: &OwnedFd) -> Result<(), Failure> {
    nix::sched::setns(home, nix::sched::CloneFlags::CLONE_NEWPID)
        .step(|| "return from the pid namespace".into())
}

/// For a container with a user namespace: the root is mounted by the shim, and so are the binds with mapped ids.
fn mount_here(ids: &mapped::Ids) -> Result<Vec<(usize, OwnedFd)>, Failure> {
    let bytes = fs::read("container.json").step(|| "read container.json".into())?;
    let spec: ContainerSpec =
        serde_json::from_slice(&bytes).map_err(|e| Failure::setup(format!("container.json: {e}")))?;
    rootfs::mount_here(&spec.rootfs, Some(ids))?;
    ids.binds(&spec.oci)
}

/// Clones the first process inside a user namespace that is there already. Its other namespaces must be made by a
/// process in that one, so that they belong to it, and nobody comes back out of a user namespace: a child goes in,
/// clones, says whom, and ends.
fn clone_in_user_namespace(path: &Path, into: Option<OwnedFd>, first: First<'_>) -> Result<i32, Failure> {
    let (ours, theirs) = sync::pair().step(|| "make a socket pair".into())?;
    let fork = sys::process::clone3(0, into.as_ref().map(AsFd::as_fd));
    let between = match fork.step(|| "clone a process".into())? {
        Fork::Child => child::between(path, first, theirs),
        Fork::Parent(pid) => pid,
    };
    drop((first, theirs));
    let said = sync::receive(&ours).step(|| "hear the process between".into());
    let _ = waitpid(nix::unistd::Pid::from_raw(between), None);
    match said? {
        Some((Message::Cloned(pid), _)) => Ok(pid),
        Some((Message::Failed(failure), _)) => Err(failure),
        _ => Err(Failure::setup(format!("the process that joined {} ended", path.display()))),
    }
}

/// Waits until the first process has made everything.
fn wait_ready(p: &mut Process, id: &str, config: &ContainerConfig) -> Result<(), Failure> {
    loop {
        let Some(sync) = &p.sync else { return Err(Failure::setup("no connection to the first process")) };
        match sync::receive(sync).step(|| "hear the first process".into())? {
            Some((Message::Ready, _)) => return Ok(()),
            Some((Message::Terminal, Some(master))) => p.streams.set_terminal(master, p.size)?,
            Some((Message::Failed(failure), _)) => return Err(failure),
            Some((Message::Hooks, _)) => {
                if let Some(hooks) = &config.hooks {
                    hooks::run(hooks, hooks::Kind::Prestart, id, p.pid)?;
                    hooks::run(hooks, hooks::Kind::CreateRuntime, id, p.pid)?;
                }
                sync::send(sync, &Message::Go, None).step(|| "tell the first process".into())?;
            }
            Some(_) => {}
            None => return Err(Failure::setup("the first process ended while the container was made")),
        }
    }
}
