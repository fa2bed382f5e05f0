//! The Dockerfile frontend as BuildKit's clients call it: options by name, files from the client's session.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use image::{Image, Platform, reference};
use tokio_util::sync::CancellationToken;

use super::control::{at_lines, status};
use super::locals::{Body, ForPlatform, Input, Locals};
use super::progress::{Log, Vertices};
use super::proto::{self, CacheOptionsEntry};
use super::rpc::{self, INVALID, Status, UNIMPLEMENTED};
use super::session::{Held, Session};
use crate::builder::Builder;
use crate::context;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::mounts::{self, Holder};
use crate::options::{Options, Ulimit};
use crate::state::{Part, State};

/// What a client asks to build.
pub(crate) struct Request {
    pub options: HashMap<String, String>,
    pub inputs: HashMap<String, Input>,
    /// What came along with the request itself.
    pub body: Option<Body>,
    pub session: Option<Arc<Session>>,
    pub entitlements: Vec<String>,
    pub imports: Vec<CacheOptionsEntry>,
    pub cancel: CancellationToken,
}

/// The options of a build, and the platforms that it is for if the client names any.
pub(super) fn options(given: &HashMap<String, String>) -> Result<(Options, Vec<Platform>)> {
    let wrong =
        |name: &str, value: &str| Error::Invalid(format!("invalid value {value:?} of the option {name}"));
    let (mut o, mut platforms) = (Options::default(), Vec::new());
    for (key, value) in given {
        if let Some(name) = key.strip_prefix("build-arg:") {
            o.build_args.insert(name.to_string(), Some(value.clone()));
        } else if let Some(name) = key.strip_prefix("label:") {
            o.labels.insert(name.to_string(), value.clone());
        } else if let Some(kind) = key.strip_prefix("attest:") {
            if !value.split(',').any(|part| part == "disabled=true") {
                return Err(Error::Invalid(format!(
                    "attestations ({kind}) are not made here: build without --attest, --provenance and --sbom"
                )));
            }
        } else {
            match key.as_str() {
                "target" => o.target.clone_from(value),
                "filename" => o.dockerfile.clone_from(value),
                "no-cache" if value.is_empty() => o.no_cache = true,
                "no-cache" => o.no_cache_stages = value.split(',').map(ToString::to_string).collect(),
                "image-resolve-mode" => o.pull = value == "pull",
                "platform" => {
                    for one in value.split(',').filter(|p| !p.is_empty()) {
                        let platform = Platform::parse(one)?;
                        if !platforms.contains(&platform) {
                            platforms.push(platform);
                        }
                    }
                }
                "multi-platform" => {
                    o.of_several = value.parse().map_err(|_| wrong(key, value))?;
                }
                "cgroup-parent" => o.cgroup_parent.clone_from(value),
                "force-network-mode" => o.network_mode.clone_from(value),
                "add-hosts" => {
                    o.extra_hosts = value
                        .split(',')
                        .filter(|h| !h.is_empty())
                        .map(|h| {
                            h.split_once('=').map(|(h, a)| format!("{h}:{a}")).ok_or_else(|| wrong(key, h))
                        })
                        .collect::<Result<_>>()?;
                }
                "shm-size" => o.shm_size = Some(value.parse().map_err(|_| wrong(key, value))?),
                "ulimit" => {
                    for one in value.split(',').filter(|u| !u.is_empty()) {
                        let (name, limits) = one.split_once('=').ok_or_else(|| wrong(key, one))?;
                        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
                        let number = |n: &str| n.parse().map_err(|_| wrong(key, one));
                        o.ulimits.push(Ulimit {
                            name: name.into(),
                            soft: number(soft)?,
                            hard: number(hard)?,
                        });
                    }
                }
                _ => {}
            }
        }
    }
    Ok((o, platforms))
}

/// `SOURCE_DATE_EPOCH`: when everything that is made counts as made at the latest.
fn epoch(options: &Options) -> Result<Option<jiff::Timestamp>> {
    let given = options.build_args.get("SOURCE_DATE_EPOCH").and_then(Option::as_deref);
    let Some(text) = given.filter(|text| !text.is_empty()) else { return Ok(None) };
    let time = text.parse().ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map(Some).ok_or_else(|| {
        Error::Invalid(format!("invalid SOURCE_DATE_EPOCH: {text:?}: it is a number of seconds since 1970"))
    })
}

