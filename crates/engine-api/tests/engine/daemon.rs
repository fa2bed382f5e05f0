//! Settings, their reload, TLS over TCP, measurements.

use std::collections::HashSet;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};

use crate::support::{Engine, read_head, which};
use crate::survival::within;

#[test]
fn settings_and_their_reload() {
    skip_if_lacking!();
    let settings = r#"{"log-driver": "local", "log-opts": {"max-size": "1m"}, "labels": ["a=1"], "default-shm-size": "8M",
        "metrics-addr": "127.0.0.1:9323", "insecure-registries": ["reg.test:5000"], "default-address-pools": [{"base": "10.231.0.0/16", "size": 24}]}"#;
    let engine = Engine::start_with(settings);
    let info = engine.get("/info").json();
    assert_eq!((&info["LoggingDriver"], &info["Labels"]), (&json!("local"), &json!(["a=1"])));
    assert_eq!(info["DefaultAddressPools"][0]["Size"], 24);
    let id = engine.create("plain", &json!({"Image": "busybox:test"}));
    let host = engine.get(&format!("/containers/{id}/json")).json()["HostConfig"].clone();
    assert_eq!(host["LogConfig"], json!({"Type": "local", "Config": {"max-size": "1m"}}));
    assert_eq!(host["ShmSize"], 8 << 20);
    let net = engine.post("/networks/create", &json!({"Name": "n"}));
    assert_eq!(net.status, 201, "{net:?}");
    let subnet = engine.get("/networks/n").json()["IPAM"]["Config"][0]["Subnet"].clone();
    assert!(subnet.as_str().unwrap().starts_with("10.231."), "{subnet}");

    let mut events = engine.open("GET", "/events?filters=%7B%22type%22:%5B%22daemon%22%5D%7D", "", b"");
    assert_eq!(read_head(&mut events).0, 200);
    // The log driver is for the next start; labels are taken over at once.
    let new = r#"{"log-driver": "json-file", "labels": ["a=2", "b=3"], "debug": true}"#;
    std::fs::write(engine.path().join("data/daemon.json"), new).unwrap();
    let pid = nix::unistd::Pid::from_raw(engine.pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    let mut line = String::new();
    while !line.contains("timeNano") {
        line.clear();
        events.read_line(&mut line).unwrap();
    }
    let event: Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!((&event["Type"], &event["Action"]), (&json!("daemon"), &json!("reload")));
    assert_eq!(event["Actor"]["Attributes"]["labels"], "[\"a=2\",\"b=3\"]");
    let info = engine.get("/info").json();
    assert_eq!((&info["LoggingDriver"], &info["Labels"]), (&json!("local"), &json!(["a=2", "b=3"])));
    assert_eq!(info["Debug"], true);

    let metrics =
        engine.inside("busybox").args(["wget", "-qO-", "http://127.0.0.1:9323/metrics"]).output().unwrap();
    let metrics = String::from_utf8(metrics.stdout).unwrap();
    for want in [
        "engine_daemon_container_actions_seconds_count{action=\"create\"} 1\n",
        "engine_daemon_container_states_containers{state=\"stopped\"} 1\n",
        "engine_daemon_events_subscribers_total 1\n",
        "engine_daemon_engine_cpus_cpus ",
    ] {
        assert!(metrics.contains(want), "{want} in {metrics}");
    }
}

/// An authority, and a server's and a client's certificate of it, as files.
fn certificates(dir: &Path) {
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("ca.pem", ca.self_signed(&ca_key).unwrap().pem());
    let issuer = Issuer::new(ca, ca_key);
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.extended_key_usages.push(usage);
        write(&format!("{name}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}-key.pem"), key.serialize_pem());
    }
}

/// The settings of an engine that listens with TLS, by the files of [`certificates`].
fn tls_settings(files: &Path) -> Value {
    let file = |name: &str| files.join(name).display().to_string();
    json!({
        "hosts": ["tcp://127.0.0.1:2376"], "tlsverify": true, "tlscacert": file("ca.pem"),
        "tlscert": file("server.pem"), "tlskey": file("server-key.pem"),
    })
}

