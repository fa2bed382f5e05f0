//! `POST /build`: a context's tar in, the classic builder's stream of text out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use build::{Context, Event, Options, Output, Step, StepRunner};
use engine::Engine;
use engine::step::StepSpec;
use image::Platform;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::images::progress_line;
use crate::body::{self, Answer};
use crate::call::{AuthConfig, Call};
use crate::{Error, Result, progress};

/// The engine as the builder sees it.
pub(crate) struct Steps(pub Arc<Engine>);

#[async_trait::async_trait]
impl StepRunner for Steps {
    async fn run(
        &self,
        step: Step,
        output: mpsc::Sender<Output>,
        cancel: CancellationToken,
    ) -> std::result::Result<i32, String> {
        let spec = StepSpec {
            id: step.id,
            args: step.args,
            env: step.env,
            working_dir: step.working_dir,
            user: step.user,
            hostname: String::new(),
            network_mode: step.network_mode,
            extra_hosts: step.extra_hosts,
            shm_size: step.shm_size,
            mounts: step.mounts,
            resources: step.resources,
            privileged: false,
        };
        let (sender, mut chunks) = mpsc::channel::<runtime::Chunk>(16);
        let pass = async {
            while let Some(chunk) = chunks.recv().await {
                let piece = Output { stderr: chunk.stream == runtime::Stream::Stderr, data: chunk.data };
                if output.send(piece).await.is_err() {
                    return;
                }
            }
        };
        let (code, ()) = tokio::join!(self.0.run_step(spec, sender, cancel), pass);
        code.map_err(|e| e.to_string())
    }
}

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
            "BuildKit is not served: set DOCKER_BUILDKIT=0 to use the classic builder",
        ));
    }
    if let Some(remote) = q.text("remote").filter(|r| *r != "client-session") {
        return Err(Error::invalid(format!("building from {remote} is not supported: send the context")));
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
    let labels: Option<BTreeMap<String, String>> = q.json("labels")?;
    let build_args: Option<BTreeMap<String, Option<String>>> = q.json("buildargs")?;
    Ok(Options {
        dockerfile: q.text("dockerfile").unwrap_or("").to_owned(),
        tags: q.all("t").into_iter().filter(|t| !t.is_empty()).collect(),
        build_args: build_args.unwrap_or_default(),
        labels: labels.unwrap_or_default(),
        target: q.text("target").unwrap_or("").to_owned(),
        no_cache: q.flag("nocache") || no_source,
        pull: q.flag("pull"),
        quiet: q.flag("q"),
        network_mode: q.text("networkmode").unwrap_or("").to_owned(),
        extra_hosts: q.all("extrahosts").into_iter().filter(|h| !h.is_empty()).collect(),
        shm_size: q.number::<u64>("shmsize")?.filter(|s| *s > 0),
        resources: limits,
        platform: q.text("platform").map(Platform::parse).transpose()?,
        auths: auths(call)?,
    })
}

/// Credentials by registry (`X-Registry-Config`, base64 of JSON).
fn auths(call: &Call) -> Result<HashMap<String, image::Auth>> {
    let Some(header) = call.headers().get("x-registry-config").and_then(|h| h.to_str().ok()) else {
        return Ok(HashMap::new());
    };
    let bad = |e: String| Error::invalid(format!("invalid X-Registry-Config header: {e}"));
    let plain = header.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let bytes =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(plain).map_err(|e| bad(e.to_string()))?;
    let all: Option<HashMap<String, AuthConfig>> = engine::model::decode(&bytes).map_err(bad)?;
    let all = all.unwrap_or_default();
    Ok(all.into_iter().filter_map(|(registry, auth)| Some((registry, auth.into_auth()?))).collect())
}

pub(crate) async fn build(call: Call) -> Result<Answer> {
    let options = options(&call)?;
    let builder = call.builder.clone();
    let context = Context::Tar(Box::new(body::reader(call.request.into_body())));
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
    let removed = call.builder.prune_cache(call.query.flag("all"))?;
    tracing::debug!(removed, "steps forgotten");
    Ok(body::ok(&json!({"CachesDeleted": [], "SpaceReclaimed": 0})))
}
