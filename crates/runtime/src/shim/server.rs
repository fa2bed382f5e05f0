//! The shim of a container: makes it, then serves it until it has ended and everything has been said about it.
//!
//! States of the container: waiting (its first process waits for `Go`), running, ended. The order at the end matters:
//! output is read to its end and logged, then the exit is recorded, then it is told. The record is written to the disk
//! by fsync only if no daemon is connected: one that hears of the exit keeps what it needs of it in its own records.

mod ends;
mod requests;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, poll};
use sys::cgroup::Cgroup;

use super::connection::{Connection, Role};
use super::external::External;
use super::hooks;
use super::log::Log;
use super::make::{self, FIRST, Made, Process};
use crate::protocol::{
    self, Answer, ContainerConfig, Event, Failure, Reply, Request, ShimConfig, ShimKind, Step,
};
use crate::{StdinMode, Stream};

pub(super) struct Server {
    id: String,
    config: ContainerConfig,
    cgroup: Option<Cgroup>,
    listener: OwnedFd,
    signals: nix::sys::signalfd::SignalFd,
    oom: Option<OwnedFd>,
    /// Killed processes that have been told of.
    oom_kills: u64,
    log: Option<Log>,
    first: OwnedFd,
    own_pid_namespace: bool,
    /// The other runtime that made the container, if one did.
    external: Option<External>,
    /// The container's mounts, so that they end with the shim: the kernel takes its time for it, and were the
    /// container's last process the last one in their namespace, it would have to wait before its end is heard of.
    _mounts: Option<OwnedFd>,
    /// The pid namespace of the shim, to come back to after a clone into the container's.
    home: Option<OwnedFd>,
    started_at: Option<Timestamp>,
    processes: Vec<Process>,
    connections: Vec<(u64, Connection)>,
    next_key: u64,
    buffer: Vec<u8>,
    /// Set when the end of the first process has been told.
    ended: bool,
    /// Set when a process has been made.
    was_busy: bool,
}

/// What poll said about one descriptor.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Signals,
    Oom,
    Connection(u64),
    Output(u64, Stream),
    Input(u64),
    Sync(u64),
    /// The log's sender takes something.
    Log,
}

impl Server {
    /// Makes the container; its first process waits when this returns. The daemon hears of that process at once.
    pub(super) fn create(config: ShimConfig, daemon: &OwnedFd) -> Result<Self, Failure> {
        let ShimConfig { id, kind, hierarchies, cgroup, .. } = config;
        let ShimKind::Container(config) = kind else {
            return Err(Failure::setup("not a container's shim.json"));
        };
        let config = *config;
        let listener = listen()?;
        let log = Log::open(&config.io.log).step(|| "failed to initialize logging driver".into())?;
        let signals = signalfd()?;
        let cgroup = match &cgroup {
            Some(path) => Some(Cgroup::at(&hierarchies, path).step(|| "cgroup".into())?),
            None => None,
        };
        let made = match &config.external {
            Some(binary) => make::by_runtime(binary, &id, &config, cgroup.as_ref()),
            None => make::by_clone(&id, &config, cgroup.as_ref(), hierarchies.unified(), daemon),
        };
        match made {
            Ok(Made { process, pidfd, mounts, oom, home, external }) => Ok(Self {
                _mounts: mounts,
                external,
                id,
                own_pid_namespace: config.namespaces & make::NEWPID != 0,
                config,
                cgroup,
                listener,
                signals,
                oom,
                oom_kills: 0,
                log,
                first: pidfd,
                home,
                started_at: None,
                processes: vec![process],
                connections: Vec::new(),
                next_key: FIRST + 1,
                buffer: Vec::new(),
                ended: false,
                was_busy: true,
            }),
            Err(failure) => {
                if let Some(cgroup) = &cgroup {
                    let _ = cgroup.delete();
                }
                if let Some(hooks) = &config.hooks {
                    hooks::run_all(hooks, hooks::Kind::Poststop, &id);
                }
                Err(failure)
            }
        }
    }

