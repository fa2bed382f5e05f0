//! Documents about the server: discovery, OpenAPI, version, health, metrics, token issuer.
//!
//! Discovery and OpenAPI documents are made when first asked for and kept until the set of kinds changes, unless they have
//! nothing of what may change. Large ones are made one at a time, beside the threads that answer requests, and kept compressed
//! only, which is what nearly everybody asks for.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::openapi::{Docs, NoDocs};
use api::{Status, Value, discovery, openapi};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::ApiServer;
use crate::body::Body;
use crate::negotiate::{Form, Offer, accept};
use crate::path::Route;
use crate::pipeline::Call;
use crate::registry::reply;
use crate::resource::Kinds;

/// What was made once is kept compressed, and if it is small plain as well.
#[derive(Clone)]
struct Document {
    media: &'static str,
    etag: String,
    size: usize,
    plain: Option<Bytes>,
    gzip: Bytes,
}

/// Up to which size a document is kept plain: those that are larger are megabytes, and hardly any client takes them plain.
const SMALL: usize = 64 << 10;

impl Document {
    fn unpacked(&self) -> Result<Bytes, Status> {
        let mut plain = Vec::with_capacity(self.size);
        flate2::read::GzDecoder::new(&*self.gzip).read_to_end(&mut plain).map_err(Status::internal)?;
        Ok(plain.into())
    }
}

/// What ends the names of documents that stay as they are whatever is served besides.
const LASTING: char = '?';

/// The documents made so far.
#[derive(Default)]
pub struct Documents {
    made: Mutex<Made>,
    /// Held while a large one is made, so that whoever asks for it meanwhile waits for that and no other is made.
    making: tokio::sync::Mutex<()>,
}

/// What there is, and how often all was forgotten: what was begun before the last time is not kept.
#[derive(Default)]
struct Made {
    epoch: u64,
    documents: HashMap<String, Document>,
}

impl Documents {
    /// Forgets all that may be other ones, because the set of kinds has changed.
    pub fn clear(&self) {
        let mut made = self.made.lock();
        made.epoch += 1;
        made.documents.retain(|key, _| key.ends_with(LASTING));
    }

    fn epoch(&self) -> u64 {
        self.made.lock().epoch
    }

    fn get(&self, key: &str) -> Option<Document> {
        self.made.lock().documents.get(key).cloned()
    }

    /// Keeps a document, if nothing it was made of has changed since `epoch`.
    fn keep(&self, epoch: u64, key: &str, media: &'static str, plain: Vec<u8>) -> Result<Document, Status> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(3));
        let gzip = encoder.write_all(&plain).and_then(|()| encoder.finish()).map_err(Status::internal)?;
        let (etag, size) = (etag(&plain), plain.len());
        let plain = (size <= SMALL).then(|| plain.into());
        let d = Document { media, etag, size, plain, gzip: gzip.into() };
        let mut made = self.made.lock();
        if made.epoch == epoch {
            made.documents.insert(key.to_owned(), d.clone());
        }
        Ok(d)
    }
}
/// How long a store may take to answer that it is well, as upstream's.
const STORE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
const JSON: &str = "application/json";
/// What it was built of, if the build says so, else git's name for no commit. Clients expect hexadecimal digits.
const COMMIT: &str = match option_env!("TUG_COMMIT") {
    Some(commit) => commit,
    None => "0000000000000000000000000000000000000000",
};
const OPENAPI_PROTO: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

fn takes_gzip(call: &Call) -> bool {
    call.header("accept-encoding").contains("gzip")
}

/// Whether the client has a document already.
fn is_known(call: &Call, document: &Document) -> bool {
    call.header("if-none-match").contains(&document.etag)
}

fn wants_unpacked(call: &Call, document: &Document) -> bool {
    document.plain.is_none() && !takes_gzip(call) && !is_known(call, document)
}

fn etag(bytes: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(bytes))
}

impl ApiServer {
    /// A list of groups with those of other servers, all in their order.
    fn with_more(&self, mut document: Value, field: &str, more: Vec<Value>) -> Value {
        if let Some(list) = document.get_mut(field).and_then(Value::as_array_mut) {
            list.extend(more);
            *list = self.priorities().arrange(std::mem::take(list), field == "items");
        }
        document
    }

