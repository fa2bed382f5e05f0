//! Containers' logs: the table of drivers ([`drivers`]), the process that sends ([`sender`]), and reading, with follow by
//! inotify.
//!
//! Reads what the shim writes (Docker's json-file or local format), over rotations: older files first, compressed ones
//! too. A line that is being written is given when it is complete; a line that cannot be understood (a torn one after a
//! crash) is left out.

pub mod drivers;
pub(crate) mod entry;
pub(crate) mod files;
pub(crate) mod reader;
pub(crate) mod sender;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use crate::{Error, LogSpec, Result, Stream};
use reader::{Form, Reader};

/// Which lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// Only lines at or after this time.
    pub since: Option<Timestamp>,
    /// Only lines at or before this time; a followed log ends with the first later one.
    pub until: Option<Timestamp>,
    /// Only the last so many lines of what is there now, of both outputs together (as Docker counts).
    pub tail: Option<u64>,
    /// Go on with lines written from now on.
    pub follow: bool,
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { since: None, until: None, tail: None, follow: false, stdout: true, stderr: true }
    }
}

impl ReadOptions {
    fn wants(&self, line: &LogLine) -> bool {
        let stream = match line.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        stream && self.since.is_none_or(|since| line.time >= since)
    }
}

/// One line of a log, or a piece of one: `line` ends in a newline unless the container's line was longer than 16 KiB
/// and this is not its last piece, or output ended without a newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Which output.
    pub stream: Stream,
    /// When it was written.
    pub time: Timestamp,
    /// The bytes, with the newline.
    pub line: Bytes,
    /// What the log's options add (`docker logs --details`).
    pub attributes: BTreeMap<String, String>,
}

/// Reads a log; one that is not there (yet), or that cannot be read ([`LogSpec::path`] is none), is empty. A followed log
/// ends when `done` resolves (the container has ended) and what was written until then has been read.
pub fn read<F: Future<Output = ()> + Send + 'static>(
    log: &LogSpec,
    options: ReadOptions,
    done: F,
) -> impl futures::Stream<Item = Result<LogLine>> + Send + 'static + use<F> {
    let form = if matches!(log, LogSpec::JsonFile(_)) { Form::Json } else { Form::Local };
    let state = State {
        reader: log.path().map(|path| Reader::new(path.into(), form, options.tail)),
        watch: None,
        queue: VecDeque::new(),
        done: Box::pin(done),
        finished: false,
        ended: false,
        options,
    };
    futures::stream::unfold(state, |mut state| async {
        let item = state.next().await.transpose()?;
        state.ended |= item.is_err();
        Some((item, state))
    })
}

struct State {
    /// Away while it reads on a blocking thread.
    reader: Option<Reader>,
    watch: Option<AsyncFd<OwnedFd>>,
    queue: VecDeque<LogLine>,
    done: Pin<Box<dyn Future<Output = ()> + Send>>,
    finished: bool,
    ended: bool,
    options: ReadOptions,
}

impl State {
    async fn next(&mut self) -> Result<Option<LogLine>> {
        if self.options.follow
            && self.watch.is_none()
            && !self.ended
            && let Some(reader) = &self.reader
        {
            // Before the first look at the file, so that nothing is written unnoticed in between.
            let path = reader.path();
            self.watch = Some(watch(path).map_err(Error::io(format!("watch {}", path.display())))?);
        }
        loop {
            if self.ended {
                return Ok(None);
            }
            while let Some(line) = self.queue.pop_front() {
                if self.options.until.is_some_and(|until| line.time > until) {
                    self.ended = true;
                    return Ok(None);
                }
                if self.options.wants(&line) {
                    return Ok(Some(line));
                }
            }
            let Some(mut reader) = self.reader.take() else { return Ok(None) };
            let read = tokio::task::spawn_blocking(move || {
                let lines = reader.batch();
                (reader, lines)
            });
            let (reader, lines) =
                read.await.map_err(|e| Error::io("read a log")(std::io::Error::other(e)))?;
            let path = reader.path().display().to_string();
            self.reader = Some(reader);
            let lines = lines.map_err(Error::io(format!("read {path}")))?;
            if !lines.is_empty() {
                self.queue.extend(lines);
                continue;
            }
            match &self.watch {
                Some(watch) if !self.finished => tokio::select! {
                    changed = changed(watch) => changed.map_err(Error::io(format!("watch {path}")))?,
                    () = &mut self.done => self.finished = true, // look once more
                },
                _ => self.ended = true,
            }
        }
    }
}

/// Watches the folder, so that rotation (a new file under the name) is seen as well.
fn watch(path: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&fd, folder, flags)?;
    // Deprecated because its argument could be something that changes its descriptor; an OwnedFd does not. Its successor
    // is an unsafe function, which this crate may not call.
    #[allow(deprecated)]
    AsyncFd::new(fd)
}

