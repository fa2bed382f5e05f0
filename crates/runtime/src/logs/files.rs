//! The names of a log's files, shared by who writes and who reads.

use std::path::{Path, PathBuf};

/// The `n`th older file; 0 is the current one.
pub(crate) fn numbered(path: &Path, n: u32) -> PathBuf {
    if n == 0 { path.to_path_buf() } else { with(path, &format!(".{n}")) }
}

/// The `n`th older file when it has been compressed.
pub(crate) fn compressed(path: &Path, n: u32) -> PathBuf {
    with(path, &format!(".{n}.gz"))
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_path_buf().into_os_string();
    name.push(suffix);
    name.into()
}
