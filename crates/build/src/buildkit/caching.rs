//! The build cache elsewhere: in an image itself (inline), in a registry, or in a folder of the client's.
//!
//! What is kept is an image whose layers are the steps' results and whose configuration says which step each came from.
//! It is read by this builder only: other builders name steps in their own way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use image::registry::Remote;
use image::{Finished, History, ImageConfig, Layer, Platform, reference};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::control::{line, status};
use super::progress::Log;
use super::proto::CacheOptionsEntry;
use super::rpc::{self, INVALID, Status};
use super::session::{Held, Session};
use crate::builder::Builder;
use crate::cache::Made;
use crate::error::{Error, Result};
use crate::mounts::Holder;
use crate::state::{State, StepRecord};

/// The member of an image's configuration that holds the steps.
const MEMBER: &str = "tug.build.cache.v0";

#[derive(Serialize, Deserialize)]
struct Step {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    definition: Option<String>,
    description: String,
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    diff_id: Option<String>,
}

fn member(steps: &[StepRecord]) -> Result<serde_json::Value> {
    let steps: Vec<Step> = steps
        .iter()
        .map(|s| Step {
            key: s.key.clone(),
            definition: s.definition.clone(),
            description: s.description.clone(),
            created: s.made.created,
            diff_id: s.made.layer.as_ref().map(|l| l.diff_id.clone()),
        })
        .collect();
    Ok(serde_json::to_value(steps).map_err(image::Error::from)?)
}

/// A result whose image will say of which steps it is made.
pub(crate) fn inline(state: &State) -> Result<State> {
    let mut state = state.clone();
    state.config.other.insert(MEMBER.into(), member(&state.steps)?);
    Ok(state)
}

/// An image of all steps' layers.
fn whole(state: &State, all: bool) -> Result<Finished> {
    let mut steps = state.steps.clone();
    if all {
        steps.extend(state.others.iter().cloned());
    }
    let mut layers: Vec<Layer> = Vec::new();
    let mut config = ImageConfig { created: state.created, ..ImageConfig::scratch() };
    for step in &steps {
        let Some(layer) = &step.made.layer else { continue };
        if layers.iter().any(|l| l.diff_id == layer.diff_id) {
            continue;
        }
        layers.push(layer.clone());
        config.history.push(History {
            created: Some(step.made.created),
            created_by: step.description.clone(),
            ..History::default()
        });
    }
    config.other.insert(MEMBER.into(), member(&steps)?);
    Ok(Finished { config, parent: None, layers })
}

/// Where an entry points: its `ref`.
fn target(entry: &CacheOptionsEntry) -> Result<reference::Reference> {
    let name = entry.attrs.get("ref").filter(|r| !r.is_empty());
    let name = name.ok_or_else(|| Error::Invalid(format!("the {} cache needs ref=NAME", entry.kind)))?;
    Ok(reference::parse_tagged(name)?)
}

/// Sends the cache of a result elsewhere.
pub(crate) async fn export(
    builder: &Arc<Builder>,
    log: &Arc<Log>,
    held: Option<&Held>,
    state: &Arc<State>,
    entry: &CacheOptionsEntry,
) -> rpc::Result<HashMap<String, String>> {
    let name = match entry.kind.as_str() {
        "registry" => "exporting cache to registry",
        "local" => "exporting cache to client directory",
        other => {
            return Err(Status::new(
                INVALID,
                format!("cache exporter {other:?} is not supported: use inline, local or registry"),
            ));
        }
    };
    let line = line(log, name);
    let result = match entry.kind.as_str() {
        "registry" => to_registry(builder, held, state, entry, &line).await.map(|()| HashMap::new()),
        _ => to_client(builder, held, state, entry, &line).await,
    };
    match line.ends(result) {
        Err(_) if entry.attrs.get("ignore-error").is_some_and(|v| v == "true") => Ok(HashMap::new()),
        other => other.map_err(|e| status(&e)),
    }
}

async fn to_registry(
    builder: &Arc<Builder>,
    held: Option<&Held>,
    state: &Arc<State>,
    entry: &CacheOptionsEntry,
    line: &super::progress::Line,
) -> Result<()> {
    let target = target(entry)?;
    let auth = match held {
        Some(held) => held.credentials(&target.domain).await?,
        None => None,
    };
    let images = &builder.images;
    line.status("preparing build cache for export", 0, 0, true);
    let ids = images.add(vec![whole(state, all_of(entry))?], Vec::new()).await?;
    let image = images.get(ids.first().map_or("", String::as_str))?;
    let remote = Remote::connect(&target, auth, true, &images.registry_config()).await?;
    let (tx, mut rx) = mpsc::channel::<image::Progress>(64);
    let hear = async {
        while let Some(p) = rx.recv().await {
            if !p.id.is_empty() {
                line.status(&p.id, p.current.unwrap_or(0), p.total.unwrap_or(0), p.status == "Pushed");
            }
        }
    };
    let push = async {
        let tx = tx;
        images.push_to(&remote, &target, &image, &tx).await
    };
    let (pushed, ()) = tokio::join!(push, hear);
    forget(builder, &image.id).await;
    pushed?;
    line.status(&format!("writing cache image manifest {target}"), 0, 0, true);
    Ok(())
}

