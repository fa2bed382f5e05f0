//! Overlayfs outside a container: mounting a merged root that no path leads to, and the marks of its format.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

/// The mark of a folder that hides what lies below it.
pub const OPAQUE: &str = "trusted.overlay.opaque";

/// Mounts `lower` (top first; at least two where there is no `upper`) with `upper` and `work` above, detached: it goes with the returned descriptor.
pub(crate) fn mount(lower: &[PathBuf], upper: Option<(&Path, &Path)>) -> io::Result<OwnedFd> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", "overlay")?;
    // One layer per call: a single string holds 255 bytes only.
    for dir in lower {
        fsconfig_set_string(&fs, "lowerdir+", dir.as_path())?;
    }
    if let Some((upper, work)) = upper {
        fsconfig_set_string(&fs, "upperdir", upper)?;
        fsconfig_set_string(&fs, "workdir", work)?;
    }
    for (key, value) in [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off"), ("xino", "off")] {
        fsconfig_set_string(&fs, key, value)?;
    }
    fsconfig_create(&fs)?;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// Whether this is overlayfs's mark of a deleted file: a character device 0/0.
pub(crate) fn is_whiteout(m: &std::fs::Metadata) -> bool {
    m.file_type().is_char_device() && m.rdev() == 0
}

/// Whether the folder hides what lies below it.
pub(crate) fn is_opaque(path: &Path) -> bool {
    let mut value = [0u8; 4];
    matches!(rustix::fs::lgetxattr(path, OPAQUE, &mut value), Ok(n) if n > 0 && value[0] == b'y')
}
