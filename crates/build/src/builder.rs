//! The builder of an instance: its cache, what is under way, and the classic front door.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use image::{ImageStore, reference};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Record, RecordKind};
use crate::caches::Caches;
use crate::context::{self, Context, Single};
use crate::error::{Error, Result};
use crate::flight::Flights;
use crate::job::Job;
use crate::options::{Event, Options};
use crate::report::{Listener, Told};
use crate::runner::StepRunner;
use crate::{blocking, text};

/// Pieces of a stage's text that may wait for their turn.
const AHEAD: usize = 1024;

/// Builds images. One per instance; builds may run at the same time.
pub struct Builder {
    pub(crate) images: Arc<ImageStore>,
    pub(crate) runner: Arc<dyn StepRunner>,
    pub(crate) cache: Cache,
    pub(crate) flights: Flights,
    pub(crate) caches: Arc<Caches>,
    pub(crate) policy: parking_lot::RwLock<Arc<crate::gc::Policy>>,
    /// What collects by itself, as long as the builder lives.
    collecting: std::sync::OnceLock<tokio_util::task::AbortOnDropHandle<()>>,
    pub(crate) scratch: PathBuf,
    pub(crate) desk: crate::buildkit::Desk,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("scratch", &self.scratch).finish_non_exhaustive()
    }
}

/// What a prune of the cache took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Keys of steps and names of cache mounts.
    pub records: Vec<Record>,
    /// Bytes freed.
    pub bytes: u64,
}

impl Builder {
    /// Opens the cache below `data_dir` and removes what interrupted builds left.
    pub async fn open(
        images: Arc<ImageStore>,
        runner: Arc<dyn StepRunner>,
        data_dir: &Path,
    ) -> Result<Arc<Self>> {
        let scratch = data_dir.join("build");
        let opened = scratch.clone();
        let store = images.clone();
        let cache = blocking(move || {
            let scratch = opened;
            std::fs::create_dir_all(&scratch)?;
            for entry in std::fs::read_dir(&scratch)? {
                let entry = entry?;
                let name = entry.file_name();
                let begins = |with: &str| name.as_encoded_bytes().starts_with(with.as_bytes());
                let removed = if begins(context::BEGIN) || begins(context::GONE) {
                    sys::tree::remove(&entry.path())
                } else if begins(".tmp") {
                    std::fs::remove_file(entry.path())
                } else {
                    Ok(())
                };
                // A builder before this one may be at it still.
                removed.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
            }
            crate::mounts::forget_secrets(&scratch)?;
            Cache::open(&scratch.join("cache.db"), store)
        })
        .await?;
        cache.reconcile().await?;
        let caches = Arc::new(Caches::open(scratch.join("caches"))?);
        let written = images.written();
        let builder = Arc::new(Self {
            policy: parking_lot::RwLock::default(),
            collecting: std::sync::OnceLock::new(),
            images,
            runner,
            cache,
            flights: Flights::default(),
            caches,
            scratch,
            desk: crate::buildkit::Desk::default(),
        });
        let keep = tokio::spawn(crate::gc::keep(Arc::downgrade(&builder), written));
        builder.collecting.get_or_init(|| tokio_util::task::AbortOnDropHandle::new(keep));
        Ok(builder)
    }

    /// What the cache holds, last used first, with what it takes of the disk. What images have too, or a line before has,
    /// is shared.
    pub async fn cache_records(&self) -> Result<Vec<Record>> {
        let mut all = self.cache.records()?;
        let disk = self.images.on_disk().await?;
        let images = self.images.list();
        let mut seen: std::collections::HashSet<&str> =
            images.iter().flat_map(|i| i.diff_ids().iter().map(String::as_str)).collect();
        let ids: Vec<Option<String>> = all.iter().map(|r| r.diff_id.clone()).collect();
        for (record, id) in all.iter_mut().zip(&ids) {
            if let Some(id) = id.as_deref() {
                record.size = disk.layers.get(id).copied().unwrap_or(record.size);
                record.shared = !seen.insert(id);
                record.in_use = self.images.is_leased(id);
            }
        }
        let mounts = self.caches.clone();
        all.extend(blocking(move || mounts.records()).await?);
        Ok(all)
    }

    /// Forgets what the cache holds: everything, or with `keep` only what it is false for.
    pub(crate) async fn prune_cache(&self, mut keep: impl FnMut(&Record) -> bool) -> Result<Pruned> {
        self.cache.flush(Vec::new()).await?;
        let mut pruned = Pruned::default();
        let going = self.cache_records().await?.into_iter().filter(|r| !keep(r));
        let (steps, mounts): (Vec<Record>, Vec<Record>) = going.partition(|r| r.kind == RecordKind::Step);
        let before = self.images.on_disk().await?.total();
        self.cache.forget(steps.iter().map(|r| r.id.clone()).collect()).await?;
        self.images.collect().await?;
        pruned.bytes = before.saturating_sub(self.images.on_disk().await?.total());
        pruned.records = steps;
        for record in mounts {
            if self.caches.remove(&record.id).await? {
                pruned.bytes += record.size;
                pruned.records.push(record);
            }
        }
        Ok(pruned)
    }

