//! Capabilities: names, and bringing the calling process down to given sets (capabilities(7)).

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

#[rustfmt::skip]
const NAMES: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities; bit n is capability number n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set(pub u64);

impl Set {
    /// The capability of this name, with or without `CAP_`, in any case.
    pub fn by_name(name: &str) -> Option<Set> {
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        NAMES.iter().position(|n| *n == name).map(|i| Set(1 << i))
    }

    /// The names, with `CAP_`, in the kernel's order.
    pub fn names(self) -> Vec<String> {
        (0..NAMES.len()).filter(|i| self.0 & 1 << i != 0).map(|i| format!("CAP_{}", NAMES[i])).collect()
    }

    /// Both.
    pub fn with(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    /// Those of `self` that are in `other`.
    pub fn within(self, other: Set) -> Set {
        Set(self.0 & other.0)
    }

    /// Those of `self` that are not in `other`.
    pub fn without(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    /// Whether every one of `other` is in it.
    pub fn has(self, other: Set) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Every capability that this machine's process could pass on: the bounding set.
pub fn available() -> io::Result<Set> {
    let mut set = Set::default();
    for i in 0..NAMES.len() as u32 {
        match rustix::thread::capability_is_in_bounding_set(CapabilitySet::from_bits_retain(1 << i)) {
            Ok(true) => set = set.with(Set(1 << i)),
            Ok(false) => {}
            Err(rustix::io::Errno::INVAL) => break, // newer than this kernel
            Err(e) => return Err(e.into()),
        }
    }
    Ok(set)
}

/// The five sets of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// What execve may ever give.
    pub bounding: Set,
    /// What is checked.
    pub effective: Set,
    /// What the process may raise.
    pub permitted: Set,
    /// What execve keeps, with files' own.
    pub inheritable: Set,
    /// What execve keeps for unprivileged programs.
    pub ambient: Set,
}

/// Removes from the bounding set what is not in `keep`. Call it before the user is changed (it needs CAP_SETPCAP).
pub fn drop_bounding(keep: Set) -> io::Result<()> {
    for cap in available()?.without(keep).iter() {
        rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(cap.0))?;
    }
    Ok(())
}

impl Set {
    /// Its members as sets of one.
    pub fn iter(self) -> impl Iterator<Item = Set> {
        (0..64).map(|i| Set(1 << i)).filter(move |c| self.has(*c))
    }
}

/// Sets this thread's effective, permitted, inheritable and ambient sets. The bounding set must be done already.
pub fn apply(sets: Sets) -> io::Result<()> {
    let flags = |s: Set| CapabilitySet::from_bits_retain(s.0);
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: flags(sets.effective),
            permitted: flags(sets.permitted),
            inheritable: flags(sets.inheritable),
        },
    )?;
    if sets.ambient.is_empty() {
        return Ok(()); // execve of root without ambient capabilities; a fresh process has none
    }
    rustix::thread::clear_ambient_capability_set()?;
    for cap in sets.ambient.within(sets.inheritable).within(sets.permitted).iter() {
        rustix::thread::configure_capability_in_ambient_set(flags(cap), true)?;
    }
    Ok(())
}

/// Makes everything in the permitted set effective again: a change from root to another user (with keep-caps) has
/// cleared it.
pub fn raise_effective() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits() {
        assert_eq!(Set::by_name("cap_sys_admin"), Some(Set(1 << 21)));
        assert_eq!(Set::by_name("CHECKPOINT_RESTORE"), Some(Set(1 << 40)));
        assert_eq!(Set::by_name("CAP_NOPE"), None);
        assert_eq!(Set(1 | 1 << 40).names(), ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]);
        assert!(available().is_ok());
    }
}
