//! `tug status` and `tug env`: what runs and how to reach it.

use std::process::ExitCode;

use anyhow::{Context, Result};
use base::Instance;

use crate::options::Place;
use crate::server;

/// The lines that make docker and kubectl talk to this instance.
pub fn environment(made: &Instance) -> String {
    format!(
        "export DOCKER_HOST=unix://{}\nexport KUBECONFIG={}\n",
        made.docker_socket.display(),
        made.kubeconfig().display()
    )
}

/// Runs `tug env`.
pub fn env(place: &Place) -> Result<ExitCode> {
    let made = match place.running()? {
        Some(made) => made,
        None => place.instance()?,
    };
    print!("{}", environment(&made));
    Ok(ExitCode::SUCCESS)
}

/// Runs `tug status`: exit status 0 if the server runs and its node (if it has one) is Ready, else 3 as systemctl(1) has it.
pub fn run(place: &Place) -> Result<ExitCode> {
    let Some(said) = place.record()?.filter(|_| server::is_running(&place.run_dir).unwrap_or(false)) else {
        println!("tug is not running (run folder {}); start it with: tug up", place.run_dir.display());
        return Ok(ExitCode::from(3));
    };
    let made = said.instance;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let engine = cli_docker::Docker::new(&made.docker_socket);
        let info =
            engine.info().await.with_context(|| format!("the engine at {}", made.docker_socket.display()))?;
        println!("engine   {}", made.docker_socket.display());
        println!(
            "         {} containers ({} running), {} images",
            info["Containers"], info["ContainersRunning"], info["Images"]
        );
        if said.engine_only {
            return Ok(ExitCode::SUCCESS);
        }
        println!(
            "cluster  https://{}:{}  (kubeconfig {})",
            made.node_ip,
            made.api_port,
            made.kubeconfig().display()
        );
        let nodes = cli_kubectl::Kubectl::from_kubeconfig(&made.kubeconfig())?.nodes().await?;
        let mut ready = !nodes.is_empty();
        for (name, is_ready) in nodes {
            println!("node     {name}  {}", if is_ready { "Ready" } else { "NotReady" });
            ready &= is_ready;
        }
        Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(3) })
    })
}
