//! The driver `local`: a folder of ours, or what `type`, `device` and `o` say, mounted on that folder while containers
//! use it.

use std::ffi::CString;
use std::net::IpAddr;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::error::{Error, Result, invalid, system};
use crate::model::Map;

/// What has to be mounted before a volume can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    kind: String,
    device: String,
    options: String,
}

/// Refuses a name that could be a path.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.chars().count() == 1 {
        return Err(invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    if crate::names::legal(name) {
        return Ok(());
    }
    Err(invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// Refuses options that mean nothing, or nothing without others.
///
/// `quotas` says whether the file system can limit sizes.
pub(super) fn check_options(name: &str, options: &Map, quotas: impl FnOnce() -> Result<bool>) -> Result<()> {
    let bad = |why: String| Err(invalid(format!("create {name}: {why}")));
    if let Some(unknown) = options.keys().find(|k| !matches!(k.as_str(), "type" | "device" | "o" | "size")) {
        return bad(format!("invalid option: \"{unknown}\""));
    }
    if let Some(size) = options.get("size") {
        match crate::quota::size(size) {
            Err(why) => return bad(why),
            Ok(Some(_)) if !quotas()? => return bad("quota size requested but no quota support".into()),
            Ok(_) => {}
        }
    }
    for (given, needed) in [("device", "type"), ("type", "device"), ("o", "device"), ("o", "type")] {
        if options.contains_key(given) && !options.contains_key(needed) {
            return bad(format!("missing required option: \"{needed}\""));
        }
    }
    Ok(())
}

/// How much the volume may take, in bytes.
pub(super) fn quota(options: &Map) -> Option<u64> {
    options.get("size").and_then(|s| crate::quota::size(s).ok().flatten())
}

/// What the options ask to be mounted; nothing for a plain folder.
pub(super) fn spec(options: &Map) -> Option<Spec> {
    let get = |k: &str| options.get(k).cloned().unwrap_or_default();
    let spec = Spec { kind: get("type"), device: get("device"), options: get("o") };
    (!spec.kind.is_empty() || !spec.device.is_empty()).then_some(spec)
}

/// Mounts what a volume's options say on its folder.
pub(super) async fn mount(spec: &Spec, target: &Path) -> Result<()> {
    let failed = |why: String| {
        // A password belongs into no message.
        let hidden = spec.options.split(',').filter_map(|o| o.strip_prefix("password="));
        let why = hidden.fold(why, |text, secret| text.replace(secret, "********"));
        system(format!(
            "error while mounting volume '{}': failed to mount local volume: {why}",
            target.display()
        ))
    };
    if spec.device.is_empty() {
        return Err(failed("missing device in volume options".into()));
    }
    let mut options = spec.options.clone();
    if matches!(spec.kind.as_str(), "nfs" | "nfs4" | "cifs") {
        let named = options.split(',').find_map(|o| o.strip_prefix("addr=")).map(str::to_owned);
        if let Some(name) = named.filter(|n| n.parse::<IpAddr>().is_err()) {
            let found = sockets::Resolver::default().lookup(&name).await;
            let address = found
                .and_then(|all| all.first().copied().ok_or_else(|| std::io::Error::other("no such host")))
                .map_err(|e| failed(format!("error resolving passed in network volume address: {e}")))?;
            options = options.replacen(&format!("addr={name}"), &format!("addr={address}"), 1);
        }
    }
    let (flags, propagation, data) = read(&options);
    let (kind, device, target) = (spec.kind.clone(), spec.device.clone(), target.to_owned());
    let mut what = format!("mount {device}:{}", target.display());
    if !flags.is_empty() {
        what += &format!(", flags: {:#x}", flags.bits());
    }
    if !data.is_empty() {
        what += &format!(", data: {data}");
    }
    super::blocking(move || {
        let data = CString::new(data).map_err(|e| invalid(e.to_string()))?;
        let mounted = rustix::mount::mount(device.as_str(), &target, kind.as_str(), flags, data.as_c_str())
            .and_then(|()| match propagation {
                Some(propagation) => rustix::mount::mount_change(&target, propagation),
                None => Ok(()),
            })
            // A bind mount takes its flags only when it is mounted anew.
            .and_then(|()| match flags.contains(MountFlags::BIND | MountFlags::RDONLY) {
                true => rustix::mount::mount_remount(&target, flags, c""),
                false => Ok(()),
            });
        mounted.map_err(|e| system(base::errno::words(std::io::Error::from(e).to_string())))
    })
    .await
    .map_err(|e| failed(format!("{what}: {e}")))
}

/// Takes away what `mount` has mounted.
pub(super) async fn unmount(target: &Path) -> Result<()> {
    let target = target.to_owned();
    super::blocking(move || {
        if !is_mounted(&target)? {
            return Ok(());
        }
        rustix::mount::unmount(&target, UnmountFlags::empty())
            .map_err(|e| Error::io(format_args!("unmounting {}", target.display()))(e.into()))
    })
    .await
}

/// Whether something is mounted on a folder.
pub(super) fn is_mounted(path: &Path) -> Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(e) if e == rustix::io::Errno::NOENT => Ok(false),
        Err(e) => Err(Error::io(path.display())(e.into())),
    }
}