/// The sockets and pipes that the daemon has open, by the numbers that the kernel gives each once; but for those by which it
/// asks the kernel, which it opens when it first needs them, and keeps.
fn open_streams(engine: &Engine) -> HashSet<PathBuf> {
    let process = PathBuf::from(format!("/proc/{}", engine.pid()));
    let kernels = std::fs::read_to_string(process.join("net/netlink")).unwrap();
    let kernels: HashSet<&str> = kernels.lines().filter_map(|l| l.split_whitespace().last()).collect();
    let is_kernels = |link: &str| {
        link.strip_prefix("socket:[").and_then(|l| l.strip_suffix(']')).is_some_and(|n| kernels.contains(n))
    };
    let files = std::fs::read_dir(process.join("fd")).unwrap();
    let links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    let open = |link: &PathBuf| {
        let link = link.to_string_lossy();
        link.contains(":[") && !is_kernels(&link)
    };
    links.filter(open).collect()
}

/// Whoever only looks at a silent container and goes away is noticed, however he came.
#[test]
fn clients_that_leave_are_noticed() {
    skip_if_lacking!();
    let files = tempfile::tempdir().unwrap();
    certificates(files.path());
    let engine = Engine::start_with(&tls_settings(files.path()).to_string());
    let body =
        json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}});
    engine.create("silent", &body);
    engine.create("waiting", &body);
    assert_eq!(engine.post("/containers/silent/start", &json!(null)).status, 204);
    // What it opens once and keeps.
    let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
    let mut first = engine.open("POST", "/containers/silent/attach?stream=1&stdout=1", upgrade, b"");
    assert_eq!(read_head(&mut first).0, 101);
    drop(first);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    drop(runtime.block_on(over_tls(&engine, files.path(), "silent")));
    // Sooner than the kernel's first question whether a silent client is still there.
    let soon = Duration::from_secs(15);
    let until_closed = |opened: &HashSet<PathBuf>, who: &str| {
        assert!(!opened.is_empty(), "{who} opened nothing");
        within(soon, who, || open_streams(&engine).is_disjoint(opened));
    };

    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (name, say) in [("waiting", false), ("waiting", true), ("silent", false), ("silent", true)] {
        let before = open_streams(&engine);
        let path = format!("/containers/{name}/attach/ws?stream=1&stdout=1");
        let mut socket = engine.open("GET", &path, websocket, b"");
        assert_eq!(read_head(&mut socket).0, 101);
        let opened = &open_streams(&engine) - &before;
        if say {
            // A closing frame with a mask of zeroes; it is answered, and then the connection ends.
            socket.get_mut().write_all(&[0x88, 0x80, 0, 0, 0, 0]).unwrap();
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).unwrap();
        }
        drop(socket);
        until_closed(&opened, &format!("a WebSocket to one that is {name}, closed: {say}"));
    }

    for name in ["silent", "waiting"] {
        let before = open_streams(&engine);
        let (head, stream) = runtime.block_on(over_tls(&engine, files.path(), name));
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let opened = &open_streams(&engine) - &before;
        drop(stream);
        until_closed(&opened, &format!("a client over TLS of one that is {name}"));
    }
}

