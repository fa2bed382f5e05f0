//! Pulls as registries and connections are: broken off, old, with other digests; and pushed on as they came.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use common::{HOLD, INDEX, MANIFEST, Made, ended, entry, gzip, impatient, made, ok, pull, registry, reply};
use image::archive::compress::{digest_as, digest_of};
use image::archive::tar::{self, Kind};
use image::registry::{BlobStream, Document, Registry, Remote};
use image::{Auth, Error, ImageStore, RegistryConfig, reference};
use parking_lot::Mutex;
use tokio::sync::mpsc;

fn sink() -> mpsc::Sender<image::Progress> {
    let (tx, mut rx) = mpsc::channel(100);
    tokio::spawn(async move { while rx.recv().await.is_some() {} });
    tx
}

/// The first byte that a request asks for.
fn from(head: &str) -> Option<usize> {
    let range = head.to_ascii_lowercase();
    range.split("range: bytes=").nth(1)?.split('-').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_where_the_last_one_broke() {
    let dir = tempfile::tempdir().unwrap();
    let m = Arc::new(made());
    let asked: Arc<Mutex<Vec<Option<usize>>>> = Arc::default();
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (whole, log, healthy) = (m.clone(), asked.clone(), well.clone());
    let address = registry(move |head, _| {
        if !head.contains(&digest_of(&whole.layer)) {
            return Some(whole.answer(head));
        }
        let at = from(head);
        log.lock().push(at);
        if healthy.load(std::sync::atomic::Ordering::SeqCst) {
            let rest = &whole.layer[at.unwrap_or(0)..];
            let range = format!("content-range: bytes {}-{}/*\r\n", at.unwrap_or(0), whole.layer.len() - 1);
            return Some(match at {
                Some(_) => reply("206 Partial Content", &range, rest),
                None => ok("application/octet-stream", rest),
            });
        }
        // Two thirds come, and then nothing any more.
        let answer = whole.answer(head);
        match at {
            None => Some(answer[..answer.len() * 2 / 3].to_vec()),
            Some(_) => Some(reply("500 Internal Server Error", "retry-after: 0\r\n", b"")),
        }
    })
    .await;
    let store = ImageStore::open(dir.path()).await.unwrap();
    pull(&store, &address).await.unwrap_err();
    assert!(store.list().is_empty());
    let before = asked.lock().len();
    drop(store);
    // Another daemon, and the registry is well again.
    well.store(true, std::sync::atomic::Ordering::SeqCst);
    let store = ImageStore::open(dir.path()).await.unwrap();
    pull(&store, &address).await.unwrap();
    let again = asked.lock()[before..].to_vec();
    assert_eq!(again.len(), 1, "{again:?}");
    assert!(again[0].unwrap() > m.layer.len() / 2, "{again:?}");
    assert_eq!(store.verify().await.unwrap(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(dir.path().join("images/blobs/partial/sha256")).unwrap().count(), 0);
    let kept = dir.path().join("images/blobs").join(digest_of(&m.layer).replace(':', "/"));
    assert_eq!(std::fs::read(kept).unwrap(), m.layer);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_a_broken_download_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let m = made();
    let digest = digest_of(&m.layer);
    let partial = dir.path().join("images/blobs/partial").join(digest.replace(':', "/"));
    std::fs::create_dir_all(partial.parent().unwrap()).unwrap();
    let mut wrong = m.layer[..100_000].to_vec();
    wrong[50_000] ^= 1;
    std::fs::write(&partial, wrong).unwrap();
    let address = registry(move |head, _| {
        let whole = m.answer(head);
        Some(match from(head) {
            Some(at) => {
                let range = format!("content-range: bytes {at}-{}/*\r\n", m.layer.len() - 1);
                reply("206 Partial Content", &range, &m.layer[at..])
            }
            None => whole,
        })
    })
    .await;
    let store = ImageStore::open(dir.path()).await.unwrap();
    pull(&store, &address).await.unwrap_err();
    assert!(store.list().is_empty());
    // The second attempt begins anew.
    pull(&store, &address).await.unwrap();
    assert_eq!(store.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_the_old_kind_are_refused_in_dockers_words() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let kind = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let old =
        br#"{"schemaVersion":1,"name":"app","tag":"1","architecture":"amd64","fsLayers":[],"history":[]}"#;
    for kind in [kind, "application/json"] {
        let address = registry(move |_, _| Some(ok(kind, old))).await;
        let error = pull(&store, &address).await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest version 2, schema 1 support is \
                 disabled by default and will be removed in an upcoming release. Suggest the author of {address}/app:1 \
                 to upgrade the image to the OCI Format or Docker Image manifest v2, schema 2. More information at \
                 https://docs.docker.com/go/deprecated-image-specs/"
            )
        );
    }
}

/// A repository in memory.
#[derive(Default)]
struct Memory {
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    manifests: Mutex<HashMap<String, (String, Vec<u8>)>>,
}

#[async_trait::async_trait]
impl Registry for Memory {
    async fn manifest(&self, reference: &str) -> image::Result<Document> {
        let found = self.manifests.lock().get(reference).cloned();
        let (media_type, bytes) = found.ok_or_else(|| Error::NotFound(reference.into()))?;
        Ok(Document { media_type, digest: digest_as(&bytes, reference), bytes: bytes.into() })
    }

    async fn blob_from(&self, digest: &str, from: u64) -> image::Result<BlobStream> {
        let found = self.blobs.lock().get(digest).cloned();
        let bytes = found.ok_or_else(|| Error::NotFound(digest.into()))?;
        let (tx, rx) = mpsc::channel(1);
        let rest = bytes[from as usize..].to_vec();
        tokio::spawn(async move { tx.send(Ok(rest.into())).await });
        Ok(rx)
    }

    async fn has_blob(&self, digest: &str) -> image::Result<bool> {
        Ok(self.blobs.lock().contains_key(digest))
    }

    async fn mount(&self, _: &str, _: &str) -> image::Result<bool> {
        Ok(false)
    }

    async fn upload(
        &self,
        mut content: BlobStream,
        digest: tokio::sync::oneshot::Receiver<String>,
    ) -> image::Result<()> {
        let mut bytes = Vec::new();
        while let Some(piece) = content.recv().await {
            bytes.extend_from_slice(&piece?);
        }
        let digest = digest.await.map_err(|_| Error::Cancelled("an upload".into()))?;
        assert_eq!(digest_as(&bytes, &digest), digest);
        self.blobs.lock().insert(digest, bytes);
        Ok(())
    }

    async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: bytes::Bytes,
    ) -> image::Result<String> {
        let digest = digest_of(&bytes);
        for name in [reference, &digest] {
            self.manifests.lock().insert(name.into(), (media_type.into(), bytes.to_vec()));
        }
        Ok(digest)
    }
}

