//! From `Binds`, `Mounts`, `VolumesFrom`, `Tmpfs` and an image's `Volumes` to the mounts of one container.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, invalid};
use crate::model::{Config, HostConfig, Map, Mount};

/// One mount of a container, as `inspect` shows it and as the specification is made from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs` or `image`.
    pub kind: String,
    /// The volume's name.
    pub name: String,
    /// The folder or file on this host.
    pub source: PathBuf,
    /// Where it appears.
    pub destination: String,
    /// The volume's driver.
    pub driver: String,
    /// The mode as it was written, `ro,z`.
    pub mode: String,
    /// Writable.
    pub rw: bool,
    /// `rprivate`, ...
    pub propagation: String,
    /// Without the mounts below the source.
    pub non_recursive: bool,
    /// Read-only itself, but not what is mounted below it.
    pub read_only_top: bool,
    /// Whether a new volume gets the image's content.
    pub copy: bool,
    /// A part of the volume or image.
    pub subpath: String,
    /// Make the source if it is missing (`-v` does, `--mount` does not).
    pub make_source: bool,
    /// The volume is anonymous: it goes when the container goes.
    pub anonymous: bool,
    /// For a volume to be made: its driver's options and its labels.
    #[serde(skip)]
    pub options: Map,
    /// See `options`.
    #[serde(skip)]
    pub labels: Map,
    /// For a volume with a file system of its own: its type (`nfs`) and device; the options are in `tmpfs`.
    #[serde(skip)]
    pub filesystem: Option<(String, String)>,
    /// Mount options of a tmpfs: `size=64m`, `mode=1777`, `noexec`.
    pub tmpfs: Vec<String>,
}

/// A destination's normal form; an error unless it is absolute and not `/`.
pub(crate) fn destination(text: &str, whole: &str) -> Result<String> {
    let bad = |why: &str| {
        invalid(format!("invalid volume specification: '{whole}': invalid mount path: '{text}' {why}"))
    };
    if !text.starts_with('/') {
        return Err(bad("mount path must be absolute"));
    }
    let clean = clean(text);
    if clean == "/" {
        return Err(invalid(format!(
            "invalid volume specification: '{whole}': invalid specification: destination can't be '/'"
        )));
    }
    Ok(clean)
}

