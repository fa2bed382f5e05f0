//! Images as a container user sees them: documents, filters, who uses which, events; and commit.

use std::sync::Arc;

use image::{Auth, Deleted, Image, Import, Layer, Loaded, NewImage, Platform, ProgressSender, User};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Engine;
use crate::container::Phase;
use crate::error::{Result, conflict, invalid};
use crate::filters::Filters;
use crate::model::{Config, Map};

mod list;

pub use list::{ImageLine, ImageListOptions};

/// How many results a search gives, unasked and at most.
const SEARCH_RESULTS: u32 = 25;
const SEARCH_LIMIT: u32 = 100;

/// What a commit makes.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// The tag to give.
    pub reference: Option<String>,
    /// A remark.
    pub comment: String,
    /// Who did it.
    pub author: String,
    /// Freeze the container meanwhile.
    pub pause: bool,
    /// How to run the image, the whole of it.
    pub config: image::Config,
}

/// A container's configuration in an image's form.
pub(crate) fn image_config(config: &Config) -> image::Config {
    let list = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let set = |set: &crate::model::Set| set.keys().map(|k| (k.clone(), image::Empty {})).collect();
    image::Config {
        user: config.user.clone(),
        exposed_ports: set(&config.exposed_ports),
        env: config.env.clone(),
        entrypoint: list(config.entrypoint.as_deref().map_or(&[], |e| e)),
        cmd: list(&config.cmd),
        healthcheck: config.healthcheck.as_ref().map(|h| image::Healthcheck {
            test: h.test.clone(),
            interval: h.interval,
            timeout: h.timeout,
            start_period: h.start_period,
            start_interval: h.start_interval,
            retries: h.retries,
        }),
        volumes: set(&config.volumes),
        working_dir: config.working_dir.clone(),
        on_build: config.on_build.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        stop_timeout: config.stop_timeout,
        shell: list(&config.shell),
        ..image::Config::default()
    }
}

/// A configuration that a client sends with a commit, filled up with the container's.
pub fn merge_config(mut own: Config, container: &image::Config) -> image::Config {
    crate::create::merge(&mut own, container);
    image_config(&own)
}

impl Engine {
    /// `id` is what the event is about: an image's id, or a reference where a registry is concerned.
    fn image_event(&self, id: &str, action: &str, name: &str) {
        let labels = self.images.get(id).map_or_else(|_| Map::new(), |i| i.run_config().labels.clone());
        self.image_event_with(id, action, name, labels);
    }

    fn image_event_with(&self, id: &str, action: &str, name: &str, labels: Map) {
        let mut attributes = labels;
        attributes.insert("name".into(), name.to_owned());
        self.events.publish("image", action, id, attributes);
    }

    /// As the original names what went to a registry or came from there: by the reference, and by the repository.
    fn transfer_event(&self, action: &str, reference: &image::Reference) {
        self.image_event(&reference.familiar(), action, &reference.familiar_name());
    }

    /// Tells that a build has made an image, and what it is called.
    pub fn image_built(&self, id: &str, names: &[String]) {
        self.image_event(id, "create", id);
        for name in names {
            self.image_event(id, "tag", name);
        }
    }

    /// Tells that the build cache was pruned.
    pub fn builder_pruned(&self, bytes: u64) {
        let reclaimed = Map::from([("reclaimed".to_owned(), bytes.to_string())]);
        self.events.publish("builder", "prune", "", reclaimed);
    }

    /// Everything about one image.
    ///
    /// With a `platform` what the name has for that; `manifests` tells what it has for each.
    pub fn image_inspect(
        &self,
        reference: &str,
        platform: Option<&Platform>,
        manifests: bool,
    ) -> Result<Value> {
        let image = match platform {
            Some(platform) => self.images.exactly(reference, platform)?,
            None => self.images.get(reference)?,
        };
        let c = &image.config;
        let run = image.run_config();
        let mut config = json!({
            "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
            "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": [], "Cmd": null,
            "Image": "", "Volumes": null, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": null,
        });
        if let (Value::Object(all), Ok(Value::Object(own))) = (&mut config, serde_json::to_value(run)) {
            all.extend(own);
        }
        let last = image.tagged_at.map_or("0001-01-01T00:00:00Z".to_owned(), base::clock::rfc3339_nano);
        let mut document = json!({
            "Id": image.id, "RepoTags": image.tags, "RepoDigests": image.repo_digests,
            "Parent": image.parent.as_deref().unwrap_or(""), "Comment": c.comment,
            "Created": c.created.map_or("0001-01-01T00:00:00Z".to_owned(), base::clock::rfc3339_nano),
            "Container": c.container, "DockerVersion": c.docker_version, "Author": c.author, "Config": config,
            "Architecture": c.architecture, "Variant": c.variant, "Os": c.os, "Size": image.size,
            "VirtualSize": image.size, "GraphDriver": {"Name": "overlay2", "Data": null},
            "RootFS": {"Type": "layers", "Layers": image.diff_ids()}, "Metadata": {"LastTagTime": last},
        });
        if manifests {
            document["Manifests"] = self.manifest_summaries(&image);
        }
        Ok(document)
    }

