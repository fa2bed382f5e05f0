//! Where results go: the image store, a registry, or files of the client's; and looking into results.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use image::archive::{TarOptions, root, tar_of};
use image::reference;
use rustix::fs::OFlags;
use tokio::sync::mpsc;

use super::control::{line, status};
use super::files;
use super::progress::{Line, Log};
use super::proto::{Exporter, Stat};
use super::rpc::{self, INVALID, NOT_FOUND, Status};
use super::session::Held;
use crate::blocking;
use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::mounts::Holder;
use crate::state::State;

fn root_of(builder: &Arc<Builder>, state: &State) -> Result<OwnedFd> {
    Ok(builder.images.mount_layers(&state.diff_ids())?)
}

/// Hands a result to an exporter; what the client is told of it.
pub(crate) async fn export(
    builder: &Arc<Builder>,
    log: &Arc<Log>,
    held: Option<&Held>,
    state: &Arc<State>,
    number: usize,
    exporter: &Exporter,
    inline: bool,
) -> rpc::Result<HashMap<String, String>> {
    let name = match exporter.kind.as_str() {
        "moby" | "image" => "exporting to image",
        "docker" => "exporting to docker image format",
        "oci" => "exporting to oci image format",
        "local" => "exporting to client directory",
        "tar" => "exporting to client tarball",
        other => return Err(Status::new(INVALID, format!("exporter {other:?} could not be found"))),
    };
    let with_cache;
    let state = if inline && exporter.kind != "local" && exporter.kind != "tar" {
        with_cache = Arc::new(super::caching::inline(state).map_err(|e| status(&e))?);
        &with_cache
    } else {
        state
    };
    let line = line(log, name);
    let result = match exporter.kind.as_str() {
        "moby" | "image" => to_store(builder, held, state, exporter, &line).await,
        "docker" | "oci" => to_archive(builder, held, state, number, exporter, &line).await,
        "local" => to_folder(builder, held, state, number, &line).await,
        _ => to_tar(builder, held, state, number, &line).await,
    };
    match result {
        Ok(response) => {
            line.end(None);
            Ok(response)
        }
        Err(e) => {
            line.end(Some(e.to_string()));
            Err(status(&e))
        }
    }
}

fn truth(exporter: &Exporter, name: &str) -> bool {
    exporter.attrs.get(name).is_some_and(|v| matches!(v.as_str(), "true" | "1"))
}

/// Makes the image and names it; its id and names.
async fn store(
    builder: &Arc<Builder>,
    state: &State,
    exporter: &Exporter,
    line: &Line,
) -> Result<(String, Vec<reference::Reference>)> {
    let names: Vec<String> = exporter
        .attrs
        .get("name")
        .map(|n| n.split(',').map(str::trim).filter(|n| !n.is_empty()).map(ToString::to_string).collect())
        .unwrap_or_default();
    let names = crate::builder::tags(&names)?;
    line.status("exporting layers", 0, 0, true);
    let ids = builder.images.add(vec![state.finished(None)], Vec::new()).await?;
    let id = ids.into_iter().next().unwrap_or_default();
    line.status(&format!("writing image {id}"), 0, 0, true);
    for name in &names {
        builder.images.tag(&id, &name.to_string()).await?;
        line.status(&format!("naming to {name}"), 0, 0, true);
    }
    Ok((id, names))
}

fn response(id: &str, names: &[reference::Reference]) -> HashMap<String, String> {
    let mut all = HashMap::from([
        ("containerimage.digest".to_string(), id.to_string()),
        ("containerimage.config.digest".to_string(), id.to_string()),
    ]);
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        all.insert("image.name".into(), names.join(","));
    }
    all
}

async fn to_store(
    builder: &Arc<Builder>,
    held: Option<&Held>,
    state: &State,
    exporter: &Exporter,
    line: &Line,
) -> Result<HashMap<String, String>> {
    let (id, names) = store(builder, state, exporter, line).await?;
    if truth(exporter, "push") {
        if names.is_empty() {
            return Err(Error::Invalid("tag is needed when pushing to registry".into()));
        }
        for name in &names {
            push(builder, held, name, line).await?;
        }
    }
    Ok(response(&id, &names))
}

async fn push(
    builder: &Arc<Builder>,
    held: Option<&Held>,
    name: &reference::Reference,
    line: &Line,
) -> Result<()> {
    let auth = match held {
        Some(held) => held.credentials(&name.domain).await?,
        None => None,
    };
    let (tx, mut rx) = mpsc::channel(64);
    let whole = name.to_string();
    line.status("pushing layers", 0, 0, false);
    let pushing = builder.images.push(&whole, auth, tx);
    let hear = async {
        while let Some(p) = rx.recv().await {
            if !p.id.is_empty() {
                let done = matches!(p.status.as_str(), "Pushed" | "Layer already exists")
                    || p.status.starts_with("Mounted");
                line.status(&p.id, p.current.unwrap_or(0), p.total.unwrap_or(0), done);
            }
        }
    };
    let (pushed, ()) = tokio::join!(pushing, hear);
    pushed?;
    line.status("pushing layers", 0, 0, true);
    line.status(&format!("pushing manifest for {whole}"), 0, 0, true);
    Ok(())
}

fn session<'a>(held: Option<&'a Held>, what: &str) -> Result<&'a Held> {
    held.ok_or_else(|| Error::Session(format!("the {what} exporter needs a session to send to")))
}

