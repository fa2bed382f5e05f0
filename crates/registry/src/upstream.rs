//! A cache of other registries: what is not here is fetched, verified, kept, and answered.
//!
//! A tag is asked for again when what is known of it is a minute old; if the other registry does not answer then, what
//! is known is served. Blobs and manifests by digest never change, so what is here is never asked for again.
//!
//! A blob is answered while it comes, and to everybody who asks for it meanwhile. It comes to its end whoever goes away, so
//! that a client that gave up finds it, or the rest of it, when it asks again.
//!
//! At its quota it lets go of the blobs that nobody has read for longest; what has no room even so passes through and is
//! not kept.
//!
//! A cache of several registries keeps the repositories of each apart, as `HOST/NAME`; its clients see `NAME` alone, and
//! say which they mean by `ns`.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use image::registry::{BlobStream, Registry, Remote};
use image::{Auth, Reference, RegistryConfig};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::handlers::blocking;
use crate::manifest::Outline;
use crate::storage::{self, Storage, Stored};

/// For how long a tag is believed. Registries do not tell when a tag moves: only asking again does.
const FRESH: Duration = Duration::from_secs(60);
/// Repositories whose connections and tokens are kept.
const REMOTES: usize = 1000;

/// What a registry is a cache of.
#[derive(Debug, Clone, Default)]
pub struct UpstreamOptions {
    /// The registries, as in references (`docker.io`, `host:5000`). A request's `ns` parameter chooses one, as
    /// containerd's mirrors send it; without it the first is meant.
    pub hosts: Vec<String>,
    /// The `config.json` of a Docker client that has the credentials for them. Whoever may read here reads with those.
    pub logins: Option<PathBuf>,
    /// Which of them are insecure.
    pub config: RegistryConfig,
}

/// What there is of a blob.
pub(crate) enum Content {
    /// It is kept here.
    Kept(File, u64),
    /// It is coming to be kept.
    Coming(Coming),
    /// It comes from elsewhere and is not kept: its pieces, not verified yet, and its length if that is known.
    Passing(BlobStream, Option<u64>),
    /// It is elsewhere, and its length is all that was asked for.
    Told(u64),
}

/// A blob that is being fetched. It can be read as far as it is here, but it is not verified before the fetch has ended.
#[derive(Clone)]
pub(crate) struct Coming {
    pub file: Arc<File>,
    /// Its bytes, as the other registry says.
    pub length: u64,
    pub fetched: watch::Receiver<Fetched>,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fetched {
    /// Bytes that are here.
    pub have: u64,
    /// Whether all are here and what they should be.
    pub whole: bool,
}

/// A repository here, and a blob in it.
type Key = (String, Digest);

/// A repository of another registry.
struct Place {
    host: String,
    name: String,
    /// Its name in the storage.
    kept: String,
}

impl Place {
    /// The key of the way to it.
    fn remote(&self) -> String {
        format!("{}/{}", self.host, self.name)
    }
}

pub(crate) struct Upstream {
    options: UpstreamOptions,
    storage: Arc<Storage>,
    remotes: Mutex<HashMap<String, Remote>>,
    checked: Mutex<HashMap<String, Instant>>,
    /// One begins to fetch a blob at a time; the others wait and find it, or what is coming of it.
    fetching: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    coming: Mutex<HashMap<Key, Coming>>,
}

impl Upstream {
    pub fn new(options: UpstreamOptions, storage: Arc<Storage>) -> Self {
        Self {
            options,
            storage,
            remotes: Mutex::default(),
            checked: Mutex::default(),
            fetching: Mutex::default(),
            coming: Mutex::default(),
        }
    }

    fn host(&self, ns: Option<&str>) -> Result<&str> {
        let all = &self.options.hosts;
        let found = match ns.filter(|n| !n.is_empty()) {
            None => all.first(),
            Some(ns) => all.iter().find(|h| *h == ns),
        };
        found.map(String::as_str).ok_or_else(|| {
            Error::name_unknown(format!(
                "this is no cache of {}: it is one of {}",
                ns.unwrap_or("it"),
                all.join(", ")
            ))
        })
    }

    /// What the names of a registry's repositories begin with in the storage, followed by what its clients call them.
    pub fn prefix(&self, ns: Option<&str>) -> Result<String> {
        let host = self.host(ns)?;
        Ok(if self.options.hosts.len() > 1 { format!("{host}/") } else { String::new() })
    }

    fn place(&self, ns: Option<&str>, name: &str) -> Result<Place> {
        let (host, name) = (self.host(ns)?.to_string(), name.to_string());
        Ok(Place { kept: self.prefix(ns)? + &name, host, name })
    }

    async fn remote(&self, place: &Place) -> Result<Remote> {
        let (key, Place { host, name, .. }) = (place.remote(), place);
        if let Some(remote) = self.remotes.lock().get(&key) {
            return Ok(remote.clone());
        }
        let reference = Reference { domain: host.clone(), path: name.clone(), tag: None, digest: None };
        let auth = match &self.options.logins {
            Some(file) => Auth::from_docker_config(file, host).await?,
            None => None,
        };
        let remote = Remote::connect(&reference, auth, false, &self.options.config).await?;
        let mut remotes = self.remotes.lock();
        // Clients may invent names without end.
        if remotes.len() >= REMOTES {
            remotes.clear();
        }
        remotes.insert(key, remote.clone());
        Ok(remote)
    }