/// mount(8)'s options as flags, propagation, and what the file system itself is told.
fn read(text: &str) -> (MountFlags, Option<MountPropagationFlags>, String) {
    let mut flags = MountFlags::empty();
    let mut propagation = None;
    let mut data = Vec::new();
    let recursive = MountPropagationFlags::REC;
    for option in text.split(',').filter(|o| !o.is_empty()) {
        let (flag, on) = match option {
            "defaults" => continue,
            "ro" => (MountFlags::RDONLY, true),
            "rw" => (MountFlags::RDONLY, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "async" => (MountFlags::SYNCHRONOUS, false),
            "dirsync" => (MountFlags::DIRSYNC, true),
            "noatime" => (MountFlags::NOATIME, true),
            "atime" => (MountFlags::NOATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "diratime" => (MountFlags::NODIRATIME, false),
            "relatime" => (MountFlags::RELATIME, true),
            "norelatime" => (MountFlags::RELATIME, false),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "nostrictatime" => (MountFlags::STRICTATIME, false),
            "bind" => (MountFlags::BIND, true),
            "rbind" => (MountFlags::BIND | MountFlags::REC, true),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "unbindable"
            | "runbindable" => {
                let kind = match option.trim_start_matches('r') {
                    "private" => MountPropagationFlags::PRIVATE,
                    "shared" => MountPropagationFlags::SHARED,
                    "slave" => MountPropagationFlags::DOWNSTREAM,
                    _ => MountPropagationFlags::UNBINDABLE,
                };
                propagation = Some(if option.starts_with('r') { kind | recursive } else { kind });
                continue;
            }
            other => {
                data.push(other);
                continue;
            }
        };
        flags.set(flag, on);
    }
    (flags, propagation, data.join(","))
}

/// Reads what a request says of a volume.
#[cfg(any(test, fuzzing))]
pub(super) fn try_out(name: &str, options: &Map) {
    if check_name(name).and_then(|()| check_options(name, options, || Ok(true))).is_ok() {
        let _ = quota(options);
        let _ = spec(options).map(|s| read(&s.options));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Map {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn options_that_belong_together() {
        let check =
            |pairs: &[(&str, &str)]| check_options("v", &map(pairs), || Ok(false)).map_err(|e| e.to_string());
        assert!(check(&[]).is_ok());
        assert!(check(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]).is_ok());
        assert_eq!(check(&[("typ", "x")]).unwrap_err(), "create v: invalid option: \"typ\"");
        assert_eq!(check(&[("o", "bind")]).unwrap_err(), "create v: missing required option: \"device\"");
        assert_eq!(check(&[("type", "nfs")]).unwrap_err(), "create v: missing required option: \"device\"");
        assert!(check(&[("size", "1g")]).unwrap_err().contains("no quota support"));
        assert!(check(&[("size", "much")]).unwrap_err().contains("invalid size"));
        assert!(check_options("v", &map(&[("size", "1g")]), || Ok(true)).is_ok());
        assert_eq!(quota(&map(&[("size", "1k")])), Some(1024));
        assert!(spec(&map(&[("size", "0")])).is_none());
    }

    #[test]
    fn mount_options() {
        let (flags, propagation, data) = read("bind,ro,rslave,size=10m,uid=1000");
        assert_eq!(flags, MountFlags::BIND | MountFlags::RDONLY);
        assert_eq!(propagation, Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC));
        assert_eq!(data, "size=10m,uid=1000");
        assert_eq!(read("ro,rw").0, MountFlags::empty());
        assert_eq!(read("relatime,rbind").0, MountFlags::RELATIME | MountFlags::BIND | MountFlags::REC);
    }

    #[test]
    fn names() {
        for bad in ["../x", "a", "a/b", "-x"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("a.b_c-9").is_ok());
    }
}
