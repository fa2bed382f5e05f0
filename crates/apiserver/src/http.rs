//! The socket: TCP, TLS with optional client certificates, HTTP/1.1 and HTTP/2, one task per connection.
//!
//! It hands every request to [`crate::pipeline`] with what the connection says about its peer, and ends connections
//! gracefully when the server shuts down.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ApiServer;
use crate::pipeline::{Payload, Peer, Shown};
use crate::user::{CREDENTIAL_ID, UserInfo};

/// A handshake that takes longer is given up, so that silent peers cost nothing. No event tells that nothing will come.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(10);

/// The most that a request's line and headers may take, as upstream: a token with many groups in it is long.
const MAX_HEAD: u32 = 1 << 20;

/// Serves `listener` until `shutdown`.
pub async fn serve(
    server: Arc<ApiServer>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                if let Err(error) = stream.set_nodelay(true).and_then(|()| sockets::keep_alive(&stream)) {
                    tracing::debug!(%address, %error, "a connection's options");
                }
                let (server, acceptor, shutdown) = (server.clone(), acceptor.clone(), shutdown.clone());
                connections.spawn(async move {
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => return connection(server, stream, address, shutdown).await,
                        Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                        Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
                    }
                    server.metrics.handshakes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                });
            }
            Err(error) => {
                sockets::accept_failed("the API server", &error).await;
            }
        }
    }
    connections.close();
    // Connections were told; streams that do not end by themselves are dropped with their tasks.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), connections.wait()).await;
}

async fn connection(
    server: Arc<ApiServer>,
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    address: SocketAddr,
    shutdown: CancellationToken,
) {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let shown = match chain {
        [] => Shown::Nothing,
        chain => match server.clients.judge(chain) {
            Ok(None) => Shown::Nothing,
            Ok(Some(shown)) => {
                let groups: Vec<&str> = shown.groups.iter().map(String::as_str).collect();
                let mut user = UserInfo::new(&shown.user, &groups);
                user.uid = shown.uid;
                user.extra.insert(CREDENTIAL_ID.into(), vec![format!("X509SHA256={}", shown.digest)]);
                Shown::User(Arc::new(user), Some(shown.until))
            }
            Err(error) => {
                tracing::debug!(%address, %error, "client certificate not believed");
                Shown::NoGood
            }
        },
    };
    let peer = Peer { shown, address: Some(address) };
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        async move {
            let request = request.map(Payload::Incoming);
            Ok::<_, std::convert::Infallible>(server.carry_out(request, peer).await)
        }
    });
    let builder = protocols();
    let connection = builder.serve_connection_with_upgrades(sockets::patient(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection ended");
    }
}

/// What is spoken on a connection, and within which bounds.
fn protocols() -> auto::Builder<TokioExecutor> {
    let mut builder = sockets::http();
    builder
        .http2()
        .max_concurrent_streams(1000)
        .initial_stream_window_size(1 << 20)
        .max_frame_size(1 << 18)
        .max_header_list_size(MAX_HEAD);
    builder.http1().half_close(false).max_buf_size(MAX_HEAD as usize);
    builder
}

#[cfg(test)]
mod tests {
    use http::{Request, Response, StatusCode};
    use http_body_util::Empty;
    use hyper_util::rt::TokioIo;

    use super::*;

    type Sent = Request<Empty<bytes::Bytes>>;

    fn with_head_of(size: usize) -> Sent {
        let request = Request::get("http://localhost/").header("authorization", "x".repeat(size));
        request.body(Empty::new()).unwrap()
    }

    #[tokio::test]
    async fn heads_may_be_long() {
        let serve = || {
            let (near, far) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move {
                let service = service_fn(|_| async {
                    Ok::<_, std::convert::Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
                });
                let _ = protocols().serve_connection_with_upgrades(TokioIo::new(far), service).await;
            });
            TokioIo::new(near)
        };
        for (size, want) in
            [(900 << 10, StatusCode::OK), (1100 << 10, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)]
        {
            let (mut two, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), serve()).await.unwrap();
            tokio::spawn(connection);
            assert_eq!(two.send_request(with_head_of(size)).await.unwrap().status(), want, "HTTP/2: {size}");
        }
        let (mut one, connection) = hyper::client::conn::http1::handshake(serve()).await.unwrap();
        tokio::spawn(connection);
        assert_eq!(one.send_request(with_head_of(900 << 10)).await.unwrap().status(), StatusCode::OK);
    }
}
