//! Ingress over real sockets, with an API server in memory.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use client::fake::Fake;
use client::{Client, Informers, gvr};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// An endpoint that answers each connection with its name and the head of the request; it can upgrade to an echo.
async fn endpoint(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = read_head(&mut stream).await;
                if head.to_ascii_lowercase().contains("upgrade: echo") {
                    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await.unwrap();
                    let (mut r, mut w) = stream.split();
                    tokio::io::copy(&mut r, &mut w).await.unwrap();
                    return;
                }
                let body = format!("{name}\n{head}");
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nKeep-Alive: x\r\nX-A: b\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    address
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, host: &str, path: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close, x-hop\r\nX-Hop: gone\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A TLS server may end without a farewell.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

struct World {
    fake: Fake,
    http: SocketAddr,
    https: SocketAddr,
    stop: CancellationToken,
    run: tokio::task::JoinHandle<Result<(), ingress::Error>>,
}

async fn world() -> World {
    let (fake, _) = Fake::new();
    let client = Client::new(Arc::new(fake.clone()));
    let (http, https) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (at, tls) = (http.local_addr().unwrap(), https.local_addr().unwrap());
    let instance = base::Instance::new(Path::new("/a"), Path::new("/b"), "n", [192, 0, 2, 7].into());
    let stop = CancellationToken::new();
    let informers = Informers::new(client.clone(), stop.clone());
    let options = ingress::Options { instance, http: Some(http), https: Some(https) };
    let run = tokio::spawn(ingress::run(options, client, informers, stop.clone()));
    World { fake, http: at, https: tls, stop, run }
}

impl World {
    fn service(&self, name: &str, endpoints: &[SocketAddr]) {
        let ports = json!([{"name": "web", "port": 80}]);
        self.fake.put(
            &gvr::SERVICES,
            json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"ports": ports}}),
        );
        for (i, e) in endpoints.iter().enumerate() {
            self.fake.put(
                &gvr::ENDPOINT_SLICES,
                json!({"metadata": {"namespace": "ns", "name": format!("{name}-{i}"),
                    "labels": {"kubernetes.io/service-name": name}},
                    "ports": [{"name": "web", "port": e.port()}],
                    "endpoints": [{"addresses": [e.ip()], "conditions": {"ready": true}}, {"addresses": ["127.0.0.9"], "conditions": {"ready": false}}]}),
            );
        }
    }

    fn ingress(&self, name: &str, spec: Value) {
        self.fake.put(&gvr::INGRESSES, json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec}));
    }

    /// Asks until the answer has `text`.
    async fn eventually(&self, host: &str, path: &str, text: &str) -> String {
        let ask = async {
            loop {
                let answer = get(TcpStream::connect(self.http).await.unwrap(), host, path).await;
                if answer.contains(text) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), ask)
            .await
            .unwrap_or_else(|_| panic!("{host}{path}: no {text:?}"))
    }
}

fn rule(host: &str, service: &str) -> Value {
    json!({"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix",
        "backend": {"service": {"name": service, "port": {"number": 80}}}}]}})
}

#[tokio::test]
async fn requests_reach_endpoints() {
    let w = world().await;
    let one = endpoint("one").await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    w.service("web", &[one, closed]);
    w.service("empty", &[]);
    w.ingress("i", json!({"rules": [rule("a.test", "web"), rule("empty.test", "empty"), rule("missing.test", "missing")]}));
    let answer = w.eventually("a.test:8080", "/x?y=1", "200 OK").await;
    for part in [
        "one\n",
        "GET /x?y=1 HTTP/1.1",
        "x-forwarded-for: 9.9.9.9, 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: a.test\r",
    ] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    assert!(
        !answer.contains("x-hop") && !answer.to_lowercase().contains("keep-alive"),
        "hop by hop: {answer}"
    );
    assert!(answer.contains("x-a: b"));
    for _ in 0..20 {
        w.eventually("a.test", "/", "200 OK").await;
        let answer = get(TcpStream::connect(w.http).await.unwrap(), "a.test", "/").await;
        assert!(answer.contains("one"), "an endpoint that refuses is passed over: {answer}");
    }
    for (host, code) in [("none.test", "404"), ("empty.test", "503"), ("missing.test", "503")] {
        let answer = get(TcpStream::connect(w.http).await.unwrap(), host, "/").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
    }
    w.stop.cancel();
    w.run.await.unwrap().unwrap();
    assert!(TcpStream::connect(w.http).await.is_err());
}

