//! One process's standard streams as the shim holds them, and what is queued for its input.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::child::Stdio;
use crate::Stream;
use crate::protocol::{Failure, Step};

/// Queued input beyond which no more is taken from connections.
const QUEUE: usize = 64 * 1024;

/// The shim's ends.
#[derive(Default)]
pub(super) struct Streams {
    /// The terminal's master, or none.
    pub terminal: Option<OwnedFd>,
    /// The writing end of standard input.
    pub stdin: Option<OwnedFd>,
    /// The reading ends of the outputs.
    pub output: [Option<OwnedFd>; 2],
    queue: Vec<u8>,
    end: bool,
}

/// What reading an output gave.
pub(super) enum Read {
    /// So many bytes.
    Data(usize),
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    End,
}

fn nonblocking(fd: &OwnedFd) -> Result<(), Failure> {
    rustix::io::ioctl_fionbio(fd, true).step(|| "make a stream non-blocking".into())
}

impl Streams {
    /// Pipes (or nothing yet, for a terminal) and the child's ends.
    pub(super) fn make(tty: bool, with_stdin: bool) -> Result<(Self, Option<Stdio>), Failure> {
        if tty {
            return Ok((Self::default(), None));
        }
        let pipe = || pipe_with(PipeFlags::CLOEXEC).step(|| "make a pipe".into());
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        nonblocking(&out_read)?;
        nonblocking(&err_read)?;
        let (theirs, ours) = if with_stdin {
            let (read, write) = pipe()?;
            nonblocking(&write)?;
            (read, Some(write))
        } else {
            (super::rootfs::open_null_device()?, None)
        };
        let streams = Self { stdin: ours, output: [Some(out_read), Some(err_read)], ..Default::default() };
        Ok((streams, Some(Stdio { stdin: theirs, stdout: out_write, stderr: err_write })))
    }

    /// Takes the terminal that the child made.
    pub(super) fn set_terminal(&mut self, master: OwnedFd, size: Option<(u16, u16)>) -> Result<(), Failure> {
        nonblocking(&master)?;
        if let Some((rows, cols)) = size {
            resize(&master, rows, cols).step(|| "set the terminal's size".into())?;
        }
        self.output[0] = Some(master.try_clone().step(|| "copy the terminal".into())?);
        self.stdin = Some(master.try_clone().step(|| "copy the terminal".into())?);
        self.terminal = Some(master);
        Ok(())
    }

    /// Reads one output into `buffer`.
    pub(super) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Read {
        let slot = &mut self.output[stream as usize];
        let Some(fd) = slot else { return Read::End };
        match rustix::io::read(fd.as_fd(), buffer) {
            Ok(0) => {}
            Ok(n) => return Read::Data(n),
            Err(Errno::AGAIN | Errno::INTR) => return Read::Nothing,
            // A terminal that nobody has open any more reads as an error.
            Err(_) => {}
        }
        *slot = None;
        Read::End
    }

    /// Bytes that an output holds that nobody reads from any more but the shim: what has been written to it so far.
    pub(super) fn pending(&self, stream: Stream) -> usize {
        let Some(fd) = &self.output[stream as usize] else { return 0 };
        // The kernel does not tell how much is on its way through a terminal; its buffers are smaller than this.
        if self.terminal.is_some() {
            return 128 * 1024;
        }
        rustix::io::ioctl_fionread(fd).map_or(0, |n| n as usize)
    }

    /// Lets the pipe of a busy output hold `bytes`: its writer and the shim then take turns less often. A terminal has no
    /// such thing, and a machine may refuse.
    pub(super) fn widen(&self, stream: Stream, bytes: usize) {
        if let Some(fd) = &self.output[stream as usize] {
            let _ = rustix::pipe::fcntl_setpipe_size(fd, bytes);
        }
    }

    /// Whether both outputs have ended.
    pub(super) fn ended(&self) -> bool {
        self.output.iter().all(Option::is_none)
    }

    /// Whether more input can be taken now.
    pub(super) fn takes_input(&self) -> bool {
        self.queue.len() < QUEUE
    }

    /// Queues input; what can be written is written at once. Without an open input it is dropped.
    pub(super) fn input(&mut self, data: &[u8]) {
        if self.stdin.is_some() && !self.end {
            self.queue.extend_from_slice(data);
            self.flush_input();
        }
    }

    /// Closes the input after what is queued. A terminal has no end: its input just stops.
    pub(super) fn end_input(&mut self) {
        self.end = true;
        self.flush_input();
    }

    /// Whether there is input waiting to be written.
    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty() && self.stdin.is_some()
    }

    /// Writes queued input.
    pub(super) fn flush_input(&mut self) {
        let Some(fd) = &self.stdin else { return };
        let mut done = 0;
        while done < self.queue.len() {
            match rustix::io::write(fd, &self.queue[done..]) {
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    // Nobody reads any more.
                    self.queue = Vec::new();
                    self.stdin = None;
                    return;
                }
            }
        }
        self.queue.drain(..done);
        if self.queue.is_empty() {
            self.queue = Vec::new();
            if self.end {
                if self.terminal.is_none() {
                    self.stdin = None;
                }
                self.end = self.terminal.is_none();
            }
        }
    }
}

/// Sets a terminal's size.
pub(super) fn resize(terminal: &OwnedFd, rows: u16, cols: u16) -> std::io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
