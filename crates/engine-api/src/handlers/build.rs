//! `POST /build`: a context's tar in, the classic builder's stream of text out.

use std::collections::{BTreeMap, HashMap};

use build::{Context, Event, Options, RecordKind, Ulimit};
use image::Platform;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::images::progress_line;
use crate::body::{self, Answer};
use crate::call::{AuthConfig, Call};
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
    if q.text("version") == Some("2") {
        return Err(Error::invalid(
            "a build of version 2 goes over /grpc and /session, as docker buildx does it; /build is the classic builder",
        ));
    }
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

pub(crate) async fn build(call: Call) -> Result<Answer> {
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

pub(crate) async fn prune(call: Call) -> Result<Answer> {
    let all = call.query.flag("all");
    let filters = call.query.filters()?;
    let until = filters.get("until").first().map(|u| engine::filters::timestamp(u)).transpose()?;
    let keep_bytes: u64 = match call.query.number("reserved-space")? {
        Some(n) => n,
        None => call.query.number("keep-storage")?.unwrap_or(0),
    };
    let mut budget = keep_bytes;
    let pruned = call
        .builder
        .prune_cache(|record| {
            if until.is_some_and(|u| record.used > u.as_second()) {
                return true;
            }
            // Without `all`, what images have takes no place of its own and stays.
            if record.kind == RecordKind::Step && record.shared && !all {
                return true;
            }
            let fits = record.size <= budget && keep_bytes > 0;
            if fits {
                budget -= record.size;
            }
            fits
        })
        .await?;
    call.engine.builder_pruned(pruned.bytes);
    let ids: Vec<&str> = pruned.records.iter().map(|r| r.id.as_str()).collect();
    Ok(body::ok(&json!({"CachesDeleted": ids, "SpaceReclaimed": pruned.bytes})))
}
