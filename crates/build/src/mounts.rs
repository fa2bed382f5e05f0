//! `RUN --mount`: what is asked for, what it is made of, and what has to be there while the step runs.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use image::{Auth, ImageStore, Layer};
use oci_spec::runtime::{Mount, MountBuilder};
use rustix::fs::{AtFlags, FileType, OFlags};
use tokio_util::task::AbortOnDropHandle;

use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::parse::Line;
use crate::stage::Stage;
use crate::steps::{Origin, Place};
use crate::{blocking, cache, copy};

/// Where here-documents that are programs of their own lie.
pub(crate) const SCRIPTS: &str = "/dev/pipes";

/// Who holds what a build may use but not keep: the client, over its session.
#[async_trait]
pub(crate) trait Holder: Send + Sync {
    /// A secret's bytes; `None` if there is none of that id.
    async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>>;

    /// Passes connections to a socket on to the client's SSH agent, as long as the returned value lives; `None` if
    /// the client offers none of that id.
    async fn agent(&self, id: &str, socket: &Path) -> Result<Option<AbortOnDropHandle<()>>>;

    /// The user's credentials for a registry.
    async fn credentials(&self, registry: &str) -> Result<Option<Auth>>;

    /// Whether the user allowed something out of the ordinary.
    fn allows(&self, entitlement: &str) -> bool;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    Shared,
    Private,
    Locked,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// A `--mount` as written, variables resolved.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    kind: Kind,
    pub target: String,
    pub from: Option<String>,
    pub source: String,
    pub id: String,
    rw: bool,
    pub sharing: Sharing,
    required: bool,
    pub mode: Option<u32>,
    pub uid: u32,
    pub gid: u32,
    size: Option<u64>,
    env: Option<String>,
}

/// What a mount's text says for a field, before variables are looked at.
pub(crate) fn said<'t>(text: &'t str, field: &str) -> Option<&'t str> {
    let mut fields = text.rsplit(',').filter_map(|f| f.split_once('='));
    fields.find(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, value)| value)
}

/// Whether a mount may bring files of the main context.
pub(crate) fn of_context(text: &str) -> bool {
    let kind = said(text, "type").unwrap_or("bind");
    text.contains('$') || said(text, "from").is_none() && kind.eq_ignore_ascii_case("bind")
}

