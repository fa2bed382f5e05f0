//! What strangers send: archives that attack, and registries that misbehave. Each is an error within bounds, and nothing
//! half remains.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{HOLD, INDEX, MANIFEST, Made, ended, entry, gzip, made, ok, pull, registry, reply};
use image::archive::compress::digest_of;
use image::archive::tar::{self, Entry, Kind};
use image::registry::{Registry, Remote};
use image::{ImageStore, Import, RegistryConfig, reference};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn root() -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        println!("skipped: needs root");
    }
    is
}

/// Nothing of a refused image is left.
fn assert_clean(dir: &Path) {
    for place in ["layers", "snapshots", "blobs/sha256"] {
        assert_eq!(fs::read_dir(dir.join("images").join(place)).unwrap().count(), 0, "{place}");
    }
}

/// A small disk, which goes with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf, mib: u32) -> Self {
        fs::create_dir(&path).unwrap();
        let options = format!("size={mib}m,nr_inodes=20000");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("image-test"), &path, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

async fn refused(store: &Arc<ImageStore>, bytes: impl Read + Send + Unpin + 'static) -> String {
    let error = store.import(Streamed(bytes), Import::default()).await.unwrap_err();
    assert!(store.list().is_empty());
    error.to_string()
}

/// A blocking reader as an async one: it has everything at hand.
struct Streamed<R>(R);

