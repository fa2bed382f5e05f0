//! `POST /build`: a context's tar in, the classic builder's stream of text out; or, as `version=2`, BuildKit's progress.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use build::{Context, Event, Options, Posted, Ulimit};
use engine::gc::Rule;
use http::StatusCode;
use image::Platform;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::images::progress_line;
use crate::body::{self, Answer};
use crate::call::{AuthConfig, Call};
use crate::query::Query;
use crate::{Error, Result, progress};

fn event_line(event: Event) -> Value {
    match event {
        Event::Stream(text) => json!({"stream": text}),
        Event::Progress(progress) => progress_line(progress),
        Event::Built(id) => json!({"aux": {"ID": id}}),
    }
}

/// Ends a build when the client has gone.
struct Cancel(CancellationToken);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn options(call: &Call) -> Result<Options> {
    let q = &call.query;
    let number = |key: &str| -> Result<i64> { Ok(q.number(key)?.unwrap_or(0)) };
    let limits = engine::step::limits(&engine::model::HostConfig {
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: q.text("cpusetcpus").unwrap_or("").to_owned(),
        cpuset_mems: q.text("cpusetmems").unwrap_or("").to_owned(),
        ..engine::model::HostConfig::default()
    })?;
    // Only these images may serve as cache: none of them here, nothing is cached.
    let sources: Option<Vec<String>> = q.json("cachefrom")?;
    let sources = sources.unwrap_or_default();
    let no_source = !sources.is_empty() && sources.iter().all(|s| call.engine.images().get(s).is_err());
    let ulimits: Option<Vec<engine::model::Ulimit>> = q.json("ulimits")?;
    let ulimits = ulimits.unwrap_or_default();
    let labels: Option<BTreeMap<String, String>> = q.json("labels")?;
    let build_args: Option<BTreeMap<String, Option<String>>> = q.json("buildargs")?;
    Ok(Options {
        dockerfile: q.text("dockerfile").unwrap_or("").to_owned(),
        tags: q.all("t").into_iter().filter(|t| !t.is_empty()).collect(),
        build_args: build_args.unwrap_or_default(),
        labels: labels.unwrap_or_default(),
        target: q.text("target").unwrap_or("").to_owned(),
        no_cache: q.flag("nocache") || no_source,
        cache_from: sources,
        cgroup_parent: q.text("cgroupparent").unwrap_or("").to_owned(),
        squash: q.flag("squash"),
        pull: q.flag("pull"),
        quiet: q.flag("q"),
        network_mode: q.text("networkmode").unwrap_or("").to_owned(),
        extra_hosts: q.all("extrahosts").into_iter().filter(|h| !h.is_empty()).collect(),
        shm_size: q.number::<u64>("shmsize")?.filter(|s| *s > 0),
        resources: limits,
        ulimits: ulimits.into_iter().map(|u| Ulimit { name: u.name, soft: u.soft, hard: u.hard }).collect(),
        platform: q.text("platform").map(Platform::parse).transpose()?,
        auths: auths(call)?,
        ..Options::default()
    })
}

/// Credentials by registry.
fn auths(call: &Call) -> Result<HashMap<String, image::Auth>> {
    let all: HashMap<String, AuthConfig> = call.encoded("X-Registry-Config")?.unwrap_or_default();
    Ok(all.into_iter().filter_map(|(registry, auth)| Some((registry, auth.into_auth()?))).collect())
}

/// What of a build of version 2 the classic builder has no option for.
fn posted(call: &Call) -> Result<Posted> {
    let text = |key: &str| call.query.text(key).unwrap_or_default().to_owned();
    let outputs: Option<Vec<Output>> = call.query.json("outputs")?;
    let mut outputs = outputs.unwrap_or_default().into_iter();
    let output = outputs.next().map(|o| (o.kind, o.attrs.unwrap_or_default()));
    if outputs.next().is_some() {
        return Err(Error::invalid("multiple outputs not supported"));
    }
    let remote = call.query.text("remote").filter(|remote| !remote.is_empty()).map(ToOwned::to_owned);
    Ok(Posted { reference: text("buildid"), session: text("session"), remote, body: None, output })
}

