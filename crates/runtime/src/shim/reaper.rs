//! `docker run --init`: process 1 of the container is this loop, which forwards signals to the program and reaps
//! whatever is left to it. With the built-in runtime it is the shim's own code, so nothing has to be mounted into the
//! container; with another one it is this binary (`tug shim --init -- PROGRAM …`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::fs::{Mode, OFlags};
use rustix::process::WaitOptions;
use sys::process::Fork;

/// Runs the program under the loop. Returns only what keeps it from being started; ends with the status that shells
/// give a program that cannot be executed.
pub(super) fn main(program: &OsStr, args: &[OsString]) -> io::Result<()> {
    fork(rustix::stdio::stdin(), || {})?;
    let error = Command::new(program).args(args).exec();
    eprintln!("docker-init: exec {}: {}", program.display(), base::errno::words(error.to_string()));
    std::process::exit(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
}

/// Forks. What returns is the child, in a process group of its own, in the foreground of its terminal if it has one: the
/// terminal's signals reach it once, not twice. The parent becomes the loop, after `prepare`.
pub(super) fn fork(terminal: impl AsFd, prepare: impl FnOnce()) -> io::Result<()> {
    // Before the child is there, so that none of its signals is missed; and because whoever goes to the foreground from
    // behind is stopped for it unless he does not hear of that.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    match sys::process::fork()? {
        Fork::Child => {
            let _ = rustix::process::setpgid(None, None);
            if rustix::termios::isatty(&terminal) {
                let _ = rustix::termios::tcsetpgrp(&terminal, rustix::process::getpid());
            }
            before.thread_set_mask()?;
            Ok(())
        }
        Fork::Parent(child) => {
            prepare();
            run(child)
        }
    }
}

/// Lets go of what a copy of the shim has that is none of the container's: its streams, of which one is a log on the
/// machine, and a memory that the container's root could read.
pub(super) fn leave_shim() {
    let _ = nix::sys::prctl::set_dumpable(false);
    sys::process::close_others(&[]);
    // The container's own: nothing of this machine's is to be had through /proc/1/fd.
    let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else {
        std::process::exit(70)
    };
    let replaced = [
        rustix::stdio::dup2_stdin(&null),
        rustix::stdio::dup2_stdout(&null),
        rustix::stdio::dup2_stderr(&null),
    ];
    if replaced.iter().any(Result::is_err) {
        std::process::exit(70)
    }
}

/// Runs until `child` has ended, then ends as it did.
fn run(child: i32) -> ! {
    let _ = rustix::thread::set_name(c"docker-init");
    loop {
        let mut ended = None;
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() == child {
                ended = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
            }
        }
        if let Some(code) = ended {
            std::process::exit(code)
        }
        match sys::process::next_signal() {
            Ok(signal) if signal != Signal::SIGCHLD as i32 => {
                let _ = sys::process::kill(child, signal);
            }
            Ok(_) | Err(_) => {}
        }
    }
}
