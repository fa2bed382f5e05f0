//! What tests of builds share: archives, and a store with an image to build on.

use std::io::Cursor;
use std::sync::Arc;

use image::archive::tar;
use image::{Config, ImageStore, Import};

/// A tar of paths with their content; a slash at the end makes a folder.
pub fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (*path, text.as_bytes())).collect();
    tar::archive(&files).unwrap()
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