impl<R: Read + Unpin> tokio::io::AsyncRead for Streamed<R> {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let n = self.get_mut().0.read(buf.initialize_unfilled())?;
        buf.advance(n);
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    for name in ["x".repeat(256), format!("{}f", "d/".repeat(2100)), "y".repeat(4096)] {
        let error = refused(&store, Cursor::new(ended(entry(name, Kind::File, b"")))).await;
        assert!(error.contains("File name too long"), "{error:.300}");
        assert_clean(dir.path());
    }
    // A header that claims a name of gigabytes is not believed.
    let mut e = Entry::new("././@LongLink", Kind::File);
    e.size = 1 << 32;
    let mut long = tar::header(&e);
    let at = long.len() - 512;
    long[at + 156] = b'L';
    long[at + 148..at + 156].copy_from_slice(b"        ");
    let sum: u32 = long[at..].iter().map(|b| u32::from(*b)).sum();
    long[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = refused(&store, Cursor::new(long)).await;
    assert!(error.contains("header field"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_replace_each_other_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    // 16 MiB of their names is where it ends.
    let name = format!("{}/f", vec!["d".repeat(200); 19].join("/"));
    let one = entry(name, Kind::Fifo, b"");
    let error = refused(&store, Repeat { bytes: one, at: 0, left: 5000 }).await;
    assert!(error.contains("replace earlier ones"), "{error}");
    assert_clean(dir.path());
}

/// The same bytes again and again.
struct Repeat {
    bytes: Vec<u8>,
    at: usize,
    left: u64,
}

impl Read for Repeat {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let n = buf.len().min(self.bytes.len() - self.at);
        buf[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        if self.at == self.bytes.len() {
            (self.at, self.left) = (0, self.left - 1);
        }
        Ok(n)
    }
}

/// Entries one after the other, made as they are read.
struct Many {
    next: u32,
    end: u32,
    current: Cursor<Vec<u8>>,
}

impl Read for Many {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match Read::read(&mut self.current, buf)? {
                0 if self.next < self.end => {
                    let name = format!("{:03}/{}/", self.next % 97, self.next);
                    self.current = Cursor::new(entry(name, Kind::Dir, b""));
                    self.next += 1;
                }
                n => return Ok(n),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_files_than_the_disk_has_room_for() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(dir.path().join("disk"), 24);
    let store = ImageStore::open(&disk.0).await.unwrap();
    // A million folders, each with times that are to be set at the end.
    let many = Many { next: 0, end: 1_000_000, current: Cursor::default() };
    let error = refused(&store, many).await;
    assert!(error.contains("no space left on device: "), "{error}");
    assert_clean(&disk.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_and_a_disk_that_fills() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(dir.path().join("disk"), 24);
    let store = ImageStore::open(&disk.0).await.unwrap();
    // Zeros take no room on the disk, but a file of more than the disk is believed of nobody.
    let mut e = Entry::new("zeros", Kind::File);
    e.size = 1 << 40;
    let error = refused(&store, Cursor::new(gzip(&tar::header(&e)))).await;
    assert!(error.contains("more than the 24 MiB of the disk"), "{error}");
    let mut sparse = Entry::new("sparse", Kind::File);
    sparse.xattrs = Vec::new();
    let header = tar::header(&sparse);
    // A sparse file of an exbibyte, in GNU's old form.
    let mut h = header.clone();
    h[156] = b'S';
    h[257..265].copy_from_slice(b"ustar  \0");
    h[483] = 0x80;
    h[484..495].copy_from_slice(&[0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0]);
    h[148..156].copy_from_slice(b"        ");
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = refused(&store, Cursor::new(ended(h))).await;
    assert!(error.contains("of the disk") || error.contains("invalid"), "{error}");
    // Data that nothing compresses fills the disk half-way, where others have the other half.
    let mut noise = vec![0u8; 1 << 20];
    base::rng::fill(&mut noise);
    fs::write(disk.0.join("others"), vec![1; 12 << 20]).unwrap();
    let files: Vec<u8> =
        (0..20).flat_map(|i| entry(format!("f{i}"), Kind::File, &noise[..900_000])).collect();
    for bytes in [ended(files.clone()), gzip(&ended(files))] {
        let error = refused(&store, Cursor::new(bytes)).await;
        assert!(error.contains("no space left on device"), "{error}");
        assert_clean(&disk.0);
    }
    // What follows the end of a tar is no file, and kept all the same.
    let mut followed = ended(Vec::new());
    (0..20).for_each(|_| followed.extend_from_slice(&noise));
    let error = refused(&store, Cursor::new(followed)).await;
    assert!(error.contains("kept for others"), "{error}");
    assert_clean(&disk.0);
    // A gzip that is nothing but gzip: not looked into twice.
    let error = refused(&store, Cursor::new(gzip(&gzip(&vec![0u8; 10 << 20])))).await;
    assert!(error.contains("tar"), "{error}");
    // The store works on.
    let small = ended(entry("f", Kind::File, b"content"));
    let import = Import { reference: Some("small".into()), ..Import::default() };
    store.import(Cursor::new(small), import).await.unwrap();
    assert_eq!(store.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_misbehave() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    type Answer = Box<dyn Fn(&Made, &str, u32) -> Option<Vec<u8>> + Send + Sync>;
    let layer = |line: &str, m: &Made| line.contains(&digest_of(&m.layer));
    let cases: Vec<(&str, Answer, &str)> = vec![
        ("stalls before the answer", Box::new(|_, _, _| None), "did not answer within"),
        (
            "stalls in the layer",
            Box::new(move |m, line, _| {
                let whole = m.answer(line);
                if !layer(line, m) {
                    return Some(whole);
                }
                Some([HOLD, &whole[..whole.len() / 2]].concat())
            }),
            "nothing came for|did not answer",
        ),
        (
            "resets in the layer",
            Box::new(move |m, line, _| {
                let whole = m.answer(line);
                Some(if layer(line, m) { whole[..whole.len() / 2].to_vec() } else { whole })
            }),
            "blob sha256:",
        ),
        (
            "lies about the layer's content",
            Box::new(move |m, line, _| {
                let mut whole = m.answer(line);
                if layer(line, m) {
                    let n = whole.len();
                    whole[n - 1000] ^= 1;
                }
                Some(whole)
            }),
            "",
        ),
        (
            "sends more than it said",
            Box::new(move |m, line, _| {
                if !layer(line, m) {
                    return Some(m.answer(line));
                }
                let mut more = m.layer.clone();
                more.extend(gzip(&[0; 4096]));
                Some(ok("application/octet-stream", &more))
            }),
            "more than the manifest says",
        ),
        (
            "lies about the layer's size",
            Box::new(|m, line, _| {
                if !line.contains("/manifests/") {
                    return Some(m.answer(line));
                }
                let text = String::from_utf8(m.manifest.clone()).unwrap();
                let size = format!("\"size\":{}", m.layer.len());
                let more = format!("\"size\":{}", m.layer.len() + 1);
                Some(ok(MANIFEST, text.replace(&size, &more).as_bytes()))
            }),
            "but the manifest says",
        ),
        (
            "another configuration",
            Box::new(|m, line, _| {
                let other = line.contains(&digest_of(&m.config));
                Some(if other { ok("application/json", b"{}") } else { m.answer(line) })
            }),
            "image config verification failed",
        ),
        (
            "lies about the configuration's size",
            Box::new(|m, line, _| {
                if !line.contains("/manifests/") {
                    return Some(m.answer(line));
                }
                let text = String::from_utf8(m.manifest.clone()).unwrap();
                let size = |n: usize| format!("\"size\":{n}}},\"layers\"");
                Some(ok(MANIFEST, text.replace(&size(m.config.len()), &size(m.config.len() + 1)).as_bytes()))
            }),
            "but its descriptor says",
        ),
        (
            "lies about the manifest's size",
            Box::new(|m, line, _| {
                let index = format!(
                    r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{}","size":1}}]}}"#,
                    digest_of(&m.manifest)
                );
                Some(if line.contains("/manifests/1 ") {
                    ok(INDEX, index.as_bytes())
                } else {
                    m.answer(line)
                })
            }),
            "but its descriptor says 1",
        ),
        (
            "more layers than Docker takes",
            Box::new(|m, line, _| {
                let again = |bytes: &[u8], from: &str, what: usize| {
                    let text = String::from_utf8(bytes.to_vec()).unwrap();
                    let (front, list) = text.split_once(from).unwrap();
                    let one = &list[..list.len() - what];
                    let all = vec![one; 126].join(",");
                    format!("{front}{from}{all}{}", &list[list.len() - what..])
                };
                let config = again(&m.config, "\"diff_ids\":[", 3);
                if line.contains("/blobs/") {
                    return Some(ok("application/octet-stream", config.as_bytes()));
                }
                let manifest = again(&m.manifest, "\"layers\":[", 2);
                let manifest = manifest
                    .replace(&digest_of(&m.config), &digest_of(config.as_bytes()))
                    .replace(&format!("\"size\":{}", m.config.len()), &format!("\"size\":{}", config.len()));
                Some(ok(MANIFEST, manifest.as_bytes()))
            }),
            "max depth exceeded",
        ),
        (
            "redirects in a circle",
            Box::new(|_, line, _| {
                let path = line.split(' ').nth(1).unwrap_or_default();
                Some(reply("307 Temporary Redirect", &format!("location: {path}\r\n"), b""))
            }),
            "more than 5 redirects",
        ),
        (
            "redirects to nobody",
            Box::new(|_, _, _| {
                Some(reply("307 Temporary Redirect", "location: http://127.0.0.1:1/x\r\n", b""))
            }),
            "connection refused",
        ),
        (
            "a web page",
            Box::new(|_, _, _| Some(ok("text/html; charset=utf-8", b"<html>please log in</html>"))),
            "a web page instead of a manifest",
        ),
        (
            "429 for ever",
            Box::new(|_, _, _| Some(reply("429 Too Many Requests", "retry-after: 0\r\n", b"<html>"))),
            "429",
        ),
        (
            "500 for ever",
            Box::new(|_, _, _| Some(reply("500 Internal Server Error", "retry-after: 0\r\n", b"x"))),
            "500",
        ),
        (
            "an index that names itself",
            Box::new(|_, _, _| {
                let index = format!(
                    r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{INDEX}","digest":"sha256:{}","size":1}}]}}"#,
                    "0".repeat(64)
                );
                Some(ok(INDEX, index.as_bytes()))
            }),
            "manifest verification failed",
        ),
        (
            "a manifest without end",
            Box::new(|_, _, _| Some(ok(MANIFEST, &vec![b' '; 9 << 20]))),
            "length limit",
        ),
        ("no manifest at all", Box::new(|_, _, _| Some(ok(MANIFEST, b"[]"))), "invalid manifest"),
    ];
    for (name, answer, want) in cases {
        let m = made();
        let address = registry(move |line, n| answer(&m, line, n)).await;
        let error = pull(&store, &address).await.unwrap_err().to_string();
        assert!(want.split('|').any(|w| error.contains(w)), "{name}: {error}");
        assert!(store.list().is_empty(), "{name}");
        store.collect().await.unwrap();
        assert_clean(dir.path());
    }
}

/// A layer that its registry need not keep is asked for there, as Docker does on Linux, and never where the manifest says:
/// that would let an image have this machine send requests anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn layers_that_registries_need_not_keep() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = listener.local_addr().unwrap();
    for kind in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        for kept in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let store = ImageStore::open(dir.path()).await.unwrap();
            let m = made();
            let text = String::from_utf8(m.manifest.clone()).unwrap();
            let foreign = format!("\"urls\":[\"http://{elsewhere}/layer\"],\"mediaType\":\"{kind}\"");
            let plain = "\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\"";
            let manifest = text.replace(plain, &foreign);
            assert_ne!(text, manifest);
            let layer = digest_of(&m.layer);
            let wanted = layer.clone();
            let address = registry(move |line, _| {
                Some(match line {
                    _ if line.contains("/manifests/") => ok(MANIFEST, manifest.as_bytes()),
                    _ if line.contains(&layer) && !kept => reply("404 Not Found", "", b""),
                    _ => m.answer(line),
                })
            })
            .await;
            let result = pull(&store, &address).await;
            if kept {
                result.unwrap();
                assert_eq!(store.verify().await.unwrap(), Vec::<String>::new());
            } else {
                let error = result.unwrap_err().to_string();
                assert!(error.contains(&wanted) && error.contains("not found"), "{error}");
                assert_clean(dir.path());
            }
        }
    }
    let asked = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(asked.is_err(), "somebody else was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_tags_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let many = (0..100_001).map(|n| format!("\"t{n}\"")).collect::<Vec<_>>().join(",");
    for (list, want) in [("\"1\",\"../2\"", "is no name of a tag"), (&many, "more than 100000 tags")] {
        let list = format!(r#"{{"name":"app","tags":[{list}]}}"#);
        let address = registry(move |_, _| Some(ok("application/json", list.as_bytes()))).await;
        common::impatient(&store);
        let (tx, _rx) = tokio::sync::mpsc::channel(10);
        let error = store.pull_all(&format!("{address}/app"), None, None, tx).await.unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_nested_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    // Each names the next, rightly.
    let mut chain = vec![made().manifest];
    for _ in 0..20 {
        let next = chain.last().unwrap();
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{INDEX}","digest":"{}","size":{}}}]}}"#,
            digest_of(next),
            next.len()
        );
        chain.push(index.into_bytes());
    }
    let address = registry(move |line, _| {
        let found = chain.iter().find(|c| line.contains(&digest_of(c))).or(chain.last());
        found.map(|c| ok(INDEX, c))
    })
    .await;
    let error = pull(&store, &address).await.unwrap_err().to_string();
    assert!(error.contains("nested too deeply"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_passes_is_overcome() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let m = made();
    let want = digest_of(&m.config);
    // Every other request fails, and the layer comes in pieces.
    let address = registry(move |line, n| {
        if n % 2 == 0 {
            return Some(reply("503 Service Unavailable", "retry-after: 0\r\n", b""));
        }
        let whole = m.answer(line);
        Some(if line.contains(&digest_of(&m.layer)) && n < 8 {
            whole[..whole.len() / 2].to_vec()
        } else {
            whole
        })
    })
    .await;
    let image = pull(&store, &address).await.unwrap();
    assert_eq!(image.id, want);
    assert_eq!(store.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_nowhere_else() {
    use std::sync::Mutex;
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = listener.local_addr().unwrap();
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buf = vec![0u8; 4096];
            let n = stream.read(&mut buf).await.unwrap_or(0);
            log.lock().unwrap().push(String::from_utf8_lossy(&buf[..n]).to_ascii_lowercase());
            let _ = stream.write_all(&ok("application/octet-stream", b"content")).await;
        }
    });
    let address = registry(move |_, n| {
        Some(match n {
            0 => reply("401 Unauthorized", "www-authenticate: Basic realm=\"x\"\r\n", b""),
            _ => reply("307 Temporary Redirect", &format!("location: http://{elsewhere}/blob\r\n"), b""),
        })
    })
    .await;
    let auth = image::Auth { username: "ann".into(), password: "secret".into(), ..image::Auth::default() };
    let r = reference::parse(&format!("{address}/app")).unwrap();
    let config = RegistryConfig { patience: Duration::from_millis(400), ..RegistryConfig::default() };
    let remote = Remote::connect(&r, Some(auth), false, &config).await.unwrap();
    let mut stream = remote.blob(&digest_of(b"content")).await.unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap(), "content");
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|s| !s.contains("authorization")), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_name_the_same_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    // A megabyte that would be a gigabyte of configurations, and indexes that would be a tree of a thousand millions.
    let config = format!("{{\"x\":\"{}\"}}", "x".repeat(1 << 20));
    let items = vec![r#"{"Config":"c.json","Layers":[]}"#; 1000].join(",");
    let docker = [
        entry("c.json", Kind::File, config.as_bytes()),
        entry("manifest.json", Kind::File, format!("[{items}]").as_bytes()),
    ];
    let m = made();
    let blob = |bytes: &[u8]| digest_of(bytes).replace("sha256:", "blobs/sha256/");
    let mut layout = entry(blob(&m.config), Kind::File, &m.config);
    let mut below = (MANIFEST, m.manifest);
    for level in 0..4 {
        layout.extend(entry(blob(&below.1), Kind::File, &below.1));
        let one = format!(
            r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"architecture":"amd64","os":"linux"}}}}"#,
            below.0,
            digest_of(&below.1),
            below.1.len()
        );
        let many = vec![one; 1000].join(",");
        below = (INDEX, format!(r#"{{"schemaVersion":2,"manifests":[{many}]}}"#).into_bytes());
        if level == 3 {
            layout.extend(entry("index.json", Kind::File, &below.1));
        }
    }
    for archive in [docker.concat(), layout] {
        let error = store.load(Cursor::new(ended(archive)), None).await.unwrap_err().to_string();
        assert!(error.contains("again and again"), "{error}");
        assert_clean(dir.path());
    }
}

/// Names are what an archive is told by, and are kept while it is read: many long ones are as bad as long documents.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_an_archive_have_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    let mut archive = Vec::new();
    for n in 0..70 {
        let mut link = Entry::new(format!("{n}{}", "a".repeat(1_000_000)), Kind::Symlink);
        link.link = vec![b'b'; 10];
        archive.extend(tar::header(&link));
    }
    let error = store.load(Cursor::new(ended(archive)), None).await.unwrap_err().to_string();
    assert!(error.contains("more than 64 MiB of documents and names"), "{error}");
    assert_clean(dir.path());
}
