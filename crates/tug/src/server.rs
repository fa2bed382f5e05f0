//! `tug server`: engine, control plane and this machine's node in one process; `tug engine`: the first of them alone.
//!
//! The order: what needs nothing else first (locks, folders, keys), then the engine, so that `docker` answers at
//! once, then the API server, then those that speak to it. Ready means that the node's object says so.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base::{Instance, fsx};
use engine_api::Listener;
use rustix::fs::{FlockOperation, flock};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Component;
use crate::daemon;
use crate::doctor::who_listens;
use crate::memory;
use crate::options::{Place, write_record};

/// The version of the data folder's layout; a server refuses a folder of any other.
const DATA_VERSION: &str = "1";
/// Where docker looks for an engine when nobody tells it.
pub const DOCKER_DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// What a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roles {
    /// Engine, control plane and node.
    All,
    /// The engine alone.
    Engine,
}

/// Runs `tug server` or `tug engine`.
pub fn run(place: &Place, roles: Roles) -> Result<ExitCode> {
    let verbosity = log_to_stderr();
    if !rustix::process::geteuid().is_root() {
        bail!("tug server must run as root: it makes namespaces, mounts and network links");
    }
    let (made, settings) = place.configured()?;
    verbosity.set(&settings);
    let _lock = prepare(&made)?;
    daemon::prepare(&settings)?;
    engine_api::make_room();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    // Memory that is little used comes in huge pages otherwise, where the machine gives them to everybody. A shim takes
    // it back, so that containers have what the machine would give them.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    memory::release_when_idle(&mut builder)?;
    let runtime = builder.worker_threads(threads).enable_all().build()?;
    runtime.block_on(Box::pin(serve(place, made, roles, settings, verbosity)))?;
    // Blocking reads of files may still be under way; nothing they could do is worth waiting for.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Sends the log to standard error; TUG_LOG says how much (`info`, `debug`, `kubelet=debug,info`, ...).
pub fn log_to_stderr() -> Verbosity {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TUG_LOG");
    let fixed = filter.is_ok();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder.init();
    Verbosity(Box::new(move |level| {
        if !fixed {
            let _ = handle.reload(tracing_subscriber::EnvFilter::new(level));
        }
    }))
}

/// How much is logged, which the settings can change; TUG_LOG wins.
pub struct Verbosity(Box<dyn Fn(&str) + Send + Sync>);

impl Verbosity {
    fn set(&self, settings: &engine::Settings) {
        let level = match settings.log_level.as_str() {
            _ if settings.debug => "debug",
            "" => "info",
            // There is no such level; what is fatal is an error.
            "fatal" => "error",
            level => level,
        };
        (self.0)(level);
    }
}

/// Whether a server holds the run folder.
pub fn is_running(run_dir: &Path) -> Result<bool> {
    Ok(running_pid(run_dir)?.is_some())
}

/// The process id of the server that holds the run folder.
pub fn running_pid(run_dir: &Path) -> Result<Option<i32>> {
    let path = lock_path(run_dir);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| path.display().to_string()),
    };
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text.trim().parse().ok())
}

/// Takes the run folder for this process.
pub fn lock(run_dir: &Path) -> Result<File> {
    fs::create_dir_all(run_dir).with_context(|| format!("run folder {}", run_dir.display()))?;
    let path = lock_path(run_dir);
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .mode(0o644)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        bail!(
            "run folder {} is in use by process {}; see tug status, tug down",
            run_dir.display(),
            holder.trim()
        );
    }
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

fn lock_path(run_dir: &Path) -> PathBuf {
    run_dir.join("server.lock")
}

/// The folders of containers' layers, volumes and the cluster, below the data folder. They hold secrets, and set-uid programs
/// that no user of the machine may run: nobody but root goes into them. Containers with ids of their own need not, because
/// what they mount is opened before they have these.
const PRIVATE: [&str; 8] = ["build", "engine", "images", "kubelet", "pki", "registry", "runtime", "volumes"];

