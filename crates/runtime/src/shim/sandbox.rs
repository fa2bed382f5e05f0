//! The shim of a pod: holds the namespaces that the pod's containers join. Without a shared pid namespace the shim
//! itself is the holder; with one, a child is that namespace's first process and reaps for it.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use sys::cgroup::Cgroup;
use sys::process::Fork;

use super::connection::{Connection, Role};
use super::rootfs::sysctl_path;
use super::server::{listen, signalfd};
use crate::SandboxSpec;
use crate::protocol::{
    self, Answer, Event, Failure, FailureKind, Op, Reply, Request, ShimConfig, ShimKind, Step,
};

pub(super) struct Sandbox {
    holder: u32,
    child: Option<i32>,
    listener: OwnedFd,
    signals: nix::sys::signalfd::SignalFd,
    cgroup: Option<Cgroup>,
}

impl Sandbox {
    pub(super) fn create(config: ShimConfig) -> Result<Self, Failure> {
        let ShimConfig { kind, hierarchies, cgroup, .. } = config;
        let ShimKind::Sandbox(spec) = kind else { return Err(Failure::setup("not a sandbox's shim.json")) };
        let listener = listen()?;
        let signals = signalfd()?;
        let cgroup = match &cgroup {
            Some(path) => {
                let cgroup = Cgroup::at(&hierarchies, path).step(|| "cgroup".into())?;
                cgroup.create().step(|| "make the cgroup".into())?;
                Some(cgroup)
            }
            None => None,
        };
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWNET, !spec.host_network);
        flags.set(CloneFlags::CLONE_NEWIPC, !spec.host_ipc);
        flags.set(CloneFlags::CLONE_NEWUTS, !spec.host_network);
        nix::sched::unshare(flags).step(|| "unshare the pod's namespaces".into())?;
        if !spec.host_network && !spec.hostname.is_empty() {
            rustix::system::sethostname(spec.hostname.as_bytes())
                .step(|| format!("set host name {}", spec.hostname))?;
        }
        sysctls(&spec)?;
        let mut child = None;
        if spec.share_pid && !spec.host_pid {
            match sys::process::clone3(CloneFlags::CLONE_NEWPID.bits() as u64, None)
                .step(|| "clone the pid namespace's first process".into())?
            {
                Fork::Child => reap_for_ever(),
                Fork::Parent(pid) => child = Some(pid),
            }
        }
        let holder = child.map_or_else(std::process::id, |pid| pid as u32);
        Ok(Self { holder, child, listener, signals, cgroup })
    }

    /// Serves until it is told to quit, or until the holder of the pid namespace is gone.
    pub(super) fn run(self, daemon: OwnedFd) -> i32 {
        let mut connections = Vec::new();
        let hello = Event::Hello { pid: self.holder, started_at: None };
        let connect = |fd: OwnedFd, connections: &mut Vec<Connection>| {
            if let Ok(mut c) = Connection::new(fd) {
                c.send_json(protocol::EVENT, &hello);
                connections.push(c);
            }
        };
        connect(daemon, &mut connections);
        sys::memory::trim_heap();
        sys::memory::unmap_program();
        let mut buffer = [0u8; 4096];
        loop {
            let (accept, signal) = {
                let mut fds = vec![
                    PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
                    PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
                ];
                for c in &connections {
                    let out = if c.has_output() { PollFlags::OUT } else { PollFlags::empty() };
                    fds.push(PollFd::from_borrowed_fd(c.fd.as_fd(), PollFlags::IN | out));
                }
                let _ = poll(&mut fds, None);
                (!fds[0].revents().is_empty(), !fds[1].revents().is_empty())
            };
            if signal {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                if self.reap() {
                    break;
                }
            }
            let mut quit = false;
            for c in &mut connections {
                c.flush();
                c.fill(&mut buffer);
                while let Some((kind, content)) = c.next() {
                    quit |= answer(c, kind, &content);
                }
            }
            connections.retain(|c| !c.dead);
            if quit {
                break;
            }
            if accept
                && let Ok(fd) = rustix::net::accept_with(&self.listener, rustix::net::SocketFlags::CLOEXEC)
            {
                connect(fd, &mut connections);
            }
        }
        if let Some(pid) = self.child {
            let _ = sys::process::kill(pid, libc::SIGKILL);
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        }
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.delete();
        }
        0
    }

    /// Whether the holder of the pid namespace has ended.
    fn reap(&self) -> bool {
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return false,
                Ok(status) if status.pid().map(nix::unistd::Pid::as_raw) == self.child => return true,
                Ok(_) => {}
            }
        }
    }
}

/// Whether the sandbox shall end.
fn answer(c: &mut Connection, kind: u8, content: &[u8]) -> bool {
    let request = match (kind, c.role) {
        (protocol::REQUEST, Role::Control) => serde_json::from_slice::<Request>(content),
        _ => {
            c.dead = true;
            return false;
        }
    };
    let Ok(Request { seq, op, .. }) = request else {
        c.dead = true;
        return false;
    };
    let quit = matches!(op, Op::Quit);
    let result = if quit {
        Ok(Answer::default())
    } else {
        Err(Failure { kind: FailureKind::State, message: "a sandbox has no process of its own".into() })
    };
    c.send_json(protocol::REPLY, &Reply { seq, result });
    quit
}

/// The parameters of the namespaces that this process has just entered: /proc/sys shows the reader's own.
fn sysctls(spec: &SandboxSpec) -> Result<(), Failure> {
    if spec.sysctls.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).step(|| "open /proc".into())?;
    for (name, value) in &spec.sysctls {
        let what = || format!("set sysctl {name}");
        let path = std::path::Path::new("sys").join(sysctl_path(name)?);
        let fd = sys::rooted::open_plain(proc.as_fd(), &path, OFlags::WRONLY | OFlags::NOCTTY).step(what)?;
        rustix::io::write(&fd, value.as_bytes()).step(what)?;
    }
    Ok(())
}

/// Process 1 of a pod's pid namespace.
fn reap_for_ever() -> ! {
    use nix::sys::signal::{SigSet, Signal};
    sys::process::close_others(&[]);
    // With its parent gone nobody could end the pod any more.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let _ = nix::sys::prctl::set_name(c"tug-pause");
    let _ = nix::sys::prctl::set_dumpable(false);
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    let _ = set.thread_block();
    loop {
        while let Ok(status) = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)) {
            if status == nix::sys::wait::WaitStatus::StillAlive {
                break;
            }
        }
        let _ = set.wait();
    }
}
