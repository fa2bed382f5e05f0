//! Mount options as OCI and mount(8) spell them.

use std::path::PathBuf;

use sys::mount::{Propagation, attr};

/// What a list of options asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// A bind mount.
    pub bind: bool,
    /// With everything below it.
    pub recursive: bool,
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// To set on every mount below, too.
    pub recursive_set: u64,
    /// To clear on every mount below, too.
    pub recursive_clear: u64,
    /// How mounts spread.
    pub propagation: Option<Propagation>,
    /// Whether that holds for every mount below, too.
    pub propagation_recursive: bool,
    /// Whether it has the container's ids.
    pub idmap: bool,
    /// Whether a tmpfs begins with the image's content.
    pub copy_up: bool,
    /// Which part of its source a bind mount binds.
    pub subpath: Option<PathBuf>,
    /// What the file system itself shall know.
    pub data: Vec<String>,
}

/// The folders of an overlay, taken out of its options: one option must not be as long as all layers together are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Overlay {
    /// Top first.
    pub lower: Vec<PathBuf>,
    pub upper: Option<PathBuf>,
    pub work: Option<PathBuf>,
    /// The other options.
    pub rest: Vec<String>,
}

impl Overlay {
    pub(super) fn of(data: &[String]) -> Self {
        let mut overlay = Overlay::default();
        for option in data {
            match option.split_once('=') {
                Some(("lowerdir", list)) => overlay.lower = folders(list),
                Some(("upperdir", path)) => overlay.upper = Some(path.into()),
                Some(("workdir", path)) => overlay.work = Some(path.into()),
                _ => overlay.rest.push(option.clone()),
            }
        }
        overlay
    }
}

/// The folders of a list as [`lowerdir`] and the kernel have it: by colons; what belongs to a name has a backslash
/// before it.
fn folders(list: &str) -> Vec<PathBuf> {
    let (mut all, mut one, mut characters) = (Vec::new(), String::new(), list.chars());
    while let Some(c) = characters.next() {
        match c {
            ':' => all.push(std::mem::take(&mut one).into()),
            '\\' => one.extend(characters.next()),
            _ => one.push(c),
        }
    }
    all.push(one.into());
    all
}

/// The option `lowerdir` of an overlay of these folders, top first; `None` if a name is not text. Strangers choose names
/// in contexts and images: a colon would make one folder two, a comma, where options are one text, an option of its own.
pub fn lowerdir(folders: &[PathBuf]) -> Option<String> {
    let mut option = String::from("lowerdir=");
    for (n, folder) in folders.iter().enumerate() {
        if n > 0 {
            option.push(':');
        }
        for c in folder.to_str()?.chars() {
            if matches!(c, '\\' | ':' | ',') {
                option.push('\\');
            }
            option.push(c);
        }
    }
    Some(option)
}

impl Options {
    pub(super) fn parse(list: &[String]) -> Self {
        let mut o = Options::default();
        for option in list {
            o.one(option);
        }
        o
    }

    fn one(&mut self, option: &str) {
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "tmpcopyup" => self.copy_up = true,
            "idmap" | "ridmap" => self.idmap = true,
            "defaults" | "async" | "nomand" | "loud" | "silent" => {}
            _ => {
                if let Some((spread, recursive)) = spread(option) {
                    self.propagation = Some(spread);
                    self.propagation_recursive = recursive;
                } else if let Some((set, clear)) = attributes(option) {
                    self.set = self.set & !clear | set;
                    self.clear = self.clear & !set | clear;
                } else if let Some((set, clear)) = option.strip_prefix('r').and_then(attributes) {
                    self.recursive_set = self.recursive_set & !clear | set;
                    self.recursive_clear = self.recursive_clear & !set | clear;
                } else if let Some(part) = option.strip_prefix(crate::SUBPATH) {
                    self.subpath = Some(part.into());
                } else {
                    self.data.push(option.to_string());
                }
            }
        }
    }
}

fn spread(option: &str) -> Option<(Propagation, bool)> {
    Some(match option {
        "private" => (Propagation::Private, false),
        "rprivate" => (Propagation::Private, true),
        "shared" => (Propagation::Shared, false),
        "rshared" => (Propagation::Shared, true),
        "slave" => (Propagation::Slave, false),
        "rslave" => (Propagation::Slave, true),
        "unbindable" => (Propagation::Unbindable, false),
        "runbindable" => (Propagation::Unbindable, true),
        _ => return None,
    })
}

/// What an option sets and clears.
fn attributes(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (attr::RDONLY, 0),
        "rw" => (0, attr::RDONLY),
        "nosuid" => (attr::NOSUID, 0),
        "suid" => (0, attr::NOSUID),
        "nodev" => (attr::NODEV, 0),
        "dev" => (0, attr::NODEV),
        "noexec" => (attr::NOEXEC, 0),
        "exec" => (0, attr::NOEXEC),
        "noatime" => (attr::NOATIME, 0),
        "strictatime" => (attr::STRICTATIME, 0),
        "relatime" | "atime" | "nostrictatime" => (0, attr::ATIME),
        "nodiratime" => (attr::NODIRATIME, 0),
        "diratime" => (0, attr::NODIRATIME),
        "nosymfollow" => (attr::NOSYMFOLLOW, 0),
        "symfollow" => (0, attr::NOSYMFOLLOW),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Options {
        Options::parse(&text.split(',').map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn overlays() {
        let o = Overlay::of(&parse("ro,lowerdir=/a/1:/a\\:b/2:/c,upperdir=/u,workdir=/w,index=off").data);
        assert_eq!(o.lower, ["/a/1", "/a:b/2", "/c"].map(PathBuf::from));
        assert_eq!((o.upper, o.work), (Some("/u".into()), Some("/w".into())));
        assert_eq!(o.rest, ["index=off"]);
        let names = ["/a:b/c", "/d,upperdir=/etc", "/e\\", "\\:", "/f"].map(PathBuf::from);
        let one = lowerdir(&names).unwrap();
        assert_eq!(one, "lowerdir=/a\\:b/c:/d\\,upperdir=/etc:/e\\\\:\\\\\\::/f");
        assert_eq!(Overlay::of(&[one]), Overlay { lower: names.to_vec(), ..Overlay::default() });
        let bytes = std::os::unix::ffi::OsStringExt::from_vec(vec![b'/', 0xff]);
        assert_eq!(lowerdir(&[std::ffi::OsString::into(bytes)]), None);
    }

    #[test]
    fn words() {
        let o = parse("rbind,ro,rprivate,nosuid");
        assert!(o.bind && o.recursive);
        assert_eq!(o.set, attr::RDONLY | attr::NOSUID);
        assert_eq!((o.propagation, o.propagation_recursive), (Some(Propagation::Private), true));
        let o = parse("nosuid,strictatime,mode=755,size=65536k");
        assert_eq!(o.set, attr::NOSUID | attr::STRICTATIME);
        assert_eq!(o.data, ["mode=755", "size=65536k"]);
        let o = parse("ro,rw");
        assert_eq!((o.set, o.clear), (0, attr::RDONLY));
        let o = parse("rro,rnosuid");
        assert_eq!((o.set, o.recursive_set), (0, attr::RDONLY | attr::NOSUID));
        assert_eq!(parse("relatime").clear, attr::ATIME);
        assert!(parse("rw").data.is_empty());
        assert_eq!(parse("x-tug.subpath=a/b").subpath.as_deref(), Some(std::path::Path::new("a/b")));
    }
}