fn prepare(made: &Instance) -> Result<File> {
    let lock = lock(&made.run_dir)?;
    fs::create_dir_all(&made.data_dir).with_context(|| format!("data folder {}", made.data_dir.display()))?;
    // Whoever was given a file in it, as the kubeconfig, gets there by its name.
    fs::set_permissions(&made.data_dir, fs::Permissions::from_mode(0o711))?;
    for dir in PRIVATE.map(|name| made.data_dir.join(name)).iter().chain([&made.run_dir.join("kubelet")]) {
        fsx::private_dir(dir).with_context(|| dir.display().to_string())?;
    }
    let version = made.data_dir.join("version");
    match fs::read_to_string(&version) {
        Ok(found) if found.trim() == DATA_VERSION => {}
        Ok(found) => bail!(
            "data folder {} has layout version {:?}; this tug knows version {DATA_VERSION}. Use the tug that made it, or another --data-dir",
            made.data_dir.display(),
            found.trim()
        ),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            fsx::write_atomic(&version, DATA_VERSION.as_bytes(), 0o644)?
        }
        Err(e) => return Err(e).with_context(|| version.display().to_string()),
    }
    Ok(lock)
}

/// The roles that run, and why one of them ended before it was asked to.
struct Parts {
    running: TaskTracker,
    shutdown: CancellationToken,
    ended: mpsc::UnboundedSender<anyhow::Error>,
}

impl Parts {
    /// Runs a role until it ends.
    fn spawn<E>(
        &self,
        name: &'static str,
        role: impl Future<Output = std::result::Result<(), E>> + Send + 'static,
    ) where
        E: Into<anyhow::Error> + Send,
    {
        let (shutdown, ended) = (self.shutdown.clone(), self.ended.clone());
        self.running.spawn(async move {
            let outcome = role.await.map_err(Into::into).context(name);
            let error = match outcome {
                Err(e) => e,
                Ok(()) if shutdown.is_cancelled() => return,
                Ok(()) => anyhow::anyhow!("{name} ended unasked"),
            };
            if shutdown.is_cancelled() {
                tracing::warn!("while stopping: {error:#}");
            }
            let _ = ended.send(error);
        });
    }
}

async fn serve(
    place: &Place,
    made: Instance,
    roles: Roles,
    settings: engine::Settings,
    verbosity: Verbosity,
) -> Result<()> {
    let engine = EngineStart { settings, verbosity, place: place.clone() };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (ended, mut ends) = mpsc::unbounded_channel();
    let parts = Parts { running: TaskTracker::new(), shutdown: CancellationToken::new(), ended };
    let until_stopped = async {
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            Some(error) = ends.recv() => Err(error),
        }
    };
    let started_then_stays = async {
        match roles {
            Roles::All => Box::pin(start(place, &made, &parts, engine)).await?,
            Roles::Engine => {
                start_engine(&made, &parts, engine).await?;
                write_record(&made, Roles::Engine)?;
            }
        }
        notify("READY=1");
        tracing::info!(node = %made.node_name, "ready");
        std::future::pending().await
    };
    let outcome = tokio::select! {
        outcome = until_stopped => outcome,
        outcome = started_then_stays => outcome,
    };
    notify("STOPPING=1");
    tracing::info!("stopping; containers keep running");
    parts.shutdown.cancel();
    parts.running.close();
    parts.running.wait().await;
    outcome
}

/// What the engine is started with.
struct EngineStart {
    settings: engine::Settings,
    verbosity: Verbosity,
    /// Whence the settings come again on SIGHUP.
    place: Place,
}

/// What the engine stands on, which the node shares with it.
struct Engine {
    network: Arc<network::Network>,
    runtime: Arc<runtime::ShimRuntime>,
    images: Arc<image::ImageStore>,
}

