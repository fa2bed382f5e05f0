//! Volumes: folders of ours, what their options mount (`local`), and those of plugins.
//!
//! A volume of the driver `local` is `volumes/NAME/` with `opts.json` (durable) and `_data`; of a plugin's volumes only
//! what was asked for is kept, in `volumes/.plugins/`. Who uses one is computed from the containers, never counted, so
//! that a crash cannot leave a wrong count. What has to be mounted is mounted when the first container starts and
//! unmounted when the last one has ended; each container keeps in its state which volumes it holds.

pub(crate) mod local;
mod locks;
mod plugin;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Engine;
use crate::container::Container;
use crate::error::{Error, Result, conflict, not_found, system};
use crate::filters::Filters;
use crate::model::{Map, VolumeCreate};
use crate::mounts::MountPoint;
use crate::quota::Quotas;

/// The label of a volume that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";
pub(crate) const LOCAL: &str = "local";
/// The folder of what is kept of plugins' volumes; no volume can have that name.
const PLUGINS: &str = ".plugins";

/// One volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Its driver.
    #[serde(default = "local_driver")]
    pub driver: String,
    /// Labels.
    pub labels: Map,
    /// The driver's options.
    pub options: Map,
}

fn local_driver() -> String {
    LOCAL.to_owned()
}

impl Volume {
    fn local(&self) -> bool {
        self.driver == LOCAL
    }
}

/// The volumes of one engine.
#[derive(Debug)]
pub(crate) struct Volumes {
    root: PathBuf,
    all: Mutex<BTreeMap<String, Arc<Volume>>>,
    plugins: plugin::Registry,
    pub(crate) quotas: Quotas,
    /// How many containers are being created with each volume: nothing else says yet that it is in use.
    reserved: Mutex<BTreeMap<String, usize>>,
    /// Held while the volume of a name is made or removed: a plugin may take its time, and so may a large folder.
    changes: locks::NameLocks,
    /// Held while one is mounted or unmounted.
    mounting: tokio::sync::Mutex<()>,
    pruning: AtomicBool,
}

impl Volumes {
    /// Finds the volumes below `root`; what a crash left half made is removed, what cannot be read is left alone.
    pub(crate) fn open(root: PathBuf) -> Result<Volumes> {
        let plugins = root.join(PLUGINS);
        std::fs::create_dir_all(&plugins).map_err(Error::io(plugins.display()))?;
        base::fsx::remove_leftovers(&plugins).map_err(Error::io(plugins.display()))?;
        let mut all = BTreeMap::new();
        let entries = |dir: &Path| -> Result<Vec<PathBuf>> {
            let list = std::fs::read_dir(dir).map_err(Error::io(dir.display()))?;
            list.map(|e| e.map(|e| e.path()).map_err(Error::io(dir.display()))).collect()
        };
        let folders = entries(&root)?.into_iter().filter(|p| p.is_dir() && *p != plugins);
        for dir in folders {
            let file = dir.join("opts.json");
            match std::fs::read(&file) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    // Made or removed half way: opts.json is written last and removed first.
                    tracing::info!(volume = %dir.display(), "removing a half-made volume");
                    if let Err(error) = sys::tree::remove(&dir) {
                        tracing::warn!(volume = %dir.display(), %error, "it could not be removed");
                    }
                }
                read => keep(&mut all, &file, read),
            }
        }
        for file in entries(&plugins)? {
            keep(&mut all, &file, std::fs::read(&file));
        }
        Ok(Volumes {
            quotas: Quotas::new(root.clone(), "_data"),
            root,
            all: Mutex::new(all),
            plugins: plugin::Registry::default(),
            reserved: Mutex::default(),
            changes: locks::NameLocks::default(),
            mounting: tokio::sync::Mutex::default(),
            pruning: AtomicBool::new(false),
        })
    }

    /// Keeps the volumes of a container that is being created.
    pub(crate) fn reserve(self: &Arc<Self>) -> Reserved {
        Reserved { volumes: self.clone(), names: Mutex::default() }
    }

    /// What is kept of a volume; plugins may know more.
    fn known(&self, name: &str) -> Option<Arc<Volume>> {
        self.all.lock().get(name).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<Volume>> {
        self.all.lock().values().cloned().collect()
    }

    /// The folder with a local volume's content.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.root.join(name).join("_data")
    }

    /// The file that says what was asked for.
    fn record(&self, volume: &Volume) -> PathBuf {
        if volume.local() {
            return self.root.join(&volume.name).join("opts.json");
        }
        // A plugin's names can be anything.
        self.root.join(PLUGINS).join(format!("{}.json", hex::encode(Sha256::digest(&volume.name))))
    }

    /// Makes a folder of ours, with its content's folder, and remembers it.
    fn make_local(&self, volume: Volume, ids: Option<&sys::userns::IdMaps>) -> Result<Arc<Volume>> {
        let dir = self.root.join(&volume.name);
        if dir.exists() {
            return Err(system(format!(
                "create {}: {} exists, but what it is could not be read: repair its opts.json or remove it",
                volume.name,
                dir.display()
            )));
        }
        let made = std::fs::create_dir_all(dir.join("_data"))
            .map_err(Error::io(format_args!("create {}", volume.name)))
            .and_then(|()| crate::userns::give(&dir.join("_data"), ids))
            .and_then(|()| self.remember(volume));
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&dir); // the error says why already
        }
        made
    }

    fn remember(&self, volume: Volume) -> Result<Arc<Volume>> {
        let what = format!("create {}", volume.name);
        let bytes = serde_json::to_vec(&volume).map_err(|e| system(format!("{what}: {e}")))?;
        base::fsx::write_atomic(&self.record(&volume), &bytes, 0o600).map_err(Error::io(&what))?;
        let volume = Arc::new(volume);
        self.all.lock().insert(volume.name.clone(), volume.clone());
        Ok(volume)
    }

    /// Forgets a volume; of a local one its content goes too. It is there until the disk has forgotten it.
    fn forget(&self, volume: &Volume) -> Result<()> {
        let what = || format!("remove {}", volume.name);
        match std::fs::remove_file(self.record(volume)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(what())(e)),
            _ => {}
        }
        if volume.local() {
            match sys::tree::remove(&self.root.join(&volume.name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(what())(e)),
                _ => {}
            }
            if local::quota(&volume.options).is_some() {
                self.quotas.forget(&self.data(&volume.name));
            }
        }
        self.all.lock().remove(&volume.name);
        Ok(())
    }
}

