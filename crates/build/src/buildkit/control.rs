//! The control API and the gateway: which builds there are, and what their clients ask for.

use std::collections::HashMap;
use std::sync::Arc;

use engine::gc::Rule;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::definition;
use super::frontend::{self, Request};
use super::locals::{Body, Input};
use super::progress::Log;
use super::proto::{
    ApiCap, BuildHistoryRequest, BuildkitVersion, BytesMessage, CacheOptionsEntry, DiskUsageRequest,
    DiskUsageResponse, Empty, Exporter, FrontendResult, FrontendSolveRequest, FrontendSolveResponse,
    InfoResponse, InputsResponse, ListWorkersResponse, Platform, PongResponse, PruneRequest, ReadDirRequest,
    ReadDirResponse, ReadFileRequest, ReadFileResponse, Ref, RefMap, RefMapDeprecated,
    ResolveImageConfigRequest, ResolveImageConfigResponse, ResultKind, ReturnRequest, SolveRequest,
    SolveResponse, StatFileRequest, StatFileResponse, StatusRequest, StatusResponse, UsageRecord,
    VertexWarning, WarnRequest, WorkerRecord,
};
use super::rpc::{
    Answer, CANCELLED, Call, INVALID, NOT_FOUND, Result, Status, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN,
};
use super::session::Session;
use super::{caching, export, inputs, progress};
use crate::builder::Builder;
use crate::cache::{Record, RecordKind};
use crate::error::Error;
use crate::state::{Part, State};

/// What a client that drives the build itself gave back.
#[derive(Clone)]
enum Returned {
    /// References by platform, of a build for several.
    Result(Vec<(Option<image::Platform>, String)>),
    Error(Status),
}

/// One build, from the first who asks for it to the last.
#[derive(Default)]
pub(crate) struct Build {
    pub log: Arc<Log>,
    gateway: Mutex<Option<Gateway>>,
    came: tokio::sync::Notify,
    returned: Returns,
    /// What its solves made, by reference.
    refs: Mutex<HashMap<String, Arc<State>>>,
    /// Ends its solve.
    cancel: Mutex<CancellationToken>,
}

struct Returns(watch::Sender<Option<Returned>>);

impl Default for Returns {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

/// What the client's own calls need to know of the solve that they belong to.
#[derive(Clone)]
struct Gateway {
    session: Option<Arc<Session>>,
    entitlements: Vec<String>,
    imports: Vec<CacheOptionsEntry>,
    cancel: CancellationToken,
}

impl Build {
    /// What a solve made, by its reference.
    pub fn state(&self, id: &str) -> Option<Arc<State>> {
        self.refs.lock().get(id).cloned()
    }

    /// Ends it, if it is under way.
    pub fn cancel(&self) {
        self.cancel.lock().cancel();
    }

