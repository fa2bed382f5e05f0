//! Removing references and images by Docker's rules.

use std::sync::Arc;

use super::{ImageStore, blocking, db};
use crate::error::{Error, Result};
use crate::platform::Platform;
use crate::reference::{self, Reference};
use crate::types::{Deleted, Image, InUse, short};

/// Why an image cannot go. A hard reason holds even with force.
struct Obstacle {
    hard: bool,
    /// Something runs or stands on it (as opposed to: it has names).
    used: bool,
    id: String,
    why: String,
}

impl From<Obstacle> for Error {
    fn from(o: Obstacle) -> Self {
        let remedy = if o.hard { "cannot be forced" } else { "must be forced" };
        Error::Conflict(format!("conflict: unable to delete {} ({remedy}) - {}", short(&o.id), o.why))
    }
}

/// Every tag and digest reference of an image.
fn references(image: &Image) -> Vec<Reference> {
    image.tags.iter().chain(&image.repo_digests).filter_map(|t| reference::parse(t).ok()).collect()
}

/// Whether these are the names of one repository: at most one tag, and digests of the same name.
fn is_single(references: &[Reference]) -> bool {
    let tags: Vec<_> = references.iter().filter(|r| r.digest.is_none()).collect();
    let Some(first) = tags.first().copied().or(references.first()) else { return true };
    references.len() == 1 || (tags.len() <= 1 && references.iter().all(|r| r.name() == first.name()))
}

impl ImageStore {
    /// Removes a reference, and the image with its last one; given an id, the image with all its references in one
    /// repository (in any, with `force`). `prune` removes untagged parents too. The answer lists what went, in order.
    pub async fn remove(
        self: &Arc<Self>,
        text: &str,
        force: bool,
        prune: bool,
        in_use: &InUse<'_>,
    ) -> Result<Vec<Deleted>> {
        let image = self.get(text)?;
        let bare = text.strip_prefix("sha256:").unwrap_or(text);
        let by_id = image.id["sha256:".len()..].starts_with(bare);
        let mut out = Vec::new();
        let all = references(&image);
        let of_others: Vec<String> = all
            .iter()
            .flat_map(|tag| self.variants(tag))
            .map(|(_, i)| i.id.clone())
            .filter(|id| *id != image.id)
            .collect();
        let mut quiet = false;
        if !by_id {
            if !force
                && is_single(&all)
                && let Some(user) = in_use(&image.id)
            {
                return Err(Error::Conflict(format!(
                    "conflict: unable to remove repository reference \"{text}\" (must force) - container {} is using \
                     its referenced image {}",
                    short(&user.container),
                    image.short_id()
                )));
            }
            let target = reference::parse_tagged(text)?;
            let mut going = vec![target.clone()];
            // Digests that stand for no tag of their repository any more go with its last tag.
            let same = |r: &&Reference| r.name() == target.name() && **r != target;
            if target.digest.is_none() && !all.iter().filter(same).any(|r| r.digest.is_none()) {
                going.extend(all.iter().filter(same).cloned());
            }
            self.untag(&going, &mut out).await?;
            if all.len() > going.len() {
                self.delete_others(of_others, prune, in_use, &mut out).await?;
                return Ok(out);
            }
            quiet = true;
        } else if is_single(&all) || force {
            if let Some(obstacle) = self.obstacle(&image, force, false, in_use) {
                return Err(obstacle.into());
            }
            self.untag(&all, &mut out).await?;
        }
        self.delete(image.id.clone(), force, prune, quiet, in_use, &mut out).await?;
        self.delete_others(of_others, prune, in_use, &mut out).await?;
        let store = self.clone();
        blocking(move || store.collect_layers()).await?;
        Ok(out)
    }