/// Reads the mounts of a `RUN` in the working directory `workdir`.
pub(crate) fn parse(
    line: &Line,
    workdir: &str,
    expand: impl Fn(&str) -> Result<String>,
) -> Result<Vec<Wanted>> {
    let texts = line.flags.iter().filter(|(n, _)| n == "mount");
    let mut all = Vec::new();
    let mut agents = 0;
    for (_, text) in texts {
        let text = expand(text.as_deref().unwrap_or_default())?;
        let wrong = |why: String| Error::Step(why);
        let mut m = Wanted {
            kind: Kind::Bind,
            target: String::new(),
            from: None,
            source: String::new(),
            id: String::new(),
            rw: false,
            sharing: Sharing::Shared,
            required: false,
            mode: None,
            uid: 0,
            gid: 0,
            size: None,
            env: None,
        };
        let mut readonly = None;
        for field in text.split(',').filter(|f| !f.is_empty()) {
            let (name, value) = field.split_once('=').map_or((field, None), |(n, v)| (n, Some(v)));
            let name = name.to_ascii_lowercase();
            let truth = || match value {
                None | Some("true" | "1") => Ok(true),
                Some("false" | "0") => Ok(false),
                Some(v) => Err(wrong(format!("invalid value for {name}: {v}"))),
            };
            let given =
                || value.ok_or_else(|| wrong(format!("invalid field '{field}' must be a key=value pair")));
            let number = |radix| {
                let v = given()?;
                u32::from_str_radix(v, radix).map_err(|_| wrong(format!("invalid value {v} for {name}")))
            };
            match name.as_str() {
                "type" => {
                    m.kind = match given()?.to_ascii_lowercase().as_str() {
                        "bind" => Kind::Bind,
                        "cache" => Kind::Cache,
                        "tmpfs" => Kind::Tmpfs,
                        "secret" => Kind::Secret,
                        "ssh" => Kind::Ssh,
                        other => return Err(wrong(format!("unsupported mount type {other:?}"))),
                    }
                }
                "from" => m.from = Some(given()?.to_string()),
                "source" | "src" => m.source = given()?.to_string(),
                "target" | "dst" | "destination" => m.target = given()?.to_string(),
                "id" => m.id = given()?.to_string(),
                "readonly" | "ro" => readonly = Some(truth()?),
                "readwrite" | "rw" => readonly = Some(!truth()?),
                "required" => m.required = truth()?,
                "sharing" => {
                    m.sharing = match given()?.to_ascii_lowercase().as_str() {
                        "shared" => Sharing::Shared,
                        "private" => Sharing::Private,
                        "locked" => Sharing::Locked,
                        other => return Err(wrong(format!("unsupported sharing value {other:?}"))),
                    }
                }
                "mode" => m.mode = Some(number(8)?),
                "uid" => m.uid = number(10)?,
                "gid" => m.gid = number(10)?,
                "size" => {
                    m.size = Some(size(given()?).ok_or_else(|| wrong(format!("invalid size in {field}")))?)
                }
                "env" => m.env = Some(given()?.to_string()),
                other => return Err(wrong(format!("unexpected key '{other}' in '{field}'"))),
            }
        }
        m.rw = match m.kind {
            Kind::Cache | Kind::Tmpfs => readonly != Some(true),
            _ => readonly == Some(false),
        };
        match m.kind {
            Kind::Secret => {
                if m.id.is_empty() {
                    m.id = match (m.source.as_str(), m.target.rsplit('/').next().unwrap_or_default()) {
                        ("", "") => return Err(wrong("missing id or target in secret mount".into())),
                        ("", name) => name.to_string(),
                        (source, _) => source.to_string(),
                    };
                }
                if m.target.is_empty() && m.env.is_none() {
                    let name = m.id.rsplit('/').next().unwrap_or_default();
                    m.target = format!("/run/secrets/{name}");
                }
            }
            Kind::Ssh => {
                if m.id.is_empty() {
                    m.id = "default".into();
                }
                if m.target.is_empty() {
                    m.target = format!("/run/buildkit/ssh_agent.{agents}");
                }
                agents += 1;
            }
            _ if m.target.is_empty() => return Err(wrong("mount target is required".into())),
            _ => {}
        }
        if m.kind == Kind::Cache && m.id.is_empty() {
            // By the target as written: steps in several folders share it.
            m.id = crate::instruction::absolute("/", &m.target);
        }
        if !m.target.is_empty() {
            m.target = crate::instruction::absolute(workdir, &m.target);
            if m.target == "/" {
                return Err(wrong(format!("invalid mount target {:?}", m.target)));
            }
        }
        all.push(m);
    }
    Ok(all)
}

/// `64m`, `1g`, bytes.
fn size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let factor: u64 = match lower[digits..].trim_end_matches('b').trim_end_matches('i') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    lower[..digits].parse::<u64>().ok()?.checked_mul(factor)
}

/// A here-document that is a program of its own.
pub(crate) struct Script {
    /// Its file's name below [`SCRIPTS`].
    pub name: String,
    pub content: String,
}

/// The mounts of one step, with what their files come from.
pub(crate) struct Mounts {
    all: Vec<(Wanted, Option<Place>)>,
    script: Option<Script>,
}

/// The same with the files at hand.
pub(crate) struct Settled {
    all: Vec<(Wanted, Option<Origin>)>,
    script: Option<Script>,
    images: Arc<ImageStore>,
}

/// What is there while a step runs.
pub(crate) struct Prepared {
    pub mounts: Vec<Mount>,
    pub env: Vec<String>,
    /// Mount points that the step's own files did not have.
    stubs: Vec<PathBuf>,
    _held: Vec<Box<dyn std::any::Any + Send + Sync>>,
}

impl Mounts {
    /// Finds out what the files come from, and adds a here-document as a program.
    pub async fn plan(stage: &Stage<'_>, wanted: Vec<Wanted>, script: Option<Script>) -> Result<Self> {
        let mut all = Vec::new();
        for m in wanted {
            let place = match (&m.kind, &m.from) {
                (Kind::Bind, None) => Some(Place::Here(Origin::Tree(stage.job.contexts.main().await?))),
                (Kind::Bind | Kind::Cache, Some(name)) => Some(stage.place(name).await?),
                _ => None,
            };
            all.push((m, place));
        }
        Ok(Self { all, script })
    }

    /// Whether files of other stages are mounted.
    pub fn take_of_stages(&self) -> bool {
        self.all.iter().any(|(_, place)| matches!(place, Some(Place::Stage(_))))
    }

