//! BuildKit's part of what fuzz targets call.

use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};

use super::proto::{
    self, BytesMessage, Definition, FrontendSolveRequest, Packet, PacketType, ReturnRequest, SolveRequest,
};
use super::rpc::{self, Answer, Call, Caller};
use super::{control, definition, files, frontend, locals};
use crate::fuzz::{Given, decoded};

/// A message of that kind.
pub(crate) fn message(kind: u8, bytes: &[u8]) {
    let options = |given: &Given| {
        let _ = frontend::options(given);
    };
    match kind % 6 {
        0 => {
            if let Some(solve) = decoded::<SolveRequest>(bytes) {
                options(&solve.frontend_attrs);
            }
        }
        1 => {
            if let Some(solve) = decoded::<FrontendSolveRequest>(bytes) {
                options(&solve.frontend_opt);
            }
        }
        2 => {
            if let Some(end) = decoded::<ReturnRequest>(bytes) {
                let _ = control::refs(end.result);
            }
        }
        3 => {
            if let Some(definition) = decoded::<Definition>(bytes) {
                let _ = definition::source(&definition);
            }
        }
        4 => {
            let _ = decoded::<proto::CredentialsResponse>(bytes);
            let _ = decoded::<proto::WriteContentResponse>(bytes);
        }
        _ => {
            let _ = std::str::from_utf8(bytes).map(locals::patterns);
        }
    }
}

/// Answers every call with what it said.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) {
    let handler = |mut call: Call| async move {
        let message: BytesMessage = call.message().await?;
        Answer::one(&message)
    };
    rpc::serve(stream, handler).await;
}

/// Receives packets into a folder. Between two of them stands a byte that is their length.
pub(crate) async fn transfer(bytes: Vec<u8>, folder: PathBuf) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let served = tokio::spawn(rpc::serve(far, move |_: Call| {
        let mut packets = Vec::new();
        let mut rest = bytes.as_slice();
        while let [length, more @ ..] = rest {
            let (one, after) = more.split_at(more.len().min(usize::from(*length)));
            packets.extend(<Packet as prost::Message>::decode(one).map(Ok));
            rest = after;
        }
        packets.push(Ok(Packet { kind: PacketType::Fin.into(), ..Packet::default() }));
        std::future::ready(Ok(Answer::many(futures::stream::iter(packets))))
    }));
    if let Ok((caller, drive)) = Caller::new(near).await {
        let driven = tokio::spawn(drive);
        if let Ok((to, from)) = caller.stream::<Packet>("/moby.filesync.v1.FileSync/DiffCopy", &[], 64).await
        {
            let _ = files::receive(to, from, &folder, |_| {}).await;
        }
        drop(caller);
        driven.abort();
    }
    served.abort();
}
