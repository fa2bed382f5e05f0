//! Who may do what, over the wire: passwords, tokens, rules, TLS, quotas; and a registry that is a cache of another.

#![allow(clippy::unwrap_used)] // a test may panic

use std::path::Path;
use std::sync::Arc;

use http_body_util::BodyExt;
use image::http::{Client, full};
use image::registry::{Registry, Remote};
use image::{Auth, RegistryConfig, reference};
use registry::access::{Access, Htpasswd, Rules, Tokens};
use registry::{Options, Quota, UpstreamOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const KIND: &str = "application/vnd.oci.image.manifest.v1+json";

async fn start(dir: &Path, change: impl FnOnce(&mut Options)) -> (String, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    let mut options = Options::new(dir.into(), listener);
    change(&mut options);
    let stop = shutdown.clone();
    tokio::spawn(async move { registry::run(options, stop).await.unwrap() });
    (address, shutdown)
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    text: String,
}

async fn ask(method: &str, url: &str, authorization: Option<&str>, content: &[u8]) -> Answer {
    let client = Client::new(&[], true).unwrap();
    let mut b = http::Request::builder().method(method).uri(url).header("content-length", content.len());
    b = b.header("host", url.split('/').nth(2).unwrap());
    if url.contains("/manifests/") {
        b = b.header("content-type", KIND);
    }
    if let Some(a) = authorization {
        b = b.header("authorization", a);
    }
    let (parts, incoming) = client.send(b.body(full(content.to_vec())).unwrap()).await.unwrap().into_parts();
    let bytes = incoming.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    }
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn users(dir: &Path) -> Htpasswd {
    let path = dir.join("htpasswd");
    let line = |name: &str| format!("{name}:{}\n", bcrypt::hash(format!("{name}-password"), 4).unwrap());
    std::fs::write(&path, line("ann") + &line("bob")).unwrap();
    Htpasswd::open(path).unwrap()
}

fn rules() -> Rules {
    Rules::parse("* public/** pull\nann ** pull,push,delete\nbob team/* pull\n").unwrap()
}

fn manifest() -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{KIND}","config":{{"mediaType":"application/vnd.x","digest":"{HELLO}","size":5}},"layers":[]}}"#
    )
}

