//! Unpacked layers: each once, in a folder of its own, found by the digest of its tar.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::reap::bury;
use super::{ImageStore, Index, LayerInfo, Lease, db, snapshots::remove_tree};
use crate::archive::compress::{self, Digesting};
use crate::archive::tar::{Reader, Tee};
use crate::archive::{ExtractOptions, extract, pack, recipe};
use crate::error::{Error, Result};
use crate::types::Layer;

/// A layer's folder while it is being filled; removed unless it is adopted.
struct Draft {
    name: String,
    path: PathBuf,
    adopted: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.adopted
            && let Err(error) = remove_tree(&self.path)
        {
            tracing::warn!(%error, "a half-made layer stays until the next start");
        }
    }
}

/// Asks the file system to put the folders that are made in `dir` into different parts of the disk (`chattr +T`).
///
/// A layer is thousands of files that come and go together. ext4 makes files where their folder lies, and before it takes
/// an inode there it looks at every one that was freed in the last minutes: a layer that came right after another had
/// been removed took ten times as long.
pub(super) fn spread(dir: &Path) -> Result<()> {
    use rustix::fs::IFlags;
    let folder = fs::File::open(dir).map_err(Error::file("open the folder", dir))?;
    let spread = || match rustix::fs::ioctl_getflags(&folder)? {
        flags if flags.contains(IFlags::TOPDIR) => Ok(()),
        flags => rustix::fs::ioctl_setflags(&folder, flags | IFlags::TOPDIR),
    };
    if let Err(error) = spread() {
        // A wish: other file systems have no such flag and no such need.
        tracing::debug!(%error, "layers are not spread over the disk");
    }
    Ok(())
}

impl ImageStore {
    fn draft(&self) -> Result<Draft> {
        let name = base::rng::hex(5);
        let path = self.layers_dir().join(&name);
        fs::create_dir(&path).map_err(Error::file("make the folder", &path))?;
        Ok(Draft { name, path, adopted: false })
    }

    /// Unpacks an uncompressed tar as a layer, which is named by the algorithm of the digest `like`. Blocking; `source`
    /// is read to its end.
    pub(crate) fn unpack(self: &Arc<Self>, source: impl Read + Send, like: &str) -> Result<Layer> {
        self.await_room()?;
        let draft = self.draft()?;
        let fs_dir = draft.path.join("fs");
        fs::create_dir(&fs_dir).map_err(Error::file("make the folder", &fs_dir))?;
        let root = fs::File::open(&fs_dir)?;
        let mut recipe = recipe::Writer::create(&draft.path)?;
        let options = ExtractOptions { whiteouts: true, guard: true, ..ExtractOptions::default() };
        let (done, diff_id, tar_size) = compress::read_ahead(source, like, |stream| {
            let mut reader = Reader::with_tee(stream, &mut recipe);
            extract::extract(root.as_fd(), Path::new("/"), &mut reader, &options)
        })?;
        recipe.finish()?;
        let info = LayerInfo {
            dir: draft.name.clone(),
            size: done.bytes,
            tar_size,
            has_root: done.has_root,
            fresh: true,
        };
        self.adopt(draft, &diff_id, info)
    }