    /// What a step's result depends on, with other stages by what they are made of; `None` where that cannot be said.
    pub async fn definition(&self, stage: &Stage<'_>) -> Result<Option<String>> {
        let mut parts = vec!["by definition".to_string()];
        for (m, place) in &self.all {
            let content = match place {
                None => String::new(),
                Some(Place::Here(origin)) => m.content(origin).await?,
                Some(Place::Stage(n)) => match stage.job.defined(*n).await {
                    Some(defined) => defined.files.clone(),
                    None => return Ok(None),
                },
            };
            parts.push(m.part(&content));
        }
        Ok(Some(cache::key(&[parts.join("\n").as_bytes()])))
    }

    /// Has the other stages' files made.
    pub async fn settle(self, stage: &Stage<'_>) -> Result<Settled> {
        let mut all = Vec::new();
        for (m, place) in self.all {
            let origin = match place {
                Some(place) => Some(stage.files(&place).await?),
                None => None,
            };
            all.push((m, origin));
        }
        Ok(Settled { all, script: self.script, images: stage.job.builder.images.clone() })
    }
}

impl Wanted {
    /// A digest of the files that are mounted.
    async fn content(&self, origin: &Origin) -> Result<String> {
        let tree = match origin {
            Origin::Layers(layers) => {
                return Ok(layers.iter().map(|l| l.diff_id.as_str()).collect::<Vec<_>>().join(","));
            }
            Origin::Tree(tree) => tree.clone(),
        };
        let source = if self.source.is_empty() { ".".to_string() } else { self.source.clone() };
        blocking(move || {
            let root = tree.open()?;
            let from = copy::From { root: &root, tree: Some(&tree), exclude: None, parents: false };
            let found = from.find(&source).map_err(Error::Step)?;
            from.digest(&found).map_err(Error::Step)
        })
        .await
    }

    /// What counts of a mount with that content. What a secret or an agent says counts for nothing, only that it is there.
    fn part(&self, content: &str) -> String {
        let m = self;
        format!("{:?} {} {} {:?} {} {:?} {content}", m.kind, m.id, m.target, m.source, m.rw, m.env)
    }
}

impl Settled {
    /// What of the mounts a step's result depends on.
    pub async fn key(&self) -> Result<String> {
        let mut parts: Vec<String> = Vec::new();
        for (m, origin) in &self.all {
            let content = match origin {
                None => String::new(),
                Some(origin) => m.content(origin).await?,
            };
            parts.push(m.part(&content));
        }
        Ok(if parts.is_empty() { String::new() } else { cache::key(&[parts.join("\n").as_bytes()]) })
    }