async fn to_archive(
    builder: &Arc<Builder>,
    held: Option<&Held>,
    state: &State,
    number: usize,
    exporter: &Exporter,
    line: &Line,
) -> Result<HashMap<String, String>> {
    let held = session(held, &exporter.kind)?;
    if exporter.attrs.get("tar").is_some_and(|t| t == "false") {
        return Err(Error::Invalid(
            "an unpacked layout (tar=false) is not written: export a tar and unpack it".into(),
        ));
    }
    let (id, names) = store(builder, state, exporter, line).await?;
    let wanted: Vec<String> = match names.as_slice() {
        [] => vec![id.clone()],
        names => names.iter().map(ToString::to_string).collect(),
    };
    let (near, far) = tokio::io::duplex(1 << 18);
    let save = async { builder.images.save(&wanted, near).await.map_err(Error::from) };
    let about = [("image.name".to_string(), names.first().map(ToString::to_string).unwrap_or_default())];
    let send = held.session.send_file(number, &about, far);
    let (saved, sent) = tokio::join!(save, send);
    saved?;
    line.status("sending tarball", sent?, 0, true);
    Ok(response(&id, &names))
}

async fn to_folder(
    builder: &Arc<Builder>,
    held: Option<&Held>,
    state: &Arc<State>,
    number: usize,
    line: &Line,
) -> Result<HashMap<String, String>> {
    let held = session(held, "local")?;
    let (owner, kept) = (builder.clone(), state.clone());
    let root = blocking(move || root_of(&owner, &kept)).await?;
    let bytes = held.session.send_folder(number, root).await?;
    line.status("copying files", bytes, bytes, true);
    Ok(HashMap::new())
}

async fn to_tar(
    builder: &Arc<Builder>,
    held: Option<&Held>,
    state: &Arc<State>,
    number: usize,
    line: &Line,
) -> Result<HashMap<String, String>> {
    let held = session(held, "tar")?;
    let (owner, kept) = (builder.clone(), state.clone());
    let (near, far) = tokio::io::duplex(1 << 18);
    let pack = blocking(move || {
        let root = root_of(&owner, &kept)?;
        let mut out = image::Bridge::new(near);
        let options = TarOptions { name: Some(String::new()), ..TarOptions::default() };
        tar_of(root.as_fd(), Path::new("/"), &options, &mut out)?;
        Ok(out.shutdown()?)
    });
    let send = held.session.send_file(number, &[], far);
    let (packed, sent) = tokio::join!(pack, send);
    packed?;
    line.status("sending tarball", sent?, 0, true);
    Ok(HashMap::new())
}

fn missing(path: &str) -> impl Fn(std::io::Error) -> Status + '_ {
    move |e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Status::new(NOT_FOUND, format!("open {path}: no such file or directory"))
        }
        _ => Status::new(rpc::UNKNOWN, format!("open {path}: {e}")),
    }
}

async fn look<T: Send + 'static>(
    builder: &Arc<Builder>,
    state: &Arc<State>,
    work: impl FnOnce(&OwnedFd) -> rpc::Result<T> + Send + 'static,
) -> rpc::Result<T> {
    let (builder, state) = (builder.clone(), state.clone());
    let looked = blocking(move || {
        let root = root_of(&builder, &state)?;
        Ok(work(&root))
    });
    looked.await.map_err(|e| status(&e))?
}

/// The largest part of a file that is read at once.
const READ_LIMIT: u64 = 16 << 20;

/// A file of a result, or a part of it.
pub(crate) async fn read_file(
    builder: &Arc<Builder>,
    state: &Arc<State>,
    path: &str,
    range: Option<(i64, i64)>,
) -> rpc::Result<Vec<u8>> {
    let path = path.to_string();
    look(builder, state, move |root_fd| {
        let fd = root::open(root_fd.as_fd(), Path::new(&path), OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(missing(&path))?;
        let mut file = std::fs::File::from(fd);
        let (offset, length) = range.unwrap_or((0, 0));
        let length = u64::try_from(length).ok().filter(|l| *l > 0).unwrap_or(READ_LIMIT).min(READ_LIMIT);
        if let Ok(offset @ 1..) = u64::try_from(offset) {
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(offset)).map_err(missing(&path))?;
        }
        let mut data = Vec::new();
        file.take(length).read_to_end(&mut data).map_err(missing(&path))?;
        Ok(data)
    })
    .await
}

/// The entries of a folder of a result.
pub(crate) async fn read_dir(
    builder: &Arc<Builder>,
    state: &Arc<State>,
    path: &str,
    pattern: &str,
) -> rpc::Result<Vec<Stat>> {
    let (path, pattern) = (path.to_string(), pattern.to_string());
    look(builder, state, move |root_fd| {
        let fd = root::open(root_fd.as_fd(), Path::new(&path), OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(missing(&path))?;
        let all = files::list(&fd).map_err(|e| status(&e))?;
        Ok(all
            .into_iter()
            .filter(|s| !s.path.contains('/'))
            .filter(|s| pattern.is_empty() || crate::pattern::path(&pattern, &s.path) == Some(true))
            .collect())
    })
    .await
}

/// What a path of a result is.
pub(crate) async fn stat_file(builder: &Arc<Builder>, state: &Arc<State>, path: &str) -> rpc::Result<Stat> {
    let clean = root::clean(&Path::new("/").join(path));
    let parent = clean.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
    let name = clean.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let all = read_dir(builder, state, &parent, "").await?;
    all.into_iter()
        .find(|s| s.path == name)
        .ok_or_else(|| Status::new(NOT_FOUND, format!("lstat {path}: no such file or directory")))
}
