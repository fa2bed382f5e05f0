//! A tag for several platforms, and what is done with one of them alone.

#![allow(clippy::unwrap_used)] // a test may panic

use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use image::archive::compress::digest_of;
use image::archive::tar::{self, Kind, Reader};
use image::{Deleted, Error, ImageStore, Import, Platform, User, reference};

mod common;
use common::{INDEX, MANIFEST, ended, entry, made};

fn root() -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        println!("skipped: needs root");
    }
    is
}

fn p(text: &str) -> Platform {
    Platform::parse(text).unwrap()
}

fn nobody(_: &str) -> Option<User> {
    None
}

const ALL: [&str; 3] = ["linux/amd64", "linux/arm/v6", "linux/arm64/v8"];

/// A store with `many:1`, which has an image for each platform; their ids.
async fn many(dir: &Path) -> (Arc<ImageStore>, Vec<String>) {
    let store = ImageStore::open(dir).await.unwrap();
    let mut images = Vec::new();
    for platform in ALL {
        let import = Import { platform: Some(p(platform)), ..Import::default() };
        let layer = tar::archive(&[("for", platform.as_bytes())]).unwrap();
        images.push((p(platform), store.import(Cursor::new(layer), import).await.unwrap().id.clone()));
    }
    store.tag_all("many:1", images.clone()).await.unwrap();
    (store, images.into_iter().map(|(_, id)| id).collect())
}

async fn saved(store: &Arc<ImageStore>, dir: &Path, platform: Option<&Platform>) -> Vec<u8> {
    let file = dir.join("saved.tar");
    let out = tokio::fs::File::create(&file).await.unwrap();
    store.save_for(&["many:1".into()], platform, out).await.unwrap();
    std::fs::read(&file).unwrap()
}

/// An archive as other tools write it: without Docker's list.
fn layout(archive: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(archive);
    let mut out = Vec::new();
    while let Some(e) = reader.next_entry().unwrap() {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).unwrap();
        if e.path != b"manifest.json" {
            out.extend(entry(e.path, e.kind, &data));
        }
    }
    ended(out)
}

