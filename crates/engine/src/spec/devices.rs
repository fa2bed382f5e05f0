//! Devices: the nodes in a container, and what its cgroup permits.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Result, invalid};
use crate::model::HostConfig;

pub(crate) fn rule(
    kind: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true);
    rule.set_typ(kind.or(Some(LinuxDeviceType::A)));
    rule.set_major(major);
    rule.set_minor(minor);
    rule.set_access(Some(access.to_owned()));
    rule
}

/// `c 42:* rmw`
pub(crate) fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let bad = || invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut words = text.split_whitespace();
    let (Some(kind), Some(numbers), Some(access), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad());
    };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let number = |t: &str| if t == "*" { Ok(None) } else { t.parse().map(Some).map_err(|_| bad()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    if access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
        return Err(bad());
    }
    Ok(rule(Some(kind), number(major)?, number(minor)?, access))
}

/// Nodes to make and what the cgroup permits, from `--device` and, when privileged, all of this machine's.
pub(super) fn devices(host: &HostConfig) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    let mut nodes = Vec::new();
    let mut rules = Vec::new();
    if host.privileged {
        for path in device_files(Path::new("/dev")) {
            nodes.extend(node(&path, &path));
        }
    }
    for mapping in &host.devices {
        let source = Path::new(&mapping.path_on_host);
        let target = Path::new(if mapping.path_in_container.is_empty() {
            &mapping.path_on_host
        } else {
            &mapping.path_in_container
        });
        let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
        let gather = |e: std::io::Error| {
            invalid(format!(
                "error gathering device information while adding custom device \"{}\": {}",
                mapping.path_on_host,
                base::errno::words(e.to_string())
            ))
        };
        let real = std::fs::canonicalize(source).map_err(gather)?;
        let files = if real.is_dir() { device_files(&real) } else { vec![real.clone()] };
        for file in files {
            let inside = match file.strip_prefix(&real) {
                Ok(rest) if !rest.as_os_str().is_empty() => target.join(rest),
                _ => target.to_owned(),
            };
            let device = node(&file, &inside).ok_or_else(|| {
                invalid(format!(
                    "error gathering device information while adding custom device \"{}\": not a device node",
                    mapping.path_on_host
                ))
            })?;
            rules.push(rule(Some(device.typ()), Some(device.major()), Some(device.minor()), access));
            nodes.push(device);
        }
    }
    Ok((nodes, rules))
}

/// Device nodes below a folder; not terminals and not what the container has of its own.
fn device_files(dir: &Path) -> Vec<PathBuf> {
    let skip: BTreeSet<&str> =
        ["pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr", "console", "ptmx", "core"].into();
    let mut out = Vec::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|n| skip.contains(n)) {
                continue;
            }
            match entry.file_type() {
                Ok(t) if t.is_dir() => stack.push(entry.path()),
                Ok(t) if t.is_char_device() || t.is_block_device() => out.push(entry.path()),
                _ => {}
            }
        }
    }
    out
}

pub(crate) fn node(source: &Path, target: &Path) -> Option<LinuxDevice> {
    let meta = std::fs::metadata(source).ok()?;
    let kind = match meta.file_type() {
        t if t.is_char_device() => LinuxDeviceType::C,
        t if t.is_block_device() => LinuxDeviceType::B,
        _ => return None,
    };
    let mut device = LinuxDevice::default();
    device.set_path(target.to_owned());
    device.set_typ(kind);
    device.set_major(rustix::fs::major(meta.rdev()).into());
    device.set_minor(rustix::fs::minor(meta.rdev()).into());
    device.set_file_mode(Some(meta.mode() & 0o7777));
    device.set_uid(Some(meta.uid()));
    device.set_gid(Some(meta.gid()));
    Some(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        assert!(parse_rule("c 42:* rmw").is_ok());
        assert!(parse_rule("c 42 rmw").is_err());
    }
}
