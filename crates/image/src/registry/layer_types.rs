//! The media types of layers: the one table of those that are read and written.
//!
//! What a layer's stream really is tell its first bytes, as with Docker: old registries and tools have named types as it
//! came to them. So a type says whether something is a layer at all, who keeps it, and how a manifest names it anew.

use super::manifest::media;
use crate::archive::compress::Compression;

/// A kind of layer, by its names in either family of manifests.
#[derive(Debug, PartialEq, Eq)]
pub struct LayerType {
    /// In Docker's schema 2.
    pub docker: &'static str,
    /// In OCI image-spec 1.1.
    pub oci: &'static str,
    /// How it is compressed.
    pub compression: Compression,
    /// Whether registries need not keep it.
    pub elsewhere: bool,
}

const fn row(
    docker: &'static str,
    oci: &'static str,
    compression: Compression,
    elsewhere: bool,
) -> LayerType {
    LayerType { docker, oci, compression, elsewhere }
}

/// All of them.
const LAYER_TYPES: [LayerType; 6] = [
    row(media::DOCKER_LAYER, "application/vnd.oci.image.layer.v1.tar+gzip", Compression::Gzip, false),
    row("application/vnd.docker.image.rootfs.diff.tar", media::OCI_LAYER, Compression::None, false),
    row(
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        Compression::Zstd,
        false,
    ),
    row(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        Compression::Gzip,
        true,
    ),
    row(
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        Compression::None,
        true,
    ),
    row(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        Compression::Zstd,
        true,
    ),
];

/// Names that say no more than that there is a layer, compressed with gzip where nothing else is found: of manifests
/// without types, of registries that called every blob that, and of Docker 1.x.
const PLAIN: [&str; 3] =
    ["", "application/octet-stream", "application/vnd.docker.container.image.rootfs.diff+x-gtar"];

/// What kind of layer a media type names; `None` if it names none that is known.
pub fn layer_type(name: &str) -> Option<&'static LayerType> {
    let [gzip, ..] = &LAYER_TYPES;
    LAYER_TYPES
        .iter()
        .find(|kind| kind.docker == name || kind.oci == name)
        .or_else(|| PLAIN.contains(&name).then_some(gzip))
}

/// The names that one manifest gives layers, each of a media type and compressed or not: all of one family. Docker's has no
/// zstd that Docker itself would read.
pub(crate) fn of_one_family(layers: &[(&str, bool)]) -> (bool, Vec<String>) {
    let kinds: Vec<_> = layers.iter().map(|(name, compressed)| (*name, kind_of(name, *compressed))).collect();
    let oci = kinds.iter().any(|(name, kind)| {
        kind.is_some_and(|kind| kind.oci == *name || kind.compression == Compression::Zstd)
    });
    let names = kinds.into_iter().map(|(name, kind)| match kind {
        Some(kind) if oci => kind.oci.to_string(),
        Some(kind) => kind.docker.to_string(),
        None => name.to_string(),
    });
    (oci, names.collect())
}

/// As `layer_type`, of a layer that is known to be compressed or not.
fn kind_of(name: &str, compressed: bool) -> Option<&'static LayerType> {
    let kind = layer_type(name)?;
    let plain = |k: &&LayerType| k.compression == Compression::None && k.elsewhere == kind.elsewhere;
    if compressed { Some(kind) } else { LAYER_TYPES.iter().find(plain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_manifest_speaks_one_language() {
        let docker = |kind: &str| format!("application/vnd.docker.image.rootfs.{kind}");
        let oci = |kind: &str| format!("application/vnd.oci.image.layer.{kind}");
        for (layers, family, names) in [
            (
                vec![(docker("diff.tar.gzip"), true), (String::new(), false)],
                false,
                ["diff.tar.gzip", "diff.tar"],
            ),
            (vec![(docker("diff.tar.gzip"), true), (oci("v1.tar"), false)], true, ["v1.tar+gzip", "v1.tar"]),
            (
                vec![(docker("foreign.diff.tar.gzip"), true), (docker("diff.tar.zstd"), true)],
                true,
                ["nondistributable.v1.tar+gzip", "v1.tar+zstd"],
            ),
        ] {
            let layers: Vec<(&str, bool)> = layers.iter().map(|(n, c)| (n.as_str(), *c)).collect();
            let names = names.map(|n| if family { oci(n) } else { docker(n) });
            assert_eq!(of_one_family(&layers), (family, names.to_vec()));
        }
    }

    #[test]
    fn each_name_is_there_once_and_says_what_it_is() {
        let names: Vec<&str> = LAYER_TYPES.iter().flat_map(|k| [k.docker, k.oci]).chain(PLAIN).collect();
        let once: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(once.len(), names.len());
        for kind in &LAYER_TYPES {
            for name in [kind.docker, kind.oci] {
                assert_eq!(layer_type(name), Some(kind));
                let end = |all: [&str; 2]| all.iter().any(|end| name.ends_with(end));
                assert_eq!(kind.compression == Compression::Gzip, end([".gzip", "+gzip"]), "{name}");
                assert_eq!(kind.compression == Compression::Zstd, end([".zstd", "+zstd"]), "{name}");
                assert_eq!(
                    kind.elsewhere,
                    name.contains("foreign") || name.contains("nondistributable"),
                    "{name}"
                );
            }
        }
        for name in PLAIN {
            assert_eq!(layer_type(name).map(|k| k.compression), Some(Compression::Gzip));
        }
        for none in ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/json", "tar"] {
            assert_eq!(layer_type(none), None);
        }
    }
}