    /// The history, newest first; with a `platform` of what the name has for that.
    pub fn image_history(&self, reference: &str, platform: Option<&Platform>) -> Result<Value> {
        let image = match platform {
            Some(platform) => self
                .images
                .fitting(reference, platform)?
                .ok_or_else(|| image::Error::not_provided(reference, platform))?,
            None => self.images.get(reference)?,
        };
        let mut sizes = image.layer_sizes.iter();
        let mut lines: Vec<Value> = Vec::new();
        let entries: Vec<image::History> = if image.config.history.is_empty() {
            image.diff_ids().iter().map(|_| image::History::default()).collect()
        } else {
            image.config.history.clone()
        };
        for h in &entries {
            let size = if h.empty_layer { 0 } else { sizes.next().copied().unwrap_or(0) };
            lines.push(json!({
                "Id": "<missing>", "Created": h.created.map_or(0, |t| t.as_second()), "CreatedBy": h.created_by,
                "Tags": null, "Size": size, "Comment": h.comment,
            }));
        }
        // The image itself is its newest line; parents that are known here name theirs.
        let mut next = Some(image.clone());
        let mut at = lines.len();
        while let Some(this) = next {
            let Some(line) = at.checked_sub(1).and_then(|i| lines.get_mut(i)) else { break };
            line["Id"] = json!(this.id);
            if !this.tags.is_empty() {
                line["Tags"] = json!(this.tags);
            }
            let before = this.config.history.len();
            next = this.parent.as_deref().and_then(|p| self.images.get(p).ok());
            let step = next.as_ref().map_or(0, |n| before.saturating_sub(n.config.history.len()));
            if step == 0 {
                break;
            }
            at = at.saturating_sub(step);
        }
        lines.reverse();
        Ok(Value::Array(lines))
    }

    /// Puts a tag on an image.
    pub async fn image_tag(&self, image: &str, reference: &str) -> Result<()> {
        self.images.tag(image, reference).await?;
        let image = self.images.get(reference)?;
        self.image_event(&image.id, "tag", &image::reference::parse_tagged(reference)?.familiar());
        Ok(())
    }

    /// Who uses an image; somebody who runs is preferred.
    fn image_users(&self) -> impl Fn(&str) -> Option<User> + Send + Sync + use<> {
        let mut users: std::collections::HashMap<String, User> = std::collections::HashMap::new();
        let mut add = |image: String, user: User| {
            let entry = users.entry(image).or_insert_with(|| user.clone());
            if user.running && !entry.running {
                *entry = user;
            }
        };
        for container in self.all() {
            let inner = container.lock();
            add(
                inner.asked.image.clone(),
                User { container: container.id.clone(), running: inner.life.phase.alive() },
            );
        }
        for state in self.foreign.list() {
            let image = crate::foreign::summary(&state)["ImageID"].as_str().unwrap_or("").to_owned();
            add(image, User { container: state.id.clone(), running: state.pid.is_some() });
        }
        move |id: &str| users.get(id).cloned()
    }

    fn deleted(&self, list: &[Deleted]) -> Value {
        let line = |d: &Deleted| match d {
            Deleted::Untagged(name) => json!({"Untagged": name}),
            Deleted::Deleted(id) => json!({"Deleted": id}),
        };
        Value::Array(list.iter().map(line).collect())
    }

    /// Removes an image or one of its references; given platforms, what the name has for those.
    pub async fn image_remove(
        &self,
        reference: &str,
        platforms: &[Platform],
        force: bool,
        no_prune: bool,
    ) -> Result<Value> {
        let image = self.images.get(reference)?;
        let users = self.image_users();
        let deleted = match platforms {
            [] => self.images.remove(reference, force, !no_prune, &users).await?,
            some => self.images.remove_for(reference, some, force, !no_prune, &users).await?,
        };
        for one in &deleted {
            match one {
                Deleted::Untagged(_) => {
                    let labels = image.run_config().labels.clone();
                    self.image_event_with(&image.id, "untag", &image.id, labels);
                }
                Deleted::Deleted(gone) => self.image_event(gone, "delete", gone),
            }
        }
        Ok(self.deleted(&deleted))
    }

