//! The server with the image store's own client: what is pushed can be pulled, byte for byte.

#![allow(clippy::unwrap_used)] // a test may panic

use std::io::Cursor;
use std::sync::Arc;

use http_body_util::BodyExt;
use image::archive::compress::digest_of;
use image::archive::tar;
use image::http::{Client, full};
use image::registry::manifest::{Manifest, is_index};
use image::registry::{Registry, Remote};
use image::{Config, Error, ImageStore, Import, Platform, Progress, RegistryConfig, reference};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

async fn registry(dir: &std::path::Path) -> (String, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    let options = registry::Options::new(dir.join("registry"), listener);
    tokio::spawn(registry::run(options, shutdown.clone()));
    (address, shutdown)
}

async fn store(dir: &std::path::Path, name: &str) -> Arc<ImageStore> {
    ImageStore::open(&dir.join(name)).await.unwrap()
}

async fn lines<T>(work: impl AsyncFnOnce(mpsc::Sender<Progress>) -> T) -> (T, Vec<Progress>) {
    let (tx, mut rx) = mpsc::channel(1000);
    let result = work(tx).await;
    let mut all = Vec::new();
    while let Some(p) = rx.recv().await {
        all.push(p);
    }
    (result, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn push_and_pull() {
    let dir = tempfile::tempdir().unwrap();
    let (address, _) = registry(dir.path()).await;
    let here = store(dir.path(), "here").await;
    let name = format!("{address}/team/app:1");
    let big: Vec<u8> = (0..300_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    let import = Import {
        reference: Some(name.clone()),
        config: Config { cmd: Some(vec!["x".into()]), ..Config::default() },
        ..Import::default()
    };
    let image = here
        .import(Cursor::new(tar::archive(&[("big", &big), ("small", b"s")]).unwrap()), import)
        .await
        .unwrap();
    let (pushed, told) = lines(async |tx| here.push(&name, None, tx).await).await;
    pushed.unwrap();
    let (tag, digest, _) = told.last().unwrap().pushed.clone().unwrap();
    assert_eq!(tag, "1");
    assert!(told.iter().any(|p| p.status == "Pushed") && told.iter().any(|p| p.status == "Pushing"));
    // Again: nothing is sent, and the manifest is the same.
    let (_, told) = lines(async |tx| here.push(&name, None, tx).await).await;
    assert!(told.iter().any(|p| p.status == "Layer already exists"));
    assert_eq!(told.last().unwrap().pushed.clone().unwrap().1, digest);

    let there = store(dir.path(), "there").await;
    let (pulled, told) = lines(async |tx| there.pull(&name, None, None, tx).await).await;
    let pulled = pulled.unwrap();
    assert_eq!((&pulled.id, pulled.diff_ids()), (&image.id, image.diff_ids()));
    assert_eq!(pulled.repo_digests, [format!("{address}/team/app@{digest}")]);
    assert_eq!(told.last().unwrap().status, format!("Status: Downloaded newer image for {name}"));
    let (again, told) = lines(async |tx| there.pull(&name, None, None, tx).await).await;
    assert_eq!(again.unwrap().id, image.id);
    assert_eq!(told.last().unwrap().status, format!("Status: Image is up to date for {name}"));
    // By digest, and into another repository by a mount.
    let by_digest = format!("{address}/team/app@{digest}");
    let (got, _) = lines(async |tx| there.pull(&by_digest, None, None, tx).await).await;
    assert_eq!(got.unwrap().id, image.id);
    let other = format!("{address}/other:2");
    there.tag(&image.id, &other).await.unwrap();
    let (_, told) = lines(async |tx| there.push(&other, None, tx).await).await;
    assert!(told.iter().any(|p| p.status == "Mounted from team/app"), "{told:?}");
    assert_eq!(told.last().unwrap().pushed.clone().unwrap().1, digest);
    let (missing, _) = lines(async |tx| there.pull(&format!("{address}/none:1"), None, None, tx).await).await;
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
    // After a restart of the registry everything is still there.
    let (get, _) = (&there, ());
    let files = get.prepare("s", &pulled).await.unwrap();
    assert_eq!(std::fs::read(files.lower[1].join("big")).unwrap(), big);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shares_the_disk_hears_of_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut options = registry::Options::new(dir.path().join("registry"), listener);
    let written = Arc::new(tokio::sync::Notify::new());
    options.written = Some(written.clone());
    tokio::spawn(registry::run(options, CancellationToken::new()));
    let digest = digest_of(b"blob");
    let url = format!("http://{address}/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(ask("POST", &url, &[], b"blob").await.0, 201);
    tokio::time::timeout(std::time::Duration::from_secs(10), written.notified()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_platform_of_a_tag_is_pushed() {
    let dir = tempfile::tempdir().unwrap();
    let (address, _) = registry(dir.path()).await;
    let here = store(dir.path(), "here").await;
    let name = format!("{address}/many:1");
    let mut images = Vec::new();
    for platform in ["linux/amd64", "linux/arm64"].map(|p| Platform::parse(p).unwrap()) {
        let import = Import { platform: Some(platform.clone()), ..Import::default() };
        let layer = tar::archive(&[("for", platform.to_string().as_bytes())]).unwrap();
        images.push((platform, here.import(Cursor::new(layer), import).await.unwrap().id.clone()));
    }
    here.tag_all(&name, images.clone()).await.unwrap();
    let (arm, id) = &images[1];
    let (pushed, _) = lines(async |tx| here.push_for(&name, None, Some(arm), tx).await).await;
    pushed.unwrap();
    let reference = reference::parse(&name).unwrap();
    let remote = Remote::connect(&reference, None, false, &RegistryConfig::default()).await.unwrap();
    let document = remote.manifest("1").await.unwrap();
    let manifest = Manifest::parse(&document.bytes, "1").unwrap();
    assert_eq!(manifest.config.digest, *id, "no index, but the one image");
    // All of them go out as before.
    let (pushed, _) = lines(async |tx| here.push(&name, None, tx).await).await;
    pushed.unwrap();
    let document = remote.manifest("1").await.unwrap();
    assert!(is_index(&document.media_type, &document.bytes));
    let other = Platform::parse("linux/s390x").unwrap();
    let none = here.push_for(&name, None, Some(&other), mpsc::channel(1).0).await;
    assert!(matches!(none, Err(Error::NotFound(why)) if why.contains("(linux/s390x)")));
}

async fn ask(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    content: &[u8],
) -> (u16, http::HeaderMap, Vec<u8>) {
    let client = Client::new(&[], true).unwrap();
    let mut b = http::Request::builder().method(method).uri(url);
    let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    b = b.header("host", host).header("content-length", content.len());
    for (n, v) in headers {
        b = b.header(*n, *v);
    }
    let r = client.send(b.body(full(content.to_vec())).unwrap()).await.unwrap();
    let (parts, incoming) = r.into_parts();
    (parts.status.as_u16(), parts.headers, incoming.collect().await.unwrap().to_bytes().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let (address, shutdown) = registry(dir.path()).await;
    let base = format!("http://{address}");
    let v2 = format!("{base}/v2");
    assert_eq!(ask("GET", &format!("{v2}/"), &[], b"").await.0, 200);
    assert_eq!(ask("GET", &format!("{v2}/none/tags/list"), &[], b"").await.0, 404);
    assert_eq!(ask("GET", &format!("{v2}/Bad/tags/list"), &[], b"").await.0, 400);

    // Chunks in order, a chunk out of order, the state in between.
    let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let (status, headers, _) = ask("POST", &format!("{v2}/a/b/blobs/uploads/"), &[], b"").await;
    assert_eq!(status, 202);
    let at = format!("{base}{}", headers["location"].to_str().unwrap());
    assert_eq!(ask("PATCH", &at, &[("content-range", "0-2")], b"hel").await.0, 202);
    assert_eq!(ask("PATCH", &at, &[("content-range", "4-5")], b"lo").await.0, 416);
    let (status, headers, _) = ask("GET", &at, &[], b"").await;
    assert_eq!((status, headers["range"].to_str().unwrap()), (204, "0-2"));
    let (status, headers, _) = ask("PUT", &format!("{at}?digest={digest}"), &[], b"lo").await;
    assert_eq!((status, headers["docker-content-digest"].to_str().unwrap()), (201, digest));
    assert_eq!(ask("GET", &at, &[], b"").await.0, 404);
    let blob = format!("{v2}/a/b/blobs/{digest}");
    assert_eq!(ask("GET", &blob, &[], b"").await.2, b"hello");
    let (status, headers, body) = ask("GET", &blob, &[("range", "bytes=1-2")], b"").await;
    assert_eq!(
        (status, headers["content-range"].to_str().unwrap(), body.as_slice()),
        (206, "bytes 1-2/5", &b"el"[..])
    );
    assert_eq!(ask("GET", &blob, &[("range", "bytes=9-")], b"").await.0, 416);

    // In one piece, with a lie, with sha512, and mounted.
    let upload = format!("{v2}/a/b/blobs/uploads/");
    let (status, _, body) = ask("POST", &format!("{upload}?digest={digest}"), &[], b"other").await;
    assert_eq!(status, 400);
    assert!(String::from_utf8_lossy(&body).contains("DIGEST_INVALID"));
    let sha512 = "sha512:9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043";
    assert_eq!(ask("POST", &format!("{upload}?digest={sha512}"), &[], b"hello").await.0, 201);
    assert_eq!(ask("POST", &format!("{v2}/c/blobs/uploads/?mount={digest}&from=a/b"), &[], b"").await.0, 201);
    assert_eq!(ask("POST", &format!("{v2}/c/blobs/uploads/?mount={digest}&from=x"), &[], b"").await.0, 202);

    // Uploads that nobody goes on with hold no descriptor.
    let begun = dir.path().join("registry/uploads");
    for _ in 0..10 {
        let (_, headers, _) = ask("POST", &format!("{v2}/d/blobs/uploads/"), &[], b"").await;
        let at = format!("{base}{}", headers["location"].to_str().unwrap());
        assert_eq!(ask("PATCH", &at, &[], b"begun").await.0, 202);
    }
    assert!(std::fs::read_dir(&begun).unwrap().count() >= 10);
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = open.filter(|f| std::fs::read_link(f.path()).is_ok_and(|p| p.starts_with(&begun)));
    assert_eq!(open.count(), 0);

    // Manifests, tags, referrers.
    let manifest = |extra: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.x","digest":"{digest}","size":5}},"layers":[]{extra}}}"#
        )
    };
    let kind = ("content-type", "application/vnd.oci.image.manifest.v1+json");
    for tag in ["t1", "t2", "t3"] {
        let (status, ..) =
            ask("PUT", &format!("{v2}/c/manifests/{tag}"), &[kind], manifest("").as_bytes()).await;
        assert_eq!(status, 201);
    }
    let unknown = manifest("").replace("2cf24", "00000");
    let (status, _, body) = ask("PUT", &format!("{v2}/c/manifests/x"), &[kind], unknown.as_bytes()).await;
    assert!(status == 400 && String::from_utf8_lossy(&body).contains("MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(ask("PUT", &format!("{v2}/c/manifests/x"), &[kind], b"{").await.0, 400);
    let (_, headers, body) = ask("GET", &format!("{v2}/c/tags/list?n=2"), &[], b"").await;
    assert_eq!(body, br#"{"name":"c","tags":["t1","t2"]}"#);
    let next = headers["link"].to_str().unwrap().split(['<', '>']).nth(1).unwrap().to_string();
    assert_eq!(ask("GET", &format!("{base}{next}"), &[], b"").await.2, br#"{"name":"c","tags":["t3"]}"#);
    assert_eq!(ask("GET", &format!("{v2}/_catalog"), &[], b"").await.2, br#"{"repositories":["c"]}"#);
    let (_, headers, stored) = ask("GET", &format!("{v2}/c/manifests/t1"), &[], b"").await;
    assert_eq!(stored, manifest("").as_bytes());
    let of = headers["docker-content-digest"].to_str().unwrap().to_string();
    let subject =
        format!(r#","subject":{{"mediaType":"m","digest":"{of}","size":1}},"annotations":{{"k":"v"}}"#);
    let (status, headers, _) =
        ask("PUT", &format!("{v2}/c/manifests/ref"), &[kind], manifest(&subject).as_bytes()).await;
    assert_eq!((status, headers["oci-subject"].to_str().unwrap()), (201, of.as_str()));
    let (_, headers, body) =
        ask("GET", &format!("{v2}/c/referrers/{of}?artifactType=application/vnd.x"), &[], b"").await;
    let text = String::from_utf8(body).unwrap();
    assert!(
        text.contains(r#""annotations":{"k":"v"}"#) && headers["oci-filters-applied"] == "artifactType",
        "{text}"
    );
    let (_, _, body) = ask("GET", &format!("{v2}/c/referrers/{of}?artifactType=none"), &[], b"").await;
    assert!(String::from_utf8_lossy(&body).contains(r#""manifests":[]"#));

    // Many of them come in pages that clients can read.
    let large = "v".repeat(1_500_000);
    for n in 0..3 {
        let annotations = format!(r#""annotations":{{"{n}":"{large}"}}"#);
        let document = manifest(&subject).replace(r#""annotations":{"k":"v"}"#, &annotations);
        let at = format!("{v2}/c/manifests/large{n}");
        assert_eq!(ask("PUT", &at, &[kind], document.as_bytes()).await.0, 201);
    }
    let (mut at, mut pages) =
        (Some(format!("/v2/c/referrers/{of}?artifactType=application/vnd.x")), Vec::new());
    while let Some(path) = at {
        let (status, headers, body) = ask("GET", &format!("{base}{path}"), &[], b"").await;
        assert!(status == 200 && body.len() <= 4 << 20, "{}", body.len());
        let index: serde_json::Value = serde_json::from_slice(&body).unwrap();
        pages.push(index["manifests"].as_array().unwrap().len());
        let link = headers.get("link").map(|l| l.to_str().unwrap().split(['<', '>']).nth(1).unwrap());
        at = link.map(ToString::to_string);
    }
    assert!(pages.len() == 2 && pages.iter().sum::<usize>() == 4, "{pages:?}");

    // Deletion: of a tag, of a manifest with its tags, of a blob with its file.
    assert_eq!(ask("DELETE", &format!("{v2}/c/manifests/t1"), &[], b"").await.0, 202);
    assert_eq!(ask("GET", &format!("{v2}/c/manifests/t1"), &[], b"").await.0, 404);
    assert_eq!(ask("DELETE", &format!("{v2}/c/manifests/{of}"), &[], b"").await.0, 202);
    assert_eq!(ask("GET", &format!("{v2}/c/manifests/t2"), &[], b"").await.0, 404);
    let file = dir.path().join("registry/blobs").join(digest.replace(':', "/"));
    assert_eq!(ask("DELETE", &format!("{v2}/c/blobs/{digest}"), &[], b"").await.0, 202);
    assert!(file.exists());
    assert_eq!(ask("DELETE", &blob, &[], b"").await.0, 202);
    assert!(!file.exists());
    shutdown.cancel();
}

/// A registry that lies: what it sends must not become an image.
#[tokio::test(flavor = "multi_thread")]
async fn changed_content_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (address, _) = registry(dir.path()).await;
    let here = store(dir.path(), "here").await;
    let name = format!("{address}/app:1");
    let import = Import { reference: Some(name.clone()), ..Import::default() };
    here.import(Cursor::new(tar::archive(&[("f", b"content")]).unwrap()), import).await.unwrap();
    lines(async |tx| here.push(&name, None, tx).await).await.0.unwrap();
    let r = reference::parse(&name).unwrap();
    let remote = Remote::connect(&r, None, false, &RegistryConfig::default()).await.unwrap();
    let manifest = remote.manifest("1").await.unwrap();
    let m = image::registry::manifest::Manifest::parse(&manifest.bytes, "m").unwrap();
    let path = dir.path().join("registry/blobs").join(m.layers[0].digest.replace(':', "/"));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let there = store(dir.path(), "there").await;
    let (result, _) = lines(async |tx| there.pull(&name, None, None, tx).await).await;
    assert!(result.is_err());
    assert!(there.list().is_empty());
    assert_eq!(std::fs::read_dir(dir.path().join("there/images/layers")).unwrap().count(), 0);
    // Cut short: the download is begun again where it stood, and then given up.
    std::fs::write(&path, &bytes[..middle]).unwrap();
    let (result, _) = lines(async |tx| there.pull(&name, None, None, tx).await).await;
    assert!(result.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tags_search_and_distribution() {
    let dir = tempfile::tempdir().unwrap();
    let (address, _) = registry(dir.path()).await;
    let here = store(dir.path(), "here").await;
    let repository = format!("{address}/team/app");
    for (tag, content) in [("1", b"one"), ("2", b"two")] {
        let import = Import { reference: Some(format!("{repository}:{tag}")), ..Import::default() };
        here.import(Cursor::new(tar::archive(&[("f", content)]).unwrap()), import).await.unwrap();
    }
    assert!(
        here.can_push(&repository, None).is_ok() && here.can_push(&format!("{repository}:3"), None).is_err()
    );
    let (pushed, told) = lines(async |tx| here.push(&repository, None, tx).await).await;
    pushed.unwrap();
    assert_eq!(told.iter().filter(|p| p.pushed.is_some()).count(), 2);

    let there = store(dir.path(), "there").await;
    let (pulled, _) = lines(async |tx| there.pull_all(&repository, None, None, tx).await).await;
    let tags: Vec<_> = pulled.unwrap().iter().flat_map(|i| i.tags.clone()).collect();
    assert_eq!(tags, [format!("{repository}:1"), format!("{repository}:2")]);
    let (missing, _) =
        lines(async |tx| there.pull_all(&format!("{address}/none"), None, None, tx).await).await;
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");

    let found = there.search(&format!("{address}/app"), 10, None).await.unwrap();
    assert_eq!(found.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), [repository.as_str()]);
    assert!(there.search(&format!("{address}/nothing"), 10, None).await.unwrap().is_empty());
    let (descriptor, platforms) = there.distribution(&format!("{repository}:1"), None).await.unwrap();
    let host = image::Platform::host();
    assert_eq!(platforms[0].architecture, host.architecture);
    let image = here.get(&format!("{repository}:1")).unwrap();
    assert_eq!(image.repo_digests, [format!("{repository}@{}", descriptor.digest)]);
    // The one image there is comes for whatever platform, and its user is told.
    let other = Some(image::Platform::parse("linux/s390x").unwrap());
    let (pulled, told) =
        lines(async |tx| there.pull(&format!("{repository}:1"), None, other.clone(), tx).await).await;
    assert_eq!(pulled.unwrap().id, image.id);
    let warned = told.iter().any(|p| p.status.contains("wanted linux/s390x, actual: linux/"));
    assert!(warned, "{told:?}");
}

/// Uploads that have begun and bring nothing cost nobody else a thread.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_send_nothing_stop_nobody() {
    use tokio::io::AsyncWriteExt;
    let dir = tempfile::tempdir().unwrap();
    let (address, _) = registry(dir.path()).await;
    let v2 = format!("http://{address}/v2");
    let mut idle = Vec::new();
    // More than the process has threads for blocking work.
    for n in 0..600 {
        let (status, headers, _) = ask("POST", &format!("{v2}/a{n}/blobs/uploads/"), &[], b"").await;
        assert_eq!(status, 202);
        let path = headers["location"].to_str().unwrap().to_string();
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let head = format!("PATCH {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc");
        stream.write_all(head.as_bytes()).await.unwrap();
        idle.push((stream, path));
    }
    let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let url = format!("{v2}/well/blobs/uploads/?digest={digest}");
    let one = ask("POST", &url, &[], b"hello");
    let (status, ..) = tokio::time::timeout(std::time::Duration::from_secs(20), one).await.unwrap();
    assert_eq!(status, 201);
    // What broke off has added nothing.
    let (stream, path) = idle.pop().unwrap();
    drop(stream);
    let state = async {
        loop {
            let (status, headers, _) = ask("GET", &format!("http://{address}{path}"), &[], b"").await;
            if (status, headers["range"].to_str().unwrap()) == (204, "0-0") {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), state).await.unwrap();
}

/// Chunks for the same place that come at once: one of them is added, the other is told where the upload stands.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_added_once() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = tempfile::tempdir().unwrap();
    let (address, _) = registry(dir.path()).await;
    let (_, headers, _) = ask("POST", &format!("http://{address}/v2/a/blobs/uploads/"), &[], b"").await;
    let path = headers["location"].to_str().unwrap().to_string();
    let at = format!("http://{address}{path}");
    // The first chunk is on its way while the two that follow it wait.
    let mut first = tokio::net::TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-range: 0-4\r\ncontent-length: 5\r\n\r\nhe"
    );
    first.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let next = || {
        let at = at.clone();
        tokio::spawn(async move { ask("PATCH", &at, &[("content-range", "5-9")], b"world").await.0 })
    };
    let others = [next(), next()];
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    first.write_all(b"llo").await.unwrap();
    first.read_to_end(&mut Vec::new()).await.unwrap();
    let mut said = Vec::new();
    for other in others {
        said.push(other.await.unwrap());
    }
    said.sort_unstable();
    assert_eq!(said, [202, 416]);
    let url = format!("{at}?digest={}", digest_of(b"helloworld"));
    assert_eq!(ask("PUT", &url, &[], b"").await.0, 201);
}
