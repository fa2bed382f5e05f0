//! `/exec`, `/attach`, `/run` and `/portForward`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use percent_encoding::percent_decode_str;
use remotecommand::{Forward, Outcome, Streams, Wanted};
use runtime::{ExecSpec, IoStream, Runtime, Stream};
use tokio::io::AsyncWriteExt;

use super::{Shared, empty, find, refuse};
use crate::context::Context;
use crate::spec::exec_process;

type Named = (String, String, String);
type NamedUid = (String, String, String, String);

pub async fn exec(State(context): Shared, Path(named): Path<Named>, request: Request) -> Response {
    do_exec(context, named, request).await
}

pub async fn exec_uid(
    State(context): Shared,
    Path((n, p, _, c)): Path<NamedUid>,
    request: Request,
) -> Response {
    do_exec(context, (n, p, c), request).await
}

pub async fn attach(State(context): Shared, Path(named): Path<Named>, request: Request) -> Response {
    do_attach(context, named, request).await
}

pub async fn attach_uid(
    State(context): Shared,
    Path((n, p, _, c)): Path<NamedUid>,
    request: Request,
) -> Response {
    do_attach(context, (n, p, c), request).await
}

/// The id of a container that runs.
fn running(context: &Context, (namespace, pod, container): &Named) -> Result<String, Box<Response>> {
    let known = find(context, namespace, pod)?;
    let run = known.state.of(container).running();
    run.map(|r| r.id.clone()).ok_or_else(|| {
        Box::new(refuse(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))
    })
}

/// Every `command=` of a query.
fn command(query: &str, name: &str) -> Vec<String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned())
        .collect()
}

