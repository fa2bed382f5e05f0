//! Pulls the plug: a process that loads, pulls, pushes, builds and removes is killed at any moment, again and again.
//! Whatever it had acknowledged must be there and whole afterwards, and nothing half.
//!
//! `TUG_CRASH_KILLS=200` says how often; without it a few times, for a bounded run. A failure prints its seed, which
//! `TUG_CRASH_SEED` takes.

#![allow(clippy::unwrap_used)] // a test may panic

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use image::archive::tar::{self, Entry, Kind};
use image::registry::manifest::Manifest;
use image::registry::{Registry, Remote};
use image::{Config, History, ImageStore, Import, NewImage, RegistryConfig, reference};
use sha2::Digest as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const CHILD: &str = "TUG_CRASH_CHILD";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(dir) = std::env::var_os(CHILD) {
        return runtime.block_on(child(Path::new(&dir)));
    }
    if !std::fs::read_to_string("/proc/self/status").unwrap_or_default().contains("\nUid:\t0\t") {
        println!("skipped: needs root");
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let kills = number("TUG_CRASH_KILLS").unwrap_or(12);
    let seed = number("TUG_CRASH_SEED").unwrap_or_else(|| base::rng::below(u64::MAX));
    base::rng::seed(seed);
    println!("killing {kills} times, seed {seed}");
    runtime.block_on(parent(kills));
    println!("ok: everything acknowledged was there, whole, after each of {kills} kills");
}

fn tar_of(n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for i in 0..40 {
        let data = format!("{n} {i} ").repeat(500 + (n as usize * 37 + i) % 900);
        let mut e = Entry::new(format!("d{}/f{i}", i % 5), Kind::File);
        e.size = data.len() as u64;
        tar::write_entry(&mut out, &e, data.as_bytes()).unwrap();
    }
    out.extend_from_slice(&tar::END);
    out
}

/// Says what has been acknowledged; the parent believes it from then on.
fn said(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

async fn child(dir: &Path) {
    base::rng::seed(std::process::id().into());
    let store = ImageStore::open(dir).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = registry::Options::new(dir.join("registry"), listener);
    tokio::spawn(async move { registry::run(options, CancellationToken::new()).await.unwrap() });
    said("ready");
    // Two at once, so that work of one kind is cut while another is at its end.
    let (a, b) = (work(&store, &address, "a"), work(&store, &address, "b"));
    tokio::join!(a, b);
}

async fn work(store: &Arc<ImageStore>, address: &str, name: &str) {
    let quiet = || {
        let (tx, mut rx) = tokio::sync::mpsc::channel(100);
        tokio::spawn(async move { while rx.recv().await.is_some() {} });
        tx
    };
    loop {
        let n = base::rng::below(6);
        let tag = format!("{name}{n}:1");
        match base::rng::below(7) {
            0 | 1 => {
                let import = Import { reference: Some(tag.clone()), ..Import::default() };
                let image = store.import(Cursor::new(tar_of(base::rng::below(50))), import).await.unwrap();
                said(&format!("tag {tag} {}", image.id));
            }
            2 => {
                if let Ok(image) = store.get(&tag) {
                    let mut archive = Vec::new();
                    let (near, mut far) = tokio::io::duplex(1 << 16);
                    let names = [tag.clone()];
                    let (saved, _) = tokio::join!(
                        store.save(&names, near),
                        tokio::io::AsyncReadExt::read_to_end(&mut far, &mut archive)
                    );
                    saved.unwrap();
                    said(&format!("going {tag}"));
                    store.remove(&tag, true, true, &|_| None).await.unwrap();
                    said(&format!("gone {tag}"));
                    store.load(Cursor::new(archive), None).await.unwrap();
                    said(&format!("tag {tag} {}", image.id));
                }
            }
            3 => {
                if let Ok(parent) = store.get(&tag) {
                    let key = format!("s-{name}-{n}-{}", base::rng::hex(4));
                    let snapshot = store.prepare(&key, &parent).await.unwrap();
                    std::fs::write(snapshot.upper.join("built"), base::rng::hex(2000)).unwrap();
                    let layer = store.seal_snapshot(&key).await.unwrap();
                    let new = NewImage {
                        parent: Some(parent.id.clone()),
                        layer,
                        config: Config::default(),
                        history: History::default(),
                        ..NewImage::default()
                    };
                    // The other worker may have removed the parent meanwhile.
                    if let Ok(image) = store.create(new).await {
                        store.tag(&image.id, &tag).await.unwrap();
                        said(&format!("tag {tag} {}", image.id));
                    }
                }
            }
            4 => {
                if store.get(&tag).is_ok() {
                    said(&format!("going {tag}"));
                    store.remove(&tag, true, true, &|_| None).await.unwrap();
                    said(&format!("gone {tag}"));
                }
            }
            _ => {
                if let Ok(image) = store.get(&tag) {
                    let remote = format!("{address}/{name}{n}:1");
                    store.tag(&image.id, &remote).await.unwrap();
                    store.push(&remote, None, quiet()).await.unwrap();
                    said(&format!("pushed {name}{n} {}", image.id));
                    store.remove(&remote, true, true, &|_| None).await.unwrap();
                    said(&format!("going {tag}"));
                    store.remove(&tag, true, true, &|_| None).await.unwrap();
                    let pulled = store.pull(&remote, None, None, quiet()).await.unwrap();
                    assert_eq!(pulled.id, image.id);
                    store.tag(&pulled.id, &tag).await.unwrap();
                    said(&format!("tag {tag} {}", pulled.id));
                    store.remove(&remote, true, true, &|_| None).await.unwrap();
                }
            }
        }
    }
}

/// What must be there: tags, and what was pushed.
#[derive(Default)]
struct Known {
    tags: BTreeMap<String, Vec<String>>,
    pushed: BTreeMap<String, Vec<String>>,
}

impl Known {
    fn heard(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            // The old one may still stand where the next line was cut off, so both are good until more is said.
            ["tag", tag, id] => drop(self.tags.insert(tag.to_string(), vec![id.to_string()])),
            ["going" | "gone", tag] => drop(self.tags.remove(*tag)),
            ["pushed", name, id] => self.pushed.entry(name.to_string()).or_default().push(id.to_string()),
            _ => {}
        }
    }
}

