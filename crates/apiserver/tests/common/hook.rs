//! A webhook's server: answers each posted document by a function, and remembers what it was asked.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use api::Value;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

type Answer = dyn Fn(&Value) -> Value + Send + Sync;

/// A running webhook; it ends, and its connections with it, with its test.
pub struct Hook {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Value>>>,
    accepted: Arc<AtomicUsize>,
    open: watch::Receiver<usize>,
    hang_up: watch::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection, as long as it is open.
struct Open(watch::Sender<usize>);

impl Open {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|n| *n += 1);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl Hook {
    pub async fn start(
        pki: &Arc<pki::Pki>,
        answer: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        let (_, at_once) = watch::channel(true);
        Self::start_slow(pki, at_once, answer).await
    }

    /// One that remembers at once what it is asked, and answers when it is released.
    pub async fn start_slow(
        pki: &Arc<pki::Pki>,
        released: watch::Receiver<bool>,
        answer: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(pki, IpAddr::from([127, 0, 0, 1]), released, answer).await
    }

    /// One at another address of this machine.
    pub async fn start_at(
        pki: &Arc<pki::Pki>,
        ip: IpAddr,
        released: watch::Receiver<bool>,
        answer: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        // The names that services of the tests have, and the address of those that have none.
        let names = ["hook.default.svc".to_owned()];
        let mut tls = pki
            .server_config("hook", &names, &[IpAddr::from([127, 0, 0, 1])], pki::ClientAuth::None)
            .unwrap();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (remembered, answer): (_, Arc<Answer>) = (asked.clone(), Arc::new(answer));
        let accepted: Arc<AtomicUsize> = Arc::default();
        let counted = accepted.clone();
        let (count, open) = watch::channel(0);
        let (hang_up, mut hung_up) = watch::channel(());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    _ = hung_up.changed() => {
                        connections.abort_all();
                        continue;
                    }
                };
                counted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, asked, answer, released, open) = (
                    acceptor.clone(),
                    remembered.clone(),
                    answer.clone(),
                    released.clone(),
                    Open::new(&count),
                );
                connections.spawn(async move {
                    let _open = open;
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let (asked, answer, mut released) = (asked.clone(), answer.clone(), released.clone());
                        async move {
                            let path = request.uri().path().to_owned();
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            // A read has no document: what is asked is the path.
                            let value: Value =
                                serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(path));
                            asked.lock().unwrap().push(value.clone());
                            let _ = released.wait_for(|r| *r).await;
                            let reply = answer(&value);
                            Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(
                                reply.to_string(),
                            ))))
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, asked, accepted, open, hang_up, task }
    }

    /// What `clientConfig` leads here; the authority is the cluster's, so none is named.
    pub fn config(&self, path: &str) -> Value {
        serde_json::json!({"url": format!("https://{}/{path}", self.address)})
    }

    /// What it was asked since the last call.
    pub fn asked(&self) -> Vec<Value> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// How often it was asked since the last call of [`asked`](Self::asked).
    pub fn asked_so_far(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// How many connections were made to it.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Waits until so many connections are open.
    pub async fn holds(&self, connections: usize) {
        let mut open = self.open.clone();
        let settled = open.wait_for(|n| *n == connections);
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), settled).await;
        assert!(waited.is_ok(), "{} connections are open, not {connections}", *self.open.borrow());
    }

    /// Ends all connections.
    pub async fn hang_up(&self) {
        self.hang_up.send_replace(());
        self.holds(0).await;
    }
}

/// v1 has `hostPort`, v2 has `host` and `port`, as in the original's own test.
fn converted(object: &Value, to: &str) -> Value {
    let mut out = object.clone();
    out["apiVersion"] = json!(to);
    let map = out.as_object_mut().unwrap();
    if to.ends_with("/v2") {
        if let Some(Value::String(both)) = map.shift_remove("hostPort") {
            let (host, port) = both.split_once(':').unwrap();
            map.insert("host".into(), json!(host));
            map.insert("port".into(), json!(port));
        }
    } else if let (Some(host), Some(port)) = (map.shift_remove("host"), map.shift_remove("port")) {
        map.insert(
            "hostPort".into(),
            json!(format!("{}:{}", host.as_str().unwrap(), port.as_str().unwrap())),
        );
    }
    out
}

/// Answers a ConversionReview of such objects.
pub fn addresses_converted(review: &Value) -> Value {
    let request = &review["request"];
    let to = request["desiredAPIVersion"].as_str().unwrap();
    let objects: Vec<Value> =
        request["objects"].as_array().unwrap().iter().map(|o| converted(o, to)).collect();
    json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"],
        "response": {"uid": request["uid"], "convertedObjects": objects, "result": {"status": "Success"}}})
}

/// An answer to a review, which allows it if `response` says nothing else.
pub fn reviewed(review: &Value, response: Value) -> Value {
    let mut all = json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"],
        "response": {"uid": review["request"]["uid"], "allowed": true}});
    api::patch::merge_patch(&mut all["response"], &response);
    all
}

/// Registers a webhook, `NAME.example.com`.
pub async fn hooks(c: &super::Cluster, mutating: bool, name: &str, hook: &Hook, rules: Value, more: Value) {
    let resource = if mutating { "mutatingwebhookconfigurations" } else { "validatingwebhookconfigurations" };
    let kind = if mutating { "MutatingWebhookConfiguration" } else { "ValidatingWebhookConfiguration" };
    let mut one = json!({"name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"],
        "sideEffects": "None", "clientConfig": hook.config("admit"), "rules": [rules]});
    api::patch::merge_patch(&mut one, &more);
    let all = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": [one]});
    let made = c.post(&format!("/apis/admissionregistration.k8s.io/v1/{resource}"), all).await;
    assert_eq!(made.code, 201, "{}", made.value);
}

/// Every operation on a resource.
pub fn rule(group: &str, version: &str, resource: &str) -> Value {
    json!({"apiGroups": [group], "apiVersions": [version], "operations": ["*"], "resources": [resource]})
}
