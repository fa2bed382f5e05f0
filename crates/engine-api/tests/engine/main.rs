//! A real engine with real containers, over plain HTTP and by the unmodified docker client.

#[macro_use]
mod support;

mod api;
mod client;