async fn parent(kills: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut known = Known::default();
    let mut round = 0;
    // A few more, if chance would have it that nothing was pushed.
    while round < kills || (known.pushed.is_empty() && round < kills + 30) {
        round += 1;
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = process.stdout.take().unwrap();
        let (tx, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let reading = tokio::task::spawn_blocking(move || {
            BufReader::new(output).lines().map_while(Result::ok).for_each(|line| drop(tx.send(line)));
        });
        // Any moment, counted in what it has done, because machines differ: also while it starts.
        for _ in 0..base::rng::below(16) {
            let line = tokio::time::timeout(Duration::from_secs(120), heard.recv()).await;
            known.heard(&line.expect("it does nothing any more").expect("it lives"));
        }
        tokio::time::sleep(Duration::from_micros(base::rng::below(60_000))).await;
        process.kill().unwrap();
        let ended = process.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "round {round}: {ended}");
        reading.await.unwrap();
        while let Some(line) = heard.recv().await {
            known.heard(&line);
        }
        check(dir.path(), &mut known, round).await;
    }
    assert!(!known.pushed.is_empty(), "nothing was ever pushed");
}

async fn check(dir: &Path, known: &mut Known, round: u64) {
    let store = ImageStore::open(dir).await.unwrap();
    assert_eq!(store.verify().await.unwrap(), Vec::<String>::new(), "round {round}");
    for (tag, ids) in &known.tags {
        let found = store.get(tag).unwrap_or_else(|e| panic!("round {round}: {tag} is lost: {e}"));
        // Work that was cut off may have moved the tag without saying so.
        if !ids.contains(&found.id) {
            assert!(!found.diff_ids().is_empty(), "round {round}: {tag} became {}", found.id);
        }
    }
    drop(store);
    let shutdown = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = registry::Options::new(dir.join("registry"), listener);
    let running = tokio::spawn(registry::run(options, shutdown.clone()));
    for (name, ids) in &known.pushed {
        let r = reference::parse(&format!("{address}/{name}")).unwrap();
        let remote = Remote::connect(&r, None, false, &RegistryConfig::default()).await.unwrap();
        let document = remote.manifest("1").await.unwrap_or_else(|e| panic!("round {round}: {name}: {e}"));
        let manifest = Manifest::parse(&document.bytes, "m").unwrap();
        // A later push may have been whole before it could say so.
        assert!(ids.contains(&manifest.config.digest) || manifest.is_image(), "round {round}: {name}");
        for part in manifest.layers.iter().chain([&manifest.config]) {
            let mut stream = remote.blob(&part.digest).await.unwrap();
            let mut hash = sha2::Sha256::new();
            while let Some(piece) = stream.recv().await {
                hash.update(piece.unwrap());
            }
            let digest = format!("sha256:{}", hex::encode(hash.finalize()));
            assert_eq!(digest, part.digest, "round {round}: {name}");
        }
    }
    shutdown.cancel();
    running.await.unwrap().unwrap();
    let uploads: Vec<PathBuf> =
        std::fs::read_dir(dir.join("registry/uploads")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(uploads.is_empty(), "round {round}: {uploads:?}");
}
