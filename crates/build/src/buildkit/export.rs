//! Where results go: the image store, a registry, or files of the client's; and looking into results.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use image::archive::{TarOptions, root, tar_of};
use image::{Platform, reference};
use rustix::fs::OFlags;
use tokio::sync::mpsc;

use super::control::{line, status};
use super::files;
use super::progress::{Line, Log};
use super::proto::{Exporter, Stat};
use super::rpc::{self, INVALID, NOT_FOUND, Status};
use super::session::Held;
use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::mounts::Holder;
use crate::state::{Part, State};
use crate::{blocking, blocking_on_stream};

fn root_of(builder: &Arc<Builder>, state: &State) -> Result<OwnedFd> {
    Ok(builder.images.mount_layers(&state.diff_ids())?)
}

/// Hands results to an exporter; what the client is told of it.
pub(crate) async fn export(
    builder: &Arc<Builder>,
    log: &Arc<Log>,
    held: Option<&Held>,
    parts: &[Part],
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
    let parts = if inline && exporter.kind != "local" && exporter.kind != "tar" {
        let with = |part: &Part| {
            let state = Arc::new(super::caching::inline(&part.state)?);
            Ok(Part { state, ..part.clone() })
        };
        with_cache = parts.iter().map(with).collect::<Result<Vec<_>>>().map_err(|e| status(&e))?;
        &with_cache
    } else {
        parts
    };
    let line = line(log, name);
    let result = match exporter.kind.as_str() {
        "moby" | "image" => to_store(builder, held, parts, exporter, &line).await,
        "docker" | "oci" => to_archive(builder, held, parts, number, exporter, &line).await,
        kind => to_files(builder, held, parts, number, kind, &line).await,
    };
    line.ends(result).map_err(|e| status(&e))
}

fn truth(exporter: &Exporter, name: &str) -> bool {
    exporter.attrs.get(name).is_some_and(|v| matches!(v.as_str(), "true" | "1"))
}

/// What the results are to be called.
fn names(exporter: &Exporter) -> Result<Vec<reference::Reference>> {
    let names = exporter.attrs.get("name").map(String::as_str).unwrap_or_default();
    let names = names.split(',').map(str::trim).filter(|n| !n.is_empty()).map(ToString::to_string);
    crate::builder::tags(&names.collect::<Vec<_>>())
}

/// Makes the images and names them; their ids, the names' own first, and the names.
async fn store(
    builder: &Arc<Builder>,
    parts: &[Part],
    exporter: &Exporter,
    line: &Line,
) -> Result<(Vec<String>, Vec<reference::Reference>)> {
    let names = names(exporter)?;
    line.status("exporting layers", 0, 0, true);
    let images = parts.iter().map(|part| part.state.finished(None)).collect();
    let mut ids = builder.images.add(images, Vec::new()).await?;
    for id in &ids {
        line.status(&format!("writing image {id}"), 0, 0, true);
    }
    let platforms: Vec<(Platform, String)> =
        parts.iter().zip(&ids).filter_map(|(part, id)| Some((part.platform.clone()?, id.clone()))).collect();
    for name in &names {
        match ids.first() {
            Some(id) if platforms.len() < 2 => builder.images.tag(id, &name.to_string()).await?,
            _ => builder.images.tag_all(&name.to_string(), platforms.clone()).await?,
        }
        line.status(&format!("naming to {name}"), 0, 0, true);
    }
    let called: Vec<String> = names.iter().map(reference::Reference::familiar).collect();
    // The names are those of the image for this machine, of several.
    if let Some(main) = names.first().and_then(|n| builder.images.get(&n.to_string()).ok()) {
        ids.sort_by_key(|id| *id != main.id);
    }
    for (number, id) in ids.iter().enumerate() {
        builder.runner.made(id, if number == 0 { &called } else { &[] });
    }
    Ok((ids, names))
}

fn response(
    ids: &[String],
    pushed: Option<String>,
    names: &[reference::Reference],
) -> HashMap<String, String> {
    let id = ids.first().cloned().unwrap_or_default();
    let mut all = HashMap::from([
        ("containerimage.digest".to_string(), pushed.unwrap_or_else(|| id.clone())),
        ("containerimage.config.digest".to_string(), id),
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
    parts: &[Part],
    exporter: &Exporter,
    line: &Line,
) -> Result<HashMap<String, String>> {
    let (ids, names) = store(builder, parts, exporter, line).await?;
    let mut pushed = None;
    if truth(exporter, "push") {
        if names.is_empty() {
            return Err(Error::Invalid("tag is needed when pushing to registry".into()));
        }
        for name in &names {
            pushed = push(builder, held, name, line).await?.or(pushed);
        }
    }
    Ok(response(&ids, pushed, &names))
}

/// Pushes what has that name; the digest that it has there.
async fn push(
    builder: &Arc<Builder>,
    held: Option<&Held>,
    name: &reference::Reference,
    line: &Line,
) -> Result<Option<String>> {
    let auth = match held {
        Some(held) => held.credentials(&name.domain).await?,
        None => None,
    };
    let (tx, mut rx) = mpsc::channel(64);
    let whole = name.to_string();
    line.status("pushing layers", 0, 0, false);
    let pushing = builder.images.push(&whole, auth, tx);
    let hear = async {
        let mut digest = None;
        while let Some(p) = rx.recv().await {
            digest = p.pushed.map(|(_, digest, _)| digest).or(digest);
            if !p.id.is_empty() {
                let done = matches!(p.status.as_str(), "Pushed" | "Layer already exists")
                    || p.status.starts_with("Mounted");
                line.status(&p.id, p.current.unwrap_or(0), p.total.unwrap_or(0), done);
            }
        }
        digest
    };
    let (pushed, digest) = tokio::join!(pushing, hear);
    pushed?;
    line.status("pushing layers", 0, 0, true);
    line.status(&format!("pushing manifest for {whole}"), 0, 0, true);
    Ok(digest)
}

fn session<'a>(held: Option<&'a Held>, what: &str) -> Result<&'a Held> {
    held.ok_or_else(|| Error::Session(format!("the {what} exporter needs a session to send to")))
}

