//! A store, a builder, and a runner that carries out the few commands these tests use.

#![allow(dead_code)] // each test uses its part

use std::fs;
use std::io::Cursor;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use build::{Builder, Context, Event, Options, Output, Step, StepRunner};
use image::ImageStore;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::common::{self, tar_of};

/// Knows `echo TEXT > PATH`, `fill KIB PATH`, `echo TEXT`, `false` and `true`, in the shell's place.
pub struct Fake {
    pub images: Arc<ImageStore>,
    pub steps: Mutex<Vec<Step>>,
}

#[async_trait]
impl StepRunner for Fake {
    async fn run(
        &self,
        step: Step,
        output: mpsc::Sender<Output>,
        _: CancellationToken,
    ) -> Result<i32, String> {
        let snapshot = self.images.snapshot(&step.id).map_err(|e| e.to_string())?;
        let command = step.args.last().cloned().unwrap_or_default();
        let work = step.working_dir.clone();
        self.steps.lock().push(step);
        if command == "false" {
            return Ok(1);
        }
        if let Some((text, path)) = command.strip_prefix("echo ").and_then(|c| c.split_once(" > ")) {
            let merged = snapshot.mount(true).map_err(|e| e.to_string())?;
            let path = Path::new("/").join(work).join(path);
            let at = format!("/proc/self/fd/{}{}", merged.as_raw_fd(), path.display());
            fs::write(at, format!("{text}\n")).map_err(|e| e.to_string())?;
        } else if let Some((kib, path)) = command.strip_prefix("fill ").and_then(|c| c.split_once(' ')) {
            let merged = snapshot.mount(true).map_err(|e| e.to_string())?;
            let mut data = vec![0; kib.parse::<usize>().map_err(|e| e.to_string())? << 10];
            base::rng::fill(&mut data);
            let at = format!("/proc/self/fd/{}{path}", merged.as_raw_fd());
            fs::write(at, data).map_err(|e| e.to_string())?;
        } else if let Some(text) = command.strip_prefix("echo ") {
            let data = format!("{text}\n").into();
            output.send(Output { stderr: false, data }).await.map_err(|e| e.to_string())?;
        }
        Ok(0)
    }
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub images: Arc<ImageStore>,
    pub runner: Arc<Fake>,
    pub builder: Arc<Builder>,
}

pub async fn world() -> Option<World> {
    let files = [
        ("etc/", ""),
        ("etc/passwd", "root:x:0:0::/:\nnobody:x:65534:65534::/:\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("bin/", ""),
        ("bin/busybox", "ELF"),
    ];
    let (dir, images) = common::store_with("base:1.0", &files).await?;
    let runner = Arc::new(Fake { images: images.clone(), steps: Mutex::default() });
    let builder = Builder::open(images.clone(), runner.clone(), dir.path()).await.unwrap();
    Some(World { dir, images, runner, builder })
}

impl World {
    pub async fn build(&self, files: &[(&str, &str)], options: Options) -> (Result<String, String>, String) {
        self.build_tar(tar_of(files), options).await
    }

    pub async fn build_tar(&self, tar: Vec<u8>, options: Options) -> (Result<String, String>, String) {
        let (tx, mut rx) = mpsc::channel(1000);
        let context = Context::Tar(Box::new(Cursor::new(tar)));
        let result = self.builder.build(context, options, tx, CancellationToken::new()).await;
        let mut text = String::new();
        while let Some(e) = rx.recv().await {
            if let Event::Stream(s) = e {
                text.push_str(&s);
            }
        }
        (result.map_err(|e| e.to_string()), text)
    }

    pub fn read(&self, image: &str, path: &str) -> Option<String> {
        let root = self.images.mount_layers(self.images.get(image).unwrap().diff_ids()).unwrap();
        let fd =
            image::archive::root::open(root.as_fd(), Path::new(path), rustix::fs::OFlags::RDONLY).ok()?;
        std::io::read_to_string(fs::File::from(fd)).ok()
    }

    pub fn owner(&self, image: &str, path: &str) -> (u32, u32, u32) {
        let root = self.images.mount_layers(self.images.get(image).unwrap().diff_ids()).unwrap();
        let fd =
            image::archive::root::open(root.as_fd(), Path::new(path), rustix::fs::OFlags::RDONLY).unwrap();
        let m = fs::File::from(fd).metadata().unwrap();
        (m.uid(), m.gid(), m.mode() & 0o7777)
    }
}

pub fn tagged(tag: &str) -> Options {
    Options { tags: vec![tag.into()], ..Options::default() }
}

/// Looks until something holds: what goes by itself does so in its own time.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while !holds().await {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{what} never came"));
}