    /// Answers a request that is not about a resource.
    pub(crate) async fn document(
        self: &Arc<Self>,
        call: Call,
        route: Route,
    ) -> Result<Response<Body>, Status> {
        let path = call.info.path.trim_end_matches('/').to_owned();
        let method = call.request.method();
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Status::method_not_allowed());
        }
        let epoch = self.documents.epoch();
        let kinds = self.kinds.load_full();
        match route {
            Route::Versions | Route::Groups => {
                let core = route == Route::Versions;
                let form = accept(call.header("accept"), Offer::Discovery)?.form;
                let address = format!("{}:{}", self.options.instance.node_ip, self.address.port());
                let made = self.made(&call, epoch, &format!("{path} {form:?}"), || {
                    Some(match (&form, core) {
                        (Form::Discovery(v), core) => {
                            let document = discovery::aggregated(&kinds.all, core, v);
                            let more = || self.remote_discovery();
                            if core { document } else { self.with_more(document, "items", more()) }
                        }
                        (_, true) => discovery::api_versions(&address),
                        (_, false) => {
                            let document = discovery::api_group_list(&kinds.all);
                            self.with_more(document, "groups", self.remote_groups())
                        }
                    })
                });
                let mut response = made?;
                if let Form::Discovery(v) = form {
                    let media =
                        format!("application/json;g=apidiscovery.k8s.io;v={v};as=APIGroupDiscoveryList");
                    if let Ok(value) = HeaderValue::from_str(&media) {
                        response.headers_mut().insert(header::CONTENT_TYPE, value);
                    }
                }
                response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
                Ok(response)
            }
            Route::Group => {
                let group = call.info.group.clone();
                self.made(&call, epoch, &path, || {
                    let mut found: Vec<Value> =
                        discovery::api_group(&kinds.all, &group).into_iter().collect();
                    found.extend(self.remote_groups().into_iter().filter(|g| g["name"] == group.as_str()));
                    let mut found = self.priorities().arrange(found, false).pop()?;
                    found["kind"] = json!("APIGroup");
                    found["apiVersion"] = json!("v1");
                    Some(found)
                })
            }
            Route::Version if kinds.is_elsewhere(&call.info.group, &call.info.version) => {
                self.elsewhere(call).await
            }
            Route::Version => {
                let made = self.made(&call, epoch, &path, || {
                    discovery::api_resource_list(&kinds.all, &call.info.group, &call.info.version)
                });
                match made {
                    Err(status) if status.code == 404 => self.elsewhere(call).await,
                    answer => answer,
                }
            }
            _ => {
                // What is described elsewhere is asked for there.
                if let Some(["apis", group, version]) =
                    path.strip_prefix("/openapi/v3/").map(|p| p.split('/').collect::<Vec<_>>()).as_deref()
                    && (kinds.is_elsewhere(group, version)
                        || !kinds.all.iter().any(|k| k.served(group, version).is_some_and(|v| v.served)))
                {
                    let (group, version) = ((*group).to_owned(), (*version).to_owned());
                    return self.described_elsewhere(call, &group, &version).await;
                }
                self.other(&call, epoch, &path, &kinds).await
            }
        }
    }

    async fn other(
        self: &Arc<Self>,
        call: &Call,
        epoch: u64,
        path: &str,
        kinds: &Kinds,
    ) -> Result<Response<Body>, Status> {
        match path {
            "" => self.made(call, epoch, "", || Some(json!({"paths": self.paths(&kinds.all)}))),
            "/version" => Ok(reply(StatusCode::OK, JSON, api::object::encode(&self.version_info()))),
            "/openapi/v2" => {
                // Read when it is made: what comes later forgets the document again.
                let server = self.clone();
                let others = move || server.remote.documents();
                if call.header("accept").contains("proto-openapi") {
                    let make = move |kinds: &[Arc<api::Kind>], docs: &dyn Docs| {
                        Some(openapi::v2_protobuf(kinds, docs, &others()))
                    };
                    return self.made_apart(call, "/openapi/v2 proto", OPENAPI_PROTO, make).await;
                }
                let make = move |kinds: &[Arc<api::Kind>], docs: &dyn Docs| {
                    Some(openapi::v2(kinds, docs, &others()))
                };
                self.made_apart(call, path, JSON, make).await
            }
            "/openapi/v3" => self.made(call, epoch, path, || {
                // The version, the kinds that are built in and the state of its definitions are all that a document depends on.
                let names: Vec<String> = kinds.built_in().iter().map(|k| k.gvk().to_string()).collect();
                let seed = etag(format!("{}{}", self.version(), names.join(",")).as_bytes());
                let stamps = kinds.stamps();
                let mut index = openapi::v3_index(&kinds.all, &|path| {
                    let stamp = path.strip_prefix("apis/").and_then(|gv| stamps.get(gv));
                    etag(format!("{seed}{path}{}", stamp.map_or("", String::as_str)).as_bytes())
                });
                if let Some(paths) = index["paths"].as_object_mut() {
                    for (path, entry) in self.remote_index() {
                        paths.entry(path).or_insert(entry);
                    }
                }
                Some(index)
            }),
            "/metrics" => {
                let text = self.render_metrics().await;
                Ok(reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
            }
            "/.well-known/openid-configuration" => {
                let issuer = self.authenticator.issuer();
                let address = format!("https://{}:{}", self.options.instance.node_ip, self.address.port());
                let value = json!({"issuer": issuer, "jwks_uri": format!("{address}/openid/v1/jwks"),
                    "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"]});
                Ok(reply(StatusCode::OK, JSON, api::object::encode(&value)))
            }
            "/openid/v1/jwks" => {
                let keys = self.options.pki.key_set().document();
                Ok(reply(StatusCode::OK, "application/jwk-set+json", api::object::encode(&keys)))
            }
            _ => {
                if let Some(rest) = path.strip_prefix("/openapi/v3/").map(str::to_owned) {
                    // What is made of definitions is that of their state.
                    let (about, below) =
                        (rest.trim_start_matches("apis/"), format!("{}/", rest.trim_start_matches("apis/")));
                    let mut stamps: Vec<(String, String)> = kinds.stamps().into_iter().collect();
                    stamps.retain(|(version, _)| version == about || version.starts_with(&below));
                    stamps.sort();
                    let stamps: String = stamps.into_iter().map(|(_, stamp)| stamp).collect();
                    let key = format!("{path}{LASTING}{stamps}");
                    let make =
                        move |kinds: &[Arc<api::Kind>], docs: &dyn Docs| openapi::v3(kinds, &rest, docs);
                    return self.made_apart(call, &key, JSON, make).await;
                }
                for root in ["/healthz", "/livez", "/readyz"] {
                    if path == root || path.strip_prefix(root).is_some_and(|r| r.starts_with('/')) {
                        return self.health(call, root, path).await;
                    }
                }
                Err(Status::no_such_path())
            }
        }
    }

    /// A small document.
    fn made(
        &self,
        call: &Call,
        epoch: u64,
        key: &str,
        make: impl FnOnce() -> Option<Value>,
    ) -> Result<Response<Body>, Status> {
        let mut document = match self.documents.get(key) {
            Some(d) => d,
            None => {
                let value = make().ok_or_else(Status::no_such_path)?;
                self.documents.keep(epoch, key, JSON, api::object::encode(&value))?
            }
        };
        if wants_unpacked(call, &document) {
            document.plain = Some(document.unpacked()?);
        }
        Ok(self.send(call, document))
    }

    /// A large document, which takes its time.
    async fn made_apart(
        self: &Arc<Self>,
        call: &Call,
        key: &str,
        media: &'static str,
        make: impl FnOnce(&[Arc<api::Kind>], &dyn Docs) -> Option<Vec<u8>> + Send + 'static,
    ) -> Result<Response<Body>, Status> {
        if let Some(document) = self.documents.get(key) {
            return self.send_large(call, document).await;
        }
        let one = self.documents.making.lock().await;
        if let Some(document) = self.documents.get(key) {
            return self.send_large(call, document).await;
        }
        let (server, name) = (self.clone(), key.to_owned());
        let work = move || {
            let epoch = server.documents.epoch();
            let kinds = server.kinds.load_full();
            let docs: &dyn Docs = match &server.options.docs {
                Some(docs) => &**docs,
                None => &NoDocs,
            };
            let bytes = make(&kinds.all, docs).ok_or_else(Status::no_such_path)?;
            server.documents.keep(epoch, &name, media, bytes)
        };
        let document = tokio::task::spawn_blocking(work).await.map_err(Status::internal)??;
        drop(one);
        self.send_large(call, document).await
    }

    /// Sends a document that may have to be unpacked first, beside the threads that answer requests.
    async fn send_large(&self, call: &Call, mut document: Document) -> Result<Response<Body>, Status> {
        if wants_unpacked(call, &document) {
            let packed = document.clone();
            let plain = tokio::task::spawn_blocking(move || packed.unpacked());
            document.plain = Some(plain.await.map_err(Status::internal)??);
        }
        Ok(self.send(call, document))
    }

    fn send(&self, call: &Call, document: Document) -> Response<Body> {
        let quoted = format!("\"{}\"", document.etag);
        let mut response = if is_known(call, &document) {
            let mut r = Response::new(Body::default());
            *r.status_mut() = StatusCode::NOT_MODIFIED;
            r
        } else {
            match document.plain {
                Some(plain) if plain.len() <= 1024 || !takes_gzip(call) => {
                    reply(StatusCode::OK, document.media, plain)
                }
                _ => {
                    let mut r = reply(StatusCode::OK, document.media, document.gzip);
                    r.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                    r
                }
            }
        };
        if let Ok(value) = HeaderValue::from_str(&quoted) {
            response.headers_mut().insert(header::ETAG, value);
        }
        // What is asked for by its hash never changes.
        if call.query.get("hash").is_some() {
            let forever = HeaderValue::from_static("public, immutable");
            response.headers_mut().insert(header::CACHE_CONTROL, forever);
        }
        response
    }

    fn paths(&self, kinds: &[Arc<api::Kind>]) -> Vec<String> {
        let mut paths: Vec<String> = [
            "/.well-known/openid-configuration",
            "/api",
            "/api/v1",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned)
        .to_vec();
        for v in kinds.iter().flat_map(|k| &k.versions).filter(|v| !v.group.is_empty() && v.served) {
            paths.push(format!("/apis/{}", v.group));
            paths.push(format!("/apis/{}/{}", v.group, v.version));
        }
        paths.sort();
        paths.dedup();
        paths
    }

    fn version_info(&self) -> Value {
        let version = self.version();
        let release = self.options.release;
        let (major, minor) = (release.major().to_string(), release.minor().to_string());
        json!({
            "major": major, "minor": minor, "emulationMajor": major, "emulationMinor": minor,
            "minCompatibilityMajor": major, "minCompatibilityMinor": minor,
            "gitVersion": version, "gitCommit": COMMIT, "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "none (rust)", "compiler": "rustc", "platform": format!("linux/{}", architecture()),
        })
    }

    async fn health(&self, call: &Call, root: &str, path: &str) -> Result<Response<Body>, Status> {
        let mut checks: Vec<(&str, Option<String>)> = vec![("ping", None)];
        let store = tokio::time::timeout(STORE_PATIENCE, self.cache.store().revision()).await;
        let store = match store {
            Ok(asked) => asked.err().map(|e| e.to_string()),
            Err(_) => Some(format!("the store has not answered within {STORE_PATIENCE:?}")),
        };
        checks.push(("etcd", store.clone()));
        checks.push(("poststarthook/start-kube-apiserver-admission-initializer", None));
        if root != "/livez" {
            let ready = self.ready.load(Ordering::Acquire);
            checks.push(("poststarthook/rbac/bootstrap-roles", (!ready).then(|| "not finished".to_owned())));
            checks.push(("informer-sync", None));
        }
        if root == "/readyz" {
            checks.push(("etcd-readiness", store));
            let stopping = self.shutdown.is_cancelled();
            checks.push(("shutdown", stopping.then(|| "process is shutting down".to_owned())));
        }
        let kind = root.trim_start_matches('/');
        let one = path.strip_prefix(root).map(|p| p.trim_matches('/')).unwrap_or("");
        if !one.is_empty() {
            let Some((_, failure)) = checks.iter().find(|(n, _)| *n == one) else {
                return Err(Status::no_such_path());
            };
            self.metrics.health.checked(one, kind, failure.is_none());
            return Ok(match failure {
                None => reply(StatusCode::OK, "text/plain; charset=utf-8", "ok"),
                Some(why) => reply(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "text/plain; charset=utf-8",
                    format!("internal server error: {why}\n"),
                ),
            });
        }
        let excluded: Vec<&str> = call.query.all("exclude").collect();
        let mut failed = false;
        let mut text = String::new();
        for (name, failure) in &checks {
            if excluded.contains(name) {
                text.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            self.metrics.health.checked(name, kind, failure.is_none());
            if failure.is_some() {
                failed = true;
                text.push_str(&format!("[-]{name} failed: reason withheld\n"));
            } else {
                text.push_str(&format!("[+]{name} ok\n"));
            }
        }
        let mut unknown: Vec<String> = excluded
            .iter()
            .filter(|e| !checks.iter().any(|(name, _)| name == *e))
            .map(|e| format!("\"{}\"", e.escape_debug()))
            .collect();
        if !unknown.is_empty() {
            unknown.sort();
            let unknown = unknown.join(",");
            text.push_str(&format!(
                "warn: some health checks cannot be excluded: no matches for {unknown}\n"
            ));
        }
        if failed {
            text.push_str(&format!("{kind} check failed\n"));
            return Ok(reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", text));
        }
        if call.query.get("verbose").is_some() {
            text.push_str(&format!("{kind} check passed\n"));
            return Ok(reply(StatusCode::OK, "text/plain; charset=utf-8", text));
        }
        Ok(reply(StatusCode::OK, "text/plain; charset=utf-8", "ok"))
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
