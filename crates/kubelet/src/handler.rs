//! What probes and lifecycle hooks do: a command in the container, an HTTP request, a connection, a gRPC health check.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use runtime::{ExecSpec, Runtime};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::spec::exec_process;
use crate::view::{Container, Grpc, Handler, HttpGet};

/// The most that is kept of a command's output or an answer's body, as upstream.
const MAX_OUTPUT: usize = 10 * 1024;

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well; with what was said.
    Success(String),
    /// Not well; why.
    Failure(String),
}

/// Where a handler acts.
pub struct Target<'a> {
    /// The runtime.
    pub runtime: &'a Arc<dyn Runtime>,
    /// The container's id.
    pub id: &'a str,
    /// The container, whose port names count.
    pub container: &'a Container,
    /// The pod's address (the node's for pods of the machine's network).
    pub ip: IpAddr,
    /// `kube-probe` or `kube-lifecycle`, for the User-Agent.
    pub agent: &'static str,
}

/// Does it once; what takes longer than `timeout` fails.
pub async fn run(target: &Target<'_>, handler: &Handler, timeout: Duration) -> Outcome {
    if let Some(sleep) = &handler.sleep {
        // A timer, because that is what was asked for.
        tokio::time::sleep(Duration::from_secs(sleep.seconds)).await;
        return Outcome::Success(String::new());
    }
    if let Some(exec) = &handler.exec {
        return command(target, &exec.command, timeout).await;
    }
    let work = async {
        if let Some(get) = &handler.http_get {
            http_get(target, get).await
        } else if let Some(tcp) = &handler.tcp_socket {
            let port = port(&tcp.port, target.container)?;
            connect(&tcp.host, target.ip, port).await.map(|_| String::new())
        } else if let Some(grpc) = &handler.grpc {
            health(target, grpc).await
        } else {
            Err("no handler specified".into())
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(text)) => Outcome::Success(text),
        Ok(Err(text)) => Outcome::Failure(text),
        Err(_) => Outcome::Failure(timed_out(handler, target, timeout)),
    }
}

fn timed_out(handler: &Handler, target: &Target<'_>, timeout: Duration) -> String {
    match &handler.http_get {
        Some(get) => match url(target, get) {
            Ok((url, ..)) => format!(
                "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            ),
            Err(e) => e,
        },
        None => format!("timeout after {timeout:?}"),
    }
}

async fn command(target: &Target<'_>, command: &[String], timeout: Duration) -> Outcome {
    let mut pid = 0;
    let work = async {
        let state = target.runtime.state(target.id).await?;
        let spec = ExecSpec {
            exec_id: format!("{}-{}", target.agent, base::rng::hex(8)),
            process: exec_process(&state.spec.oci, command, false),
            tty: false,
            stdin: false,
            size: None,
            unconfined: false,
        };
        let mut started = target.runtime.exec(target.id, &spec).await?;
        pid = started.pid as i32;
        let mut output = BytesMut::new();
        while let Some(chunk) = started.io.output.recv().await {
            let room = MAX_OUTPUT - output.len();
            output.extend_from_slice(&chunk.data[..chunk.data.len().min(room)]);
        }
        let code = match started.io.exit.take() {
            Some(exit) => exit.await.map_or(-1, |e| e.code),
            None => -1,
        };
        Ok::<_, runtime::Error>((code, String::from_utf8_lossy(&output).into_owned()))
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok((0, text))) => Outcome::Success(text),
        Ok(Ok((_, text))) => Outcome::Failure(text),
        Ok(Err(e)) => Outcome::Failure(format!("failed to exec in container: {e}")),
        Err(_) => {
            // The pid is a child's of the shim, which reports its end before the number can be used again.
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            Outcome::Failure(format!(
                "command timed out: {:?} timed out after {}s",
                command.join(" "),
                timeout.as_secs()
            ))
        }
    }
}

/// A port number, or the number of the container's port of that name.
fn port(value: &Value, container: &Container) -> Result<u16, String> {
    if let Some(number) = value.as_u64() {
        return u16::try_from(number).map_err(|_| format!("invalid port number: {number}"));
    }
    let name = value.as_str().unwrap_or_default();
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = container.ports.iter().find(|p| p.name == name).map(|p| p.container_port);
    found.ok_or_else(|| format!("invalid port: container {} has no port named {name:?}", container.name))
}

