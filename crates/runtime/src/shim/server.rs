//! The shim of a container: makes it, then serves it until it has ended and everything has been said about it.
//!
//! States of the container: waiting (its first process waits for `Go`), running, ended. The order at the end matters:
//! output is read to its end and logged, then the exit is recorded, then it is told. The record is written to the disk
//! by fsync only if no daemon is connected: one that hears of the exit keeps what it needs of it in its own records.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use jiff::Timestamp;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, poll};
use sys::cgroup::Cgroup;
use sys::process::Fork;

use super::child::{self, Second};
use super::connection::{Connection, Role};
use super::external::External;
use super::hooks;
use super::log::Log;
use super::make::{self, FIRST, Made, Process};
use super::stdio::{self, Read, Streams};
use super::sync::{self, Message};
use crate::protocol::{
    self, Answer, ContainerConfig, Event, ExitRecord, Failure, FailureKind, Op, Reply, Request, ShimConfig,
    ShimKind, Step,
};
use crate::{ExecErrorKind, ExecSpec, Exit, StdinMode, Stream};

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
        self.buffer = vec![0; 32 * 1024];
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
            let congested = p.key == FIRST && self.log.as_ref().is_some_and(Log::congested)
                || self.connections.iter().any(|(_, c)| c.role == Role::Streams(p.key) && c.congested());
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
                self.pump(key, stream);
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
        if let (true, Role::Streams(process)) = (c.dead, c.role) {
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

    fn request(&mut self, connection: u64, request: Request) {
        let Request { seq, op } = request;
        let state = |message: &str| Err(Failure { kind: FailureKind::State, message: message.into() });
        let result = match op {
            Op::Start => match self.start(connection, seq) {
                Ok(()) => return, // answered when execve has succeeded or failed
                Err(failure) => Err(failure),
            },
            Op::Exec(spec) => match self.exec(connection, seq, &spec) {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            Op::Signal { signal, all } => self.signal(signal, all),
            Op::Attach if self.ended => state("stopped"),
            Op::Attach => {
                if let Some((_, c)) = self.connections.iter_mut().find(|(k, _)| *k == connection) {
                    c.role = Role::Streams(FIRST);
                }
                let stdin = self.process(FIRST).is_some_and(|p| p.streams.stdin.is_some());
                Ok(Answer { stdin, ..Default::default() })
            }
            Op::Resize { exec_id, rows, cols } => self.resize(exec_id.as_deref(), rows, cols),
            Op::Quit => state("a container's shim ends with its container"),
        };
        self.reply(connection, seq, result);
    }

    fn start(&mut self, connection: u64, seq: u64) -> Result<(), Failure> {
        let waiting = self.started_at.is_none();
        let Some(first) = self.process(FIRST) else {
            return Err(Failure { kind: FailureKind::State, message: "stopped".into() });
        };
        if !waiting || first.starter.is_some() {
            return Err(Failure { kind: FailureKind::State, message: "running".into() });
        }
        match &first.sync {
            Some(sync) => sync::send(sync, &Message::Go, None).step(|| "tell the first process".into())?,
            None if first.exit.is_some() || self.external.is_none() => {
                return Err(Failure { kind: FailureKind::State, message: "stopped".into() });
            }
            None => {}
        }
        if let Some(first) = self.process_mut(FIRST) {
            first.starter = Some((connection, seq));
        }
        if let Some(external) = &self.external {
            match external.start() {
                Ok(()) => self.executed(FIRST),
                Err(failure) => {
                    // What waits to be started will not be: it ends, and the start is answered then.
                    if let Some(first) = self.process_mut(FIRST) {
                        let _ = sys::process::kill(first.pid, libc::SIGKILL);
                        first.failure = Some(failure);
                    }
                }
            }
        }
        Ok(())
    }

    fn signal(&mut self, signal: i32, all: bool) -> Result<Answer, Failure> {
        if all && let Some(cgroup) = &self.cgroup {
            cgroup.signal_all(signal).step(|| format!("send signal {signal}"))?;
            return Ok(Answer::default());
        }
        match self.process(FIRST) {
            // Not reaped yet, so the number is still its own.
            Some(p) if p.exit.is_none() => {
                sys::process::kill(p.pid, signal).step(|| format!("send signal {signal}"))?;
                Ok(Answer::default())
            }
            _ => Err(Failure { kind: FailureKind::State, message: "stopped".into() }),
        }
    }

    fn resize(&mut self, exec_id: Option<&str>, rows: u16, cols: u16) -> Result<Answer, Failure> {
        let p = self.processes.iter_mut().find(|p| p.exec_id.as_deref() == exec_id && p.exit.is_none());
        let Some(p) = p else {
            return Err(Failure { kind: FailureKind::NotFound, message: "no such process".into() });
        };
        match &p.streams.terminal {
            Some(terminal) => stdio::resize(terminal, rows, cols).step(|| "resize".into())?,
            None if p.tty => p.size = Some((rows, cols)), // not there yet: its first size then
            None => {}
        }
        Ok(Answer::default())
    }

    fn exec(&mut self, connection: u64, seq: u64, spec: &ExecSpec) -> Result<(), Failure> {
        let running = self.started_at.is_some() && self.process(FIRST).is_some_and(|p| p.exit.is_none());
        if !running {
            return Err(Failure { kind: FailureKind::State, message: "not running".into() });
        }
        let (mut streams, stdio) = Streams::make(spec.tty, spec.stdin)?;
        stdio.iter().try_for_each(|io| io.give(&self.config))?;
        let mut sync = None;
        let pid = match &self.external {
            Some(external) => {
                let first = self.process(FIRST).map_or(0, |p| p.pid);
                let made = external.exec(spec, first, stdio)?;
                if let Some(master) = made.terminal {
                    streams.set_terminal(master, spec.size)?;
                }
                made.pid
            }
            None => {
                let (ours, theirs) = sync::pair().step(|| "make a socket pair".into())?;
                sync = Some(ours);
                self.clone_second(spec, theirs, stdio)?
            }
        };
        let key = self.next_key;
        self.next_key += 1;
        let waits = sync.is_some();
        self.processes.push(Process {
            key,
            exec_id: Some(spec.exec_id.clone()),
            pid,
            streams,
            sync,
            starter: Some((connection, seq)),
            failure: None,
            exit: None,
            size: spec.size,
            tty: spec.tty,
        });
        if !waits {
            self.executed(key);
        }
        Ok(())
    }

    fn clone_second(
        &self,
        spec: &ExecSpec,
        sync: OwnedFd,
        stdio: Option<child::Stdio>,
    ) -> Result<i32, Failure> {
        let into = match &self.cgroup {
            Some(cgroup) => cgroup.clone_into().step(|| "open the cgroup".into())?,
            None => None,
        };
        if self.home.is_some() {
            let flag = nix::sched::CloneFlags::CLONE_NEWPID;
            nix::sched::setns(&self.first, flag).step(|| "join the container's pid namespace".into())?;
        }
        let fork = sys::process::clone3(0, into.as_ref().map(AsFd::as_fd));
        if let Ok(Fork::Child) = fork {
            let enters = self.cgroup.as_ref().filter(|_| into.is_none());
            let (config, target) = (&self.config, self.first.as_fd());
            child::second(Second { spec, config, enters, target, sync, stdio })
        }
        if let Some(home) = &self.home {
            make::back_to(home)?;
        }
        match fork.step(|| "clone".into())? {
            Fork::Parent(pid) => Ok(pid),
            Fork::Child => Err(Failure::setup("a child came back")),
        }
    }

    /// Reads what a child says before it executes its program.
    fn hear_child(&mut self, key: u64) {
        let Some(p) = self.process_mut(key) else { return };
        let Some(sync) = &p.sync else { return };
        match sync::receive(sync) {
            Ok(Some((Message::Terminal, Some(master)))) => {
                let size = p.size;
                if let Err(failure) = p.streams.set_terminal(master, size) {
                    eprintln!("{}", failure.message);
                }
            }
            Ok(Some((Message::Failed(failure), _))) => {
                p.failure = Some(failure);
                p.sync = None;
                // Answered when it is reaped, so that nothing of it is left when the caller hears of it.
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                p.sync = None;
                self.executed(key);
            }
        }
    }

    /// execve has succeeded, or the child was killed before it.
    fn executed(&mut self, key: u64) {
        let now = base::clock::now();
        if let (FIRST, Some(hooks)) = (key, &self.config.hooks) {
            let pid = self.process(FIRST).map_or(0, |p| p.pid);
            if let Err(failure) = hooks::run(hooks, hooks::Kind::Poststart, &self.id, pid) {
                // It ends, and the start is answered then.
                if let Some(first) = self.process_mut(FIRST) {
                    let _ = sys::process::kill(first.pid, libc::SIGKILL);
                    first.failure = Some(failure);
                }
                return;
            }
        }
        let Some(p) = self.process_mut(key) else { return };
        let Some((connection, seq)) = p.starter.take() else { return };
        let pid = p.pid as u32;
        let is_first = key == FIRST;
        self.was_busy = true;
        if is_first {
            self.started_at = Some(now);
        } else if let Some((_, c)) = self.connections.iter_mut().find(|(k, _)| *k == connection) {
            c.role = Role::Streams(key);
        }
        self.reply(connection, seq, Ok(Answer { pid: Some(pid), stdin: false, started_at: Some(now) }));
    }

    /// Collects every child that has ended.
    fn reap(&mut self) {
        loop {
            let (pid, code, signal) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code, None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32, Some(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return,
                Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => {
                    eprintln!("waitpid: {e}");
                    return;
                }
            };
            let Some(key) = self.processes.iter().find(|p| p.pid == pid.as_raw()).map(|p| p.key) else {
                // A helper of the log, or an orphan that came to the subreaper.
                if let Some(log) = &mut self.log {
                    log.child_ended(pid.as_raw(), code == 0);
                }
                continue;
            };
            let exit = Exit { code, signal, at: base::clock::now(), oom_killed: false };
            // The child's last words may still be in the socket.
            while self.process(key).is_some_and(|p| p.sync.is_some()) {
                self.hear_child(key);
            }
            if key == FIRST && !self.own_pid_namespace {
                // Nobody else ends what it has left behind.
                if let Some(cgroup) = &self.cgroup {
                    let _ = cgroup.signal_all(libc::SIGKILL);
                }
            }
            if let Some(p) = self.process_mut(key) {
                p.exit = Some(exit);
            }
            // What it wrote before its end is in the pipes. What somebody else writes after it is not its own.
            for stream in [Stream::Stdout, Stream::Stderr] {
                while self.pump(key, stream) {}
            }
            if let Some(p) = self.process_mut(key) {
                p.streams.output = [None, None];
            }
            self.finish_if_done(key);
        }
    }

    /// Reads one output once and passes it on. Whether there may be more at once.
    fn pump(&mut self, key: u64, stream: Stream) -> bool {
        let Some(p) = self.processes.iter_mut().find(|p| p.key == key) else { return false };
        if key != FIRST && p.starter.is_some() && p.exit.is_none() {
            // Its execve is about to be heard of; until then nobody is there to have its output.
            return false;
        }
        let most = match &self.log {
            Some(log) if key == FIRST => log.appetite().min(self.buffer.len()),
            _ => self.buffer.len(),
        };
        let n = match p.streams.read(stream, &mut self.buffer[..most]) {
            Read::Data(n) => n,
            Read::Nothing | Read::End => return false,
        };
        let data = &self.buffer[..n];
        if key == FIRST
            && let Some(log) = &mut self.log
        {
            log.write(stream, data);
        }
        let kind = if stream == Stream::Stdout { protocol::STDOUT } else { protocol::STDERR };
        for (_, c) in &mut self.connections {
            if c.role == Role::Streams(key) {
                c.send(kind, data);
            }
        }
        true
    }

    /// Tells of processes killed for lack of memory since it was last told; whether there ever were any. The kernel's
    /// notice alone does not say so (deleting the cgroup makes the same noise), and may come after the end.
    fn tell_oom(&mut self) -> bool {
        let kills = self.cgroup.as_ref().map_or(0, Cgroup::oom_kills);
        if kills > self.oom_kills {
            self.oom_kills = kills;
            self.tell(&Event::Oom);
        }
        kills > 0
    }

    /// Tells the end of a process that has been reaped and whose output has been read.
    fn finish_if_done(&mut self, key: u64) {
        if !self.process(key).is_some_and(|p| p.exit.is_some() && p.streams.ended()) {
            return;
        }
        let oom_killed = key == FIRST && self.tell_oom();
        let Some(at) = self.processes.iter().position(|p| p.key == key) else { return };
        let p = &mut self.processes[at];
        let Some(mut exit) = p.exit.filter(|_| p.streams.ended()) else { return };
        exit.oom_killed = oom_killed;
        let failure = p.failure.take().or_else(|| {
            // Killed between the start's request and execve.
            p.starter.as_ref()?;
            let message = format!("the process was ended before it started (status {})", exit.code);
            Some(Failure { kind: FailureKind::Exec(ExecErrorKind::Other), message })
        });
        if let Some(failure) = &failure {
            exit.code = match failure.kind {
                FailureKind::Exec(ExecErrorKind::NotFound) => 127,
                FailureKind::Exec(ExecErrorKind::NotExecutable) => 126,
                _ => 128,
            };
        }
        let starter = p.starter.take();
        let exec_id = p.exec_id.clone();
        if key == FIRST {
            if let Some(log) = &mut self.log {
                log.finish();
            }
            if let Some(external) = &self.external {
                // Before anyone hears of the end and removes the bundle, in which the runtime keeps its files.
                external.delete();
            }
            if let Some(hooks) = &self.config.hooks {
                if let Some(cgroup) = &self.cgroup {
                    let _ = cgroup.delete(); // done again when nobody is left who could use it
                }
                hooks::run_all(hooks, hooks::Kind::Poststop, &self.id);
            }
            self.record(exit);
        }
        if let (Some(failure), Some((connection, seq))) = (failure.clone(), starter) {
            self.reply(connection, seq, Err(failure));
        }
        if failure.is_none() && self.started_at.is_some() {
            self.tell(&Event::Exited { exec_id, exit });
        }
        for (_, c) in &mut self.connections {
            if c.role == Role::Streams(key) {
                c.send_json(protocol::END, &exit);
                c.closing = true;
            }
        }
        self.processes.remove(at);
        if key == FIRST {
            self.ended = true;
        }
    }

    /// Leaves the exit where the next daemon finds it.
    fn record(&self, exit: Exit) {
        let record = ExitRecord { id: self.id.clone(), started_at: self.started_at, exit };
        let heard = self.connections.iter().any(|(_, c)| c.role == Role::Control);
        let path = &self.config.exit_record;
        let bytes = match serde_json::to_vec(&record) {
            Ok(bytes) => bytes,
            Err(e) => return eprintln!("exit record: {e}"),
        };
        let write = if heard { base::fsx::write_volatile } else { base::fsx::write_atomic };
        if let Err(e) = write(path, &bytes, 0o600) {
            eprintln!("exit record {}: {e}", path.display());
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
