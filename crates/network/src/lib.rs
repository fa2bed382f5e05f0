//! Bridges, addresses, veth pairs, published ports and the nftables table of one instance.
//!
//! What it is for: `engine` attaches containers with it, `kubelet` pods, `proxy` programs Services through its
//! [`Firewall`], `dns` and `engine` answer names with its [`dns`] server loop.
//!
//! What it promises: everything it makes carries the instance's name (links by [`Network`]'s naming, rules by living
//! in the one table [`base::Instance::name`]); it never touches another table, and changes of rules are
//! transactions, so that no packet ever sees half of one. A new daemon finds what the one before left and replaces
//! it without a gap.
//!
//! What it leaves to others: who gets which address (callers keep the users, [`Ipam`] only counts), which Services
//! exist, and name records.

pub mod dns;
mod error;
mod facade;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod ipam;
pub mod link;
pub mod netns;
pub mod nft;
pub mod ports;
mod relay;
pub mod rules;
mod wire;

pub use error::{Error, Result};
pub use facade::{AttachSpec, Attached, BridgeSpec, Mode, Network, RouteSpec, Subnet};
pub use ipam::Ipam;
pub use link::{Link, Parent, ParentKind, Uplink};
pub use nft::{Batch, Firewall};
pub use ports::{PortMapper, PortMapping, PortRequest, Proto};
