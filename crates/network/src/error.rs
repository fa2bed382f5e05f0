//! What can go wrong, in words that name the object and, where there is one, the remedy.

use std::io;
use std::net::IpAddr;

use crate::ports::Proto;

/// A failed operation on links, addresses or rules.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused one operation; nothing of its batch was done.
    #[error("{op}: {}{}", describe(.errno), if .detail.is_empty() { String::new() } else { format!(" ({})", .detail) })]
    Kernel {
        /// The operation, with the name of its object: `add bridge tug0`.
        op: String,
        /// The error number.
        errno: i32,
        /// The kernel's own words, when it gave some.
        detail: String,
    },
    /// A system call other than a netlink request failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, on which object.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The host's port belongs to someone else.
    #[error("Bind for {host_ip}:{host_port} failed: port is already allocated{}", if .owner.is_empty() { String::new() } else { format!(" (by {})", .owner) })]
    PortTaken {
        /// The host address asked for.
        host_ip: IpAddr,
        /// The port asked for.
        host_port: u16,
        /// The protocol.
        proto: Proto,
        /// Who has it.
        owner: String,
    },
    /// The host's port belongs to a process outside of Tug.
    #[error("failed to bind host port {}/{proto}: address already in use", std::net::SocketAddr::new(*.host_ip, *.host_port))]
    PortInUse {
        /// The host address asked for.
        host_ip: IpAddr,
        /// The port asked for.
        host_port: u16,
        /// The protocol.
        proto: Proto,
    },
    /// No port of a range is free.
    #[error("all ports are allocated: {from}-{to}")]
    NoFreePort {
        /// First port of the range.
        from: u16,
        /// Last port of the range.
        to: u16,
    },
    /// A fixed address was asked for that another has.
    #[error("Address already in use: {address} belongs to {owner}")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: String,
    },
    /// A fixed address was asked for that lies outside the subnet or is reserved.
    #[error("invalid address {address}: {reason}")]
    AddressInvalid {
        /// The address.
        address: IpAddr,
        /// Why not.
        reason: String,
    },
    /// Every address of the subnet is taken.
    #[error("no available IPv4 addresses on this network's address pools: {subnet} is full")]
    SubnetFull {
        /// The subnet or range.
        subnet: ipnet::IpNet,
    },
    /// A request that can never work as it stands.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The error number of a refusing kernel, if that is what happened.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the kernel says that what is there has another shape than what was to be made.
    pub(crate) fn other_shape(&self) -> bool {
        use nix::errno::Errno;
        let shape = [Errno::EEXIST, Errno::EINVAL, Errno::EOPNOTSUPP].map(|e| Some(e as i32));
        matches!(self, Self::Kernel { .. }) && shape.contains(&self.errno())
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}

fn describe(errno: &i32) -> String {
    io::Error::from_raw_os_error(*errno).to_string()
}

/// Short for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;
