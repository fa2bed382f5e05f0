//! Who a process runs as: Docker's user expressions, resolved by the container's own /etc/passwd and /etc/group.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// A resolved user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user's number.
    pub uid: u32,
    /// The first group.
    pub gid: u32,
    /// All groups, the first among them.
    pub groups: Vec<u32>,
    /// The home folder, if the user has an entry.
    pub home: Option<String>,
}

/// The largest /etc/passwd or /etc/group that is read.
const LIMIT: usize = 4 << 20;

/// A container's users and groups by name: its /etc/passwd and /etc/group.
pub struct Database {
    passwd: String,
    group: String,
}

impl Database {
    /// Of the root that the calling process is in. Files that cannot be read count as empty, as with Docker: an image
    /// from scratch has none.
    pub(crate) fn read() -> Self {
        match rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(root) => Self::read_in(root.as_fd()),
            Err(_) => Self { passwd: String::new(), group: String::new() },
        }
    }

    /// As `read`, of a root that this process is not in.
    pub fn read_in(root: BorrowedFd<'_>) -> Self {
        let read = |path: &str| {
            let bytes = sys::rooted::read(root, Path::new(path), LIMIT).ok()??;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        Self {
            passwd: read("/etc/passwd").unwrap_or_default(),
            group: read("/etc/group").unwrap_or_default(),
        }
    }

    /// Of the texts themselves.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of(passwd: &str, group: &str) -> Self {
        Self { passwd: passwd.into(), group: group.into() }
    }

    fn users(&self) -> impl Iterator<Item = (&str, u32, u32, &str)> {
        self.passwd.lines().filter_map(|l| {
            let f: Vec<&str> = l.split(':').collect();
            Some((
                *f.first()?,
                f.get(2)?.parse().ok()?,
                f.get(3)?.parse().ok()?,
                f.get(5).copied().unwrap_or(""),
            ))
        })
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|l| {
            let f: Vec<&str> = l.split(':').collect();
            Some((*f.first()?, f.get(2)?.parse().ok()?, f.get(3).copied().unwrap_or("")))
        })
    }

    /// Docker's rules: a name or number, optionally `:` and a group's name or number; without a group, the user's own
    /// from /etc/passwd (0 if it has no entry) and every group that lists it.
    pub fn resolve(&self, expression: &str) -> Result<Identity, String> {
        let (user, group) = match expression.split_once(':') {
            Some((u, g)) => (u, Some(g).filter(|g| !g.is_empty())),
            None => (expression, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let number: Option<u32> = user.parse().ok();
        // A name wins over a number that looks like it.
        let entry = self
            .users()
            .find(|(name, ..)| *name == user)
            .or_else(|| self.users().find(|(_, uid, ..)| Some(*uid) == number));
        let mut id = Identity::default();
        // No file makes a number that no expression may be: the largest of all means that nothing is to change.
        let in_range = |id: u32| match id <= i32::MAX as u32 {
            true => Ok(id),
            false => Err("uids and gids must be in range 0-2147483647".to_owned()),
        };
        match (entry, number) {
            (Some((name, uid, gid, home)), _) => {
                id.uid = in_range(uid)?;
                id.gid = gid;
                id.home = Some(home.to_string()).filter(|h| !h.is_empty());
                if group.is_none() {
                    let listed = |members: &str| members.split(',').any(|m| m == name);
                    id.groups = self.groups().filter(|(.., m)| listed(m)).map(|(_, gid, _)| gid).collect();
                }
            }
            (None, Some(uid)) => id.uid = in_range(uid)?,
            (None, None) => {
                return Err(format!("unable to find user {user}: no matching entries in passwd file"));
            }
        }
        if let Some(group) = group {
            let number: Option<u32> = group.parse().ok();
            let found = self.groups().find(|(name, ..)| *name == group).map(|(_, gid, _)| gid);
            id.gid = match found.or(number) {
                Some(gid) => gid,
                None => {
                    return Err(format!("unable to find group {group}: no matching entries in group file"));
                }
            };
        }
        in_range(id.groups.iter().copied().fold(id.gid, u32::max))?;
        // What a file denies to a group it must deny to whoever has that group as the first one, too.
        if !id.groups.contains(&id.gid) {
            id.groups.insert(0, id.gid);
        }
        Ok(id)
    }

    /// The number of a group.
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups().find(|(known, ..)| *known == name).map(|(_, gid, _)| gid)
    }

    /// The home folder of a user who is given by number.
    pub(crate) fn home_of(&self, uid: u32) -> Option<String> {
        self.users().find(|(_, u, ..)| *u == uid).map(|(.., home)| home.to_string()).filter(|h| !h.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_rules() {
        let db = Database::of(
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n1234:x:7:7::/:\n",
            "root:x:0:\nwheel:x:10:app,root\napp:x:1001:\naudio:x:29:app\n",
        );
        let id = |uid, gid, groups: &[u32], home: Option<&str>| {
            Ok(Identity { uid, gid, groups: groups.to_vec(), home: home.map(String::from) })
        };
        assert_eq!(db.resolve("app"), id(1000, 1001, &[1001, 10, 29], Some("/home/app")));
        assert_eq!(db.resolve("1000"), id(1000, 1001, &[1001, 10, 29], Some("/home/app")));
        assert_eq!(db.resolve("app:wheel"), id(1000, 10, &[10], Some("/home/app")));
        assert_eq!(db.resolve("app:77"), id(1000, 77, &[77], Some("/home/app")));
        assert_eq!(db.resolve("4242"), id(4242, 0, &[0], None));
        assert_eq!(db.resolve("1234"), id(7, 7, &[7], Some("/")));
        assert_eq!(db.resolve(":audio"), id(0, 29, &[29], Some("/root")));
        assert!(db.resolve("nope").unwrap_err().contains("unable to find user nope"));
        assert!(db.resolve("app:nope").unwrap_err().contains("unable to find group nope"));
        assert!(db.resolve("4000000000").unwrap_err().contains("range"));
        // 4294967295 is -1: whoever becomes that stays who they are.
        let db = Database::of(
            "app:x:4294967295:1:::\nb:x:1:4294967295:::\nc:x:1:1:::\nd:x:2:2:::\n",
            "x:x:4294967295:c\n",
        );
        for user in ["app", "4294967295", "4294967295:1", "b", "c", "d:x", "d:4294967295"] {
            assert!(db.resolve(user).unwrap_err().contains("range"), "{user}");
        }
        assert_eq!(db.resolve("b:2"), id(1, 2, &[2], None));
    }
}