/// Starts the engine: it answers when this returns.
async fn start_engine(made: &Instance, parts: &Parts, with: EngineStart) -> Result<Engine> {
    let EngineStart { settings, verbosity, place } = with;
    notify("STATUS=engine");
    let network = network::Network::host(made).await.context("network")?;
    let runtime =
        runtime::ShimRuntime::open(&made.run_dir, &made.data_dir.join("runtime"), Default::default())
            .context("runtime")?;
    let images = image::ImageStore::open(&made.data_dir).await.context("image store")?;
    if let Some(listener) = own_registry(place.registry_port).await {
        let mut options = registry::Options::new(made.data_dir.join("registry"), listener);
        // What it takes counts in the budget of the disk.
        options.written = Some(images.written());
        let s = parts.shutdown.clone();
        // Whoever does not push to this node does without it: that is no reason to end everything else.
        parts.running.spawn(async move {
            if let Err(error) = registry::run(options, s).await {
                tracing::warn!(%error, "no registry of our own; see --registry-port");
            }
        });
    }
    let engine = engine::Engine::open(engine::EngineOptions {
        instance: made.clone(),
        runtime: runtime.clone(),
        images: images.clone(),
        network: network.clone(),
        settings: settings.clone(),
    })
    .await
    .context("engine")?;
    let mut listeners = vec![Listener::Unix(engine_socket(&made.docker_socket, &settings.group)?)];
    listeners.extend(daemon::listeners(&settings).await?);
    if !settings.metrics_addr.is_empty() {
        let address = &settings.metrics_addr;
        let at: SocketAddr =
            address.parse().with_context(|| format!("metrics-addr {address}: it is ADDRESS:PORT"))?;
        let listener =
            TcpListener::bind(at).await.with_context(|| format!("metrics-addr: listen at {at}"))?;
        let (e, s) = (engine.clone(), parts.shutdown.clone());
        parts.spawn("metrics", async move {
            engine_api::serve_metrics(e, listener, s).await;
            Ok::<_, anyhow::Error>(())
        });
    }
    let mut reload = signal(SignalKind::hangup())?;
    let (e, s) = (engine.clone(), parts.shutdown.clone());
    parts.spawn("settings", async move {
        loop {
            tokio::select! {
                _ = reload.recv() => {}
                () = s.cancelled() => return Ok::<_, anyhow::Error>(()),
            }
            match place.configured() {
                Ok((_, new)) => {
                    verbosity.set(&new);
                    e.reload(&new);
                    tracing::info!("the settings have been read again");
                }
                Err(error) => tracing::error!("the settings have not changed: {error:#}"),
            }
        }
    });
    let (e, s) = (engine.clone(), parts.shutdown.clone());
    parts.spawn("engine API", async move {
        let served = engine_api::serve(e.clone(), listeners, s).await;
        e.shutdown().await;
        served
    });
    link_default_socket(&made.docker_socket);
    Ok(Engine { network, runtime, images })
}