/// The volumes of a container that is being created: nobody removes them as long as this is held.
#[derive(Debug)]
pub(crate) struct Reserved {
    volumes: Arc<Volumes>,
    names: Mutex<Vec<String>>,
}

impl Reserved {
    fn add(&self, name: &str) {
        *self.volumes.reserved.lock().entry(name.to_owned()).or_default() += 1;
        self.names.lock().push(name.to_owned());
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut all = self.volumes.reserved.lock();
        for name in self.names.get_mut().drain(..) {
            if let Some(count) = all.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    all.remove(&name);
                }
            }
        }
    }
}

/// The folders below a data folder on which volumes have mounted what their options say, or will: all that an engine mounts
/// there. What cannot be read is left alone, as by the engine.
pub fn mounted_volumes(data_dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let root = data_dir.join("volumes");
    let list = match std::fs::read_dir(&root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list?,
    };
    let mut found = Vec::new();
    for entry in list {
        let dir = entry?.path();
        let record = std::fs::read(dir.join("opts.json")).ok();
        let volume = record.and_then(|bytes| serde_json::from_slice::<Volume>(&bytes).ok());
        if volume.is_some_and(|v| v.local() && local::spec(&v.options).is_some()) {
            found.push(dir.join("_data"));
        }
    }
    Ok(found)
}

fn keep(all: &mut BTreeMap<String, Arc<Volume>>, file: &Path, read: std::io::Result<Vec<u8>>) {
    match read.and_then(|bytes| Ok(serde_json::from_slice::<Volume>(&bytes)?)) {
        Ok(volume) => {
            all.insert(volume.name.clone(), Arc::new(volume));
        }
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "a volume cannot be read and is left alone");
        }
    }
}

impl Engine {
    /// Makes a volume.
    pub async fn volume_create(&self, request: VolumeCreate) -> Result<Value> {
        let volume = self.make_volume(request, None).await?;
        Ok(self.volume_json(&volume, None))
    }

