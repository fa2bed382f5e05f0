//! A webhook's server: answers each posted document by a function, and remembers what it was asked.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use api::Value;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

type Answer = dyn Fn(&Value) -> Value + Send + Sync;

/// A running webhook; it ends with its test.
pub struct Hook {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hook {
    pub async fn start(
        pki: &Arc<pki::Pki>,
        answer: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        let (_, at_once) = tokio::sync::watch::channel(true);
        Self::start_slow(pki, at_once, answer).await
    }

    /// One that remembers at once what it is asked, and answers when it is released.
    pub async fn start_slow(
        pki: &Arc<pki::Pki>,
        released: tokio::sync::watch::Receiver<bool>,
        answer: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        let mut tls =
            pki.server_config("hook", &[], &[IpAddr::from([127, 0, 0, 1])], pki::ClientAuth::None).unwrap();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (remembered, answer): (_, Arc<Answer>) = (asked.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, asked, answer, released) =
                    (acceptor.clone(), remembered.clone(), answer.clone(), released.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let (asked, answer, mut released) = (asked.clone(), answer.clone(), released.clone());
                        async move {
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            let value: Value = serde_json::from_slice(&body).unwrap();
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
        Self { address, asked, task }
    }

    /// What `clientConfig` leads here; the authority is the cluster's, so none is named.
    pub fn config(&self, path: &str) -> Value {
        serde_json::json!({"url": format!("https://{}/{path}", self.address)})
    }

    /// What it was asked since the last call.
    pub fn asked(&self) -> Vec<Value> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}
