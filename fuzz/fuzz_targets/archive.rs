//! Archives of images: loaded into a store or refused, and then nothing of them is left.
#![no_main]

use std::sync::{Arc, LazyLock};

use image::ImageStore;
use image::archive::tar::{END, Entry, Kind, write_entry};

struct World {
    runtime: tokio::runtime::Runtime,
    store: Arc<ImageStore>,
    dir: tempfile::TempDir,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = fuzz::scratch();
    let store = runtime.block_on(ImageStore::open(dir.path())).unwrap();
    World { runtime, store, dir }
});

/// The names that a line of the input may stand for; what follows it up to the next line break is the file.
const NAMES: [&str; 6] =
    ["manifest.json", "index.json", "oci-layout", "config.json", "layer.tar", "repositories"];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut tar = Vec::new();
    for file in bytes.split(|b| *b == b'\n') {
        let [name, data @ ..] = file else { continue };
        let name = match NAMES.get(usize::from(*name)) {
            Some(name) => (*name).to_owned(),
            // As blobs are called in a layout.
            None => image::archive::compress::digest_of(data).replace("sha256:", "blobs/sha256/"),
        };
        let mut e = Entry::new(name, Kind::File);
        e.size = data.len() as u64;
        write_entry(&mut tar, &e, data).unwrap();
    }
    tar.extend_from_slice(&END);
    let world = &*WORLD;
    world.runtime.block_on(async {
        if let Ok(all) = world.store.load(std::io::Cursor::new(tar), None).await {
            for loaded in all {
                let _ = world.store.remove(&loaded.image.id, true, false, &|_| None).await;
            }
        }
        world.store.collect().await.unwrap();
        if world.store.list().is_empty() {
            let left = std::fs::read_dir(world.dir.path().join("images/layers")).unwrap().count();
            assert_eq!(left, 0, "something half remains");
        }
    });
});
