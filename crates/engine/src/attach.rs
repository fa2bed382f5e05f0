//! Attaching to a container's standard streams, also before it is started; and the detach keys.

use std::sync::Arc;

use runtime::IoStream;
use tokio::sync::oneshot;

use crate::Engine;
use crate::container::{Container, Phase, Waiting};
use crate::error::{Error, Result, conflict, invalid};

/// A container's streams, now or when it starts.
#[derive(Debug)]
pub struct Attachment {
    /// Whether the container has a terminal: its output is raw then, and framed otherwise.
    pub tty: bool,
    stream: oneshot::Receiver<Result<IoStream>>,
}

impl Attachment {
    /// The streams; `None` if the container went away or failed to start.
    pub async fn stream(self) -> Result<Option<IoStream>> {
        match self.stream.await {
            Ok(result) => result.map(Some),
            Err(_) => Ok(None),
        }
    }
}

impl Engine {
    /// A container's output, and its input if asked for: whoever has that ends it by leaving, where it may end.
    pub(crate) async fn open_streams(&self, id: &str, stdin: bool) -> runtime::Result<IoStream> {
        if stdin { self.runtime.attach(id).await } else { self.runtime.watch(id).await }
    }

    /// Attaches, with or without the input. To a container that does not run: when it is started next.
    pub async fn attach(self: &Arc<Self>, reference: &str, stdin: bool) -> Result<Attachment> {
        let (sender, stream) = oneshot::channel();
        if let Some(id) = self.pod(reference)? {
            let tty = self.foreign.get(&id).is_some_and(|s| s.spec.io.tty);
            let _ = sender.send(self.open_streams(&id, stdin).await.map_err(Error::from));
            return Ok(Attachment { tty, stream });
        }
        let container = self.find(reference)?;
        let (phase, tty) = {
            let inner = container.lock();
            (inner.life.phase, inner.asked.config.tty)
        };
        match phase {
            Phase::Running => self.attach_now(&container, sender, stdin).await,
            Phase::Paused => {
                return Err(conflict(format!(
                    "container {} is paused, unpause the container before attach",
                    container.id
                )));
            }
            Phase::Restarting => {
                return Err(conflict(format!(
                    "container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            Phase::Removing | Phase::Dead => {
                return Err(conflict(format!("container {} is being removed", container.id)));
            }
            Phase::Created | Phase::Exited => {
                // Started in between: it has its streams now.
                if let Err(late) = container.attach_later(Waiting { stream: sender, stdin }) {
                    self.attach_now(&container, late.stream, stdin).await;
                }
            }
        }
        self.container_event(&container, "attach", &[]);
        Ok(Attachment { tty, stream })
    }

    /// Gives somebody the streams of a container that runs.
    pub(crate) async fn attach_now(
        &self,
        container: &Container,
        stream: oneshot::Sender<Result<IoStream>>,
        stdin: bool,
    ) {
        match self.open_streams(&container.id, stdin).await {
            // It ended in between: nothing more will come.
            Err(runtime::Error::NotFound { .. } | runtime::Error::InvalidState { .. }) => drop(stream),
            // Whoever asked may have gone.
            other => drop(stream.send(other.map_err(Error::from))),
        }
    }

    /// Tells that a client has left by the detach keys.
    pub fn detached(&self, reference: &str) {
        if let Ok(container) = self.find(reference) {
            self.container_event(&container, "detach", &[]);
        }
    }

    /// Whether a container has a terminal.
    pub fn has_tty(&self, reference: &str) -> Result<bool> {
        if let Some(id) = self.pod(reference)? {
            return Ok(self.foreign.get(&id).is_some_and(|s| s.spec.io.tty));
        }
        Ok(self.find(reference)?.lock().asked.config.tty)
    }
}

/// Finds the detach sequence in what a user types. Bytes that might begin it are held back until it is clear.
#[derive(Debug, Clone)]
pub struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Parses `ctrl-p,ctrl-q`; the empty text is that default.
    pub fn parse(text: &str) -> Result<DetachKeys> {
        let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
        let key = |word: &str| -> Option<u8> {
            if let [byte] = word.as_bytes() {
                return Some(*byte);
            }
            match word.strip_prefix("ctrl-")?.as_bytes() {
                [c @ b'a'..=b'z'] => Some(c - b'a' + 1),
                b"@" => Some(0),
                b"[" => Some(27),
                b"\\" => Some(28),
                b"]" => Some(29),
                b"^" => Some(30),
                b"_" => Some(31),
                _ => None,
            }
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        let keys = keys.ok_or_else(|| invalid(format!("Invalid detach keys ({text}) provided")))?;
        Ok(DetachKeys { keys, matched: 0 })
    }

    /// Takes typed bytes; returns what is to be passed on, and whether the sequence is complete.
    pub fn feed(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(input.len());
        for &byte in input {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if byte == self.keys[0] {
                self.matched = 1;
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.feed(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.feed(b"c\x10"), (b"c".to_vec(), false));
        assert_eq!(keys.feed(b"d"), (b"\x10d".to_vec(), false));
        assert_eq!(keys.feed(b"\x10"), (vec![], false));
        assert_eq!(keys.feed(b"\x11rest"), (vec![], true));
        assert_eq!(DetachKeys::parse("a").unwrap().feed(b"xa"), (b"x".to_vec(), true));
        assert!(DetachKeys::parse("ctrl-").is_err());
        assert!(DetachKeys::parse("ctrl-1").is_err());
    }
}