async fn to_archive(
    builder: &Arc<Builder>,
    held: Option<&Held>,
    parts: &[Part],
    number: usize,
    exporter: &Exporter,
    line: &Line,
) -> Result<HashMap<String, String>> {
    let held = session(held, &exporter.kind)?;
    if exporter.attrs.get("tar").is_some_and(|t| t == "false") {
        return to_layout(builder, held, parts, exporter, line).await;
    }
    let (ids, names) = store(builder, parts, exporter, line).await?;
    let wanted: Vec<String> = match names.as_slice() {
        [] => ids.clone(),
        names => names.iter().map(ToString::to_string).collect(),
    };
    let (near, far) = tokio::io::duplex(1 << 18);
    let save = async { builder.images.save(&wanted, near).await.map_err(Error::from) };
    let about = [("image.name".to_string(), names.first().map(ToString::to_string).unwrap_or_default())];
    let send = held.session.send_file(number, &about, far);
    let (saved, sent) = tokio::join!(save, send);
    saved?;
    line.status("sending tarball", sent?, 0, true);
    Ok(response(&ids, None, &names))
}

/// The content store of the client's that takes a layout.
const LAYOUT: &str = "export";

/// Writes images into a layout of the client's, which puts them into its index.
async fn to_layout(
    builder: &Arc<Builder>,
    held: &Held,
    parts: &[Part],
    exporter: &Exporter,
    line: &Line,
) -> Result<HashMap<String, String>> {
    let names = names(exporter)?;
    if exporter.kind == "docker" && parts.len() > 1 {
        return Err(Error::Invalid(
            "docker exporter does not currently support exporting manifest lists: use type=oci".into(),
        ));
    }
    let mut manifests = Vec::new();
    for part in parts {
        let image = part.state.finished(None);
        let mut sent = super::layouts::send(builder, &held.session, LAYOUT, &image, line).await?;
        sent.platform = part.platform.as_ref().map(Into::into);
        manifests.push(sent);
    }
    let top = match manifests.as_slice() {
        [only] => only.clone(),
        _ => super::layouts::send_index(&held.session, LAYOUT, manifests).await?,
    };
    line.status(&format!("exporting manifest {}", top.digest), 0, 0, true);
    let ids = parts.iter().map(|p| Ok(p.state.finished(None).encode()?.1)).collect::<Result<Vec<_>>>()?;
    let descriptor = serde_json::to_vec(&top).map_err(image::Error::from)?;
    let descriptor = base64::engine::general_purpose::STANDARD.encode(descriptor);
    let mut all = response(&ids, Some(top.digest), &names);
    all.insert("containerimage.descriptor".into(), descriptor);
    Ok(all)
}

/// Sends the files of results: into a folder, or as a tar. Of several platforms each has a folder of its own.
async fn to_files(
    builder: &Arc<Builder>,
    held: Option<&Held>,
    parts: &[Part],
    number: usize,
    kind: &str,
    line: &Line,
) -> Result<HashMap<String, String>> {
    let held = session(held, kind)?;
    let (owner, kept) = (builder.clone(), parts.to_vec());
    let roots = blocking(move || {
        let root = |part: &Part| {
            let name = part.platform.as_ref().map(|p| p.to_string().replace('/', "_")).unwrap_or_default();
            Ok((name, root_of(&owner, &part.state)?))
        };
        let mut roots = kept.iter().map(root).collect::<Result<Vec<_>>>()?;
        roots.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(roots)
    })
    .await?;
    if kind == "local" {
        let bytes = held.session.send_folder(number, roots).await?;
        line.status("copying files", bytes, bytes, true);
        return Ok(HashMap::new());
    }
    let (near, far) = tokio::io::duplex(1 << 18);
    let pack = blocking_on_stream(move || {
        let mut out = image::Bridge::new(near);
        let last = roots.len().saturating_sub(1);
        for (n, (name, root)) in roots.into_iter().enumerate() {
            let options = TarOptions { name: Some(name), goes_on: n < last, ..TarOptions::default() };
            tar_of(root.as_fd(), Path::new("/"), &options, &mut out)?;
        }
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