    /// Forgets how a repository was spoken to if its registry refuses: credentials may have expired, or been given since.
    fn refused(&self, place: &Place, e: image::Error) -> image::Error {
        if matches!(e, image::Error::Denied(_)) {
            self.remotes.lock().remove(&place.remote());
        }
        e
    }

    /// A manifest by tag or digest.
    pub async fn manifest(&self, ns: Option<&str>, name: &str, reference: &str) -> Result<Stored> {
        let place = self.place(ns, name)?;
        let by_digest = reference.contains(':');
        let key = format!("{}/{name}:{reference}", place.host);
        let (storage, n, r) = (self.storage.clone(), place.kept.clone(), reference.to_string());
        let here = blocking(move || storage.manifest(&n, &r)).await;
        let fresh = by_digest || self.checked.lock().get(&key).is_some_and(|at| at.elapsed() < FRESH);
        match here {
            Ok(stored) if fresh => return Ok(stored),
            Err(e) if !e.is_unknown() => return Err(e),
            _ => {}
        }
        match self.fetch_manifest(&place, reference).await {
            Ok((stored, kept)) => {
                if kept && !by_digest {
                    let mut checked = self.checked.lock();
                    checked.retain(|_, at| at.elapsed() < FRESH);
                    checked.insert(key, Instant::now());
                }
                Ok(stored)
            }
            // Gone there is gone here; not reachable is no reason to fail.
            Err(Error::Upstream(e)) if !e.is_not_found() && here.is_ok() => {
                tracing::warn!(error = %e, repository = name, reference, "served from the cache");
                here
            }
            Err(Error::Upstream(e)) if e.is_not_found() => {
                Err(Error::manifest_unknown(format!("manifest unknown: {name}:{reference}: {e}")))
            }
            Err(e) => Err(e),
        }
    }

    /// The tags that a repository has elsewhere.
    pub async fn tags(&self, ns: Option<&str>, name: &str) -> Result<Vec<String>> {
        let place = self.place(ns, name)?;
        let tags = self.remote(&place).await?.tags().await;
        tags.map_err(|e| self.refused(&place, e)).map_err(|e| {
            tracing::warn!(error = %e, repository = name, "no list of tags from elsewhere");
            e.into()
        })
    }

    /// A manifest from elsewhere, and whether there was room to keep it.
    async fn fetch_manifest(&self, place: &Place, reference: &str) -> Result<(Stored, bool)> {
        let document = self.remote(place).await?.manifest(reference).await;
        let document = document.map_err(|e| self.refused(place, e))?;
        let outline = Outline::parse(&document.bytes)?;
        let about = outline.about()?;
        let media_type = match document.media_type {
            t if t.is_empty() => outline.media_type.clone(),
            t => t,
        };
        let stored =
            Stored { digest: Digest::parse(&document.digest)?, media_type, content: document.bytes.to_vec() };
        let tags: Vec<String> =
            if reference.contains(':') { Vec::new() } else { vec![reference.to_string()] };
        let (storage, repository, keep) = (self.storage.clone(), place.kept.clone(), stored.clone());
        // Its blobs come when they are asked for.
        let kept = blocking(move || {
            storage.make_room(&repository, keep.content.len() as u64)?;
            storage.put_manifest(&repository, &keep, &about, &[], &tags)
        });
        match kept.await {
            Ok(()) => Ok((stored, true)),
            Err(e) if e.is_full() => {
                tracing::warn!(error = %e, repository = place.kept, reference, "a manifest is not kept");
                Ok((stored, false))
            }
            Err(e) => Err(e),
        }
    }

    /// A blob; of one that is not here only the length, if that is all that is asked for and can be had.
    pub async fn blob(
        self: &Arc<Self>,
        ns: Option<&str>,
        name: &str,
        digest: &Digest,
        length_alone: bool,
    ) -> Result<Content> {
        let place = self.place(ns, name)?;
        if let Some(kept) = self.kept(&place, digest).await? {
            return Ok(kept);
        }
        if length_alone {
            let told = self.remote(&place).await?.blob_length(digest.as_str()).await;
            if let Some(length) = told.map_err(|e| missing(digest, self.refused(&place, e)))? {
                return Ok(Content::Told(length));
            }
        }
        let key = (place.kept.clone(), digest.clone());
        let gate = self.fetching.lock().entry(key.clone()).or_default().clone();
        let result = {
            let _turn = gate.lock().await;
            // In this order: what has come is kept before it is coming no more.
            let coming = self.coming.lock().get(&key).cloned();
            match coming {
                Some(coming) => Ok(Content::Coming(coming)),
                None => match self.kept(&place, digest).await {
                    Ok(Some(kept)) => Ok(kept),
                    Ok(None) => self.fetch_blob(&place, digest).await,
                    Err(e) => Err(e),
                },
            }
        };
        let mut fetching = self.fetching.lock();
        if fetching.get(&key).is_some_and(|g| Arc::strong_count(g) <= 2) {
            fetching.remove(&key);
        }
        result
    }

