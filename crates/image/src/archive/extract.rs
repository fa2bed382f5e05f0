//! stub
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::io::Read;
use crate::error::Result;

/// How to extract.
#[derive(Debug, Clone, Default)]
pub struct ExtractOptions {
    /// Turn `.wh.` files into overlayfs's whiteouts: for layers, whose root is not merged.
    pub whiteouts: bool,
    /// Owner of everything, instead of the archive's.
    pub owner: Option<(u32, u32)>,
    /// Refuse to replace a folder with something else and the reverse (`docker cp`).
    pub no_overwrite_dir_non_dir: bool,
}
/// What was extracted.
#[derive(Debug, Clone, Default)]
pub struct Extracted { /// Bytes in regular files.
 pub bytes: u64, /// Entries.
 pub entries: u64, /// Whether the root folder itself had an entry.
 pub has_root: bool }
/// Extracts an uncompressed or compressed tar below `path` (a folder that must exist) inside `root`.
pub fn extract_into(root: BorrowedFd<'_>, path: &Path, tar: impl Read + Send, options: &ExtractOptions) -> Result<Extracted> { let _ = (root, path, tar, options); unimplemented!() }
