//! The disk: what the store says it takes is what du(1) says, and what is too much goes by itself, in its order.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;
#[path = "common/world.rs"]
mod world;

use std::path::Path;
use std::time::Duration;

use build::Policy;
use engine::gc::Rule;
use image::{Import, Thresholds};
use world::{World, tagged, until, world};

/// What du says of folders.
fn du(paths: &[&Path]) -> u64 {
    let output = std::process::Command::new("du").args(["-scB1"]).args(paths).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().last().unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

fn agrees(a: u64, b: u64) -> bool {
    a.abs_diff(b) * 100 <= a.max(b)
}

async fn filled(w: &World, name: &str, kib: u32) -> String {
    let file = format!("FROM base:1.0\nRUN fill {kib} /{name}\n");
    w.build(&[("Dockerfile", &file)], tagged(name)).await.0.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_is_what_du_counts() {
    let Some(w) = world().await else { return };
    // Small and large files, some in images and some in the cache alone, and a mounted cache.
    let many: Vec<(String, String)> =
        (0..400).map(|i| (format!("d/{i}"), "x".repeat(i * 13 % 5000))).collect();
    let mut files: Vec<(&str, &str)> = many.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let file =
        "FROM base:1.0\nCOPY d /d\nRUN --mount=type=cache,target=/c fill 3000 /big\nRUN fill 500 /more\n";
    files.push(("Dockerfile", file));
    w.build(&files, tagged("app")).await.0.unwrap();
    filled(&w, "gone", 4000).await;
    w.images.remove("gone", true, true, &|_| None).await.unwrap();
    let images = w.dir.path().join("images");
    let caches = w.dir.path().join("build/caches");
    let disk = w.images.on_disk().await.unwrap();
    let records = w.builder.cache_records().await.unwrap();
    let cache: u64 = records.iter().filter(|r| !r.shared).map(|r| r.size).sum();
    assert!(records.iter().any(|r| r.shared) && cache >= 4000 << 10);
    let told = disk.images + disk.loose + disk.copies + cache;
    let counted = du(&[&images.join("layers"), &images.join("blobs"), &caches]);
    assert!(agrees(told, counted), "{told} and {counted}: {disk:?}");
    // Removing gives back what it says.
    let pruned = w.builder.prune(&engine::gc::Rule::default()).await.unwrap();
    until("the removal", async || {
        agrees(counted - pruned.bytes, du(&[&images.join("layers"), &images.join("blobs"), &caches]))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_takes_the_oldest_cache_first_then_what_nothing_names() {
    let Some(w) = world().await else { return };
    w.builder.set_policy(Policy { enabled: false, ..Policy::default() });
    // Two results that only the cache has, used at different times.
    for name in ["old", "new"] {
        filled(&w, name, 2000).await;
        w.images.remove(name, true, true, &|_| None).await.unwrap();
        // The cache counts in seconds.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let base = || async { w.images.get("base:1.0").is_ok() };
    filled(&w, "kept", 1000).await;
    let described = async |word: &str| {
        let records = w.builder.cache_records().await.unwrap();
        records.iter().any(|r| r.description.contains(word))
    };
    assert!(described("/old").await && described("/new").await);
    let total = w.images.on_disk().await.unwrap().total();
    w.builder.set_policy(Policy { enabled: false, budget: Some(total - (1000 << 10)), ..Policy::default() });
    until("the oldest result's end", async || !described("/old").await).await;
    assert!(described("/new").await && base().await);
    // An image that nothing names goes after all of the cache; one that has a name stays, whatever it takes.
    let mut noise = vec![0u8; 1 << 20];
    base::rng::fill(&mut noise);
    let noise: String = noise.iter().map(|b| char::from(b'a' + b % 26)).collect();
    let tar = common::tar_of(&[("noise", &noise)]);
    let dangling = w.images.import(std::io::Cursor::new(tar), Import::default()).await.unwrap();
    w.builder.set_policy(Policy { enabled: false, budget: Some(1), ..Policy::default() });
    until("the cache's end", async || !described("/new").await).await;
    // It has just come: whoever made it may be about to name it.
    assert!(w.images.get(&dangling.id).is_ok());
    assert!(w.images.get("kept").is_ok() && base().await);
    let images = w.dir.path().to_path_buf();
    let (dir, runner) = (w.dir, w.runner);
    drop((w.images, w.builder, runner));
    // The next daemon knows nothing of it being new.
    let images = image::ImageStore::open(&images).await.unwrap();
    let freed = images.drop_unused(u64::MAX, false).await.unwrap();
    assert!(freed >= 1 << 20 && images.get(&dangling.id).is_err() && images.get("kept").is_ok());
    // Where a node's disk is fuller than it may be, names do not help, but use does.
    let base = images.get("base:1.0").unwrap();
    images.prepare("container", &base).await.unwrap();
    images.set_thresholds(Some(Thresholds { high: 0, low: 0 }));
    assert!(images.over_thresholds().unwrap() > 0);
    images.drop_unused(u64::MAX, true).await.unwrap();
    assert!(images.get("kept").is_err() && images.get("base:1.0").is_ok());
    drop(dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_has_a_part_of_the_budget() {
    let Some(w) = world().await else { return };
    w.builder.set_policy(Policy { enabled: false, ..Policy::default() });
    filled(&w, "old", 1000).await;
    w.images.remove("old", true, true, &|_| None).await.unwrap();
    let there =
        async || w.builder.cache_records().await.unwrap().iter().any(|r| r.description.contains("/old"));
    let registry = w.dir.path().join("registry");
    let total = w.images.on_disk().await.unwrap().total();
    let policy = Policy {
        enabled: false,
        budget: Some(total + (500 << 10)),
        beside: Some(registry.clone()),
        ..Policy::default()
    };
    w.builder.set_policy(policy);
    w.builder.collect().await.unwrap();
    assert!(there().await, "within the budget; there is no registry");
    std::fs::create_dir(&registry).unwrap();
    std::fs::write(registry.join("blob"), vec![1; 1 << 20]).unwrap();
    w.builder.collect().await.unwrap();
    assert!(!there().await && registry.join("blob").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_holds_the_cache_to_its_limit() {
    let Some(w) = world().await else { return };
    let rule = Rule { all: true, reserved: 3 << 20, ..Rule::default() };
    w.builder.set_policy(Policy { rules: vec![rule], ..Policy::default() });
    for n in 0..4 {
        let name = format!("n{n}");
        filled(&w, &name, 1500).await;
        w.images.remove(&name, true, true, &|_| None).await.unwrap();
    }
    // The next build's write is what makes somebody look.
    filled(&w, "last", 10).await;
    until("the limit", async || {
        let records = w.builder.cache_records().await.unwrap();
        let size: u64 = records.iter().filter(|r| !r.shared).map(|r| r.size).sum();
        size <= 3 << 20 && size > 1 << 20
    })
    .await;
}