/// The paths of the main context that the stages to be built use; nothing where that is not known beforehand.
fn used_paths(job: &Job) -> Vec<String> {
    let mut all = Vec::new();
    for i in job.needed() {
        for line in &job.plan.stages[i].lines {
            match line.keyword {
                "RUN" => {
                    let mut mounts = line.flags.iter().filter(|(n, _)| n == "mount");
                    if mounts.any(|(_, v)| v.as_deref().is_none_or(mounts::of_context)) {
                        return Vec::new();
                    }
                }
                "COPY" | "ADD" if !line.flags.iter().any(|(n, _)| n == "from") => {
                    let Ok((sources, _)) = crate::instruction::sources(line, job.escape) else {
                        return Vec::new();
                    };
                    for source in sources {
                        let clean = image::archive::root::clean(&Path::new("/").join(&source));
                        let clean = clean.to_string_lossy().trim_start_matches('/').to_string();
                        if clean.is_empty() || source.contains(['$', '\\', '"', '\'', '*', '?', '[']) {
                            return Vec::new();
                        }
                        if !source.contains("://") {
                            all.push(clean);
                        }
                    }
                }
                "ONBUILD" => {}
                _ => {}
            }
        }
        // A base image may bring triggers, which may use any file.
        let base = &job.plan.stages[i].base;
        let outside = crate::plan::called(&job.plan.stages, base).is_none();
        let triggers = |image: Arc<Image>| !image.run_config().on_build.is_empty();
        if outside && base != "scratch" && job.builder.images.get(base).map_or(true, triggers) {
            return Vec::new();
        }
    }
    all
}

/// Builds what a client asks for: one result, or one for each platform.
pub(crate) async fn build(
    builder: &Arc<Builder>,
    log: &Arc<Log>,
    request: Request,
) -> rpc::Result<Vec<Part>> {
    if let Some(kind) = request.options.get("requestid") {
        return Err(Status::new(UNIMPLEMENTED, format!("unsupported request {kind}")));
    }
    let (mut options, platforms) =
        options(&request.options).map_err(|e| Status::new(INVALID, e.to_string()))?;
    options.of_several |= platforms.len() > 1;
    let locals =
        Locals::new(builder, log, request.session.clone(), request.options, request.inputs, request.body);
    let locals = Arc::new(locals);
    let (name, text) = locals.dockerfile().await.map_err(|e| status(&e))?;
    let (session, entitlements) = (request.session, request.entitlements);
    let holder: Option<Arc<dyn Holder>> = session.clone().map(|session| {
        let held: Arc<dyn Holder> = Arc::new(Held { session, entitlements });
        held
    });
    super::caching::import(builder, log, holder.as_ref(), session.as_deref(), &request.imports).await;
    let wanted: Vec<Option<Platform>> = match platforms.is_empty() {
        true => vec![None],
        false => platforms.into_iter().map(Some).collect(),
    };
    // One that fails ends them all.
    let cancel = request.cancel.child_token();
    let mut jobs = Vec::with_capacity(wanted.len());
    for platform in wanted {
        let listener = Arc::new(Vertices::new(log.clone()));
        let several = options.of_several;
        let contexts = ForPlatform { locals: locals.clone(), platform: platform.clone().filter(|_| several) };
        let job = Job::new(
            builder.clone(),
            Options { platform, ..options.clone() },
            &text,
            Arc::new(contexts),
            listener.clone(),
            holder.clone(),
            false,
            cancel.clone(),
        )
        .await
        .map_err(|e| at_lines(&e, &name, &text, None, None))?;
        jobs.push((job, listener));
    }
    locals.ignore().await.map_err(|e| status(&e))?;
    let used: Vec<Vec<String>> = jobs.iter().map(|(job, _)| used_paths(job)).collect();
    // Where one of them may use any file, all come.
    if !used.iter().any(Vec::is_empty) {
        locals.follow(used.concat());
    }
    let done = futures::future::join_all(jobs.iter().map(|(job, _)| job.run_all())).await;
    // Those that were cancelled say nothing of why.
    let failed = done.iter().position(|r| r.as_ref().is_err_and(|e| !matches!(e.root(), Error::Cancelled)));
    let failed = failed.or_else(|| done.iter().position(std::result::Result::is_err));
    if let Some((Err(error), (job, listener))) = failed.map(|i| (&done[i], &jobs[i])) {
        return Err(at_lines(error, &name, &text, job.failed_lines(), listener.failed()));
    }
    if let Some(warning) = jobs.first().and_then(|(job, _)| job.unused_args()) {
        let warning =
            proto::VertexWarning { level: 1, short: warning.into_bytes(), ..proto::VertexWarning::default() };
        log.push(proto::StatusResponse { warnings: vec![warning], ..proto::StatusResponse::default() });
    }
    let epoch = epoch(&options).map_err(|e| status(&e))?;
    let mut parts = Vec::with_capacity(jobs.len());
    for ((job, _), state) in jobs.iter().zip(done) {
        let state = state.map_err(|e| status(&e))?;
        let mut others = job.steps();
        others.retain(|o| !state.steps.iter().any(|s| s.key == o.key));
        let mut state =
            if others.is_empty() { state } else { Arc::new(State { others, ..(*state).clone() }) };
        if let Some(epoch) = epoch {
            Arc::make_mut(&mut state).not_after(epoch);
        }
        parts.push(Part { platform: Some(job.platform.clone()).filter(|_| options.of_several), state });
    }
    Ok(parts)
}

