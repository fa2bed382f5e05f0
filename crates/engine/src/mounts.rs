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
    /// Mount options of a tmpfs: `size=64m`, `mode=1777`, `noexec`.
    pub tmpfs: Vec<String>,
}

/// Whether something can be mounted there: anywhere but on the root itself.
fn place(target: &str) -> std::result::Result<String, String> {
    let cleaned = clean(target);
    if cleaned == "/" {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    absolute(target)?;
    Ok(cleaned)
}

fn absolute(path: &str) -> std::result::Result<(), String> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(format!("invalid mount path: '{path}' mount path must be absolute"))
}

/// A destination's normal form; an error unless it is absolute and not `/`.
pub(crate) fn destination(text: &str, whole: &str) -> Result<String> {
    place(text).map_err(|why| invalid(format!("invalid volume specification: '{whole}': {why}")))
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

/// Whether mounts can spread as a bind mount asks: its source must lie on a mount that shares them. `mountinfo` is
/// /proc/self/mountinfo.
pub(crate) fn check_spread(point: &MountPoint, mountinfo: &str) -> Result<()> {
    let (words, tags): (&str, &[&str]) = match point.propagation.as_str() {
        "shared" | "rshared" => ("shared", &["shared:"]),
        "slave" | "rslave" => ("shared or slave", &["shared:", "master:"]),
        _ => return Ok(()),
    };
    // The last mount at the longest beginning of the path is what it lies on.
    let on = mountinfo
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(4);
            let at = sys::mount::unescape(fields.next()?);
            point.source.starts_with(&at).then(|| {
                let spreads =
                    fields.skip(1).take_while(|f| *f != "-").any(|f| tags.iter().any(|t| f.starts_with(t)));
                (at, spreads)
            })
        })
        .max_by_key(|(at, _)| at.components().count());
    match on {
        Some((at, false)) => Err(crate::error::system(format!(
            "path {} is mounted on {} but it is not a {words} mount",
            point.source.display(),
            at.display()
        ))),
        _ => Ok(()),
    }
}

/// What the third part of `-v` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Mode<'a> {
    read_only: bool,
    no_copy: bool,
    propagation: Option<&'a str>,
}

/// Reads a mode: at most one word of each kind.
fn mode(text: &str) -> Option<Mode<'_>> {
    let mut out = Mode::default();
    let mut seen = [false; 5];
    for word in text.split(',').filter(|_| !text.is_empty()) {
        let kind = match word {
            "ro" | "rw" => {
                out.read_only = word == "ro";
                0
            }
            // Labels of SELinux; where there is none, they mean nothing.
            "z" | "Z" => 1,
            "nocopy" => {
                out.no_copy = true;
                2
            }
            "consistent" | "cached" | "delegated" => 3,
            p if PROPAGATIONS.contains(&p) => {
                out.propagation = Some(p);
                4
            }
            _ => return None,
        };
        if std::mem::replace(&mut seen[kind], true) {
            return None;
        }
    }
    Some(out)
}

/// One `-v` of the command line: `[source:]destination[:mode]`.
pub(crate) fn bind(text: &str, volume_driver: &str) -> Result<MountPoint> {
    let bad = || invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, words) = match parts.as_slice() {
        ["", ..] => return Err(bad()),
        [target] => ("", *target, ""),
        // A mode needs a source: `/data:ro` is nothing.
        [_, b] if mode(b).is_some() => return Err(bad()),
        [a, b] => (*a, *b, ""),
        [a, b, mode] => (*a, *b, *mode),
        _ => return Err(bad()),
    };
    let read = mode(words).ok_or_else(|| invalid(format!("invalid mode: {words}")))?;
    let kind = if source.starts_with('/') { "bind" } else { "volume" };
    let destination = place(target).map_err(|why| {
        invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{kind}\": {why}"
        ))
    })?;
    let mut point = MountPoint {
        destination,
        mode: words.to_owned(),
        rw: !read.read_only,
        make_source: true,
        ..MountPoint::default()
    };
    if source.starts_with('/') {
        point.kind = "bind".into();
        point.source = clean(source).into();
        point.propagation = read.propagation.unwrap_or("rprivate").to_owned();
        return Ok(point);
    }
    let nested = |why: String| invalid(format!("invalid volume specification: '{text}': {why}"));
    if read.propagation.is_some() {
        return Err(nested(
            "invalid mount config for type \"volume\": field BindOptions must not be specified".into(),
        ));
    }
    point.kind = "volume".into();
    point.copy = !read.no_copy;
    point.anonymous = source.is_empty();
    point.name = source.to_owned();
    point.driver = volume_driver.to_owned();
    if !source.is_empty() {
        check_volume_name(source, volume_driver)?;
    }
    Ok(point)
}

/// A local volume's name must not be a path; what a plugin's names are is its own affair.
fn check_volume_name(name: &str, driver: &str) -> Result<()> {
    if matches!(driver, "" | "local") { crate::volumes::local::check_name(name) } else { Ok(()) }
}