/// Attaches over TLS; what it answers, and the connection.
async fn over_tls(
    engine: &Engine,
    files: &Path,
    name: &str,
) -> (String, tokio_rustls::client::TlsStream<tokio::net::TcpStream>) {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let read = |name: &str| CertificateDer::from_pem_file(files.join(name)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(read("ca.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(files.join("client-key.pem")).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![read("client.pem")], key)
        .unwrap();
    let socket = tokio::net::TcpStream::from_std(engine.connect("127.0.0.1:2376")).unwrap();
    let server = rustls::pki_types::ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into());
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect(server, socket).await.unwrap();
    let head = format!(
        "POST /containers/{name}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\
         Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    answer.truncate(length);
    (String::from_utf8(answer).unwrap(), stream)
}

/// A container has the name of its runtime, not where that is today.
#[test]
fn runtimes_are_known_by_name() {
    skip_if_lacking!();
    let settings = r#"{"runtimes": {"other": {"path": "/bin/sh"}}, "default-runtime": "other"}"#;
    let engine = Engine::start_with(settings);
    for (name, body) in [
        ("default", json!({"Image": "busybox:test"})),
        ("named", json!({"Image": "busybox:test", "HostConfig": {"Runtime": "other"}})),
    ] {
        engine.create(name, &body);
        let host = engine.get(&format!("/containers/{name}/json")).json()["HostConfig"].clone();
        assert_eq!(host["Runtime"], "other", "{name}");
    }
    let body = json!({"Image": "busybox:test", "HostConfig": {"Runtime": "nobody"}});
    let refused = engine.post("/containers/create", &body);
    assert_eq!(
        (refused.status, refused.message().as_str()),
        (400, "unknown or invalid runtime name: nobody")
    );
    // What the name means is looked up when it is started.
    let started = engine.post("/containers/named/start", &json!(null));
    assert!(started.status != 204 && !started.message().contains("runtime name"), "{started:?}");
}

#[test]
fn tls_over_tcp_for_clients_with_a_certificate() {
    skip_if_lacking!();
    if which("docker").is_none() || which("nsenter").is_none() {
        println!(
            "skipped: needs the docker client and nsenter (Debian: apt-get install docker-cli util-linux)"
        );
        return;
    }
    let files = tempfile::tempdir().unwrap();
    certificates(files.path());
    let file = |name: &str| files.path().join(name).display().to_string();
    let engine = Engine::start_with(&tls_settings(files.path()).to_string());
    let docker = |cert: bool, more: &[&str]| {
        let mut command = engine.inside("docker");
        command.args(["-H", "tcp://127.0.0.1:2376", "--tlsverify", "--tlscacert", &file("ca.pem")]);
        if cert {
            command.args(["--tlscert", &file("client.pem"), "--tlskey", &file("client-key.pem")]);
        } else {
            // Without a folder of its own it would take the user's.
            command.env("DOCKER_CERT_PATH", "/nonexistent");
        }
        let output = command.args(more).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let (code, text) =
        docker(true, &["run", "--rm", "--network", "none", "busybox:test", "echo", "over TLS"]);
    assert_eq!((code, text.as_str()), (Some(0), "over TLS\n"));
    assert!(!engine.get("/info").json()["Warnings"].to_string().contains("API is accessible"));
    let (code, text) = docker(false, &["version"]);
    assert!(code != Some(0) && !text.contains("Server: Tug"), "{text}");
    // Nobody is let in without TLS.
    let plain =
        engine.inside("busybox").args(["wget", "-qO-", "http://127.0.0.1:2376/_ping"]).output().unwrap();
    assert!(!plain.status.success());
}

/// The default network on a bridge that somebody else has made, and no default network at all.
#[test]
fn bridges_of_others() {
    skip_if_lacking!();
    let mut engine = Engine::start();
    for command in ["link add br7 type bridge", "addr add 10.99.0.1/24 dev br7", "link set br7 up"] {
        let arguments: Vec<&str> = ["busybox", "ip"].into_iter().chain(command.split(' ')).collect();
        assert_eq!(engine.beside(&arguments), "", "{command}");
    }
    let again = |engine: &mut Engine, settings: &str| {
        std::fs::write(engine.path().join("data/daemon.json"), settings).unwrap();
        engine.kill();
        engine.start_again();
    };
    let links = |engine: &Engine| {
        let output = engine.docker(&["run", "--rm", "busybox:test", "ip", "-o", "addr"]);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    again(&mut engine, r#"{"bridge": "br7"}"#);
    assert!(links(&engine).contains("10.99.0.2/24"), "{}", links(&engine));
    let net = engine.get("/networks/bridge").json();
    assert_eq!(net["Options"]["com.docker.network.bridge.name"], "br7");
    assert_eq!(net["IPAM"]["Config"][0]["Gateway"], "10.99.0.1");
    again(&mut engine, r#"{"bridge": "none"}"#);
    assert_eq!(engine.get("/networks/bridge").status, 404);
    let alone = links(&engine);
    assert!(alone.contains("127.0.0.1") && !alone.contains("eth0"), "{alone}");
    assert!(engine.beside(&["busybox", "ip", "addr"]).contains("10.99.0.1/24"), "it is left as it was");
}
