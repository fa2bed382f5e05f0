//! Whole builds by BuildKit's services, with a client that serves its files as buildx does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use image::ImageStore;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::SessionHead;
use super::proto::{
    BytesMessage, DiskUsageRequest, DiskUsageResponse, Exporter, FrontendSolveRequest, FrontendSolveResponse,
    GetSecretRequest, Packet, PacketType, PongResponse, ReadContentRequest, ReadContentResponse,
    ReturnRequest, SolveRequest, SolveResponse, Stat, StatusRequest, StatusResponse, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use super::rpc::{self, Answer, Call, Caller};
use crate::{Builder, Output, Step, StepRunner};

#[path = "../../tests/common/mod.rs"]
mod common;

/// Writes what it is given as `echo` does, and `cat`s a mounted secret. At `hold` it says that it is there, and waits.
struct Shell(Mutex<Vec<Step>>, tokio::sync::Notify, tokio::sync::Notify);

#[async_trait]
impl StepRunner for Shell {
    async fn run(&self, step: Step, out: mpsc::Sender<Output>, _: CancellationToken) -> Result<i32, String> {
        let command = step.args.last().cloned().unwrap_or_default();
        let mut code = 0;
        let text = match command.as_str() {
            "false" => {
                code = 3;
                String::new()
            }
            "secret" => {
                let mount = step.mounts.iter().find(|m| m.destination().ends_with("tok")).unwrap();
                std::fs::read_to_string(mount.source().as_ref().unwrap()).unwrap()
            }
            "hold" => {
                self.1.notify_one();
                self.2.notified().await;
                String::new()
            }
            other => format!("ran {other}\n"),
        };
        out.send(Output { stderr: false, data: text.into() }).await.unwrap();
        self.0.lock().push(step);
        Ok(code)
    }
}

struct World {
    _dir: tempfile::TempDir,
    images: Arc<ImageStore>,
    builder: Arc<Builder>,
    runner: Arc<Shell>,
}

async fn world() -> Option<World> {
    let (dir, images) = common::store_with("base:1", &[("bin/", "")]).await?;
    let runner = Arc::new(Shell(Mutex::default(), tokio::sync::Notify::new(), tokio::sync::Notify::new()));
    let builder = Builder::open(images.clone(), runner.clone(), dir.path()).await.unwrap();
    Some(World { _dir: dir, images, builder, runner })
}

/// What becomes of the client's files while they are sent.
#[derive(Clone, Copy, Default, PartialEq)]
enum Change {
    #[default]
    None,
    /// They have gone: fsutil sends them without content.
    Gone,
    Shorter,
    Longer,
    /// The client cannot read them, and says so.
    Unreadable,
    /// The client itself goes.
    Left,
}

/// The store and the digest of a blob.
type Blob = (String, String);

/// The client's files by folder, and what was exported to it.
#[derive(Clone, Default)]
struct Client {
    change: Change,
    folders: Arc<BTreeMap<&'static str, Vec<(&'static str, &'static str)>>>,
    exported: Arc<Mutex<Vec<u8>>>,
    /// Its content stores, by their names and the digests.
    blobs: Arc<Mutex<BTreeMap<Blob, Vec<u8>>>>,
}

impl Client {
    async fn answer(self, mut call: Call) -> rpc::Result<Answer> {
        match call.path.as_str() {
            "/moby.filesync.v1.FileSync/DiffCopy" => {
                let name = call.header("dir-name").unwrap_or_default().to_string();
                let files = self.folders.get(name.as_str()).cloned().unwrap_or_default();
                let (tx, rx) = mpsc::channel::<rpc::Result<Packet>>(64);
                let change = if name == "context" { self.change } else { Change::None };
                tokio::spawn(async move {
                    let packet = |kind: PacketType| Packet { kind: kind.into(), ..Packet::default() };
                    for (path, text) in &files {
                        let stat = Stat {
                            path: path.to_string(),
                            mode: 0o644,
                            size: text.len() as i64,
                            ..Stat::default()
                        };
                        tx.send(Ok(Packet { stat: Some(stat), ..packet(PacketType::Stat) })).await.unwrap();
                    }
                    tx.send(Ok(packet(PacketType::Stat))).await.unwrap();
                    while let Ok(p) = call.message::<Packet>().await {
                        if p.kind == PacketType::Fin as i32 {
                            let _ = tx.send(Ok(packet(PacketType::Fin))).await;
                            return;
                        }
                        let text = files[p.id as usize].1;
                        let data = match change {
                            Change::None => text.as_bytes().to_vec(),
                            Change::Gone => Vec::new(),
                            Change::Shorter => text.as_bytes()[1..].to_vec(),
                            Change::Longer => format!("{text} and more").into_bytes(),
                            Change::Unreadable => {
                                let data = b"open f: input/output error".to_vec();
                                tx.send(Ok(Packet { data, ..packet(PacketType::Err) })).await.unwrap();
                                return;
                            }
                            Change::Left => return,
                        };
                        if data.is_empty() {
                            tx.send(Ok(Packet { id: p.id, ..packet(PacketType::Data) })).await.unwrap();
                            continue;
                        }
                        tx.send(Ok(Packet { id: p.id, data, ..packet(PacketType::Data) })).await.unwrap();
                        tx.send(Ok(Packet { id: p.id, ..packet(PacketType::Data) })).await.unwrap();
                    }
                });
                Ok(Answer::many(tokio_stream(rx)))
            }
            "/moby.buildkit.secrets.v1.Secrets/GetSecret" => {
                let request: GetSecretRequest = call.message().await?;
                match request.id.as_str() {
                    "tok" => Answer::one(&BytesMessage { data: b"hush".to_vec() }),
                    _ => Err(rpc::Status::new(rpc::NOT_FOUND, "no such secret")),
                }
            }
            "/moby.filesync.v1.FileSend/DiffCopy" => {
                loop {
                    let m: BytesMessage = call.message().await?;
                    if m.data.is_empty() {
                        break;
                    }
                    self.exported.lock().extend(m.data);
                }
                Ok(Answer::many(futures::stream::empty::<rpc::Result<BytesMessage>>()))
            }
            "/containerd.services.content.v1.Content/Write" => {
                let store = call.header("buildkit-attachable-store-id").unwrap_or_default().to_string();
                let (tx, rx) = mpsc::channel::<rpc::Result<WriteContentResponse>>(64);
                tokio::spawn(async move {
                    let mut data = Vec::new();
                    while let Ok(request) = call.message::<WriteContentRequest>().await {
                        if self.blobs.lock().contains_key(&(store.clone(), request.expected.clone())) {
                            tx.send(Err(rpc::Status::new(rpc::ALREADY_EXISTS, "it is here"))).await.unwrap();
                            return;
                        }
                        data.extend(request.data);
                        if request.action == WriteAction::Commit as i32 {
                            assert_eq!(image::archive::compress::digest_of(&data), request.expected);
                            self.blobs.lock().insert((store.clone(), request.expected), data.clone());
                        }
                        tx.send(Ok(WriteContentResponse::default())).await.unwrap();
                    }
                });
                Ok(Answer::many(tokio_stream(rx)))
            }
            "/containerd.services.content.v1.Content/Read" => {
                let store = call.header("buildkit-attachable-store-id").unwrap_or_default().to_string();
                let request: ReadContentRequest = call.message().await?;
                let data = self.blobs.lock()[&(store, request.digest)].clone();
                let pieces =
                    data.chunks(1000).map(|d| Ok(ReadContentResponse { data: d.to_vec(), offset: 0 }));
                Ok(Answer::many(futures::stream::iter(pieces.collect::<Vec<rpc::Result<_>>>())))
            }
            other => Err(rpc::Status::new(rpc::UNIMPLEMENTED, other.to_string())),
        }
    }
}

fn tokio_stream<T: Send + 'static>(rx: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> + Send + 'static {
    futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|m| (m, rx)) })
}