#[tokio::test]
async fn upgrades_pass_through() {
    let w = world().await;
    w.service("web", &[endpoint("one").await]);
    w.ingress("i", json!({"rules": [rule("a.test", "web")]}));
    w.eventually("a.test", "/", "200 OK").await;
    let mut stream = TcpStream::connect(w.http).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
}

#[tokio::test]
async fn classes_statuses_and_changes() {
    let w = world().await;
    let (one, two) = (endpoint("one").await, endpoint("two").await);
    w.service("web", &[one]);
    w.service("other", &[two]);
    let classes = api::Gvr::new("networking.k8s.io", "v1", "ingressclasses");
    let class = |name: &str, controller: &str| json!({"metadata": {"name": name}, "spec": {"controller": controller}});
    w.fake.put(&classes, class("mine", ingress::CONTROLLER));
    w.fake.put(&classes, class("nginx", "k8s.io/ingress-nginx"));
    w.ingress("a", json!({"ingressClassName": "mine", "rules": [rule("mine.test", "web")]}));
    w.ingress("b", json!({"ingressClassName": "nginx", "rules": [rule("nginx.test", "web")]}));
    w.eventually("mine.test", "/", "one").await;
    let answer = get(TcpStream::connect(w.http).await.unwrap(), "nginx.test", "/").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "another controller's: {answer}");
    let status = |name: &str| {
        w.fake.get(&gvr::INGRESSES, "ns", name).unwrap().at(&["status", "loadBalancer", "ingress"]).clone()
    };
    let reported = async |name: &str| {
        let wait = async {
            while status(name) != json!([{"ip": "192.0.2.7"}]) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap();
    };
    reported("a").await;
    assert_eq!(status("b"), Value::Null);
    // What somebody else writes over it is not fought over: it has been looked at when the next one has its status.
    let theirs = json!([{"ip": "192.0.2.8"}]);
    let mut object = w.fake.get(&gvr::INGRESSES, "ns", "a").unwrap().value().clone();
    object["status"]["loadBalancer"]["ingress"] = theirs.clone();
    w.fake.put(&gvr::INGRESSES, object);
    let spec = json!({"ingressClassName": "mine", "rules": [rule("later.test", "web")]});
    let later = json!({"metadata": {"namespace": "ns", "name": "c", "uid": "c"}, "spec": spec});
    w.fake.put(&gvr::INGRESSES, later);
    reported("c").await;
    assert_eq!(status("a"), theirs);
    w.ingress("a", json!({"ingressClassName": "mine", "rules": [rule("mine.test", "other")]}));
    w.eventually("mine.test", "/", "two").await;
    w.fake.remove(&gvr::INGRESSES, "ns", "a");
    w.eventually("mine.test", "/", "404").await;
}

#[tokio::test]
async fn certificates_by_name() {
    let w = world().await;
    w.service("web", &[endpoint("one").await]);
    let made = rcgen::generate_simple_self_signed(vec!["a.test".into(), "b.wild.test".into()]).unwrap();
    let secret = json!({"metadata": {"namespace": "ns", "name": "cert"}, "data": {
        "tls.crt": BASE64_STANDARD.encode(made.cert.pem()), "tls.key": BASE64_STANDARD.encode(made.signing_key.serialize_pem())}});
    let broken =
        json!({"metadata": {"namespace": "ns", "name": "broken"}, "data": {"tls.crt": "!", "tls.key": ""}});
    w.fake.put(&gvr::SECRETS, secret);
    w.fake.put(&gvr::SECRETS, broken);
    let tls = json!([{"hosts": ["a.test", "*.wild.test"], "secretName": "cert"}, {"hosts": ["x.test"], "secretName": "broken"}]);
    w.ingress("i", json!({"tls": tls, "rules": [rule("a.test", "web"), rule("*.wild.test", "web")]}));
    w.eventually("a.test", "/", "200 OK").await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let connect = |name: &'static str| {
        let connector = tokio_rustls::TlsConnector::from(config.clone());
        async move {
            let tcp = TcpStream::connect(w.https).await.unwrap();
            connector.connect(ServerName::try_from(name).unwrap(), tcp).await
        }
    };
    for name in ["a.test", "b.wild.test"] {
        let answer = get(connect(name).await.unwrap(), name, "/").await;
        assert!(answer.contains("one") && answer.contains("x-forwarded-proto: https"), "{answer}");
    }
    let stranger = connect("x.test").await.unwrap_err();
    assert!(stranger.to_string().contains("certificate"), "our own is not trusted: {stranger}");
}
