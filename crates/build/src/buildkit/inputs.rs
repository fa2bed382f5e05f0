//! What a client hands in by a definition (LLB) instead of a Dockerfile: a result that this builder gave out, an image,
//! a repository, or a file at an address. That is how builds are linked, and how definitions of bakes are read from elsewhere.
//! Definitions with steps of their own are refused: the frontend is the Dockerfile's.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use image::ImageConfig;

use super::control::{Build, status};
use super::definition::{self, Named};
use super::frontend;
use super::locals::Input;
use super::progress::Line;
use super::proto::Definition;
use super::rpc::{NOT_FOUND, Result, Status, UNIMPLEMENTED};
use crate::builder::Builder;
use crate::context::{self, Tree};
use crate::error::Error;
use crate::state::State;
use crate::{blocking, download, remote};

/// The inputs of a frontend, by their names.
pub(super) fn given(
    builder: &Arc<Builder>,
    given: &HashMap<String, Definition>,
) -> Result<HashMap<String, Input>> {
    given
        .iter()
        .map(|(name, definition)| {
            let input = match definition::source(definition) {
                Some(Named::Result(id)) => Input::State(result(builder, &id)?),
                Some(Named::Source { address, .. }) => Input::Source(address),
                None => {
                    return Err(Status::new(
                        UNIMPLEMENTED,
                        format!("input {name}: only results of builds and plain sources can be inputs"),
                    ));
                }
            };
            Ok((name.clone(), input))
        })
        .collect()
}

fn result(builder: &Arc<Builder>, id: &str) -> Result<Arc<State>> {
    let builds = builder.desk.builds.lock();
    let found = builds.by_ref.values().find_map(|b| b.state(id));
    found.ok_or_else(|| Status::new(NOT_FOUND, format!("result {id} is not known any more")))
}

/// What a definition without a frontend means, as far as it only names a source.
pub(super) async fn defined(
    builder: &Arc<Builder>,
    build: &Arc<Build>,
    definition: &Definition,
) -> Result<Arc<State>> {
    match definition::source(definition) {
        Some(Named::Result(id)) => result(builder, &id),
        Some(Named::Source { address, platform, .. }) if address.starts_with("docker-image://") => {
            let name = address.trim_start_matches("docker-image://");
            let text = match platform {
                Some(platform) => format!("FROM --platform={platform} {name}\n"),
                None => format!("FROM {name}\n"),
            };
            frontend::plain(builder, &build.log, &text).await
        }
        Some(Named::Source { address, file, .. }) if address.contains("://") || address.contains('@') => {
            let line = Line::begin(&build.log, &base::rng::hex(8), &format!("[internal] load {address}"));
            let fetched = fetched(builder, &address, &file).await;
            line.ends(fetched).map(Arc::new).map_err(|e| status(&e))
        }
        _ => Err(Status::new(
            UNIMPLEMENTED,
            "builds from low-level definitions (LLB) are not supported: use the frontend dockerfile.v0",
        )),
    }
}

/// The files at an address as a layer of their own: a repository's, or one file of the name `file`.
async fn fetched(builder: &Arc<Builder>, address: &str, file: &str) -> crate::error::Result<State> {
    let scratch = &builder.scratch;
    let tree = match remote::Git::parse(address) {
        Some(git) => git.checkout(scratch, false).await?,
        None if address.starts_with("http://") || address.starts_with("https://") => {
            let got = download::get(address, scratch).await.map_err(Error::Invalid)?;
            let name = [file, &got.name].into_iter().find(|n| !n.is_empty()).unwrap_or("download");
            let tree = context::folder(scratch)?;
            let place = tree.path.join(Path::new(name).file_name().unwrap_or("download".as_ref()));
            got.file.persist(place).map_err(|e| e.error)?;
            tree
        }
        None => return Err(Error::Invalid(format!("{address} cannot be read from here"))),
    };
    let layer = builder.images.unpack_async(packed(tree, scratch).await?).await?;
    Ok(State { config: ImageConfig::scratch(), layers: vec![layer], ..State::default() })
}

/// A folder as a tar, in a file without a name.
async fn packed(tree: Tree, scratch: &Path) -> crate::error::Result<tokio::fs::File> {
    let mut file = tempfile::tempfile_in(scratch)?;
    let file = blocking(move || {
        use std::io::Seek;
        let options = image::archive::TarOptions { name: Some(String::new()), ..Default::default() };
        let mut out = std::io::BufWriter::new(&mut file);
        image::archive::tar_of(tree.open()?.as_fd(), Path::new("/"), &options, &mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.rewind()?;
        Ok(file)
    })
    .await?;
    Ok(tokio::fs::File::from_std(file))
}
