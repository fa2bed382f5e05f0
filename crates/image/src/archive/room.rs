//! Room on a disk that others need too: what comes from strangers must not fill it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// What helps where a disk is full.
const REMEDY: &str = "remove images or files, or use a larger disk";
/// Bytes and files between two looks at the disk.
const LOOK: (u64, u64) = (32 << 20, 4096);

/// Looks after the room on one disk while somebody writes to it.
#[derive(Debug)]
pub struct Room {
    /// The size of the file system: no honest archive has files beyond it, however sparse.
    pub(super) most: u64,
    /// Bytes and inodes that stay free.
    reserve: (u64, u64),
    /// Bytes and files until the next look at the disk.
    left: (u64, u64),
}

impl Room {
    /// Of the disk that a file or folder lies on.
    pub fn new(place: impl AsFd) -> io::Result<Self> {
        let disk = rustix::fs::fstatvfs(place)?;
        let most = disk.f_blocks.saturating_mul(disk.f_frsize);
        Ok(Self { most, reserve: ((most / 50).min(1 << 30), (disk.f_files / 100).min(10_000)), left: (0, 0) })
    }

    /// Before `bytes` more are written in one more file: an error if they would take what is kept for others.
    pub fn take(&mut self, place: impl AsFd, bytes: u64) -> io::Result<()> {
        if self.left.0 < bytes || self.left.1 == 0 {
            let disk = rustix::fs::fstatvfs(place)?;
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let room = free.saturating_sub(self.reserve.0);
            // File systems without a table of inodes say zero.
            let inodes = match disk.f_files {
                0 => u64::MAX,
                _ => disk.f_favail.saturating_sub(self.reserve.1),
            };
            if room < bytes.min(LOOK.0) || room == 0 || inodes == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    format!(
                        "no space left on device: {} MiB and {} inodes are free, of which {} MiB and {} are kept for \
                         others: {REMEDY}",
                        free >> 20,
                        disk.f_favail,
                        self.reserve.0 >> 20,
                        self.reserve.1
                    ),
                ));
            }
            self.left = (LOOK.0.min(room), LOOK.1.min(inodes));
        }
        self.left = (self.left.0.saturating_sub(bytes), self.left.1 - 1);
        Ok(())
    }
}

/// A file that is written as long as there is room.
pub(crate) struct Guarded {
    file: File,
    room: Room,
}

impl Guarded {
    /// That file, written from where it stands.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(Self { room: Room::new(&file)?, file })
    }
}

impl Write for Guarded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room.take(&self.file, bytes.len() as u64)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What is to be said after the kernel's words of an error: of a full disk, what helps.
pub(crate) fn remedy(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(n) if n == rustix::io::Errno::NOSPC.raw_os_error() => format!(": {REMEDY}"),
        _ => String::new(),
    }
}
