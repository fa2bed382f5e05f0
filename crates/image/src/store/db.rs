//! The metadata database: opening, reading into memory, and the changes that a transaction is made of.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{Index, LayerInfo};
use crate::config::ImageConfig;
use crate::error::{Error, Result};
use crate::platform::Platform;
use crate::reference::{self, Reference};
use crate::types::Image;

/// The format of the database; higher ones are refused.
const FORMAT: i64 = 1;

pub(crate) fn open(path: &Path) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    let format: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    match format {
        0 => db.execute_batch(&format!(
            "BEGIN;{}PRAGMA user_version={FORMAT};COMMIT;",
            include_str!("schema.sql")
        ))?,
        FORMAT => {}
        other => {
            return Err(Error::Invalid(format!(
                "{}: this data folder was written in format {other} of the image store, this version reads format \
                 {FORMAT}: use the version that wrote it, or another --data-dir",
                path.display()
            )));
        }
    }
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, diff_id TEXT NOT NULL) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS variants (
             reference TEXT NOT NULL, platform TEXT NOT NULL, image TEXT NOT NULL, PRIMARY KEY (reference, platform)
         ) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS beside (
             reference TEXT NOT NULL, image TEXT NOT NULL, PRIMARY KEY (reference, image)
         ) WITHOUT ROWID;",
    )?;
    Ok(db)
}

/// Reads everything that is kept in memory.
pub(super) fn load(db: &Connection) -> Result<Index> {
    let mut index = Index::default();
    let mut layers = db.prepare("SELECT diff_id, dir, size, tar_size, has_root FROM layers")?;
    for row in layers.query_map([], layer_row)? {
        let (diff_id, info) = row?;
        index.layers.insert(diff_id, info);
    }
    let mut kept = db.prepare("SELECT name, diff_id FROM kept")?;
    for row in kept.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))? {
        let (name, diff_id) = row?;
        index.kept.insert(name, diff_id);
    }
    let mut ids = db.prepare("SELECT id FROM images")?;
    let ids =
        ids.query_map([], |r| r.get::<_, String>(0))?.collect::<std::result::Result<BTreeSet<_>, _>>()?;
    let mut tags = db.prepare("SELECT DISTINCT reference FROM variants")?;
    let variants = tags.query_map([], |r| r.get(0))?.collect::<std::result::Result<_, _>>()?;
    follow(db, &mut index, &Touched { images: ids, variants, ..Touched::default() })?;
    index.used.clear();
    Ok(index)
}

fn layer_row(r: &rusqlite::Row<'_>) -> rusqlite::Result<(String, LayerInfo)> {
    let n = |i| r.get::<_, i64>(i).map(|n| n.max(0) as u64);
    Ok((
        r.get(0)?,
        LayerInfo { dir: r.get(1)?, size: n(2)?, tar_size: n(3)?, has_root: r.get(4)?, fresh: false },
    ))
}

/// What a transaction changed, as far as the memory must follow.
#[derive(Default)]
pub(crate) struct Touched {
    images: BTreeSet<String>,
    layers: BTreeSet<String>,
    kept: Vec<(String, Option<String>)>,
    variants: BTreeSet<String>,
}

/// A transaction under way.
pub(crate) struct Changes<'a> {
    pub tx: Transaction<'a>,
    touched: Touched,
}

impl<'a> Changes<'a> {
    pub fn new(tx: Transaction<'a>) -> Self {
        Self { tx, touched: Touched::default() }
    }

    pub fn touch_image(&mut self, id: &str) {
        self.touched.images.insert(id.into());
    }

    pub fn touch_layer(&mut self, diff_id: &str) {
        self.touched.layers.insert(diff_id.into());
    }

    pub fn commit(self) -> Result<Touched> {
        self.tx.commit()?;
        Ok(self.touched)
    }
}