/// Starts every role and returns when the node is Ready.
async fn start(place: &Place, made: &Instance, parts: &Parts, engine: EngineStart) -> Result<()> {
    let shutdown = &parts.shutdown;
    check_port(made.api_port, "--api-port").await?;
    check_port(made.kubelet_port, "--kubelet-port").await?;
    let ingress = ingress::Options {
        instance: made.clone(),
        http: ingress_listener(place.ingress_http_port, "--ingress-http-port").await?,
        https: ingress_listener(place.ingress_https_port, "--ingress-https-port").await?,
    };

    let Engine { network, runtime, images } = start_engine(made, parts, engine).await?;

    notify("STATUS=API server");
    let pki = pki::Pki::open(&made.pki_dir())?;
    let (store, shared) = place.datastore.open(made).context("object store")?;
    let mut options = apiserver::Options::new(made.clone(), store, pki.clone());
    options.shared_store = shared;
    options.docs = Some(Arc::new(api_docs::Descriptions));
    options.release = place.cluster.emulated_version;
    options.anonymous = place.cluster.anonymous_auth;
    options.components =
        [(Component::Scheduler, "scheduler"), (Component::ControllerManager, "controller-manager")]
            .into_iter()
            .filter(|(component, _)| place.cluster.has(*component))
            .map(|(_, name)| name.to_owned())
            .collect();
    let api = apiserver::ApiServer::start(options, shutdown.clone()).await.context("API server")?;
    let admin = pki.issue_client("kubernetes-admin", &["system:masters".into()])?;
    let server = format!("https://{}", SocketAddr::new(made.node_ip, made.api_port));
    fsx::write_atomic(
        &made.kubeconfig(),
        pki::kubeconfig("tug", &server, pki.ca_pem(), &admin).as_bytes(),
        0o600,
    )?;
    write_record(made, Roles::All)?;

    notify("STATUS=controllers");
    // Each role writes as itself. What they read comes from one set of informers, so that one process holds one cache;
    // it reads as the controllers do, whose rules include all that the other roles may read.
    let as_user = |user: &str| client::Client::new(api.transport(apiserver::UserInfo::new(user, &[])));
    let control = as_user("system:kube-controller-manager");
    let informers = client::Informers::new(control.clone(), shutdown.clone());
    let cluster = &place.cluster;
    if cluster.has(Component::ControllerManager) {
        let (instance, pki, release) = (made.clone(), pki.clone(), cluster.emulated_version);
        let options = controllers::Options { instance, pki, release };
        let (i, s) = (informers.clone(), shutdown.clone());
        let contend = election(made, "kube-controller-manager", shared);
        parts.spawn("controllers", async move {
            let role = |s| async {
                controllers::run(options.clone(), control.clone(), i.clone(), s).await;
                Ok::<_, anyhow::Error>(())
            };
            match contend {
                Some(election) => client::election::lead(&control, &election, &s, role).await,
                None => role(s).await,
            }
        });
    }
    if cluster.has(Component::Scheduler) {
        let (c, i, s) = (as_user("system:kube-scheduler"), informers.clone(), shutdown.clone());
        let contend = election(made, "kube-scheduler", shared);
        parts.spawn("scheduler", async move {
            let role = |s| scheduler::run(Default::default(), c.clone(), i.clone(), s);
            match contend {
                Some(election) => client::election::lead(&c, &election, &s, role).await,
                None => role(s).await,
            }
        });
    }

    notify("STATUS=node");
    let user = format!("system:node:{}", made.node_name);
    let node = client::Client::new(api.transport(apiserver::UserInfo::new(&user, &["system:nodes"])));
    let names = [made.node_name.clone()];
    let tls = pki.server_config(&user, &names, &[made.node_ip], pki::ClientAuth::Required)?;
    let options = kubelet::Options {
        instance: made.clone(),
        runtime,
        images,
        network: network.clone(),
        tls: Arc::new(tls),
        dns: Some(made.dns_ip().into()),
        version: api.version().to_owned(),
    };
    if cluster.has(Component::Kubelet) {
        let (i, s) = (informers.clone(), shutdown.clone());
        parts.spawn("kubelet", async move { kubelet::run(options, node, i, s).await });
    }
    if cluster.has(Component::Proxy) {
        let options = proxy::Options { instance: made.clone() };
        let (i, n, s) = (informers.clone(), network.clone(), shutdown.clone());
        parts.spawn("proxy", async move { proxy::run(options, i, n, s).await });
    }
    if cluster.has(Component::Dns) {
        let options = dns::Options { instance: made.clone() };
        let (c, i, n, s) = (as_user("system:kube-dns"), informers.clone(), network, shutdown.clone());
        parts.spawn("DNS", async move { dns::run(options, c, i, n, s).await });
    }

    if ingress.http.is_some() || ingress.https.is_some() {
        let (c, i, s) = (as_user("system:tug-ingress"), informers.clone(), shutdown.clone());
        parts.spawn("ingress", async move { ingress::run(ingress, c, i, s).await });
    }

    if cluster.has(Component::Kubelet) { node_ready(&informers, &made.node_name).await } else { Ok(()) }
}

/// What a role contends for where other servers use the same objects; alone, it need not.
fn election(made: &Instance, name: &str, shared: bool) -> Option<client::election::Election> {
    let (namespace, identity) = ("kube-system".to_owned(), made.node_name.clone());
    shared.then(|| client::election::Election { namespace, name: name.to_owned(), identity })
}

/// Resolves when the node's object says Ready.
async fn node_ready(informers: &client::Informers, name: &str) -> Result<()> {
    let nodes = informers.of(&api::Gvr::new("", "v1", "nodes"));
    let mut changes = nodes.subscribe();
    nodes.synced().await;
    loop {
        if nodes.get("", name).is_some_and(|n| cli_kubectl::is_ready(n.value())) {
            return Ok(());
        }
        changes.recv().await.context("the informer of nodes ended")?;
    }
}

