//! The folders of `--mount=type=cache`: made when a step first wants them, kept between builds, measured and removed as a
//! part of the build cache.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::ImageStore;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::cache::{self, Record};
use crate::error::{Error, Result};
use crate::mounts::{Sharing, Wanted};
use crate::steps::Origin;
use crate::{blocking, copy};

/// What a folder is called until it is whole.
const FRESH: &str = ".tmp-";

/// The folders of `--mount=type=cache`, kept between builds.
pub(crate) struct Caches {
    dir: PathBuf,
    /// Who uses a folder, by its name.
    used: Mutex<HashMap<String, Arc<tokio::sync::RwLock<()>>>>,
    /// How large folders were after so many uses.
    sizes: Mutex<HashMap<String, (u64, u64)>>,
}

/// What is written beside a cache's folder.
#[derive(serde::Serialize, serde::Deserialize, Default)]
struct About {
    description: String,
    created: Timestamp,
    used: i64,
    uses: u64,
}

/// A cache folder in use.
pub(crate) enum Held {
    Shared { _lock: tokio::sync::OwnedRwLockReadGuard<()> },
    Alone { _lock: tokio::sync::OwnedRwLockWriteGuard<()> },
}

impl Caches {
    pub fn open(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            // Of a process that was killed while it made one.
            if entry.file_name().as_encoded_bytes().starts_with(FRESH.as_bytes()) {
                sys::tree::remove(&entry.path())?;
            }
        }
        Ok(Self { dir, used: Mutex::default(), sizes: Mutex::default() })
    }

    fn lock(&self, name: &str) -> Arc<tokio::sync::RwLock<()>> {
        self.used.lock().entry(name.to_string()).or_default().clone()
    }

    pub async fn take(
        &self,
        m: &Wanted,
        origin: Option<&Origin>,
        images: &Arc<ImageStore>,
    ) -> Result<(PathBuf, Held)> {
        let from = m.from.as_deref().unwrap_or_default();
        let plain = cache::key(&[m.id.as_bytes(), from.as_bytes(), m.source.as_bytes()])[..32].to_string();
        let (name, held) = match m.sharing {
            Sharing::Shared => (plain.clone(), Held::Shared { _lock: self.lock(&plain).read_owned().await }),
            Sharing::Locked => (plain.clone(), Held::Alone { _lock: self.lock(&plain).write_owned().await }),
            Sharing::Private => {
                let mut n = 0;
                loop {
                    let name = if n == 0 { plain.clone() } else { format!("{plain}-{n}") };
                    if let Ok(lock) = self.lock(&name).try_write_owned() {
                        break (name, Held::Alone { _lock: lock });
                    }
                    n += 1;
                }
            }
        };
        let path = self.dir.join(&name);
        let (wanted, origin, images, place) = (m.clone(), origin.cloned(), images.clone(), path.clone());
        blocking(move || prepare(&place, &wanted, origin.as_ref(), &images)).await?;
        Ok((path, held))
    }

    /// What there is. Blocking, for it measures.
    pub fn records(&self) -> Result<Vec<Record>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') || name.ends_with(".json") {
                continue;
            }
            let about: About = std::fs::read(self.dir.join(format!("{name}.json")))
                .ok()
                .and_then(|b| serde_json::from_slice(&b).ok())
                .unwrap_or_default();
            all.push(Record {
                id: format!("mount-{name}"),
                description: about.description,
                size: self.size(&name, about.uses, &entry.path())?,
                created: about.created,
                used: about.used,
                uses: about.uses,
                diff_id: None,
                shared: false,
                in_use: self.lock(&name).try_write_owned().is_err(),
                kind: cache::RecordKind::Mount,
            });
        }
        Ok(all)
    }

    /// What a folder takes of the disk, which changes only while somebody uses it.
    fn size(&self, name: &str, uses: u64, path: &Path) -> Result<u64> {
        let idle = self.lock(name).try_write_owned();
        if let Some((_, size)) = self.sizes.lock().get(name).filter(|(then, _)| idle.is_ok() && *then == uses)
        {
            return Ok(*size);
        }
        let size = match image::on_disk(path) {
            Ok(size) => size,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e.into()),
        };
        if idle.is_ok() {
            self.sizes.lock().insert(name.to_string(), (uses, size));
        }
        Ok(size)
    }

    /// Removes one that nobody uses; whether it is gone.
    pub async fn remove(&self, id: &str) -> Result<bool> {
        let name = id.trim_start_matches("mount-").to_string();
        let Ok(_lock) = self.lock(&name).try_write_owned() else { return Ok(false) };
        let path = self.dir.join(&name);
        blocking(move || {
            sys::tree::remove(&path)?;
            let _ = std::fs::remove_file(path.with_extension("json")); // it may never have been written
            Ok(true)
        })
        .await
    }
}

/// Makes the folder of a cache unless it is there, and tells of its use. Blocking.
fn prepare(path: &Path, m: &Wanted, origin: Option<&Origin>, images: &Arc<ImageStore>) -> Result<()> {
    if !path.exists() {
        let fresh = path.with_file_name(format!("{FRESH}{}", base::rng::hex(8)));
        std::fs::create_dir(&fresh)?;
        if let Some(origin) = origin {
            let root = origin.root(images)?;
            let into: OwnedFd = std::fs::File::open(&fresh)?.into();
            let source = if m.source.is_empty() { "." } else { m.source.as_str() };
            let from = copy::From { root: &root, tree: None, exclude: None, parents: false };
            let found = from.find(source).map_err(Error::Step)?;
            let target = copy::Target { path: "/".into(), folder: true, ..copy::Target::default() };
            from.write(&found, &into, &target).map_err(Error::Step)?;
        }
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(m.mode.unwrap_or(0o755)))?;
        std::os::unix::fs::chown(&fresh, Some(m.uid), Some(m.gid))?;
        match std::fs::rename(&fresh, path) {
            // Somebody else who shares it was first.
            Err(_) if path.exists() => sys::tree::remove(&fresh)?,
            other => other?,
        }
    }
    let about = path.with_extension("json");
    let now = base::clock::now();
    let mut known: About = std::fs::read(&about)
        .ok()
        .and_then(|b| serde_json::from_slice(&b).ok())
        .unwrap_or_else(|| About { created: now, ..About::default() });
    known.description = format!("cached mount {} from exec with id {:?}", m.target, m.id);
    (known.used, known.uses) = (now.as_second(), known.uses + 1);
    // Lost with the power, it is told anew by the next use.
    Ok(std::fs::write(&about, serde_json::to_vec(&known).map_err(image::Error::from)?)?)
}
