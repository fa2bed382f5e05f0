//! attach and exec.

use engine::ExecStart;
use engine::attach::DetachKeys;
use engine::model::ExecConfig;
use futures::stream::BoxStream;
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use runtime::IoStream;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::streams;
use crate::body::{self, Answer};
use crate::call::Call;
use crate::hangup::Hangup;
use crate::hijack::{self, Raw, Wanted};
use crate::{Error, Result};

fn wanted(call: &Call, tty: bool) -> Result<Wanted> {
    let q = &call.query;
    Ok(Wanted {
        stdin: q.flag("stdin"),
        stdout: q.flag("stdout"),
        stderr: q.flag("stderr"),
        tty,
        framed: !tty,
        keys: Some(streams::keys(call)?),
    })
}

pub(crate) async fn attach(mut call: Call) -> Result<Answer> {
    let tty = call.engine.has_tty(call.id())?;
    let wanted = wanted(&call, tty)?;
    let (stream, logs) = (call.query.flag("stream"), call.query.flag("logs"));
    let kind = hijack::content_type(call.version, tty);
    let place = hijack::place()?;
    // Attached before anything is answered: what comes after the answer is not missed.
    let attachment = if stream { Some(call.engine.attach(call.id(), wanted.stdin).await?) } else { None };
    let mut past = if logs { past(&call, &wanted, stream).await? } else { futures::stream::empty().boxed() };
    let Some((answer, upgrade)) = hijack::take_over(&mut call.request, kind) else {
        let Some(attachment) = attachment else { return Ok(body::stream(kind, past)) };
        let live = match attachment.stream().await? {
            Some(io) => hijack::as_body(kind, call.request, io, wanted),
            None => body::empty(StatusCode::OK),
        };
        let live = http_body_util::BodyDataStream::new(live.into_body()).inspect(move |_| {
            let _held = &place;
        });
        return Ok(body::stream(kind, past.chain(live)));
    };
    let (engine, id) = (call.engine.clone(), call.id().to_owned());
    tokio::spawn(async move {
        let _place = place;
        let Some((mut io, mut hangup)) = hijack::taken(upgrade).await else { return };
        while let Some(piece) = past.next().await {
            let sent = match piece {
                Ok(piece) => io.write_all(&piece).await,
                Err(e) => Err(e),
            };
            if sent.is_err() {
                return;
            }
        }
        let Some(attachment) = attachment else {
            let _ = io.shutdown().await; // the client may be gone
            return;
        };
        // It may be attached long before the start.
        let stream = tokio::select! {
            stream = attachment.stream() => stream,
            () = hangup.happened() => return,
        };
        match stream {
            Ok(Some(stream)) => {
                if hijack::carry(io, hangup, stream, wanted).await {
                    engine.detached(&id);
                }
            }
            Ok(None) => drop(io.shutdown().await),
            Err(error) => hijack::complain(io, &error.to_string(), tty).await,
        }
    });
    Ok(answer)
}

/// What the log has of the streams that are wanted, as it goes over the wire; where they are `followed`, up to this moment:
/// what is read from now on comes on the streams.
async fn past(
    call: &Call,
    wanted: &Wanted,
    followed: bool,
) -> Result<BoxStream<'static, std::io::Result<bytes::Bytes>>> {
    let (stdout, stderr, framed) = (wanted.stdout, wanted.stderr, wanted.framed);
    let until = followed.then(base::clock::now);
    let options = engine::LogOptions { stdout, stderr, until, ..Default::default() };
    let lines = call.engine.logs(call.id(), options).await?;
    let piece = move |line: runtime::Result<runtime::logs::LogLine>| match line {
        Ok(line) => Ok(streams::log_piece(&line, !framed, false, false)),
        Err(error) => Err(std::io::Error::other(error.to_string())),
    };
    Ok(lines.map(piece).boxed())
}

/// Attach over a WebSocket: output as binary messages, unframed, as Docker has it.
pub(crate) async fn attach_websocket(mut call: Call) -> Result<Answer> {
    let tty = call.engine.has_tty(call.id())?;
    let wanted = Wanted { framed: false, ..wanted(&call, tty)? };
    let (stream, logs) = (call.query.flag("stream"), call.query.flag("logs"));
    let place = hijack::place()?;
    let attachment = if stream { Some(call.engine.attach(call.id(), wanted.stdin).await?) } else { None };
    let mut past = if logs { past(&call, &wanted, stream).await? } else { futures::stream::empty().boxed() };
    let (answer, upgrade) = hijack::websocket(&mut call.request)?;
    let (engine, id) = (call.engine.clone(), call.id().to_owned());
    tokio::spawn(async move {
        let _place = place;
        let Some((io, mut hangup)) = hijack::taken(upgrade).await else { return };
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(Ok(piece)) = past.next().await {
            if socket.send(Message::Binary(piece)).await.is_err() {
                return;
            }
        }
        let mut early = Vec::new();
        let stream = match attachment {
            Some(attachment) => tokio::select! {
                stream = attachment.stream() => stream.ok().flatten(),
                () = left(&mut socket, &mut early) => None,
                () = hangup.happened() => return,
            },
            None => None,
        };
        match stream {
            Some(stream) => {
                if carry_websocket(socket, hangup, early, stream, wanted).await {
                    engine.detached(&id);
                }
            }
            None => drop(socket.close(None).await), // the client may be gone
        }
    });
    Ok(answer)
}