    async fn gateway(&self) -> Result<Gateway> {
        let find = async {
            loop {
                let came = self.came.notified();
                if let Some(gateway) = self.gateway.lock().clone() {
                    return gateway;
                }
                came.await;
            }
        };
        tokio::time::timeout(super::SESSION_WAIT, find)
            .await
            .map_err(|_| Status::new(NOT_FOUND, "no such build: its solve has not begun"))
    }
}

/// Answers a call.
pub(crate) async fn answer(builder: &Arc<Builder>, mut call: Call) -> Result<Answer> {
    let path = call.path.clone();
    match path.as_str() {
        "/moby.buildkit.v1.Control/Solve" => {
            let request = call.message().await?;
            Answer::one(&solve(builder, request, None).await?)
        }
        "/moby.buildkit.v1.Control/Status" => {
            let request: StatusRequest = call.message().await?;
            let build = builder.desk.build(&request.reference);
            Ok(Answer::many(build.log.stream()))
        }
        "/moby.buildkit.v1.Control/ListWorkers" => {
            Answer::one(&ListWorkersResponse { record: vec![worker(builder)] })
        }
        "/moby.buildkit.v1.Control/Info" => Answer::one(&InfoResponse { buildkit_version: Some(version()) }),
        "/moby.buildkit.v1.Control/DiskUsage" => {
            let request: DiskUsageRequest = call.message().await?;
            let records = records(builder).await?;
            let record = records.iter().map(usage).filter(|u| fits(u, &request.filter)).collect();
            Answer::one(&DiskUsageResponse { record })
        }
        "/moby.buildkit.v1.Control/Prune" => {
            let request = call.message().await?;
            prune(builder, request).await
        }
        "/moby.buildkit.v1.Control/ListenBuildHistory" => {
            let request: BuildHistoryRequest = call.message().await?;
            // No history is kept; who wants to hear of the future hears nothing.
            let none = futures::stream::empty::<Result<Empty>>();
            Ok(if request.early_exit || !request.reference.is_empty() {
                Answer::many(none)
            } else {
                Answer::many(none.chain(futures::stream::pending()))
            })
        }
        "/moby.buildkit.v1.Control/UpdateBuildHistory" => Answer::one(&Empty {}),
        "/grpc.health.v1.Health/Check" => {
            // `status: SERVING`
            Answer::one(&super::proto::FileRange { offset: 1, length: 0 })
        }
        _ => match path.strip_prefix("/moby.buildkit.v1.frontend.LLBBridge/") {
            Some(method) => {
                let id = call.header("buildkit-controlapi-buildid").unwrap_or_default().to_string();
                if id.is_empty() {
                    return Err(Status::new(INVALID, "no buildid found in context"));
                }
                bridge(builder, &builder.desk.build(&id), method, call).await
            }
            None => Err(Status::new(UNIMPLEMENTED, format!("unknown method {path}"))),
        },
    }
}

fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "tug".into(),
        version: concat!("v", env!("CARGO_PKG_VERSION")).into(),
        revision: String::new(),
    }
}

fn worker(builder: &Builder) -> WorkerRecord {
    let host = image::Platform::host();
    let mut labels = HashMap::from([
        ("org.mobyproject.buildkit.worker.executor".to_string(), "tug".to_string()),
        ("org.mobyproject.buildkit.worker.snapshotter".to_string(), "overlayfs".to_string()),
        ("org.mobyproject.buildkit.worker.network".to_string(), "host".to_string()),
    ]);
    if let Some(address) = builder.runner.host_gateway() {
        labels.insert("org.mobyproject.buildkit.worker.moby.host-gateway-ip".to_string(), address);
    }
    WorkerRecord {
        id: "tug".into(),
        labels,
        platforms: vec![Platform { architecture: host.architecture, os: host.os, variant: host.variant }],
        gc_policy: builder
            .policy()
            .rules
            .iter()
            .map(|rule| super::proto::GcPolicy {
                all: rule.all,
                keep_duration: rule.unused_for.saturating_mul(1_000_000_000),
                reserved_space: i64::try_from(rule.reserved.max(rule.most)).unwrap_or(i64::MAX),
                filters: rule.filters.clone(),
            })
            .collect(),
        buildkit_version: Some(version()),
    }
}

fn caps(ids: &[&str]) -> Vec<ApiCap> {
    ids.iter().map(|id| ApiCap { id: id.to_string(), enabled: true }).collect()
}

/// What of the gateway is served.
const FRONTEND: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
];

/// What of definitions and of the rest is carried out: a definition names a source, and clients refuse to send one that says
/// more than this.
const LLB: &[&str] = &[
    "source.image",
    "source.git",
    "source.git.fullurl",
    "source.http",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "exporter.multiple",
    "gc.freespacefilter",
];

/// Ends a build whose client has gone.
struct Ended<'a> {
    builder: &'a Builder,
    build: &'a Build,
    reference: &'a str,
    cancel: CancellationToken,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.build.log.end();
        *self.build.gateway.lock() = None;
        // Who links builds ends the first when the last has ended. Results hold their layers.
        self.build.refs.lock().clear();
        self.builder.desk.finished(self.reference);
    }
}