fn all_of(entry: &CacheOptionsEntry) -> bool {
    entry.attrs.get("mode").is_some_and(|m| m == "max")
}

/// Which of the client's content stores an entry means.
fn store_of(entry: &CacheOptionsEntry, member: &str) -> Result<String> {
    let dir = entry.attrs.get(member).filter(|d| !d.is_empty());
    let dir = dir.ok_or_else(|| Error::Invalid(format!("the local cache needs {member}=FOLDER")))?;
    Ok(format!("local:{dir}"))
}

/// Writes an OCI image with uncompressed layers into a folder of the client's, which puts it into its index.
async fn to_client(
    builder: &Arc<Builder>,
    held: Option<&Held>,
    state: &Arc<State>,
    entry: &CacheOptionsEntry,
    line: &super::progress::Line,
) -> Result<HashMap<String, String>> {
    let held = held.ok_or_else(|| Error::Session("a local cache needs a session to send it to".into()))?;
    let store = store_of(entry, "dest")?;
    let image = whole(state, all_of(entry))?;
    let sent = super::layouts::send(builder, &held.session, &store, &image, line).await?;
    line.status(&format!("writing cache image manifest {}", sent.digest), 0, 0, true);
    let descriptor = serde_json::to_string(&sent).map_err(image::Error::from)?;
    Ok(HashMap::from([("cache.manifest".to_string(), descriptor)]))
}

/// Reads what `to_client` wrote.
async fn from_client(
    builder: &Arc<Builder>,
    session: Option<&Session>,
    entry: &CacheOptionsEntry,
) -> Result<()> {
    let session =
        session.ok_or_else(|| Error::Session("a local cache needs a session to come from".into()))?;
    let store = store_of(entry, "src")?;
    let digest = entry.attrs.get("digest").cloned().unwrap_or_default();
    // The layers are held while the steps are remembered.
    let (config, _layers) =
        super::layouts::image(builder, session, &store, &digest, &Platform::host()).await?;
    take(builder, &config);
    Ok(())
}

/// Removes an image that was only a vehicle. One that has got a name meanwhile stays.
async fn forget(builder: &Arc<Builder>, id: &str) {
    if builder.images.get(id).is_ok_and(|image| !image.tags.is_empty()) {
        return;
    }
    if let Err(error) = builder.images.remove(id, false, false, &|_| None).await {
        tracing::debug!(%error, id, "an image that carried a build cache stays");
    }
}

/// Takes caches from elsewhere. One that cannot be had is told and costs only time.
pub(crate) async fn import(
    builder: &Arc<Builder>,
    log: &Arc<Log>,
    holder: Option<&Arc<dyn Holder>>,
    session: Option<&Session>,
    entries: &[CacheOptionsEntry],
) {
    for entry in entries {
        let name = entry.attrs.get("ref").or_else(|| entry.attrs.get("src")).cloned().unwrap_or_default();
        let line = line(log, &format!("importing cache manifest from {name}"));
        let imported = match entry.kind.as_str() {
            "registry" => from_registry(builder, holder, entry).await,
            "local" => from_client(builder, session, entry).await,
            other => Err(Error::Invalid(format!("caches of type {other} are not read"))),
        };
        line.end(imported.err().map(|e| e.to_string()));
    }
}

async fn from_registry(
    builder: &Arc<Builder>,
    holder: Option<&Arc<dyn Holder>>,
    entry: &CacheOptionsEntry,
) -> Result<()> {
    let target = target(entry)?;
    let images = &builder.images;
    let name = target.to_string();
    if let Ok(image) = images.get(&name)
        && image.config.other.contains_key(MEMBER)
    {
        take(builder, &image.config);
        return Ok(());
    }
    let auth = match holder {
        Some(holder) => holder.credentials(&target.domain).await?,
        None => None,
    };
    let known: HashSet<String> = images.list().iter().map(|image| image.id.clone()).collect();
    let (tx, mut rx) = mpsc::channel::<image::Progress>(64);
    // Pulled for its layers: the name stays where it is.
    let pull = images.pull_beside(&name, auth, Platform::host(), tx);
    let (image, ()) = tokio::join!(pull, async { while rx.recv().await.is_some() {} });
    let image = image?;
    take(builder, &image.config);
    if !known.contains(&image.id) {
        forget(builder, &image.id).await;
    }
    Ok(())
}

/// Remembers the steps that an image tells of.
fn take(builder: &Arc<Builder>, config: &ImageConfig) {
    let Some(steps) = config.other.get(MEMBER) else { return };
    let Ok(steps) = serde_json::from_value::<Vec<Step>>(steps.clone()) else { return };
    for step in steps {
        let layer = match &step.diff_id {
            None => None,
            // A layer that the image does not have is no result of its steps.
            Some(d) if config.rootfs.diff_ids.contains(d) => match builder.images.layer(d) {
                Some(layer) => Some(layer),
                None => continue,
            },
            Some(_) => continue,
        };
        builder.cache.put(&step.key, &step.description, &Made { layer, created: step.created });
        if let Some(definition) = &step.definition {
            builder.cache.define(definition, &step.key);
        }
    }
}
