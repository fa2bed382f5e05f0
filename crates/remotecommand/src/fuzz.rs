//! What fuzz targets call: connections as clients may hold them, served to their end.

use tokio::io::{AsyncWriteExt, DuplexStream};

use crate::exec::{Streams, over_spdy, over_websocket};
use crate::portforward::{Forwards, ports_of};
use crate::{Error, Outcome, Wanted, spdy};

/// How much waits on the way to a client.
const ROOM: usize = 64 << 10;

/// Everything that a client sends after its request, behind a byte that says what it has asked for.
pub fn session(bytes: &[u8]) {
    let [how, sent @ ..] = bytes else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (near, far) = tokio::io::duplex(ROOM);
        let (mut from, mut to) = tokio::io::split(near);
        let client = async {
            // What does not fit is not taken any more because the server has ended.
            let _ = to.write_all(sent).await;
            let _ = to.shutdown().await;
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        };
        tokio::join!(client, served(far, *how));
    });
}

async fn served(io: DuplexStream, how: u8) {
    let wanted =
        Wanted::from_query(if how & 8 == 0 { "input=1&output=1&error=1" } else { "stdin=true&tty=true" });
    match how % 4 {
        0 => echoed(over_spdy(io, wanted, 4).await).await,
        1 => echoed(over_websocket(io, wanted, 5, how & 16 == 0).await).await,
        2 => forwarded(Forwards::pairs(spdy::Connection::serve(io))).await,
        _ => {
            if let Ok(forwards) = Forwards::channels(io, &[80, 443], how & 16 == 0).await {
                forwarded(forwards).await;
            }
        }
    }
}

/// A program that says what it is told.
async fn echoed(streams: Result<Streams, Error>) {
    let Ok(mut streams) = streams else { return };
    if let Some(mut stdin) = streams.stdin.take() {
        while let Some(data) = stdin.recv().await {
            if let Some(stdout) = &mut streams.stdout
                && stdout.send(data).await.is_err()
            {
                break;
            }
        }
    }
    if let Some(resize) = &mut streams.resize {
        while resize.try_recv().is_ok() {}
    }
    streams.finish(&Outcome::Exit(0)).await;
}

/// Ports behind which somebody says what he is told.
async fn forwarded(mut forwards: Forwards) {
    let mut running = Vec::new();
    while let Some(forward) = forwards.next().await {
        let (near, far) = tokio::io::duplex(ROOM);
        running.push(tokio::spawn(forward.run(near)));
        running.push(tokio::spawn(async {
            let (mut from, mut to) = tokio::io::split(far);
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }));
    }
    for task in running {
        task.await.expect("forwarding ends without a panic");
    }
    forwards.close().await;
}

/// The queries of requests to run something and to forward ports.
pub fn query(text: &str) {
    let _ = Wanted::from_query(text);
    for base64 in [true, false] {
        if let Ok(ports) = ports_of(text, base64) {
            assert!(!ports.contains(&0), "{ports:?}");
        }
    }
}
