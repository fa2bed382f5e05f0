//! `/containerLogs`: a container's log, from its file.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use runtime::logs::{LogLine, ReadOptions};
use serde::Deserialize;

use super::{Shared, find, refuse};
use crate::pod::registry::Known;

/// The query, as `PodLogOptions` is written in one.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wanted {
    follow: String,
    previous: String,
    timestamps: String,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
    stream: Option<String>,
}

fn on(text: &str) -> bool {
    matches!(text, "1" | "true" | "True" | "TRUE" | "t" | "T")
}

pub async fn serve(
    State(context): Shared,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let known = match find(&context, &namespace, &pod) {
        Ok(known) => known,
        // A pod that ended before this daemon began has no worker; its files may be there all the same.
        Err(answer) => match context.client.get(&client::gvr::PODS, &namespace, &pod).await {
            Ok(object) if object.spec()["nodeName"] == context.node() => {
                match crate::view::Pod::of(&object) {
                    Ok(pod) => Known { pod, state: Default::default() },
                    Err(_) => return *answer,
                }
            }
            _ => return *answer,
        },
    };
    if known.pod.spec.container(&container).is_none() {
        return refuse(
            StatusCode::NOT_FOUND,
            format!("container \"{container}\" not found in pod \"{pod}\""),
        );
    }
    let latest = latest_attempt(&context.durable(&known.pod.uid).join("logs").join(&container));
    let attempt = match (latest, on(&wanted.previous)) {
        (Some(n), false) => n,
        (Some(n), true) if n > 0 => n - 1,
        (_, true) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                format!("previous terminated container \"{container}\" in pod \"{pod}\" not found"),
            );
        }
        (None, false) => {
            let reason = waiting_reason(&known, &container);
            return refuse(
                StatusCode::BAD_REQUEST,
                format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}"),
            );
        }
    };
    let since = match (&wanted.since_time, wanted.since_seconds) {
        (Some(time), _) => match time.parse() {
            Ok(time) => Some(time),
            Err(e) => return refuse(StatusCode::BAD_REQUEST, format!("sinceTime {time:?}: {e}")),
        },
        (None, Some(seconds)) => {
            base::clock::now().checked_sub(Duration::from_secs(seconds.max(0) as u64)).ok()
        }
        (None, None) => None,
    };
    let stream = wanted.stream.as_deref().unwrap_or("All");
    let options = ReadOptions {
        since,
        until: None,
        tail: wanted.tail_lines.and_then(|t| u64::try_from(t).ok()),
        follow: on(&wanted.follow),
        stdout: !stream.eq_ignore_ascii_case("stderr"),
        stderr: !stream.eq_ignore_ascii_case("stdout"),
    };
    let running = known.state.of(&container).running().filter(|r| r.attempt == attempt).map(|r| r.id.clone());
    let runtime = context.options.runtime.clone();
    let done = async move {
        if let Some(id) = running {
            let _ = runtime.wait(&id).await;
        }
    };
    let path = context.log_path(&known.pod.uid, &container, attempt);
    let log = runtime::LogSpec::json_file(path, None, 1);
    let lines = runtime::logs::read(&log, options, done);
    let mut writer = Writer {
        timestamps: on(&wanted.timestamps),
        left: wanted.limit_bytes.map(|l| l.max(0) as usize),
        inside: false,
    };
    let body = lines.map(move |line| match line {
        Ok(line) => Ok(writer.write(&line)),
        Err(error) => Err(error),
    });
    // An empty piece is what comes after the limit: nothing more will.
    let body = body.take_while(|piece| std::future::ready(!matches!(piece, Ok(p) if p.is_empty())));
    ([("content-type", "text/plain")], Body::from_stream(body)).into_response()
}

/// The highest number among `N.log`.
fn latest_attempt(dir: &std::path::Path) -> Option<u32> {
    let names = std::fs::read_dir(dir).ok()?.flatten().map(|e| e.file_name());
    names.filter_map(|n| n.to_str()?.strip_suffix(".log")?.parse().ok()).max()
}

fn waiting_reason(known: &Known, container: &str) -> String {
    let status = known.pod.object.status();
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let found = lists.iter().filter_map(|l| status[l].as_array()).flatten().find(|c| c["name"] == container);
    let reason = found.and_then(|c| c["state"]["waiting"]["reason"].as_str());
    reason.unwrap_or("ContainerCreating").to_owned()
}

struct Writer {
    timestamps: bool,
    left: Option<usize>,
    /// The last piece did not end its line.
    inside: bool,
}

impl Writer {
    fn write(&mut self, line: &LogLine) -> Bytes {
        let mut out = BytesMut::new();
        if self.timestamps && !self.inside {
            out.extend_from_slice(base::clock::rfc3339_nano(line.time).as_bytes());
            out.extend_from_slice(b" ");
        }
        self.inside = !line.line.ends_with(b"\n");
        out.extend_from_slice(&line.line);
        if let Some(left) = &mut self.left {
            out.truncate(*left);
            *left -= out.len();
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use runtime::Stream;

    use super::*;

    fn line(text: &str) -> LogLine {
        let time = "2026-01-02T03:04:05.5Z".parse().unwrap();
        LogLine {
            stream: Stream::Stdout,
            time,
            line: Bytes::copy_from_slice(text.as_bytes()),
            attributes: Default::default(),
        }
    }

    #[test]
    fn times_and_limits() {
        let mut w = Writer { timestamps: true, left: None, inside: false };
        assert_eq!(w.write(&line("a")), "2026-01-02T03:04:05.5Z a");
        assert_eq!(w.write(&line("b\n")), "b\n");
        assert_eq!(w.write(&line("c\n")), "2026-01-02T03:04:05.5Z c\n");
        let mut w = Writer { timestamps: false, left: Some(5), inside: false };
        let got: Vec<Bytes> = ["abc\n", "def\n", "x\n"].iter().map(|t| w.write(&line(t))).collect();
        assert_eq!(got, ["abc\n", "d", ""]);
    }

    #[test]
    fn the_latest_file() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(latest_attempt(temp.path()), None);
        for name in ["0.log", "10.log", "9.log", "10.log.1", "x.log"] {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        assert_eq!(latest_attempt(temp.path()), Some(10));
    }
}
