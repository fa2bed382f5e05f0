//! `userns-remap`: containers whose root is an unprivileged user of the machine.
//!
//! The setting names a user, whose ranges in /etc/subuid and /etc/subgid become the ids of every new container but those
//! with `--userns=host`. A container keeps the ids that it was created with. Its layers need no other owners on the disk
//! (they are mounted with mapped ids), so there is one store of images and containers whatever the setting; volumes that
//! are made while it holds belong to the mapped root.

use std::path::Path;
use std::process::Command;

use sys::userns::IdMaps;

use crate::container::Asked;
use crate::error::{Error, Result, conflict, invalid};
use crate::model::HostConfig;

/// The user of `userns-remap: default`.
const DEFAULT_USER: &str = "dockremap";
/// Lines of a map that the kernel takes at most.
const LINES: usize = 340;
/// Where the ranges of a new user may begin, and how many ids it is given: as adduser has it.
const FIRST_RANGE: u64 = 100_000;
const RANGE: u64 = 65_536;

/// The files that say who is who.
struct Files {
    passwd: String,
    group: String,
    subuid: String,
    subgid: String,
}

impl Files {
    fn read() -> std::result::Result<Files, String> {
        let read = |path: &str| match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            other => other.map_err(|e| format!("userns-remap: {path}: {e}")),
        };
        Ok(Files {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
            subuid: read("/etc/subuid")?,
            subgid: read("/etc/subgid")?,
        })
    }
}

/// The name and the number of whom a line of passwd or group is about, by either.
fn find(file: &str, who: &str) -> Option<(String, String)> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (name == who || number == who).then(|| (name.to_owned(), number.to_owned()))
    })
}

/// The ranges of a user in subuid or subgid, as a map from zero on.
fn ranges(
    file: &str,
    path: &str,
    name: &str,
    number: &str,
) -> std::result::Result<Vec<(u32, u32, u32)>, String> {
    let mut map = Vec::new();
    let mut next = 0u32;
    for line in file.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut fields = line.split(':');
        if !fields.next().is_some_and(|who| who == name || who == number) {
            continue;
        }
        let mut field = || fields.next().and_then(|f| f.parse::<u32>().ok());
        let (Some(start), Some(count), None) = (field(), field(), fields.next()) else {
            return Err(format!("userns-remap: {path}: {line:?} is not NAME:START:COUNT"));
        };
        let whole = start.checked_add(count).zip(next.checked_add(count));
        let Some((_, after)) = whole.filter(|_| count > 0) else {
            return Err(format!("userns-remap: {path}: {line:?} has ids that cannot be"));
        };
        map.push((next, start, count));
        next = after;
    }
    match map.len() {
        0 => Err(format!(
            "userns-remap: no ranges for user {name} in {path}: add a line {name}:START:COUNT, as {name}:165536:65536"
        )),
        1..=LINES => Ok(map),
        n => Err(format!("userns-remap: {path} has {n} ranges for user {name}; the kernel takes {LINES}")),
    }
}

fn maps(setting: &str, files: &Files) -> std::result::Result<IdMaps, String> {
    let (user, group) = match setting.split_once(':') {
        _ if setting == "default" => (DEFAULT_USER, DEFAULT_USER),
        Some((user, group)) => (user, group),
        None => (setting, ""),
    };
    let (name, number) =
        find(&files.passwd, user).ok_or_else(|| format!("userns-remap: there is no user {user:?}"))?;
    // As with Docker, the group is that of the user's name unless it is told.
    let group = if group.is_empty() { &name } else { group };
    find(&files.group, group).ok_or_else(|| format!("userns-remap: there is no group {group:?}"))?;
    Ok(IdMaps {
        uids: ranges(&files.subuid, "/etc/subuid", &name, &number)?,
        gids: ranges(&files.subgid, "/etc/subgid", &name, &number)?,
    })
}

/// Makes the user of `default` and its ranges where they are missing, with this machine's own tools.
fn make_default(files: &Files) -> std::result::Result<bool, String> {
    let run = |program: &str, args: &[&str]| {
        let line = format!("{program} {}", args.join(" "));
        let said = Command::new(program).args(args).output().map_err(|e| format!("{line}: {e}"));
        said.and_then(|o| match o.status.success() {
            true => Ok(()),
            false => Err(format!("{line}: {}", String::from_utf8_lossy(&o.stderr).trim())),
        })
        .map_err(|e| format!("userns-remap: user {DEFAULT_USER} cannot be made: {e}"))
    };
    let mut changed = false;
    if find(&files.passwd, DEFAULT_USER).is_none() {
        let shell = ["--system", "--no-create-home", "--user-group", "--shell", "/bin/false", DEFAULT_USER];
        run("useradd", &shell)?;
        changed = true;
    }
    let number = find(&files.passwd, DEFAULT_USER).map_or(String::new(), |u| u.1);
    for (file, flag) in [(&files.subuid, "--add-subuids"), (&files.subgid, "--add-subgids")] {
        if ranges(file, "", DEFAULT_USER, &number).is_err() {
            let start = free(file);
            run("usermod", &[flag, &format!("{start}-{}", start + RANGE - 1), DEFAULT_USER])?;
            changed = true;
        }
    }
    Ok(changed)
}