/// Makes the memory equal to the database for everything that was touched.
pub(super) fn follow(db: &Connection, index: &mut Index, touched: &Touched) -> Result<()> {
    for (name, diff_id) in &touched.kept {
        match diff_id {
            Some(diff_id) => index.kept.insert(name.clone(), diff_id.clone()),
            None => index.kept.remove(name),
        };
    }
    for tag in &touched.variants {
        let mut rows =
            db.prepare_cached("SELECT platform, image FROM variants WHERE reference = ?1 ORDER BY platform")?;
        let rows = rows.query_map([tag], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
        let mut all = Vec::new();
        for row in rows {
            let (platform, image) = row?;
            all.push((Platform::parse(&platform)?, image));
        }
        match all.is_empty() {
            true => index.variants.remove(tag),
            false => index.variants.insert(tag.clone(), all),
        };
    }
    for diff_id in &touched.layers {
        let row = db
            .prepare_cached("SELECT diff_id, dir, size, tar_size, has_root FROM layers WHERE diff_id = ?1")?
            .query_row([diff_id], layer_row)
            .optional()?;
        match row {
            Some((id, info)) => index.layers.insert(id, info),
            None => index.layers.remove(diff_id),
        };
    }
    for id in &touched.images {
        let old = index.images.remove(id);
        let known = old.is_some();
        if let Some(old) = old {
            for (list, map) in [(&old.tags, true), (&old.repo_digests, false)] {
                for familiar in list {
                    let Ok(r) = reference::parse(familiar) else { continue };
                    let map = if map { &mut index.tags } else { &mut index.digests };
                    // A tag that has moved to another image belongs to that one already.
                    if map.get(&r.to_string()) == Some(id) {
                        map.remove(&r.to_string());
                    }
                }
            }
        }
        if index.used.contains_key(id) || !known {
            index.used.insert(id.clone(), tokio::time::Instant::now());
        }
        let read = read_image(db, index, id)?;
        if read.is_none() {
            index.used.remove(id);
        }
        if let Some((image, tags, digests)) = read {
            index.tags.extend(tags.into_iter().map(|t| (t, id.clone())));
            index.digests.extend(digests.into_iter().map(|d| (d, id.clone())));
            index.images.insert(id.clone(), Arc::new(image));
        }
    }
    Ok(())
}

type Read = (Image, Vec<String>, Vec<String>);

fn read_image(db: &Connection, index: &Index, id: &str) -> Result<Option<Read>> {
    let row = db
        .prepare_cached("SELECT config, parent, manifest, tagged_at FROM images WHERE id = ?1")?
        .query_row([id], |r| {
            Ok((
                r.get::<_, Vec<u8>>(0)?,
                r.get::<_, Option<String>>(1)?,
                r.get::<_, Option<String>>(2)?,
                r.get::<_, Option<String>>(3)?,
            ))
        })
        .optional()?;
    let Some((raw, parent, manifest_digest, tagged_at)) = row else { return Ok(None) };
    let config = ImageConfig::parse(&raw, id)?;
    let mut statement =
        db.prepare_cached("SELECT reference FROM tags WHERE image = ?1 ORDER BY reference")?;
    let tags =
        statement.query_map([id], |r| r.get::<_, String>(0))?.collect::<std::result::Result<Vec<_>, _>>()?;
    let mut statement = db
        .prepare_cached("SELECT name || '@' || digest FROM digests WHERE image = ?1 ORDER BY name, digest")?;
    let digests =
        statement.query_map([id], |r| r.get::<_, String>(0))?.collect::<std::result::Result<Vec<_>, _>>()?;
    let familiar = |list: &[String]| {
        let mut f: Vec<_> =
            list.iter().map(|t| reference::parse(t).map_or_else(|_| t.clone(), |r| r.familiar())).collect();
        f.sort();
        f
    };
    let layer_sizes: Vec<u64> =
        config.rootfs.diff_ids.iter().map(|d| index.layers.get(d).map_or(0, |l| l.size)).collect();
    let image = Image {
        id: id.into(),
        manifest_digest,
        tags: familiar(&tags),
        repo_digests: familiar(&digests),
        size: layer_sizes.iter().sum(),
        layer_sizes,
        config,
        raw_config: Bytes::from(raw),
        parent,
        tagged_at: tagged_at.and_then(|t| t.parse().ok()),
    };
    Ok(Some((image, tags, digests)))
}

/// Adds an image unless it is there. Its layers must be in the store and leased by the caller.
pub(crate) fn add_image(c: &mut Changes<'_>, id: &str, config: &[u8], parent: Option<&str>) -> Result<()> {
    ImageConfig::parse(config, id)?.check_depth()?;
    c.tx.prepare_cached(
        "INSERT INTO images (id, config, parent, added) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET parent = coalesce(images.parent, excluded.parent)",
    )?
    .execute(params![id, config, parent, base::clock::now_nano()])?;
    c.touch_image(id);
    Ok(())
}

/// Remembers the manifest that describes an image.
pub(crate) fn add_manifest(
    c: &mut Changes<'_>,
    digest: &str,
    media_type: &str,
    content: &[u8],
    image: &str,
) -> Result<()> {
    c.tx.prepare_cached(
        "INSERT OR REPLACE INTO manifests (digest, media_type, content, image) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![digest, media_type, content, image])?;
    c.tx.prepare_cached("UPDATE images SET manifest = ?2 WHERE id = ?1")?.execute(params![image, digest])?;
    c.touch_image(image);
    Ok(())
}

/// Points a tag at an image, which must be there.
pub(crate) fn set_tag(c: &mut Changes<'_>, tag: &Reference, image: &str) -> Result<()> {
    let full = tag.to_string();
    let there = c.tx.prepare_cached("SELECT 1 FROM images WHERE id = ?1")?.exists([image])?;
    if !there {
        // Removed since it was found.
        return Err(Error::NoSuchImage(image.into()));
    }
    let old = tag_target(&c.tx, &full)?;
    if let Some(old) = &old {
        c.touch_image(old);
    }
    forget_variants(c, &full)?;
    c.tx.prepare_cached("INSERT OR REPLACE INTO tags (reference, image) VALUES (?1, ?2)")?
        .execute([&full, image])?;
    c.tx.prepare_cached("UPDATE images SET tagged_at = ?2 WHERE id = ?1")?
        .execute(params![image, base::clock::now().to_string()])?;
    c.touch_image(image);
    Ok(())
}

/// Remembers the image of each platform that a tag is for.
pub(crate) fn set_variants(
    c: &mut Changes<'_>,
    tag: &Reference,
    images: &[(Platform, String)],
) -> Result<()> {
    let full = tag.to_string();
    for (platform, image) in images {
        // What is written here must be understood when the store is opened.
        Platform::parse(&platform.to_string())?;
        c.tx.prepare_cached(
            "INSERT OR REPLACE INTO variants (reference, platform, image) VALUES (?1, ?2, ?3)",
        )?
        .execute([&full, &platform.to_string(), image])?;
    }
    c.touched.variants.insert(full);
    Ok(())
}

fn forget_variants(c: &mut Changes<'_>, full: &str) -> Result<()> {
    if c.tx.prepare_cached("DELETE FROM variants WHERE reference = ?1")?.execute([full])? > 0 {
        c.touched.variants.insert(full.to_string());
    }
    Ok(())
}

/// Removes a tag or digest reference; whether it was there.
pub(crate) fn remove_reference(c: &mut Changes<'_>, r: &Reference) -> Result<bool> {
    let n = match &r.digest {
        Some(digest) => {
            let (name, digest) = (r.name(), digest.clone());
            let image: Option<String> =
                c.tx.prepare_cached("SELECT image FROM digests WHERE name = ?1 AND digest = ?2")?
                    .query_row([&name, &digest], |r| r.get(0))
                    .optional()?;
            if let Some(image) = image {
                c.touch_image(&image);
            }
            c.tx.prepare_cached("DELETE FROM digests WHERE name = ?1 AND digest = ?2")?
                .execute([&name, &digest])?
        }
        None => {
            let full = r.to_string();
            if let Some(image) = tag_target(&c.tx, &full)? {
                c.touch_image(&image);
            }
            forget_variants(c, &full)?;
            c.tx.prepare_cached("DELETE FROM tags WHERE reference = ?1")?.execute([&full])?
        }
    };
    Ok(n > 0)
}

/// Remembers that `name@digest` is this image.
pub(crate) fn add_digest(c: &mut Changes<'_>, name: &str, digest: &str, image: &str) -> Result<()> {
    let old: Option<String> =
        c.tx.prepare_cached("SELECT image FROM digests WHERE name = ?1 AND digest = ?2")?
            .query_row([name, digest], |r| r.get(0))
            .optional()?;
    if let Some(old) = old {
        c.touch_image(&old);
    }
    c.tx.prepare_cached("INSERT OR REPLACE INTO digests (name, digest, image) VALUES (?1, ?2, ?3)")?
        .execute([name, digest, image])?;
    c.touch_image(image);
    Ok(())
}

/// Remembers that this image was pulled by a tag that stands, on this machine, on another platform's.
pub(crate) fn add_beside(c: &mut Changes<'_>, tag: &Reference, image: &str) -> Result<()> {
    c.tx.prepare_cached("INSERT OR IGNORE INTO beside (reference, image) VALUES (?1, ?2)")?
        .execute([tag.to_string().as_str(), image])?;
    Ok(())
}

/// The images that were pulled beside a tag, the last one first.
pub(crate) fn beside(db: &Connection, tag: &Reference) -> Result<Vec<String>> {
    let mut statement = db.prepare_cached(
        "SELECT beside.image FROM beside JOIN images ON images.id = beside.image WHERE reference = ?1
         ORDER BY images.rowid DESC",
    )?;
    let rows = statement.query_map([tag.to_string()], |r| r.get(0))?;
    Ok(rows.collect::<std::result::Result<_, _>>()?)
}

/// Removes an image with every reference and manifest of it.
pub(crate) fn delete_image(c: &mut Changes<'_>, id: &str) -> Result<()> {
    let of_tags =
        "SELECT reference FROM variants WHERE image = ?1 UNION SELECT reference FROM tags WHERE image = ?1";
    let tags =
        c.tx.prepare_cached(of_tags)?
            .query_map([id], |r| r.get(0))?
            .collect::<rusqlite::Result<Vec<String>>>()?;
    for tag in tags {
        c.tx.prepare_cached(
            "DELETE FROM variants WHERE reference = ?1 AND (image = ?2 OR EXISTS
             (SELECT 1 FROM tags WHERE tags.reference = ?1 AND tags.image = ?2))",
        )?
        .execute([tag.as_str(), id])?;
        c.touched.variants.insert(tag);
    }
    for sql in [
        "DELETE FROM tags WHERE image = ?1",
        "DELETE FROM digests WHERE image = ?1",
        "DELETE FROM manifests WHERE image = ?1",
        "DELETE FROM beside WHERE image = ?1",
        "DELETE FROM images WHERE id = ?1",
    ] {
        c.tx.prepare_cached(sql)?.execute([id])?;
    }
    c.touch_image(id);
    Ok(())
}

/// Keeps a layer under a name.
pub(crate) fn keep_layer(c: &mut Changes<'_>, name: &str, diff_id: &str) -> Result<()> {
    c.tx.prepare_cached("INSERT OR REPLACE INTO kept (name, diff_id) VALUES (?1, ?2)")?
        .execute(params![name, diff_id])?;
    c.touched.kept.push((name.into(), Some(diff_id.into())));
    Ok(())
}

/// Keeps it no longer.
pub(crate) fn give_up_layer(c: &mut Changes<'_>, name: &str) -> Result<()> {
    c.tx.prepare_cached("DELETE FROM kept WHERE name = ?1")?.execute([name])?;
    c.touched.kept.push((name.into(), None));
    Ok(())
}

/// Adds an unpacked layer.
pub(crate) fn add_layer(c: &mut Changes<'_>, diff_id: &str, info: &LayerInfo) -> Result<()> {
    c.tx.prepare_cached(
        "INSERT OR IGNORE INTO layers (diff_id, dir, size, tar_size, has_root, added) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        diff_id,
        info.dir,
        info.size as i64,
        info.tar_size as i64,
        info.has_root,
        base::clock::now().as_second()
    ])?;
    c.touch_layer(diff_id);
    Ok(())
}