impl Memory {
    fn of(m: &Made, like: &str) -> Self {
        let memory = Self::default();
        let manifest = String::from_utf8(m.manifest.clone()).unwrap();
        let manifest = manifest
            .replace(&digest_of(&m.layer), &digest_as(&m.layer, like))
            .replace(&digest_of(&m.config), &digest_as(&m.config, like));
        for blob in [&m.layer, &m.config] {
            memory.blobs.lock().insert(digest_as(blob, like), blob.clone());
        }
        memory.manifests.lock().insert("1".into(), (MANIFEST.into(), manifest.into_bytes()));
        memory
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_is_pushed_on_byte_for_byte() {
    for like in ["sha256:", "sha512:", "sha384:"] {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).await.unwrap();
        // Compressed as nobody here does it.
        let there = Memory::of(&made(), like);
        let wanted = reference::parse("one.example/app:1").unwrap();
        let image = store.pull_from(&there, &wanted, None, sink()).await.unwrap();
        assert_eq!(store.verify().await.unwrap(), Vec::<String>::new());
        let elsewhere = Memory::default();
        let tag = reference::parse("two.example/other:2").unwrap();
        store.tag(&image.id, &tag.to_string()).await.unwrap();
        store.push_to(&elsewhere, &tag, &image, &sink()).await.unwrap();
        assert_eq!(elsewhere.manifests.lock()["2"], there.manifests.lock()["1"], "{like}");
        assert_eq!(*elsewhere.blobs.lock(), *there.blobs.lock(), "{like}");
        // After a restart too; and when the compressed copy has gone, it is compressed anew.
        drop(store);
        let store = ImageStore::open(dir.path()).await.unwrap();
        let again = Memory::default();
        store.push_to(&again, &tag, &image, &sink()).await.unwrap();
        assert_eq!(*again.blobs.lock(), *there.blobs.lock(), "{like}");
        std::fs::remove_dir_all(dir.path().join("images/blobs")).unwrap();
        let anew = Memory::default();
        store.push_to(&anew, &tag, &image, &sink()).await.unwrap();
        let back = reference::parse("three.example/app:2").unwrap();
        let pulled = store.pull_from(&anew, &back, None, sink()).await.unwrap();
        assert_eq!(pulled.id, image.id);
        // Gone with its image.
        store.remove(&image.id, true, true, &|_| None).await.unwrap();
        let left = std::fs::read_dir(dir.path().join("images/layers")).unwrap().count();
        assert_eq!((left, store.list().len()), (0, 0));
        for algorithm in ["sha256", "sha512", "sha384"] {
            let blobs = std::fs::read_dir(dir.path().join("images/blobs").join(algorithm));
            assert_eq!(blobs.map_or(0, Iterator::count), 0, "{algorithm}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_says_of_a_layer_that_is_here_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let honest = made();
    let wanted = reference::parse("one.example/app:1").unwrap();
    let image = store.pull_from(&Memory::of(&honest, "sha256:"), &wanted, None, sink()).await.unwrap();
    // The same layer by its configuration, but the blob is another: nobody looks at it, for the layer is here.
    let other = gzip(b"anything else");
    let there = Memory::of(&honest, "sha256:");
    let named = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let size = |n: usize| format!("\"size\":{n}}}]");
        let text = text.replace(&digest_of(&honest.layer), &digest_of(&other));
        text.replace(&size(honest.layer.len()), &size(other.len())).into_bytes()
    };
    there.manifests.lock().insert("1".into(), (MANIFEST.into(), named(&honest.manifest)));
    there.blobs.lock().insert(digest_of(&other), other.clone());
    let stranger = reference::parse("two.example/app:1").unwrap();
    store.pull_from(&there, &stranger, None, sink()).await.unwrap();
    // A registry that has the stranger's blob is not led to take it for the layer.
    let elsewhere = Memory::default();
    elsewhere.blobs.lock().insert(digest_of(&other), other.clone());
    let tag = reference::parse("three.example/app:3").unwrap();
    store.tag(&image.id, &tag.to_string()).await.unwrap();
    store.push_to(&elsewhere, &tag, &store.get(&image.id).unwrap(), &sink()).await.unwrap();
    let manifest = String::from_utf8(elsewhere.manifests.lock()["3"].1.clone()).unwrap();
    assert!(!manifest.contains(&digest_of(&other)), "{manifest}");
    assert!(manifest.contains(&digest_of(&honest.layer)), "{manifest}");
}

/// A manifest that names, for a layer that is here, the blob of another one that is here, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_names_for_a_layer_is_not_saved_as_that_layer() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let (honest, other) = (made(), made());
    for (name, m) in [("one.example/app:1", &honest), ("two.example/app:1", &other)] {
        let wanted = reference::parse(name).unwrap();
        store.pull_from(&Memory::of(m, "sha256:"), &wanted, None, sink()).await.unwrap();
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let config = text(&honest.config).replace("\"linux\"", "\"linux\",\"author\":\"b\"").into_bytes();
    let manifest = text(&other.manifest)
        .replace(&digest_of(&other.config), &digest_of(&config))
        .replace(&format!("\"size\":{}}},", other.config.len()), &format!("\"size\":{}}},", config.len()));
    let strange = Made { manifest: manifest.into_bytes(), config, layer: other.layer.clone() };
    let wanted = reference::parse("three.example/app:1").unwrap();
    let image = store.pull_from(&Memory::of(&strange, "sha256:"), &wanted, None, sink()).await.unwrap();
    let file = dir.path().join("saved.tar");
    let ids = std::slice::from_ref(&image.id);
    store.save(ids, tokio::fs::File::create(&file).await.unwrap()).await.unwrap();
    let second = ImageStore::open(&dir.path().join("second")).await.unwrap();
    let loaded = second.load(tokio::fs::File::open(&file).await.unwrap(), None).await.unwrap();
    assert_eq!(loaded[0].image.id, image.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_pull_that_fails_nothing_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let (a, b) = (made(), made());
    let there = Memory::of(&a, "sha256:");
    // The configuration of one with the layer of another.
    let manifest = String::from_utf8(a.manifest.clone()).unwrap();
    let manifest = manifest
        .replace(&digest_of(&a.layer), &digest_of(&b.layer))
        .replace(&format!("\"size\":{}}}]", a.layer.len()), &format!("\"size\":{}}}]", b.layer.len()));
    there.manifests.lock().insert("1".into(), (MANIFEST.into(), manifest.into_bytes()));
    there.blobs.lock().insert(digest_of(&b.layer), b.layer.clone());
    let wanted = reference::parse("one.example/app:1").unwrap();
    let error = store.pull_from(&there, &wanted, None, sink()).await.unwrap_err().to_string();
    assert!(error.contains("but the image's configuration says"), "{error}");
    let kept = dir.path().join("images/blobs").join(digest_of(&b.layer).replace(':', "/"));
    assert!(!kept.exists());
    // Nor is what it unpacked to, which goes in the background.
    no_layers(dir.path()).await;
}

/// Until the layers of what came to nothing are gone, which is in the background.
async fn no_layers(dir: &std::path::Path) {
    let gone = async {
        while std::fs::read_dir(dir.join("images/layers")).unwrap().count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_pull_that_failed_does_not_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let (m, n) = (made(), made());
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}}}"#,
        digest_of(&m.plain()),
        digest_of(&n.plain())
    );
    let described = |kind: &str, bytes: &[u8]| {
        let kind = format!("application/vnd.oci.image.{kind}");
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, digest_of(bytes), bytes.len())
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{},{}]}}"#,
        described("config.v1+json", config.as_bytes()),
        described("layer.v1.tar+gzip", &m.layer),
        described("layer.v1.tar+gzip", &n.layer)
    );
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (log, healthy) = (asked.clone(), well.clone());
    let (first, second) = (digest_of(&m.layer), digest_of(&n.layer));
    let (one, other) = (first.clone(), second.clone());
    let address = registry(move |head, _| {
        let line = head.lines().next().unwrap();
        log.lock().push(line.to_string());
        Some(match () {
            () if line.contains("/manifests/") => ok(MANIFEST, manifest.as_bytes()),
            () if line.contains(&one) => ok("x/y", &m.layer),
            () if !line.contains(&other) => ok("x/y", config.as_bytes()),
            () if healthy.load(std::sync::atomic::Ordering::SeqCst) => ok("x/y", &n.layer),
            () => reply("404 Not Found", "", b""),
        })
    })
    .await;
    let store = ImageStore::open(dir.path()).await.unwrap();
    pull(&store, &address).await.unwrap_err();
    no_layers(dir.path()).await;
    well.store(true, std::sync::atomic::Ordering::SeqCst);
    let image = pull(&store, &address).await.unwrap();
    assert_eq!(image.diff_ids().len(), 2);
    let times = |digest: &str| asked.lock().iter().filter(|line| line.contains(digest)).count();
    assert_eq!((times(&first), times(&second)), (1, 2));
    assert_eq!(store.verify().await.unwrap(), Vec::<String>::new());
    for (folder, files) in [("sha256", 2), ("partial/sha256", 0)] {
        let found = std::fs::read_dir(dir.path().join("images/blobs").join(folder)).unwrap().count();
        assert_eq!(found, files, "{folder}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_images_with_one_layer_bring_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let m = made();
    let other_config =
        String::from_utf8(m.config.clone()).unwrap().replace("\"linux\"", "\"linux\",\"author\":\"b\"");
    let other_manifest = String::from_utf8(m.manifest.clone())
        .unwrap()
        .replace(&digest_of(&m.config), &digest_of(other_config.as_bytes()))
        .replace(&format!("\"size\":{}", m.config.len()), &format!("\"size\":{}", other_config.len()))
        .into_bytes();
    let times = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = times.clone();
    let address = registry(move |head, _| {
        let line = head.lines().next().unwrap();
        Some(match () {
            () if line.contains("/other/manifests/") => ok(MANIFEST, &other_manifest),
            () if line.contains(&digest_of(other_config.as_bytes())) => ok("x/y", other_config.as_bytes()),
            () => {
                if line.contains(&digest_of(&m.layer)) {
                    counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
                m.answer(line)
            }
        })
    })
    .await;
    let other = format!("{address}/other:1");
    let (a, b) = tokio::join!(pull(&store, &address), store.pull(&other, None, None, sink()));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(a.id != b.id && a.diff_ids() == b.diff_ids());
    assert_eq!(times.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_platforms_image_is_found_again_without_asking() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    impatient(&store);
    let own = made();
    let mut other = made();
    other.config = String::from_utf8(other.config).unwrap().replace("amd64", "ppc64").into_bytes();
    let before = r#""config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":""#;
    let manifest = String::from_utf8(other.manifest).unwrap();
    let at = manifest.find(before).unwrap() + before.len();
    let digest = digest_of(&other.config);
    other.manifest = [&manifest[..at], &digest, &manifest[at + digest.len()..]].concat().into_bytes();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"amd64"}}}},{{"mediaType":"{MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"ppc64"}}}}]}}"#,
        digest_of(&own.manifest),
        own.manifest.len(),
        digest_of(&other.manifest),
        other.manifest.len()
    );
    let address = registry(move |head, _| {
        let line = head.lines().next().unwrap();
        let of_other =
            [&other.manifest, &other.config, &other.layer].iter().any(|b| line.contains(&digest_of(b)));
        Some(match () {
            () if line.contains("/manifests/1 ") => ok(INDEX, index.as_bytes()),
            () if of_other => other.answer(line),
            () => own.answer(line),
        })
    })
    .await;
    let name = format!("{address}/app:1");
    let platform = |architecture: &str| image::Platform::parse(&format!("linux/{architecture}")).unwrap();
    let here = store.pull(&name, None, Some(platform("amd64")), sink()).await.unwrap();
    let beside = store.pull_beside(&name, None, platform("ppc64"), sink()).await.unwrap();
    assert_eq!((store.get(&name).unwrap().id.clone(), beside.tags.len()), (here.id.clone(), 0));
    // Also after a restart.
    drop(store);
    let store = ImageStore::open(dir.path()).await.unwrap();
    assert_eq!(store.get_for(&name, &platform("ppc64")).unwrap().id, beside.id);
    assert_eq!(store.get_for(&name, &platform("amd64")).unwrap().id, here.id);
    store.remove(&beside.id, true, true, &|_| None).await.unwrap();
    assert_eq!(store.get_for(&name, &platform("ppc64")).unwrap().id, here.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_waits_for_ends_and_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let m = made();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let address = registry(move |head, _| {
        let line = head.lines().next().unwrap();
        if !line.contains(&digest_of(&m.layer)) {
            return Some(m.answer(line));
        }
        log.lock().push(from(head));
        Some(match from(head) {
            // A half, and then silence until whoever asked has gone.
            None => {
                let whole = reply("200 OK", "", &m.layer);
                [HOLD, &whole[..whole.len() - m.layer.len() / 2]].concat()
            }
            Some(n) => {
                let range = format!("content-range: bytes {n}-{}/{}\r\n", m.layer.len() - 1, m.layer.len());
                reply("206 Partial Content", &range, &m.layer[n..])
            }
        })
    })
    .await;
    let (first, there) = (store.clone(), address.clone());
    let given_up = tokio::spawn(async move { pull(&first, &there).await });
    // The half is here before its silence ends, after a second.
    let come = || {
        let files = std::fs::read_dir(dir.path().join("images/blobs/partial/sha256")).into_iter().flatten();
        files.flatten().any(|f| f.metadata().is_ok_and(|m| m.len() > 100_000))
    };
    let comes = async {
        while !come() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), comes).await.expect("the half comes");
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    let image = pull(&store, &address).await.unwrap();
    assert_eq!(image.size, 300_000);
    assert_eq!(store.verify().await.unwrap(), Vec::<String>::new());
    let asked = asked.lock();
    assert!(asked[0].is_none() && asked[1..].iter().all(Option::is_some), "begun anew: {asked:?}");
}

