//! Answers that tell of work while it goes on, as lines of JSON: load, pull, push, build.

use std::io;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::body::{self, Answer};
use crate::{Error, Result};

/// Ends the work when nobody reads any more.
struct Abort(tokio::task::AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `work` and answers with what it tells, rendered line by line, and then with the lines that it returns or its
/// error. An error before it has told anything is the answer itself, with its status code. If the client goes, the
/// work is ended.
pub(crate) async fn lines<T, W>(
    render: fn(T) -> Value,
    work: impl FnOnce(mpsc::Sender<T>) -> W,
) -> Result<Answer>
where
    T: Send + 'static,
    W: Future<Output = Result<Vec<Value>>> + Send + 'static,
{
    let (sender, mut told) = mpsc::channel::<T>(64);
    let work = tokio::spawn(work(sender));
    let abort = Abort(work.abort_handle());
    // Nothing is answered before the first word, or the end.
    let first = told.recv().await;
    let end = async move {
        match work.await {
            Ok(result) => result,
            Err(e) => Err(Error::Body(format!("internal error: {e}"))),
        }
    };
    let Some(first) = first else {
        let lines: Vec<io::Result<Bytes>> = end.await?.iter().map(|l| Ok(body::line(l))).collect();
        return Ok(body::stream("application/json", futures::stream::iter(lines)));
    };
    let (to, pieces) = mpsc::channel::<io::Result<Bytes>>(64);
    tokio::spawn(async move {
        let _abort = abort;
        let mut next = Some(first);
        while let Some(line) = next {
            if to.send(Ok(body::line(&render(line)))).await.is_err() {
                return;
            }
            next = tokio::select! {
                next = told.recv() => next,
                () = to.closed() => return,
            };
        }
        let lines: Vec<Bytes> = match end.await {
            Ok(lines) => lines.iter().map(body::line).collect(),
            Err(e) => vec![body::line(&e.document())],
        };
        for line in lines {
            if to.send(Ok(line)).await.is_err() {
                return;
            }
        }
    });
    Ok(body::stream("application/json", body::channel(pieces)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn text(answer: Answer) -> String {
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn an_error_before_the_first_word_is_the_answer() {
        let early = lines(|n: i32| Value::from(n), |_| async { Err(Error::invalid("no")) }).await;
        assert_eq!(early.unwrap_err().answer().status(), 400);
        let late = lines(
            |n: i32| Value::from(n),
            |to| async move {
                to.send(1).await.unwrap();
                Err(Error::invalid("no"))
            },
        );
        assert_eq!(
            text(late.await.unwrap()).await,
            "1\r\n{\"errorDetail\":{\"message\":\"no\"},\"error\":\"no\"}\r\n"
        );
        let quiet = lines(|n: i32| Value::from(n), |_| async { Ok(vec![Value::from("done")]) });
        assert_eq!(text(quiet.await.unwrap()).await, "\"done\"\r\n");
    }
}