    /// Makes everything ready for a step in the snapshot of that key.
    pub async fn prepare(
        self,
        builder: &Arc<Builder>,
        holder: Option<&Arc<dyn Holder>>,
        key: &str,
    ) -> Result<Prepared> {
        let mut p = Prepared { mounts: Vec::new(), env: Vec::new(), stubs: Vec::new(), _held: Vec::new() };
        if self.all.is_empty() && self.script.is_none() {
            return Ok(p);
        }
        let dir = tempfile::Builder::new().prefix(crate::context::BEGIN).tempdir_in(&builder.scratch)?;
        let mut targets: Vec<String> = self.all.iter().map(|(m, _)| m.target.clone()).collect();
        targets.push(SCRIPTS.to_string());
        let snapshot = builder.images.snapshot(key)?;
        p.stubs = blocking(move || {
            let root = snapshot.mount(false)?;
            let mut missing = Vec::new();
            for target in targets.iter().filter(|t| !t.is_empty()) {
                // The folders under /dev, /proc and /sys are no part of the files.
                if ["/dev", "/proc", "/sys"].iter().any(|d| Path::new(target).starts_with(d)) {
                    continue;
                }
                for path in Path::new(target).ancestors() {
                    if image::archive::root::stat(root.as_fd(), path, true).is_err() {
                        missing.push(path.to_path_buf());
                    }
                }
            }
            Ok(missing)
        })
        .await?;
        for (n, (m, origin)) in self.all.into_iter().enumerate() {
            let own = dir.path().join(n.to_string());
            let mode = if m.rw { "rw" } else { "ro" };
            match (&m.kind, origin) {
                (Kind::Bind, Some(origin)) => {
                    let images = self.images.clone();
                    let (source, rw) = (m.source.clone(), m.rw);
                    let target = m.target.clone();
                    let (mount, held) = blocking(move || {
                        bind(&images, &origin, &source, &target, rw.then_some(&own)).map(|m| (m, origin))
                    })
                    .await?;
                    p.mounts.push(mount);
                    p._held.push(Box::new(held));
                }
                (Kind::Cache, origin) => {
                    let (path, held) = builder.caches.take(&m, origin.as_ref(), &self.images).await?;
                    p.mounts.push(mount(&m.target, "bind", &path, &["rbind", "rprivate", mode])?);
                    p._held.push(Box::new(held));
                }
                (Kind::Tmpfs, _) => {
                    let size = m.size.map(|s| format!("size={s}"));
                    let mut options = vec!["nosuid", "nodev", mode];
                    options.extend(size.as_deref());
                    p.mounts.push(mount(&m.target, "tmpfs", Path::new("tmpfs"), &options)?);
                }
                (Kind::Secret, _) => {
                    let secret = match holder {
                        Some(holder) => holder.secret(&m.id).await?,
                        None => None,
                    };
                    match secret {
                        Some(bytes) => {
                            if let Some(name) = &m.env {
                                let text = String::from_utf8(bytes.clone()).map_err(|_| {
                                    Error::Step(format!(
                                        "secret {}: not UTF-8, so it cannot be in the environment",
                                        m.id
                                    ))
                                })?;
                                p.env.push(format!("{name}={text}"));
                            }
                            if !m.target.is_empty() {
                                let shm = Memory::new(
                                    &builder.scratch,
                                    &bytes,
                                    m.mode.unwrap_or(0o400),
                                    (m.uid, m.gid),
                                )?;
                                p.mounts.push(mount(
                                    &m.target,
                                    "bind",
                                    &shm.path,
                                    &["rbind", "rprivate", "ro"],
                                )?);
                                p._held.push(Box::new(shm));
                            }
                        }
                        None if m.required => {
                            return Err(Error::Step(format!("secret {}: not found", m.id)));
                        }
                        None => {}
                    }
                }
                (Kind::Ssh, _) => {
                    let agent = match holder {
                        Some(holder) => holder.agent(&m.id, &own).await?,
                        None => None,
                    };
                    match agent {
                        Some(agent) => {
                            std::fs::set_permissions(
                                &own,
                                std::fs::Permissions::from_mode(m.mode.unwrap_or(0o600)),
                            )?;
                            std::os::unix::fs::chown(&own, Some(m.uid), Some(m.gid))?;
                            p.mounts.push(mount(&m.target, "bind", &own, &["rbind", "rprivate", "rw"])?);
                            if !p.env.iter().any(|e| e.starts_with("SSH_AUTH_SOCK=")) {
                                p.env.push(format!("SSH_AUTH_SOCK={}", m.target));
                            }
                            p._held.push(Box::new(agent));
                        }
                        None if m.required => {
                            return Err(Error::Step(format!("unset ssh forward key {}", m.id)));
                        }
                        None => {}
                    }
                }
                (Kind::Bind, None) => return Err(Error::Step("mount without a source".into())),
            }
        }
        if let Some(Script { name, content }) = self.script {
            let scripts = dir.path().join("scripts");
            std::fs::create_dir(&scripts)?;
            let file = scripts.join(name);
            std::fs::write(&file, content)?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))?;
            p.mounts.push(mount(SCRIPTS, "bind", &scripts, &["rbind", "rprivate", "ro"])?);
        }
        p._held.push(Box::new(dir));
        Ok(p)
    }
}

impl Prepared {
    /// Takes away what the mounts left in the step's files: the points that they were mounted on.
    pub async fn finish(self, builder: &Arc<Builder>, key: &str) -> Result<()> {
        if self.stubs.is_empty() {
            return Ok(());
        }
        let snapshot = builder.images.snapshot(key)?;
        blocking(move || Ok(remove_stubs(&snapshot.upper, self.stubs)?)).await
    }
}

/// Removes those of the mount points that are still empty. The step may have put links where folders were, so none is
/// followed: what lies behind one is no mount point.
fn remove_stubs(upper: &Path, mut stubs: Vec<PathBuf>) -> std::io::Result<()> {
    let upper = std::fs::File::open(upper)?;
    // Deepest first: a folder is empty once what was in it is gone.
    stubs.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    stubs.dedup();
    for stub in &stubs {
        let (Some(parent), Some(name)) = (stub.parent(), stub.file_name()) else { continue };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let Ok(parent) = sys::rooted::open_plain(upper.as_fd(), parent, flags) else { continue };
        let Ok(stat) = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        // A folder with something in it stays: the step made that.
        let _ = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR),
            FileType::RegularFile if stat.st_size == 0 => {
                rustix::fs::unlinkat(&parent, name, AtFlags::empty())
            }
            _ => Ok(()),
        };
    }
    Ok(())
}

