//! System calls: the only crate with unsafe code. Each module is a safe, thin face of one kernel interface;
//! policy (what a container is) stays in `runtime`.

pub mod caps;
pub mod cgroup;
pub mod memory;
pub mod mount;
pub mod netns;
pub mod process;
pub mod quota;
pub mod rooted;
pub mod seccomp;
pub mod socket;
pub mod tree;
pub mod userns;