    /// A blob that is here.
    async fn kept(&self, place: &Place, digest: &Digest) -> Result<Option<Content>> {
        let (storage, repository, digest) = (self.storage.clone(), place.kept.clone(), digest.clone());
        let found = blocking(move || {
            let (file, length) = storage.blob(&repository, &digest)?;
            storage::used(&file);
            Ok(Content::Kept(file, length))
        });
        match found.await {
            Err(e) if e.is_unknown() => Ok(None),
            other => other.map(Some),
        }
    }

    async fn fetch_blob(self: &Arc<Self>, place: &Place, digest: &Digest) -> Result<Content> {
        let remote = self.remote(place).await?;
        let open = || async {
            remote.open(digest.as_str()).await.map_err(|e| missing(digest, self.refused(place, e)))
        };
        let (length, stream) = open().await?;
        if let Some(n) = length {
            let (storage, repository, hasher) = (self.storage.clone(), place.kept.clone(), digest.hasher());
            let begun = blocking(move || storage.begin_whole(&repository, hasher, n)).await?;
            return match begun {
                Some(id) => self.begin(place, digest, id, n, stream).await,
                None => Ok(Content::Passing(stream, length)),
            };
        }
        // One of unknown length has no answer that could be found too short, so it comes first.
        match self.keep(place, digest, stream).await {
            // Others have taken the room meanwhile, or it is more than was said.
            Err(e) if e.is_full() => {
                tracing::warn!(error = %e, repository = place.kept, %digest, "a blob is not kept");
                let (length, stream) = open().await?;
                Ok(Content::Passing(stream, length))
            }
            Err(e) => Err(e),
            Ok(()) => match self.kept(place, digest).await? {
                Some(kept) => Ok(kept),
                // Another one needed the room at once.
                None => open().await.map(|(length, stream)| Content::Passing(stream, length)),
            },
        }
    }

    /// Begins to take a blob into an upload, which goes on by itself.
    async fn begin(
        self: &Arc<Self>,
        place: &Place,
        digest: &Digest,
        id: String,
        length: u64,
        stream: BlobStream,
    ) -> Result<Content> {
        let storage = self.storage.clone();
        let (id, file) = blocking(move || {
            let upload = storage.upload(&id)?;
            let mut upload = upload.blocking_lock();
            let file = upload.reader().inspect_err(|_| {
                let _ = storage.cancel(&id, &mut upload); // what went wrong first is told
            })?;
            Ok((id, file))
        })
        .await?;
        let (tell, fetched) = watch::channel(Fetched::default());
        let file = Arc::new(file);
        let coming = Coming { file: file.clone(), length, fetched };
        let key = (place.kept.clone(), digest.clone());
        self.coming.lock().insert(key.clone(), coming.clone());
        let upstream = self.clone();
        tokio::spawn(async move {
            let (storage, digest) = (upstream.storage.clone(), key.1.clone());
            let told = tell.clone();
            let taking = image::blocking_on_stream(move || {
                take(&storage, &id, &digest, stream, |have| told.send_modify(|f| f.have = have))
            });
            let taken = taking.await;
            match &taken {
                Ok(()) => {
                    storage::used(&file);
                    tell.send_modify(|f| f.whole = true);
                }
                Err(error) => {
                    tracing::warn!(%error, repository = key.0, digest = %key.1, "a blob was not fetched")
                }
            }
            upstream.coming.lock().remove(&key);
        });
        Ok(Content::Coming(coming))
    }

    /// Takes a blob in.
    async fn keep(&self, place: &Place, digest: &Digest, stream: BlobStream) -> Result<()> {
        let (storage, repository, digest) = (self.storage.clone(), place.kept.clone(), digest.clone());
        image::blocking_on_stream(move || {
            let id = storage.begin(&repository, digest.hasher())?;
            take(&storage, &id, &digest, stream, |_| {})
        })
        .await
    }
}

/// Takes a blob into an upload, says how much of it has come, and ends it. Blocking.
fn take(
    storage: &Storage,
    id: &str,
    digest: &Digest,
    mut stream: BlobStream,
    mut came: impl FnMut(u64),
) -> Result<()> {
    let upload = storage.upload(id)?;
    let mut upload = upload.blocking_lock();
    let mut take = || -> Result<()> {
        while let Some(piece) = stream.blocking_recv() {
            upload.append(&piece?)?;
            came(upload.length);
        }
        storage.finish(id, &mut upload, digest)
    };
    take().inspect_err(|_| {
        // Already gone if it was the digest that was wrong.
        let _ = storage.cancel(id, &mut upload);
    })
}

/// What another registry's failure means for the one who asked for a blob.
fn missing(digest: &Digest, e: image::Error) -> Error {
    if e.is_not_found() { Error::blob_unknown(format!("blob {digest}: {e}")) } else { e.into() }
}