/// The listener of this node's own registry. Its port is a common one, and whoever has it already may be the registry
/// that is wanted, so that is no reason not to start.
async fn own_registry(port: u16) -> Option<TcpListener> {
    if port == 0 {
        return None;
    }
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    match TcpListener::bind(address).await {
        Ok(listener) => Some(listener),
        Err(error) => {
            let holder = who_listens(port).unwrap_or_else(|| "somebody".into());
            tracing::warn!(%error, "no registry of our own: {address} is taken by {holder}; see --registry-port");
            None
        }
    }
}

/// Fails if nobody could listen at the port, before anything has been started.
async fn check_port(port: u16, flag: &str) -> Result<()> {
    listen(port, flag).await.map(drop)
}

async fn ingress_listener(port: u16, flag: &str) -> Result<Option<TcpListener>> {
    if port == 0 { Ok(None) } else { listen(port, flag).await.map(Some) }
}

async fn listen(port: u16, flag: &str) -> Result<TcpListener> {
    let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    TcpListener::bind(address).await.with_context(|| match who_listens(port) {
        Some(holder) => format!("port {port} is taken by {holder}; stop it or give another {flag}"),
        None => format!("cannot listen at {address}; give another {flag}"),
    })
}

/// Listens at a socket of the engine: mode 0660, of the given group if there is one.
pub fn engine_socket(path: &Path, group: &str) -> Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {
            bail!("another engine answers at {}; stop it or give another --docker-socket", path.display())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(_) => fs::remove_file(path).with_context(|| path.display().to_string())?,
    }
    // Nobody may connect between bind and chmod, so the socket is made under a closed mask.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o117));
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string());
    rustix::process::umask(mask);
    let listener = listener?;
    if let Some(group) = group_id(group) {
        std::os::unix::fs::chown(path, None, Some(group)).with_context(|| path.display().to_string())?;
    }
    Ok(listener)
}

/// The id of a local group, from group(5): a static binary cannot ask the system's name services.
fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Puts a link at docker's default place if nothing stands there.
fn link_default_socket(socket: &Path) {
    let default = Path::new(DOCKER_DEFAULT_SOCKET);
    if socket == default || default.symlink_metadata().is_ok() {
        return;
    }
    if let Err(e) = std::os::unix::fs::symlink(socket, default) {
        tracing::warn!("no link at {DOCKER_DEFAULT_SOCKET}: {e}; use DOCKER_HOST");
    }
}

/// Tells whoever started us, by sd_notify(3); nobody may be listening.
fn notify(state: &str) {
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET")
        && let Ok(socket) = UnixDatagram::unbound()
    {
        let _ = socket.send_to(state.as_bytes(), path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_running(dir.path()).unwrap());
        let held = lock(dir.path()).unwrap();
        assert_eq!(running_pid(dir.path()).unwrap(), Some(std::process::id() as i32));
        assert!(lock(dir.path()).unwrap_err().to_string().contains("is in use by process"));
        drop(held);
        assert!(!is_running(dir.path()).unwrap());
    }

    #[test]
    fn other_users_cannot_go_into_the_data_folders() {
        let dir = tempfile::tempdir().unwrap();
        let made = Instance::new(&dir.path().join("d"), &dir.path().join("r"), "n", [127, 0, 0, 1].into());
        let old = made.data_dir.join("images");
        fs::create_dir_all(&old).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
        drop(prepare(&made).unwrap());
        let folders = PRIVATE.map(|name| made.data_dir.join(name));
        for folder in folders.iter().chain([&made.run_dir.join("kubelet")]) {
            assert_eq!(
                fs::metadata(folder).unwrap().permissions().mode() & 0o7777,
                0o710,
                "{}",
                folder.display()
            );
        }
    }

    #[test]
    fn a_data_folder_of_another_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let made = Instance::new(&dir.path().join("d"), &dir.path().join("r"), "n", [127, 0, 0, 1].into());
        drop(prepare(&made).unwrap());
        fs::write(made.data_dir.join("version"), "99").unwrap();
        let e = prepare(&made).unwrap_err().to_string();
        assert!(e.contains("layout version \"99\""), "{e}");
    }

    #[tokio::test]
    async fn a_taken_port_names_its_holder() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let e = check_port(taken.local_addr().unwrap().port(), "--api-port").await.unwrap_err().to_string();
        assert!(e.contains("is taken by") && e.contains(&std::process::id().to_string()), "{e}");
    }
}