/// Builds what a client asks for. `body` is what it sent along, if that is how it gives its context.
pub(super) async fn solve(
    builder: &Arc<Builder>,
    request: SolveRequest,
    body: Option<Body>,
) -> Result<SolveResponse> {
    let build = builder.desk.build(&request.reference);
    let cancel = CancellationToken::new();
    *build.cancel.lock() = cancel.clone();
    let _ended = Ended { builder, build: &build, reference: &request.reference, cancel: cancel.clone() };
    let session = match request.session.as_str() {
        "" => None,
        id => Some(builder.desk.session(id).await?),
    };
    for entitlement in &request.entitlements {
        if !matches!(entitlement.as_str(), "network.host" | "security.insecure") {
            return Err(Status::new(INVALID, format!("entitlement {entitlement} is not known")));
        }
    }
    let cache = request.cache.clone().unwrap_or_default();
    let gateway = Gateway {
        session: session.clone(),
        entitlements: request.entitlements.clone(),
        imports: cache.imports,
        cancel,
    };
    let parts = match request.frontend.as_str() {
        "" if request.definition.as_ref().is_none_or(|d| d.def.is_empty()) => {
            let mut returned = build.returned.0.subscribe();
            *build.gateway.lock() = Some(gateway.clone());
            build.came.notify_waiters();
            let answer = match returned.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone(),
                Err(_) => None,
            };
            match answer {
                Some(Returned::Result(named)) => named
                    .into_iter()
                    .map(|(platform, id)| Ok(Part { platform, state: state_of(&build, &id)? }))
                    .collect::<Result<_>>()?,
                Some(Returned::Error(status)) => return Err(status),
                None => return Err(Status::new(CANCELLED, "context canceled")),
            }
        }
        "" => {
            let definition = request.definition.unwrap_or_default();
            Part::only(inputs::defined(builder, &build, &definition).await?)
        }
        "dockerfile.v0" | "gateway.v0" => {
            let inputs = inputs::given(builder, &request.frontend_inputs)?;
            let options = request.frontend_attrs.clone();
            run(builder, &build, gateway.clone(), options, inputs, Vec::new(), body).await?
        }
        other => return Err(Status::new(INVALID, format!("no frontend {other} found"))),
    };
    let mut exporters = request.exporters;
    if exporters.is_empty() && !request.exporter_deprecated.is_empty() {
        exporters =
            vec![Exporter { kind: request.exporter_deprecated, attrs: request.exporter_attrs_deprecated }];
    }
    let mut response = HashMap::new();
    let held = gateway
        .session
        .clone()
        .map(|session| super::session::Held { session, entitlements: gateway.entitlements.clone() });
    let inline = cache.exports.iter().any(|e| e.kind == "inline");
    for (number, exporter) in exporters.iter().enumerate() {
        if parts.is_empty() {
            return Err(Status::new(INVALID, "there is nothing to export: the build has no result"));
        }
        let work = export::export(builder, &build.log, held.as_ref(), &parts, number, exporter, inline);
        response.extend(work.await?);
    }
    if let Some(state) = State::joined(&parts) {
        for entry in cache.exports.iter().filter(|e| e.kind != "inline") {
            response.extend(caching::export(builder, &build.log, held.as_ref(), &state, entry).await?);
        }
    }
    Ok(SolveResponse { exporter_response: response })
}

/// Builds a Dockerfile for a client.
async fn run(
    builder: &Arc<Builder>,
    build: &Arc<Build>,
    gateway: Gateway,
    options: HashMap<String, String>,
    inputs: HashMap<String, Input>,
    imports: Vec<CacheOptionsEntry>,
    body: Option<Body>,
) -> Result<Vec<Part>> {
    let imports = if imports.is_empty() { gateway.imports } else { imports };
    let request = Request {
        options,
        inputs,
        body,
        session: gateway.session,
        entitlements: gateway.entitlements,
        imports,
        cancel: gateway.cancel,
    };
    frontend::build(builder, &build.log, request).await
}

