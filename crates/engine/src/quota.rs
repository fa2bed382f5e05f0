//! How much a volume or a container's layer may take: project quotas of the file system that they lie on.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use sys::quota::ProjectQuotas;

use crate::error::{Error, Result, invalid, system};
use crate::model::Map;

/// The quotas below one folder. The file system is asked when the first quota is wanted.
#[derive(Debug)]
pub(crate) struct Quotas {
    home: PathBuf,
    /// What lies in each folder there that may have a quota.
    inside: &'static str,
    opened: Mutex<Option<Option<ProjectQuotas>>>,
}

impl Quotas {
    pub(crate) fn new(home: PathBuf, inside: &'static str) -> Self {
        Self { home, inside, opened: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(Option<&mut ProjectQuotas>) -> std::io::Result<T>) -> Result<T> {
        let mut opened = self.opened.lock();
        let failed = |e| Error::io(format_args!("quotas of {}", self.home.display()))(e);
        if opened.is_none() {
            let open = || {
                let folders = std::fs::read_dir(&self.home)?;
                let folders: std::io::Result<Vec<PathBuf>> =
                    folders.map(|entry| Ok(entry?.path().join(self.inside))).collect();
                ProjectQuotas::open(&self.home, folders?.into_iter().filter(|f| f.is_dir()))
            };
            *opened = Some(open().map_err(failed)?);
        }
        work(opened.as_mut().and_then(Option::as_mut)).map_err(failed)
    }

    /// Whether the file system has them.
    pub(crate) fn supported(&self) -> Result<bool> {
        self.with(|quotas| Ok(quotas.is_some()))
    }

    /// Limits what a folder may take, in bytes, together with the folders `beside` it.
    pub(crate) fn set(&self, path: &Path, beside: &[&Path], bytes: u64) -> Result<()> {
        self.with(|quotas| {
            let quotas = quotas.ok_or(std::io::ErrorKind::Unsupported)?;
            quotas.set(path, bytes)?;
            beside.iter().try_for_each(|other| quotas.join(other, path))
        })
    }

    /// Forgets the limit of a folder that is gone.
    pub(crate) fn forget(&self, path: &Path) {
        let gone = self.with(|quotas| quotas.map_or(Ok(()), |q| q.forget(path)));
        if let Err(error) = gone {
            tracing::warn!(folder = %path.display(), %error, "its quota could not be taken away");
        }
    }
}

/// The size that an option says; nothing or zero is no limit.
pub(crate) fn size(text: &str) -> std::result::Result<Option<u64>, String> {
    runtime::logs::drivers::binary_size(text).map(|n| Some(n).filter(|n| *n > 0))
}

/// What `storage-opts` of the settings say of containers' layers.
pub(crate) fn default_size(options: &[String]) -> std::result::Result<Option<u64>, String> {
    let mut found = None;
    for option in options {
        let (key, value) =
            option.split_once('=').ok_or_else(|| format!("unable to parse key/value option: '{option}'"))?;
        match key.trim().to_ascii_lowercase().as_str() {
            "overlay2.size" => found = size(value.trim())?,
            // Which kernels can do it is not checked.
            "overlay2.override_kernel_check" => {}
            _ => return Err(format!("overlay2: unknown option {key}")),
        }
    }
    Ok(found)
}

/// The limit that a container asks for (`--storage-opt size=`), or else the settings.
pub(crate) fn layer_size(asked: &Map, default: Option<u64>) -> Result<Option<u64>> {
    let mut wanted = default;
    for (key, value) in asked {
        match key.to_ascii_lowercase().as_str() {
            "size" => wanted = size(value).map_err(invalid)?,
            _ => return Err(system(format!("unknown option {key} for --storage-opt: overlay2 has size"))),
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let options = |list: &[&str]| default_size(&list.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        assert_eq!(options(&[]), Ok(None));
        assert_eq!(options(&["overlay2.override_kernel_check=true", "overlay2.size=1G"]), Ok(Some(1 << 30)));
        assert_eq!(options(&["dm.basesize=1G"]).unwrap_err(), "overlay2: unknown option dm.basesize");
        assert!(options(&["overlay2.size"]).unwrap_err().contains("key/value"));
        let map = |key: &str, value: &str| Map::from([(key.to_owned(), value.to_owned())]);
        assert_eq!(layer_size(&map("size", "10m"), Some(1)).unwrap(), Some(10 << 20));
        assert_eq!(layer_size(&Map::new(), Some(1)).unwrap(), Some(1));
        assert_eq!(layer_size(&map("SIZE", "0"), Some(1)).unwrap(), None);
        assert!(layer_size(&map("inodes", "1"), None).is_err());
        assert!(layer_size(&map("size", "much"), None).is_err());
    }
}
