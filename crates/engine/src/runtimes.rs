//! The names of runtimes (`docker run --runtime NAME`): the built-in one, and any OCI runtime's binary on this machine.

use std::path::{Path, PathBuf};

use crate::error::{Result, invalid};

/// Names of the built-in runtime; the last is what Docker calls its default.
const BUILT_IN: [&str; 3] = ["", "tug", "io.containerd.runc.v2"];
/// Where binaries are looked for beside PATH: a service's PATH may lack them.
const FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// The binary of a runtime; `None` is the built-in one.
pub(crate) fn find(name: &str) -> Result<Option<PathBuf>> {
    if BUILT_IN.contains(&name) {
        return Ok(None);
    }
    let found = if name.starts_with('/') {
        executable(Path::new(name)).then(|| PathBuf::from(name))
    } else if name.contains('/') {
        None
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(FOLDERS.iter().map(PathBuf::from))
            .map(|folder| folder.join(name))
            .find(|file| executable(file))
    };
    match (found, name) {
        (Some(binary), _) => Ok(Some(binary)),
        // Files written for Docker name its default runtime; where it is not installed, ours takes its place.
        (None, "runc") => Ok(None),
        (None, _) => Err(invalid(format!("unknown or invalid runtime name: {name}"))),
    }
}

/// What a user who names a runtime that is replaced should know.
pub(crate) fn warning(name: &str) -> Option<String> {
    (name == "runc" && matches!(find(name), Ok(None)))
        .then(|| "runc is not installed on this machine: the built-in runtime runs the container.".to_owned())
}

fn executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for built_in in BUILT_IN {
            assert_eq!(find(built_in).unwrap(), None);
        }
        assert_eq!(find("/bin/sh").unwrap(), Some("/bin/sh".into()));
        assert!(find("sh").unwrap().is_some());
        for bad in ["no-such-runtime", "/no/such/runtime", "../bin/sh", "/etc/passwd"] {
            assert!(find(bad).unwrap_err().to_string().contains("unknown or invalid runtime name"), "{bad}");
        }
    }
}