async fn bridge(builder: &Arc<Builder>, build: &Arc<Build>, method: &str, mut call: Call) -> Result<Answer> {
    match method {
        "Ping" => {
            build.gateway().await?;
            Answer::one(&PongResponse {
                frontend_caps: caps(FRONTEND),
                llb_caps: caps(LLB),
                workers: vec![worker(builder)],
            })
        }
        "Solve" => {
            let request: FrontendSolveRequest = call.message().await?;
            let gateway = build.gateway().await?;
            let parts = match request.frontend.as_str() {
                "" => match request.definition {
                    Some(definition) if !definition.def.is_empty() => {
                        Part::only(inputs::defined(builder, build, &definition).await?)
                    }
                    _ => Vec::new(),
                },
                "dockerfile.v0" | "gateway.v0" => {
                    let inputs = inputs::given(builder, &request.frontend_inputs)?;
                    let work = run(
                        builder,
                        build,
                        gateway,
                        request.frontend_opt,
                        inputs,
                        request.cache_imports,
                        None,
                    );
                    work.await?
                }
                other => return Err(Status::new(INVALID, format!("no frontend {other} found"))),
            };
            let (result, id) = described(build, parts, request.allow_result_array_ref)?;
            Answer::one(&if request.allow_result_return {
                FrontendSolveResponse { reference: String::new(), result: Some(result) }
            } else {
                FrontendSolveResponse { reference: id, result: None }
            })
        }
        "Return" => {
            let request: ReturnRequest = call.message().await?;
            let returned = match (request.error, request.result) {
                (Some(e), _) => {
                    Returned::Error(Status { code: e.code, message: e.message, details: e.details })
                }
                (None, result) => Returned::Result(refs(result)?),
            };
            build.returned.0.send_replace(Some(returned));
            Answer::one(&Empty {})
        }
        "Inputs" => Answer::one(&InputsResponse::default()),
        "Evaluate" => {
            let _: BytesMessage = call.message().await?;
            // What was solved is there already.
            Answer::one(&Empty {})
        }
        "Warn" => {
            let request: WarnRequest = call.message().await?;
            let warning =
                VertexWarning { vertex: request.digest, level: request.level, short: request.short };
            build.log.push(StatusResponse { warnings: vec![warning], ..StatusResponse::default() });
            Answer::one(&Empty {})
        }
        "ResolveImageConfig" => {
            let request: ResolveImageConfigRequest = call.message().await?;
            let gateway = build.gateway().await?;
            let pull = request.resolve_mode == "pull";
            let found =
                frontend::image_config(builder, gateway.session, &request.reference, pull, request.platform);
            let image = found.await?;
            Answer::one(&ResolveImageConfigResponse {
                digest: image.id.clone(),
                config: image.raw_config.to_vec(),
                reference: request.reference,
            })
        }
        "ReadFile" => {
            let request: ReadFileRequest = call.message().await?;
            let state = state_of(build, &request.reference)?;
            let range = request.range.map(|r| (r.offset, r.length));
            Answer::one(&ReadFileResponse {
                data: export::read_file(builder, &state, &request.file_path, range).await?,
            })
        }
        "ReadDir" => {
            let request: ReadDirRequest = call.message().await?;
            let state = state_of(build, &request.reference)?;
            let entries =
                export::read_dir(builder, &state, &request.dir_path, &request.include_pattern).await?;
            Answer::one(&ReadDirResponse { entries })
        }
        "StatFile" => {
            let request: StatFileRequest = call.message().await?;
            let state = state_of(build, &request.reference)?;
            Answer::one(&StatFileResponse {
                stat: Some(export::stat_file(builder, &state, &request.path).await?),
            })
        }
        other => Err(Status::new(UNIMPLEMENTED, format!("the gateway's {other} is not supported"))),
    }
}

fn state_of(build: &Build, id: &str) -> Result<Arc<State>> {
    build.state(id).ok_or_else(|| Status::new(NOT_FOUND, format!("no such ref: {id}")))
}

