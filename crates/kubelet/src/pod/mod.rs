//! One pod: what is known of it (`state`), what to do (`decide`), what to report (`status`), and the task that does it
//! (`worker`) with
//! the steps that take time (`operations`), and where others find it (`registry`).

pub mod decide;
pub(crate) mod operations;
pub mod registry;
pub mod state;
pub mod status;
pub mod worker;
