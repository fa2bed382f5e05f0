//! Running a piece of code inside another network namespace.

use std::fs::File;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use crate::error::{Error, Result};

/// Runs `f` on a fresh thread that has entered the network namespace `netns` (a path such as `/proc/7/ns/net`).
/// Sockets made there keep living in it; files below /proc/sys/net show that namespace. The caller's thread waits.
pub fn in_netns<T: Send>(netns: &Path, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file =
        File::open(netns).map_err(|e| Error::io(format!("open network namespace {}", netns.display()), e))?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| {
                    Error::io(format!("enter network namespace {}", netns.display()), e.into())
                })?;
                f()
            })
            .map_err(|e| Error::io("start a thread", e))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
