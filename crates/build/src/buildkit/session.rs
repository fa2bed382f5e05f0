//! A session: the client's end serves files, secrets, keys and credentials, and takes results.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use image::Auth;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::task::AbortOnDropHandle;

use super::proto::{
    BytesMessage, CheckAgentRequest, CredentialsRequest, CredentialsResponse, Empty, GetSecretRequest,
    ReadContentRequest, ReadContentResponse, WriteAction, WriteContentRequest, WriteContentResponse,
};
use super::rpc::{self, Caller, Messages, NOT_FOUND, Status, UNIMPLEMENTED};
use super::{SessionHead, files};
use crate::error::{Error, Result};
use crate::mounts::Holder;

/// The metadata that names a content store of the client's.
const STORE: &str = "buildkit-attachable-store-id";

/// An open session.
pub(crate) struct Session {
    caller: Caller,
    methods: HashSet<String>,
}

/// What of a folder the client is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub name: String,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub follow: Vec<String>,
}

fn lost(status: Status) -> Error {
    Error::Session(status.message)
}

/// Metadata values are ASCII; others are sent as in a query, and say so.
fn encode(name: &str, values: &[String], out: &mut Vec<(String, String)>) {
    let plain = values.iter().all(|v| v.is_ascii());
    for value in values {
        let value = match plain {
            true => value.clone(),
            false => {
                percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string()
            }
        };
        out.push((name.to_string(), value));
    }
    if !plain {
        out.push((format!("{name}-encoded"), "1".into()));
    }
}

