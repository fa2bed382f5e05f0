//! `docker run --init`: process 1 of the container is this loop, which forwards signals to the program and reaps
//! whatever is left to it. It is the shim's own code, so nothing has to be mounted into the container.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

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
