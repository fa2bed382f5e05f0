//! Hooks: programs that the specification names for moments of a container's life (runtime-spec, `config.md`,
//! POSIX-platform hooks). Each is given the container's state as JSON on its standard input; the moment decides where
//! it runs, and what its failure means:
//!
//! | hook | where | when | if it fails |
//! |---|---|---|---|
//! | prestart, createRuntime | the machine | everything is made, the root not yet entered | no container |
//! | createContainer | the container's namespaces, the machine's files | right after those | no container |
//! | startContainer | the container | last thing before the program | the program is not executed |
//! | poststart | the machine | right after the program was executed | the container is killed |
//! | poststop | the machine | the container has ended, its cgroup is gone | it is told in the shim's log |
//!
//! The shim does nothing else while a hook runs: what the container writes meanwhile waits in its pipes.

use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::protocol::{Failure, HookConfig, Step};

/// A moment of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Prestart => "prestart",
            Kind::CreateRuntime => "createRuntime",
            Kind::CreateContainer => "createContainer",
            Kind::StartContainer => "startContainer",
            Kind::Poststart => "poststart",
            Kind::Poststop => "poststop",
        }
    }

    /// The status that the state has at that moment.
    fn status(self) -> &'static str {
        match self {
            Kind::Prestart | Kind::CreateRuntime | Kind::CreateContainer => "creating",
            Kind::StartContainer => "created",
            Kind::Poststart => "running",
            Kind::Poststop => "stopped",
        }
    }

    #[allow(deprecated)] // prestart, which descriptions of devices still name
    fn of(self, config: &HookConfig) -> &[Hook] {
        let hooks = &config.hooks;
        let list = match self {
            Kind::Prestart => hooks.prestart(),
            Kind::CreateRuntime => hooks.create_runtime(),
            Kind::CreateContainer => hooks.create_container(),
            Kind::StartContainer => hooks.start_container(),
            Kind::Poststart => hooks.poststart(),
            Kind::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

/// Runs the hooks of a moment in their order, until one fails. `pid` is the container's first process as whoever runs
/// them sees it.
pub(super) fn run(config: &HookConfig, kind: Kind, id: &str, pid: i32) -> Result<(), Failure> {
    for (number, hook) in kind.of(config).iter().enumerate() {
        one(config, kind, id, Some(pid), number, hook)?;
    }
    Ok(())
}

/// As [`run`], for a container that has ended: all of them, whatever becomes of one.
pub(super) fn run_all(config: &HookConfig, kind: Kind, id: &str) {
    for (number, hook) in kind.of(config).iter().enumerate() {
        if let Err(failure) = one(config, kind, id, None, number, hook) {
            eprintln!("{}", failure.message);
        }
    }
}

fn one(
    config: &HookConfig,
    kind: Kind,
    id: &str,
    pid: Option<i32>,
    number: usize,
    hook: &Hook,
) -> Result<(), Failure> {
    let failed = |why: String| {
        Failure::setup(format!(
            "error running {} hook #{number} ({}): {why}",
            kind.name(),
            hook.path().display()
        ))
    };
    let mut state = serde_json::json!({
        "ociVersion": config.oci_version, "id": id, "status": kind.status(), "bundle": config.bundle,
        "annotations": config.annotations,
    });
    if let Some(pid) = pid {
        state["pid"] = pid.into();
    }
    // Files in memory, so that neither a state that nobody reads nor much output makes anyone wait.
    let mut input = memory().map_err(|f| failed(f.message))?;
    let mut output = memory().map_err(|f| failed(f.message))?;
    let spawn = || -> std::io::Result<Child> {
        input.write_all(state.to_string().as_bytes())?;
        input.rewind()?;
        let args = hook.args().as_deref().unwrap_or_default();
        let mut command = Command::new(hook.path());
        if let Some((name, rest)) = args.split_first() {
            command.arg0(name).args(rest);
        }
        command.env_clear().envs(hook.env().iter().flatten().filter_map(|v| v.split_once('=')));
        command.stdin(input).stdout(output.try_clone()?).stderr(output.try_clone()?);
        command.spawn()
    };
    let mut child = spawn().map_err(|e| failed(crate::protocol::plain(&e)))?;
    let status = match hook.timeout().and_then(|t| u64::try_from(t).ok()) {
        Some(seconds)
            if !ends_within(&child, Duration::from_secs(seconds)).map_err(|f| failed(f.message))? =>
        {
            let _ = child.kill(); // it may have ended in this very moment
            let _ = child.wait();
            return Err(failed(format!("it ran longer than its timeout of {seconds} s")));
        }
        _ => child.wait().map_err(|e| failed(crate::protocol::plain(&e)))?,
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    let _ = output.rewind().and_then(|()| output.take(2048).read_to_end(&mut said));
    let said = String::from_utf8_lossy(&said);
    Err(failed(format!("{status}, output: {:?}", said.trim())))
}

fn memory() -> Result<std::fs::File, Failure> {
    let fd = rustix::fs::memfd_create("hook", rustix::fs::MemfdFlags::CLOEXEC);
    fd.map(Into::into).step(|| "make a file in memory".into())
}

/// Whether a process ends before its time is over.
fn ends_within(child: &Child, time: Duration) -> Result<bool, Failure> {
    let pid = rustix::process::Pid::from_child(child);
    let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .step(|| "pidfd_open".into())?;
    let now = || rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let until = now() + Timespec { tv_sec: time.as_secs() as i64, tv_nsec: 0 };
    loop {
        let left = until - now();
        if left.tv_sec < 0 {
            return Ok(false);
        }
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).step(|| "wait".into()),
        }
    }
}