    /// Removes unused images: untagged ones, or all with `dangling=false`.
    pub async fn image_prune(&self, filters: &Filters) -> Result<Value> {
        filters.only(&["dangling", "label", "label!", "until"])?;
        let all = filters.flag("dangling")? == Some(false);
        let until = filters.get("until").first().map(|t| crate::filters::timestamp(t)).transpose()?;
        let filters = filters.clone();
        let wanted = move |image: &Image| {
            filters.labels(&image.run_config().labels)
                && until.is_none_or(|u| image.created().is_none_or(|c| c <= u))
        };
        let users = self.image_users();
        let freed = self.images.prune(all, &wanted, &users).await?;
        for (at, one) in freed.images.iter().enumerate() {
            match one {
                Deleted::Deleted(gone) => self.image_event(gone, "delete", gone),
                // What lost its names is the image that went then.
                Deleted::Untagged(name) => {
                    let gone = freed.images[at..].iter().find_map(|d| match d {
                        Deleted::Deleted(id) => Some(id),
                        Deleted::Untagged(_) => None,
                    });
                    let id = gone.unwrap_or(name);
                    self.image_event(id, "untag", id);
                }
            }
        }
        let reclaimed = Map::from([("reclaimed".to_owned(), freed.bytes.to_string())]);
        self.events.publish("image", "prune", "", reclaimed);
        Ok(json!({"ImagesDeleted": self.deleted(&freed.images), "SpaceReclaimed": freed.bytes}))
    }

