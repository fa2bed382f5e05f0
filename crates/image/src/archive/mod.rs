//! Tar archives: safe extraction inside a root, creation, and overlayfs's form of a layer.
//!
//! Everything here is blocking (call it on a blocking thread) and works on a root given as a descriptor: every path,
//! also one inside an archive, is resolved by openat2(RESOLVE_IN_ROOT), so that neither `..`, nor an absolute path, nor
//! a symbolic link that changes meanwhile leads out of it.

pub mod compress;
pub(crate) mod diff;
pub(crate) mod extract;
mod mode;
pub(crate) mod overlay;
pub(crate) mod pack;
pub(crate) mod recipe;
mod room;
pub mod root;
pub mod tar;

pub use extract::{ExtractOptions, Extracted, extract_into};
pub use mode::ModeChange;
pub use overlay::is_opaque;
pub use pack::{Filter, TarOptions, tar_of, tar_of_filtered};
pub use room::Room;
pub(crate) use room::remedy;
