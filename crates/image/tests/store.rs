//! The whole store on a real file system, as root.

#![allow(clippy::unwrap_used)] // a test may panic

use std::fs;
use std::io::{Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use image::archive::tar::{self, Entry, Kind};
use image::{ChangeKind, Config, Deleted, Error, History, ImageStore, Import, NewImage, User};

fn root() -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        println!("skipped: needs root");
    }
    is
}

/// A tar of `(path, content)`: a trailing slash makes a folder, a content that starts with `->` a symbolic link.
fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, content) in files {
        let kind = match content.strip_prefix("->") {
            Some(_) => Kind::Symlink,
            None if path.ends_with('/') => Kind::Dir,
            None => Kind::File,
        };
        let mut e = Entry::new(*path, kind);
        e.mtime = (1_600_000_000, 0);
        match kind {
            Kind::Symlink => e.link = content[2..].into(),
            Kind::File => e.size = content.len() as u64,
            _ => {}
        }
        tar::write_entry(&mut out, &e, if kind == Kind::File { content.as_bytes() } else { b"" }).unwrap();
    }
    out.extend_from_slice(&tar::END);
    out
}

async fn import(store: &Arc<ImageStore>, name: &str, files: &[(&str, &str)]) -> Arc<image::Image> {
    let import = Import {
        reference: Some(name.into()),
        config: Config { cmd: Some(vec!["sh".into()]), ..Config::default() },
        ..Import::default()
    };
    store.import(Cursor::new(tar_of(files)), import).await.unwrap()
}