/// Waits for a change of the folder.
async fn changed(watch: &AsyncFd<OwnedFd>) -> std::io::Result<()> {
    loop {
        let mut ready = watch.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let drained = ready.try_io(|fd| {
            let (got, _) = rustix::io::read(fd.get_ref(), &mut buffer)?;
            Ok(got.len())
        });
        match drained {
            Ok(result) => return result.map(drop),
            Err(_) => continue, // a false alarm
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures::StreamExt;
    use tokio::sync::oneshot;

    use super::*;

    fn line(n: u32) -> String {
        let stream = if n.is_multiple_of(2) { "stdout" } else { "stderr" };
        format!("{{\"log\":\"line {n}\\n\",\"stream\":\"{stream}\",\"time\":\"2026-01-01T00:00:{n:02}Z\"}}\n")
    }

    fn write(path: &Path, numbers: std::ops::Range<u32>) {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        for n in numbers {
            file.write_all(line(n).as_bytes()).unwrap();
        }
    }

    async fn numbers(path: &Path, options: ReadOptions) -> Vec<u32> {
        let log = LogSpec::json_file(path.into(), None, 1);
        let stream = read(&log, options, std::future::pending());
        stream.map(|l| number(&l.unwrap())).collect().await
    }

    fn number(l: &LogLine) -> u32 {
        std::str::from_utf8(&l.line).unwrap().trim()[5..].parse().unwrap()
    }

    #[tokio::test]
    async fn options_choose_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(numbers(&path, ReadOptions::default()).await.is_empty());
        write(&dir.path().join("log.2"), 0..3);
        write(&dir.path().join("log.1"), 3..6);
        write(&path, 6..9);
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"log\":\"torn").unwrap();
        let all = ReadOptions::default;
        assert_eq!(numbers(&path, all()).await, (0..9).collect::<Vec<_>>());
        assert_eq!(numbers(&path, ReadOptions { tail: Some(2), ..all() }).await, [7, 8]);
        assert_eq!(numbers(&path, ReadOptions { tail: Some(4), ..all() }).await, [5, 6, 7, 8]);
        assert_eq!(numbers(&path, ReadOptions { tail: Some(7), ..all() }).await, [2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(numbers(&path, ReadOptions { tail: Some(99), ..all() }).await.len(), 9);
        assert!(numbers(&path, ReadOptions { tail: Some(0), ..all() }).await.is_empty());
        assert_eq!(numbers(&path, ReadOptions { stderr: false, ..all() }).await, [0, 2, 4, 6, 8]);
        let at = |n: u32| Some(format!("2026-01-01T00:00:{n:02}Z").parse().unwrap());
        let window = ReadOptions { since: at(3), until: at(5), ..all() };
        assert_eq!(numbers(&path, window).await, [3, 4, 5]);
    }

    #[tokio::test]
    async fn follow_sees_writes_rotation_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, 0..2);
        let (end, ended) = oneshot::channel::<()>();
        let options = ReadOptions { follow: true, tail: Some(1), ..ReadOptions::default() };
        let mut stream = Box::pin(read(&LogSpec::json_file(path.clone(), None, 1), options, async {
            let _ = ended.await;
        }));
        assert_eq!(number(&stream.next().await.unwrap().unwrap()), 1);
        write(&path, 2..3);
        assert_eq!(number(&stream.next().await.unwrap().unwrap()), 2);
        // Half a line is not given; two rotations at once lose nothing.
        let half = line(3);
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&half.as_bytes()[..10]).unwrap();
        tokio::time::timeout(std::time::Duration::from_millis(50), stream.next()).await.unwrap_err();
        file.write_all(&half.as_bytes()[10..]).unwrap();
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        write(&path, 4..5);
        std::fs::rename(dir.path().join("log.1"), dir.path().join("log.2")).unwrap();
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        write(&path, 5..6);
        for n in 3..6 {
            assert_eq!(number(&stream.next().await.unwrap().unwrap()), n);
        }
        write(&path, 6..7);
        end.send(()).unwrap();
        assert_eq!(number(&stream.next().await.unwrap().unwrap()), 6);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn truncation_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, 0..3);
        let options = ReadOptions { follow: true, ..ReadOptions::default() };
        let mut stream =
            Box::pin(read(&LogSpec::json_file(path.clone(), None, 1), options, std::future::pending()));
        for n in 0..3 {
            assert_eq!(number(&stream.next().await.unwrap().unwrap()), n);
        }
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        write(&path, 9..10);
        assert_eq!(number(&stream.next().await.unwrap().unwrap()), 9);
    }
}