fn not_found<T: std::fmt::Debug>(result: image::Result<T>) -> String {
    match result.unwrap_err() {
        Error::NotFound(text) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_is_saved_and_loaded() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = many(&dir.path().join("a")).await;
    assert_eq!(store.exactly("many:1", &p("linux/arm64")).unwrap().id, ids[2]);
    assert_eq!(store.fitting("many:1", &p("linux/arm/v7")).unwrap().unwrap().id, ids[1]);
    let lacking =
        "image with reference many:1 was found but does not provide the specified platform (linux/arm/v7)";
    assert_eq!(not_found(store.exactly("many:1", &p("linux/arm/v7"))), lacking);
    assert_eq!(
        not_found(store.can_save(&["many:1".into()], Some(&p("linux/arm/v7")))),
        format!("no suitable export target found: {lacking}")
    );
    assert_eq!(not_found(store.can_push("many:1", Some(&p("linux/arm/v7")))), lacking);
    assert_eq!(
        not_found(store.can_save(&[ids[0].clone()], Some(&p("linux/arm64")))).matches(&ids[0]).count(),
        1
    );

    let tag = reference::parse("many:1").unwrap();
    let (alone, all) =
        (saved(&store, dir.path(), Some(&p("linux/arm64"))).await, saved(&store, dir.path(), None).await);
    for (name, archive) in [
        ("of one", &alone),
        ("of all", &all),
        ("a layout", &layout(&all)),
        ("of one, a layout", &layout(&alone)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let other = ImageStore::open(dir.path()).await.unwrap();
        let missing = other.load_for(Cursor::new(archive.clone()), Some(p("linux/s390x")), None).await;
        let none = "no images providing the requested platform(s) found: [linux/s390x]";
        assert_eq!(not_found(missing), none, "{name}");
        assert!(other.list().is_empty(), "{name}");
        let loaded =
            other.load_for(Cursor::new(archive.clone()), Some(p("linux/arm64")), None).await.unwrap();
        assert_eq!(
            (loaded.len(), &loaded[0].image.id, &loaded[0].references),
            (1, &ids[2], &vec!["many:1".to_owned()]),
            "{name}"
        );
        assert!(other.list().len() == 1 && other.variants(&tag).is_empty(), "{name}");
        assert_eq!(other.get("many:1").unwrap().id, ids[2], "{name}");
        assert_eq!(other.verify().await.unwrap(), Vec::<String>::new(), "{name}");
    }
}

/// An index names platforms as it likes; a store that had taken one that is no platform could not be opened any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_platforms_that_are_none() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let m = made();
    let blob = |bytes: &[u8]| entry(digest_of(bytes).replace("sha256:", "blobs/sha256/"), Kind::File, bytes);
    let described = |kind: &str, bytes: &[u8], more: &str| {
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}{more}}}"#, digest_of(bytes), bytes.len())
    };
    let host = Platform::host();
    let of = |os: &str, architecture: &str| {
        described(
            MANIFEST,
            &m.manifest,
            &format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#),
        )
    };
    let parts = [of(&host.os, &host.architecture), of("a/b", "c/d"), of("", "x"), of("linux", "")].join(",");
    let inner = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{parts}]}}"#).into_bytes();
    let name = r#","annotations":{"io.containerd.image.name":"docker.io/library/odd:1"}"#;
    let outer = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, described(INDEX, &inner, name));
    let archive = [blob(&m.layer), blob(&m.config), blob(&m.manifest), blob(&inner)].concat();
    let archive = [archive, entry("index.json", Kind::File, outer.as_bytes())].concat();
    let loaded = store.load(Cursor::new(ended(archive)), None).await.unwrap();
    assert_eq!(loaded[0].references, ["odd:1"]);
    assert!(
        store
            .tag_all(
                "odd:2",
                vec![
                    (host.clone(), loaded[0].image.id.clone()),
                    (Platform { os: "a/b/c/d".into(), ..host }, loaded[0].image.id.clone())
                ]
            )
            .await
            .is_err()
    );
    drop(store);
    assert!(ImageStore::open(dir.path()).await.unwrap().get("odd:1").is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_is_removed() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, ids) = many(dir.path()).await;
    let tag = reference::parse("many:1").unwrap();
    let remove = async |platforms: &[&str], force: bool, user: Option<(&str, bool)>| {
        let platforms: Vec<Platform> = platforms.iter().map(|t| p(t)).collect();
        let user = user.map(|(id, running)| (id.to_owned(), running));
        let uses = move |id: &str| {
            let (_, running) = user.as_ref().filter(|(used, _)| used == id)?;
            Some(User { container: "c".repeat(64), running: *running })
        };
        store.remove_for("many:1", &platforms, force, true, &uses).await
    };
    let why = not_found(remove(&["linux/amd64", "linux/s390x"], false, None).await);
    assert!(why.starts_with("failed to delete platform linux/s390x for image sha256:"), "{why}");
    assert_eq!(store.variants(&tag).len(), 3, "nothing, where one is not there");
    for (force, running) in [(false, false), (false, true), (true, true)] {
        let refused = remove(&["linux/arm/v6"], force, Some((&ids[1], running))).await;
        assert!(
            matches!(&refused, Err(Error::Conflict(why)) if why.contains("is being used by")),
            "{refused:?}"
        );
    }
    // This machine's own goes; the tag is for the others.
    let main = store.get("many:1").unwrap();
    let gone = remove(&[&main.config.platform().to_string()], false, None).await.unwrap();
    assert_eq!(gone, [Deleted::Deleted(main.id.clone())]);
    let left: Vec<String> = store.variants(&tag).into_iter().map(|(_, image)| image.id.clone()).collect();
    assert_eq!(left, ids.iter().filter(|id| **id != main.id).cloned().collect::<Vec<_>>());
    assert!(left.contains(&store.get("many:1").unwrap().id));
    // With the last but one it is a tag of one image, and with that it goes.
    let platform = |id: &str| store.get(id).unwrap().config.platform().to_string();
    let (first, last) = (platform(&left[0]), platform(&left[1]));
    remove(&[&first], false, None).await.unwrap();
    assert!(store.variants(&tag).is_empty() && store.get("many:1").unwrap().id == left[1]);
    let gone = remove(&[&last], false, None).await.unwrap();
    assert_eq!(gone, [Deleted::Untagged("many:1".into()), Deleted::Deleted(left[1].clone())]);
    assert!(store.list().is_empty());
    // What has another name stays.
    let (store, ids) = many(dir.path()).await;
    store.tag(&ids[1], "other:1").await.unwrap();
    let gone = store.remove_for("many:1", &[p("linux/arm/v6")], false, true, &nobody).await.unwrap();
    assert_eq!((gone, store.variants(&tag).len()), (Vec::new(), 2));
    assert_eq!(store.get("other:1").unwrap().id, ids[1]);
}
