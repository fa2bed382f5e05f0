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

impl ImageStore {
    /// Puts a tag on an image for each of several platforms.
    pub async fn tag_all(self: &Arc<Self>, target: &str, images: Vec<(Platform, String)>) -> Result<()> {
        let tag = reference::parse(target)?.with_default_tag();
        let host = Platform::host();
        let main =
            images.iter().filter_map(|one| Some((host.rank(&one.0)?, one))).min_by_key(|(rank, _)| *rank);
        let main = main.map(|(_, one)| one).or(images.first());
        let main = main.ok_or_else(|| Error::Invalid(format!("{target}: a tag needs an image")))?.1.clone();
        let store = self.clone();
        blocking(move || {
            store.write(|c| {
                db::set_tag(c, &tag, &main)?;
                if images.len() > 1 {
                    db::set_variants(c, &tag, &images)?;
                }
                Ok(())
            })
        })
        .await
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

    /// As `get`, but of a tag for several platforms the image of that one, or what was pulled for it beside the tag's own.
    pub fn get_for(&self, text: &str, platform: &Platform) -> Result<Arc<Image>> {
        if let Ok(tag) = reference::parse(text).map(Reference::with_default_tag) {
            let ranked =
                self.variants(&tag).into_iter().filter_map(|(p, image)| Some((platform.rank(&p)?, image)));
            if let Some((_, image)) = ranked.min_by_key(|(rank, _)| *rank) {
                return Ok(image);
            }
            let own = self.get(text);
            if !own.as_ref().is_ok_and(|image| image.config.fits(platform)) {
                let beside = db::beside(&self.db.lock(), &tag)?;
                let mut beside = beside.iter().filter_map(|id| self.get(id).ok());
                if let Some(image) = beside.find(|image| image.config.fits(platform)) {
                    return Ok(image);
                }
            }
            return own;
        }
        self.get(text)
    }
}