/// The first id behind everybody's ranges.
fn free(file: &str) -> u64 {
    let ends = file.lines().filter_map(|line| {
        let mut numbers = line.split(':').skip(1).map(|n| n.trim().parse::<u64>().ok());
        numbers.next()??.checked_add(numbers.next()??)
    });
    ends.max().unwrap_or(0).max(FIRST_RANGE)
}

/// The ids that a setting means; none for an empty one. Blocking.
pub(crate) fn resolve(setting: &str) -> Result<Option<IdMaps>> {
    if setting.is_empty() {
        return Ok(None);
    }
    let mut files = Files::read().map_err(invalid)?;
    if setting == "default" && make_default(&files).map_err(invalid)? {
        files = Files::read().map_err(invalid)?;
    }
    Ok(Some(maps(setting, &files).map_err(invalid)?))
}

/// Refuses what a container with ids of its own cannot have.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    if host.privileged {
        return Err(invalid(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ));
    }
    if host.network_mode == "host" {
        return Err(invalid("cannot share the host's network namespace when user namespaces are enabled"));
    }
    if host.pid_mode == "host" {
        return Err(invalid("cannot share the host PID namespace when user namespaces are enabled"));
    }
    Ok(())
}

/// Whether the namespaces of `other` can be joined: the kernel lets nobody into them from another user namespace.
pub(crate) fn can_join(own: &Asked, other: &Asked) -> Result<()> {
    // Root of the machine may go anywhere.
    if own.ids.is_none() || own.ids == other.ids {
        return Ok(());
    }
    Err(conflict(format!(
        "cannot join the namespaces of container {}, which has other user ids (userns-remap): create it anew, or run \
         this one with --userns=host",
        other.name
    )))
}

/// Gives a file or folder to the root of a container.
pub(crate) fn give(path: &Path, ids: Option<&IdMaps>) -> Result<()> {
    let Some((uid, gid)) = ids.map(IdMaps::root) else { return Ok(()) };
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(Error::io(path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd: "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:5::/:/bin/sh\n".into(),
            group: "root:x:0:\nann:x:1000:\nstaff:x:5:\n".into(),
            subuid: "# ranges\nann:100000:1000\nother:1:1\n1000:300000:64536\nbob:x:1\n".into(),
            subgid: "ann:500000:65536\n".into(),
        }
    }

    #[test]
    fn ranges_of_a_user() {
        let map = maps("ann", &files()).unwrap();
        assert_eq!(map.uids, [(0, 100_000, 1000), (1000, 300_000, 64_536)]);
        assert_eq!(map.gids, [(0, 500_000, 65_536)]);
        for same in ["1000", "ann:ann", "ann:staff", "1000:5"] {
            assert_eq!(maps(same, &files()).unwrap(), map, "{same}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (setting, missing) in [
            ("carl", "no user \"carl\""),
            ("ann:cats", "no group \"cats\""),
            ("root", "no ranges for user root in /etc/subuid"),
            ("bob:staff", "not NAME:START:COUNT"),
            ("default", "no user \"dockremap\""),
        ] {
            let error = maps(setting, &files()).unwrap_err();
            assert!(error.starts_with("userns-remap: ") && error.contains(missing), "{error}");
        }
        let endless = Files { subuid: "ann:4294967295:2".into(), ..files() };
        assert!(maps("ann", &endless).unwrap_err().contains("cannot be"));
        assert_eq!(free("a:100000:65536\nb:200000:10\n"), 200_010);
        assert_eq!(free(""), 100_000);
    }

    #[test]
    fn combinations_that_docker_refuses() {
        let refused = |change: fn(&mut HostConfig)| {
            let mut host = HostConfig::default();
            change(&mut host);
            check(&host).map_err(|e| e.to_string())
        };
        assert!(refused(|_| {}).is_ok());
        assert!(refused(|h| h.privileged = true).unwrap_err().contains("privileged mode is incompatible"));
        assert!(refused(|h| h.network_mode = "host".into()).unwrap_err().contains("host's network"));
        assert!(refused(|h| h.pid_mode = "host".into()).unwrap_err().contains("host PID"));
    }
}
