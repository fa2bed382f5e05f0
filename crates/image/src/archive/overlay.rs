//! Overlayfs outside a container: mounting a merged root that no path leads to, and the marks of its format.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The mark of a folder that hides what lies below it.
pub const OPAQUE: &str = "trusted.overlay.opaque";

/// Mounts `lower` (top first; at least two where there is no `upper`) with `upper` and `work` above, detached: it goes
/// with the returned descriptor.
pub(crate) fn mount(lower: &[PathBuf], upper: Option<(&Path, &Path)>) -> io::Result<OwnedFd> {
    // Everything that a snapshot changes must lie in its own folder, in plain form.
    let options = ["redirect_dir=off", "metacopy=off", "index=off", "xino=off"].map(String::from);
    if sys::mount::kernel() >= (6, 7) {
        return sys::mount::overlay(lower, upper, &options, 0);
    }
    // An older kernel mounts by path only.
    sys::mount::in_own_namespace(|| sys::mount::overlay(lower, upper, &options, 0))
}

/// Whether this is overlayfs's mark of a deleted file: a character device 0/0.
pub(crate) fn is_whiteout(m: &std::fs::Metadata) -> bool {
    m.file_type().is_char_device() && m.rdev() == 0
}

/// Whether the folder hides what lies below it.
pub fn is_opaque(path: &Path) -> bool {
    let mut value = [0u8; 4];
    matches!(rustix::fs::lgetxattr(path, OPAQUE, &mut value), Ok(n) if n > 0 && value[0] == b'y')
}