/// The references of a result, each with its platform where there are several.
pub(super) fn refs(result: Option<FrontendResult>) -> Result<Vec<(Option<image::Platform>, String)>> {
    let several = |all: Vec<(String, String)>| {
        let each = all.into_iter().map(|(key, id)| {
            let platform = image::Platform::parse(&key).map_err(|e| Status::new(INVALID, e.to_string()))?;
            Ok((Some(platform), id))
        });
        let mut each: Vec<_> = each.collect::<Result<_>>()?;
        each.sort_by_key(|(platform, _)| platform.as_ref().map(ToString::to_string));
        Ok(each)
    };
    match result.and_then(|r| r.result) {
        None => Ok(Vec::new()),
        Some(ResultKind::RefDeprecated(id) | ResultKind::Ref(Ref { id, .. })) => {
            Ok(if id.is_empty() { Vec::new() } else { vec![(None, id)] })
        }
        Some(ResultKind::Refs(map)) => several(map.refs.into_iter().map(|(k, r)| (k, r.id)).collect()),
        Some(ResultKind::RefsDeprecated(map)) => several(map.refs.into_iter().collect()),
    }
}

/// Results as the gateway's clients get them, and the reference of the first.
fn described(build: &Build, parts: Vec<Part>, arrays: bool) -> Result<(FrontendResult, String)> {
    let mut result = FrontendResult::default();
    let (mut all, mut platforms, mut first) = (HashMap::new(), Vec::new(), String::new());
    for Part { platform, state } in parts {
        let (raw, _) = state.finished(None).encode().map_err(internal)?;
        let id = base::rng::hex(16);
        build.refs.lock().insert(id.clone(), state);
        if first.is_empty() {
            first.clone_from(&id);
        }
        let Some(platform) = platform else {
            result.metadata.insert("containerimage.config".into(), raw);
            let def = Some(definition::of(&id));
            result.result =
                Some(if arrays { ResultKind::Ref(Ref { id, def }) } else { ResultKind::RefDeprecated(id) });
            return Ok((result, first));
        };
        let key = platform.to_string();
        result.metadata.insert(format!("containerimage.config/{key}"), raw);
        let mut described = serde_json::json!({"architecture": platform.architecture, "os": platform.os});
        if !platform.variant.is_empty() {
            described["variant"] = platform.variant.into();
        }
        platforms.push(serde_json::json!({"ID": key, "Platform": described}));
        all.insert(key, Ref { def: Some(definition::of(&id)), id });
    }
    result.result = Some(match (all.is_empty(), arrays) {
        (true, true) => ResultKind::Ref(Ref::default()),
        (true, false) => ResultKind::RefDeprecated(String::new()),
        (false, true) => ResultKind::Refs(RefMap { refs: all }),
        (false, false) => ResultKind::RefsDeprecated(RefMapDeprecated {
            refs: all.into_iter().map(|(key, r)| (key, r.id)).collect(),
        }),
    });
    if !platforms.is_empty() {
        let platforms = serde_json::json!({"Platforms": platforms});
        result.metadata.insert("refs.platforms".into(), platforms.to_string().into_bytes());
    }
    Ok((result, first))
}

/// An error of our own as a status.
pub(crate) fn status(error: &Error) -> Status {
    let code = match error {
        Error::Cancelled => CANCELLED,
        Error::Session(_) => UNAVAILABLE,
        Error::Shared(inner) => return status(inner),
        _ => UNKNOWN,
    };
    let message = match error {
        Error::Cancelled => "context canceled".to_string(),
        other => other.to_string(),
    };
    Status::new(code, message)
}

fn internal(e: image::Error) -> Status {
    status(&e.into())
}

async fn records(builder: &Builder) -> Result<Vec<Record>> {
    builder.cache_records().await.map_err(|e| status(&e))
}