/// Remembers a compressed form of a layer; `stored` says that its bytes are kept here.
pub(crate) fn add_layer_blob(c: &mut Changes<'_>, diff_id: &str, blob: &LayerBlob) -> Result<()> {
    c.tx.prepare_cached(
        "INSERT INTO layer_blobs (diff_id, digest, size, media_type, stored) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (diff_id, digest) DO UPDATE SET stored = max(stored, excluded.stored)",
    )?
    .execute(params![diff_id, blob.digest, blob.size as i64, blob.media_type, blob.stored])?;
    Ok(())
}

/// A compressed form of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerBlob {
    pub digest: String,
    pub size: u64,
    pub media_type: String,
    pub stored: bool,
}

/// The compressed forms known of a layer, stored ones first.
pub(crate) fn layer_blobs(db: &Connection, diff_id: &str) -> Result<Vec<LayerBlob>> {
    let mut statement = db.prepare_cached(
        "SELECT digest, size, media_type, stored FROM layer_blobs WHERE diff_id = ?1 ORDER BY stored DESC, digest",
    )?;
    let rows = statement.query_map([diff_id], |r| {
        Ok(LayerBlob {
            digest: r.get(0)?,
            size: r.get::<_, i64>(1)?.max(0) as u64,
            media_type: r.get(2)?,
            stored: r.get(3)?,
        })
    })?;
    Ok(rows.collect::<std::result::Result<_, _>>()?)
}

fn tag_target(db: &Connection, full: &str) -> Result<Option<String>> {
    Ok(db
        .prepare_cached("SELECT image FROM tags WHERE reference = ?1")?
        .query_row([full], |r| r.get(0))
        .optional()?)
}

/// Remembers that a repository (`host/path`) has a blob.
pub(crate) fn add_blob_source(c: &mut Changes<'_>, digest: &str, repository: &str) -> Result<()> {
    c.tx.prepare_cached("INSERT OR IGNORE INTO blob_sources (digest, repository) VALUES (?1, ?2)")?
        .execute([digest, repository])?;
    Ok(())
}

/// The repositories that are known to have a blob.
pub(crate) fn blob_sources(db: &Connection, digest: &str) -> Result<Vec<String>> {
    let mut statement =
        db.prepare_cached("SELECT repository FROM blob_sources WHERE digest = ?1 ORDER BY repository")?;
    let rows = statement.query_map([digest], |r| r.get(0))?;
    Ok(rows.collect::<std::result::Result<_, _>>()?)
}