impl Session {
    /// Begins; the future drives it until it ends.
    pub async fn open<S>(head: SessionHead, stream: S) -> rpc::Result<(Self, impl Future<Output = ()>)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (caller, drive) = Caller::new(stream).await?;
        let methods = head.methods.iter().map(|m| m.to_ascii_lowercase()).collect();
        Ok((Self { caller, methods }, drive))
    }

    pub fn serves(&self, method: &str) -> bool {
        self.methods.contains(&method.to_ascii_lowercase())
    }

    /// Receives a folder of the client's into one of ours.
    pub async fn receive(
        &self,
        wanted: &Wanted,
        folder: &Path,
        mut progress: impl FnMut(u64),
    ) -> Result<u64> {
        let method = "/moby.filesync.v1.FileSync/DiffCopy";
        if !self.serves(method) {
            return Err(Error::Session("no local sources enabled".into()));
        }
        let mut metadata = vec![("dir-name".to_string(), wanted.name.clone())];
        encode("include-patterns", &wanted.include, &mut metadata);
        encode("exclude-patterns", &wanted.exclude, &mut metadata);
        encode("followpaths", &wanted.follow, &mut metadata);
        // Requests never wait for data to be taken: else both sides could wait for each other.
        let (to, from) = self.caller.stream(method, &metadata, 1 << 16).await.map_err(lost)?;
        // Each file is made and written there, while nobody else waits.
        let (folder, handle) = (folder.to_path_buf(), tokio::runtime::Handle::current());
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let receiving = crate::blocking_on_stream(move || {
            let tell = |bytes| {
                let _ = tell.try_send(bytes); // more is told soon
            };
            handle.block_on(files::receive(to, from, &folder, tell)).map_err(lost)
        });
        let mut receiving = std::pin::pin!(receiving);
        loop {
            tokio::select! {
                Some(bytes) = told.recv() => progress(bytes),
                received = &mut receiving => return received,
            }
        }
    }

    /// What the client uploads under a path.
    pub async fn upload(&self, path: &str) -> Result<impl AsyncRead + Send + Unpin + use<>> {
        let metadata = [("urlpath".to_string(), path.to_string())];
        let call = self.caller.stream::<BytesMessage>("/moby.upload.v1.Upload/Pull", &metadata, 1);
        let (to, from) = call.await.map_err(lost)?;
        let pieces = futures::stream::try_unfold((from, Some(to)), |(mut from, to)| async move {
            match from.next::<BytesMessage>().await {
                Ok(Some(m)) => Ok(Some((Bytes::from(m.data), (from, to)))),
                Ok(None) => Ok(None),
                Err(s) => Err(io::Error::other(s.message)),
            }
        });
        Ok(tokio_util::io::StreamReader::new(Box::pin(pieces)))
    }

    /// Reads a blob of one of the client's content stores.
    pub async fn read_blob(
        &self,
        store: &str,
        digest: &str,
    ) -> Result<impl AsyncRead + Send + Unpin + use<>> {
        let metadata = [(STORE.to_string(), store.to_string())];
        let call = self.caller.stream("/containerd.services.content.v1.Content/Read", &metadata, 1);
        let (to, from) = call.await.map_err(lost)?;
        let request = ReadContentRequest { digest: digest.into(), offset: 0, size: 0 };
        to.send(request).await.map_err(|_| Error::Session("the client's session has ended".into()))?;
        drop(to);
        let pieces = futures::stream::try_unfold(from, |mut from| async move {
            match from.next::<ReadContentResponse>().await {
                Ok(Some(m)) => Ok(Some((Bytes::from(m.data), from))),
                Ok(None) => Ok(None),
                Err(s) => Err(io::Error::other(s.message)),
            }
        });
        Ok(tokio_util::io::StreamReader::new(Box::pin(pieces)))
    }

    /// Writes a blob into one of the client's content stores; whether it did: one that is there already is not written
    /// again, and not read to its end.
    pub async fn write_blob(
        &self,
        store: &str,
        digest: &str,
        size: u64,
        mut blob: impl AsyncRead + Unpin,
    ) -> Result<bool> {
        let metadata = [(STORE.to_string(), store.to_string())];
        let call = self.caller.stream("/containerd.services.content.v1.Content/Write", &metadata, 4);
        let (to, mut from) = call.await.map_err(lost)?;
        let total = i64::try_from(size).unwrap_or(i64::MAX);
        let base = WriteContentRequest {
            reference: format!("tug-{digest}"),
            total,
            expected: digest.into(),
            ..WriteContentRequest::default()
        };
        let mut offset = 0i64;
        let mut next = Some(WriteAction::Stat);
        while let Some(action) = next {
            let mut request = WriteContentRequest { action: action.into(), offset, ..base.clone() };
            if action == WriteAction::Write {
                while request.data.len() < 512 << 10 && blob.read_buf(&mut request.data).await? > 0 {}
                if request.data.is_empty() {
                    next = Some(WriteAction::Commit);
                    continue;
                }
                offset += i64::try_from(request.data.len()).unwrap_or(0);
            }
            to.send(request).await.map_err(|_| Error::Session("the client's session has ended".into()))?;
            match from.next::<WriteContentResponse>().await {
                Ok(Some(_)) => {}
                Ok(None) => return Err(Error::Session("the client took no more of a blob".into())),
                Err(s) if s.code == rpc::ALREADY_EXISTS => return Ok(false),
                Err(s) => return Err(lost(s)),
            }
            next = match action {
                WriteAction::Commit => None,
                _ => Some(WriteAction::Write),
            };
        }
        Ok(true)
    }

    /// Sends a folder to exporter `number` of the client.
    pub async fn send_folder(
        &self,
        number: usize,
        roots: Vec<(String, std::os::fd::OwnedFd)>,
    ) -> Result<u64> {
        let metadata = [("buildkit-attachable-exporter-id".to_string(), number.to_string())];
        let call = self.caller.stream("/moby.filesync.v1.FileSend/DiffCopy", &metadata, 256);
        let (to, from) = call.await.map_err(lost)?;
        files::send(to, from, roots).await
    }

    /// Sends a file to exporter `number` of the client.
    pub async fn send_file(
        &self,
        number: usize,
        about: &[(String, String)],
        mut file: impl AsyncRead + Unpin,
    ) -> Result<u64> {
        let mut metadata = vec![("buildkit-attachable-exporter-id".to_string(), number.to_string())];
        metadata.extend(about.iter().map(|(k, v)| (format!("exporter-md-{k}"), v.clone())));
        let call = self.caller.stream("/moby.filesync.v1.FileSend/DiffCopy", &metadata, 16);
        let (to, mut from) = call.await.map_err(lost)?;
        let mut bytes = 0;
        loop {
            let mut data = Vec::with_capacity(256 << 10);
            while data.len() < 128 << 10 && file.read_buf(&mut data).await? > 0 {}
            if data.is_empty() {
                break;
            }
            bytes += data.len() as u64;
            if to.send(BytesMessage { data }).await.is_err() {
                break;
            }
        }
        drop(to);
        while from.next::<BytesMessage>().await.map_err(lost)?.is_some() {}
        Ok(bytes)
    }
}