impl World {
    /// Connects as buildx does: one connection for calls, one for the session.
    async fn connect(&self, session: &str, client: Client) -> Caller {
        let (near, far) = tokio::io::duplex(1 << 16);
        let builder = self.builder.clone();
        tokio::spawn(async move { builder.serve_grpc(far).await });
        let (caller, drive) = Caller::new(near).await.unwrap();
        tokio::spawn(drive);
        let (near, far) = tokio::io::duplex(1 << 16);
        let head = SessionHead {
            id: session.into(),
            methods: vec!["/moby.filesync.v1.FileSync/DiffCopy".into()],
            ..SessionHead::default()
        };
        let builder = self.builder.clone();
        tokio::spawn(async move { builder.serve_session(head, far).await });
        tokio::spawn(rpc::serve(near, move |call| client.clone().answer(call)));
        caller
    }

    async fn status(&self, caller: &Caller, reference: &str) -> StatusResponse {
        let path = "/moby.buildkit.v1.Control/Status";
        let (tx, mut messages) = caller.stream(path, &[], 1).await.unwrap();
        tx.send(StatusRequest { reference: reference.into() }).await.unwrap();
        drop(tx);
        let mut all = StatusResponse::default();
        while let Some(m) = messages.next::<StatusResponse>().await.unwrap() {
            all.vertexes.extend(m.vertexes);
            all.logs.extend(m.logs);
            all.statuses.extend(m.statuses);
        }
        all
    }
}