fn usage(record: &Record) -> UsageRecord {
    UsageRecord {
        id: record.id.clone(),
        mutable: record.kind == RecordKind::Mount,
        in_use: record.in_use,
        size: i64::try_from(record.size).unwrap_or(i64::MAX),
        created_at: Some(record.created.into()),
        last_used_at: Some(super::proto::Timestamp { seconds: record.used, nanos: 0 }),
        usage_count: i64::try_from(record.uses).unwrap_or(i64::MAX),
        description: record.description.clone(),
        record_type: record.kind.name().into(),
        shared: record.shared,
    }
}

/// Whether a record fits containerd's filters, as far as they are about what records have.
pub(crate) fn fits_any(record: &Record, filters: &[String]) -> bool {
    fits(&usage(record), filters)
}

fn fits(record: &UsageRecord, filters: &[String]) -> bool {
    // A client without filters sends an empty one.
    filters.iter().all(String::is_empty)
        || filters.iter().any(|f| {
            f.split(',').all(|part| {
                // What stands between key and value: the first that is there of these.
                let (key, sign, value) = ["~=", "!=", "==", "="]
                    .into_iter()
                    .find_map(|sign| part.split_once(sign).map(|(k, v)| (k, sign, v)))
                    .unwrap_or((part, "", ""));
                let own = match key.to_ascii_lowercase().as_str() {
                    "id" => record.id.clone(),
                    "type" => record.record_type.clone(),
                    "description" => record.description.clone(),
                    "mutable" => record.mutable.to_string(),
                    "immutable" => (!record.mutable).to_string(),
                    "shared" => record.shared.to_string(),
                    "private" => (!record.shared).to_string(),
                    "inuse" => record.in_use.to_string(),
                    _ => return false,
                };
                match sign {
                    "~=" => own.contains(value),
                    "!=" => own != value,
                    _ if value.is_empty() => own == "true",
                    _ => own == value,
                }
            })
        })
}

async fn prune(builder: &Arc<Builder>, request: PruneRequest) -> Result<Answer> {
    let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
    let rule = Rule {
        all: request.all,
        filters: request.filter,
        unused_for: request.keep_duration / 1_000_000_000,
        reserved: bytes(request.reserved_space),
        most: bytes(request.max_used_space),
        free: bytes(request.min_free_space),
    };
    let pruned = builder.prune(&rule).await.map_err(|e| status(&e))?;
    let all: Vec<Result<UsageRecord>> = pruned.records.iter().map(|r| Ok(usage(r))).collect();
    Ok(Answer::many(futures::stream::iter(all)))
}

/// The error of a build that stands in its Dockerfile, with the lines that it is about.
pub(crate) fn at_lines(
    error: &Error,
    name: &str,
    text: &str,
    lines: Option<(usize, usize)>,
    vertex: Option<String>,
) -> Status {
    use base64::Engine as _;
    let mut out = status(error);
    let any = |kind: &str, document: serde_json::Value| super::proto::Any {
        type_url: format!("github.com/moby/buildkit/errdefs.{kind}+json"),
        value: document.to_string().into_bytes(),
    };
    if let Some(digest) = vertex {
        out.details.push(any("Vertex", serde_json::json!({"digest": digest})));
    }
    let lines = lines.or(match error {
        Error::Parse { line, .. } => Some((*line, *line)),
        _ => None,
    });
    // A file too large to be shown is not sent along with its error.
    if let Some((start, end)) = lines.filter(|l| l.0 > 0 && text.len() < 64 << 10) {
        let data = base64::engine::general_purpose::STANDARD.encode(text);
        out.details.push(any(
            "Source",
            serde_json::json!({
                "info": {"filename": name, "data": data, "language": "Dockerfile"},
                "ranges": [{"start": {"line": start}, "end": {"line": end}}],
            }),
        ));
    }
    out
}

/// A line of the display that this module's callers begin.
pub(crate) fn line(log: &Arc<Log>, name: &str) -> progress::Line {
    progress::Line::begin(log, &base::rng::hex(8), name)
}