    /// Makes a volume, or finds the one of that name. One that nobody named gets a name. It is reserved before anybody
    /// else can remove it.
    pub(crate) async fn make_volume(
        &self,
        request: VolumeCreate,
        reserved: Option<&Reserved>,
    ) -> Result<Arc<Volume>> {
        let VolumeCreate { mut name, driver, driver_opts, mut labels } = request;
        let named = !name.is_empty();
        if !named {
            name = base::rng::hex(32);
            labels.insert(ANONYMOUS.into(), String::new());
        }
        let _one = self.volumes.changes.lock(&name).await;
        if let Some(reserved) = reserved {
            reserved.add(&name);
        }
        if let Some(existing) = self.volumes.known(&name) {
            if !driver.is_empty() && driver != existing.driver {
                return Err(conflict(format!(
                    "create {name}: driver '{}' already has volume '{name}': volume name must be unique",
                    existing.driver
                )));
            }
            if existing.local()
                || self.volumes.plugins.get(&existing.driver).await?.get(&name).await?.is_some()
            {
                return Ok(existing);
            }
            if self.users_of(&name).next().is_some() {
                return Err(conflict(format!(
                    "create {name}: found references to volume '{name}' in driver '{}' but the volume was not found in the driver -- you may need to remove containers referencing this volume or force remove the volume to re-create it: volume name must be unique",
                    existing.driver
                )));
            }
            self.forget_volume(existing).await?;
        }
        let driver = match driver.as_str() {
            // A plugin may have one of that name.
            "" if named => {
                self.plugin_with(&name).await.map_or_else(|| LOCAL.to_owned(), |(plugin, _)| plugin)
            }
            "" => LOCAL.to_owned(),
            _ => driver,
        };
        let volume = Volume { name, created: base::clock::now(), driver, labels, options: driver_opts };
        let volume = if volume.local() {
            local::check_name(&volume.name)?;
            local::check_options(&volume.name, &volume.options, || self.volumes.quotas.supported())?;
            let (volumes, ids) = (self.volumes.clone(), self.ids.clone());
            blocking(move || volumes.make_local(volume, ids.as_ref())).await?
        } else {
            let failed = |e: Error| e.map(|text| format!("create {}: {text}", volume.name));
            let plugin = self.volumes.plugins.get(&volume.driver).await.map_err(failed)?;
            if plugin.get(&volume.name).await.map_err(failed)?.is_none() {
                plugin.create(&volume.name, &volume.options).await.map_err(failed)?;
            }
            let volumes = self.volumes.clone();
            blocking(move || volumes.remember(volume)).await?
        };
        self.volume_event(&volume.name, "create", &[("driver", volume.driver.clone())]);
        Ok(volume)
    }

    async fn forget_volume(&self, volume: Arc<Volume>) -> Result<()> {
        let volumes = self.volumes.clone();
        blocking(move || volumes.forget(&volume)).await
    }

    pub(crate) fn volume_event(&self, name: &str, action: &str, more: &[(&str, String)]) {
        let attributes = more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        self.events.publish("volume", action, name, attributes);
    }

    /// The volume of that name: one of ours, or one that a plugin knows.
    async fn find_volume(&self, name: &str) -> Result<(Arc<Volume>, Option<plugin::Told>)> {
        let missing = || not_found(format!("get {name}: no such volume"));
        if let Some(volume) = self.volumes.known(name) {
            if volume.local() {
                return Ok((volume, None));
            }
            let failed = |e: Error| {
                e.map(|text| {
                    format!(
                        "get {name}: error while checking if volume \"{name}\" exists in driver \"{}\": {text}",
                        volume.driver
                    )
                })
            };
            let plugin = self.volumes.plugins.get(&volume.driver).await.map_err(failed)?;
            let told = plugin.get(name).await.map_err(failed)?.ok_or_else(missing)?;
            return Ok((volume, Some(told)));
        }
        match self.plugin_with(name).await {
            Some((driver, told)) => Ok((Arc::new(foreign(&driver, name)), Some(told))),
            None => Err(missing()),
        }
    }

    /// The plugin that knows a volume of that name, and what it says of it.
    async fn plugin_with(&self, name: &str) -> Option<(String, plugin::Told)> {
        for driver in self.volumes.plugins.names() {
            let Ok(plugin) = self.volumes.plugins.get(&driver).await else { continue };
            if let Ok(Some(told)) = plugin.get(name).await {
                return Some((driver, told));
            }
        }
        None
    }

    /// The drivers of volumes: ours and the plugins that have been used.
    pub(crate) fn volume_drivers(&self) -> Vec<String> {
        std::iter::once(LOCAL.to_owned()).chain(self.volumes.plugins.active()).collect()
    }

