//! What a daemon asks of a container's shim.

use std::os::fd::{AsFd, OwnedFd};

use sys::process::Fork;

use super::Server;
use crate::ExecSpec;
use crate::protocol::{Answer, Failure, FailureKind, Op, Request, Step};
use crate::shim::child::{self, Second};
use crate::shim::connection::Role;
use crate::shim::hooks;
use crate::shim::make::{self, FIRST, Process};
use crate::shim::stdio::{self, Streams};
use crate::shim::sync::{self, Message};

impl Server {
    pub(super) fn request(&mut self, connection: u64, request: Request) {
        let Request { seq, op, output_only } = request;
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
                    c.output_only = output_only;
                }
                let stdin = self.process(FIRST).is_some_and(|p| p.streams.stdin.is_some());
                Ok(Answer { stdin, ..Default::default() })
            }
            Op::Flush => {
                // What has to wait for a slow reader is not logged yet either.
                if !self.congested(FIRST) {
                    self.pump_pending(FIRST);
                }
                Ok(Answer::default())
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
    pub(super) fn hear_child(&mut self, key: u64) {
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
}
