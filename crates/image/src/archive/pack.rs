//! stub
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::io::Write;
use crate::error::Result;
/// How to pack.
#[derive(Debug, Clone, Default)]
pub struct TarOptions {
    /// The name of the top entry in the archive instead of the path's last component; `Some("")` packs a folder's content without a name (`docker export`).
    pub name: Option<String>,
    /// Follow `path` itself if it is a symbolic link.
    pub follow: bool,
}
/// Writes a tar of what is at `path` inside `root`, with everything below it.
pub fn tar_of(root: BorrowedFd<'_>, path: &Path, options: &TarOptions, out: &mut dyn Write) -> Result<()> { let _ = (root, path, options, out); unimplemented!() }
