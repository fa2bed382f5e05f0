//! Project quotas (quotactl(2), ioctl_xfs_fsgetxattr(2)): a folder and all that comes to lie in it count as one project,
//! whose size the file system limits. XFS has them when mounted with `pquota`, ext4 with `prjquota`.
//!
//! Which folder has which project is kept by the file system alone: whoever comes back reads it there.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, FileType, Mode};

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `struct fs_disk_quota` of linux/dqblk_xfs.h.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct FsDiskQuota {
    version: i8,
    flags: i8,
    fieldmask: u16,
    id: u32,
    blk_hardlimit: u64,
    blk_softlimit: u64,
    ino_hardlimit: u64,
    ino_softlimit: u64,
    bcount: u64,
    icount: u64,
    itimer: i32,
    btimer: i32,
    iwarns: u16,
    bwarns: u16,
    itimer_hi: i8,
    btimer_hi: i8,
    rtbtimer_hi: i8,
    padding2: i8,
    rtb_hardlimit: u64,
    rtb_softlimit: u64,
    rtbcount: u64,
    rtbtimer: i32,
    rtbwarns: u16,
    padding3: i16,
    padding4: [u8; 8],
}

// FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR of linux/fs.h: _IOR('X', 31, struct fsxattr), _IOW('X', 32, struct fsxattr).
const GET_XATTR: u64 = 0x801c_581f;
const SET_XATTR: u64 = 0x401c_5820;
/// FS_XFLAG_PROJINHERIT: what is made in a folder is of its project.
const INHERIT: u32 = 0x200;
/// PRJQUOTA of linux/quota.h.
const PROJECTS: u32 = 2;
/// Q_XSETQLIM of linux/dqblk_xfs.h.
const SET_LIMITS: u32 = (b'X' as u32) << 8 | 4;
/// FS_PROJ_QUOTA, and FS_DQ_BSOFT | FS_DQ_BHARD.
const OF_PROJECT: i8 = 2;
const SPACE: u16 = 1 << 2 | 1 << 3;
/// The unit of limits, bytes.
const BLOCK: u64 = 512;

/// The project quotas of one file system.
#[derive(Debug)]
pub struct ProjectQuotas {
    /// A folder of the file system, kept open.
    home: File,
    /// For kernels without quotactl_fd(2), that is before 5.14: a device node of the file system.
    node: PathBuf,
    /// The project of each folder that has one of its own.
    projects: HashMap<PathBuf, u32>,
}

/// The next project that nobody has: one count for the process, because several may be open on one file system.
static NEXT: AtomicU32 = AtomicU32::new(1);

impl ProjectQuotas {
    /// The quotas of the file system of `home`, a folder of ours; `None` if it has none. `folders` are those that may have
    /// projects from earlier; new ones get numbers above theirs and above that of `home`.
    pub fn open(home: &Path, folders: impl IntoIterator<Item = PathBuf>) -> io::Result<Option<Self>> {
        let opened = folder(home)?;
        let Ok(own) = project_of(&opened) else { return Ok(None) };
        let mut quotas = Self { home: opened, node: home.with_extension("device"), projects: HashMap::new() };
        NEXT.fetch_max(own + 1, Ordering::Relaxed);
        for path in folders {
            let project = match folder(&path).and_then(|f| project_of(&f)) {
                Ok(project) => project,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            if project != own && project != 0 {
                NEXT.fetch_max(project + 1, Ordering::Relaxed);
                quotas.projects.insert(path, project);
            }
        }
        // Whether the file system counts projects is known by setting a limit, of none, for a project that nobody has.
        match quotas.limit(NEXT.load(Ordering::Relaxed), 0) {
            Ok(()) => Ok(Some(quotas)),
            Err(_) => Ok(None),
        }
    }

    /// Limits what `path` and all that will lie in it may take, in bytes; 0 is no limit. What lies there already is not
    /// counted unless it had been limited before.
    pub fn set(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        let project = match self.projects.get(path) {
            Some(project) => *project,
            None => {
                let project = NEXT.fetch_add(1, Ordering::Relaxed);
                give(&folder(path)?, project)?;
                self.projects.insert(path.to_owned(), project);
                project
            }
        };
        self.limit(project, bytes)
    }

    /// Gives the project of `of`, which has been limited, to a folder beside it: both count together.
    pub fn join(&self, path: &Path, of: &Path) -> io::Result<()> {
        let project = self.projects.get(of).ok_or(io::ErrorKind::NotFound)?;
        give(&folder(path)?, *project)
    }

    /// Forgets a folder that is gone, and its limit.
    pub fn forget(&mut self, path: &Path) -> io::Result<()> {
        match self.projects.remove(path) {
            Some(project) => self.limit(project, 0),
            None => Ok(()),
        }
    }

    fn limit(&self, project: u32, bytes: u64) -> io::Result<()> {
        let blocks = bytes / BLOCK;
        let mut quota = FsDiskQuota {
            version: 1,
            flags: OF_PROJECT,
            fieldmask: SPACE,
            id: project,
            blk_hardlimit: blocks,
            blk_softlimit: blocks,
            ..FsDiskQuota::default()
        };
        let command = SET_LIMITS << 8 | PROJECTS;
        // SAFETY: the descriptor is open, and the kernel reads one `fs_disk_quota` from the address, which outlives the
        // call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_quotactl_fd,
                self.home.as_raw_fd(),
                command,
                project,
                std::ptr::from_mut(&mut quota),
            )
        };
        match result(done) {
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
                self.limit_by_node(command, project, &mut quota)
            }
            other => other,
        }
    }

    fn limit_by_node(&self, command: u32, project: u32, quota: &mut FsDiskQuota) -> io::Result<()> {
        let device = self.home.metadata()?.dev();
        match std::fs::symlink_metadata(&self.node) {
            Ok(there) if there.rdev() == device => {}
            found => {
                // The folder may have been copied here from another device.
                if found.is_ok() {
                    std::fs::remove_file(&self.node)?;
                }
                rustix::fs::mknodat(CWD, &self.node, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, device)?;
            }
        }
        let node = CString::new(self.node.as_os_str().as_bytes())?;
        // SAFETY: the path ends with a zero, and the kernel reads one `fs_disk_quota` from the address; both outlive the
        // call.
        let done = unsafe {
            libc::syscall(libc::SYS_quotactl, command, node.as_ptr(), project, std::ptr::from_mut(quota))
        };
        result(done)
    }
}

fn result(done: libc::c_long) -> io::Result<()> {
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn folder(path: &Path) -> io::Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn attributes(folder: &File) -> io::Result<FsXattr> {
    let mut attributes = FsXattr::default();
    // SAFETY: the request is for exactly one `fsxattr`, which the kernel fills in.
    let done = unsafe { libc::ioctl(folder.as_raw_fd(), GET_XATTR, std::ptr::from_mut(&mut attributes)) };
    result(done.into()).map(|()| attributes)
}

fn project_of(folder: &File) -> io::Result<u32> {
    attributes(folder).map(|a| a.projid)
}

fn give(folder: &File, project: u32) -> io::Result<()> {
    let old = attributes(folder)?;
    let new = FsXattr { projid: project, xflags: old.xflags | INHERIT, ..old };
    // SAFETY: the request is for exactly one `fsxattr`, which the kernel reads.
    let done = unsafe { libc::ioctl(folder.as_raw_fd(), SET_XATTR, std::ptr::from_ref(&new)) };
    result(done.into())
}