/// A secret in memory: a file that no path but this process's own leads to, and that no disk ever sees.
struct Memory {
    path: PathBuf,
    _file: OwnedFd,
}

/// A file system in memory.
const MEMORY: &str = "/dev/shm";

/// How the secrets' files of the builder in `scratch` begin.
fn prefix(scratch: &Path) -> String {
    format!("tug-secret-{}-", &cache::key(&[scratch.as_os_str().as_encoded_bytes()])[..16])
}

/// Removes secrets that a builder before, which was killed, has left in memory. Blocking.
pub(crate) fn forget_secrets(scratch: &Path) -> Result<()> {
    let ours = prefix(scratch);
    let entries = match std::fs::read_dir(MEMORY) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(ours.as_bytes()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl Memory {
    fn new(scratch: &Path, bytes: &[u8], mode: u32, (uid, gid): (u32, u32)) -> Result<Self> {
        use std::io::Write;
        let path = Path::new(MEMORY).join(format!("{}{}", prefix(scratch), base::rng::hex(16)));
        let mut file = std::os::unix::fs::OpenOptionsExt::mode(
            std::fs::OpenOptions::new().write(true).create_new(true),
            0o600,
        )
        .open(&path)?;
        let held = Self { path, _file: file.try_clone()?.into() };
        file.write_all(bytes)?;
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        Ok(held)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, "a secret's file stays in memory until the next start of the machine");
        }
    }
}

fn mount(target: &str, kind: &str, source: &Path, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
        .build()
        .map_err(|e| Error::Runner(e.to_string()))
}

/// A mount of files at `source` of an origin. With `scratch` it can be written, and what is written is thrown away.
fn bind(
    images: &Arc<ImageStore>,
    origin: &Origin,
    source: &str,
    target: &str,
    scratch: Option<&PathBuf>,
) -> Result<Mount> {
    let wanted = image::archive::root::clean(&Path::new("/").join(source));
    let missing = |e: std::io::Error| Error::Step(format!("{source:?} of the mount at {target}: {e}"));
    let (lower, is_dir) = match origin {
        Origin::Tree(tree) => {
            let root = tree.open()?;
            let fd = image::archive::root::open(root.as_fd(), &wanted, OFlags::PATH).map_err(missing)?;
            let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
            let is_dir = std::fs::metadata(&path)?.is_dir();
            (vec![path], is_dir)
        }
        Origin::Layers(layers) => merged(images, layers, &wanted).map_err(missing)?,
    };
    match (lower.as_slice(), scratch) {
        ([only], None) => mount(target, "bind", only, &["rbind", "rprivate", "ro"]),
        ([only], Some(dir)) if !is_dir => {
            std::fs::create_dir_all(dir)?;
            let copy = dir.join("file");
            std::fs::copy(only, &copy)?;
            let owner = std::fs::metadata(only)?;
            std::os::unix::fs::chown(&copy, Some(owner.uid()), Some(owner.gid()))?;
            mount(target, "bind", &copy, &["rbind", "rprivate", "rw"])
        }
        (several, scratch) => {
            let lower = runtime::shim::lowerdir(several).ok_or_else(|| {
                Error::Step(format!("{source:?} of the mount at {target}: a name that is not UTF-8"))
            })?;
            let mut options = vec![lower];
            match scratch {
                Some(dir) => {
                    std::fs::create_dir_all(dir.join("upper"))?;
                    std::fs::create_dir_all(dir.join("work"))?;
                    options.push(format!("upperdir={}", dir.join("upper").display()));
                    options.push(format!("workdir={}", dir.join("work").display()));
                }
                None => options.push("ro".into()),
            }
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            mount(target, "overlay", Path::new("overlay"), &options)
        }
    }
}

