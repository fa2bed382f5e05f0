//! What tests of builds share: archives, and a store with an image to build on.

use std::io::Cursor;
use std::sync::Arc;

use image::archive::tar::{self, Entry, Kind};
use image::{Config, ImageStore, Import};

/// A tar of paths with their content; a slash at the end makes a folder.
pub fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, content) in files {
        let kind = if path.ends_with('/') { Kind::Dir } else { Kind::File };
        let mut e = Entry::new(*path, kind);
        e.size = if kind == Kind::File { content.len() as u64 } else { 0 };
        tar::write_entry(&mut out, &e, &content.as_bytes()[..e.size as usize]).unwrap();
    }
    out.extend_from_slice(&tar::END);
    out
}

/// A store with one image, `name`, of these files; `None`, said, without the rights for it.
pub async fn store_with(name: &str, files: &[(&str, &str)]) -> Option<(tempfile::TempDir, Arc<ImageStore>)> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = ImageStore::open(dir.path()).await.unwrap();
    let import = Import {
        reference: Some(name.into()),
        config: Config { cmd: Some(vec!["sh".into()]), env: vec!["PATH=/bin".into()], ..Config::default() },
        ..Import::default()
    };
    images.import(Cursor::new(tar_of(files)), import).await.unwrap();
    Some((dir, images))
}