/// What the client of a build holds, with what the user allowed.
pub(crate) struct Held {
    pub session: Arc<Session>,
    pub entitlements: Vec<String>,
}

#[async_trait]
impl Holder for Held {
    async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        let request = GetSecretRequest { id: id.into() };
        match self.session.caller.unary("/moby.buildkit.secrets.v1.Secrets/GetSecret", &request).await {
            Ok(BytesMessage { data }) => Ok(Some(data)),
            Err(s) if s.code == NOT_FOUND || s.code == UNIMPLEMENTED => Ok(None),
            Err(s) => Err(lost(s)),
        }
    }

    async fn agent(&self, id: &str, socket: &Path) -> Result<Option<AbortOnDropHandle<()>>> {
        let check = CheckAgentRequest { id: id.into() };
        match self.session.caller.unary::<_, Empty>("/moby.sshforward.v1.SSH/CheckAgent", &check).await {
            Ok(_) => {}
            Err(s) if s.code == UNIMPLEMENTED || s.code == rpc::UNKNOWN || s.code == NOT_FOUND => {
                return Ok(None);
            }
            Err(s) => return Err(lost(s)),
        }
        let listener = tokio::net::UnixListener::bind(socket)?;
        let (session, id) = (self.session.clone(), id.to_string());
        let serve = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (session, id) = (session.clone(), id.clone());
                open.spawn(async move { forward(&session, &id, stream).await });
                while open.try_join_next().is_some() {}
            }
        });
        Ok(Some(AbortOnDropHandle::new(serve)))
    }

    async fn credentials(&self, registry: &str) -> Result<Option<Auth>> {
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let request = CredentialsRequest { host: host.into() };
        let call = self.session.caller.unary("/moby.filesync.v1.Auth/Credentials", &request);
        match call.await {
            Ok(CredentialsResponse { username, secret }) if username.is_empty() && !secret.is_empty() => {
                Ok(Some(Auth { identity_token: secret, ..Auth::default() }))
            }
            Ok(CredentialsResponse { username, secret }) if !secret.is_empty() => {
                Ok(Some(Auth { username, password: secret, ..Auth::default() }))
            }
            Ok(_) => Ok(None),
            Err(s) if s.code == UNIMPLEMENTED => Ok(None),
            Err(s) => Err(lost(s)),
        }
    }

    fn allows(&self, entitlement: &str) -> bool {
        self.entitlements.iter().any(|e| e == entitlement)
    }
}

/// Carries bytes between a socket and the client's agent.
async fn forward(session: &Session, id: &str, stream: tokio::net::UnixStream) {
    let metadata = [("buildkit.ssh.id".to_string(), id.to_string())];
    let call = session.caller.stream::<BytesMessage>("/moby.sshforward.v1.SSH/ForwardAgent", &metadata, 16);
    let (to, mut from): (_, Messages) = match call.await {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%error, "an agent's connection was not passed on");
            return;
        }
    };
    let (mut reader, mut writer) = stream.into_split();
    let out = async move {
        let mut data = vec![0; 32 << 10];
        while let Ok(n @ 1..) = reader.read(&mut data).await {
            if to.send(BytesMessage { data: data[..n].to_vec() }).await.is_err() {
                return;
            }
        }
    };
    let back = async move {
        while let Ok(Some(m)) = from.next::<BytesMessage>().await {
            if writer.write_all(&m.data).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await; // the program may have closed it
    };
    tokio::join!(out, back);
}