    /// Loads an archive, or what it has for one platform.
    pub async fn image_load<R>(
        &self,
        tar: R,
        platform: Option<Platform>,
        progress: Option<ProgressSender>,
    ) -> Result<Vec<Loaded>>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let loaded = self.images.load_for(tar, platform, progress).await?;
        for one in &loaded {
            self.image_event(&one.image.id, "load", &one.image.id);
        }
        Ok(loaded)
    }

    /// Saves images into an archive, or what they have for one platform.
    pub async fn image_save<W>(&self, names: &[String], platform: Option<&Platform>, out: W) -> Result<()>
    where
        W: AsyncWrite + Send + Unpin + 'static,
    {
        self.images.save_for(names, platform, out).await?;
        for name in names {
            if let Ok(image) = self.images.get(name) {
                self.image_event(&image.id, "save", &image.id);
            }
        }
        Ok(())
    }

    /// Makes an image of a root file system's tar.
    pub async fn image_import<R>(&self, tar: R, import: Import) -> Result<Arc<Image>>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let name = import.reference.clone();
        let image = self.images.import(tar, import).await?;
        self.image_event(&image.id, "import", &image.id);
        if let Some(name) = name.and_then(|n| image::reference::parse_tagged(&n).ok()) {
            self.image_event(&image.id, "tag", &name.familiar());
        }
        Ok(image)
    }

    /// Pulls an image from its registry.
    pub async fn image_pull(
        &self,
        reference: &str,
        auth: Option<Auth>,
        platform: Option<Platform>,
        progress: ProgressSender,
    ) -> Result<Arc<Image>> {
        let image = self.images.pull(reference, auth, platform, progress).await?;
        self.transfer_event("pull", &image::reference::parse_tagged(reference)?);
        Ok(image)
    }

    /// Pulls every tag of a repository.
    pub async fn image_pull_all(
        &self,
        repository: &str,
        auth: Option<Auth>,
        platform: Option<Platform>,
        progress: ProgressSender,
    ) -> Result<()> {
        self.images.pull_all(repository, auth, platform, progress).await?;
        self.transfer_event("pull", &image::reference::parse(repository)?);
        Ok(())
    }

    /// Searches a registry for repositories.
    pub async fn image_search(
        &self,
        term: &str,
        limit: Option<u32>,
        filters: &Filters,
        auth: Option<Auth>,
    ) -> Result<Value> {
        filters.only(&["is-automated", "is-official", "stars"])?;
        let limit = limit.filter(|l| *l != 0).unwrap_or(SEARCH_RESULTS);
        if limit > SEARCH_LIMIT {
            return Err(invalid(format!("limit {limit} is outside the range of [1, {SEARCH_LIMIT}]")));
        }
        let (official, automated) = (filters.flag("is-official")?, filters.flag("is-automated")?);
        let stars = filters.get("stars").iter().try_fold(0i64, |most, text| {
            let n: i64 = text.parse().map_err(|_| invalid(format!("invalid filter 'stars={text}'")))?;
            Ok::<_, crate::Error>(most.max(n))
        })?;
        let found = self.images.search(term, limit, auth).await?.into_iter().filter(|f| {
            official.is_none_or(|o| o == f.is_official)
                && automated.is_none_or(|a| a == f.is_automated)
                && f.star_count >= stars
        });
        let lines = found.map(|f| {
            json!({
                "name": f.name, "description": f.description, "star_count": f.star_count,
                "is_official": f.is_official, "is_automated": f.is_automated,
            })
        });
        Ok(Value::Array(lines.collect()))
    }

    /// What a registry has under a name, without pulling it.
    pub async fn image_distribution(&self, reference: &str, auth: Option<Auth>) -> Result<Value> {
        let (d, platforms) = self.images.distribution(reference, auth).await?;
        Ok(json!({
            "Descriptor": {"mediaType": d.media_type, "digest": d.digest, "size": d.size},
            "Platforms": platforms,
        }))
    }

    /// Whether a registry takes these credentials.
    pub async fn registry_login(&self, address: &str, auth: &Auth) -> Result<()> {
        match image::registry::login_with(address, auth, &self.images.registry_config()).await {
            Err(image::Error::Denied(why)) => Err(crate::Error::Unauthorized(why)),
            other => Ok(other?),
        }
    }

    /// Pushes an image to its registry.
    pub async fn image_push(
        &self,
        reference: &str,
        auth: Option<Auth>,
        platform: Option<&Platform>,
        progress: ProgressSender,
    ) -> Result<()> {
        self.images.push_for(reference, auth, platform, progress).await?;
        self.transfer_event("push", &image::reference::parse(reference)?);
        Ok(())
    }

    /// A container's configuration, in the form that a commit starts from.
    pub fn commit_config(&self, reference: &str) -> Result<image::Config> {
        Ok(image_config(&self.find(reference)?.lock().asked.config))
    }

    /// Makes an image of a container; its id.
    pub async fn commit(self: &Arc<Self>, reference: &str, request: CommitRequest) -> Result<String> {
        let container = self.find(reference)?;
        if let Some(target) = &request.reference {
            let parsed = image::reference::parse(target)?;
            if parsed.digest.is_some() {
                return Err(invalid("invalid reference format: a tag cannot have a digest"));
            }
        }
        // Until its files have been read nobody stops, thaws or removes it.
        let op = container.op.lock().await;
        let phase = container.phase();
        if matches!(phase, Phase::Removing | Phase::Dead) {
            return Err(conflict(format!(
                "You cannot commit container {} which is being removed",
                container.id
            )));
        }
        // As Docker: a container that cannot be frozen (it may be ending right now) is committed all the same.
        let mut frozen = false;
        if request.pause && phase == Phase::Running {
            match self.runtime.pause(&container.id).await {
                Ok(()) => {
                    frozen = true;
                    self.container_event(&container, "pause", &[]);
                }
                Err(error) => {
                    tracing::debug!(container = %container.short(), %error, "committed without freezing")
                }
            }
        }
        let layer = self.images.commit_snapshot(&container.id).await;
        if frozen {
            match self.runtime.resume(&container.id).await {
                Ok(()) => self.container_event(&container, "unpause", &[]),
                // It has ended meanwhile.
                Err(e) if e.is_not_found() => {}
                Err(runtime::Error::InvalidState { state: "stopped", .. }) => {}
                Err(error) => {
                    tracing::warn!(container = %container.short(), %error, "it stays frozen after a commit");
                }
            }
        }
        drop(op);
        let layer: Layer = layer?;
        let (parent, command) = {
            let inner = container.lock();
            (inner.asked.image.clone(), inner.asked.args.join(" "))
        };
        let image = self
            .images
            .create(NewImage {
                parent: Some(parent),
                layer: Some(layer),
                config: request.config,
                history: image::History {
                    created: Some(base::clock::now()),
                    created_by: command,
                    author: request.author.clone(),
                    comment: request.comment.clone(),
                    empty_layer: false,
                },
                author: request.author,
                comment: request.comment.clone(),
                platform: None,
                keep_parent: true,
            })
            .await?;
        self.image_event(&image.id, "create", &image.id);
        let mut called = String::new();
        if let Some(target) = request.reference {
            self.image_tag(&image.id, &target).await?;
            called = image::reference::parse_tagged(&target)?.familiar();
        }
        let more = [("comment", request.comment), ("imageID", image.id.clone()), ("imageRef", called)];
        self.container_event(&container, "commit", &more);
        Ok(image.id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_go_both_ways() {
        let config = Config { cmd: vec!["sh".to_owned()].into(), user: "u".into(), ..Config::default() };
        let image = image_config(&config);
        let mut back = Config::default();
        crate::create::merge(&mut back, &image);
        assert_eq!((back.cmd, back.user.as_str()), (config.cmd, "u"));
    }
}