/// The folders (top first) that make up what is at `path` of stacked layers, or the one file there.
fn merged(images: &Arc<ImageStore>, layers: &[Layer], path: &Path) -> std::io::Result<(Vec<PathBuf>, bool)> {
    let ids: Vec<String> = layers.iter().map(|l| l.diff_id.clone()).collect();
    let root = images.mount_layers(&ids).map_err(std::io::Error::other)?;
    let found = image::archive::root::open(root.as_fd(), path, OFlags::PATH)?;
    let real = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    let stat = rustix::fs::fstat(&found)?;
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    let real = real.strip_prefix("/").unwrap_or(&real).to_path_buf();
    let mut lower = Vec::new();
    'layers: for top in images.folders_of(&ids).map_err(std::io::Error::other)? {
        let mut at = top.clone();
        let mut opaque = false;
        for part in real.components() {
            at.push(part);
            match std::fs::symlink_metadata(&at) {
                Err(_) if opaque => break 'layers,
                Err(_) => continue 'layers,
                // Anything but a folder on the way hides what lies below.
                Ok(m) if !m.is_dir() && at != top.join(&real) => break 'layers,
                Ok(m) if !m.is_dir() && is_dir => break 'layers,
                Ok(_) => {}
            }
            opaque |= image::archive::is_opaque(&at);
        }
        if !is_dir {
            return Ok((vec![at], false));
        }
        if !lower.contains(&at) {
            lower.push(at);
        }
        if opaque {
            break;
        }
    }
    if lower.is_empty() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    Ok((lower, is_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Wanted> {
        let line = crate::parse::instruction(&format!("RUN --mount={text} x"), 1, '\\').unwrap();
        parse(&line, "/work", |w| Ok(w.to_string())).map(|mut all| all.remove(0))
    }

    #[test]
    fn what_may_bring_the_context_s_files() {
        for (text, brings) in [
            ("target=/x", true),
            ("type=bind,target=/x", true),
            ("type=BIND,target=/x", true),
            ("TYPE=Bind,source=a", true),
            ("type=$kind", true),
            ("type=cache,target=/x", false),
            ("type=bind,from=other", false),
            ("FROM=other", false),
            ("type=secret,id=from=x", false),
        ] {
            assert_eq!(of_context(text), brings, "{text}");
        }
    }

    #[test]
    fn mount_points_go_and_nothing_else() {
        let (dir, machine) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (upper, outside) = (dir.path(), machine.path());
        std::fs::create_dir_all(upper.join("in/deep")).unwrap();
        std::fs::create_dir_all(upper.join("kept/deep")).unwrap();
        std::fs::write(upper.join("kept/file"), "").unwrap();
        std::fs::write(upper.join("kept/made"), "x").unwrap();
        std::fs::create_dir(outside.join("folder")).unwrap();
        std::fs::write(outside.join("file"), "").unwrap();
        std::os::unix::fs::symlink(outside, upper.join("a")).unwrap();
        std::os::unix::fs::symlink("kept", upper.join("b")).unwrap();
        let stubs = [
            "/",
            "/in",
            "/in/deep",
            "/kept",
            "/kept/file",
            "/kept/made",
            "/a",
            "/a/folder",
            "/a/file",
            "/b/deep",
        ];
        remove_stubs(upper, stubs.map(PathBuf::from).to_vec()).unwrap();
        let is = |path: &str| upper.join(path).exists();
        assert!(!is("in") && !is("kept/file") && is("kept/made") && is("kept/deep") && is("a") && is("b"));
        assert!(outside.join("folder").exists() && outside.join("file").exists());
    }

    #[test]
    fn reads_mounts() {
        let m = one("type=cache,target=/var/cache/apt,sharing=locked").unwrap();
        assert_eq!((m.id.as_str(), m.sharing, m.rw), ("/var/cache/apt", Sharing::Locked, true));
        let m = one("type=secret,id=tok").unwrap();
        assert_eq!((m.target.as_str(), m.rw), ("/run/secrets/tok", false));
        let m = one("type=bind,from=a,source=/x,target=y,rw").unwrap();
        assert_eq!((m.target.as_str(), m.rw, m.from.as_deref()), ("/work/y", true, Some("a")));
        let m = one("type=cache,target=./y/../z").unwrap();
        assert_eq!((m.target.as_str(), m.id.as_str()), ("/work/z", "/z"));
        assert_eq!(one("type=tmpfs,target=/t,size=64m").unwrap().size, Some(64 << 20));
        assert_eq!(one("type=ssh").unwrap().target, "/run/buildkit/ssh_agent.0");
        for (text, why) in [
            ("type=nope,target=/x", "unsupported mount type \"nope\""),
            ("type=bind", "mount target is required"),
            ("type=bind,target=/x,flub=1", "unexpected key 'flub' in 'flub=1'"),
            ("type=bind,target=/", "invalid mount target \"/\""),
            ("type=bind,target=..", "invalid mount target \"/\""),
        ] {
            assert_eq!(one(text).unwrap_err().to_string(), why);
        }
    }
}
