//! The daemon's side: spawns shims, talks to them, finds them again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Result;

/// How a shim is started.
#[derive(Debug, Clone, Default)]
pub struct ShimCommand {
    /// The executable; by default the running one.
    pub exe: Option<PathBuf>,
    /// Its first arguments; `shim` by default.
    pub args: Option<Vec<String>>,
}

/// The built-in runtime.
#[derive(Debug)]
pub struct ShimRuntime {}

impl ShimRuntime {
    /// Finds what runs. `run_dir` is lost with a reboot, `state_dir` is not. Needs a tokio runtime.
    pub fn open(run_dir: &Path, state_dir: &Path, shim: ShimCommand) -> Result<Arc<ShimRuntime>> {
        let _ = (run_dir, state_dir, shim);
        Ok(Arc::new(Self {}))
    }
}