/// Builds a Dockerfile that needs no files.
pub(crate) async fn plain(builder: &Arc<Builder>, log: &Arc<Log>, text: &str) -> rpc::Result<Arc<State>> {
    let listener = Arc::new(Vertices::new(log.clone()));
    let tree = Arc::new(context::folder(&builder.scratch).map_err(|e| status(&e))?);
    let job = Job::new(
        builder.clone(),
        Options::default(),
        text,
        Arc::new(context::Single(tree)),
        listener,
        None,
        false,
        CancellationToken::new(),
    )
    .await
    .map_err(|e| status(&e))?;
    job.run_all().await.map_err(|e| status(&e))
}

/// The configuration of an image, pulled if it is not here.
pub(crate) async fn image_config(
    builder: &Arc<Builder>,
    session: Option<Arc<Session>>,
    name: &str,
    pull: bool,
    platform: Option<proto::Platform>,
) -> rpc::Result<Arc<Image>> {
    if !pull && let Ok(image) = builder.images.get(name) {
        return Ok(image);
    }
    let platform = platform.filter(|p| !p.os.is_empty()).map_or_else(Platform::host, |p| (&p).into());
    let whole = reference::parse_tagged(name).map_err(|e| Status::new(INVALID, e.to_string()))?;
    let auth = match session {
        Some(session) => {
            let held = Held { session, entitlements: Vec::new() };
            held.credentials(&whole.domain).await.map_err(|e| status(&e))?
        }
        None => None,
    };
    // Nobody looks at the progress of this.
    let (tx, mut rx) = tokio::sync::mpsc::channel(64);
    let whole = whole.to_string();
    let pulling = builder.images.pull(&whole, auth, Some(platform), tx);
    let (image, ()) = tokio::join!(pulling, async { while rx.recv().await.is_some() {} });
    image.map_err(|e| status(&e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_options() {
        let given = [
            ("build-arg:A", "1"),
            ("label:l", "v"),
            ("no-cache", ""),
            ("add-hosts", "h=1.2.3.4,i=5.6.7.8"),
            ("ulimit", "nofile=1:2,nproc=3"),
            ("platform", "linux/amd64,linux/arm64,linux/amd64"),
        ];
        let given = given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let (o, platforms) = options(&given).unwrap();
        assert_eq!(
            platforms.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["linux/amd64", "linux/arm64"]
        );
        assert_eq!(o.build_args["A"].as_deref(), Some("1"));
        assert_eq!(o.extra_hosts, ["h:1.2.3.4", "i:5.6.7.8"]);
        assert_eq!((o.ulimits[0].soft, o.ulimits[0].hard, o.ulimits[1].hard), (1, 2, 3));
        assert!(o.no_cache && o.labels["l"] == "v");
        let attest = |v: &str| options(&HashMap::from([("attest:sbom".to_string(), v.to_string())]));
        assert!(attest("disabled=true").is_ok());
        assert!(attest("").err().unwrap().to_string().contains("--sbom"));
    }
}
