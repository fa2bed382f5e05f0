//! What Dockerfiles, contexts and images from strangers try: nothing of the machine is theirs.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;
#[path = "common/world.rs"]
mod world;

use build::Options;
use common::tar_of;
use image::archive::tar::{self, Entry, Kind};
use rustix::fs::{AtFlags, FileType};
use world::world;

/// A tar of entries that have no content, a link's target beside each.
fn tar_of_kinds(entries: &[(Kind, &[u8], &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (kind, name, link) in entries {
        let entry = Entry { link: link.to_vec(), ..Entry::new(*name, *kind) };
        tar::write_entry(&mut tar, &entry, &[]).unwrap();
    }
    tar
}

/// The folders of an overlay are one text: a colon in a name must not make one folder two, of which the second would be
/// the machine's.
#[tokio::test(flavor = "multi_thread")]
async fn mounted_folders_stay_in_their_context() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1.0\nRUN --mount=type=bind,rw,source=x:/etc,target=/h true\n";
    let files = [("Dockerfile", file), ("x/f", "1"), ("x:/etc/f", "2")];
    w.build(&files, Options::default()).await.0.unwrap();
    let step = w.runner.steps.lock()[0].clone();
    let lower = step.mounts[0].options().as_ref().unwrap()[0].clone();
    assert!(lower.starts_with("lowerdir=/") && lower.ends_with("/x\\:/etc"), "{lower}");
    // A link leads to a name that is not text. Made text, it would be the other link.
    let mut tar = tar_of_kinds(&[
        (Kind::Dir, b"n\xff/", b""),
        (Kind::Symlink, b"l", b"n\xff"),
        (Kind::Symlink, "n\u{fffd}".as_bytes(), b"/etc"),
    ]);
    let file = "FROM base:1.0\nRUN --mount=type=bind,rw,source=l,target=/h true\n";
    tar.extend(tar_of(&[("Dockerfile", file)]));
    let (result, _) = w.build_tar(tar, Options::default()).await;
    assert!(result.unwrap_err().ends_with("a name that is not UTF-8"));
}

/// A step has the network that the client chose, or none; what is more is for the client to give.
#[tokio::test(flavor = "multi_thread")]
async fn steps_choose_no_networks() {
    let Some(w) = world().await else { return };
    let build = async |wanted: &str, given: &str| {
        let file = format!("FROM base:1.0\nRUN --network={wanted} true\n");
        let options = Options { network_mode: given.into(), no_cache: true, ..Options::default() };
        let (result, _) = w.build(&[("Dockerfile", &file)], options).await;
        result.map(|_| w.runner.steps.lock().last().unwrap().network_mode.clone())
    };
    for (wanted, given, network) in [
        ("default", "mine", "mine"),
        ("none", "host", "none"),
        ("host", "host", "host"),
        ("mine", "mine", "mine"),
    ] {
        assert_eq!(build(wanted, given).await.unwrap(), network);
    }
    for (wanted, given, why) in [
        ("host", "", "network.host is not allowed"),
        ("host", "none", "network.host is not allowed"),
        ("container:web", "", "invalid network mode \"container:web\""),
        ("other", "mine", "invalid network mode \"other\""),
    ] {
        let error = build(wanted, given).await.unwrap_err();
        assert!(error.starts_with(why), "{error}");
    }
}

/// Neither a FIFO nor a device of a context or an image is read as if it were a file.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_not_read() {
    let Some(w) = world().await else { return };
    let context = |file: &str| {
        let mut tar = tar_of_kinds(&[(Kind::Fifo, b"fifo", b"")]);
        // The machine's /dev/zero, which ends never.
        let zero = Entry { device: (1, 5), ..Entry::new("zero", Kind::Char) };
        tar::write_entry(&mut tar, &zero, &[]).unwrap();
        tar.extend(tar_of(&[("Dockerfile", file)]));
        tar
    };
    let options = Options { tags: vec!["kinds".into()], ..Options::default() };
    let file = "FROM base:1.0\nADD fifo zero /d/\n";
    let (result, _) = w.build_tar(context(file), options).await;
    result.unwrap();
    let root = w.images.mount_layers(w.images.get("kinds").unwrap().diff_ids()).unwrap();
    for (path, kind) in [("d/fifo", FileType::Fifo), ("d/zero", FileType::CharacterDevice)] {
        let stat = rustix::fs::statat(&root, path, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!(FileType::from_raw_mode(stat.st_mode), kind);
    }
    for source in ["fifo", "zero"] {
        let file = format!("FROM base:1.0\nCOPY {source} /etc/passwd\nCOPY --chown=nobody fifo /f\n");
        let (result, _) = w.build_tar(context(&file), Options::default()).await;
        assert!(result.unwrap_err().contains("no such user: nobody"));
    }
}

/// Names of here-documents are any text, and the names of files outside of every container.
#[tokio::test(flavor = "multi_thread")]
async fn scripts_lie_where_they_belong() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1.0\nRUN <<../../up\n#!/bin/sh\n../../up\nRUN <<..\n#!/bin/sh\n..\n";
    w.build(&[("Dockerfile", file)], Options::default()).await.0.unwrap();
    let args: Vec<_> = w.runner.steps.lock().iter().map(|s| s.args.clone()).collect();
    assert_eq!(args, [["/dev/pipes/up"], ["/dev/pipes/script"]]);
    assert!(!w.dir.path().join("build/up").exists());
    let file = "FROM base:1.0\nCOPY <<../up /d/\nx\n../up\n";
    let (result, _) = w.build(&[("Dockerfile", file)], Options::default()).await;
    assert!(result.unwrap_err().contains("without folders"));
}