async fn do_exec(context: Arc<Context>, named: Named, mut request: Request) -> Response {
    let id = match running(&context, &named) {
        Ok(id) => id,
        Err(answer) => return *answer,
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (command, wanted) = (command(&query, "command"), Wanted::from_query(&query));
    if command.is_empty() {
        return refuse(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container");
    }
    if !wanted.stdin && !wanted.stdout && !wanted.stderr {
        return refuse(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
    }
    let (response, session) = match remotecommand::exec_session(&mut request, wanted) {
        Ok(accepted) => accepted,
        Err(rejection) => return rejection.response().into_response(),
    };
    let runtime = context.options.runtime.clone();
    tokio::spawn(async move {
        let streams = match session.await {
            Ok(streams) => streams,
            Err(error) => {
                tracing::debug!(%error, "an exec session came to nothing");
                return;
            }
        };
        run_exec(runtime, id, command, wanted, streams).await;
    });
    empty(response)
}

async fn run_exec(
    runtime: Arc<dyn Runtime>,
    id: String,
    command: Vec<String>,
    wanted: Wanted,
    mut streams: Streams,
) {
    let exec_id = base::rng::hex(16);
    let started = async {
        let state = runtime.state(&id).await?;
        let spec = ExecSpec {
            exec_id: exec_id.clone(),
            process: exec_process(&state.spec.oci, &command, wanted.tty),
            tty: wanted.tty,
            stdin: wanted.stdin,
            size: None,
            unconfined: false,
        };
        runtime.exec(&id, &spec).await
    };
    let mut io = match started.await {
        Ok(started) => started.io,
        Err(error) => {
            let text = format!("Internal error occurred: error executing command in container: {error}");
            streams.finish(&Outcome::Failure(text)).await;
            return;
        }
    };
    let exit = io.exit.take();
    pump(&runtime, &id, Some(exec_id), io, &mut streams).await;
    let outcome = match exit {
        Some(exit) => match exit.await {
            Ok(exit) if exit.code == 0 => Outcome::Success,
            Ok(exit) => Outcome::Exit(exit.code),
            Err(_) => Outcome::Failure("the container's shim is gone".into()),
        },
        None => Outcome::Success,
    };
    streams.finish(&outcome).await;
}

async fn do_attach(context: Arc<Context>, named: Named, mut request: Request) -> Response {
    let id = match running(&context, &named) {
        Ok(id) => id,
        Err(answer) => return *answer,
    };
    let wanted = Wanted::from_query(request.uri().query().unwrap_or_default());
    let (response, session) = match remotecommand::exec_session(&mut request, wanted) {
        Ok(accepted) => accepted,
        Err(rejection) => return rejection.response().into_response(),
    };
    let runtime = context.options.runtime.clone();
    tokio::spawn(async move {
        let mut streams = match session.await {
            Ok(streams) => streams,
            Err(error) => {
                tracing::debug!(%error, "an attach session came to nothing");
                return;
            }
        };
        let outcome = match runtime.attach(&id).await {
            Ok(io) => {
                pump(&runtime, &id, None, io, &mut streams).await;
                Outcome::Success
            }
            Err(error) => Outcome::Failure(format!("error attaching to container: {error}")),
        };
        streams.finish(&outcome).await;
    });
    empty(response)
}

/// Copies between the client and a process until its output has ended or the client is gone.
async fn pump(
    runtime: &Arc<dyn Runtime>,
    id: &str,
    exec_id: Option<String>,
    io: IoStream,
    streams: &mut Streams,
) {
    let IoStream { stdin, mut output, .. } = io;
    let (from, mut out, mut err) = (streams.stdin.take(), streams.stdout.take(), streams.stderr.take());
    let resize = streams.resize.take();
    let input = async {
        if let (Some(mut from), Some(mut stdin)) = (from, stdin) {
            while let Some(data) = from.recv().await {
                if stdin.write_all(&data).await.is_err() || stdin.flush().await.is_err() {
                    break;
                }
            }
            let _ = stdin.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let sizes = async {
        if let Some(mut sizes) = resize {
            while let Some(size) = sizes.recv().await {
                if let Err(error) = runtime.resize(id, exec_id.as_deref(), size.height, size.width).await {
                    tracing::debug!(%error, "a terminal could not be resized");
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let copy = async {
        while let Some(chunk) = output.recv().await {
            let to = if chunk.stream == Stream::Stderr { &mut err } else { &mut out };
            if let Some(to) = to
                && to.send(chunk.data).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = copy => {}
        () = input => {}
        () = sizes => {}
    }
}

/// A command without streams: its output is the answer.
pub async fn run(State(context): Shared, Path(named): Path<Named>, request: Request) -> Response {
    let id = match running(&context, &named) {
        Ok(id) => id,
        Err(answer) => return *answer,
    };
    let command: Vec<String> = command(request.uri().query().unwrap_or_default(), "cmd")
        .iter()
        .flat_map(|c| c.split_whitespace())
        .map(str::to_owned)
        .collect();
    let runtime = &context.options.runtime;
    let result = async {
        let state = runtime.state(&id).await?;
        let spec = ExecSpec {
            exec_id: base::rng::hex(16),
            process: exec_process(&state.spec.oci, &command, false),
            tty: false,
            stdin: false,
            size: None,
            unconfined: false,
        };
        let mut io = runtime.exec(&id, &spec).await?.io;
        let mut text = BytesMut::new();
        while let Some(chunk) = io.output.recv().await {
            text.extend_from_slice(&chunk.data);
        }
        Ok::<_, runtime::Error>(text.freeze())
    };
    match result.await {
        Ok(text) => text.into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

pub async fn port_forward(
    State(context): Shared,
    Path((namespace, pod)): Path<(String, String)>,
    request: Request,
) -> Response {
    do_port_forward(context, namespace, pod, request).await
}

pub async fn port_forward_uid(
    State(context): Shared,
    Path((namespace, pod, _)): Path<Named>,
    request: Request,
) -> Response {
    do_port_forward(context, namespace, pod, request).await
}

async fn do_port_forward(
    context: Arc<Context>,
    namespace: String,
    pod: String,
    mut request: Request,
) -> Response {
    let known = match find(&context, &namespace, &pod) {
        Ok(known) => known,
        Err(answer) => return *answer,
    };
    let Some(sandbox) = known.state.ready_sandbox() else {
        return refuse(StatusCode::BAD_REQUEST, format!("pod {pod} has no running sandbox to forward to"));
    };
    let netns = PathBuf::from(format!("/proc/{}/ns/net", sandbox.pid));
    let (response, session) = match remotecommand::portforward_session(&mut request) {
        Ok(accepted) => accepted,
        Err(rejection) => return rejection.response().into_response(),
    };
    let title = known.pod.title();
    tokio::spawn(async move {
        let mut forwards = match session.await {
            Ok(forwards) => forwards,
            Err(error) => {
                tracing::debug!(%error, "a port-forward session came to nothing");
                return;
            }
        };
        // Connections end with the client: their tasks go with this set.
        let mut tasks = tokio::task::JoinSet::new();
        while let Some(forward) = forwards.next().await {
            tasks.spawn(forward_one(netns.clone(), title.clone(), forward));
            while tasks.try_join_next().is_some() {}
        }
        forwards.close().await;
    });
    empty(response)
}

async fn forward_one(netns: PathBuf, title: String, forward: Forward) {
    let port = forward.port;
    let ns = netns.clone();
    let connected = tokio::task::spawn_blocking(move || -> io::Result<std::net::TcpStream> {
        let socket = sys::netns::in_netns(&ns, || {
            std::net::TcpStream::connect(("127.0.0.1", port))
                .or_else(|first| std::net::TcpStream::connect(("::1", port)).map_err(|_| first))
        })??;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    let socket = match connected.await {
        Ok(Ok(socket)) => tokio::net::TcpStream::from_std(socket),
        Ok(Err(error)) => Err(error),
        Err(error) => Err(io::Error::other(error)),
    };
    match socket {
        Ok(socket) => forward.run(socket).await,
        Err(error) => {
            let text = format!(
                "error forwarding port {port} to pod {title}: failed to connect to localhost:{port} inside namespace {}: {error}",
                netns.display()
            );
            forward.fail(&text).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let got = command("command=sh&command=-c&input=1&command=echo+a%20%26%26%20b", "command");
        assert_eq!(got, ["sh", "-c", "echo a && b"]);
    }
}
