//! User namespaces as id mappings: one that carries a mapping for mounts, and working with files under a mapped id.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use crate::process::Fork;

/// Lines of a map: first id inside, first id outside, how many.
pub type Map = [(u32, u32, u32)];

/// The ids of a container: what its users and groups are outside of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdMaps {
    /// Users.
    pub uids: Vec<(u32, u32, u32)>,
    /// Groups.
    pub gids: Vec<(u32, u32, u32)>,
}

impl IdMaps {
    /// What the container's root is outside.
    pub fn root(&self) -> (u32, u32) {
        let first = |map: &Map| outside(map, 0).or(map.first().map(|m| m.1)).unwrap_or(0);
        (first(&self.uids), first(&self.gids))
    }

    /// An owner in the container, as it is outside; none if the container cannot have it.
    pub fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((outside(&self.uids, uid)?, outside(&self.gids, gid)?))
    }

    /// An owner outside, as the container sees it.
    pub fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        const NOBODY: u32 = 65534;
        (inside(&self.uids, uid).unwrap_or(NOBODY), inside(&self.gids, gid).unwrap_or(NOBODY))
    }
}

/// Writes the maps of the user namespace that a process has just been made in.
pub fn write_maps(pid: i32, uids: &Map, gids: &Map) -> io::Result<()> {
    for (name, map) in [("uid_map", uids), ("gid_map", gids)] {
        let text: String =
            map.iter().map(|(inside, outside, count)| format!("{inside} {outside} {count}\n")).collect();
        std::fs::write(format!("/proc/{pid}/{name}"), text)
            .map_err(|e| io::Error::new(e.kind(), format!("write {name}: {e}")))?;
    }
    Ok(())
}

/// A user namespace with these maps and without a process, as [`crate::mount::set_idmap`] wants it. The process must
/// have one thread, as for [`crate::process::clone3`].
pub fn mapped(uids: &Map, gids: &Map) -> io::Result<OwnedFd> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let new_user = nix::sched::CloneFlags::CLONE_NEWUSER.bits() as u64;
    let pid = match crate::process::clone3(new_user, None)? {
        Fork::Child => {
            // It holds the namespace until its parent has got hold of that.
            drop(theirs);
            let _ = rustix::io::read(&ours, &mut [0u8; 1]);
            std::process::exit(0)
        }
        Fork::Parent(pid) => pid,
    };
    let namespace = write_maps(pid, uids, gids).and_then(|()| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(format!("/proc/{pid}/ns/user"), flags, Mode::empty())?)
    });
    drop(theirs);
    loop {
        match nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None) {
            Err(nix::errno::Errno::EINTR) => {}
            _ => return namespace,
        }
    }
}

/// What an id inside is outside.
pub fn outside(map: &Map, id: u32) -> Option<u32> {
    map.iter().find_map(|&(inside, outside, count)| {
        let offset = id.checked_sub(inside).filter(|o| *o < count)?;
        outside.checked_add(offset)
    })
}

/// What an id outside is inside.
pub fn inside(map: &Map, id: u32) -> Option<u32> {
    map.iter().find_map(|&(inside, outside, count)| {
        let offset = id.checked_sub(outside).filter(|o| *o < count)?;
        inside.checked_add(offset)
    })
}

/// Does something with this thread's file system ids changed and all its capabilities kept: on a mount with mapped ids
/// only ids of the map can make files.
pub fn with_file_ids<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> io::Result<T> {
    struct Back(nix::unistd::Uid, nix::unistd::Gid);
    impl Drop for Back {
        fn drop(&mut self) {
            nix::unistd::setfsgid(self.1);
            // Root's capabilities over files come back with its id.
            nix::unistd::setfsuid(self.0);
        }
    }
    let uid = nix::unistd::Uid::from_raw(uid);
    let gid = nix::unistd::Gid::from_raw(gid);
    let old_gid = nix::unistd::setfsgid(gid);
    let _back = Back(nix::unistd::setfsuid(uid), old_gid);
    crate::caps::raise_effective()?;
    // Both calls say what was before, never whether they worked; asked again they tell.
    if nix::unistd::setfsuid(uid) != uid || nix::unistd::setfsgid(gid) != gid {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    Ok(work())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_through_a_map() {
        let map = [(0, 100_000, 1000), (1000, 1000, 1), (1001, 101_000, 64_000)];
        assert_eq!(outside(&map, 0), Some(100_000));
        assert_eq!(outside(&map, 999), Some(100_999));
        assert_eq!(outside(&map, 1000), Some(1000));
        assert_eq!(outside(&map, 65_001), None);
        assert_eq!(inside(&map, 101_000), Some(1001));
        assert_eq!(inside(&map, 0), None);
        assert_eq!(inside(&map, 1000), Some(1000));
        let maps = IdMaps { uids: map.into(), gids: vec![(0, 5, 10)] };
        assert_eq!(maps.root(), (100_000, 5));
        assert_eq!((maps.outside(1, 1), maps.outside(1, 10)), (Some((100_001, 6)), None));
        assert_eq!(maps.inside(100_001, 0), (1, 65534));
    }
}
