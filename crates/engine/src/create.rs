//! Creating a container: everything is checked before anything is made, and what was made is undone if a later
//! step fails.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use image::{Image, Platform};
use indexmap::IndexMap;

use crate::container::{Asked, Container, Life};
use crate::error::{Error, Result, invalid, not_found, system};
use crate::model::{Config, CreateBody, EndpointSettings, HealthConfig, HostConfig, VolumeCreate, Words};
use crate::mounts::MountPoint;
use crate::volumes::{Reserved, blocking};
use crate::{Engine, mounts, names, networks, validate};

/// The answer to a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The new container's id.
    pub id: String,
    /// What could not be done as asked.
    pub warnings: Vec<String>,
}

/// Fills in what the image says and the request does not.
pub(crate) fn merge(config: &mut Config, image: &image::Config) {
    let text = |own: &mut String, other: &str| {
        if own.is_empty() {
            other.clone_into(own);
        }
    };
    text(&mut config.user, &image.user);
    text(&mut config.working_dir, &image.working_dir);
    for port in image.exposed_ports.keys() {
        config.exposed_ports.entry(port.clone()).or_default();
    }
    for path in image.volumes.keys() {
        config.volumes.entry(path.clone()).or_default();
    }
    for variable in &image.env {
        let name = variable.split('=').next();
        if !config.env.iter().any(|v| v.split('=').next() == name) {
            config.env.push(variable.clone());
        }
    }
    for (key, value) in &image.labels {
        config.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let no_entrypoint = config.entrypoint.as_ref().is_none_or(|e| e.is_empty());
    // A list of nothing is an entrypoint, too: none.
    let own = config.entrypoint.get_or_insert_with(|| Words(image.entrypoint.clone().unwrap_or_default()));
    if matches!(&own[..], [word] if word.is_empty()) {
        // `--entrypoint ""`: none, and no command of the image's either.
        own.0.clear();
    } else if no_entrypoint && config.cmd.is_empty() {
        config.cmd = Words(image.cmd.clone().unwrap_or_default());
    }
    if config.stop_signal.as_deref().unwrap_or("").is_empty() && !image.stop_signal.is_empty() {
        config.stop_signal = Some(image.stop_signal.clone());
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    if config.shell.is_empty() {
        config.shell = image.shell.clone().unwrap_or_default();
    }
    if let Some(theirs) = &image.healthcheck {
        let own = config.healthcheck.get_or_insert_with(HealthConfig::default);
        if own.test.is_empty() {
            own.test.clone_from(&theirs.test);
        }
        let number = |own: &mut i64, other: i64| {
            if *own == 0 {
                *own = other;
            }
        };
        number(&mut own.interval, theirs.interval);
        number(&mut own.timeout, theirs.timeout);
        number(&mut own.start_period, theirs.start_period);
        number(&mut own.start_interval, theirs.start_interval);
        number(&mut own.retries, theirs.retries);
    }
}

/// That another container does not exist is the request's fault. Were it said like that an image does not exist, clients
/// would pull the image.
fn named_by_request(error: Error) -> Error {
    match error {
        Error::NotFound(text) => invalid(text),
        other => other,
    }
}

impl Engine {
    /// Why an image is not taken that is here for another platform.
    fn of_other_platform(&self, name: &str, wanted: &Platform) -> Error {
        match self.images.get(name) {
            Ok(image) => not_found(format!(
                "image with reference {name} was found but its platform ({}) does not match the specified platform \
                 ({wanted})",
                image.config.platform()
            )),
            Err(e) => e.into(),
        }
    }

    /// Makes a container; it is not started.
    ///
    /// With a `platform` the image must be for that: what a client gets to know as missing, it pulls.
    pub async fn create(
        self: &Arc<Self>,
        name: Option<&str>,
        body: CreateBody,
        platform: Option<Platform>,
    ) -> Result<Created> {
        let CreateBody { mut config, mut host_config, runtime, networking_config, read_only_top } = body;
        if host_config.runtime.is_empty() {
            host_config.runtime = runtime;
        }
        let wanted_name = name.map(names::check).transpose()?;
        validate::together(&config, &host_config)?;
        if config.image.is_empty() {
            return Err(invalid("no image specified: Image must not be empty"));
        }
        let image = match &platform {
            None => self.images.get(&config.image)?,
            Some(platform) => self
                .images
                .fitting(&config.image, platform)?
                .map_or_else(|| Err(self.of_other_platform(&config.image, platform)), Ok)?,
        };
        merge(&mut config, image.run_config());
        validate::config(&config)?;
        self.settings().fill(&mut host_config)?;
        let mut warnings = validate::host(&mut host_config)?;
        self.share_namespaces(&mut host_config)?;
        let ids = self.ids.clone().filter(|_| host_config.userns_mode != "host");
        if ids.is_some() {
            crate::userns::check(&host_config)?;
        }
        warnings.extend(crate::runtimes::warning(&host_config.runtime));
        let mut args: Vec<String> = config.entrypoint.clone().unwrap_or_default().0;
        args.extend(config.cmd.iter().cloned());
        if args.first().is_none_or(String::is_empty) {
            return Err(invalid("no command specified"));
        }
        crate::ports::wanted(&config, &host_config)?;
        crate::spec::capabilities(&host_config)?;
        let endpoints = self.endpoints(&config, &mut host_config, networking_config.endpoints_config)?;
        let mut points = mounts::collect(&config, &host_config, |other| {
            Ok(self.find(other).map_err(named_by_request)?.lock().asked.mounts.clone())
        })?;
        for point in points.iter_mut().filter(|p| p.kind == "bind") {
            point.read_only_top |= read_only_top;
        }
        let id = base::rng::hex(32);
        if config.hostname.is_empty() && host_config.uts_mode != "host" {
            config.hostname = match host_config.network_mode.as_str() {
                "host" => crate::system::hostname(),
                mode if mode.starts_with("container:") => String::new(),
                _ => id[..12].to_owned(),
            };
        }
        let name = {
            let mut names = self.names.lock();
            match wanted_name {
                Some(name) => {
                    names.claim(name, &id)?;
                    name.to_owned()
                }
                None => names.generate(&id),
            }
        };
        let asked = Asked {
            name: name.clone(),
            created: base::clock::now(),
            config,
            host: host_config,
            image: image.id.clone(),
            args,
            mounts: points,
            endpoints,
            driver: "overlay2".into(),
            ids,
        };
        let dir = self.containers_dir().join(&id);
        let container = Container::new(id.clone(), dir, asked, Life::default());
        let reserved = self.volumes.reserve();
        match self.make(&container, &image, &reserved).await {
            Ok(()) => {
                self.insert(container.clone());
                drop(reserved);
                self.container_event(&container, "create", &[]);
                Ok(Created { id, warnings })
            }
            Err(error) => {
                let _ = std::fs::remove_dir_all(&container.dir);
                let _ = self.discard_layer(&id).await;
                self.forget(&container);
                drop(reserved);
                self.remove_anonymous(&container).await;
                Err(error)
            }
        }
    }

    /// Containers whose namespaces are to be joined are kept by their id, which a renaming does not change.
    fn share_namespaces(&self, host: &mut HostConfig) -> Result<()> {
        for mode in [&mut host.ipc_mode, &mut host.pid_mode] {
            if let Some(other) = mode.strip_prefix("container:") {
                *mode = format!("container:{}", self.find(other).map_err(named_by_request)?.id);
            }
        }
        Ok(())
    }

    /// How much a container's layer may take; refused where the file system cannot tell.
    fn layer_size(&self, host: &HostConfig) -> Result<Option<u64>> {
        let default = crate::quota::default_size(&self.settings().storage_opts).map_err(invalid)?;
        let size = crate::quota::layer_size(&host.storage_opt, default)?;
        let asked = size.is_some() || !host.storage_opt.is_empty();
        if asked && !(self.on_xfs() && self.layer_quotas.supported()?) {
            return Err(system(
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
            ));
        }
        Ok(size)
    }

    /// Removes a container's layer, and what it was allowed to take.
    pub(crate) async fn discard_layer(&self, id: &str) -> Result<()> {
        let layer = self.images.snapshot(id).ok().filter(|_| self.on_xfs());
        self.images.discard(id).await?;
        if let Some(layer) = layer {
            self.layer_quotas.forget(&layer.upper);
        }
        Ok(())
    }

    /// What takes place on disk: the folder, the writable layer, volumes; last the file that makes it a container.
    async fn make(&self, container: &Container, image: &Image, reserved: &Reserved) -> Result<()> {
        std::fs::create_dir(&container.dir).map_err(Error::io(container.dir.display()))?;
        let snapshot = self.images.prepare(&container.id, image).await?;
        let host = container.lock().asked.host.clone();
        if let Some(bytes) = self.layer_size(&host)? {
            let set = self.layer_quotas.set(&snapshot.upper, &[&snapshot.work], bytes);
            set.map_err(|e| e.map(|text| format!("limiting the container's layer: {text}")))?;
        }
        let points = container.lock().asked.mounts.clone();
        for (n, mut point) in points.into_iter().enumerate() {
            let made = self.make_mount(container, &mut point, reserved).await;
            // Also of one that failed: the volume that was made for it is to be found.
            container.lock().asked.mounts[n] = point;
            made?;
        }
        container.save_asked()
    }

    async fn make_mount(
        &self,
        container: &Container,
        point: &mut MountPoint,
        reserved: &Reserved,
    ) -> Result<()> {
        match point.kind.as_str() {
            "volume" => {
                let request = VolumeCreate {
                    name: point.name.clone(),
                    driver: point.driver.clone(),
                    driver_opts: point.options.clone(),
                    labels: point.labels.clone(),
                };
                let volume = self.make_volume(request, Some(reserved)).await?;
                point.name.clone_from(&volume.name);
                point.driver.clone_from(&volume.driver);
                if volume.driver == "local" && point.mode.is_empty() {
                    point.mode = "z".into();
                }
                let place = self.hold_volume(container, &volume.name).await;
                let copied = match place {
                    Ok(place) => {
                        point.source = place;
                        if point.copy { self.copy_up(container, point).await } else { Ok(()) }
                    }
                    Err(error) => Err(error),
                };
                self.release_volumes(container, false).await;
                copied
            }
            "bind" if !point.make_source && !point.source.exists() => Err(invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                point.source.display()
            ))),
            "image" => {
                self.images.get(&point.name)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// An empty volume gets what the image has at that place.
    async fn copy_up(&self, container: &Container, point: &MountPoint) -> Result<()> {
        let empty = std::fs::read_dir(&point.source).is_ok_and(|mut d| d.next().is_none());
        if !empty {
            return Ok(());
        }
        let snapshot = self.images.snapshot(&container.id)?;
        // Most often the image has nothing there, which is seen without a mount.
        let relative = point.destination.trim_start_matches('/').to_owned();
        let plain = |dir: &Path| {
            !dir.join(&relative).symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
        };
        let first = relative.split('/').next().unwrap_or("").to_owned();
        let link = |dir: &Path| dir.join(&first).is_symlink();
        if !snapshot.lower.iter().any(|l| plain(l) || link(l)) {
            return Ok(());
        }
        let (source, destination) = (point.source.clone(), point.destination.clone());
        let ids = container.lock().asked.ids.clone();
        blocking(move || {
            let what = format!("copying {destination} of the image into the volume");
            let root = snapshot.mount(false).map_err(Error::io(&what))?;
            let Ok(stat) = image::archive::root::stat(root.as_fd(), Path::new(&destination), true) else {
                return Ok(());
            };
            if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
                return Ok(());
            }
            let target = std::fs::File::open(&source).map_err(Error::io(source.display()))?;
            let (reader, mut writer) = std::io::pipe().map_err(Error::io(&what))?;
            std::thread::scope(|scope| {
                let pack = scope.spawn(|| {
                    let options = image::archive::TarOptions {
                        name: Some(String::new()),
                        follow: true,
                        ..Default::default()
                    };
                    let result =
                        image::archive::tar_of(root.as_fd(), Path::new(&destination), &options, &mut writer);
                    drop(writer);
                    result
                });
                let owner = match &ids {
                    None => Some((stat.st_uid, stat.st_gid)),
                    Some(ids) => ids.outside(stat.st_uid, stat.st_gid),
                };
                let options = image::archive::ExtractOptions { ids, ..Default::default() };
                image::archive::extract_into(target.as_fd(), Path::new("/"), reader, &options)?;
                pack.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                let (uid, gid) = owner
                    .ok_or_else(|| invalid(format!("{what}: its owner is beyond the container's ids")))?;
                rustix::fs::fchown(
                    &target,
                    Some(rustix::fs::Uid::from_raw(uid)),
                    Some(rustix::fs::Gid::from_raw(gid)),
                )
                .and_then(|()| rustix::fs::fchmod(&target, rustix::fs::Mode::from_raw_mode(stat.st_mode)))
                .map_err(|e| Error::io(&what)(e.into()))
            })
        })
        .await
    }

    /// The networks of a new container, the one of its network mode first.
    fn endpoints(
        &self,
        config: &Config,
        host: &mut HostConfig,
        asked: IndexMap<String, EndpointSettings>,
    ) -> Result<IndexMap<String, EndpointSettings>> {
        let mut out = IndexMap::new();
        if let Some(other) = host.network_mode.strip_prefix("container:") {
            // One that does not exist is told when it is to be joined.
            if let Ok(other) = self.find(other) {
                host.network_mode = format!("container:{}", other.id);
            }
            return Ok(out);
        }
        if host.network_mode == "host" && !host.links.is_empty() {
            return Err(invalid(
                "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
            ));
        }
        // A network may be made after the container that is to be on it.
        let found = |reference: &str| match self.networks.get(reference) {
            Err(Error::NotFound(_)) if !reference.is_empty() => Ok(None),
            other => other.map(Some),
        };
        let mut primary = host.network_mode.clone();
        if let Some(net) = found(&host.network_mode)? {
            // The client may have named it by id; it is kept by its name.
            primary.clone_from(&net.record.name);
            if !networks::user_defined(&primary) || host.network_mode != net.record.id {
                host.network_mode.clone_from(&primary);
            }
        }
        out.insert(primary.clone(), EndpointSettings::default());
        for (name, settings) in asked {
            let name = if name == "default" { primary.clone() } else { name };
            let net = found(&name)?;
            let name = net.as_ref().map_or(name, |n| n.record.name.clone());
            networks::check_endpoint(&name, net.as_deref(), &settings)?;
            out.insert(name, settings);
        }
        let exclusive = out.keys().find(|n| matches!(n.as_str(), "host" | "none")).cloned();
        if let Some(exclusive) = exclusive.filter(|_| out.len() > 1) {
            return Err(invalid(format!(
                "conflicting options: {exclusive} networking cannot be combined with other networks"
            )));
        }
        if config.network_disabled == Some(true) {
            out.clear();
        }
        if let (Some(mac), Some(first)) =
            (config.mac_address.as_ref().filter(|m| !m.is_empty()), out.values_mut().next())
        {
            if networks::mac(mac).is_none() {
                return Err(invalid(format!("invalid MAC address: {mac}")));
            }
            if first.mac_address.is_empty() {
                first.mac_address.clone_from(mac);
            }
        }
        for link in &host.links {
            let (target, _) = parse_link(link)?;
            self.find(target)
                .map_err(named_by_request)
                .map_err(|e| e.map(|text| format!("could not get container for {target}: {text}")))?;
        }
        Ok(out)
    }
}

/// `name:alias` or `name`.
pub(crate) fn parse_link(text: &str) -> Result<(&str, &str)> {
    match text.split(':').collect::<Vec<_>>()[..] {
        [name] if !name.is_empty() => Ok((name, name.trim_start_matches('/'))),
        [name, alias] if !name.is_empty() && !alias.is_empty() => {
            Ok((name, alias.rsplit('/').next().unwrap_or(alias)))
        }
        _ => Err(invalid(format!("bad format for links: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Words {
        Words(list.iter().map(|s| (*s).to_owned()).collect())
    }

    #[test]
    fn commands_merge_as_docker_does() {
        let image = image::Config {
            entrypoint: Some(vec!["/entry".into()]),
            cmd: Some(vec!["a".into()]),
            env: vec!["PATH=/p".into(), "X=1".into()],
            ..image::Config::default()
        };
        let all = |entrypoint: Option<Words>, cmd: &[&str]| {
            let mut config = Config { entrypoint, cmd: words(cmd), ..Config::default() };
            merge(&mut config, &image);
            [config.entrypoint.unwrap_or_default().0, config.cmd.0].concat()
        };
        let merged =
            |entrypoint: &[&str], cmd: &[&str]| all((!entrypoint.is_empty()).then(|| words(entrypoint)), cmd);
        assert_eq!(all(Some(Words::default()), &["b"]), ["b"]);
        assert_eq!(all(Some(Words::default()), &[]), ["a"]);
        assert_eq!(merged(&[], &[]), ["/entry", "a"]);
        assert_eq!(merged(&[], &["b"]), ["/entry", "b"]);
        assert_eq!(
            merged(&["/other"], &[]),
            ["/other"],
            "the image's command belongs to the image's entry point"
        );
        assert_eq!(merged(&[""], &["b"]), ["b"]);
        let mut config = Config { env: vec!["X=2".into()], ..Config::default() };
        merge(&mut config, &image);
        assert_eq!(config.env, ["X=2", "PATH=/p"]);
    }

    #[test]
    fn links() {
        assert_eq!(parse_link("web:w").unwrap(), ("web", "w"));
        assert_eq!(parse_link("/web:/me/w").unwrap(), ("/web", "w"));
        assert_eq!(parse_link("web").unwrap(), ("web", "web"));
        assert!(parse_link(":").is_err());
    }
}
