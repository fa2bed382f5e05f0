//! What is mounted in a container: what each has, and what its configuration asks for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{Input, security, truth};
use crate::error::{Error, Result, invalid, system};
use crate::mounts::MountPoint;

pub(crate) fn mount(destination: &str, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut m = Mount::default();
    m.set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    m
}

pub(super) fn mounts(mut all: Vec<Mount>, input: &Input<'_>) -> Result<Vec<Mount>> {
    let host = &input.asked.host;
    let writable_cgroups = security(host, "writable-cgroups")
        .map_or(host.privileged, |v| v.is_empty() || truth(v) == Some(true));
    for m in &mut all {
        match m.destination().to_str() {
            Some("/dev/shm") => {
                let size = format!("size={}", host.shm_size);
                *m = mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]);
            }
            Some("/sys/fs/cgroup") if writable_cgroups => {
                let mut options = m.options().clone().unwrap_or_default();
                options.retain(|o| o != "ro");
                m.set_options(Some(options));
            }
            Some("/sys") if host.privileged => {
                let mut options = m.options().clone().unwrap_or_default();
                options.retain(|o| o != "ro");
                m.set_options(Some(options));
            }
            _ => {}
        }
    }
    if host.ipc_mode == "none" {
        all.retain(|m| m.destination() != Path::new("/dev/shm"));
    }
    if let (Some(pid), None) = (input.joined.ipc, &input.runtime) {
        // What the IPC namespace is for the kernel, /dev/shm is for the C library.
        let theirs = format!("/proc/{pid}/root/dev/shm");
        all.retain(|m| m.destination() != Path::new("/dev/shm"));
        all.push(mount("/dev/shm", "bind", theirs, &["rbind", "rprivate"]));
    }
    if host.ipc_mode == "host" {
        all.retain(|m| !matches!(m.destination().to_str(), Some("/dev/shm" | "/dev/mqueue")));
        all.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate"]));
        if Path::new("/dev/mqueue").exists() {
            all.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &["rbind", "rprivate"]));
        }
    }
    let mut own = Vec::new();
    for point in &input.asked.mounts {
        own.push(user_mount(point, &input.image_mounts, input.asked.ids.is_some())?);
    }
    if let Some(dir) = &input.files {
        for (file, target) in
            [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")]
        {
            let taken = input.asked.mounts.iter().any(|m| m.destination == target);
            if !taken {
                let writable = if host.readonly_rootfs { "ro" } else { "rw" };
                all.push(mount(target, "bind", dir.join(file), &["rbind", "rprivate", writable]));
            }
        }
    }
    // What the user mounts wins over a default at the same place or below it.
    all.retain(|m| {
        !input.asked.mounts.iter().any(|p| {
            let below = p.destination != "/etc" && m.destination().starts_with(&p.destination);
            below || m.destination() == Path::new(&p.destination)
        })
    });
    // Mounts at or above /etc come before the three files in it.
    let (above, rest): (Vec<_>, Vec<_>) = own.into_iter().partition(|m| {
        all.iter().any(|d| d.destination().starts_with(m.destination()) && d.destination() != m.destination())
    });
    let first_file = all.iter().position(|m| m.destination().starts_with("/etc")).unwrap_or(all.len());
    for (n, m) in above.into_iter().enumerate() {
        all.insert(first_file + n, m);
    }
    all.extend(rest);
    Ok(all)
}

fn user_mount(point: &MountPoint, images: &HashMap<String, Vec<PathBuf>>, mapped: bool) -> Result<Mount> {
    match point.kind.as_str() {
        "tmpfs" => {
            let mut options = vec!["noexec", "nosuid", "nodev"];
            for given in &point.tmpfs {
                match given.as_str() {
                    "exec" => options.retain(|o| *o != "noexec"),
                    "suid" => options.retain(|o| *o != "nosuid"),
                    "dev" => options.retain(|o| *o != "nodev"),
                    "rw" => {}
                    other => options.push(other),
                }
            }
            if !point.rw {
                options.push("ro");
            }
            Ok(mount(&point.destination, "tmpfs", "tmpfs", &options))
        }
        "image" => {
            let layers = images.get(&point.destination).map_or(&[][..], Vec::as_slice);
            match layers {
                [] => Err(system(format!(
                    "image {} of mount {} is not prepared",
                    point.name, point.destination
                ))),
                [only] if mapped => {
                    Ok(mount(&point.destination, "bind", only, &["bind", "ro", "rprivate", "idmap"]))
                }
                [only] => Ok(mount(&point.destination, "bind", only, &["rbind", "ro", "rprivate"])),
                several if mapped => Err(Error::NotImplemented(format!(
                    "image {} of mount {} has {} layers, which cannot be mounted together for a container with user ids \
                     of its own (userns-remap): run it with --userns=host",
                    point.name,
                    point.destination,
                    several.len()
                ))),
                several => {
                    let lower = runtime::shim::lowerdir(several).ok_or_else(|| {
                        system(format!("mount {}: a path that is not UTF-8", point.destination))
                    })?;
                    Ok(mount(&point.destination, "overlay", "overlay", &["ro", &lower]))
                }
            }
        }
        _ => {
            let bind = if point.non_recursive { "bind" } else { "rbind" };
            let propagation = if point.propagation.is_empty() { "rprivate" } else { &point.propagation };
            let mut options = vec![bind, propagation];
            match (point.rw, point.read_only_top) {
                // What is read-only at its source stays so.
                (true, _) => {}
                (false, true) => options.push("ro"),
                // Read-only means what is mounted below it, too, unless the request says otherwise.
                (false, false) => options.push("rro"),
            }
            let part = format!("{}{}", runtime::SUBPATH, point.subpath.trim_start_matches('/'));
            if !point.subpath.is_empty() {
                inside(&point.source, &point.subpath, &point.name)?;
                options.push(&part);
            }
            Ok(mount(&point.destination, "bind", &point.source, &options))
        }
    }
}

/// A folder or file below a root; symbolic links must not lead out of it.
pub(crate) fn inside(root: &Path, subpath: &str, what: &str) -> Result<PathBuf> {
    let bad = |why: &str| invalid(format!("subpath {subpath:?} of {what}: {why}"));
    let root = std::fs::canonicalize(root).map_err(Error::io(root.display()))?;
    let real =
        std::fs::canonicalize(root.join(subpath.trim_start_matches('/'))).map_err(|e| bad(&e.to_string()))?;
    if !real.starts_with(&root) {
        return Err(bad("it leads out of its root"));
    }
    Ok(real)
}