/// The most bytes that are kept of what a client sends before the start.
const EARLY: usize = 1 << 16;

/// Resolves when a client that waits for the start has left. What it sends meanwhile is kept for the process; when that is
/// much, the rest has to wait on its way.
async fn left(socket: &mut WebSocketStream<Raw>, early: &mut Vec<Message>) {
    let mut kept = 0;
    while kept < EARLY {
        match socket.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                kept += message.len();
                early.push(message);
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            Some(Ok(_)) => {} // pings have been answered
        }
    }
    std::future::pending().await
}

/// As [`hijack::carry`], over a WebSocket; `early` came before.
async fn carry_websocket(
    socket: WebSocketStream<Raw>,
    mut hangup: Hangup,
    early: Vec<Message>,
    io: IoStream,
    wanted: Wanted,
) -> bool {
    let (mut sink, source) = socket.split();
    let mut source = futures::stream::iter(early.into_iter().map(Ok)).chain(source);
    let mut keys = wanted.keys.clone().filter(|_| wanted.tty);
    let IoStream { stdin, mut output, .. } = io;
    let input = async move {
        let Some(mut stdin) = stdin.filter(|_| wanted.stdin) else {
            // Read on, so that pings are answered and the client's close is seen.
            while let Some(Ok(_)) = source.next().await {}
            return false;
        };
        while let Some(Ok(message)) = source.next().await {
            let data = match message {
                Message::Text(text) => text.as_bytes().to_vec(),
                Message::Binary(data) => data.to_vec(),
                Message::Close(_) => break,
                _ => continue,
            };
            let (typed, detached) = match &mut keys {
                Some(keys) => keys.feed(&data),
                None => (data, false),
            };
            if stdin.write_all(&typed).await.is_err() || stdin.flush().await.is_err() {
                break;
            }
            if detached {
                return true;
            }
        }
        let _ = stdin.shutdown().await; // the process may have ended
        false
    };
    let output = async move {
        while let Some(chunk) = output.recv().await {
            let asked = match chunk.stream {
                runtime::Stream::Stdout => wanted.stdout,
                runtime::Stream::Stderr => wanted.stderr,
            };
            if asked && sink.send(Message::Binary(chunk.data)).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await; // the client may be gone
    };
    tokio::pin!(input);
    tokio::select! {
        detached = &mut input => detached,
        () = output => false,
        () = hangup.happened() => {
            // What it sent before it left is the process's, which may never read it: nothing tells but time.
            let _ = tokio::time::timeout(hijack::LAST_INPUT, input).await;
            false
        }
    }
}

pub(crate) async fn create(call: Call) -> Result<Answer> {
    let (engine, id) = (call.engine.clone(), call.id().to_owned());
    let config: ExecConfig = call.json().await?;
    let id = engine.exec_create(&id, config)?;
    Ok(body::json(StatusCode::CREATED, &json!({"Id": id})))
}

/// The body of `POST /exec/{id}/start`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct StartBody {
    detach: bool,
    tty: bool,
    console_size: Option<[u16; 2]>,
}

pub(crate) async fn start(call: Call) -> Result<Answer> {
    let Call { engine, version, params, request, .. } = call;
    let id = params.into_iter().next().unwrap_or_default();
    engine.exec_check(&id)?;
    let (tty, keys) = engine.exec_tty(&id)?;
    let keys = DetachKeys::parse(&keys)?;
    let (parts, content) = request.into_parts();
    // Read before the answer: the connection is the client's own afterwards.
    let bytes = body::read(content).await?;
    let start: StartBody = if bytes.is_empty() {
        StartBody::default()
    } else {
        engine::model::decode(&bytes).map_err(|e| Error::invalid(format!("invalid JSON: {e}")))?
    };
    let options =
        ExecStart { detach: start.detach, size: start.console_size.map(|[rows, columns]| (rows, columns)) };
    if start.detach {
        // Nobody reads: dropping the streams lets it run.
        drop(engine.exec_start(&id, options).await?);
        return Ok(body::empty(StatusCode::OK));
    }
    let wanted =
        Wanted { stdin: true, stdout: true, stderr: true, tty, framed: !start.tty, keys: Some(keys) };
    let kind = hijack::content_type(version, start.tty);
    let place = hijack::place()?;
    let Some((answer, upgrade)) = hijack::take_over(&mut http::Request::from_parts(parts, ()), kind) else {
        let io = engine.exec_start(&id, options).await?;
        return Ok(hijack::output_body(kind, io, wanted));
    };
    tokio::spawn(async move {
        let _place = place;
        let started = engine.exec_start(&id, options).await;
        let Some((io, hangup)) = hijack::taken(upgrade).await else { return };
        match started {
            Ok(stream) => {
                if hijack::carry(io, hangup, stream, wanted).await {
                    engine.exec_detached(&id);
                }
            }
            Err(error) => hijack::complain(io, &error.to_string(), tty).await,
        }
    });
    Ok(answer)
}

pub(crate) async fn resize(call: Call) -> Result<Answer> {
    let (rows, columns) = super::containers::size(&call)?;
    call.engine.exec_resize(call.id(), rows, columns).await?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn inspect(call: Call) -> Result<Answer> {
    Ok(body::ok(&call.engine.exec_inspect(call.id())?))
}
