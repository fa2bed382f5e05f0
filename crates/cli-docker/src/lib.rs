//! A client of the Docker Engine API over its unix socket. It knows the protocol, not our engine: any Docker
//! engine answers it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// What can go wrong in a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers at the socket.
    #[error("cannot reach the engine at {socket}: {source}; is it running?")]
    Connect {
        /// The socket's path.
        socket: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The connection broke, or what came over it is not HTTP.
    #[error("the engine's answer: {0}")]
    Protocol(#[from] hyper::Error),
    /// The engine refused the call, or reported a failure in a stream.
    #[error("{message}")]
    Engine {
        /// The HTTP status; 200 for a failure that a stream reported.
        status: StatusCode,
        /// The engine's message.
        message: String,
    },
    /// An answer is not JSON.
    #[error("the engine's answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A request could not be made from these parts.
    #[error("request: {0}")]
    Request(#[from] http::Error),
    /// Reading the build's context.
    #[error("build context: {0}")]
    Context(#[from] std::io::Error),
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An engine.
#[derive(Debug, Clone)]
pub struct Docker {
    socket: PathBuf,
}

impl Docker {
    /// The engine that listens at `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    /// `GET /info`.
    pub async fn info(&self) -> Result<Value> {
        self.json(Method::GET, "/info", Bytes::new()).await
    }

    /// `GET /version`.
    pub async fn version(&self) -> Result<Value> {
        self.json(Method::GET, "/version", Bytes::new()).await
    }

    /// A call that answers with one JSON document. `path` carries the query; a non-empty `body` is JSON.
    pub async fn json(&self, method: Method, path: &str, body: Bytes) -> Result<Value> {
        let response = self.call(method, path, "application/json", body).await?;
        let bytes = response.into_body().collect().await?.to_bytes();
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Builds an image by the classic builder from a context given as a tar archive; `output` gets the build's text.
    pub async fn build(
        &self,
        context: Bytes,
        tag: &str,
        output: &mut (dyn FnMut(&str) + Send),
    ) -> Result<()> {
        let path = format!("/build?t={}&rm=1&forcerm=1", escape(tag));
        let mut body = self.call(Method::POST, &path, "application/x-tar", context).await?.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                rest.extend_from_slice(&data);
            }
            // Messages follow one another; the last may still be incomplete.
            let mut messages = serde_json::Deserializer::from_slice(&rest).into_iter::<Value>();
            let mut used = 0;
            while let Some(Ok(message)) = messages.next() {
                used = messages.byte_offset();
                if let Some(error) = message["error"].as_str() {
                    return Err(Error::Engine { status: StatusCode::OK, message: error.into() });
                }
                if let Some(text) = message["stream"].as_str() {
                    output(text);
                }
            }
            drop(messages);
            rest.drain(..used);
        }
        Ok(())
    }

    /// A call whose answer the caller reads; an HTTP status of 400 or more is an error.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| Error::Connect { socket: self.socket.clone(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "docker")
            .header(http::header::CONTENT_TYPE, content_type)
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status.as_u16() < 400 {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await?.to_bytes();
        let message = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|v| v["message"].as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
        Err(Error::Engine { status, message })
    }
}

/// A tar archive of `(name, content, mode)` entries, the form in which a build's context is sent.
pub fn context(files: &[(&str, &[u8], u32)]) -> Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_cksum();
        archive.append_data(&mut header, name, *content)?;
    }
    Ok(archive.into_inner()?.into())
}

/// Percent-encodes what is not unreserved (RFC 3986, section 2.3), for a query's value.
pub fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    /// An engine that gives one fixed answer, and returns the request's head.
    async fn answer(listener: UnixListener, response: &'static str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 4096];
        let n = stream.read(&mut buffer).await.unwrap();
        stream.write_all(response.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    #[tokio::test]
    async fn messages_of_errors_come_through() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let docker = Docker::new(&socket);
        assert!(docker.info().await.unwrap_err().to_string().contains("is it running?"));
        let listener = UnixListener::bind(&socket).unwrap();
        let body = "HTTP/1.1 404 Not Found\r\ncontent-length: 16\r\n\r\n{\"message\":\"no\"}";
        let (error, _) = tokio::join!(docker.info(), answer(listener, body));
        assert!(
            matches!(error.unwrap_err(), Error::Engine { status: StatusCode::NOT_FOUND, message } if message == "no")
        );
    }

    #[tokio::test]
    async fn a_build_streams_and_fails() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let body =
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"stream\":\"Step 1\"}\n{\"error\":\"broken\"}\n";
        let mut seen = String::new();
        let docker = Docker::new(&socket);
        let mut output = |t: &str| seen.push_str(t);
        let (result, head) =
            tokio::join!(docker.build(Bytes::new(), "a:b", &mut output), answer(listener, body));
        assert_eq!(result.unwrap_err().to_string(), "broken");
        assert_eq!(seen, "Step 1");
        assert!(head.starts_with("POST /build?t=a%3Ab"), "{head}");
    }
}
