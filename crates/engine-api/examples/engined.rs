//! The engine alone: `engined DATA-DIR RUN-DIR` listens on `RUN-DIR/docker.sock`. For work on the engine, and for its
//! tests; everything else runs `tug`.

use std::path::Path;

use tokio_util::sync::CancellationToken;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "shim") {
        arguments.remove(0);
        runtime::shim::main(arguments.into_iter().map(Into::into).collect());
    }
    let [data, run] = arguments.as_slice() else {
        eprintln!("usage: engined DATA-DIR RUN-DIR");
        std::process::exit(2);
    };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("the runtime starts");
    if let Err(error) = runtime.block_on(serve(Path::new(data), Path::new(run))) {
        eprintln!("engined: {error}");
        std::process::exit(1);
    }
}

async fn serve(data: &Path, run: &Path) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(data)?;
    std::fs::create_dir_all(run)?;
    let mut instance = base::Instance::new(data, run, "node", [127, 0, 0, 1].into());
    if let Ok(bridge) = std::env::var("ENGINED_BRIDGE") {
        instance.bridge_ip = bridge.parse()?;
    }
    let containers = runtime::ShimRuntime::open(run, &data.join("runtime"), runtime::ShimCommand::default())?;
    let images = image::ImageStore::open(data).await?;
    let network = network::Network::host(&instance).await?;
    let engine = engine::Engine::open(engine::EngineOptions {
        instance: instance.clone(),
        runtime: containers,
        images,
        network: network.clone(),
    })
    .await?;
    let _ = std::fs::remove_file(&instance.docker_socket);
    let listener = tokio::net::UnixListener::bind(&instance.docker_socket)?;
    println!("listening");
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(engine_api::serve(engine.clone(), listener, shutdown.clone()));
    let mut down = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        // SIGTERM leaves the containers running, SIGINT takes everything down.
        _ = stop.recv() => {}
        _ = down.recv() => {
            engine.stop_all().await?;
            network.teardown().await?;
        }
    }
    shutdown.cancel();
    engine.shutdown().await;
    server.await??;
    Ok(())
}
