//! One tag for several platforms: what a build for more than one of them makes, and archives with an index bring.
//!
//! The tag itself stands on the image for this machine (or the first one), as everything that runs wants it; beside it
//! is remembered which image each platform has. An image with such a place is in use, though it has no tag of its own.

use std::sync::Arc;

use super::{ImageStore, blocking, db};
use crate::error::{Error, Result};
use crate::platform::Platform;
use crate::reference::{self, Reference};
use crate::types::Image;

/// Puts a tag on images of different platforms: itself on the best for this machine.
fn put(c: &mut db::Changes<'_>, tag: &Reference, images: &[(Platform, String)]) -> Result<()> {
    let host = Platform::host();
    let best = images.iter().filter_map(|(p, id)| Some((host.rank(p)?, id))).min_by_key(|(rank, _)| *rank);
    let main = best.map(|(_, id)| id).or(images.first().map(|(_, id)| id));
    let main = main.ok_or_else(|| Error::Invalid(format!("{}: a tag needs an image", tag.familiar())))?;
    db::set_tag(c, tag, main)?;
    if images.len() > 1 {
        db::set_variants(c, tag, images)?;
    }
    Ok(())
}

impl ImageStore {
    /// Puts a tag on an image for each of several platforms.
    pub async fn tag_all(self: &Arc<Self>, target: &str, images: Vec<(Platform, String)>) -> Result<()> {
        let tag = reference::parse(target)?.with_default_tag();
        let store = self.clone();
        blocking(move || store.write(|c| put(c, &tag, &images))).await
    }

    /// The images of a tag that is for several platforms; none of any other.
    pub fn variants(&self, tag: &Reference) -> Vec<(Platform, Arc<Image>)> {
        let index = self.index.read();
        let all = index.variants.get(&tag.to_string()).into_iter().flatten();
        all.filter_map(|(p, id)| Some((p.clone(), index.images.get(id)?.clone()))).collect()
    }

    /// Whether an image is there for a platform of some tag.
    pub fn is_variant(&self, id: &str) -> bool {
        self.index.read().variants.values().flatten().any(|(_, other)| other == id)
    }

    /// The image that a name has for exactly this platform.
    pub fn exactly(&self, text: &str, platform: &Platform) -> Result<Arc<Image>> {
        let own = self.get(text)?;
        let tag = reference::parse(text).map(Reference::with_default_tag);
        if let Ok(tag) = &tag
            && let Some((_, image)) = self.variants(tag).into_iter().find(|(p, _)| p.is(platform))
        {
            return Ok(image);
        }
        if own.config.platform().is(platform) {
            return Ok(own);
        }
        if let Ok(tag) = &tag {
            let beside = db::beside(&self.db.lock(), tag)?;
            let mut beside = beside.iter().filter_map(|id| self.get(id).ok());
            if let Some(image) = beside.find(|image| image.config.platform().is(platform)) {
                return Ok(image);
            }
        }
        Err(Error::not_provided(text, platform))
    }

    /// Takes the images of some platforms from a tag for several. The tag stays on what is left; nothing left is an error.
    pub(super) fn without(&self, tag: &Reference, gone: &[String]) -> Result<()> {
        let all = self.variants(tag).into_iter().map(|(p, image)| (p, image.id.clone()));
        let left: Vec<(Platform, String)> = all.filter(|(_, id)| !gone.contains(id)).collect();
        self.write(|c| put(c, tag, &left))
    }

    /// As `get`, but of a tag for several platforms the image of that one, or what was pulled for it beside the tag's own.
    pub fn get_for(&self, text: &str, platform: &Platform) -> Result<Arc<Image>> {
        match self.fitting(text, platform)? {
            Some(image) => Ok(image),
            None => self.get(text),
        }
    }

    /// The image that a name has for a platform, or the best of those that run there; none if it has none.
    pub fn fitting(&self, text: &str, platform: &Platform) -> Result<Option<Arc<Image>>> {
        let own = self.get(text);
        let tag = reference::parse(text).map(Reference::with_default_tag).ok();
        let variants = tag.as_ref().map(|tag| self.variants(tag)).unwrap_or_default();
        let ranked = variants.into_iter().filter_map(|(p, image)| Some((platform.rank(&p)?, image)));
        if let Some((_, image)) = ranked.min_by_key(|(rank, _)| *rank) {
            return Ok(Some(image));
        }
        if let Some(own) = own.as_ref().ok().filter(|image| image.config.fits(platform)) {
            return Ok(Some(own.clone()));
        }
        if let Some(tag) = &tag {
            let beside = db::beside(&self.db.lock(), tag)?;
            let mut beside = beside.iter().filter_map(|id| self.get(id).ok());
            if let Some(image) = beside.find(|image| image.config.fits(platform)) {
                return Ok(Some(image));
            }
        }
        own.map(|_| None)
    }
}
