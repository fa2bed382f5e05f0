//! A process's output, and its end: everything that it wrote is passed on and logged before its end is told.

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use sys::cgroup::Cgroup;

use super::Server;
use crate::protocol::{self, Event, ExitRecord, Failure, FailureKind};
use crate::shim::connection::Role;
use crate::shim::hooks;
use crate::shim::make::FIRST;
use crate::shim::stdio::Read;
use crate::{ExecErrorKind, Exit, Stream};

/// Bytes that are read at once.
pub(super) const READ: usize = 32 * 1024;
/// The same while so much comes that a read takes all it may.
const BUSY: usize = 256 * 1024;

impl Server {
    /// Collects every child that has ended.
    pub(super) fn reap(&mut self) {
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
            // What it wrote before its end is in the pipes. What somebody else writes after it is not its own, and may
            // go on for ever.
            self.pump_pending(key);
            if let Some(p) = self.process_mut(key) {
                p.streams.output = [None, None];
            }
            self.finish_if_done(key);
        }
    }

    /// Reads what a process has written up to this moment, and passes it on.
    pub(super) fn pump_pending(&mut self, key: u64) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut left = self.process(key).map_or(0, |p| p.streams.pending(stream));
            while left > 0 {
                match self.pump(key, stream, left) {
                    0 => break,
                    n => left -= n,
                }
            }
        }
    }

    /// Reads one output once, at most so many bytes, and passes it on. How much it was.
    pub(super) fn pump(&mut self, key: u64, stream: Stream, most: usize) -> usize {
        let Some(p) = self.processes.iter_mut().find(|p| p.key == key) else { return 0 };
        if key != FIRST && p.starter.is_some() && p.exit.is_none() {
            // Its execve is about to be heard of; until then nobody is there to have its output.
            return 0;
        }
        let appetite = match &self.log {
            Some(log) if key == FIRST => log.appetite(),
            _ => usize::MAX,
        };
        // Whoever is attached gets it as it is read, and may be slow: what waits for many of them must stay small.
        let attached = self.connections.iter().any(|(_, c)| c.role == Role::Streams(key));
        let most = most.min(appetite).min(if attached { READ } else { self.buffer.len() });
        let n = match p.streams.read(stream, &mut self.buffer[..most]) {
            Read::Data(n) => n,
            Read::Nothing | Read::End => return 0,
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
        if n == self.buffer.len() && n < BUSY && !attached {
            self.buffer = vec![0; BUSY];
            if let Some(p) = self.process(key) {
                p.streams.widen(stream, BUSY);
            }
        } else if n < READ && self.buffer.len() > READ {
            self.buffer = vec![0; READ];
        }
        n
    }

    /// Tells of processes killed for lack of memory since it was last told; whether there ever were any. The kernel's
    /// notice alone does not say so (deleting the cgroup makes the same noise), and may come after the end.
    pub(super) fn tell_oom(&mut self) -> bool {
        let kills = self.cgroup.as_ref().map_or(0, Cgroup::oom_kills);
        if kills > self.oom_kills {
            self.oom_kills = kills;
            self.tell(&Event::Oom);
        }
        kills > 0
    }

    /// Tells the end of a process that has been reaped and whose output has been read.
    pub(super) fn finish_if_done(&mut self, key: u64) {
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