/// An archive of a layer that is named by sha512, as an OCI layout has it.
#[tokio::test(flavor = "multi_thread")]
async fn layouts_with_other_digests() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let tar = ended(entry("file", Kind::File, b"content"));
    let layer = gzip(&tar);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        digest_as(&tar, "sha512:")
    );
    let descriptor = |kind: &str, bytes: &[u8]| {
        format!(
            r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#,
            digest_as(bytes, "sha512:"),
            bytes.len()
        )
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
        descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)
    );
    let index =
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(MANIFEST, manifest.as_bytes()));
    let blob = |bytes: &[u8]| {
        entry(format!("blobs/{}", digest_as(bytes, "sha512:").replace(':', "/")), Kind::File, bytes)
    };
    let archive = [
        blob(&layer),
        blob(config.as_bytes()),
        blob(manifest.as_bytes()),
        entry("index.json", Kind::File, index.as_bytes()),
    ];
    let loaded = store.load(Cursor::new(ended(archive.concat())), None).await.unwrap();
    assert_eq!(loaded[0].image.diff_ids(), [digest_as(&tar, "sha512:")]);
    assert_eq!(store.verify().await.unwrap(), Vec::<String>::new());
    let file = dir.path().join("saved.tar");
    let id = loaded[0].image.id.clone();
    store.save(std::slice::from_ref(&id), tokio::fs::File::create(&file).await.unwrap()).await.unwrap();
    store.remove(&id, true, true, &|_| None).await.unwrap();
    let again = store.load(tokio::fs::File::open(&file).await.unwrap(), None).await.unwrap();
    assert_eq!(again[0].image.id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_for_the_registry_alone() {
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = heads.clone();
    // Where the registry has blobs sent to; the rest of what is sent is read before the line is closed.
    let storage = registry(move |head, _| {
        told.lock().push(format!("storage {head}").to_ascii_lowercase());
        Some([HOLD, &reply("202 Accepted", "location: /session?x=1\r\n", b"")].concat())
    })
    .await;
    let told = heads.clone();
    let address = registry(move |head, _| {
        let known = head.to_ascii_lowercase().contains("\r\nauthorization: basic");
        told.lock().push(format!("own {head}").to_ascii_lowercase());
        Some(match (known, head.starts_with("POST")) {
            (false, _) => reply("401 Unauthorized", "www-authenticate: Basic realm=\"r\"\r\n", b""),
            (true, true) => reply("202 Accepted", &format!("location: http://{storage}/session\r\n"), b""),
            (true, false) => {
                let next = format!("link: <http://{storage}/tags>; rel=\"next\"\r\n");
                reply("200 OK", &next, br#"{"name":"app","tags":["1"]}"#)
            }
        })
    })
    .await;
    let config = RegistryConfig { patience: std::time::Duration::from_secs(1), ..RegistryConfig::default() };
    let auth = Auth { username: "ann".into(), password: "secret".into(), ..Auth::default() };
    let name = reference::parse(&format!("{address}/app")).unwrap();
    let remote = Remote::connect(&name, Some(auth), true, &config).await.unwrap();
    let (tx, content) = mpsc::channel(1);
    tx.send(Ok("hello".into())).await.unwrap();
    drop(tx);
    let (digest, known) = tokio::sync::oneshot::channel();
    digest.send(digest_of(b"hello")).unwrap();
    remote.upload(content, known).await.unwrap();
    // What is listed elsewhere is no list, but it has been asked for.
    remote.tags().await.unwrap_err();
    let heads = heads.lock();
    let asked: Vec<_> = heads.iter().map(|h| h.split(" http/").next().unwrap()).collect();
    let put = format!("storage put /session?x=1&digest={}", digest_of(b"hello"));
    let lists = "own get /v2/app/tags/list";
    let uploads = "own post /v2/app/blobs/uploads/";
    assert_eq!(
        asked,
        [uploads, uploads, "storage patch /session", &put, lists, "storage get /tags"],
        "the challenge, the upload, the list"
    );
    assert!(heads[4].contains("authorization: basic"), "the registry's own");
    let strays: Vec<_> =
        heads.iter().filter(|h| h.starts_with("storage") && h.contains("authorization")).collect();
    assert!(strays.is_empty(), "{strays:?}");
}

/// An archive leaves as it came, and so does what of it goes to a registry.
#[tokio::test(flavor = "multi_thread")]
async fn layouts_are_saved_and_pushed_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let files = |archive: &[u8]| {
        let (mut reader, mut all) = (tar::Reader::new(archive), HashMap::new());
        while let Some(e) = reader.next_entry().unwrap() {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
            all.insert(String::from_utf8(e.path).unwrap(), bytes);
        }
        all
    };
    let save = async |id: &str| {
        let file = dir.path().join("saved.tar");
        store.save(&[id.to_string()], tokio::fs::File::create(&file).await.unwrap()).await.unwrap();
        std::fs::read(file).unwrap()
    };
    let copies = || std::fs::read_dir(dir.path().join("images/blobs/sha256")).unwrap().count();
    for compressed in [true, false] {
        let mut m = made();
        if !compressed {
            let plain = m.plain();
            let manifest = String::from_utf8(m.manifest).unwrap();
            let manifest =
                manifest.replace("tar+gzip", "tar").replace(&digest_of(&m.layer), &digest_of(&plain));
            let sizes = (format!(r#""size":{}}}]"#, m.layer.len()), format!(r#""size":{}}}]"#, plain.len()));
            (m.manifest, m.layer) = (manifest.replace(&sizes.0, &sizes.1).into_bytes(), plain);
        }
        let there = Memory::of(&m, "sha256:");
        let blob =
            |bytes: &[u8]| entry(format!("blobs/{}", digest_of(bytes).replace(':', "/")), Kind::File, bytes);
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{MANIFEST}","digest":"{}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"one.example/app:1"}}}}]}}"#,
            digest_of(&m.manifest),
            m.manifest.len()
        );
        let parts =
            |last: Vec<u8>| ended([blob(&m.layer), blob(&m.config), blob(&m.manifest), last].concat());
        let archive = parts(entry("index.json", Kind::File, index.as_bytes()));
        // What is not an image keeps nothing.
        let nothing = parts(entry("index.json", Kind::File, b"{\"schemaVersion\":2,\"manifests\":[]}"));
        store.load(Cursor::new(nothing), None).await.unwrap();
        assert_eq!(copies(), 0);
        let image = store.load(Cursor::new(archive.clone()), None).await.unwrap().remove(0).image;
        assert_eq!(copies(), usize::from(compressed));
        let saved = save(&image.id).await;
        let (came, goes) = (files(&archive), files(&saved));
        for (path, bytes) in came.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            assert_eq!(goes.get(path), Some(bytes), "{path}");
        }
        assert!(String::from_utf8_lossy(&goes["index.json"]).contains(&digest_of(&m.manifest)));
        let elsewhere = Memory::default();
        let tag = reference::parse("two.example/app:1").unwrap();
        store.push_to(&elsewhere, &tag, &image, &sink()).await.unwrap();
        assert_eq!(elsewhere.manifests.lock()["1"], there.manifests.lock()["1"]);
        assert_eq!(*elsewhere.blobs.lock(), *there.blobs.lock());
        // What we saved is loaded like that, also where the image is already and the copy is not.
        store.drop_copies(u64::MAX).await.unwrap();
        assert_eq!(copies(), 0);
        let mixed = Memory::default();
        store.push_to(&mixed, &tag, &image, &sink()).await.unwrap();
        store.load(Cursor::new(saved.clone()), None).await.unwrap();
        let image = store.get(&image.id).unwrap();
        store.push_to(&mixed, &tag, &image, &sink()).await.unwrap();
        assert_eq!(
            mixed.manifests.lock()["1"],
            there.manifests.lock()["1"],
            "what else is there does not count"
        );
        assert_eq!(files(&save(&image.id).await), goes);
        store.remove(&image.id, true, true, &|_| None).await.unwrap();
        assert_eq!(copies(), 0);
        let again = store.load(Cursor::new(saved), None).await.unwrap().remove(0).image;
        assert_eq!(files(&save(&again.id).await).len(), goes.len());
        assert_eq!(store.verify().await.unwrap(), Vec::<String>::new());
        store.remove(&image.id, true, true, &|_| None).await.unwrap();
    }
}

