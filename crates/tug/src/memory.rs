//! Gives memory back when a server has become idle.
//!
//! A server that has been busy keeps what it needed for that: memory that was freed and that the allocator holds for the
//! next time, and the pages of a large program. It promises that a moment after the last thing has happened both are the
//! kernel's again, and that an idle server is not woken for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::time::Instant;

/// How long nothing must have happened. A timer, because that nothing happens is no event; it runs only after something
/// has happened. Releasing costs a few milliseconds, so that it is not for the pauses between a client's requests.
const PAUSE: Duration = Duration::from_secs(2);

/// Nothing has happened since memory was released: the keeper sleeps until it is woken.
const IDLE: u8 = 0;
/// Nothing has happened since the keeper last looked, which it will do again.
const QUIET: u8 = 1;
/// Something has happened since.
const BUSY: u8 = 2;

/// Releases memory whenever the runtime that is being built has been idle for a while.
pub fn release_when_idle(builder: &mut tokio::runtime::Builder) -> io::Result<()> {
    let watch = watch(PAUSE, release)?;
    // Whatever happens wakes a worker.
    builder.on_thread_unpark(move || watch.stir());
    Ok(())
}

/// Gives back what can be had again.
fn release() {
    api::object::recent::forget();
    sys::memory::trim_heap();
    sys::memory::unmap_program();
}

/// Whoever sees that something happens.
struct Watch {
    state: Arc<AtomicU8>,
    keeper: Thread,
}

impl Watch {
    /// Something happens.
    fn stir(&self) {
        if self.state.load(Ordering::Relaxed) != BUSY && self.state.swap(BUSY, Ordering::Relaxed) == IDLE {
            self.keeper.unpark();
        }
    }
}

/// Starts the keeper, a thread of its own: a task would be what it waits for the end of.
fn watch(pause: Duration, release: impl Fn() + Send + 'static) -> io::Result<Watch> {
    let state = Arc::new(AtomicU8::new(BUSY));
    let seen = state.clone();
    let keeper = thread::Builder::new().name("idle".into()).stack_size(64 * 1024).spawn(move || {
        loop {
            seen.store(QUIET, Ordering::Relaxed);
            let until = Instant::now() + pause;
            while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
                thread::park_timeout(left);
            }
            if seen.load(Ordering::Relaxed) == BUSY {
                continue;
            }
            release();
            if seen.compare_exchange(QUIET, IDLE, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                while seen.load(Ordering::Relaxed) == IDLE {
                    thread::park();
                }
            }
        }
    })?;
    Ok(Watch { state, keeper: keeper.thread().clone() })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use super::*;

    #[test]
    fn once_for_each_time_that_something_happened() {
        let (told, released) = channel();
        let pause = Duration::from_millis(20);
        let watch = watch(pause, move || told.send(()).unwrap()).unwrap();
        let patience = Duration::from_secs(60);
        released.recv_timeout(patience).unwrap();
        assert_eq!(released.recv_timeout(10 * pause), Err(RecvTimeoutError::Timeout), "idle is told once");
        for _ in 0..3 {
            watch.stir();
            watch.stir();
            released.recv_timeout(patience).unwrap();
        }
        assert_eq!(released.recv_timeout(10 * pause), Err(RecvTimeoutError::Timeout));
    }

    #[test]
    fn a_runtime_goes_on_after_its_memory_was_released() {
        let (told, released) = channel();
        let watch = watch(Duration::from_millis(20), move || {
            release();
            let _ = told.send(());
        })
        .unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_unpark(move || watch.stir())
            .build()
            .unwrap();
        for round in 1..4usize {
            released.recv_timeout(Duration::from_secs(60)).unwrap();
            let sum = runtime.block_on(async move {
                let parts = (0..100).map(|i| tokio::spawn(async move { vec![i; 100 * round].len() }));
                futures::future::join_all(parts).await.into_iter().map(Result::unwrap).sum::<usize>()
            });
            assert_eq!(sum, 10_000 * round);
        }
    }
}