async fn connect(host: &str, ip: IpAddr, port: u16) -> Result<TcpStream, String> {
    let result = if host.is_empty() {
        TcpStream::connect(SocketAddr::new(ip, port)).await
    } else {
        sockets::connect(host, port).await
    };
    let shown = if host.is_empty() { ip.to_string() } else { host.to_owned() };
    result.map_err(|e| {
        let reason = match e.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            _ => e.to_string(),
        };
        format!("dial tcp {shown}:{port}: {reason}")
    })
}

fn url(target: &Target<'_>, get: &HttpGet) -> Result<(String, String, u16), String> {
    let port = port(&get.port, target.container)?;
    let scheme = if get.scheme.eq_ignore_ascii_case("https") { "https" } else { "http" };
    let host = if get.host.is_empty() { target.ip.to_string() } else { get.host.clone() };
    let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    Ok((format!("{scheme}://{host}:{port}{path}"), path, port))
}

async fn http_get(target: &Target<'_>, get: &HttpGet) -> Result<String, String> {
    let (url, path, port) = url(target, get)?;
    let fail = |e: String| format!("Get \"{url}\": {e}");
    let stream = connect(&get.host, target.ip, port).await.map_err(&fail)?;
    let host = if get.host.is_empty() { target.ip.to_string() } else { get.host.clone() };
    let mut request = Request::get(path)
        .header("Host", format!("{host}:{port}"))
        .header("User-Agent", format!("{}/1.36", target.agent))
        .header("Accept", "*/*")
        .header("Connection", "close")
        .body(Full::<Bytes>::default())
        .map_err(|e| fail(e.to_string()))?;
    for header in &get.http_headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::try_from(&header.name), HeaderValue::try_from(&header.value))
        {
            if name == "host" || name == "user-agent" || name == "accept" {
                request.headers_mut().insert(name, value);
            } else {
                request.headers_mut().append(name, value);
            }
        }
    }
    let (status, body) = if url.starts_with("https:") {
        let name = rustls_pki_types::ServerName::try_from(host).map_err(|e| fail(e.to_string()))?;
        let stream = tls::connector().connect(name, stream).await.map_err(|e| fail(e.to_string()))?;
        exchange(stream, request).await.map_err(&fail)?
    } else {
        exchange(stream, request).await.map_err(&fail)?
    };
    if (200..400).contains(&status) {
        Ok(body)
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

async fn exchange<IO>(io: IO, request: Request<Full<Bytes>>) -> Result<(u16, String), String>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| e.to_string())?;
    let connection = Aborted(tokio::spawn(connection).abort_handle());
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status().as_u16();
    // A body that is longer than anyone reads is no failure.
    let body = Limited::new(response.into_body(), MAX_OUTPUT)
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    drop(connection);
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A task that ends with its owner, also when that runs out of time.
struct Aborted(tokio::task::AbortHandle);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// grpc.health.v1.Health/Check
async fn health(target: &Target<'_>, grpc: &Grpc) -> Result<String, String> {
    let stream = connect("", target.ip, grpc.port).await?;
    let fail = |e: hyper::Error| format!("error: health rpc failed: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(fail)?;
    let connection = Aborted(tokio::spawn(connection).abort_handle());
    let service = grpc.service.clone().unwrap_or_default();
    let request = Request::post(format!("http://{}:{}/grpc.health.v1.Health/Check", target.ip, grpc.port))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", format!("{}/1.36", target.agent))
        .body(Full::new(health_request(&service)))
        .map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(fail)?;
    let head = response.headers().get("grpc-status").cloned();
    let body = Limited::new(response.into_body(), MAX_OUTPUT).collect().await.map_err(|e| e.to_string())?;
    drop(connection);
    let status = body.trailers().and_then(|t| t.get("grpc-status")).cloned().or(head);
    let status = status.as_ref().and_then(|s| s.to_str().ok()).unwrap_or("2");
    if status != "0" {
        return Err(format!("error: health rpc failed with status {status}"));
    }
    let bytes = body.to_bytes();
    match serving(&bytes) {
        Some(1) => Ok("service healthy (responded with \"SERVING\")".into()),
        other => Err(format!("service unhealthy (responded with {other:?})")),
    }
}

/// A length-prefixed `HealthCheckRequest { service = 1 }`.
fn health_request(service: &str) -> Bytes {
    let service = &service.as_bytes()[..service.len().min(127)];
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend([0x0a, service.len() as u8]);
        message.extend(service);
    }
    let mut out = vec![0, 0, 0, 0, message.len() as u8];
    out.extend(message);
    out.into()
}

