//! Volumes of the `local` driver: folders below the data folder, or what `type`/`device`/`o` options say.
//!
//! A volume is `volumes/NAME/` with `opts.json` (durable) and `_data`. Who uses one is computed from the containers,
//! never counted, so that a crash cannot leave a wrong count.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Engine;
use crate::error::{Error, Result, conflict, invalid, not_found};
use crate::filters::Filters;
use crate::model::{Map, VolumeCreate};

/// The label of a volume that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// One volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Labels.
    pub labels: Map,
    /// The driver's options.
    pub options: Map,
}

/// The volumes of one engine.
#[derive(Debug)]
pub(crate) struct Volumes {
    root: PathBuf,
    all: Mutex<BTreeMap<String, Arc<Volume>>>,
}

/// Refuses a name that could be a path.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if crate::names::legal(name) {
        return Ok(());
    }
    Err(invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

impl Volumes {
    /// Finds the volumes below `root`; what a crash left half made is removed.
    pub(crate) fn open(root: PathBuf) -> Result<Volumes> {
        std::fs::create_dir_all(&root).map_err(Error::io(root.display()))?;
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(&root).map_err(Error::io(root.display()))? {
            let dir = entry.map_err(Error::io(root.display()))?.path();
            match std::fs::read(dir.join("opts.json")) {
                Ok(bytes) => {
                    let volume: Volume = serde_json::from_slice(&bytes)
                        .map_err(|e| Error::System(format!("{}: opts.json: {e}", dir.display())))?;
                    all.insert(volume.name.clone(), Arc::new(volume));
                }
                // Made or removed half way: opts.json is written last and removed first.
                Err(_) if dir.is_dir() => {
                    let _ = std::fs::remove_dir_all(&dir);
                }
                Err(_) => {}
            }
        }
        Ok(Volumes { root, all: Mutex::new(all) })
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<Volume>> {
        self.all.lock().get(name).cloned().ok_or_else(|| not_found(format!("get {name}: no such volume")))
    }

    pub(crate) fn list(&self) -> Vec<Arc<Volume>> {
        self.all.lock().values().cloned().collect()
    }

    /// The folder with the volume's content.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.root.join(name).join("_data")
    }

    /// Makes a volume, or finds the one of that name. The flag says whether it is new.
    pub(crate) fn create(&self, request: VolumeCreate) -> Result<(Arc<Volume>, bool)> {
        let VolumeCreate { mut name, driver, driver_opts, mut labels } = request;
        if !matches!(driver.as_str(), "" | "local") {
            return Err(not_found(format!(
                "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        for key in driver_opts.keys() {
            if !matches!(key.as_str(), "type" | "device" | "o" | "size") {
                return Err(invalid(format!("create {name}: invalid option: \"{key}\"")));
            }
        }
        if name.is_empty() {
            name = base::rng::hex(32);
            labels.insert(ANONYMOUS.into(), String::new());
        }
        check_name(&name)?;
        let mut all = self.all.lock();
        if let Some(existing) = all.get(&name) {
            if !driver_opts.is_empty() && driver_opts != existing.options {
                return Err(conflict(format!(
                    "volume {name} already exists with other options: remove it first"
                )));
            }
            return Ok((existing.clone(), false));
        }
        let dir = self.root.join(&name);
        let volume = Arc::new(Volume {
            name: name.clone(),
            created: base::clock::now(),
            labels,
            options: driver_opts,
        });
        let make = || {
            std::fs::create_dir_all(dir.join("_data"))?;
            let bytes = serde_json::to_vec(&*volume)?;
            base::fsx::write_atomic(&dir.join("opts.json"), &bytes, 0o600)
        };
        make().map_err(Error::io(format_args!("create {name}")))?;
        all.insert(name, volume.clone());
        Ok((volume, true))
    }

    /// Removes a volume that is not in use.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let dir = self.root.join(name);
        if self.all.lock().remove(name).is_none() {
            return Err(not_found(format!("get {name}: no such volume")));
        }
        std::fs::remove_file(dir.join("opts.json"))
            .and_then(|()| std::fs::remove_dir_all(&dir))
            .map_err(Error::io(format_args!("remove {name}")))
    }
}

impl Volume {
    /// What has to be mounted to use it: nothing for a plain folder.
    pub(crate) fn mount(&self) -> Option<(String, String, Vec<String>)> {
        let get = |k: &str| self.options.get(k).cloned().unwrap_or_default();
        let (kind, device) = (get("type"), get("device"));
        if kind.is_empty() && device.is_empty() {
            return None;
        }
        let flags = get("o").split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect();
        Some((kind, device, flags))
    }
}

impl Engine {
    /// Makes a volume.
    pub async fn volume_create(&self, request: VolumeCreate) -> Result<Value> {
        let (volume, new) = self.volumes.create(request)?;
        if new {
            self.volume_event(&volume.name, "create", &[("driver", "local".into())]);
        }
        Ok(self.volume_json(&volume))
    }

    pub(crate) fn volume_event(&self, name: &str, action: &str, more: &[(&str, String)]) {
        let attributes = more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        self.events.publish("volume", action, name, attributes);
    }

    /// One volume.
    pub fn volume_inspect(&self, name: &str) -> Result<Value> {
        Ok(self.volume_json(&*self.volumes.get(name)?))
    }

    /// The volumes that the filters let pass.
    pub fn volume_list(&self, filters: &Filters) -> Result<Value> {
        filters.only(&["dangling", "driver", "label", "label!", "name"])?;
        let dangling = filters.flag("dangling")?;
        let used = self.volumes_in_use();
        let list: Vec<Value> = self
            .volumes
            .list()
            .iter()
            .filter(|v| {
                filters.any("name", |n| v.name.contains(n.as_str()))
                    && filters.exact("driver", "local")
                    && filters.labels(&v.labels)
                    && dangling.is_none_or(|d| d != used.contains_key(&v.name))
            })
            .map(|v| self.volume_json(v))
            .collect();
        Ok(json!({"Volumes": list, "Warnings": null}))
    }

    fn volume_json(&self, v: &Volume) -> Value {
        json!({
            "CreatedAt": base::clock::rfc3339(v.created),
            "Driver": "local",
            "Labels": if v.labels.is_empty() { Value::Null } else { json!(v.labels) },
            "Mountpoint": self.volumes.data(&v.name),
            "Name": v.name,
            "Options": if v.options.is_empty() { Value::Null } else { json!(v.options) },
            "Scope": "local",
        })
    }

    /// For each volume in use the containers that use it.
    pub(crate) fn volumes_in_use(&self) -> BTreeMap<String, Vec<String>> {
        let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for container in self.all() {
            for point in container.lock().asked.mounts.iter().filter(|p| p.kind == "volume") {
                used.entry(point.name.clone()).or_default().push(container.id.clone());
            }
        }
        used
    }

    /// Removes a volume; with `force` a missing one is no error.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        if let Some(users) = self.volumes_in_use().get(name) {
            return Err(conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        match self.volumes.remove(name) {
            Err(Error::NotFound(_)) if force => return Ok(()),
            other => other?,
        }
        self.volume_event(name, "destroy", &[("driver", "local".into())]);
        Ok(())
    }

    /// Removes unused volumes: anonymous ones, or all with the filter `all=true`.
    pub async fn volume_prune(&self, filters: &Filters) -> Result<Value> {
        filters.only(&["all", "label", "label!"])?;
        let all = filters.flag("all")?.unwrap_or(false);
        let used = self.volumes_in_use();
        let mut deleted = Vec::new();
        let mut freed = 0;
        for volume in self.volumes.list() {
            let candidate = all || volume.labels.contains_key(ANONYMOUS);
            if !candidate || used.contains_key(&volume.name) || !filters.labels(&volume.labels) {
                continue;
            }
            let data = self.volumes.data(&volume.name);
            let bytes = blocking(move || Ok(tree_size(&data))).await?;
            if self.volume_remove(&volume.name, false).await.is_ok() {
                freed += bytes;
                deleted.push(volume.name.clone());
            }
        }
        self.events.publish("volume", "prune", "", Map::from([("reclaimed".to_owned(), freed.to_string())]));
        Ok(json!({"VolumesDeleted": deleted, "SpaceReclaimed": freed}))
    }

    /// Volumes with their sizes and users, for `system df`.
    pub(crate) async fn volume_usage(&self) -> Result<Vec<Value>> {
        let used = self.volumes_in_use();
        let mut out = Vec::new();
        for volume in self.volumes.list() {
            let data = self.volumes.data(&volume.name);
            let size = blocking(move || Ok(tree_size(&data))).await?;
            let mut value = self.volume_json(&volume);
            value["UsageData"] =
                json!({"Size": size, "RefCount": used.get(&volume.name).map_or(0, Vec::len)});
            out.push(value);
        }
        Ok(out)
    }
}

/// Runs blocking work on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::System(format!("internal error: {e}"))))
}

/// The bytes of all files below `dir`, hard links counted once.
pub(crate) fn tree_size(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let mut total = 0;
    let mut stack = vec![dir.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            if meta.is_dir() {
                stack.push(entry.path());
            } else if meta.nlink() == 1 || seen.insert((meta.dev(), meta.ino())) {
                total += meta.len();
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_find_remove() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(dir.path().join("v")).unwrap();
        let request = |name: &str| VolumeCreate { name: name.into(), ..VolumeCreate::default() };
        assert!(volumes.create(request("data")).unwrap().1);
        assert!(!volumes.create(request("data")).unwrap().1);
        assert!(volumes.create(request("../x")).is_err());
        let (anonymous, _) = volumes.create(request("")).unwrap();
        assert_eq!(anonymous.name.len(), 64);
        std::fs::write(volumes.data("data").join("f"), "kept").unwrap();
        std::fs::create_dir_all(dir.path().join("v/half/_data")).unwrap();
        let again = Volumes::open(dir.path().join("v")).unwrap();
        assert_eq!(again.list().len(), 2);
        assert!(!dir.path().join("v/half").exists(), "half-made volumes are removed at start");
        assert_eq!(tree_size(&again.data("data")), 4);
        again.remove("data").unwrap();
        assert!(matches!(again.get("data"), Err(Error::NotFound(_))));
    }
}
