//! `docker run --init`: process 1 of the container is this loop, which forwards signals to the program and reaps
//! whatever is left to it. With the built-in runtime it is the shim's own code, so nothing has to be mounted into the
//! container; with another one it is this binary (`tug shim --init -- PROGRAM …`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sys::process::Fork;

/// Runs the program under the loop. Returns only what keeps it from being started; ends with the status that shells
/// give a program that cannot be executed.
pub(super) fn main(program: &OsStr, args: &[OsString]) -> io::Result<()> {
    match sys::process::fork()? {
        Fork::Child => {
            own_group(rustix::stdio::stdin());
            let error = Command::new(program).args(args).exec();
            eprintln!("docker-init: exec {}: {}", program.display(), base::errno::words(error.to_string()));
            std::process::exit(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
        }
        Fork::Parent(child) => run(child),
    }
}

/// A process group of its own, in the foreground of its terminal if it has one: the terminal's signals reach it once,
/// not twice.
pub(super) fn own_group(terminal: impl AsFd) {
    let _ = rustix::process::setpgid(None, None);
    if rustix::termios::isatty(&terminal) {
        let _ = rustix::termios::tcsetpgrp(&terminal, rustix::process::getpid());
    }
}

/// Runs until `child` has ended, then ends as it did.
pub(super) fn run(child: i32) -> ! {
    let _ = rustix::thread::set_name(c"docker-init");
    let all = SigSet::all();
    if all.thread_block().is_err() {
        std::process::exit(70)
    }
    loop {
        let mut status = None;
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == child => status = Some(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid.as_raw() == child => {
                    status = Some(128 + signal as i32);
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => std::process::exit(70),
            }
        }
        if let Some(code) = status {
            std::process::exit(code)
        }
        match all.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(signal) => {
                let _ = nix::sys::signal::kill(Pid::from_raw(child), signal);
            }
        }
    }
}