fn solve(reference: &str, session: &str, exporter: Exporter) -> SolveRequest {
    SolveRequest {
        reference: reference.into(),
        session: session.into(),
        frontend: "dockerfile.v0".into(),
        exporters: vec![exporter],
        ..SolveRequest::default()
    }
}

fn exporter(kind: &str, attrs: &[(&str, &str)]) -> Exporter {
    let attrs = attrs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    Exporter { kind: kind.into(), attrs }
}

const FILE: &str = "FROM base:1 AS one\nRUN build\nFROM base:1\nCOPY f /f\nRUN --mount=type=secret,id=tok secret\nLABEL a=b\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_drives_the_build() {
    let Some(w) = world().await else { return };
    let folders = BTreeMap::from([
        ("dockerfile", vec![("Dockerfile", FILE)]),
        ("context", vec![("f", "text"), ("g", "")]),
    ]);
    let client = Client { folders: Arc::new(folders), ..Client::default() };
    let caller = w.connect("s1", client).await;
    let request =
        SolveRequest { frontend: String::new(), ..solve("r1", "s1", exporter("moby", &[("name", "app")])) };
    let solving = {
        let caller = caller.clone();
        tokio::spawn(async move {
            caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await
        })
    };
    // The client's own calls name the build in their metadata.
    let own = |method: &str| format!("/moby.buildkit.v1.frontend.LLBBridge/{method}");
    let metadata = [("buildkit-controlapi-buildid".to_string(), "r1".to_string())];
    let (tx, mut pong) = caller.stream::<super::proto::Empty>(&own("Ping"), &metadata, 1).await.unwrap();
    drop(tx);
    let pong = pong.next::<PongResponse>().await.unwrap().unwrap();
    assert!(pong.frontend_caps.len() > 5);
    // Definitions with steps of their own are refused, and clients know it beforehand.
    let steps = |id: &str| ["exec.", "file.", "source.local"].iter().any(|begin| id.starts_with(begin));
    assert!(!pong.llb_caps.iter().any(|cap| steps(&cap.id)), "{:?}", pong.llb_caps);
    let (tx, mut solved) = caller.stream(&own("Solve"), &metadata, 1).await.unwrap();
    let inner = FrontendSolveRequest {
        frontend: "dockerfile.v0".into(),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..FrontendSolveRequest::default()
    };
    tx.send(inner).await.unwrap();
    drop(tx);
    let result = solved.next::<FrontendSolveResponse>().await.unwrap().unwrap().result.unwrap();
    assert!(result.metadata.contains_key("containerimage.config"));
    let (tx, mut returned) = caller.stream(&own("Return"), &metadata, 1).await.unwrap();
    tx.send(ReturnRequest { result: Some(result), error: None }).await.unwrap();
    drop(tx);
    returned.next::<super::proto::Empty>().await.unwrap();
    let response = solving.await.unwrap().unwrap().exporter_response;
    let image = w.images.get("app").unwrap();
    assert_eq!(response["containerimage.config.digest"], image.id);
    assert_eq!(response["image.name"], "docker.io/library/app:latest");
    assert_eq!(image.run_config().labels["a"], "b");
    let lines: Vec<&str> = image.config.history.iter().map(|h| h.created_by.as_str()).collect();
    assert!(lines.contains(&"COPY f /f # buildkit") && lines.contains(&"LABEL a=b"), "{lines:?}");
    let all = w.status(&caller, "r1").await;
    let names: Vec<&str> =
        all.vertexes.iter().filter(|v| v.completed.is_some()).map(|v| v.name.as_str()).collect();
    for name in [
        "[internal] load build definition from Dockerfile",
        "[internal] load metadata for docker.io/library/base:1",
        "[internal] load build context",
        "[stage-1 1/3] FROM docker.io/library/base:1",
        "[stage-1 2/3] COPY f /f",
        "[stage-1 3/3] RUN --mount=type=secret,id=tok secret",
        "exporting to image",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    // A stage that nobody needs is not built, and a secret is never part of the files.
    assert!(!names.iter().any(|n| n.contains("RUN build")));
    assert!(all.logs.iter().any(|l| l.msg == b"hush"));
    assert_eq!(w.runner.0.lock().len(), 1);

    // Again, now for a tar: everything is cached.
    let folders =
        BTreeMap::from([("dockerfile", vec![("Dockerfile", FILE)]), ("context", vec![("f", "text")])]);
    let client = Client { folders: Arc::new(folders), ..Client::default() };
    let caller = w.connect("s2", client.clone()).await;
    let request = solve("r2", "s2", exporter("tar", &[]));
    caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await.unwrap();
    assert_eq!(w.runner.0.lock().len(), 1);
    let all = w.status(&caller, "r2").await;
    assert_eq!(
        all.vertexes.iter().filter(|v| v.cached && v.completed.is_some()).count(),
        3,
        "{:?}",
        all.vertexes
    );
    let exported = client.exported.lock().clone();
    let text = String::from_utf8_lossy(&exported);
    assert!(text.contains("text") && !text.contains("hush"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_network_is_for_the_client_to_give() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1\nRUN --network=host reach\n";
    let folders = BTreeMap::from([("dockerfile", vec![("Dockerfile", file)])]);
    let client = Client { folders: Arc::new(folders), ..Client::default() };
    let caller = w.connect("s", client).await;
    let path = "/moby.buildkit.v1.Control/Solve";
    let refused = solve("r1", "s", exporter("tar", &[]));
    let refused = caller.unary::<_, SolveResponse>(path, &refused).await.unwrap_err();
    assert!(refused.message.contains("network.host is not allowed"), "{refused:?}");
    let allowed =
        SolveRequest { entitlements: vec!["network.host".into()], ..solve("r2", "s", exporter("tar", &[])) };
    caller.unary::<_, SolveResponse>(path, &allowed).await.unwrap();
    assert_eq!(w.runner.0.lock()[0].network_mode, "host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_is_its_users() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1\nCOPY passwd /etc/\nUSER app\nWORKDIR /home/app\nUSER 7:8\nWORKDIR /n\nUSER none\nWORKDIR /o\n";
    let folders = BTreeMap::from([
        ("dockerfile", vec![("Dockerfile", file)]),
        ("context", vec![("passwd", "app:x:10:20::/:\n")]),
    ]);
    let client = Client { folders: Arc::new(folders), ..Client::default() };
    let caller = w.connect("s", client).await;
    let request = solve("r", "s", exporter("moby", &[("name", "homes")]));
    caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await.unwrap();
    let root = w.images.mount_layers(w.images.get("homes").unwrap().diff_ids()).unwrap();
    for (path, owner) in [("home", (10, 20)), ("home/app", (10, 20)), ("n", (7, 8)), ("o", (0, 0))] {
        let stat = rustix::fs::statat(&root, path, rustix::fs::AtFlags::empty()).unwrap();
        assert_eq!((stat.st_uid, stat.st_gid), owner, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_changes_while_it_is_sent() {
    let Some(w) = world().await else { return };
    let folders = BTreeMap::from([
        ("dockerfile", vec![("Dockerfile", "FROM base:1\nCOPY f /f\n")]),
        ("context", vec![("f", "text")]),
    ]);
    let scratch = w._dir.path().join("build");
    let contexts = || {
        let names = std::fs::read_dir(&scratch).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|n| n.to_string_lossy().starts_with("context-")).count()
    };
    for (n, (change, want)) in [
        (Change::Gone, "f changed while it was sent: it had 4 bytes, and 0 came"),
        (Change::Shorter, "f changed while it was sent: it had 4 bytes, and 3 came"),
        (Change::Unreadable, "error from sender: open f: input/output error"),
        (Change::Left, "the client stopped sending files"),
    ]
    .into_iter()
    .enumerate()
    {
        let client = Client { change, folders: Arc::new(folders.clone()), ..Client::default() };
        let (reference, session) = (format!("r{n}"), format!("s{n}"));
        let caller = w.connect(&session, client).await;
        let request = solve(&reference, &session, exporter("moby", &[("name", "changing")]));
        let path = "/moby.buildkit.v1.Control/Solve";
        let error = caller.unary::<_, SolveResponse>(path, &request).await.unwrap_err();
        assert!(error.message.contains(want), "{}", error.message);
        assert!(w.images.get("changing").is_err(), "nothing half is named");
        assert_eq!(contexts(), 0, "{want}: a context stays");
    }
    // What has grown is taken as it is now, and the step's key is of that.
    for (n, change, cached) in
        [(1, Change::Longer, false), (2, Change::None, false), (3, Change::Longer, true)]
    {
        let client = Client { change, folders: Arc::new(folders.clone()), ..Client::default() };
        let (reference, session) = (format!("g{n}"), format!("h{n}"));
        let caller = w.connect(&session, client.clone()).await;
        let request = solve(&reference, &session, exporter("tar", &[]));
        caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await.unwrap();
        let text = String::from_utf8_lossy(&client.exported.lock()).into_owned();
        assert_eq!(text.contains("text and more"), change == Change::Longer);
        let all = w.status(&caller, &reference).await;
        let mut copy = all.vertexes.iter().filter(|v| v.name.contains("COPY") && v.completed.is_some());
        assert_eq!(copy.next_back().map(|v| v.cached), Some(cached), "{n}");
    }
    assert_eq!(contexts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_build_uses_is_in_use() {
    let Some(w) = world().await else { return };
    let usage = async |caller: &Caller| {
        let path = "/moby.buildkit.v1.Control/DiskUsage";
        let all: DiskUsageResponse = caller.unary(path, &DiskUsageRequest::default()).await.unwrap();
        let of = |kind: &str, begin: &str| {
            let found = all.record.iter().find(|r| r.record_type == kind && r.description.contains(begin));
            found.unwrap_or_else(|| panic!("{begin}: {all:?}")).in_use
        };
        (of("regular", "COPY f"), of("exec.cachemount", ""))
    };
    let file = |command: &str| -> &'static str {
        format!("FROM base:1\nCOPY f /f\nRUN --mount=type=cache,target=/c {command}\n").leak()
    };
    for (n, command) in ["first", "hold"].into_iter().enumerate() {
        let folders = BTreeMap::from([
            ("dockerfile", vec![("Dockerfile", file(command))]),
            ("context", vec![("f", "text")]),
        ]);
        let client = Client { folders: Arc::new(folders), ..Client::default() };
        let (session, reference) = (format!("s{n}"), format!("r{n}"));
        let caller = w.connect(&session, client).await;
        let request = solve(&reference, &session, exporter("moby", &[]));
        let solving = {
            let caller = caller.clone();
            tokio::spawn(async move {
                caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await
            })
        };
        if command == "hold" {
            w.runner.1.notified().await;
            assert_eq!(usage(&caller).await, (true, true));
            w.runner.2.notify_one();
        }
        solving.await.unwrap().unwrap();
        assert_eq!(usage(&caller).await, (false, false), "{command}");
    }
}

const TWO: &str = "FROM --platform=linux/amd64 base:1 AS tool\nRUN tool\nFROM base:1\nARG TARGETARCH\nCOPY f /f-$TARGETARCH\nRUN for $TARGETPLATFORM\n";

#[tokio::test(flavor = "multi_thread")]
async fn one_build_for_several_platforms() {
    let Some(w) = world().await else { return };
    // The base is here for both.
    for arch in ["amd64", "arm64"] {
        let import = image::Import {
            reference: Some(format!("base-{arch}")),
            platform: Some(image::Platform::parse(&format!("linux/{arch}")).unwrap()),
            ..image::Import::default()
        };
        w.images
            .import(std::io::Cursor::new(common::tar_of(&[("bin/", ""), (arch, "x")])), import)
            .await
            .unwrap();
    }
    let base = ["amd64", "arm64"].map(|arch| {
        (
            image::Platform::parse(&format!("linux/{arch}")).unwrap(),
            w.images.get(&format!("base-{arch}")).unwrap().id.clone(),
        )
    });
    w.images.tag_all("base:1", base.to_vec()).await.unwrap();
    w.images.prune(false, &|_| true, &|_| None).await.unwrap();
    let folders =
        BTreeMap::from([("dockerfile", vec![("Dockerfile", TWO)]), ("context", vec![("f", "text")])]);
    let client = Client { folders: Arc::new(folders), ..Client::default() };
    let caller = w.connect("s1", client.clone()).await;
    let platforms = HashMap::from([("platform".to_string(), "linux/amd64,linux/arm64".to_string())]);
    let request = SolveRequest {
        frontend_attrs: platforms.clone(),
        ..solve("r1", "s1", exporter("moby", &[("name", "both:1")]))
    };
    let response: SolveResponse = caller.unary("/moby.buildkit.v1.Control/Solve", &request).await.unwrap();
    let tag = image::reference::parse("both:1").unwrap();
    let variants = w.images.variants(&tag);
    let shown: Vec<String> = variants.iter().map(|(p, _)| p.to_string()).collect();
    assert_eq!(shown, ["linux/amd64", "linux/arm64"]);
    for (platform, image) in &variants {
        assert_eq!(image.config.architecture, platform.architecture);
        let root = w.images.mount_layers(image.diff_ids()).unwrap();
        let has =
            |p: &str| image::archive::root::stat(std::os::fd::AsFd::as_fd(&root), p.as_ref(), true).is_ok();
        assert!(has(&format!("/f-{}", platform.architecture)) && has(&format!("/{}", platform.architecture)));
    }
    let main = w.images.get("both:1").unwrap();
    assert_eq!(main.config.architecture, image::Platform::host().architecture);
    assert_eq!(response.exporter_response["containerimage.config.digest"], main.id);
    // The lines say for whom; what is for this machine alone was done once.
    let all = w.status(&caller, "r1").await;
    let names: Vec<&str> = all.vertexes.iter().map(|v| v.name.as_str()).collect();
    assert!(names.contains(&"[linux/arm64 stage-1 2/3] COPY f /f-arm64"), "{names:?}");
    let ran: Vec<String> = w.runner.0.lock().iter().map(|s| s.args.last().unwrap().clone()).collect();
    assert_eq!(ran.iter().filter(|c| c.starts_with("for ")).count(), 2, "{ran:?}");
    // The other platform's image is nobody's leftover, and goes with the tag.
    let nobody = |_: &str| None;
    assert!(w.images.prune(false, &|_| true, &nobody).await.unwrap().images.is_empty());
    let file = w._dir.path().join("both.tar");
    w.images.save(&["both:1".into()], tokio::fs::File::create(&file).await.unwrap()).await.unwrap();
    let before = w.images.list().len();
    w.images.remove("both:1", false, true, &nobody).await.unwrap();
    assert_eq!(w.images.list().len(), before - 2);
    // An archive brings both again.
    w.images.load(tokio::fs::File::open(&file).await.unwrap(), None).await.unwrap();
    let again: Vec<String> = w.images.variants(&tag).iter().map(|(_, i)| i.id.clone()).collect();
    assert_eq!(again, variants.iter().map(|(_, i)| i.id.clone()).collect::<Vec<_>>());
    // A tag that moves is for one again.
    w.images.tag("base-amd64", "both:1").await.unwrap();
    assert!(w.images.variants(&tag).is_empty());

    // As files each platform has its own folder.
    let caller = w.connect("s2", client.clone()).await;
    let request = SolveRequest { frontend_attrs: platforms, ..solve("r2", "s2", exporter("tar", &[])) };
    caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await.unwrap();
    let exported = client.exported.lock().clone();
    let mut reader = image::archive::tar::Reader::new(&exported[..]);
    let mut paths = Vec::new();
    while let Some(e) = reader.next_entry().unwrap() {
        paths.push(String::from_utf8(e.path).unwrap());
    }
    for path in ["linux_amd64/f-amd64", "linux_arm64/f-arm64"] {
        assert!(paths.iter().any(|p| p == path), "{path} is not in {paths:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_shown_where_it_stands() {
    let Some(w) = world().await else { return };
    for (n, (file, want, line)) in [
        (
            "FROM base:1\nRUN false\n",
            "process \"/bin/sh -c false\" did not complete successfully: exit code: 3",
            2,
        ),
        ("FROM base:1\n\nFLY\n", "dockerfile parse error on line 3: unknown instruction: FLY", 3),
    ]
    .into_iter()
    .enumerate()
    {
        let folders = BTreeMap::from([("dockerfile", vec![("Dockerfile", file)])]);
        let client = Client { folders: Arc::new(folders), ..Client::default() };
        let session = format!("s{n}");
        let caller = w.connect(&session, client).await;
        let request = solve(&format!("r{n}"), &session, exporter("moby", &[]));
        let failed =
            caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await.unwrap_err();
        assert_eq!(failed.message, want);
        let source = failed.details.iter().find(|d| d.type_url.contains("errdefs.Source")).unwrap();
        let source: serde_json::Value = serde_json::from_slice(&source.value).unwrap();
        assert_eq!(source["ranges"][0]["start"]["line"], line);
    }
    let caller = w.connect("s9", Client::default()).await;
    let request = solve("r9", "s9", exporter("moby", &[]));
    let failed =
        caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await.unwrap_err();
    assert_eq!(failed.message, "failed to read dockerfile: open Dockerfile: no such file or directory");
    let request =
        SolveRequest { frontend_attrs: HashMap::from([("platform".into(), "a/b/c/d,e".into())]), ..request };
    let failed =
        caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await.unwrap_err();
    assert!(failed.message.contains("invalid platform"), "{}", failed.message);
}

/// A registry with one image that has no layers, and these members in its configuration.
async fn registry(members: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},{members}}}"#
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{m}","config":{{"mediaType":"{c}","digest":"{}","size":{}}},"layers":[]}}"#,
        image::archive::compress::digest_of(config.as_bytes()),
        config.len(),
        m = image::registry::manifest::media::OCI_MANIFEST,
        c = image::registry::manifest::media::OCI_CONFIG,
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(b) => head.push(b),
                    Err(_) => break,
                }
            }
            let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_string();
            let (kind, body) = match () {
                () if line.contains("/manifests/") => {
                    (image::registry::manifest::media::OCI_MANIFEST, manifest.as_str())
                }
                () if line.contains("/blobs/") => ("application/octet-stream", config.as_str()),
                () => ("application/json", "{}"),
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_from_a_registry_leaves_names_and_images_alone() {
    let Some(w) = world().await else { return };
    w.images.configure_registries(image::registry::RegistryConfig {
        patience: std::time::Duration::from_secs(1),
        ..image::registry::RegistryConfig::default()
    });
    let step = r#"{"key":"k","description":"from elsewhere","created":"2024-01-01T00:00:00Z"}"#;
    let address = registry(&format!(r#""tug.build.cache.v0":[{step}]"#)).await;
    let name = format!("{address}/app:1");
    let own = w.images.get("base:1").unwrap().id.clone();
    for tagged in [false, true] {
        if tagged {
            w.images.tag(&own, &name).await.unwrap();
        }
        let client = Client {
            folders: Arc::new(BTreeMap::from([(
                "dockerfile",
                vec![("Dockerfile", "FROM base:1\nLABEL a=b\n")],
            )])),
            ..Client::default()
        };
        let (reference, session) = (format!("r{tagged}"), format!("s{tagged}"));
        let caller = w.connect(&session, client).await;
        let entry = super::proto::CacheOptionsEntry {
            kind: "registry".into(),
            attrs: HashMap::from([("ref".to_string(), name.clone())]),
        };
        let cache = super::proto::CacheOptions { imports: vec![entry], ..Default::default() };
        let request =
            SolveRequest { cache: Some(cache), ..solve(&reference, &session, exporter("tar", &[])) };
        caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await.unwrap();
        let records = w.builder.cache_records().await.unwrap();
        assert!(records.iter().any(|r| r.description == "from elsewhere"), "{records:?}");
        let left: Vec<String> = w.images.list().iter().map(|image| image.id.clone()).collect();
        assert_eq!(left, [own.as_str()]);
        assert_eq!(w.images.get(&name).is_ok_and(|image| image.id == own), tagged);
    }
}

const STAGES: &str = "FROM base:1 AS tools\nARG V=1\nWORKDIR /tools\nRUN tools $V\nFROM tools AS app\nCOPY f /src/f\nRUN make\n\
FROM base:1 AS notes\nRUN notes\nFROM base:1\nCOPY --from=app /src /app\nRUN --mount=from=notes,target=/n finish\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_the_last_stage_alone_spares_the_others() {
    let Some(w) = world().await else { return };
    let folders =
        BTreeMap::from([("dockerfile", vec![("Dockerfile", STAGES)]), ("context", vec![("f", "text")])]);
    let client = Client { folders: Arc::new(folders), ..Client::default() };
    let local = |attrs: &[(&str, &str)]| super::proto::CacheOptionsEntry {
        kind: "local".into(),
        attrs: attrs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
    };
    let run = async |w: &World, name: &str, cache: super::proto::CacheOptions, args: &[(&str, &str)]| {
        let caller = w.connect(name, client.clone()).await;
        let frontend_attrs = args.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let request =
            SolveRequest { cache: Some(cache), frontend_attrs, ..solve(name, name, exporter("tar", &[])) };
        let solved: SolveResponse = caller.unary("/moby.buildkit.v1.Control/Solve", &request).await.unwrap();
        let all = w.status(&caller, name).await;
        let ran: Vec<String> = w.runner.0.lock().drain(..).map(|s| s.args.last().unwrap().clone()).collect();
        let lines: Vec<(String, bool)> = all
            .vertexes
            .into_iter()
            .filter(|v| v.completed.is_some() && v.name.starts_with('['))
            .filter(|v| !v.name.contains("internal"))
            .map(|v| (v.name, v.cached && v.error.is_empty()))
            .collect();
        (solved.exporter_response, ran, lines)
    };
    let exports = vec![local(&[("dest", "c"), ("mode", "min")])];
    let (response, ran, _) =
        run(&w, "r1", super::proto::CacheOptions { exports, ..Default::default() }, &[]).await;
    assert_eq!(ran.len(), 4, "{ran:?}");
    let manifest: serde_json::Value = serde_json::from_str(&response["cache.manifest"]).unwrap();

    // Elsewhere: nothing runs, and every step counts as done.
    let other = world().await.unwrap();
    let digest = manifest["digest"].as_str().unwrap();
    let imports = || vec![local(&[("src", "c"), ("digest", digest)])];
    let cache = || super::proto::CacheOptions { imports: imports(), ..Default::default() };
    let (_, ran, lines) = run(&other, "r2", cache(), &[]).await;
    assert!(ran.is_empty(), "{ran:?}");
    for line in
        ["[tools 2/3] WORKDIR /tools", "[app 2/2] RUN make", "[notes 2/2] RUN notes", "[stage-3 3/3] RUN"]
    {
        assert!(lines.iter().any(|(name, cached)| name.starts_with(line) && *cached), "{line}: {lines:?}");
    }
    // What another argument makes other is made, with what it stands on.
    let (_, ran, _) = run(&other, "r3", cache(), &[("build-arg:V", "2")]).await;
    assert!(["tools $V", "make"].iter().all(|c| ran.iter().any(|r| r == c)), "{ran:?}");
    // Its files are the same as before.
    assert!(!ran.iter().any(|c| c == "finish"), "{ran:?}");
    // Whoever does not trust the cache of one stage has it made. Elsewhere again: what the last build began and did not need
    // may still run.
    let third = world().await.unwrap();
    let (_, ran, _) = run(&third, "r4", cache(), &[("no-cache", "notes")]).await;
    assert_eq!(ran, ["notes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_leaves_no_definition() {
    let Some(w) = world().await else { return };
    for (command, defined) in [("false", false), ("finish", true)] {
        let file = format!(
            "FROM base:1 AS tools\nRUN tools\nFROM base:1\nRUN --mount=from=tools,target=/n {command}\n"
        );
        let folders = BTreeMap::from([("dockerfile", vec![("Dockerfile", &*file.leak())])]);
        let client = Client { folders: Arc::new(folders), ..Client::default() };
        let caller = w.connect(command, client).await;
        let request = solve(command, command, exporter("tar", &[]));
        let solved = caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await;
        assert_eq!(solved.is_ok(), defined, "{command}");
        assert_eq!(w.builder.cache.any_defined().unwrap(), defined, "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_the_client_are_no_step() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1\nLABEL a=file b=file\n";
    let folders = BTreeMap::from([("dockerfile", vec![("Dockerfile", file)])]);
    let client = Client { folders: Arc::new(folders), ..Client::default() };
    let caller = w.connect("s", client).await;
    let frontend_attrs = HashMap::from([("label:a".to_string(), "client".to_string())]);
    let request =
        SolveRequest { frontend_attrs, ..solve("r", "s", exporter("moby", &[("name", "labelled")])) };
    caller.unary::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &request).await.unwrap();
    let image = w.images.get("labelled").unwrap();
    let labels = &image.run_config().labels;
    assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("client", "file"));
    let last = image.config.history.last().unwrap();
    assert_eq!(last.created_by, "LABEL a=file b=file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_is_written_into_the_clients_store() {
    let Some(w) = world().await else { return };
    // More than is on its way at once.
    let text: &str = "text".repeat(1 << 19).leak();
    let folders = BTreeMap::from([
        ("dockerfile", vec![("Dockerfile", "FROM base:1\nCOPY f /f\n")]),
        ("context", vec![("f", text)]),
    ]);
    let client = Client { folders: Arc::new(folders), ..Client::default() };
    let caller = w.connect("s", client.clone()).await;
    let path = "/moby.buildkit.v1.Control/Solve";
    let layout = |kind: &str| exporter(kind, &[("tar", "false"), ("name", "app:1")]);
    for (n, kind) in ["oci", "docker"].into_iter().enumerate() {
        let request = solve(&format!("r{n}"), "s", layout(kind));
        let solved: SolveResponse = caller.unary(path, &request).await.unwrap();
        let response = solved.exporter_response;
        assert_eq!(response["image.name"], "docker.io/library/app:1");
        // What the client puts into its index: the manifest, from which everything is found.
        use base64::Engine as _;
        let top = base64::engine::general_purpose::STANDARD.decode(&response["containerimage.descriptor"]);
        let top: image::registry::manifest::Descriptor = serde_json::from_slice(&top.unwrap()).unwrap();
        assert_eq!(top.digest, response["containerimage.digest"]);
        let blobs = std::mem::take(&mut *client.blobs.lock());
        let blob = |digest: &str| &blobs[&("export".to_string(), digest.to_string())];
        let manifest = image::registry::manifest::Manifest::parse(blob(&top.digest), &top.digest).unwrap();
        assert_eq!(manifest.config.digest, response["containerimage.config.digest"]);
        let config = image::ImageConfig::parse(blob(&manifest.config.digest), "").unwrap();
        let layers: Vec<&String> = manifest.layers.iter().map(|l| &l.digest).collect();
        assert_eq!(layers, config.rootfs.diff_ids.iter().collect::<Vec<_>>());
        assert!(String::from_utf8_lossy(blob(layers[1])).contains("text"));
        assert_eq!(blobs.len(), 4);
        assert!(blob(layers[1]).len() > 1 << 20);
        // Again, where all of it is there already.
        *client.blobs.lock() = blobs.clone();
        caller
            .unary::<_, SolveResponse>(path, &solve(&format!("again{n}"), "s", layout(kind)))
            .await
            .unwrap();
        assert!(std::mem::take(&mut *client.blobs.lock()) == blobs);
    }
    let platforms = HashMap::from([
        ("platform".to_string(), "linux/amd64".into()),
        ("multi-platform".into(), "true".into()),
    ]);
    let request = SolveRequest { frontend_attrs: platforms, ..solve("r3", "s", layout("oci")) };
    caller.unary::<_, SolveResponse>(path, &request).await.unwrap();
    assert!(w.images.get("app:1").is_err(), "nothing is named here");
}