/// One `--mount`.
pub(crate) fn mount(m: &Mount) -> Result<MountPoint> {
    let bad = |why: String| invalid(format!("invalid mount config for type \"{}\": {why}", m.kind));
    let extraneous = |field: &str| bad(format!("field {field} must not be specified"));
    for (kind, given, field) in [
        ("bind", m.bind_options.is_some(), "BindOptions"),
        ("volume", m.volume_options.is_some(), "VolumeOptions"),
        ("image", m.image_options.is_some(), "ImageOptions"),
        ("tmpfs", m.tmpfs_options.is_some(), "TmpfsOptions"),
    ] {
        if given && m.kind != kind {
            return Err(extraneous(field));
        }
    }
    if m.target.is_empty() {
        return Err(bad("field Target must not be empty".into()));
    }
    let destination = place(&m.target).map_err(bad)?;
    let mut point =
        MountPoint { kind: m.kind.clone(), destination, rw: !m.read_only, ..MountPoint::default() };
    // A part of something must be below it.
    let part = |subpath: &str| {
        let below = Path::new(subpath).components().try_fold(0i32, |depth, c| match c {
            Component::Normal(_) => Some(depth + 1),
            Component::CurDir => Some(depth),
            Component::ParentDir => Some(depth - 1).filter(|d| *d >= 0),
            _ => None,
        });
        match below {
            Some(_) => Ok(()),
            None => Err(bad("subpath must be a relative path within the volume".into())),
        }
    };
    match m.kind.as_str() {
        "bind" => {
            if m.source.is_empty() {
                return Err(bad("field Source must not be empty".into()));
            }
            absolute(&m.source).map_err(bad)?;
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
            if !options.subpath.is_empty() {
                if point.anonymous {
                    return Err(bad("must not set Subpath when using anonymous volumes".into()));
                }
                part(&options.subpath)?;
            }
            let config = options.driver_config.unwrap_or_default();
            if !point.anonymous {
                check_volume_name(&m.source, &config.name)?;
            }
            point.copy = !options.no_copy;
            point.subpath = options.subpath;
            point.labels = options.labels;
            point.driver = config.name;
            point.options = config.options;
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
            for pair in &options.options {
                match pair.first().map(String::as_str) {
                    Some("exec" | "noexec") if pair.len() <= 2 => point.tmpfs.push(pair.join("=")),
                    Some(other) if pair.len() <= 2 => return Err(bad(format!("invalid option: {other}"))),
                    _ => return Err(bad("invalid option array length".into())),
                }
            }
        }
        "image" => {
            if m.source.is_empty() {
                return Err(bad("field Source must not be empty".into()));
            }
            point.name = m.source.clone();
            point.subpath = m.image_options.clone().unwrap_or_default().subpath;
            if !point.subpath.is_empty() {
                part(&point.subpath)?;
            }
            point.rw = false;
        }
        _ => return Err(bad("mount type unknown".into())),
    }
    Ok(point)
}

/// `--volumes-from`: a container and whether its volumes are writable here.
pub(crate) fn volumes_from(text: &str) -> Result<(&str, bool)> {
    if text.is_empty() {
        return Err(invalid("volumes-from specification cannot be an empty string"));
    }
    let (id, words) = text.split_once(':').unwrap_or((text, ""));
    match mode(words) {
        // How mounts spread is as it is there, and nothing is copied.
        Some(mode) if mode.propagation.is_none() && !mode.no_copy => Ok((id, !mode.read_only)),
        _ => Err(invalid(format!("invalid mode: {words}"))),
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
                driver: host.volume_driver.clone(),
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
            ("volume", "vol", "", true)
        );
        let a = bind("/data", "").unwrap();
        assert!(a.anonymous && a.name.is_empty());
        assert_eq!(bind("vol:/data:nocopy,ro,z", "plug").unwrap().driver, "plug");
        assert_eq!(bind("/a:/b:rslave,Z,cached", "").unwrap().propagation, "rslave");
        for bad in
            ["x:y", "vol:/", ":", "/a:/b:zz", "aa:/b:c:d", "../x:/y", "/a:ro", "/a:/b:ro,rw", "vol:/d:shared"]
        {
            assert!(bind(bad, "").is_err(), "{bad}");
        }
    }

    #[test]
    fn what_mounts_spread_over() {
        let info = "22 1 0:1 / / rw - ext4 /dev/a rw\n\
                    23 22 0:2 / /mnt rw,relatime shared:7 - tmpfs x rw\n\
                    24 23 0:3 / /mnt/a\\040b rw master:7 - tmpfs x rw\n";
        let check = |source: &str, propagation: &str| {
            let point = MountPoint {
                source: source.into(),
                propagation: propagation.into(),
                ..MountPoint::default()
            };
            check_spread(&point, info).map_err(|e| e.to_string())
        };
        assert!(check("/mnt/x", "rshared").is_ok());
        assert!(check("/mnt/a b/c", "rslave").is_ok());
        assert!(check("/srv", "rprivate").is_ok());
        assert_eq!(
            check("/mnt/a b/c", "shared").unwrap_err(),
            "path /mnt/a b/c is mounted on /mnt/a b but it is not a shared mount"
        );
        assert_eq!(
            check("/srv", "rslave").unwrap_err(),
            "path /srv is mounted on / but it is not a shared or slave mount"
        );
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
        assert_eq!(
            mount(&unknown).unwrap_err().to_string(),
            "invalid mount config for type \"zz\": mount type unknown"
        );
        let part = |source: &str, subpath: &str| {
            let options = crate::model::VolumeOptions { subpath: subpath.into(), ..Default::default() };
            let (kind, source, target) = ("volume".into(), source.into(), "/n".into());
            mount(&Mount { kind, source, target, volume_options: Some(options), ..Mount::default() })
        };
        assert!(part("vol", "a/../b").is_ok());
        for bad in ["../b", "/b", "a/../../b"] {
            assert!(part("vol", bad).unwrap_err().to_string().contains("subpath must be"), "{bad}");
        }
        assert!(part("", "a").is_err());
        assert_eq!(volumes_from("c:ro,z").unwrap(), ("c", false));
        for bad in ["", "c:x", "c:rslave", "c:nocopy"] {
            assert!(volumes_from(bad).is_err(), "{bad}");
        }
    }
}
