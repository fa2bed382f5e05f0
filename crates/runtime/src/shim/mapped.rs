//! Mounts whose files show other owners than the disk has: the root and the binds of a container with a user namespace.
//! Only whoever is root of the machine can make them, so it is the shim that does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use sys::mount;
use sys::userns::IdMaps;

use super::options::Options;
use super::rootfs::overlay_options;
use crate::protocol::{ContainerConfig, Failure, Step};

/// Ids that mounts are given.
pub(super) struct Ids {
    maps: IdMaps,
    namespace: OwnedFd,
}

impl Ids {
    /// Those of a container, if it has a user namespace.
    pub(super) fn of(config: &ContainerConfig) -> Result<Option<Ids>, Failure> {
        if config.uid_map.is_empty() {
            return Ok(None);
        }
        let maps = IdMaps { uids: config.uid_map.clone(), gids: config.gid_map.clone() };
        let namespace = sys::userns::mapped(&maps.uids, &maps.gids)
            .step(|| "make a user namespace for the ids of mounts".into())?;
        Ok(Some(Ids { maps, namespace }))
    }

    /// A detached copy of a mount with these ids.
    fn mapped(&self, path: &Path, recursive: bool) -> Result<OwnedFd, Failure> {
        let tree = mount::clone_tree(path, recursive).step(|| format!("bind {}", path.display()))?;
        mount::set_idmap(tree.as_fd(), self.namespace.as_fd(), recursive).map_err(|e| {
            Failure::setup(format!(
                "map the ids of {}: {}: a user namespace needs Linux 5.19 or newer and a file system with mapped ids \
                 (ext4, xfs, btrfs)",
                path.display(),
                crate::protocol::plain(&e)
            ))
        })?;
        Ok(tree)
    }

    /// The bind mounts that shall have the container's ids (`idmap`, `ridmap`), by their number.
    pub(super) fn binds(&self, spec: &Spec) -> Result<Vec<(usize, OwnedFd)>, Failure> {
        let mut out = Vec::new();
        for (number, m) in spec.mounts().iter().flatten().enumerate() {
            let options = Options::parse(m.options().as_deref().unwrap_or_default());
            if let (true, Some(source)) = (options.idmap, m.source().as_deref()) {
                out.push((number, self.mapped(source, options.recursive)?));
            }
        }
        Ok(out)
    }
}

/// An overlay whose layers hold the container's ids and show the machine's: root of the container owns, on the disk, what
/// root of an image owns, so that no file is copied or changed for the mapping, and a commit has the right owners.
pub(super) fn mapped_overlay(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    ids: &Ids,
    place: BorrowedFd<'_>,
) -> Result<OwnedFd, Failure> {
    let layers: Vec<&Path> = lower.iter().map(PathBuf::as_path).chain([upper, work]).collect();
    let above = common(&layers).ok_or_else(|| Failure::setup("the root has no layers"))?;
    let tree = ids.mapped(above, false)?;
    // One mount with mapped ids for all of them, in sight of this namespace only; the overlay then covers it.
    mount::attach(tree.as_fd(), place).step(|| "attach the layers".into())?;
    let here = |layer: &Path| Path::new("rootfs").join(layer.strip_prefix(above).unwrap_or(layer));
    let lower: Vec<PathBuf> = lower.iter().map(|l| here(l)).collect();
    let (upper, work) = (here(upper), here(work));
    let (uid, gid) = ids.maps.root();
    // What overlayfs itself makes, it makes as whoever has mounted it.
    let overlay = sys::userns::with_file_ids(uid, gid, || {
        mount::overlay(&lower, Some((&upper, &work)), &overlay_options(), 0)
    })
    .and_then(|made| made)
    .step(|| format!("mount overlay of {} layers with mapped ids below {}", lower.len(), above.display()))?;
    mount::attach(overlay.as_fd(), place).step(|| "attach the root".into())?;
    Ok(overlay)
}

/// The deepest folder that all paths lie in.
fn common<'a>(paths: &[&'a Path]) -> Option<&'a Path> {
    let (first, rest) = paths.split_first()?;
    first.ancestors().skip(1).find(|folder| rest.iter().all(|p| p.starts_with(folder) && p != folder))
}
