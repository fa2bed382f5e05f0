//! Async streams on blocking threads.

use std::io::{self, Read, Write};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;

/// Reads or writes an async stream from a blocking thread. Made on an async thread, used on a blocking one.
pub struct Bridge<T> {
    inner: T,
    handle: Handle,
}

impl<T> Bridge<T> {
    /// Must be called inside a runtime.
    pub fn new(inner: T) -> Self {
        Self { inner, handle: Handle::current() }
    }
}

impl<T: AsyncRead + Unpin> Read for Bridge<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.handle.block_on(self.inner.read(buf))
    }
}

impl<T: AsyncWrite + Unpin> Write for Bridge<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.handle.block_on(self.inner.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.handle.block_on(self.inner.flush())
    }
}

impl<T: AsyncWrite + Unpin> Bridge<T> {
    /// Flushes and says that nothing more comes.
    pub fn shutdown(&mut self) -> io::Result<()> {
        self.handle.block_on(self.inner.shutdown())
    }
}
