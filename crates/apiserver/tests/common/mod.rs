//! A whole API server on a store in memory, and calls of it without a socket.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it; a test fails by panicking"
)]

pub mod hook;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use api::Value;
use apiserver::{ApiServer, Options, UserInfo};
use base::Instance;
use bytes::Bytes;
use client::{Client, Transport};
use http::{Method, Request, Response};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// A running server; it stops when this is dropped.
pub struct Cluster {
    pub server: Arc<ApiServer>,
    pub admin: Client,
    pub pki: Arc<pki::Pki>,
    pub store: Arc<dyn store::Store>,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// The answer to a raw call.
pub struct Answer {
    pub code: u16,
    pub value: Value,
    pub response: Response<Bytes>,
}

impl Answer {
    pub fn message(&self) -> &str {
        self.value["message"].as_str().unwrap_or("")
    }

    pub fn header(&self, name: &str) -> &str {
        self.response.headers().get(name).map_or("", |v| v.to_str().unwrap())
    }
}

pub fn instance(dir: &Path) -> Instance {
    Instance::new(dir, &dir.join("run"), "node", IpAddr::from([127, 0, 0, 1]))
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(store::memory()).await
    }

    pub async fn start_with(store: Arc<dyn store::Store>) -> Self {
        Self::start_as(store, |_| {}).await
    }

    pub async fn start_as(store: Arc<dyn store::Store>, set: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = pki::Pki::open(&dir.path().join("pki")).unwrap();
        Self::start_in(dir, store, pki, set).await.unwrap()
    }

    pub async fn start_in(
        dir: tempfile::TempDir,
        store: Arc<dyn store::Store>,
        pki: Arc<pki::Pki>,
        set: impl FnOnce(&mut Options),
    ) -> Result<Self, apiserver::Error> {
        let mut options = Options::new(instance(dir.path()), store.clone(), pki.clone());
        options.listen = ([127, 0, 0, 1], 0).into();
        set(&mut options);
        let shutdown = CancellationToken::new();
        let server = ApiServer::start(options, shutdown.clone()).await?;
        let admin = Client::new(server.transport(UserInfo::master("admin")));
        Ok(Self { server, admin, pki, store, shutdown, _dir: dir })
    }

    /// Over the socket, without credentials.
    pub async fn nobody(&self) -> Arc<dyn Transport> {
        let endpoint = client::Endpoint {
            server: format!("https://127.0.0.1:{}", self.server.address().port()),
            ca_pem: self.pki.ca_pem().to_owned(),
            ..client::Endpoint::default()
        };
        Arc::new(client::Https::new(&endpoint).unwrap())
    }

    pub fn as_user(&self, user: UserInfo) -> Arc<dyn Transport> {
        self.server.transport(user)
    }

    /// A call as the administrator.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        call(self.admin.transport(), method, path, headers, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], "").await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, JSON, body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, JSON, body.to_string()).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        let media = format!("application/{kind}");
        self.call(Method::PATCH, path, &[("content-type", &media)], body.to_string()).await
    }
}

pub const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

pub async fn call(
    transport: &Arc<dyn Transport>,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("user-agent", "test/1.0");
    for (k, v) in headers {
        request = request.header(*k, *v);
    }
    let response = transport.call(request.body(body.into()).unwrap()).await.unwrap();
    let value = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    Answer { code: response.status().as_u16(), value, response }
}

/// Creates an object, which must succeed.
pub async fn made(c: &Cluster, path: &str, object: Value) -> Value {
    let answer = c.post(path, object).await;
    assert_eq!(answer.code, 201, "{}", answer.value);
    answer.value
}

/// Makes the service account that pods run as.
pub async fn account(c: &Cluster) -> Value {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    made(c, "/api/v1/namespaces/default/serviceaccounts", account).await
}

/// A pod of one container, and what its spec says besides.
pub fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "a", "image": "b"}]}});
    api::patch::merge_patch(&mut pod["spec"], &spec);
    pod
}