/// One of `outputs`. Clients write its names either way, because Docker reads both.
#[derive(serde::Deserialize)]
struct Output {
    #[serde(rename = "Type", alias = "type")]
    kind: String,
    #[serde(rename = "Attrs", alias = "attrs")]
    attrs: Option<HashMap<String, String>>,
}

/// The context of a client that serves it over its session.
const IN_SESSION: &str = "client-session";

async fn build_by_buildkit(call: Call) -> Result<Answer> {
    let options = options(&call)?;
    let mut posted = posted(&call)?;
    let builder = call.builder.clone();
    match posted.remote.as_deref() {
        Some(IN_SESSION) => posted.remote = None,
        Some(_) => {}
        None => posted.body = Some(Box::new(body::upload_reader(call.request.into_body()))),
    }
    let trace = |message: Vec<u8>| json!({"id": "moby.buildkit.trace", "aux": STANDARD.encode(message)});
    progress::lines(trace, move |to| async move {
        let id = builder.build_posted(posted, &options, to).await?;
        let made = |id| json!({"id": "moby.image.id", "aux": {"ID": id}});
        Ok(id.into_iter().map(made).collect())
    })
    .await
}

/// `POST /build/cancel`
pub(crate) async fn cancel(call: Call) -> Result<Answer> {
    let id = call.query.text("id").filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Error::invalid("build ID not provided: the parameter id names the build"))?;
    call.builder.cancel_posted(id);
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn build(call: Call) -> Result<Answer> {
    match call.query.text("version") {
        None | Some("" | "1") => {}
        Some("2") => return build_by_buildkit(call).await,
        Some(other) => return Err(Error::invalid(format!("invalid version {other}"))),
    }
    let options = options(&call)?;
    let builder = call.builder.clone();
    let context = match call.query.text("remote") {
        Some(address) => Context::Remote(address.to_owned()),
        None => Context::Tar(Box::new(body::upload_reader(call.request.into_body()))),
    };
    progress::lines(event_line, move |to| async move {
        let cancel = Cancel(CancellationToken::new());
        match builder.build(context, options, to, cancel.0.clone()).await {
            Ok(_) => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    })
    .await
}

/// Filters that the cache's records have a field for.
const FIELDS: [&str; 6] = ["id", "type", "description", "inuse", "shared", "private"];

/// What a prune's query asks for.
fn pruning(query: &Query) -> Result<Rule> {
    let filters = query.filters()?;
    filters.only(&[&FIELDS[..], &["until", "unused-for"]].concat())?;
    let one = |key: &str| match filters.get(key) {
        [] => Ok(None),
        [one] => Ok(Some(one.as_str())),
        _ => Err(Error::invalid(format!("filter {key:?} expects only one value"))),
    };
    if one("until")?.is_some() && one("unused-for")?.is_some() {
        return Err(Error::invalid("conflicting filters: \"until\" and \"unused-for\""));
    }
    let mut wanted = Vec::new();
    for field in FIELDS {
        match one(field)? {
            None => {}
            Some(value) if field == "id" => wanted.push(format!("id~={value}")),
            Some(value) => wanted.push(format!("{field}=={value}")),
        }
    }
    let unused_for = match one("until")?.or(one("unused-for")?) {
        Some(until) => base::clock::now().as_second() - engine::filters::timestamp(until)?.as_second(),
        None => 0,
    };
    let reserved = match query.number("reserved-space")? {
        Some(n) => n,
        None => query.number("keep-storage")?.unwrap_or(0),
    };
    Ok(Rule {
        all: query.flag("all"),
        filters: vec![wanted.join(",")],
        unused_for,
        reserved,
        most: query.number("max-used-space")?.unwrap_or(0),
        free: query.number("min-free-space")?.unwrap_or(0),
    })
}

pub(crate) async fn prune(call: Call) -> Result<Answer> {
    let pruned = call.builder.prune(&pruning(&call.query)?).await?;
    call.engine.builder_pruned(pruned.bytes);
    let ids: Vec<&str> = pruned.records.iter().map(|r| r.id.as_str()).collect();
    Ok(body::ok(&json!({"CachesDeleted": ids, "SpaceReclaimed": pruned.bytes})))
}