/// Stores a blob and a manifest.
async fn fill(base: &str, name: &str, authorization: Option<&str>) -> u16 {
    let url = format!("{base}/v2/{name}/blobs/uploads/?digest={HELLO}");
    let blob = ask("POST", &url, authorization, b"hello").await;
    if blob.status != 201 {
        return blob.status;
    }
    let url = format!("{base}/v2/{name}/manifests/1");
    ask("PUT", &url, authorization, manifest().as_bytes()).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_and_rules() {
    let dir = tempfile::tempdir().unwrap();
    let access = Access { users: Some(users(dir.path())), rules: Some(rules()), tokens: None };
    let (address, _) = start(&dir.path().join("r"), |o| o.access = Some(access)).await;
    let base = format!("http://{address}");
    let (ann, bob) = (basic("ann", "ann-password"), basic("bob", "bob-password"));
    let ping = ask("GET", &format!("{base}/v2/"), None, b"").await;
    assert_eq!(
        (ping.status, ping.headers["www-authenticate"].as_bytes()),
        (401, &b"Basic realm=\"tug registry\""[..])
    );
    assert_eq!(ask("GET", &format!("{base}/v2/"), Some(&ann), b"").await.status, 200);
    assert_eq!(ask("GET", &format!("{base}/v2/"), Some(&basic("ann", "x")), b"").await.status, 401);
    assert_eq!(ask("GET", &format!("{base}/v2/"), Some("Bearer x"), b"").await.status, 401);
    for name in ["team/app", "public/app", "secret"] {
        assert_eq!(fill(&base, name, Some(&ann)).await, 201, "{name}");
    }
    let get = async |name: &str, who: Option<&str>| {
        ask("GET", &format!("{base}/v2/{name}/manifests/1"), who, b"").await.status
    };
    assert_eq!(get("public/app", None).await, 200);
    assert_eq!(get("team/app", None).await, 401);
    assert_eq!(get("team/app", Some(&bob)).await, 200);
    assert_eq!(get("secret", Some(&bob)).await, 403);
    let push = ask("POST", &format!("{base}/v2/team/app/blobs/uploads/"), Some(&bob), b"").await;
    assert!(
        push.status == 403 && push.text.contains("bob may not do this: push of team/app"),
        "{}",
        push.text
    );
    assert_eq!(ask("DELETE", &format!("{base}/v2/team/app/manifests/1"), Some(&bob), b"").await.status, 403);
    // The catalogue shows what one may read; a blob of a secret repository cannot be mounted out of it.
    let list = ask("GET", &format!("{base}/v2/_catalog"), Some(&bob), b"").await.text;
    assert_eq!(list, r#"{"repositories":["public/app","team/app"]}"#);
    let mount = |from: &str| format!("{base}/v2/mine/blobs/uploads/?mount={HELLO}&from={from}");
    assert_eq!(ask("POST", &mount("secret"), Some(&bob), b"").await.status, 403);
    assert_eq!(ask("POST", &mount("secret"), Some(&ann), b"").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_our_own() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("r");
    let tokens = Tokens::ours(&data).unwrap();
    let access = Access { users: Some(users(dir.path())), rules: Some(rules()), tokens: Some(tokens) };
    let (address, _) = start(&data, |o| o.access = Some(access)).await;
    let base = format!("http://{address}");
    let challenge = ask("GET", &format!("{base}/v2/team/app/tags/list"), None, b"").await;
    assert_eq!(
        challenge.headers["www-authenticate"].to_str().unwrap(),
        format!("Bearer realm=\"{base}/token\",service=\"{address}\",scope=\"repository:team/app:pull\"")
    );
    // Of an upload everything is a part of writing.
    for method in ["GET", "DELETE"] {
        let challenge = ask(method, &format!("{base}/v2/team/app/blobs/uploads/x"), None, b"").await;
        let challenge = challenge.headers["www-authenticate"].to_str().unwrap().to_string();
        assert!(challenge.ends_with(",scope=\"repository:team/app:pull,push\""), "{method}: {challenge}");
    }
    assert_eq!(ask("GET", &format!("{base}/token"), Some(&basic("ann", "no")), b"").await.status, 401);
    // The image store's own client does the whole dance.
    let connect = async |name: &str, who: Option<&str>, push: bool| {
        let auth =
            who.map(|w| Auth { username: w.into(), password: format!("{w}-password"), ..Auth::default() });
        let r = reference::parse(&format!("{address}/{name}")).unwrap();
        Remote::connect(&r, auth, push, &RegistryConfig::default()).await.unwrap()
    };
    let put = async |name: &str, who: Option<&str>| {
        let remote = connect(name, who, true).await;
        let (tx, rx) = tokio::sync::mpsc::channel(1);
        tx.send(Ok("hello".into())).await.unwrap();
        drop(tx);
        let (digest, waiting) = tokio::sync::oneshot::channel();
        digest.send(HELLO.to_string()).unwrap();
        remote.upload(rx, waiting).await?;
        remote.put_manifest("1", KIND, manifest().into()).await
    };
    put("team/app", Some("ann")).await.unwrap();
    put("public/app", Some("ann")).await.unwrap();
    assert!(put("team/app", Some("bob")).await.is_err() && put("public/app", None).await.is_err());
    let get =
        async |name: &str, who: Option<&str>| connect(name, who, false).await.manifest("1").await.is_ok();
    assert!(get("public/app", None).await && get("team/app", Some("bob")).await);
    assert!(!get("team/app", None).await && !get("team/app", Some("x")).await);
    // A password is not taken where tokens are asked for.
    let url = format!("{base}/v2/team/app/manifests/1");
    assert_eq!(ask("GET", &url, Some(&basic("ann", "ann-password")), b"").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_trust() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (address, _) = start(&dir.path().join("r"), |o| o.tls = Some(Arc::new(config))).await;
    assert_eq!(fill(&format!("https://{address}"), "a", None).await, 201);
    let trusting = Client::new(&[made.cert.der().clone()], false).unwrap();
    let request = |uri: String| http::Request::get(uri).header("host", &address).body(full("")).unwrap();
    assert_eq!(trusting.send(request(format!("https://{address}/v2/"))).await.unwrap().status(), 200);
    let stranger = Client::new(&[], false).unwrap();
    assert!(stranger.send(request(format!("https://{address}/v2/"))).await.is_err());
    // A process whose machine trusts it. A test cannot change the variables of its own.
    let bundle = dir.path().join("bundle.pem");
    std::fs::write(&bundle, made.cert.pem()).unwrap();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "trust_of_the_machine"]).env("SSL_CERT_FILE", &bundle).env(TRUSTED, &address);
    let output = child.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

/// Where the registry is that a child of `tls_and_trust` asks.
const TRUSTED: &str = "TUG_TEST_TRUSTED";

/// The part of `tls_and_trust` that is another process. By itself it asks nobody.
#[tokio::test]
async fn trust_of_the_machine() {
    let Ok(address) = std::env::var(TRUSTED) else { return };
    let client = Client::new(&[], false).unwrap();
    let request = http::Request::get(format!("https://{address}/v2/")).header("host", &address);
    assert_eq!(client.send(request.body(full("")).unwrap()).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas() {
    let dir = tempfile::tempdir().unwrap();
    // A tag counts for a kilobyte.
    let held = 5 + manifest().len() as u64 + 1024;
    let quota = Quota { total: Some(held + 7), repository: Some(held + 3) };
    let (address, _) = start(&dir.path().join("r"), |o| o.quota = quota).await;
    let base = format!("http://{address}");
    assert_eq!(fill(&base, "a", None).await, 201);
    let put = async |name: &str, digest: &str, content: &[u8]| {
        ask("POST", &format!("{base}/v2/{name}/blobs/uploads/?digest={digest}"), None, content).await
    };
    let world = "sha256:486ea46224d1bb4fb680f34f7c9ad96a8f24ec88be73ea8e5a6c65260e9cb8a7";
    let refused = put("a", world, b"world").await;
    assert!(
        refused.status == 403
            && refused
                .text
                .contains(&format!("quota exceeded: repository a holds {held} of {} bytes", held + 3)),
        "{}",
        refused.text
    );
    assert_eq!(put("b", world, b"world").await.status, 201);
    // Shared blobs count once for the registry, and in each repository.
    assert_eq!(
        ask("POST", &format!("{base}/v2/c/blobs/uploads/?mount={HELLO}"), None, b"").await.status,
        201
    );
    let refused =
        put("d", "sha256:2689367b205c16ce32ed4200942b8b8b1e262dfc70d9bc9fbc77c49699a4f1df", b"ok").await;
    assert_eq!(refused.status, 201);
    let refused = put("e", world, &[b'x'; 4096]).await;
    assert!(refused.status == 403 && refused.text.contains("quota exceeded"), "{}", refused.text);
    assert_eq!(std::fs::read_dir(dir.path().join("r/uploads")).unwrap().count(), 0, "nothing half remains");
    // Manifests count as well.
    let refused = ask("PUT", &format!("{base}/v2/c/manifests/1"), None, manifest().as_bytes()).await;
    assert!(refused.status == 403 && refused.text.contains("the registry holds"), "{}", refused.text);
    // So do tags, by which anybody could fill the disk.
    let tag = async |tag: &str| {
        ask("PUT", &format!("{base}/v2/a/manifests/{tag}"), None, manifest().as_bytes()).await
    };
    let refused = tag("2").await;
    assert!(refused.status == 403 && refused.text.contains("quota exceeded"), "{}", refused.text);
    assert_eq!(tag("1").await.status, 201, "what is there takes no more room");
    assert_eq!(ask("DELETE", &format!("{base}/v2/a/manifests/1"), None, b"").await.status, 202);
    assert_eq!(tag("2").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_under_way_share_the_quota() {
    let dir = tempfile::tempdir().unwrap();
    let quota = Quota { total: Some(9), repository: None };
    let (address, _) = start(&dir.path().join("r"), |o| o.quota = quota).await;
    let base = format!("http://{address}");
    let begin = async |name: &str| {
        let answer = ask("POST", &format!("{base}/v2/{name}/blobs/uploads/"), None, b"").await;
        format!("{base}{}", answer.headers["location"].to_str().unwrap())
    };
    let (one, two) = (begin("a").await, begin("b").await);
    assert_eq!(ask("PATCH", &one, None, b"first").await.status, 202);
    let refused = ask("PATCH", &two, None, b"hello").await;
    assert!(
        refused.status == 403 && refused.text.contains("the registry holds 5 of 9 bytes"),
        "{}",
        refused.text
    );
    assert_eq!(ask("DELETE", &one, None, b"").await.status, 204);
    assert_eq!(ask("PATCH", &two, None, b"hello").await.status, 202);
    assert_eq!(ask("PUT", &format!("{two}?digest={HELLO}"), None, b"").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let (there, stop) = start(&dir.path().join("there"), |_| {}).await;
    assert_eq!(fill(&format!("http://{there}"), "team/app", None).await, 201);
    let upstream = UpstreamOptions { hosts: vec![there.clone()], ..UpstreamOptions::default() };
    let (here, _) = start(&dir.path().join("here"), |o| o.upstream = Some(upstream)).await;
    let v2 = format!("http://{here}/v2/team/app");
    assert_eq!(ask("GET", &format!("{v2}/manifests/1"), None, b"").await.text, manifest());
    let blob = ask("GET", &format!("{v2}/blobs/{HELLO}"), None, b"").await;
    assert_eq!((blob.status, blob.text.as_str()), (200, "hello"));
    assert_eq!(ask("GET", &format!("{v2}/manifests/2"), None, b"").await.status, 404);
    let other = format!("sha256:{}", "0".repeat(64));
    assert_eq!(ask("GET", &format!("{v2}/blobs/{other}"), None, b"").await.status, 404);
    assert_eq!(ask("GET", &format!("{v2}/manifests/1?ns=elsewhere"), None, b"").await.status, 404);
    assert_eq!(ask("PUT", &format!("{v2}/manifests/3"), None, manifest().as_bytes()).await.status, 405);
    // The tags are those that there are, not those that somebody asked for.
    let two =
        ask("PUT", &format!("http://{there}/v2/team/app/manifests/two"), None, manifest().as_bytes()).await;
    assert_eq!(two.status, 201);
    let tags = format!("{v2}/tags/list");
    assert_eq!(ask("GET", &tags, None, b"").await.text, r#"{"name":"team/app","tags":["1","two"]}"#);
    let page = ask("GET", &format!("{tags}?n=1"), None, b"").await;
    assert_eq!(page.text, r#"{"name":"team/app","tags":["1"]}"#);
    assert!(page.headers.contains_key("link"));
    // What was asked for once is here when the other one is gone.
    stop.cancel();
    assert_eq!(ask("GET", &tags, None, b"").await.text, r#"{"name":"team/app","tags":["1"]}"#);
    assert_eq!(ask("GET", &format!("{v2}/manifests/1"), None, b"").await.text, manifest());
    assert_eq!(ask("GET", &format!("{v2}/blobs/{HELLO}"), None, b"").await.text, "hello");
    assert_eq!(ask("GET", &format!("{v2}/manifests/2"), None, b"").await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_several_keeps_them_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (one, _) = start(&dir.path().join("one"), |_| {}).await;
    let (two, _) = start(&dir.path().join("two"), |_| {}).await;
    assert_eq!(fill(&format!("http://{one}"), "team/app", None).await, 201);
    for name in ["team/app", "team/more"] {
        assert_eq!(fill(&format!("http://{two}"), name, None).await, 201);
    }
    let other = manifest().replace("vnd.x", "vnd.other");
    for tag in ["1", "2"] {
        let url = format!("http://{two}/v2/team/app/manifests/{tag}");
        assert_eq!(ask("PUT", &url, None, other.as_bytes()).await.status, 201);
    }
    let hosts = vec![one.clone(), two.clone()];
    let upstream = UpstreamOptions { hosts, ..UpstreamOptions::default() };
    let (here, stop) = start(&dir.path().join("here"), |o| o.upstream = Some(upstream)).await;
    let v2 = format!("http://{here}/v2");
    let get = async |path: &str| ask("GET", &format!("{v2}/{path}"), None, b"").await.text;
    // The same names, in whatever order they are asked for.
    assert_eq!(get("team/app/manifests/1").await, manifest());
    assert_eq!(get(&format!("team/app/manifests/1?ns={two}")).await, other);
    assert_eq!(get(&format!("team/app/manifests/1?ns={one}")).await, manifest());
    get(&format!("team/app/manifests/2?ns={two}")).await;
    get(&format!("team/more/manifests/1?ns={two}")).await;
    assert_eq!(get(&format!("team/app/blobs/{HELLO}?ns={two}")).await, "hello");
    // So are the lists, page by page.
    assert_eq!(get("team/app/tags/list").await, r#"{"name":"team/app","tags":["1"]}"#);
    assert_eq!(get(&format!("team/app/tags/list?ns={two}")).await, r#"{"name":"team/app","tags":["1","2"]}"#);
    assert_eq!(get("_catalog").await, r#"{"repositories":["team/app"]}"#);
    let page = ask("GET", &format!("{v2}/_catalog?n=1&ns={two}"), None, b"").await;
    assert_eq!(page.text, r#"{"repositories":["team/app"]}"#);
    let next = page.headers["link"].to_str().unwrap().split(['<', '>']).nth(1).unwrap().to_string();
    let page = ask("GET", &format!("http://{here}{next}"), None, b"").await;
    assert_eq!((page.text.as_str(), page.headers.get("link")), (r#"{"repositories":["team/more"]}"#, None));
    assert_eq!(ask("GET", &format!("{v2}/team/more/tags/list"), None, b"").await.status, 404);
    assert_eq!(ask("GET", &format!("{v2}/_catalog?ns=elsewhere"), None, b"").await.status, 404);
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_at_its_quota_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (there, _) = start(&dir.path().join("there"), |_| {}).await;
    let digest = |content: &[u8]| image::archive::compress::digest_of(content);
    let blobs: Vec<Vec<u8>> = (0..3u8).map(|n| vec![n; 400]).chain([vec![9; 2000]]).collect();
    for content in &blobs {
        let url = format!("http://{there}/v2/app/blobs/uploads/?digest={}", digest(content));
        assert_eq!(ask("POST", &url, None, content).await.status, 201);
    }
    assert_eq!(fill(&format!("http://{there}"), "app", None).await, 201);
    let upstream = UpstreamOptions { hosts: vec![there], ..UpstreamOptions::default() };
    let data = dir.path().join("here");
    let quota = Quota { total: Some(1000), repository: None };
    let (here, _) = start(&data, |o| (o.upstream, o.quota) = (Some(upstream), quota)).await;
    let url = |n: usize| format!("http://{here}/v2/app/blobs/{}", digest(&blobs[n]));
    let kept = || -> Vec<usize> {
        let lies = |n: &usize| data.join("blobs").join(digest(&blobs[*n]).replace(':', "/")).exists();
        (0..blobs.len()).filter(lies).collect()
    };
    // Who asks for the length alone makes nobody fetch the whole.
    let head = ask("HEAD", &url(0), None, b"").await;
    assert_eq!((head.status, head.headers["content-length"].to_str().unwrap()), (200, "400"));
    assert!(kept().is_empty());
    let get = async |n: usize| {
        let answer = ask("GET", &url(n), None, b"").await;
        assert_eq!((answer.status, answer.text.as_bytes()), (200, &*blobs[n]), "{n}");
    };
    for n in [0, 1, 0, 2] {
        get(n).await;
    }
    assert_eq!(kept(), [0, 2], "the one that nobody has read for longest is gone");
    // What never fits passes through, and takes nothing else's place.
    get(3).await;
    assert_eq!(kept(), [0, 2]);
    get(1).await;
    assert_eq!(kept(), [1, 2]);
    let manifest_url = format!("http://{here}/v2/app/manifests/1");
    assert_eq!(ask("GET", &manifest_url, None, b"").await.text, manifest());
}

/// A registry that sends the first half of its one blob, and the rest when it is told to. Counts how often it is asked.
async fn halting(
    content: Arc<Vec<u8>>,
    go_on: Arc<tokio::sync::Semaphore>,
    asked: Arc<std::sync::atomic::AtomicU32>,
) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (content, go_on, asked) = (content.clone(), go_on.clone(), asked.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                    if head == [0x16] {
                        // The greeting of TLS.
                        return Ok(());
                    }
                }
                let ping = head.starts_with(b"GET /v2/ ");
                let length = if ping { 0 } else { content.len() };
                let answer =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await?;
                if !ping {
                    asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let (first, rest) = content.split_at(content.len() / 2);
                    stream.write_all(first).await?;
                    go_on.acquire().await.unwrap().forget();
                    stream.write_all(rest).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_answers_while_it_fetches() {
    let dir = tempfile::tempdir().unwrap();
    let content = Arc::new((0..400_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    let (go_on, asked) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::default());
    let there = halting(content.clone(), go_on.clone(), Arc::clone(&asked)).await;
    let upstream = UpstreamOptions { hosts: vec![there], ..UpstreamOptions::default() };
    let (here, _) = start(&dir.path().join("here"), |o| o.upstream = Some(upstream)).await;
    let digest = image::archive::compress::digest_of(&content);
    let url = format!("http://{here}/v2/app/blobs/{digest}");
    let get = async |range: &str| {
        let request = http::Request::get(&url).header("host", &here).header("range", range);
        Client::new(&[], true).unwrap().send(request.body(full("")).unwrap()).await.unwrap()
    };
    // The first one goes away when it has seen something.
    let mut first = get("").await;
    assert_eq!(first.status(), 200);
    let seen = first.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(!seen.is_empty() && content.starts_with(&seen));
    drop(first);
    // Others have what is here already, and then the rest.
    let whole = get("").await;
    let part = get("bytes=1000-").await;
    assert_eq!((whole.status().as_u16(), part.status().as_u16()), (200, 206));
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
    go_on.add_permits(1);
    let (whole, part) = tokio::join!(whole.into_body().collect(), part.into_body().collect());
    assert!(whole.unwrap().to_bytes() == **content && part.unwrap().to_bytes() == content[1000..]);
    // Now it is kept.
    assert_eq!(get("").await.into_body().collect().await.unwrap().to_bytes().len(), content.len());
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
    // What is not what its digest says has no end.
    go_on.add_permits(1);
    let wrong = format!("http://{here}/v2/app/blobs/sha256:{}", "0".repeat(64));
    let request = http::Request::get(&wrong).header("host", &here).body(full("")).unwrap();
    let answer = Client::new(&[], true).unwrap().send(request).await.unwrap();
    assert!(answer.into_body().collect().await.is_err());
}

/// Whichever comes second passes through: the room is the first one's from its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_at_its_quota_breaks_nothing_off() {
    let dir = tempfile::tempdir().unwrap();
    let content = Arc::new((0..400_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    let (go_on, asked) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::default());
    let there = halting(content.clone(), go_on.clone(), Arc::clone(&asked)).await;
    let upstream = UpstreamOptions { hosts: vec![there], ..UpstreamOptions::default() };
    // For one, and for another beside what the halted one has sent.
    let quota = Quota { total: Some(content.len() as u64 * 7 / 4), repository: None };
    let (here, _) =
        start(&dir.path().join("here"), |o| (o.upstream, o.quota) = (Some(upstream), quota)).await;
    let digest = image::archive::compress::digest_of(&content);
    let get = async |name: &str| {
        let request = http::Request::get(format!("http://{here}/v2/{name}/blobs/{digest}"));
        let request = request.header("host", &here).body(full("")).unwrap();
        Client::new(&[], true).unwrap().send(request).await.unwrap()
    };
    let mut first = get("one").await;
    first.body_mut().frame().await.unwrap().unwrap();
    let second = get("other").await;
    go_on.add_permits(2);
    let (first, second) = tokio::join!(first.into_body().collect(), second.into_body().collect());
    assert!(first.is_ok() && second.unwrap().to_bytes() == **content);
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2);
    // The first one was kept, and takes no more room than it has.
    assert_eq!(get("one").await.into_body().collect().await.unwrap().to_bytes().len(), content.len());
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_with_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let access = Access { users: Some(users(dir.path())), rules: Some(rules()), tokens: None };
    let (there, _) = start(&dir.path().join("there"), |o| o.access = Some(access)).await;
    let ann = basic("ann", "ann-password");
    assert_eq!(fill(&format!("http://{there}"), "team/app", Some(&ann)).await, 201);
    let (open, _) = start(&dir.path().join("open"), |_| {}).await;
    assert_eq!(fill(&format!("http://{open}"), "app", None).await, 201);
    let file = dir.path().join("config.json");
    let login = |who: &str| {
        let auth = basic(who, &format!("{who}-password")).replace("Basic ", "");
        std::fs::write(&file, format!(r#"{{"auths":{{"{there}":{{"auth":"{auth}"}}}}}}"#)).unwrap();
    };
    login("eve");
    let hosts = vec![there.clone(), open.clone()];
    let upstream = UpstreamOptions { hosts, logins: Some(file.clone()), ..UpstreamOptions::default() };
    let (here, _) = start(&dir.path().join("here"), |o| o.upstream = Some(upstream)).await;
    let get = async |path: &str| ask("GET", &format!("http://{here}/v2/{path}"), None, b"").await;
    assert_eq!(get("team/app/manifests/1").await.status, 502);
    // Whoever has logged in since needs no restart.
    login("ann");
    assert_eq!(get("team/app/manifests/1").await.text, manifest());
    assert_eq!(get(&format!("team/app/blobs/{HELLO}")).await.text, "hello");
    assert_eq!(get(&format!("app/manifests/1?ns={open}")).await.text, manifest(), "which asks for none");
}
