//! A real engine with real containers, over plain HTTP and by the unmodified docker client.

#![allow(clippy::unwrap_used)] // a test may panic: that is how it fails

#[macro_use]
mod support;

mod api;
mod attacks;
mod client;
mod daemon;
mod images;
mod lifecycle;
mod logs;
mod networks;
mod survival;
mod userns;
mod volumes;
