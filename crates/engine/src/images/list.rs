//! Lists of images. A line is written from the image itself: a list of thousands copies none of them.

use std::collections::HashSet;
use std::sync::Arc;

use image::Image;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::{Value, json};

use crate::Engine;
use crate::error::Result;
use crate::filters::Filters;

/// How images are listed.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageListOptions {
    /// Intermediate ones too.
    pub all: bool,
    /// Work out how much each shares with others.
    pub shared: bool,
    /// Tell of each image's manifest.
    pub manifests: bool,
    /// Tell the size under its old name too.
    pub virtual_size: bool,
}

/// One image as a list shows it.
#[derive(Debug)]
pub struct ImageLine {
    image: Arc<Image>,
    /// The references that a filter lets pass; without one all of the image's.
    tags: Option<Vec<String>>,
    digests: Option<Vec<String>>,
    shared: i64,
    containers: i64,
    manifests: Option<Value>,
    virtual_size: bool,
}

impl ImageLine {
    /// The image's id.
    pub fn id(&self) -> &str {
        &self.image.id
    }

    /// Says how many containers use it.
    pub(crate) fn set_containers(&mut self, number: usize) {
        self.containers = i64::try_from(number).unwrap_or(i64::MAX);
    }
}

impl Serialize for ImageLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let image = &self.image;
        let labels = &image.run_config().labels;
        let mut line = serializer.serialize_struct("ImageSummary", 11)?;
        line.serialize_field("Containers", &self.containers)?;
        line.serialize_field("Created", &created(image))?;
        line.serialize_field("Id", &image.id)?;
        line.serialize_field("Labels", &(!labels.is_empty()).then_some(labels))?;
        if let Some(manifests) = &self.manifests {
            line.serialize_field("Manifests", manifests)?;
        }
        line.serialize_field("ParentId", image.parent.as_deref().unwrap_or(""))?;
        line.serialize_field("RepoDigests", self.digests.as_ref().unwrap_or(&image.repo_digests))?;
        line.serialize_field("RepoTags", self.tags.as_ref().unwrap_or(&image.tags))?;
        line.serialize_field("SharedSize", &self.shared)?;
        line.serialize_field("Size", &image.size)?;
        if self.virtual_size {
            line.serialize_field("VirtualSize", &image.size)?;
        }
        line.end()
    }
}

/// Go's `path.Match`: `*` and `?` match no slash, `[...]` a class.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            glob(&pattern[1..], text)
                || (text.first().is_some_and(|c| *c != b'/') && glob(pattern, &text[1..]))
        }
        (Some(b'?'), Some(c)) if *c != b'/' => glob(&pattern[1..], &text[1..]),
        (Some(b'['), Some(c)) => {
            let Some(end) = pattern.iter().position(|b| *b == b']') else { return false };
            let class = &pattern[1..end];
            let (negated, class) = match class.first() {
                Some(b'^') => (true, &class[1..]),
                _ => (false, class),
            };
            let mut found = false;
            let mut at = 0;
            while at < class.len() {
                if at + 2 < class.len() && class[at + 1] == b'-' {
                    found |= (class[at]..=class[at + 2]).contains(c);
                    at += 3;
                } else {
                    found |= class[at] == *c;
                    at += 1;
                }
            }
            found != negated && glob(&pattern[end + 1..], &text[1..])
        }
        (Some(p), Some(c)) if p == c => glob(&pattern[1..], &text[1..]),
        _ => false,
    }
}

/// Whether a familiar reference (`app:1`, `app@sha256:...`) matches a pattern for its name or for the whole.
fn reference_matches(pattern: &str, reference: &str) -> bool {
    let name = match reference.split_once('@') {
        Some((name, _)) => name,
        None => match reference.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name,
            _ => reference,
        },
    };
    glob(pattern.as_bytes(), reference.as_bytes()) || glob(pattern.as_bytes(), name.as_bytes())
}

fn created(image: &Image) -> i64 {
    image.created().map_or(0, |t| t.as_second())
}

