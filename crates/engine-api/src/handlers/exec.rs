//! attach and exec.

use engine::ExecStart;
use engine::attach::DetachKeys;
use engine::model::ExecConfig;
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
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
use crate::hijack::{self, Wanted};
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
    let past = if logs { past(&call, &wanted).await? } else { Vec::new() };
    let Some((answer, upgrade)) = hijack::take_over(&mut call.request, kind) else {
        let past = futures::stream::iter(past);
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
        for piece in past {
            let sent = match piece {
                Ok::<_, std::io::Error>(piece) => io.write_all(&piece).await,
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

/// What the log has of the streams that are wanted, as it goes over the wire.
async fn past(call: &Call, wanted: &Wanted) -> Result<Vec<std::io::Result<bytes::Bytes>>> {
    let options = engine::LogOptions { stdout: wanted.stdout, stderr: wanted.stderr, ..Default::default() };
    let lines = call.engine.logs(call.id(), options)?;
    futures::pin_mut!(lines);
    let mut past = Vec::new();
    while let Some(line) = lines.next().await {
        let line = line.map_err(engine::Error::from)?;
        past.push(Ok(streams::log_piece(&line, !wanted.framed, false, false)));
    }
    Ok(past)
}

/// Attach over a WebSocket: output as binary messages, unframed, as Docker has it.
pub(crate) async fn attach_websocket(mut call: Call) -> Result<Answer> {
    let tty = call.engine.has_tty(call.id())?;
    let wanted = Wanted { framed: false, ..wanted(&call, tty)? };
    let (stream, logs) = (call.query.flag("stream"), call.query.flag("logs"));
    let place = hijack::place()?;
    let attachment = if stream { Some(call.engine.attach(call.id(), wanted.stdin).await?) } else { None };
    let past = if logs { past(&call, &wanted).await? } else { Vec::new() };
    let (answer, upgrade) = hijack::websocket(&mut call.request)?;
    let (engine, id) = (call.engine.clone(), call.id().to_owned());
    tokio::spawn(async move {
        let _place = place;
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        for piece in past.into_iter().flatten() {
            if socket.send(Message::Binary(piece)).await.is_err() {
                return;
            }
        }
        let stream = match attachment {
            Some(attachment) => attachment.stream().await.ok().flatten(),
            None => None,
        };
        match stream {
            Some(stream) => {
                if carry_websocket(socket, stream, wanted).await {
                    engine.detached(&id);
                }
            }
            None => drop(socket.close(None).await), // the client may be gone
        }
    });
    Ok(answer)
}

/// As [`hijack::carry`], over a WebSocket.
async fn carry_websocket(socket: WebSocketStream<TokioIo<Upgraded>>, io: IoStream, wanted: Wanted) -> bool {
    let (mut sink, mut source) = socket.split();
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
    tokio::select! {
        detached = input => detached,
        () = output => false,
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