/// The `status = 1` of a length-prefixed `HealthCheckResponse`; 0 if it is left out.
fn serving(bytes: &[u8]) -> Option<u8> {
    match bytes.get(5..)? {
        [0x08, status, ..] => Some(*status),
        [] => Some(0),
        _ => None,
    }
}

/// HTTPS to pods: as upstream, probes ask whether something answers, not who.
mod tls {
    use std::sync::{Arc, LazyLock};

    use rustls::ClientConfig;
    use tokio_rustls::TlsConnector;

    static CONFIG: LazyLock<Arc<ClientConfig>> =
        LazyLock::new(|| Arc::new(sockets::AnyCertificate::client_config().with_no_client_auth()));

    pub fn connector() -> TlsConnector {
        TlsConnector::from(CONFIG.clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::view::tests::pod;

    async fn server(answer: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                if !answer.is_empty() && socket.read(&mut buffer).await.unwrap_or(0) > 0 {
                    let _ = socket.write_all(answer.as_bytes()).await;
                } else {
                    std::mem::forget(socket); // open, and never answering
                }
            }
        });
        port
    }

    async fn probe(handler: Value) -> Outcome {
        let p = pod(json!({"containers": [{"name": "a", "ports": [{"name": "web", "containerPort": 1}]}]}));
        let temp = tempfile::tempdir().unwrap();
        let open = runtime::ShimRuntime::open(temp.path(), temp.path(), Default::default());
        let runtime: Arc<dyn Runtime> = open.unwrap();
        let target = Target {
            runtime: &runtime,
            id: "c",
            container: &p.spec.containers[0],
            ip: [127, 0, 0, 1].into(),
            agent: "kube-probe",
        };
        let handler: Handler = serde_json::from_value(handler).unwrap();
        run(&target, &handler, Duration::from_millis(300)).await
    }

    #[tokio::test]
    async fn http() {
        let fine = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(
            probe(json!({"httpGet": {"path": "/", "port": fine}})).await,
            Outcome::Success(String::new())
        );
        let bad = server("HTTP/1.1 500 x\r\nContent-Length: 1\r\n\r\nx").await;
        let want = Outcome::Failure("HTTP probe failed with statuscode: 500".into());
        assert_eq!(probe(json!({"httpGet": {"path": "x", "port": bad}})).await, want);
        let silent = server("").await;
        let Outcome::Failure(text) = probe(json!({"httpGet": {"port": silent}})).await else {
            panic!("no failure")
        };
        assert!(text.contains("deadline exceeded"), "{text}");
        let Outcome::Failure(text) = probe(json!({"httpGet": {"port": "nope"}})).await else {
            panic!("no failure")
        };
        assert!(text.contains("no port named"), "{text}");
    }

    #[tokio::test]
    async fn tcp() {
        let open = server("").await;
        assert_eq!(probe(json!({"tcpSocket": {"port": open}})).await, Outcome::Success(String::new()));
        let want = Outcome::Failure("dial tcp 127.0.0.1:1: connect: connection refused".into());
        assert_eq!(probe(json!({"tcpSocket": {"port": "web"}})).await, want);
    }

    #[test]
    fn health_messages() {
        assert_eq!(health_request(""), &b"\0\0\0\0\0"[..]);
        assert_eq!(health_request("ab"), &b"\0\0\0\0\x04\x0a\x02ab"[..]);
        assert_eq!(serving(b"\0\0\0\0\x02\x08\x01"), Some(1));
        assert_eq!(serving(b"\0\0\0\0\0"), Some(0));
        assert_eq!(serving(b""), None);
    }
}