/// Go's `filepath.Clean` for an absolute path.
pub(crate) fn clean(text: &str) -> String {
    let mut out = PathBuf::from("/");
    for part in Path::new(text).components() {
        match part {
            Component::Normal(p) => out.push(p),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out.to_string_lossy().into_owned()
}

const PROPAGATIONS: &[&str] = &["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// One `-v` of the command line: `[source:]destination[:mode]`.
pub(crate) fn bind(text: &str, volume_driver: &str) -> Result<MountPoint> {
    let bad = || invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [a, b] if b.starts_with('/') => (*a, *b, ""),
        [target, mode] if target.starts_with('/') => ("", *target, *mode),
        [a, b] => (*a, *b, ""),
        [a, b, mode] => (*a, *b, *mode),
        _ => return Err(bad()),
    };
    let destination = destination(target, text)?;
    let mut point = MountPoint {
        destination,
        mode: mode.to_owned(),
        rw: true,
        copy: true,
        make_source: true,
        ..MountPoint::default()
    };
    for flag in mode.split(',').filter(|f| !f.is_empty()) {
        match flag {
            "ro" => point.rw = false,
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "nocopy" => point.copy = false,
            p if PROPAGATIONS.contains(&p) => point.propagation = p.to_owned(),
            _ => {
                return Err(invalid(format!("invalid volume specification: '{text}': invalid mode: {mode}")));
            }
        }
    }
    if source.starts_with('/') {
        point.kind = "bind".into();
        point.source = clean(source).into();
        point.copy = false;
        if point.propagation.is_empty() {
            point.propagation = "rprivate".into();
        }
    } else {
        point.kind = "volume".into();
        point.anonymous = source.is_empty();
        point.name = source.to_owned();
        point.driver = driver(volume_driver);
        if !source.is_empty() {
            crate::volumes::check_name(source)?;
        }
    }
    Ok(point)
}

fn driver(name: &str) -> String {
    if name.is_empty() { "local".to_owned() } else { name.to_owned() }
}

/// One `--mount`.
pub(crate) fn mount(m: &Mount) -> Result<MountPoint> {
    let bad = |why: String| invalid(format!("invalid mount config for type \"{}\": {why}", m.kind));
    if m.target.is_empty() {
        return Err(bad("field Target must not be empty".into()));
    }
    if !m.target.starts_with('/') {
        return Err(bad(format!("invalid mount path: '{}' mount path must be absolute", m.target)));
    }
    let destination = clean(&m.target);
    if destination == "/" {
        return Err(bad("invalid specification: destination can't be '/'".into()));
    }
    let mut point =
        MountPoint { kind: m.kind.clone(), destination, rw: !m.read_only, ..MountPoint::default() };
    let extraneous = |field: &str| bad(format!("field {field} must not be specified"));
    if m.kind != "bind" && m.bind_options.is_some() {
        return Err(extraneous("BindOptions"));
    }
    if m.kind != "volume" && m.volume_options.is_some() {
        return Err(extraneous("VolumeOptions"));
    }
    if m.kind != "tmpfs" && m.tmpfs_options.is_some() {
        return Err(extraneous("TmpfsOptions"));
    }
    match m.kind.as_str() {
        "bind" => {
            if m.source.is_empty() {
                return Err(bad("field Source must not be empty".into()));
            }
            if !m.source.starts_with('/') {
                return Err(bad(format!("invalid mount path: '{}' mount path must be absolute", m.source)));
            }
            let options = m.bind_options.clone().unwrap_or_default();
            point.source = clean(&m.source).into();
            point.make_source = options.create_mountpoint;
            if !point.make_source && !point.source.exists() {
                return Err(bad(format!("bind source path does not exist: {}", m.source)));
            }
            point.non_recursive = options.non_recursive;
            point.read_only_top = options.read_only_non_recursive;
            if options.read_only_non_recursive && options.read_only_force_recursive {
                return Err(bad(
                    "ReadOnlyNonRecursive and ReadOnlyForceRecursive contradict each other".into()
                ));
            }
            if options.read_only_force_recursive && !m.read_only {
                return Err(bad("ReadOnlyForceRecursive needs ReadOnly".into()));
            }
            if options.read_only_force_recursive
                && !options.propagation.is_empty()
                && options.propagation != "rprivate"
            {
                return Err(bad("ReadOnlyForceRecursive needs Propagation rprivate".into()));
            }
            point.propagation =
                if options.propagation.is_empty() { "rprivate".to_owned() } else { options.propagation };
            if !PROPAGATIONS.contains(&point.propagation.as_str()) {
                return Err(bad(format!("invalid propagation mode: {}", point.propagation)));
            }
        }
        "volume" => {
            let options = m.volume_options.clone().unwrap_or_default();
            point.name = m.source.clone();
            point.anonymous = m.source.is_empty();
            if !point.anonymous {
                crate::volumes::check_name(&m.source)?;
            }
            point.copy = !options.no_copy;
            point.subpath = options.subpath;
            point.labels = options.labels;
            let config = options.driver_config.unwrap_or_default();
            point.driver = driver(&config.name);
            point.options = config.options;
            if !point.rw {
                point.mode = "ro".into();
            }
        }
        "tmpfs" => {
            if !m.source.is_empty() {
                return Err(extraneous("Source"));
            }
            let options = m.tmpfs_options.clone().unwrap_or_default();
            if options.size_bytes > 0 {
                point.tmpfs.push(format!("size={}", options.size_bytes));
            }
            if options.mode != 0 {
                point.tmpfs.push(format!("mode={:o}", options.mode));
            }
            point.tmpfs.extend(options.options.iter().map(|pair| pair.join("=")));
        }
        "image" => {
            if m.source.is_empty() {
                return Err(bad("field Source must not be empty".into()));
            }
            point.name = m.source.clone();
            point.subpath = m.image_options.clone().unwrap_or_default().subpath;
            point.rw = false;
        }
        "" => return Err(invalid("mount type unknown: \"\"".to_owned())),
        other => return Err(invalid(format!("mount type unknown: \"{other}\""))),
    }
    Ok(point)
}

/// `--volumes-from`: a container and whether its volumes are writable here.
pub(crate) fn volumes_from(text: &str) -> Result<(&str, bool)> {
    match text.split_once(':') {
        None => Ok((text, true)),
        Some((id, "rw" | "z" | "Z")) => Ok((id, true)),
        Some((id, "ro")) => Ok((id, false)),
        Some((_, mode)) => Err(invalid(format!("invalid mode: {mode}"))),
    }
}

/// All mounts asked for, before volumes are made. `from` gives another container's mounts.
/// Later sources do not displace what a destination already has: `Binds`, then `Mounts`, then `Tmpfs`, then
/// `VolumesFrom`, then the image's `Volumes`.
pub(crate) fn collect(
    config: &Config,
    host: &HostConfig,
    from: impl Fn(&str) -> Result<Vec<MountPoint>>,
) -> Result<Vec<MountPoint>> {
    let mut all: Vec<MountPoint> = Vec::new();
    for text in &host.volumes_from {
        let (id, writable) = volumes_from(text)?;
        for mut point in from(id)? {
            if matches!(point.kind.as_str(), "bind" | "volume") && point.destination != "/dev/shm" {
                point.rw &= writable;
                point.copy = false;
                point.anonymous = false;
                all.retain(|p| p.destination != point.destination);
                all.push(point);
            }
        }
    }
    let mut explicit: Vec<MountPoint> = Vec::new();
    let mut add = |point: MountPoint| {
        if explicit.iter().any(|p| p.destination == point.destination) {
            return Err(invalid(format!("Duplicate mount point: {}", point.destination)));
        }
        explicit.push(point);
        Ok(())
    };
    for text in &host.binds {
        add(bind(text, &host.volume_driver)?)?;
    }
    for m in &host.mounts {
        add(mount(m)?)?;
    }
    for (target, options) in &host.tmpfs {
        let destination = destination(target, target)?;
        let tmpfs = options.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect();
        let point =
            MountPoint { kind: "tmpfs".into(), destination, rw: true, tmpfs, ..MountPoint::default() };
        add(point)?;
    }
    all.retain(|p| !explicit.iter().any(|e| e.destination == p.destination));
    all.extend(explicit);
    for target in config.volumes.keys() {
        let destination = destination(target, target)?;
        if !all.iter().any(|p| p.destination == destination) {
            all.push(MountPoint {
                kind: "volume".into(),
                destination,
                driver: driver(&host.volume_driver),
                rw: true,
                copy: true,
                anonymous: true,
                ..MountPoint::default()
            });
        }
    }
    // Parents before children, so that one mount never hides another.
    all.sort_by_key(|a| a.destination.split('/').count());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds() {
        let b = bind("/a/../b:/c/:ro", "").unwrap();
        assert_eq!(
            (b.kind.as_str(), b.source.to_str(), b.destination.as_str(), b.rw),
            ("bind", Some("/b"), "/c", false)
        );
        let v = bind("vol:/data", "").unwrap();
        assert_eq!(
            (v.kind.as_str(), v.name.as_str(), v.driver.as_str(), v.copy),
            ("volume", "vol", "local", true)
        );
        let a = bind("/data", "").unwrap();
        assert!(a.anonymous && a.name.is_empty());
        for bad in ["x:y", "vol:/", ":", "/a:/b:zz", "a:b:c:d", "../x:/y"] {
            assert!(bind(bad, "").is_err(), "{bad}");
        }
    }

    #[test]
    fn explicit_wins_and_order_is_by_depth() {
        let config = Config {
            volumes: [("/data".to_owned(), Default::default()), ("/x/y".to_owned(), Default::default())]
                .into(),
            ..Config::default()
        };
        let host =
            HostConfig { binds: vec!["/h:/data/sub".into(), "vol:/data".into()], ..HostConfig::default() };
        let all = collect(&config, &host, |_| Ok(Vec::new())).unwrap();
        let got: Vec<_> = all.iter().map(|p| (p.destination.as_str(), p.anonymous)).collect();
        assert_eq!(got, [("/data", false), ("/data/sub", false), ("/x/y", true)]);
        let twice = HostConfig { binds: vec!["/h:/d".into(), "vol:/d".into()], ..HostConfig::default() };
        assert!(collect(&Config::default(), &twice, |_| Ok(Vec::new())).is_err());
    }

    #[test]
    fn mount_objects() {
        let missing = Mount {
            kind: "bind".into(),
            source: "/does/not/exist".into(),
            target: "/n".into(),
            ..Mount::default()
        };
        assert!(mount(&missing).unwrap_err().to_string().contains("does not exist"));
        let unknown = Mount { kind: "zz".into(), target: "/n".into(), ..Mount::default() };
        assert!(mount(&unknown).is_err());
    }
}