    /// One volume.
    pub async fn volume_inspect(&self, name: &str) -> Result<Value> {
        let (volume, told) = self.find_volume(name).await?;
        let mut value = self.volume_json(&volume, told.as_ref());
        if let Some(told) = told {
            let place = match told.mountpoint.as_str() {
                "" => self.volumes.plugins.get(&volume.driver).await?.path(name).await.unwrap_or_default(),
                path => path.into(),
            };
            value["Mountpoint"] = json!(place);
            if let Some(status) = told.status.filter(|s| s.as_object().is_some_and(|o| !o.is_empty())) {
                value["Status"] = status;
            }
        }
        Ok(value)
    }

    /// The volumes that the filters let pass.
    pub async fn volume_list(&self, filters: &Filters) -> Result<Value> {
        filters.only(&["dangling", "driver", "label", "name"])?;
        let dangling = filters.flag("dangling")?;
        let used = self.volumes_in_use();
        let mut all: BTreeMap<String, (Arc<Volume>, Option<plugin::Told>)> =
            self.volumes.list().into_iter().map(|v| (v.name.clone(), (v, None))).collect();
        let mut warnings = Vec::new();
        for driver in self.volumes.plugins.names() {
            if !filters.exact("driver", &driver) {
                continue;
            }
            let told = match self.volumes.plugins.get(&driver).await {
                Ok(plugin) => plugin.list().await,
                Err(Error::NotFound(_)) => continue, // a plugin of another kind
                Err(error) => Err(error),
            };
            match told {
                Ok(list) => {
                    for one in list {
                        let entry = all
                            .entry(one.name.clone())
                            .or_insert_with(|| (Arc::new(foreign(&driver, &one.name)), None));
                        entry.1 = Some(one);
                    }
                }
                Err(error) => warnings.push(format!("list {driver}: {error}")),
            }
        }
        let list: Vec<Value> = all
            .values()
            .filter(|(v, _)| {
                filters.matches("name", &v.name)
                    && filters.exact("driver", &v.driver)
                    && filters.labels(&v.labels)
                    && dangling.is_none_or(|d| d != used.contains_key(&v.name))
            })
            .map(|(v, told)| self.volume_json(v, told.as_ref()))
            .collect();
        let warnings = if warnings.is_empty() { Value::Null } else { json!(warnings) };
        Ok(json!({"Volumes": list, "Warnings": warnings}))
    }

    fn volume_json(&self, v: &Volume, told: Option<&plugin::Told>) -> Value {
        let created = told.and_then(|t| t.created_at.clone()).filter(|t| !t.starts_with("0001-"));
        let mountpoint = match (v.local(), told) {
            (true, _) => self.volumes.data(&v.name),
            (false, told) => told.map(|t| t.mountpoint.clone()).unwrap_or_default().into(),
        };
        let scope = if v.local() { LOCAL.to_owned() } else { self.volumes.plugins.scope(&v.driver) };
        json!({
            "CreatedAt": created.unwrap_or_else(|| base::clock::rfc3339(v.created)),
            "Driver": v.driver,
            "Labels": if v.labels.is_empty() { Value::Null } else { json!(v.labels) },
            "Mountpoint": mountpoint,
            "Name": v.name,
            "Options": if v.options.is_empty() { Value::Null } else { json!(v.options) },
            "Scope": scope,
        })
    }

    /// For each volume in use the containers that use it.
    pub(crate) fn volumes_in_use(&self) -> BTreeMap<String, Vec<String>> {
        let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for container in self.all() {
            for point in container.lock().asked.mounts.iter().filter(|p| p.kind == "volume") {
                let users = used.entry(point.name.clone()).or_default();
                if users.last() != Some(&container.id) {
                    users.push(container.id.clone());
                }
            }
        }
        used
    }

    /// The containers that use a volume.
    fn users_of(&self, name: &str) -> impl Iterator<Item = String> {
        self.volumes_in_use().remove(name).unwrap_or_default().into_iter()
    }

