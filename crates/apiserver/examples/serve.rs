//! Runs the API server alone: `cargo run -p apiserver --example serve -- DIR [PORT]`. Keeps its objects in DIR and writes an
//! administrator's kubeconfig there.

use std::net::IpAddr;
use std::path::PathBuf;

use apiserver::{ApiServer, Options};
use base::Instance;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: serve DIR [PORT]")?);
    let port: u16 = arguments.next().map_or(Ok(6443), |p| p.parse())?;
    std::fs::create_dir_all(&dir)?;
    let mut instance = Instance::new(&dir, &dir.join("run"), "node", IpAddr::from([127, 0, 0, 1]));
    instance.api_port = port;
    let pki = pki::Pki::open(&instance.pki_dir())?;
    let store = store::embedded::open(&dir.join("objects.db"))?;
    let shutdown = CancellationToken::new();
    let server =
        ApiServer::start(Options::new(instance.clone(), store, pki.clone()), shutdown.clone()).await?;
    let admin = pki.issue_client("admin", &["system:masters".to_owned()])?;
    let url = format!("https://127.0.0.1:{}", server.address().port());
    std::fs::write(instance.kubeconfig(), pki::kubeconfig("tug", &url, pki.ca_pem(), &admin))?;
    println!("export KUBECONFIG={}", instance.kubeconfig().display());
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    Ok(())
}
