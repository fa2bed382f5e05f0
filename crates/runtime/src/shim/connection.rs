//! One connection of a daemon (or of whoever attached through it) to a shim.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use serde::Serialize;

use crate::protocol::{self, HEADER, MAX_FRAME};

/// Unsent output beyond which a process's output is no longer read, so that it waits.
const HIGH: usize = 256 * 1024;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Requests, answers, events.
    Control,
    /// The standard streams of the process with this key.
    Streams(u64),
}

pub(super) struct Connection {
    pub fd: OwnedFd,
    pub role: Role,
    /// Carries a process's output, not its input.
    pub output_only: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// Closed by the other side or broken: to be dropped.
    pub dead: bool,
    /// To be dropped when everything is sent.
    pub closing: bool,
}

impl Connection {
    pub(super) fn new(fd: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd,
            role: Role::Control,
            output_only: false,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            dead: false,
            closing: false,
        })
    }

    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether so much is unsent that its process has to wait.
    pub(super) fn congested(&self) -> bool {
        self.output.len() - self.sent > HIGH
    }

    /// Sends a frame, now as far as possible.
    pub(super) fn send(&mut self, kind: u8, content: &[u8]) {
        protocol::frame(&mut self.output, kind, content);
        self.flush();
    }

    /// Sends a frame with a JSON content.
    pub(super) fn send_json(&mut self, kind: u8, content: &impl Serialize) {
        protocol::json_frame(&mut self.output, kind, content);
        self.flush();
    }

    /// Sends what is unsent.
    pub(super) fn flush(&mut self) {
        while self.sent < self.output.len() {
            let flags = rustix::net::SendFlags::NOSIGNAL;
            match rustix::net::send(&self.fd, &self.output[self.sent..], flags) {
                Ok(n) => self.sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if self.sent > HIGH {
                        self.output.drain(..self.sent);
                        self.sent = 0;
                    }
                    return;
                }
                Err(_) => {
                    self.dead = true;
                    break;
                }
            }
        }
        self.output = Vec::new();
        self.sent = 0;
    }

    /// Reads what has come.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        match rustix::io::read(&self.fd, &mut *buffer) {
            Ok(0) => self.dead = true,
            Ok(n) => self.input.extend_from_slice(&buffer[..n]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.dead = true,
        }
    }

    /// Takes the next complete frame.
    pub(super) fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let (kind, length) = protocol::header(&self.input)?;
        if length > MAX_FRAME {
            self.dead = true;
            return None;
        }
        if self.input.len() < HEADER + length {
            return None;
        }
        let content = self.input[HEADER..HEADER + length].to_vec();
        self.input.drain(..HEADER + length);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Some((kind, content))
    }
}
