//! `tug demo`: the whole road in one command. Builds the example with the engine, applies its manifests to the
//! cluster, calls its Service, and says how to go on.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::{Instance, rng};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::options::Place;
use crate::up;

/// The example application, compiled by build.rs.
const KUBIA: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kubia"));
const DOCKERFILE: &str = include_str!("../../../examples/kubia/Dockerfile");
const DEPLOYMENT: &str = include_str!("../../../examples/kubia/deployment.yaml");
const SERVICE: &str = include_str!("../../../examples/kubia/service.yaml");

/// How long one call of the Service may take.
const CALL: Duration = Duration::from_secs(5);

/// The flags of `tug demo`.
#[derive(Debug, Args)]
pub struct Options {
    /// What must survive a reboot [default: a fresh temporary folder].
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Sockets and the state of what runs [default: a fresh temporary folder].
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// Where the API server listens.
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
    /// Where the kubelet listens.
    #[arg(long, default_value_t = 10250)]
    kubelet_port: u16,
}

/// Runs `tug demo`.
pub fn run(options: &Options) -> Result<ExitCode> {
    let folder = std::env::temp_dir().join(format!("tug-demo-{}", rng::hex(3)));
    let data_dir = options.data_dir.clone().unwrap_or_else(|| folder.join("data"));
    let run_dir = options.run_dir.clone().unwrap_or_else(|| folder.join("run"));
    let mut place = Place::in_folders(&data_dir, &run_dir);
    (place.api_port, place.kubelet_port) = (options.api_port, options.kubelet_port);

    let begun = Instant::now();
    println!("starting the platform (data in {})", data_dir.display());
    let (made, started) =
        up::ensure(&place, &mut |part| println!("  {:>5} ms  {part}", begun.elapsed().as_millis()))?;
    let how = if started { "node Ready" } else { "was already running" };
    println!("  {:>5} ms  {how}", begun.elapsed().as_millis());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(show(&made)))?;
    println!("\nGo on with docker and kubectl:\n{}", crate::status::environment(&made));
    println!(
        "Stop it with:\n{} down --data-dir {} --run-dir {}",
        executable(),
        made.data_dir.display(),
        made.run_dir.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn executable() -> String {
    std::env::current_exe().map_or_else(|_| "tug".into(), |p| p.display().to_string())
}

async fn show(made: &Instance) -> Result<()> {
    println!("\nbuilding the image kubia:v1 (docker build -t kubia:v1 .)");
    let files = [("Dockerfile", DOCKERFILE.as_bytes(), 0o644), ("kubia", KUBIA, 0o755)];
    let docker = cli_docker::Docker::new(&made.docker_socket);
    docker
        .build(cli_docker::context(&files)?, "kubia:v1", &mut |text| print!("  {text}"))
        .await
        .context("building kubia:v1")?;

    println!("\ndeploying it (kubectl apply -f deployment.yaml -f service.yaml)");
    let cluster = cli_kubectl::Kubectl::from_kubeconfig(&made.kubeconfig())?;
    let begun = Instant::now();
    for manifest in [DEPLOYMENT, SERVICE] {
        for (name, outcome) in cluster.apply(manifest, "default").await? {
            println!("  {name} {outcome}");
        }
    }
    cluster
        .wait_available("default", "kubia", Duration::from_secs(60), &mut |status: &Value| {
            let count = |field: &str| status[field].as_u64().unwrap_or(0);
            println!("  {:>5} ms  {} of 3 ready", begun.elapsed().as_millis(), count("readyReplicas"));
        })
        .await?;

    let address = cluster.cluster_ip("default", "kubia").await?;
    println!("\ncalling the Service (curl http://{address}/)");
    let mut pods = BTreeSet::new();
    for call in 0..30 {
        let line =
            tokio::time::timeout(CALL, get(&address)).await.context("the Service does not answer")??;
        if pods.insert(line.clone()) || call < 3 {
            println!("  {}", line.trim());
        }
        if pods.len() == 3 {
            break;
        }
    }
    if pods.len() < 2 {
        bail!(
            "30 calls of the Service at {address} reached only one pod; see kubectl describe service kubia"
        );
    }
    Ok(())
}

async fn get(address: &str) -> Result<String> {
    let stream =
        TcpStream::connect((address, 80)).await.with_context(|| format!("connecting to {address}:80"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::get("/").header("host", address).body(Empty::<Bytes>::new())?;
    let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}
