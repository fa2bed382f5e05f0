//! stub
use std::path::{Path,PathBuf};
use crate::{Result,Change};
pub(crate) fn changes(_: &Path, _: &[PathBuf]) -> Result<Vec<Change>> { unimplemented!() }
pub(crate) fn usage(_: &Path) -> Result<u64> { unimplemented!() }
pub(crate) fn is_empty(_: &Path) -> Result<bool> { unimplemented!() }
