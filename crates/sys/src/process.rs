//! Making and shaping processes: clone3, descriptors, signals, capabilities' bookkeeping is in [`crate::caps`].

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which side of a clone this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The caller; the child's pid as the caller sees it.
    Parent(i32),
    /// The child.
    Child,
}

/// Forks with new namespaces (`CLONE_NEW*` bits in `namespaces`), on cgroup v2 straight into `cgroup`.
///
/// Refuses to in a process with more than one thread: the child could then find a lock held for ever. This is what
/// makes it safe, and why a daemon spawns a shim instead of calling it.
pub fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    clone(namespaces, cgroup, false)
}

/// As [`clone3`], in a child of it; the new process is a child of the caller's parent.
pub fn clone3_sibling(namespaces: u64) -> io::Result<Fork> {
    clone(namespaces, None, true)
}

fn check_one_thread(what: &str) -> io::Result<()> {
    // A process has one link per thread and two for the folder itself.
    if !CHILD.load(Ordering::Relaxed) && std::fs::metadata("/proc/self/task")?.nlink() != 3 {
        return Err(io::Error::other(format!("{what} needs a process with one thread")));
    }
    Ok(())
}

fn clone(namespaces: u64, cgroup: Option<BorrowedFd<'_>>, sibling: bool) -> io::Result<Fork> {
    check_one_thread("clone3")?;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    #[repr(C)]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let mut args = CloneArgs { flags: namespaces, exit_signal: libc::SIGCHLD as u64, ..Default::default() };
    if sibling {
        // Its end is then told by the caller's own signal, which the kernel wants to be left out here.
        args.flags |= libc::CLONE_PARENT as u64;
        args.exit_signal = 0;
    }
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and without a stack this is fork(2): the child gets a copy of everything. The only
    // thread is this one (checked above), so no lock of the allocator or of std is held by a thread that is gone.
    let r = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match r {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            CHILD.store(true, Ordering::Relaxed);
            Ok(Fork::Child)
        }
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Whether this process was made by [`clone3`], and so has one thread unless it made more.
static CHILD: AtomicBool = AtomicBool::new(false);

/// Forks by the oldest system call there is, which every system call filter allows. Refuses to in a process with more
/// than one thread, as [`clone3`] does.
pub fn fork() -> io::Result<Fork> {
    check_one_thread("fork")?;
    // SAFETY: the only thread is this one (checked above), so no lock is held by a thread that is gone.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Sends any signal, real-time ones included; 0 only asks whether the process is there. `pid` -1 is everyone.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: passes two numbers.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Marks every descriptor from `first` on close-on-exec, so that nothing leaks through execve.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// In a child of [`clone3`] that will end in execve or exit: closes every descriptor beyond the first three but `keep`.
/// What the shim had open (its daemon's connection, say) must not live on in a container that is waiting to start.
pub fn close_others(keep: &[BorrowedFd<'_>]) {
    if !CHILD.load(Ordering::Relaxed) {
        return;
    }
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut next = 3;
    for fd in keep {
        if fd > next {
            let _ = close_range(next, fd - 1, 0);
        }
        next = next.max(fd + 1);
    }
    let _ = close_range(next, u32::MAX, 0);
}

fn close_range(first: u32, last: u32, flags: u32) -> io::Result<()> {
    // SAFETY: either only sets flags, or closes descriptors in a child that is a copy of its parent and that neither
    // uses nor drops the owners it inherited: it goes on with the kept ones to execve or exit.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Resets every signal's disposition and unblocks all signals: what a program expects to be born with.
pub fn default_signals() {
    // By the kernel's own call: the C library keeps the two signals before SIGRTMIN() to itself, and spawns programs that
    // ignore them.
    let default = [0u64; 4];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: sigaction(2)'s structure in the kernel's form, of which nothing is larger than four words; all zero is
        // SIG_DFL, which installs no handler code. Failure (SIGKILL, SIGSTOP) is as intended.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null::<u64>(),
                8usize,
            );
        }
    }
    // SAFETY: an empty set is made by sigemptyset before it is used; only this thread's mask changes.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Waits for any signal that is blocked in this thread; its number, which may be a real-time signal's.
pub fn next_signal() -> io::Result<i32> {
    // SAFETY: the set is filled before it is used, and nobody is interested in more than the number.
    let signal = unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut set);
        libc::sigwaitinfo(&raw const set, std::ptr::null_mut())
    };
    if signal > 0 { Ok(signal) } else { Err(io::Error::last_os_error()) }
}

/// Gives this process a session keyring of its own, so that a container cannot read the machine's.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) };
    if r >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clone3_refuses_threads() {
        std::thread::scope(|scope| {
            let (tx, rx) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || rx.recv());
            assert!(clone3(0, None).is_err());
            drop(tx);
        });
    }
}
