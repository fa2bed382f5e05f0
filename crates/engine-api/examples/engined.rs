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
    engine_api::make_room();
    std::fs::create_dir_all(data)?;
    std::fs::create_dir_all(run)?;
    let mut instance = base::Instance::new(data, run, "node", [127, 0, 0, 1].into());
    if let Ok(bridge) = std::env::var("ENGINED_BRIDGE") {
        instance.bridge_ip = bridge.parse()?;
    }
    let file = data.join("daemon.json");
    let settings = if file.exists() { engine::Settings::load(&file)? } else { engine::Settings::default() };
    let containers = runtime::ShimRuntime::open(run, &data.join("runtime"), runtime::ShimCommand::default())?;
    let images = image::ImageStore::open(data).await?;
    let network = network::Network::host(&instance).await?;
    let engine = engine::Engine::open(engine::EngineOptions {
        instance: instance.clone(),
        runtime: containers,
        images,
        network: network.clone(),
        settings,
    })
    .await?;
    let _ = std::fs::remove_file(&instance.docker_socket);
    let listener = tokio::net::UnixListener::bind(&instance.docker_socket)?;
    let shutdown = CancellationToken::new();
    let mut listeners = vec![engine_api::Listener::Unix(listener)];
    let settings = engine.settings();
    for host in settings.hosts.iter().filter_map(|h| h.strip_prefix("tcp://")) {
        let path = |text: &str| std::path::PathBuf::from(text);
        let files = engine_api::TlsFiles {
            ca: Some(path(&settings.tlscacert)),
            cert: path(&settings.tlscert),
            key: path(&settings.tlskey),
        };
        let listener = tokio::net::TcpListener::bind(host).await?;
        listeners.push(engine_api::Listener::Tls(listener, files.config()?));
    }
    if !settings.metrics_addr.is_empty() {
        let listener = tokio::net::TcpListener::bind(&settings.metrics_addr).await?;
        tokio::spawn(engine_api::serve_metrics(engine.clone(), listener, shutdown.clone()));
    }
    println!("listening");
    let server = tokio::spawn(engine_api::serve(engine.clone(), listeners, shutdown.clone()));
    let mut reload = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let (again, folder) = (engine.clone(), file);
    let reloads = tokio::spawn(async move {
        while reload.recv().await.is_some() {
            match engine::Settings::load(&folder) {
                Ok(settings) => again.reload(&settings),
                Err(error) => eprintln!("engined: {error}"),
            }
        }
    });
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
    reloads.abort();
    shutdown.cancel();
    engine.shutdown().await;
    server.await??;
    Ok(())
}
