//! The process that sends one container's log: `tug shim --log-sender`, started by the shim in the container's bundle,
//! with a socket as standard input.
//!
//! The driver connects first; the word that it is ready, or why not, goes back to the shim. Then entries come in and are
//! sent one after another. What waits is bounded: in blocking mode no more is read than is sent, in non-blocking mode
//! new entries are dropped when the buffer that the user sized is full. When the shim has ended, what waits is sent for
//! as long as Docker would.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::drivers::{self, Sender};
use super::entry::{self, Entry, Record};
use crate::protocol::{ShimConfig, ShimKind};
use crate::shim::helper::READY;
use crate::{LogSpec, RemoteLog};

/// Bytes that wait in blocking mode, so that reading and sending overlap.
const WAITING: u64 = 64 * 1024;
/// How long is sent after the container's end, as with Docker.
const CLOSING: Duration = Duration::from_secs(10);

/// Runs it.
pub(crate) fn main() -> io::Result<()> {
    sys::memory::frugal_heap();
    let _ = nix::sys::prctl::set_name(c"tug-log");
    let config: ShimConfig = serde_json::from_slice(&std::fs::read("shim.json")?)?;
    let ShimKind::Container(config) = config.kind else {
        return Err(io::Error::other("a sandbox has no log"));
    };
    let LogSpec::Remote(log) = config.io.log else {
        return Err(io::Error::other("this log is not sent"));
    };
    // The bundle may be removed while the last entries are being sent.
    rustix::process::chdir("/")?;
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(async { run(UnixStream::from_std(socket)?, *log).await }))
}

async fn run(mut socket: UnixStream, log: RemoteLog) -> io::Result<()> {
    let buffer = log.buffer;
    let sender = match drivers::connect(log).await {
        Ok(sender) => sender,
        Err(e) => return socket.write_all(e.to_string().as_bytes()).await,
    };
    socket.write_all(READY).await?;
    relay(socket, sender, buffer).await;
    Ok(())
}

/// What waits to be sent.
#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: u64,
    ended: bool,
}

/// What an entry takes of the buffer. Not its text alone: empty lines would fill the memory without ever counting.
fn weight(entry: &Entry) -> u64 {
    (entry.line.len() + size_of::<Entry>()) as u64
}

/// Carries entries from the shim to the driver until the shim has ended.
async fn relay(mut socket: UnixStream, mut sender: Box<dyn Sender>, buffer: Option<u64>) {
    let queue = RefCell::new(Queue::default());
    let (filled, emptied) = (Notify::new(), Notify::new());
    let read = async {
        let mut bytes = Vec::with_capacity(32 * 1024);
        while matches!(socket.read_buf(&mut bytes).await, Ok(n) if n > 0) {
            let mut done = 0;
            while let Record::Whole(length, entry) = entry::decode(&bytes[done..]) {
                done += length;
                let Some(entry) = entry else { continue };
                let size = weight(&entry);
                let full = |limit: u64| {
                    let queue = queue.borrow();
                    !queue.entries.is_empty() && queue.bytes + size > limit
                };
                match buffer {
                    Some(limit) if full(limit) => continue,
                    Some(_) => {}
                    None => {
                        while full(WAITING) {
                            emptied.notified().await;
                        }
                    }
                }
                let mut queue = queue.borrow_mut();
                queue.bytes += size;
                queue.entries.push_back(entry);
                filled.notify_one();
            }
            bytes.drain(..done);
        }
        queue.borrow_mut().ended = true;
        filled.notify_one();
        // The last words have their time.
        tokio::time::sleep(CLOSING).await;
    };
    let send = async {
        let mut failing = false;
        loop {
            let next = {
                let mut queue = queue.borrow_mut();
                let next = queue.entries.pop_front();
                if next.is_none() && queue.ended {
                    return;
                }
                queue.bytes -= next.as_ref().map_or(0, weight);
                next
            };
            let Some(entry) = next else {
                filled.notified().await;
                continue;
            };
            emptied.notify_one();
            let result = sender.send(entry).await;
            // Once per trouble: the shim's own log must not grow with it.
            match &result {
                Err(e) if !failing => eprintln!("log: {e}"),
                Ok(()) if failing => eprintln!("log: sent again"),
                _ => {}
            }
            failing = result.is_err();
        }
    };
    tokio::select! {
        () = read => {}
        () = send => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::Stream;

    struct Slow(Arc<Mutex<Vec<usize>>>, Arc<Semaphore>);

    #[async_trait]
    impl Sender for Slow {
        async fn send(&mut self, entry: Entry) -> io::Result<()> {
            self.1.acquire().await.map_err(io::Error::other)?.forget();
            self.0.lock().unwrap().push(entry.line.len());
            Ok(())
        }
    }

    fn record(size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        entry::encode(&mut out, &vec![b'x'; size], Stream::Stdout, jiff::Timestamp::UNIX_EPOCH, None, &[]);
        out
    }

    #[tokio::test]
    async fn a_full_buffer_drops_and_the_container_goes_on() {
        let (mut shim, ours) = UnixStream::pair().unwrap();
        let (sent, permits) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let relay = relay(ours, Box::new(Slow(sent.clone(), permits.clone())), Some(10_000));
        let feed = async {
            // Far more than the sockets and the buffer hold: all is taken although nothing is sent.
            for _ in 0..2000 {
                shim.write_all(&record(1000)).await.unwrap();
            }
            drop(shim);
            permits.add_permits(5000);
        };
        tokio::join!(relay, feed);
        let sent = sent.lock().unwrap().len();
        assert!((1..=200).contains(&sent), "{sent}");
    }

    #[tokio::test]
    async fn empty_lines_fill_the_buffer_too() {
        let (mut shim, ours) = UnixStream::pair().unwrap();
        let (sent, permits) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let relay = relay(ours, Box::new(Slow(sent.clone(), permits.clone())), Some(10_000));
        let lines = record(0).repeat(100_000);
        let feed = async {
            shim.write_all(&lines).await.unwrap();
            drop(shim);
            permits.add_permits(200_000);
        };
        tokio::join!(relay, feed);
        // Those of the buffer, and what was still in the socket.
        let sent = sent.lock().unwrap().len();
        assert!((1..20_000).contains(&sent), "{sent}");
    }

    #[tokio::test]
    async fn blocking_loses_nothing() {
        let (mut shim, ours) = UnixStream::pair().unwrap();
        let (sent, permits) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let relay = relay(ours, Box::new(Slow(sent.clone(), permits.clone())), None);
        let fed = std::cell::Cell::new(0);
        let feed = async {
            for _ in 0..2000 {
                shim.write_all(&record(1000)).await.unwrap();
                fed.set(fed.get() + 1);
            }
            drop(shim);
        };
        let watch = async {
            // Until it goes on no more: the container waits.
            let mut before = usize::MAX;
            while before != fed.get() {
                before = fed.get();
                for _ in 0..1000 {
                    tokio::task::yield_now().await;
                }
            }
            assert!((1..1500).contains(&before), "{before}");
            permits.add_permits(5000);
        };
        tokio::join!(relay, feed, watch);
        assert_eq!(sent.lock().unwrap().len(), 2000);
    }
}