    /// Removes what a name has for some platforms. A tag for several stays on the rest; of one that is for these alone it
    /// is as `remove`.
    pub async fn remove_for(
        self: &Arc<Self>,
        text: &str,
        platforms: &[Platform],
        force: bool,
        prune: bool,
        in_use: &InUse<'_>,
    ) -> Result<Vec<Deleted>> {
        let own = self.get(text)?;
        let mut going: Vec<Arc<Image>> = Vec::new();
        for platform in platforms {
            let image = self.exactly(text, platform).map_err(|e| match e {
                Error::NotFound(why) => Error::NotFound(format!(
                    "failed to delete platform {platform} for image {}: {why}",
                    own.id
                )),
                other => other,
            })?;
            if !going.iter().any(|i| i.id == image.id) {
                going.push(image);
            }
        }
        let tag = reference::parse(text).map(Reference::with_default_tag).ok();
        let all = tag.as_ref().map(|tag| self.variants(tag)).unwrap_or_default();
        let of_tag = |image: &Image| all.iter().any(|(_, i)| i.id == image.id);
        if all.iter().all(|(_, i)| going.iter().any(|g| g.id == i.id)) && going.iter().any(|i| i.id == own.id)
        {
            return self.remove(text, force, prune, in_use).await;
        }
        for image in &going {
            if let Some(obstacle) = self.obstacle(image, force, false, in_use) {
                return Err(obstacle.into());
            }
        }
        let mut out = Vec::new();
        if let Some(tag) = tag.filter(|_| going.iter().any(|i| of_tag(i))) {
            let (store, gone) = (self.clone(), going.iter().map(|i| i.id.clone()).collect::<Vec<_>>());
            blocking(move || store.without(&tag, &gone)).await?;
            let gone = going.iter().filter(|i| of_tag(i)).map(|i| i.id.clone()).collect();
            self.delete_others(gone, prune, in_use, &mut out).await?;
        }
        for image in going.iter().filter(|i| !of_tag(i)) {
            // What was pulled for another machine goes by the digest.
            out.extend(self.remove(&image.id, force, prune, in_use).await?);
        }
        let store = self.clone();
        blocking(move || store.collect_layers()).await?;
        Ok(out)
    }

    /// Deletes the images that a tag had for other platforms, as far as nobody else names them.
    async fn delete_others(
        self: &Arc<Self>,
        ids: Vec<String>,
        prune: bool,
        in_use: &InUse<'_>,
        out: &mut Vec<Deleted>,
    ) -> Result<()> {
        for id in ids {
            let unnamed = self.get(&id).is_ok_and(|i| references(&i).is_empty());
            if unnamed && !self.is_variant(&id) {
                self.delete(id, false, prune, true, in_use, out).await?;
            }
        }
        Ok(())
    }

    async fn untag(self: &Arc<Self>, going: &[Reference], out: &mut Vec<Deleted>) -> Result<()> {
        let (store, list) = (self.clone(), going.to_vec());
        blocking(move || {
            store.write(|c| {
                for r in &list {
                    db::remove_reference(c, r)?;
                }
                Ok(())
            })
        })
        .await?;
        out.extend(going.iter().map(|r| Deleted::Untagged(r.familiar())));
        Ok(())
    }

    /// Deletes an image that has lost its references, then its parents as long as nobody needs them.
    async fn delete(
        self: &Arc<Self>,
        id: String,
        force: bool,
        prune: bool,
        quiet: bool,
        in_use: &InUse<'_>,
        out: &mut Vec<Deleted>,
    ) -> Result<()> {
        let (mut next, mut force, mut quiet) = (Some(id), force, quiet);
        while let Some(id) = next.take() {
            let Ok(image) = self.get(&id) else { return Ok(()) };
            if let Some(obstacle) = self.obstacle(&image, force, true, in_use) {
                let dangling = references(&image).is_empty() && self.children(&id).is_empty();
                if quiet && (!dangling || obstacle.used) {
                    return Ok(());
                }
                return Err(obstacle.into());
            }
            self.untag_rest(&image, out).await?;
            let (store, gone) = (self.clone(), id.clone());
            blocking(move || store.write(|c| db::delete_image(c, &gone))).await?;
            out.push(Deleted::Deleted(id));
            if prune {
                next = image.parent.clone();
            }
            (force, quiet) = (false, true);
        }
        Ok(())
    }

    async fn untag_rest(self: &Arc<Self>, image: &Image, out: &mut Vec<Deleted>) -> Result<()> {
        let rest = references(image);
        if rest.is_empty() { Ok(()) } else { self.untag(&rest, out).await }
    }

    fn obstacle(
        &self,
        image: &Image,
        force: bool,
        names_count: bool,
        in_use: &InUse<'_>,
    ) -> Option<Obstacle> {
        let make = |hard, used, why: String| Some(Obstacle { hard, used, id: image.id.clone(), why });
        if !self.children(&image.id).is_empty() {
            return make(true, false, "image has dependent child images".into());
        }
        let user = in_use(&image.id);
        if let Some(u) = user.as_ref().filter(|u| u.running) {
            return make(
                true,
                true,
                format!("image is being used by running container {}", short(&u.container)),
            );
        }
        if force {
            return None;
        }
        if names_count && !references(image).is_empty() {
            return make(false, false, "image is referenced in multiple repositories".into());
        }
        let u = user?;
        make(false, true, format!("image is being used by stopped container {}", short(&u.container)))
    }
}
