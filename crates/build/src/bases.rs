//! What stages take from elsewhere, each once for a build: images, which are here already or pulled, downloads and
//! repositories.

use std::collections::HashMap;
use std::sync::Arc;

use image::{Image, Platform, reference};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, mpsc};

use crate::context::Tree;
use crate::download::{self, Download};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::remote::Git;
use crate::report::Told;

/// Something that is fetched once, by its name.
pub(crate) type Once<T> = Mutex<HashMap<String, Arc<OnceCell<Arc<T>>>>>;

impl Job {
    /// The file at an address.
    pub async fn download(&self, address: &str) -> Result<Arc<Download>> {
        let cell = self.downloads.lock().entry(address.to_string()).or_default().clone();
        let get = || async {
            let got = download::get(address, &self.builder.scratch).await;
            got.map(Arc::new).map_err(Error::Step)
        };
        cell.get_or_try_init(get).await.cloned()
    }

    /// The files of a repository.
    pub async fn checkout(&self, git: Git, keep_git_dir: bool) -> Result<Arc<Tree>> {
        let cell = self.checkouts.lock().entry(format!("{git:?} {keep_git_dir}")).or_default().clone();
        let get = || async { git.checkout(&self.builder.scratch, keep_git_dir).await.map(Arc::new) };
        cell.get_or_try_init(get).await.cloned()
    }

    /// The image of that name, pulled if it is not here (or `--pull`).
    pub async fn base_image(&self, stage: usize, name: &str, platform: &Platform) -> Result<Arc<Image>> {
        let cell = self.bases.lock().entry(format!("{name}|{platform}")).or_default().clone();
        cell.get_or_try_init(|| self.find_base(stage, name, platform)).await.cloned()
    }

    async fn find_base(&self, stage: usize, name: &str, platform: &Platform) -> Result<Arc<Image>> {
        match (self.builder.images.get_for(name, platform), self.options.pull) {
            (Ok(image), false) => {
                if (self.options.platform.is_some() || *platform != self.platform)
                    && !image.config.fits(platform)
                {
                    tracing::debug!(image = name, %platform, "the local image is for another platform");
                } else {
                    return Ok(image);
                }
            }
            (Err(e), _) if !e.is_not_found() => return Err(e.into()),
            (Ok(image), true) if image.tags.is_empty() => return Ok(image),
            _ => {}
        }
        let reference = reference::parse_tagged(name)?;
        let auth = match self.options.auths.get(&reference.domain) {
            Some(auth) => Some(auth.clone()),
            None => match &self.holder {
                Some(holder) => holder.credentials(&reference.domain).await?,
                None => None,
            },
        };
        let (tx, mut rx) = mpsc::channel(64);
        let forward = async {
            let mut heard = Ok(());
            while let Some(p) = rx.recv().await {
                if heard.is_ok() {
                    heard = self.listener.tell(stage, Told::Pull(p)).await;
                }
            }
        };
        let whole = reference.to_string();
        let images = &self.builder.images;
        let pull = async {
            match Platform::host().is(platform) || self.classic {
                true => images.pull(&whole, auth, Some(platform.clone()), tx).await,
                // What is built for another machine does not change what a name means on this one.
                false => images.pull_beside(&whole, auth, platform.clone(), tx).await,
            }
        };
        let (pulled, ()) = tokio::join!(pull, forward);
        Ok(pulled?)
    }
}