impl Engine {
    /// The images that the filters let pass, newest first.
    pub fn image_list(&self, filters: &Filters, options: &ImageListOptions) -> Result<Vec<ImageLine>> {
        filters.only(&["before", "dangling", "label", "label!", "reference", "since", "until"])?;
        let dangling = filters.flag("dangling")?;
        let bound = |key: &str| -> Result<Option<i64>> {
            match filters.get(key).last() {
                Some(reference) => Ok(Some(created(&*self.images.get(reference)?))),
                None => Ok(None),
            }
        };
        let (before, since) = (bound("before")?, bound("since")?);
        let until = filters.get("until").first().map(|t| crate::filters::timestamp(t)).transpose()?;
        let usage = if options.shared { self.images.disk_usage()?.images } else { Vec::new() };
        let usage: std::collections::HashMap<&str, u64> =
            usage.iter().map(|u| (u.id.as_str(), u.shared)).collect();
        let patterns = filters.get("reference");
        // Who lists everything is shown what an image has, without a copy.
        let shown = |refs: &[String]| -> Option<Vec<String>> {
            let fits = |r: &&String| patterns.iter().any(|p| reference_matches(p, r));
            (!patterns.is_empty()).then(|| refs.iter().filter(fits).cloned().collect())
        };
        let mut lines = Vec::new();
        let images = self.images.list();
        let parents: HashSet<&str> = images.iter().filter_map(|i| i.parent.as_deref()).collect();
        for image in &images {
            let (tags, digests) = (shown(&image.tags), shown(&image.repo_digests));
            // What a tag has for another platform is shown with it.
            let variant = image.tags.is_empty() && self.images.is_variant(&image.id);
            let untagged = image.tags.is_empty() && !variant;
            let intermediate =
                variant || untagged && image.repo_digests.is_empty() && parents.contains(image.id.as_str());
            let named = |refs: &Option<Vec<String>>| refs.as_ref().is_none_or(|r| !r.is_empty());
            let fits = (named(&tags) || named(&digests))
                && (options.all || !intermediate)
                && dangling.is_none_or(|d| d == untagged)
                && before.is_none_or(|b| created(image) < b)
                && since.is_none_or(|s| created(image) > s)
                && until.is_none_or(|u| image.created().is_none_or(|c| c <= u))
                && filters.labels(&image.run_config().labels);
            if !fits {
                continue;
            }
            lines.push(ImageLine {
                tags,
                digests,
                shared: usage.get(image.id.as_str()).map_or(-1, |n| i64::try_from(*n).unwrap_or(i64::MAX)),
                containers: -1,
                manifests: options.manifests.then(|| self.manifest_summaries(image)),
                virtual_size: options.virtual_size,
                image: image.clone(),
            });
        }
        Ok(lines)
    }

    /// The manifests that are here of an image and of what its tags have for other platforms.
    pub(super) fn manifest_summaries(&self, image: &Arc<Image>) -> Value {
        let tags = image.tags.iter().filter_map(|tag| image::reference::parse(tag).ok());
        let others = tags.flat_map(|tag| self.images.variants(&tag)).map(|(_, image)| image);
        let mut all = vec![image.clone()];
        for other in others {
            if !all.iter().any(|i| i.id == other.id) {
                all.push(other);
            }
        }
        all.iter().map(|image| self.manifest_summary(image)).collect()
    }

    /// The one manifest that is kept of an image, as `docker images --tree` shows it.
    fn manifest_summary(&self, image: &Image) -> Value {
        let digest = image.manifest_digest.as_deref().unwrap_or(&image.id);
        let stored =
            image.manifest_digest.as_deref().and_then(|d| self.images.stored_manifest(d).ok().flatten());
        let (media_type, size) = match &stored {
            Some((media_type, content)) => (media_type.as_str(), content.len()),
            None => (image::registry::manifest::media::OCI_MANIFEST, 0),
        };
        let users: Vec<String> =
            self.all().iter().filter(|c| c.lock().asked.image == image.id).map(|c| c.id.clone()).collect();
        let c = &image.config;
        json!({
            "ID": digest, "Descriptor": {"mediaType": media_type, "digest": digest, "size": size},
            "Available": true, "Kind": "image", "Size": {"Content": image.size, "Total": image.size},
            "ImageData": {
                "Platform": {"architecture": c.architecture, "os": c.os, "variant": c.variant},
                "Size": {"Unpacked": image.size}, "Containers": users,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(reference_matches("acc-1/*", "acc-1/busybox:1.0"));
        assert!(reference_matches("busybox", "busybox:latest"));
        assert!(reference_matches("busy*:l?test", "busybox:latest"));
        assert!(reference_matches("[a-c]x", "bx:1"));
        assert!(!reference_matches("*", "a/b:1"), "a star matches no slash");
        assert!(!reference_matches("busybox:1", "busybox:2"));
        assert!(reference_matches("localhost:5000/a", "localhost:5000/a:1"));
    }
}