    /// Builds and returns the image's id. Text goes to `out`; a closed `out` or `cancel` ends the build.
    pub async fn build(
        self: &Arc<Self>,
        context: Context,
        options: Options,
        out: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) -> Result<String> {
        let tags = tags(&options.tags)?;
        let (tree, dockerfile) = context::receive(context, &self.scratch, &options.dockerfile).await?;
        let quiet = options.quiet;
        let (classic, outputs) = Classic::new();
        let job = Job::new(
            self.clone(),
            options,
            &dockerfile,
            Arc::new(Single(Arc::new(tree))),
            Arc::new(classic),
            None,
            true,
            cancel,
        )
        .await?;
        let sender = if quiet { None } else { Some(out.clone()) };
        let (result, told) = tokio::join!(job.run_all(), pass(outputs, &job, sender));
        let state = result?;
        told?;
        let squashed = if job.options.squash { job.squash(&state).await? } else { None };
        let id = match squashed {
            Some(id) => id,
            None => state
                .id
                .clone()
                .ok_or_else(|| Error::Invalid("No image was generated. Is your Dockerfile empty?".into()))?,
        };
        for tag in &tags {
            self.images.tag(&id, &tag.to_string()).await?;
        }
        self.runner.made(&id, &tags.iter().map(reference::Reference::familiar).collect::<Vec<_>>());
        if quiet {
            send(&out, Event::Stream(format!("{id}\n"))).await?;
            return Ok(id);
        }
        if let Some(warning) = job.unused_args() {
            send(&out, Event::Stream(format!("[Warning] {warning}\n"))).await?;
        }
        send(&out, Event::Built(id.clone())).await?;
        send(&out, Event::Stream(format!("Successfully built {}\n", image::short(&id)))).await?;
        for tag in &tags {
            send(&out, Event::Stream(format!("Successfully tagged {}\n", tag.familiar()))).await?;
        }
        Ok(id)
    }
}

/// Names for a result, checked.
pub(crate) fn tags(names: &[String]) -> Result<Vec<reference::Reference>> {
    let all = names.iter().map(|t| {
        let r = reference::parse_tagged(t)?;
        if r.digest.is_some() {
            return Err(image::Error::Invalid("build tag cannot contain a digest".into()));
        }
        Ok(r)
    });
    Ok(all.collect::<image::Result<Vec<_>>>()?)
}

async fn send(out: &mpsc::Sender<Event>, event: Event) -> Result<()> {
    out.send(event).await.map_err(|_| Error::Cancelled)
}

/// The classic stream: stages run side by side, but what is told of them comes in their order. A stage waits when too
/// much of it waits for its turn; it never waits for a later one, so all of them come to their end.
struct Classic {
    stages: parking_lot::Mutex<std::collections::HashMap<usize, mpsc::Sender<Told>>>,
    opened: mpsc::UnboundedSender<(usize, mpsc::Receiver<Told>)>,
}

type Outputs = mpsc::UnboundedReceiver<(usize, mpsc::Receiver<Told>)>;

impl Classic {
    fn new() -> (Self, Outputs) {
        let (opened, outputs) = mpsc::unbounded_channel();
        (Self { stages: parking_lot::Mutex::default(), opened }, outputs)
    }
}

#[async_trait]
impl Listener for Classic {
    async fn tell(&self, stage: usize, told: Told) -> Result<()> {
        let sender = {
            let mut stages = self.stages.lock();
            let opened = &self.opened;
            stages
                .entry(stage)
                .or_insert_with(|| {
                    let (tx, rx) = mpsc::channel(AHEAD);
                    // Nobody takes it any more only when the build has ended.
                    let _ = opened.send((stage, rx));
                    tx
                })
                .clone()
        };
        sender.send(told).await.map_err(|_| Error::Cancelled)
    }

    fn stage_ended(&self, stage: usize) {
        let mut stages = self.stages.lock();
        // A stage that told nothing still takes its turn.
        if stages.remove(&stage).is_none() {
            let (_, rx) = mpsc::channel(1);
            let _ = self.opened.send((stage, rx));
        }
    }
}

/// Passes what stages tell on as the classic builder's text, stage after stage.
async fn pass(mut outputs: Outputs, job: &Job, out: Option<mpsc::Sender<Event>>) -> Result<()> {
    let mut waiting = std::collections::HashMap::new();
    let mut writer = text::Writer::new(job.total());
    if let Some(out) = &out {
        for event in writer.meta(job.meta_lines()) {
            if send(out, event).await.is_err() {
                job.cancel.cancel();
                return Err(Error::Cancelled);
            }
        }
    }
    for stage in job.needed() {
        let mut told = loop {
            if let Some(told) = waiting.remove(&stage) {
                break told;
            }
            tokio::select! {
                // What was told before the end comes first.
                biased;
                more = outputs.recv() => match more {
                    Some((n, rx)) => { waiting.insert(n, rx); }
                    None => return Ok(()),
                },
                () = job.ended() => return Ok(()),
            }
        };
        let mut failed = false;
        loop {
            let next: Option<Told> = tokio::select! {
                biased;
                next = told.recv() => next,
                () = async { match &out { Some(out) => out.closed().await, None => std::future::pending().await } } => {
                    job.cancel.cancel();
                    return Err(Error::Cancelled);
                }
            };
            let Some(next) = next else { break };
            failed |= matches!(next, Told::Failed(_));
            let Some(out) = &out else { continue };
            for event in writer.write(next) {
                if send(out, event).await.is_err() {
                    // Nobody listens any more.
                    job.cancel.cancel();
                    return Err(Error::Cancelled);
                }
            }
        }
        for event in writer.stage_end() {
            if let Some(out) = &out {
                send(out, event).await?;
            }
        }
        if failed {
            return Ok(());
        }
    }
    Ok(())
}
