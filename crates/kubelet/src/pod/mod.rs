//! One pod: what is known of it (`state`), what to do (`decide`), what to report (`status`), and the task that does it
//! (`worker`).

pub mod decide;
pub mod state;
pub mod status;