/// A blob that is not what its name says, or breaks off, leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_archive_lies_about_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let m = made();
    let name = format!("blobs/{}", digest_of(b"another").replace(':', "/"));
    let lie = ended(entry(name.clone(), Kind::File, &m.layer));
    assert!(store.load(Cursor::new(lie.clone()), None).await.is_err());
    assert!(store.load(Cursor::new(lie[..200_000].to_vec()), None).await.is_err());
    for folder in ["sha256", "partial/sha256"] {
        let left = std::fs::read_dir(dir.path().join("images/blobs").join(folder)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{folder}");
    }
}

/// Several layers with large windows, which are undone one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn layers_with_large_windows_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let layers: Vec<(String, Vec<u8>)> = (0..4)
        .map(|n| {
            let tar = ended(entry(format!("file{n}"), Kind::File, &vec![n; 500_000]));
            let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
            zstd.window_log(26).unwrap();
            std::io::Write::write_all(&mut zstd, &tar).unwrap();
            (digest_of(&tar), zstd.finish().unwrap())
        })
        .collect();
    let ids: Vec<_> = layers.iter().map(|(id, _)| id).collect();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": ids}})
    .to_string();
    let part = |kind: &str, bytes: &[u8]| {
        serde_json::json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest_of(bytes), "size": bytes.len()})
    };
    let parts: Vec<_> = layers.iter().map(|(_, b)| part("layer.v1.tar+zstd", b)).collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": part("config.v1+json", config.as_bytes()), "layers": parts})
    .to_string();
    let blob =
        |bytes: &[u8]| entry(format!("blobs/{}", digest_of(bytes).replace(':', "/")), Kind::File, bytes);
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST,
        "digest": digest_of(manifest.as_bytes()), "size": manifest.len()}]});
    let mut archive: Vec<u8> = layers.iter().flat_map(|(_, b)| blob(b)).collect();
    archive.extend([blob(config.as_bytes()), blob(manifest.as_bytes())].concat());
    archive.extend(entry("index.json", Kind::File, index.to_string().as_bytes()));
    let archive = ended(archive);
    let address = registry(move |head, _| {
        let blob = layers.iter().map(|(_, b)| b.as_slice()).chain([config.as_bytes()]);
        let blob = blob.into_iter().find(|b| head.contains(&digest_of(b)));
        Some(blob.map_or_else(|| ok(MANIFEST, manifest.as_bytes()), |b| ok("application/octet-stream", b)))
    })
    .await;
    let store = ImageStore::open(dir.path()).await.unwrap();
    assert_eq!(pull(&store, &address).await.unwrap().diff_ids().len(), 4);

    // So are those of archives, which may have such a window themselves. Whoever has a turn waits for nobody who sends.
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.window_log(26).unwrap();
    std::io::Write::write_all(&mut zstd, &archive).unwrap();
    let whole = zstd.finish().unwrap();
    let other = tempfile::tempdir().unwrap();
    let store = ImageStore::open(other.path()).await.unwrap();
    let (mut stalled, held) = tokio::io::duplex(1 << 16);
    tokio::io::AsyncWriteExt::write_all(&mut stalled, &whole[..1000]).await.unwrap();
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.load(held, None).await })
    };
    let loads = [whole.clone(), archive, whole].map(|bytes| store.load(Cursor::new(bytes), None));
    for loaded in futures::future::join_all(loads).await {
        assert_eq!(loaded.unwrap()[0].image.diff_ids().len(), 4);
    }
    drop(stalled);
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(pull(&store, &address).await.unwrap().diff_ids().len(), 4);
}