    /// Serves until the container has ended and all that was to be told has been.
    pub(super) fn run(mut self: Box<Self>, daemon: OwnedFd) -> i32 {
        self.buffer = vec![0; ends::READ];
        self.connect(daemon);
        while !(self.ended && self.connections.iter().all(|(_, c)| !c.has_output())) {
            for (source, flags) in self.wait() {
                self.handle(source, flags);
            }
            self.connections.retain(|(_, c)| !(c.dead || c.closing && !c.has_output()));
            if std::mem::take(&mut self.was_busy) {
                // What made a process is not needed again for long, and a shim may wait for months.
                sys::memory::trim_heap();
                sys::memory::unmap_program();
            }
        }
        if let Some(cgroup) = &self.cgroup {
            // The daemon does it again when it deletes the container; done here, a stopped one costs nothing.
            let _ = cgroup.delete();
        }
        if let Some(log) = &mut self.log {
            log.close();
        }
        0
    }

    /// Waits for something to happen.
    fn wait(&self) -> Vec<(Source, PollFlags)> {
        let mut sources = vec![Source::Listener, Source::Signals];
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        if let Some(oom) = &self.oom {
            sources.push(Source::Oom);
            fds.push(PollFd::from_borrowed_fd(oom.as_fd(), PollFlags::IN));
        }
        for (key, c) in &self.connections {
            let takes = match c.role {
                Role::Control => true,
                Role::Streams(p) => self.process(p).is_none_or(|p| p.streams.takes_input()),
            };
            let mut flags = PollFlags::empty();
            if takes {
                flags |= PollFlags::IN;
            }
            if c.has_output() {
                flags |= PollFlags::OUT;
            }
            sources.push(Source::Connection(*key));
            fds.push(PollFd::from_borrowed_fd(c.fd.as_fd(), flags));
        }
        if let Some(fd) = self.log.as_ref().and_then(Log::waits_for) {
            sources.push(Source::Log);
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        }
        for p in &self.processes {
            let congested = self.congested(p.key);
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let (Some(fd), false) = (&p.streams.output[stream as usize], congested) {
                    sources.push(Source::Output(p.key, stream));
                    fds.push(PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN));
                }
            }
            if let (Some(fd), true) = (&p.streams.stdin, p.streams.has_queued()) {
                sources.push(Source::Input(p.key));
                fds.push(PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT));
            }
            if let Some(fd) = &p.sync {
                sources.push(Source::Sync(p.key));
                fds.push(PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN));
            }
        }
        // Interrupted or short of memory: look again.
        let _ = poll(&mut fds, None);
        sources.iter().zip(&fds).map(|(s, f)| (*s, f.revents())).filter(|(_, f)| !f.is_empty()).collect()
    }

    /// Whether so much of a process's output is on its way to the log or to whoever is attached that it has to wait.
    fn congested(&self, key: u64) -> bool {
        key == FIRST && self.log.as_ref().is_some_and(Log::congested)
            || self.connections.iter().any(|(_, c)| c.role == Role::Streams(key) && c.congested())
    }

    fn handle(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Listener => {
                if let Ok(fd) = rustix::net::accept_with(&self.listener, rustix::net::SocketFlags::CLOEXEC) {
                    self.connect(fd);
                }
            }
            Source::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Source::Oom => {
                if let Some(fd) = &self.oom {
                    let mut sink = [0u8; 4096];
                    let _ = rustix::io::read(fd, &mut sink);
                }
                self.tell_oom();
            }
            Source::Connection(key) => self.serve(key, flags),
            Source::Output(key, stream) => {
                self.pump(key, stream, usize::MAX);
                self.finish_if_done(key);
            }
            Source::Input(key) => {
                if let Some(p) = self.process_mut(key) {
                    p.streams.flush_input();
                }
            }
            Source::Sync(key) => self.hear_child(key),
            Source::Log => {
                if let Some(log) = &mut self.log {
                    log.flush_sender();
                }
            }
        }
    }

    fn process(&self, key: u64) -> Option<&Process> {
        self.processes.iter().find(|p| p.key == key)
    }

    fn process_mut(&mut self, key: u64) -> Option<&mut Process> {
        self.processes.iter_mut().find(|p| p.key == key)
    }

    fn connect(&mut self, fd: OwnedFd) {
        let Ok(mut connection) = Connection::new(fd) else { return };
        let pid = self.process(FIRST).map_or(0, |p| p.pid as u32);
        connection.send_json(protocol::EVENT, &Event::Hello { pid, started_at: self.started_at });
        let key = self.next_key;
        self.next_key += 1;
        self.connections.push((key, connection));
    }

    fn tell(&mut self, event: &Event) {
        for (_, c) in &mut self.connections {
            if c.role == Role::Control {
                c.send_json(protocol::EVENT, event);
            }
        }
    }

    fn serve(&mut self, key: u64, flags: PollFlags) {
        let buffer = &mut self.buffer;
        let Some((_, c)) = self.connections.iter_mut().find(|(k, _)| *k == key) else { return };
        if flags.contains(PollFlags::OUT) {
            c.flush();
        }
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            c.fill(buffer);
        }
        while let Some((kind, content)) = {
            let c = self.connections.iter_mut().find(|(k, _)| *k == key);
            c.and_then(|(_, c)| c.next())
        } {
            self.take(key, kind, &content);
        }
        let Some((_, c)) = self.connections.iter().find(|(k, _)| *k == key) else { return };
        if let (true, Role::Streams(process)) = (c.dead && !c.output_only, c.role) {
            let once = self.config.io.stdin == StdinMode::OpenOnce || process != FIRST;
            if let (true, Some(p)) = (once, self.process_mut(process)) {
                p.streams.end_input();
            }
        }
    }

    fn take(&mut self, connection: u64, kind: u8, content: &[u8]) {
        let role = self.connections.iter().find(|(k, _)| *k == connection).map(|(_, c)| c.role);
        match (kind, role) {
            (protocol::REQUEST, Some(Role::Control)) => match serde_json::from_slice::<Request>(content) {
                Ok(request) => self.request(connection, request),
                Err(e) => {
                    eprintln!("request: {e}");
                    self.drop_connection(connection);
                }
            },
            (protocol::STDIN, Some(Role::Streams(key))) => {
                if let Some(p) = self.process_mut(key) {
                    p.streams.input(content);
                }
            }
            (protocol::STDIN_END, Some(Role::Streams(key))) => {
                let open = key == FIRST && self.config.io.stdin == StdinMode::Open;
                if let (false, Some(p)) = (open, self.process_mut(key)) {
                    p.streams.end_input();
                }
            }
            _ => self.drop_connection(connection),
        }
    }

    fn drop_connection(&mut self, key: u64) {
        self.connections.retain(|(k, _)| *k != key);
    }

    fn reply(&mut self, connection: u64, seq: u64, result: Result<Answer, Failure>) {
        if let Some((_, c)) = self.connections.iter_mut().find(|(k, _)| *k == connection) {
            c.send_json(protocol::REPLY, &Reply { seq, result });
        }
    }
}

/// The socket that later daemons connect to.
pub(super) fn listen() -> Result<OwnedFd, Failure> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .step(|| "make the socket".into())?;
    // The working folder is the bundle: a relative name is always short enough.
    let address = SocketAddrUnix::new("sock").step(|| "name the socket".into())?;
    rustix::net::bind(&socket, &address).step(|| "bind the socket".into())?;
    fs::set_permissions("sock", std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .step(|| "protect the socket".into())?;
    rustix::net::listen(&socket, 128).step(|| "listen".into())?;
    Ok(socket)
}

/// Children's ends as readable events; signals that would end a shim are ignored: it ends with its container.
pub(super) fn signalfd() -> Result<nix::sys::signalfd::SignalFd, Failure> {
    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    set.thread_block().step(|| "block signals".into())?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).step(|| "signalfd".into())
}
