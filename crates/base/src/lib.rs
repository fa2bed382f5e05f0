//! What every crate needs and no crate owns: the instance (names, paths, ports), the wall clock, randomness,
//! durable files, the text form of metrics, the words of the kernel's errors. It promises nothing about containers or clusters and depends on no other crate of ours.

pub mod clock;
pub mod errno;
pub mod fsx;
pub mod instance;
pub mod prometheus;
pub mod rng;

pub use instance::Instance;