    /// Removes a volume; with `force` a missing one is no error, nor is a plugin that fails.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let _one = self.volumes.changes.lock(name).await;
        let volume = match self.find_volume(name).await {
            Ok((volume, _)) => volume,
            Err(Error::NotFound(_)) if force => {
                if let Some(left) = self.volumes.known(name) {
                    self.forget_volume(left).await?;
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let users: Vec<String> = self.users_of(name).collect();
        if !users.is_empty() {
            return Err(conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        if self.volumes.reserved.lock().contains_key(name) {
            return Err(conflict(format!(
                "remove {name}: volume is in use - a container is being created with it"
            )));
        }
        if volume.local() {
            // What is mounted there is not ours to delete.
            local::unmount(&self.volumes.data(name)).await?;
        } else if let Err(error) = self.volumes.plugins.get(&volume.driver).await?.remove(name).await {
            if !force {
                return Err(error.map(|text| format!("remove {name}: {text}")));
            }
            tracing::warn!(volume = %name, %error, "forgotten, though its plugin could not remove it");
        }
        self.forget_volume(volume.clone()).await?;
        self.volume_event(name, "destroy", &[("driver", volume.driver.clone())]);
        Ok(())
    }

    /// Removes unused local volumes without options: anonymous ones, or all with the filter `all=true`.
    pub async fn volume_prune(&self, filters: &Filters) -> Result<Value> {
        filters.only(&["all", "label", "label!"])?;
        let all = filters.flag("all")?.unwrap_or(false);
        if self.volumes.pruning.swap(true, Ordering::AcqRel) {
            return Err(conflict("a prune operation is already running"));
        }
        let result = self.prune_volumes(filters, all).await;
        self.volumes.pruning.store(false, Ordering::Release);
        let (deleted, freed) = result?;
        self.events.publish("volume", "prune", "", Map::from([("reclaimed".to_owned(), freed.to_string())]));
        Ok(json!({"VolumesDeleted": deleted, "SpaceReclaimed": freed}))
    }

    async fn prune_volumes(&self, filters: &Filters, all: bool) -> Result<(Vec<String>, u64)> {
        let used = self.volumes_in_use();
        let (mut deleted, mut freed) = (Vec::new(), 0);
        for volume in self.volumes.list() {
            let candidate =
                (all || volume.labels.contains_key(ANONYMOUS)) && volume.local() && volume.options.is_empty();
            let reserved = self.volumes.reserved.lock().contains_key(&volume.name);
            if !candidate || reserved || used.contains_key(&volume.name) || !filters.labels(&volume.labels) {
                continue;
            }
            let data = self.volumes.data(&volume.name);
            let bytes = blocking(move || Ok(tree_size(&data))).await?;
            match self.volume_remove(&volume.name, false).await {
                Ok(()) => {
                    freed += bytes;
                    deleted.push(volume.name.clone());
                }
                Err(error) => tracing::warn!(volume = %volume.name, %error, "it could not be removed"),
            }
        }
        Ok((deleted, freed))
    }

    /// Local volumes with their sizes and users, for `system df`; what is mounted from elsewhere takes no space here.
    pub(crate) async fn volume_usage(&self) -> Result<Vec<Value>> {
        let used = self.volumes_in_use();
        let mut out = Vec::new();
        for volume in self.volumes.list().into_iter().filter(|v| v.local() && v.options.is_empty()) {
            let data = self.volumes.data(&volume.name);
            let size = blocking(move || Ok(tree_size(&data))).await?;
            let mut value = self.volume_json(&volume, None);
            value["UsageData"] =
                json!({"Size": size, "RefCount": used.get(&volume.name).map_or(0, Vec::len)});
            out.push(value);
        }
        Ok(out)
    }

    /// Makes every volume of a container ready for it; their places are written into `points`. What it holds is given
    /// back by `release_volumes`.
    pub(crate) async fn hold_volumes(&self, container: &Container, points: &mut [MountPoint]) -> Result<()> {
        for point in points.iter_mut().filter(|p| p.kind == "volume") {
            point.source = self.hold_volume(container, &point.name).await?;
            self.volume_event(
                &point.name,
                "mount",
                &[
                    ("driver", point.driver.clone()),
                    ("container", container.id.clone()),
                    ("destination", point.destination.clone()),
                    ("read/write", point.rw.to_string()),
                    ("propagation", point.propagation.clone()),
                ],
            );
        }
        Ok(())
    }

    /// Makes a volume ready for a container, and says where it is.
    pub(crate) async fn hold_volume(&self, container: &Container, name: &str) -> Result<PathBuf> {
        let (volume, _) = self.find_volume(name).await?;
        let hold = || {
            let mut inner = container.lock();
            if !inner.life.volumes.iter().any(|v| v == name) {
                inner.life.volumes.push(name.to_owned());
            }
        };
        if !volume.local() {
            // Noted before it is done: what is let go of twice does no harm.
            hold();
            let plugin = self.volumes.plugins.get(&volume.driver).await?;
            return plugin.mount(name, &container.id).await.map_err(|e| {
                e.map(|text| format!("error while mounting volume '{name}': VolumeDriver.Mount: {text}"))
            });
        }
        let data = self.volumes.data(name);
        if let Some(spec) = local::spec(&volume.options) {
            // Held under the lock: nobody may find it unheld and unmount it in between.
            let _one = self.volumes.mounting.lock().await;
            hold();
            if !local::is_mounted(&data)? {
                local::mount(&spec, &data).await?;
            }
        } else {
            hold();
        }
        if let Some(bytes) = local::quota(&volume.options) {
            self.volumes.quotas.set(&data, &[], bytes).map_err(|e| {
                e.map(|text| format!("error while mounting volume '{}': {text}", data.display()))
            })?;
        }
        Ok(data)
    }

    /// Lets go of every volume that a container holds; what nobody holds any more is unmounted. It is an event if the
    /// container ran.
    pub(crate) async fn release_volumes(&self, container: &Container, ran: bool) {
        let held = std::mem::take(&mut container.lock().life.volumes);
        for name in held {
            let Some(volume) = self.volumes.known(&name) else { continue };
            if let Err(error) = self.release_volume(container, &volume).await {
                tracing::warn!(volume = %name, container = %container.short(), %error, "it could not be let go of");
            }
            if ran {
                let more = [("driver", volume.driver.clone()), ("container", container.id.clone())];
                self.volume_event(&name, "unmount", &more);
            }
        }
    }

    async fn release_volume(&self, container: &Container, volume: &Volume) -> Result<()> {
        if !volume.local() {
            return self
                .volumes
                .plugins
                .get(&volume.driver)
                .await?
                .unmount(&volume.name, &container.id)
                .await;
        }
        if local::spec(&volume.options).is_none() {
            return Ok(());
        }
        let _one = self.volumes.mounting.lock().await;
        let holds = |c: &Arc<Container>| c.lock().life.volumes.contains(&volume.name);
        if self.all().iter().any(holds) {
            return Ok(());
        }
        local::unmount(&self.volumes.data(&volume.name)).await
    }
}

/// A volume that a plugin knows and we have not made.
fn foreign(driver: &str, name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        created: Timestamp::UNIX_EPOCH,
        driver: driver.to_owned(),
        labels: Map::new(),
        options: Map::new(),
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

/// Reads what a request says of a volume.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_out(create: &crate::model::VolumeCreate) {
    local::try_out(&create.name, &create.driver_opts);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, driver: &str) -> Volume {
        Volume { driver: driver.into(), ..foreign("", name) }
    }

    #[test]
    fn make_find_forget() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("v");
        let volumes = Volumes::open(root.clone()).unwrap();
        let made = volumes.make_local(volume("data", LOCAL), None).unwrap();
        volumes.remember(volume("../odd name", "plug")).unwrap();
        std::fs::write(volumes.data("data").join("f"), "kept").unwrap();
        std::fs::create_dir_all(root.join("half/_data")).unwrap();
        std::fs::create_dir_all(root.join("odd/_data")).unwrap();
        std::fs::write(root.join("odd/opts.json"), "{").unwrap();
        let again = Volumes::open(root.clone()).unwrap();
        let names: Vec<_> = again.list().iter().map(|v| v.name.clone()).collect();
        assert_eq!(names, ["../odd name", "data"]);
        assert!(!root.join("half").exists(), "half-made volumes are removed at start");
        assert!(root.join("odd/_data").exists(), "what cannot be read is not");
        assert!(again.make_local(volume("odd", LOCAL), None).is_err(), "and its content is given to nobody");
        assert_eq!(tree_size(&again.data("data")), 4);
        again.forget(&made).unwrap();
        again.forget(&volume("../odd name", "plug")).unwrap();
        assert!(Volumes::open(root).unwrap().list().is_empty());
    }

    #[test]
    fn records_of_older_versions_are_read() {
        let text = r#"{"name":"n","created":"2026-01-01T00:00:00Z","labels":{},"options":{}}"#;
        assert!(serde_json::from_str::<Volume>(text).unwrap().local());
    }
}
