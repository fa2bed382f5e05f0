//! The one nftables table of an instance: typed operations, applied as transactions.
//!
//! [`Batch`] is a list of operations on our table (family `inet`, named by the caller of [`Nft::open`]);
//! [`Firewall::apply`] does all of them or none. The `nft` program is never needed; `nft list table inet tug` shows
//! what is there.

mod batch;
mod conntrack;
mod encode;
mod expr;
mod kernel;
mod recording;

pub use batch::{Base, Batch, Data, Element, Field, Hook, Kind, Op, Policy, SetSpec, field, key};
pub use conntrack::Flow;
pub use expr::{CmpOp, CtKey, DynsetOp, Expr, Family, MetaKey, Reg, Rule, Verdict, state};
pub use kernel::{ForeignPolicy, Manager, Nft};
pub use recording::{RecordingFirewall, State as RecordedState};

use crate::error::Result;

/// Something that keeps one table of rules: the kernel, or a recording fake.
pub trait Firewall: Send + Sync + 'static {
    /// Does every operation of the batch, or none. The error names the operation that failed.
    fn apply(&self, batch: Batch) -> Result<()>;
    /// The names of the table's chains; empty if there is no table.
    fn chains(&self) -> Result<Vec<String>>;
    /// The elements of a set or map; empty if there is none of that name.
    fn elements(&self, set: &str) -> Result<Vec<Element>>;
    /// Removes the table with everything in it. Nothing happens if there is none.
    fn remove_table(&self) -> Result<()>;
    /// Forgets the tracked connections that `stale` picks, so that their next packet is judged by the rules as they
    /// are now. Returns how many there were.
    fn forget(&self, stale: &dyn Fn(&Flow) -> bool) -> Result<usize>;
}
