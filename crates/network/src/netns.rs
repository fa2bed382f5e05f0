//! Running a piece of code inside another network namespace.

use std::path::Path;

use crate::error::{Error, Result};

/// Runs `f` on a fresh thread that has entered the network namespace `netns` (a path such as `/proc/7/ns/net`).
/// Sockets made there keep living in it; files below /proc/sys/net show that namespace. The caller's thread waits.
pub fn in_netns<T: Send>(netns: &Path, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    sys::netns::in_netns(netns, f)
        .map_err(|e| Error::io(format!("enter network namespace {}", netns.display()), e))?
}
