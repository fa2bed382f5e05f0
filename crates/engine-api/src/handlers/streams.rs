//! Answers that go on: logs, events, statistics, wait.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use engine::attach::DetachKeys;
use engine::{LogOptions, Sample, WaitCondition};
use futures::StreamExt;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::body::{self, Answer};
use crate::call::Call;
use crate::hijack::{content_type, frame};
use crate::{Error, Result};

/// Which lines of a log a request asks for.
pub(crate) fn log_options(call: &Call) -> Result<LogOptions> {
    let q = &call.query;
    let tail = match q.text("tail") {
        None | Some("all") => None,
        // As Docker: what is no number means all.
        Some(text) => text.parse::<i64>().ok().and_then(|n| u64::try_from(n).ok()),
    };
    Ok(LogOptions {
        stdout: q.flag("stdout"),
        stderr: q.flag("stderr"),
        since: q.time("since")?,
        until: q.time("until")?,
        tail,
        follow: q.flag("follow"),
    })
}

/// A line of a log as it goes over the wire.
pub(crate) fn log_piece(line: &runtime::logs::LogLine, tty: bool, timestamps: bool, details: bool) -> Bytes {
    let mut text = Vec::with_capacity(line.line.len() + 48);
    if timestamps {
        text.extend_from_slice(line.time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ ").to_string().as_bytes());
    }
    if details {
        text.extend_from_slice(attributes(&line.attributes).as_bytes());
        text.push(b' ');
    }
    text.extend_from_slice(&line.line);
    if tty {
        return text.into();
    }
    let mut framed = Vec::with_capacity(text.len() + 8);
    framed.extend_from_slice(&frame(line.stream, text.len()));
    framed.extend_from_slice(&text);
    framed.into()
}

/// `key=value,key=value`, escaped as in a query.
fn attributes(map: &std::collections::BTreeMap<String, String>) -> String {
    let escape =
        |text: &str| percent_encoding::utf8_percent_encode(text, QUERY).to_string().replace("%20", "+");
    map.iter().map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect::<Vec<_>>().join(",")
}

/// What Go's `url.QueryEscape` leaves as it is.
const QUERY: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub(crate) async fn logs(call: Call) -> Result<Answer> {
    let options = log_options(&call)?;
    let tty = call.engine.has_tty(call.id())?;
    if !options.stdout && !options.stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    let (timestamps, details) = (call.query.flag("timestamps"), call.query.flag("details"));
    let lines = call.engine.logs(call.id(), options).await?;
    let pieces = lines.map(move |line| match line {
        Ok(line) => Ok(log_piece(&line, tty, timestamps, details)),
        Err(e) => Err(io::Error::other(e.to_string())),
    });
    Ok(body::stream(content_type(call.version, tty), pieces))
}

pub(crate) async fn wait(call: Call) -> Result<Answer> {
    let condition = match call.query.text("condition") {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => return Err(Error::invalid(format!("invalid condition: \"{other}\""))),
    };
    let waiter = call.engine.wait(call.id(), condition)?;
    // The head of the answer goes out at once: it tells the client that what happens from now on is not missed.
    let done = async move {
        let (code, error) = waiter.done().await;
        let mut document = json!({"StatusCode": code});
        if let Some(message) = error {
            document["Error"] = json!({"Message": message});
        }
        Ok(body::line(&document))
    };
    Ok(body::stream("application/json", futures::stream::once(done)))
}

pub(crate) async fn events(call: Call) -> Result<Answer> {
    let filters = call.query.filters()?;
    let (since, until) = (call.query.time("since")?, until(&call)?);
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(Error::invalid(
            "`since` time (".to_owned()
                + &since.to_string()
                + ") cannot be after `until` time ("
                + &until.to_string()
                + ")",
        ));
    }
    // An end alone asks for all that is remembered until then, too.
    let from = since.or(until.map(|_| jiff::Timestamp::UNIX_EPOCH));
    let (past, mut live) = call.engine.events().subscribe(from);
    let (to, pieces) = mpsc::channel::<io::Result<Bytes>>(64);
    tokio::spawn(async move {
        let early = |time_nano: i64| until.is_none_or(|u| i128::from(time_nano) <= u.as_nanosecond());
        for event in past.iter().filter(|e| early(e.time_nano) && e.matches(&filters)) {
            if to.send(Ok(json_line(event))).await.is_err() {
                return;
            }
        }
        let left = until.map(|u| base::clock::between(base::clock::now(), u));
        if left == Some(Duration::ZERO) {
            return;
        }
        let end = async {
            match left {
                // A timer by nature: the end that was asked for.
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            let event = tokio::select! {
                event = live.recv() => event,
                () = &mut end => return,
                () = to.closed() => return,
            };
            match event {
                Ok(event) if event.matches(&filters) => {
                    if to.send(Ok(json_line(&event))).await.is_err() {
                        return;
                    }
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok(body::stream("application/json", body::channel(pieces)))
}

/// The end of a stream of events; unlike elsewhere 0 is a time, long ago.
fn until(call: &Call) -> Result<Option<jiff::Timestamp>> {
    match call.query.text("until") {
        None => Ok(None),
        Some(text) => Ok(Some(engine::filters::timestamp(text)?)),
    }
}

fn json_line(document: &impl serde::Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(document).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

pub(crate) async fn stats(call: Call) -> Result<Answer> {
    let (engine, id) = (call.engine.clone(), call.id().to_owned());
    let stream = call.query.flag_or("stream", true);
    let one_shot = call.query.flag("one-shot");
    if stream && one_shot {
        return Err(Error::invalid("cannot have stream=true and one-shot=true"));
    }
    let mut sample = Sample::default();
    let first = engine.stats(&id, &mut sample).await?;
    let running = first.as_ref().is_some_and(|f| f["read"] != "0001-01-01T00:00:00Z");
    if one_shot || (!stream && !running) {
        return Ok(body::ok(&first));
    }
    // A timer by nature: usage is a difference between two readings, one second apart.
    let second = Duration::from_secs(1);
    if !stream {
        tokio::time::sleep(second).await;
        return Ok(body::ok(&engine.stats(&id, &mut sample).await?));
    }
    let (to, pieces) = mpsc::channel::<io::Result<Bytes>>(1);
    tokio::spawn(async move {
        let mut next = first;
        while let Some(document) = next {
            if to.send(Ok(json_line(&document))).await.is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(second) => {}
                () = to.closed() => return,
            }
            next = engine.stats(&id, &mut sample).await.ok().flatten();
        }
    });
    Ok(body::stream("application/json", body::channel(pieces)))
}

/// The detach keys of a request.
pub(crate) fn keys(call: &Call) -> Result<DetachKeys> {
    Ok(DetachKeys::parse(call.query.text("detachKeys").unwrap_or(""))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines() {
        let line = runtime::logs::LogLine {
            stream: runtime::Stream::Stderr,
            time: jiff::Timestamp::from_second(1).unwrap(),
            line: "x\n".into(),
            attributes: [("a b".to_owned(), "1,2".to_owned()), ("c".to_owned(), "d".to_owned())].into(),
        };
        assert_eq!(log_piece(&line, true, false, true), "a+b=1%2C2,c=d x\n");
        assert_eq!(log_piece(&line, true, false, false), "x\n");
        assert_eq!(log_piece(&line, true, true, false), "1970-01-01T00:00:01.000000000Z x\n");
        assert_eq!(log_piece(&line, false, false, false).as_ref(), b"\x02\0\0\0\0\0\0\x02x\n");
    }
}
