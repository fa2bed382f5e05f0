//! Working inside another network namespace without leaving it behind on a shared thread.

use std::fs::File;
use std::io;
use std::path::Path;

/// Runs `f` on a fresh thread that has joined the network namespace `ns` (such as `/proc/PID/ns/net`). Sockets that it
/// returns stay in that namespace.
///
/// A fresh thread, because a thread that could not go back would poison whatever pool it belongs to.
pub fn in_netns<T: Send>(ns: &Path, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    let ns = File::open(ns)?;
    std::thread::scope(|scope| {
        scope
            .spawn(move || -> io::Result<T> {
                nix::sched::setns(&ns, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(f())
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_inside_and_leaves_this_thread_alone() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let seen = in_netns(Path::new("/proc/self/ns/net"), || {
            std::fs::read_link("/proc/thread-self/ns/net").unwrap()
        });
        assert_eq!(seen.unwrap(), here);
        assert!(in_netns(Path::new("/proc/self/ns/none"), || ()).is_err());
    }
}
