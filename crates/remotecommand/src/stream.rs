//! One direction of what is streamed, whatever carries it.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::websocket::Outgoing;
use crate::{Error, spdy};

/// Input from the client.
pub enum Reader {
    /// A stream of its own.
    Spdy {
        /// What comes in.
        reader: spdy::Reader,
        /// The half that nothing is sent on, kept: kubectl sends no more input once that has ended.
        writer: Option<spdy::Writer>,
    },
    /// A channel.
    WebSocket(mpsc::Receiver<Bytes>),
}

impl Reader {
    /// The next bytes; None when the client has finished or is gone.
    pub async fn recv(&mut self) -> Option<Bytes> {
        match self {
            Reader::Spdy { reader, .. } => reader.recv().await,
            Reader::WebSocket(reader) => reader.recv().await,
        }
    }
}

/// Output to the client. Dropping it ends that stream.
pub enum Writer {
    /// A stream of its own.
    Spdy(spdy::Writer),
    /// A channel. Its end is not told to the client; that of the last one closes the connection.
    WebSocket(u8, mpsc::Sender<Outgoing>),
}

impl Writer {
    /// Sends bytes; waits while the client is slow. An error means that the client is gone.
    pub async fn send(&mut self, data: Bytes) -> Result<(), Error> {
        match self {
            Writer::Spdy(writer) => Ok(writer.send(data).await?),
            Writer::WebSocket(channel, sender) => {
                sender.send(Outgoing::Data(*channel, data)).await.map_err(|_| Error::Closed)
            }
        }
    }
}