fn nobody(_: &str) -> Option<User> {
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_begins_like_a_document() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let layer = tar::archive(&[("[id].js", b"content")]).unwrap();
    let diff_id = image::archive::compress::digest_of(&layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let manifest = r#"[{"Config":"c.json","RepoTags":["bracket:1"],"Layers":["layer.tar"]}]"#;
    let archive = tar::archive(&[
        ("layer.tar", &layer),
        ("c.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ])
    .unwrap();
    store.load(Cursor::new(archive), None).await.unwrap();
    assert_eq!(store.get("bracket:1").unwrap().diff_ids(), [diff_id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_lie_in_different_parts_of_the_disk() {
    const EXT4: rustix::fs::FsWord = 0xef53;
    let dir = tempfile::tempdir().unwrap();
    let _store = ImageStore::open(dir.path()).await.unwrap();
    let layers = fs::File::open(dir.path().join("images/layers")).unwrap();
    if rustix::fs::fstatfs(&layers).unwrap().f_type != EXT4 {
        println!("skipped: {} is not on ext4", dir.path().display());
        return;
    }
    let flags = rustix::fs::ioctl_getflags(&layers).unwrap();
    assert!(flags.contains(rustix::fs::IFlags::TOPDIR), "{flags:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_cannot_reach_the_layers() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("images");
    // As stores were made that are there already.
    std::fs::create_dir(&root).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
    let _store = ImageStore::open(dir.path()).await.unwrap();
    assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o7777, 0o710);
}

#[tokio::test(flavor = "multi_thread")]
async fn import_run_commit_save_load() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let image = import(
        &store,
        "app:1",
        &[("./", ""), ("etc/", ""), ("etc/a", "one"), ("etc/b", "two"), ("l", "->etc")],
    )
    .await;
    assert_eq!(image.tags, ["app:1"]);
    assert_eq!(image.size, 6);

    // A writable layer: change it through a merged mount, and see the difference.
    let snapshot = store.prepare("c1", &image).await.unwrap();
    {
        let merged = snapshot.mount(true).unwrap();
        let path = |p: &str| format!("/proc/self/fd/{}/{p}", std::os::fd::AsRawFd::as_raw_fd(&merged));
        fs::write(path("etc/a"), "changed").unwrap();
        fs::remove_file(path("etc/b")).unwrap();
        fs::write(path("new"), "x").unwrap();
    }
    let changes = store.changes("c1").await.unwrap();
    let short: Vec<_> = changes.iter().map(|c| (c.path.as_str(), c.kind)).collect();
    use ChangeKind as K;
    assert_eq!(
        short,
        [("/etc", K::Modified), ("/etc/a", K::Modified), ("/etc/b", K::Deleted), ("/new", K::Added)]
    );
    assert_eq!(store.usage("c1").await.unwrap(), 8);

    // Committed by copying and by moving it is the same layer.
    let layer = store.commit_snapshot("c1").await.unwrap();
    let moved = store.seal_snapshot("c1").await.unwrap().unwrap();
    assert_eq!(layer.diff_id, moved.diff_id);
    assert!(store.snapshot("c1").is_err());
    let child = store
        .create(NewImage {
            parent: Some(image.id.clone()),
            layer: Some(layer),
            config: image.run_config().clone(),
            history: History { created_by: "test".into(), ..History::default() },
            keep_parent: true,
            ..NewImage::default()
        })
        .await
        .unwrap();
    store.tag(&child.id, "child").await.unwrap();
    drop(moved);

    // Saved, removed and loaded again, everything is the same.
    let file = dir.path().join("save.tar");
    let out = tokio::fs::File::create(&file).await.unwrap();
    store.save(&["child".into(), "app:1".into()], out).await.unwrap();
    let gone = store.remove("child", false, true, &nobody).await.unwrap();
    assert_eq!(gone[0], Deleted::Untagged("child:latest".into()));
    assert_eq!(gone[1], Deleted::Deleted(child.id.clone()));
    store.remove("app:1", false, true, &nobody).await.unwrap();
    assert!(store.list().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("images/layers")).unwrap().count(), 0);
    let loaded = store.load(tokio::fs::File::open(&file).await.unwrap(), None).await.unwrap();
    assert_eq!(loaded.len(), 2);
    assert_eq!(loaded[0].references, ["child:latest"]);
    assert_eq!(loaded[0].image.id, child.id);

    // ... and after another start.
    drop(loaded);
    drop(store);
    let store = ImageStore::open(dir.path()).await.unwrap();
    let snapshot = store.prepare("c2", &store.get("child").unwrap()).await.unwrap();
    let merged = snapshot.mount(false).unwrap();
    let read = |p: &str| {
        let fd = image::archive::root::open(merged.as_fd(), Path::new(p), rustix::fs::OFlags::RDONLY)?;
        std::io::read_to_string(fs::File::from(fd))
    };
    assert_eq!(read("/l/a").unwrap(), "changed");
    assert!(read("/etc/b").is_err());
    drop(merged);
    let second = store.prepare("c2", &store.get("child").unwrap()).await;
    assert!(matches!(second, Err(Error::Conflict(_))));
    store.discard("c2").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_rules() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let a = import(&store, "a:1", &[("f", "1")]).await;
    store.tag("a:1", "other/b:2").await.unwrap();
    let text = |r: Result<Vec<Deleted>, Error>| r.unwrap_err().to_string();
    let by_stopped = |_: &str| Some(User { container: "c".repeat(64), running: false });
    let by_running = |_: &str| Some(User { container: "c".repeat(64), running: true });
    let (short, user) = (a.short_id(), "c".repeat(12));
    assert_eq!(
        text(store.remove(short, false, true, &nobody).await),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )
    );
    assert_eq!(text(store.remove("none", false, true, &nobody).await), "No such image: none:latest");
    // One of two tags goes although the image is in use.
    assert_eq!(
        store.remove("other/b:2", false, true, &by_running).await.unwrap(),
        [Deleted::Untagged("other/b:2".into())]
    );
    assert_eq!(
        text(store.remove("a:1", false, true, &by_stopped).await),
        format!(
            "conflict: unable to remove repository reference \"a:1\" (must force) - container {user} is using its \
             referenced image {short}"
        )
    );
    assert_eq!(
        text(store.remove(short, false, true, &by_stopped).await),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is being used by stopped container {user}"
        )
    );
    assert_eq!(
        text(store.remove(short, true, true, &by_running).await),
        format!(
            "conflict: unable to delete {short} (cannot be forced) - image is being used by running container {user}"
        )
    );
    // Layers stay while a snapshot stands on them, and go with it.
    store.prepare("c", &a).await.unwrap();
    store.remove(short, true, true, &by_stopped).await.unwrap();
    assert!(store.snapshot("c").unwrap().lower[1].join("f").exists());
    assert!(store.snapshot("c").unwrap().lower[0].join("etc/hosts").exists());
    store.discard("c").await.unwrap();
    assert_eq!(fs::read_dir(dir.path().join("images/layers")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_and_prune() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let a = import(&store, "a", &[("f", "1")]).await;
    let b = import(&store, "a", &[("f", "2")]).await;
    assert_eq!(store.get("a").unwrap().id, b.id);
    assert!(store.get(&a.id).unwrap().tags.is_empty());
    let freed = store.prune(false, &|_| true, &nobody).await.unwrap();
    assert_eq!((freed.images, freed.bytes), (vec![Deleted::Deleted(a.id.clone())], 1));
    assert_eq!(store.list().len(), 1);
    assert!(store.get(&b.id[7..12]).is_ok());
    assert_eq!(store.tag("a", "x@sha256:1").await.unwrap_err().to_string(), "invalid reference format");
}

/// Layers as strangers make them.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_layers() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "intact").unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let up = format!("../../../../../../..{}", outside.display());
    let link = format!("->{up}");
    for (name, files, refused) in [
        ("dots", vec![(format!("{up}/victim"), "bad".to_string())], true),
        ("inner dots", vec![("a/../../x".into(), "bad".into())], true),
        ("through a link", vec![("l".into(), link.clone()), ("l/victim".into(), "bad".into())], false),
        ("absolute", vec![(format!("{}/victim", outside.display()), "bad".into())], false),
        (
            "absolute link",
            vec![("l".into(), format!("->{}", outside.display())), ("l/victim".into(), "bad".into())],
            false,
        ),
        (
            "link over link",
            vec![("l".into(), link), ("l".into(), "->/".into()), ("l/victim".into(), "x".into())],
            false,
        ),
    ] {
        let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let result = store.import(Cursor::new(tar_of(&files)), Import::default()).await;
        assert!(result.is_err() || !refused, "{name}: {result:?}");
        assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "intact", "{name}");
    }
    // A hard link must not reach outside either.
    let mut e = Entry::new("h", Kind::HardLink);
    e.link = format!("{up}/victim").into_bytes();
    let mut bytes = tar::header(&e);
    bytes.extend_from_slice(&tar::END);
    assert!(store.import(Cursor::new(bytes), Import::default()).await.is_err());
    // Nothing half remains of what was refused.
    store.prune(true, &|_| true, &nobody).await.unwrap();
    assert_eq!(fs::read_dir(dir.path().join("images/layers")).unwrap().count(), 0);
}

/// Whiteouts, attributes, devices, hard links, duplicates: and the tar comes out again byte for byte.
#[tokio::test(flavor = "multi_thread")]
async fn layers_come_out_as_they_went_in() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let mut bytes = tar_of(&[
        ("d/", ""),
        ("d/f", "first"),
        ("d/f", "second"),
        ("d/.wh.gone", ""),
        ("o/", ""),
        ("o/.wh..wh..opq", ""),
        ("r/x", "inside"),
        ("r", "now a file"),
        (".wh.again", ""),
        ("again/", ""),
    ]);
    bytes.truncate(bytes.len() - tar::END.len());
    let mut e = Entry::new("d/hard", Kind::HardLink);
    e.link = b"d/f".to_vec();
    bytes.extend(tar::header(&e));
    let mut e = Entry::new("dev", Kind::Char);
    e.device = (1, 3);
    bytes.extend(tar::header(&e));
    let mut e = Entry::new("cap", Kind::File);
    (e.mode, e.uid) = (0o4750, 33);
    e.xattrs = vec![
        (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
        (b"user.note".to_vec(), b"kept".to_vec()),
    ];
    bytes.extend(tar::header(&e));
    // Unusual, but legal: more padding than necessary.
    bytes.extend([0u8; 10240]);
    let import = Import { reference: Some("odd".into()), ..Import::default() };
    let image = store.import(Cursor::new(bytes.clone()), import).await.unwrap();
    let snapshot = store.prepare("s", &image).await.unwrap();
    let fs_dir = &snapshot.lower[1];
    let meta = |p: &str| fs::symlink_metadata(fs_dir.join(p)).unwrap();
    assert_eq!(fs::read_to_string(fs_dir.join("d/f")).unwrap(), "second");
    assert_eq!(meta("d/f").ino(), meta("d/hard").ino());
    assert!(meta("d/gone").file_type().is_char_device() && meta("d/gone").rdev() == 0);
    assert!(meta("dev").rdev() != 0);
    assert!(meta("r").is_file());
    assert_eq!((meta("cap").permissions().mode() & 0o7777, meta("cap").uid()), (0o4750, 33));
    assert_eq!(meta("d/f").mtime(), 1_600_000_000);
    let opaque = |p: &str| {
        let mut v = [0u8; 4];
        rustix::fs::lgetxattr(fs_dir.join(p), "trusted.overlay.opaque", &mut v).is_ok()
    };
    assert!(opaque("o") && opaque("again") && !opaque("d"));
    let mut v = [0u8; 16];
    assert!(rustix::fs::lgetxattr(fs_dir.join("cap"), "trusted.overlay.redirect", &mut v).is_err());
    assert!(rustix::fs::lgetxattr(fs_dir.join("cap"), "user.note", &mut v).is_ok());

    let file = dir.path().join("s.tar");
    store.save(&["odd".into()], tokio::fs::File::create(&file).await.unwrap()).await.unwrap();
    let mut r = tar::Reader::new(fs::File::open(&file).unwrap());
    let want = format!("blobs/{}", image.diff_ids()[0].replace(':', "/"));
    let mut found = None;
    while let Some(e) = r.next_entry().unwrap() {
        if e.path == want.as_bytes() {
            let mut data = Vec::new();
            r.read_to_end(&mut data).unwrap();
            found = Some(data);
        }
    }
    assert!(found.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_leaves_is_cleaned() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let image = import(&store, "a", &[("f", "1")]).await;
    drop(store);
    for half in ["images/layers/abc/fs", "images/snapshots/.tmp-1/fs", "images/snapshots/broken/fs"] {
        fs::create_dir_all(dir.path().join(half)).unwrap();
    }
    fs::write(dir.path().join("images/blobs/sha256/00"), "half").unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    assert_eq!(store.get("a").unwrap().id, image.id);
    let count = |p: &str| fs::read_dir(dir.path().join("images").join(p)).unwrap().count();
    assert_eq!((count("layers"), count("snapshots"), count("blobs/sha256")), (1, 0, 0));
}

/// Waits until what goes in the background is gone.
async fn emptied(folder: &std::path::Path) {
    let gone = async {
        while std::fs::read_dir(folder).unwrap().count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_deeper_than_any_path() {
    use rustix::fs::{Mode, OFlags};
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let image = import(&store, "app", &[("f", "x")]).await;
    let snapshot = store.prepare("c", &image).await.unwrap();
    let make = |top: &std::path::Path| {
        let mut at: std::os::fd::OwnedFd = std::fs::File::open(top).unwrap().into();
        let name = "d".repeat(200);
        for _ in 0..100 {
            rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o755)).unwrap();
            at = rustix::fs::openat(&at, &name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        }
        let file = rustix::fs::openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644));
        std::io::Write::write_all(&mut std::fs::File::from(file.unwrap()), &[7; 5000]).unwrap();
    };
    make(&snapshot.upper);
    assert_eq!(store.usage("c").await.unwrap(), 5000);
    let own = snapshot.upper.clone();
    let taken = tokio::task::spawn_blocking(move || image::on_disk(&own).unwrap()).await.unwrap();
    assert!(taken >= 5000, "{taken}");
    // No archive that could be unpacked again can have them.
    for error in [store.commit_snapshot("c").await.unwrap_err(), store.changes("c").await.unwrap_err()] {
        assert!(error.to_string().contains("File name too long"), "{error}");
    }
    let dead = dir.path().join("images/dead");
    store.discard("c").await.unwrap();
    emptied(&dead).await;
    // What a process before this one had not removed yet, and what it was about to remove.
    drop(store);
    let left =
        [dead.join("a"), dir.path().join("images/snapshots/.tmp-b"), dir.path().join("images/layers/c")];
    for left in &left {
        std::fs::create_dir(left).unwrap();
        make(left);
    }
    let store = ImageStore::open(dir.path()).await.unwrap();
    emptied(&dead).await;
    assert!(left.iter().all(|left| !left.exists()));
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_removed_does_not_stop_the_start() {
    use rustix::fs::IFlags;
    let dir = tempfile::tempdir().unwrap();
    drop(ImageStore::open(dir.path()).await.unwrap());
    let half = dir.path().join("images/snapshots/.tmp-half/fs");
    std::fs::create_dir_all(&half).unwrap();
    let file = std::fs::File::create(half.join("file")).unwrap();
    // As `chattr +i` in a container does.
    if let Err(error) = rustix::fs::ioctl_setflags(&file, IFlags::IMMUTABLE) {
        println!("skipped: this file system makes no file immutable: {error}");
        return;
    }
    let opened = ImageStore::open(dir.path()).await;
    let left = std::fs::read_dir(dir.path().join("images/dead")).unwrap().count();
    rustix::fs::ioctl_setflags(&file, IFlags::empty()).unwrap();
    assert_eq!((opened.is_ok(), left), (true, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_archives_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    for (bytes, want) in [
        (b"not a tar at all".to_vec(), "unexpected EOF"),
        (vec![b'x'; 2000], "invalid tar header"),
        (tar_of(&[("f", "1")]), "neither a manifest.json"),
        (tar_of(&[("manifest.json", "{")]), "invalid manifest.json"),
        (tar_of(&[("manifest.json", r#"[{"Config":"c.json","Layers":[]}]"#)]), "c.json is missing"),
        (
            tar_of(&[
                ("c.json", r#"{"rootfs":{"type":"layers","diff_ids":["sha256:00"]}}"#),
                ("manifest.json", r#"[{"Config":"c.json","Layers":["l.tar"]}]"#),
            ]),
            "layer l.tar",
        ),
        (vec![0xfd, b'7', b'z', b'X', b'Z', 0], "unexpected EOF"),
    ] {
        let error = store.load(Cursor::new(bytes), None).await.unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path().join("images/layers")).unwrap().count(), 0);
}
