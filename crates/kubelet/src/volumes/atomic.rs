//! A folder of small files that changes as a whole: readers see either all old files or all new ones.
//!
//! The layout is the one that programs in pods know: `..data` is a link to a folder `..<number>`, the visible names are
//! links through `..data`. The change is one rename of `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path};

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Paths relative to the folder, and what they hold.
pub type Payload = BTreeMap<String, File>;

/// Makes `dir` hold exactly `payload`; says whether anything changed. `group` owns the files, if given.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    fs::create_dir_all(dir)?;
    let current = fs::read_link(dir.join("..data")).ok();
    if let Some(current) = &current
        && holds(&dir.join(current), payload, group)
    {
        // A crash may have come between the rename and these.
        show(dir, current, payload)?;
        return Ok(false);
    }
    let name = format!("..{}", base::rng::hex(8));
    let fresh = dir.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut options = fs::OpenOptions::new();
        io::Write::write_all(
            &mut options.write(true).create_new(true).mode(0o600).open(&target)?,
            &file.data,
        )?;
        if group.is_some() {
            chown(&target, None, group)?;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(mode(file, group)))?;
    }
    let staged = dir.join("..data_tmp");
    let _ = fs::remove_file(&staged);
    symlink(&name, &staged)?;
    fs::rename(&staged, dir.join("..data"))?;
    show(dir, Path::new(&name), payload)?;
    Ok(true)
}

/// The permission bits that a file gets: its group may do what its owner may.
fn mode(file: &File, group: Option<u32>) -> u32 {
    if group.is_some() { file.mode | (file.mode & 0o700) >> 3 } else { file.mode }
}

/// Makes the links for all visible names, and removes everything else but `..data` and the folder that it points at.
fn show(dir: &Path, current: &Path, payload: &Payload) -> io::Result<()> {
    let visible: BTreeSet<&str> = payload.keys().filter_map(|p| p.split('/').next()).collect();
    for name in &visible {
        match symlink(format!("..data/{name}"), dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.file_name();
        let Some(found) = found.to_str() else { continue };
        if found == "..data" || Path::new(found) == current || visible.contains(found) {
            continue;
        }
        // Old folders, and names that are no longer there.
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?
        } else {
            fs::remove_file(entry.path())?
        }
    }
    Ok(())
}

fn check(path: &str) -> io::Result<()> {
    let fine = !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if fine {
        Ok(())
    } else {
        Err(io::Error::other(format!("{path:?} is not a relative path inside the volume")))
    }
}

fn holds(dir: &Path, payload: &Payload, group: Option<u32>) -> bool {
    fn count(dir: &Path) -> usize {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
    }
    let same = |(path, file): (&String, &File)| {
        let path = dir.join(path);
        fs::read(&path).is_ok_and(|data| data == file.data)
            && fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o7777 == mode(file, group))
    };
    payload.iter().all(same) && count(dir) == payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(list: &[(&str, &str)]) -> Payload {
        list.iter().map(|(p, d)| (p.to_string(), File { data: d.as_bytes().to_vec(), mode: 0o640 })).collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| !n.starts_with(".."))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn changes_as_a_whole() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("v");
        assert!(write(&dir, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!write(&dir, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        let held = fs::read_link(dir.join("..data")).unwrap();
        assert!(write(&dir, &payload(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(names(&dir), ["a", "c"]);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join(held).exists());
        assert!(write(&dir, &payload(&[("a", "3")]), None).unwrap());
        assert_eq!(names(&dir), ["a"]);
    }

    #[test]
    fn a_crash_before_the_links_is_made_good() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("v");
        let wanted = payload(&[("a", "1"), ("b", "2")]);
        write(&dir, &wanted, None).unwrap();
        fs::remove_file(dir.join("a")).unwrap();
        symlink("..data/old", dir.join("old")).unwrap();
        fs::create_dir(dir.join("..half")).unwrap();
        assert!(!write(&dir, &wanted, None).unwrap());
        assert_eq!(names(&dir), ["a", "b"]);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
        assert!(!dir.join("..half").exists());
    }

    #[test]
    fn modes_change_too() {
        let temp = tempfile::tempdir().unwrap();
        let mut wanted = payload(&[("a", "1")]);
        write(temp.path(), &wanted, None).unwrap();
        wanted.values_mut().for_each(|f| f.mode = 0o400);
        assert!(write(temp.path(), &wanted, None).unwrap());
        assert_eq!(fs::metadata(temp.path().join("a")).unwrap().permissions().mode() & 0o777, 0o400);
    }

    #[test]
    fn stays_inside() {
        let temp = tempfile::tempdir().unwrap();
        for bad in ["", "../x", "/x", "a/../../x", "..data"] {
            assert!(write(temp.path(), &payload(&[(bad, "1")]), None).is_err(), "{bad}");
        }
    }
}