    /// Makes a layer of a copy of an upper folder, which may be in use meanwhile.
    pub(super) fn layer_from_dir(self: &Arc<Self>, upper: &Path) -> Result<Layer> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let upper = upper.to_path_buf();
        std::thread::scope(|scope| {
            let packing = scope.spawn(move || {
                let mut sink = WriteSink(io::BufWriter::with_capacity(64 * 1024, fs::File::from(writer)));
                pack::pack_layer(&upper, &mut sink)?;
                io::Write::flush(&mut sink.0)
            });
            let layer = self.unpack(fs::File::from(reader), "");
            match packing.join() {
                // If unpacking failed, packing fails for want of a reader: the first reason counts.
                Ok(packed) => layer.and_then(|l| packed.map(|()| l).map_err(Error::from)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Makes a layer of an upper folder by moving it: nothing may use it any more.
    pub(super) fn layer_by_moving(self: &Arc<Self>, upper: &Path) -> Result<Layer> {
        let draft = self.draft()?;
        let mut sink = Moving {
            hash: Digesting::new(io::sink()),
            recipe: recipe::Writer::create(&draft.path)?,
            bytes: 0,
        };
        pack::pack_layer(upper, &mut sink).map_err(Error::file("pack the layer in", upper))?;
        let (diff_id, tar_size, _) = sink.hash.finish();
        sink.recipe.finish()?;
        let fs_dir = draft.path.join("fs");
        fs::rename(upper, &fs_dir).map_err(Error::file("move the layer to", &fs_dir))?;
        let info =
            LayerInfo { dir: draft.name.clone(), size: sink.bytes, tar_size, has_root: false, fresh: true };
        self.adopt(draft, &diff_id, info)
    }

    /// Makes a finished draft a layer, unless the same one has come meanwhile.
    fn adopt(self: &Arc<Self>, mut draft: Draft, diff_id: &str, info: LayerInfo) -> Result<Layer> {
        if let Some(layer) = self.existing_layer(diff_id) {
            return Ok(layer);
        }
        let size = info.size;
        {
            // The lease first, under the lock that a collection takes too.
            let mut leases = self.leases.lock();
            *leases.entry(diff_id.into()).or_default() += 1;
            let mut index = self.index.write();
            // Two drafts of one layer may have come this far; the first one stays.
            if !index.layers.contains_key(diff_id) {
                index.layers.insert(diff_id.into(), info);
                draft.adopted = true;
            }
        }
        let lease = Lease { diff_id: diff_id.into(), store: Arc::downgrade(self) };
        Ok(Layer { diff_id: diff_id.into(), size, _lease: Arc::new(lease) })
    }

    /// A transaction that adds an image with these layers: those that are new are brought to the disk first, all at
    /// once, and get their rows in the same transaction. The caller holds leases.
    pub(crate) fn write_image<T>(
        &self,
        diff_ids: &[String],
        change: impl FnOnce(&mut db::Changes<'_>) -> Result<T>,
    ) -> Result<T> {
        let fresh: Vec<(String, LayerInfo)> = {
            let index = self.index.read();
            let found = diff_ids.iter().filter_map(|d| Some((d.clone(), index.layers.get(d)?.clone())));
            found.filter(|(_, info)| info.fresh).collect()
        };
        if !fresh.is_empty() {
            rustix::fs::syncfs(fs::File::open(self.layers_dir())?)?;
        }
        let value = self.write(|c| {
            for (diff_id, info) in &fresh {
                db::add_layer(c, diff_id, info)?;
            }
            change(c)
        })?;
        self.written.notify_one();
        Ok(value)
    }

    /// The exact tar of a layer, made again. Blocking to read; its digest is the reader's to verify.
    pub(crate) fn layer_tar(&self, diff_id: &str) -> Result<(recipe::Rebuilt, u64)> {
        let info = self.index.read().layers.get(diff_id).cloned();
        let info = info.ok_or_else(|| Error::NotFound(format!("layer {diff_id} is missing")))?;
        let dir = self.layers_dir().join(&info.dir);
        Ok((recipe::Rebuilt::open(&dir).map_err(Error::file("read the layer in", &dir))?, info.tar_size))
    }

    /// Removes every layer that no image, snapshot or lease needs, and compressed blobs of none. Returns layers and bytes.
    pub(super) fn collect_layers(&self) -> Result<(u64, u64)> {
        // Whoever comes second finds the folders of the first gone, too.
        let _collection = self.collection.lock();
        let mut dead: Vec<(String, LayerInfo)> = Vec::new();
        let mut blobs = Vec::new();
        {
            // The snapshots and leases are held while the rows go, so that nobody takes a layer that is going.
            let mut database = self.db.lock();
            let snapshots = self.snapshots.lock();
            let leases = self.leases.lock();
            let used_dirs: HashSet<&str> =
                snapshots.values().flat_map(|r| r.lower.iter().map(String::as_str)).collect();
            {
                let index = self.index.read();
                let used = used_layers(&index);
                for (diff_id, info) in &index.layers {
                    if !used.contains(diff_id.as_str())
                        && !leases.contains_key(diff_id)
                        && !used_dirs.contains(info.dir.as_str())
                    {
                        dead.push((diff_id.clone(), info.clone()));
                    }
                }
            }
            if dead.is_empty() {
                return Ok((0, 0));
            }
            let tx = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for (diff_id, _) in &dead {
                blobs.extend(
                    db::layer_blobs(&tx, diff_id)?.into_iter().filter(|b| b.stored).map(|b| b.digest),
                );
                tx.prepare_cached("DELETE FROM layers WHERE diff_id = ?1")?.execute([diff_id])?;
                tx.prepare_cached("DELETE FROM layer_blobs WHERE diff_id = ?1")?.execute([diff_id])?;
            }
            tx.execute("DELETE FROM blob_sources WHERE digest NOT IN (SELECT digest FROM layer_blobs)", [])?;
            tx.commit()?;
            let mut index = self.index.write();
            for (diff_id, _) in &dead {
                index.layers.remove(diff_id);
            }
        }
        let mut bytes = 0;
        for (_, info) in &dead {
            bytes += info.size;
            self.unmeasured(&info.dir);
            self.bury(&self.layers_dir().join(&info.dir))?;
        }
        self.reap();
        for digest in blobs {
            bytes += self.drop_blob(&digest)?;
        }
        Ok((dead.len() as u64, bytes))
    }

    /// At start: removes folders and blobs that no row names, and what nobody needs any more.
    pub(super) fn sweep(&self) -> Result<()> {
        let known: HashSet<String> = self.index.read().layers.values().map(|l| l.dir.clone()).collect();
        for entry in fs::read_dir(self.layers_dir())? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|n| known.contains(n)) {
                bury(&self.root, &entry.path());
                continue;
            }
            for inside in fs::read_dir(entry.path())? {
                let inside = inside?;
                if inside.file_name().as_encoded_bytes().starts_with(b".tmp-") {
                    bury(&self.root, &inside.path());
                }
            }
        }
        let stored: HashSet<String> = {
            let db = self.db.lock();
            let mut statement = db.prepare("SELECT digest FROM layer_blobs WHERE stored = 1")?;
            let rows = statement.query_map([], |r| r.get::<_, String>(0))?;
            rows.collect::<std::result::Result<_, _>>()?
        };
        for (digest, path) in self.blob_files(false)? {
            if !stored.contains(&digest)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(%error, path = %path.display(), "it stays until the next start");
            }
        }
        self.collect_layers()?;
        // Also what the process before had no time for.
        self.reap();
        Ok(())
    }
}

/// The layers that images need, and those that are kept by name.
fn used_layers(index: &Index) -> HashSet<&str> {
    let of_images = index.images.values().flat_map(|i| i.diff_ids().iter().map(String::as_str));
    of_images.chain(index.kept.values().map(String::as_str)).collect()
}

struct WriteSink<W>(W);

impl<W: io::Write> pack::Sink for WriteSink<W> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn file(&mut self, _: &[u8], size: u64, data: &mut dyn Read) -> io::Result<()> {
        pack::copy_exactly(data, size, &mut self.0)
    }
}

/// Digests the tar and writes the recipe, while the files stay where they are.
struct Moving {
    hash: Digesting<io::Sink>,
    recipe: recipe::Writer,
    bytes: u64,
}

impl pack::Sink for Moving {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut self.hash, bytes)?;
        self.recipe.raw(bytes)
    }

    fn file(&mut self, path: &[u8], size: u64, data: &mut dyn Read) -> io::Result<()> {
        self.bytes += size;
        self.recipe.file(path, size)?;
        pack::copy_exactly(data, size, &mut self.hash)
    }
}
