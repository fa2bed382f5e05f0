//! WebSocket frames on a connection that has been upgraded, and what their messages say.
#![no_main]

use futures::StreamExt;
use remotecommand::websocket;
use tokio::io::AsyncWriteExt;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [form, rest @ ..] = bytes else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        near.write_all(rest).await.unwrap();
        near.shutdown().await.unwrap();
        let mut messages = websocket::accept(far).await;
        while let Some(Ok(message)) = messages.next().await {
            let _ = websocket::decode(message, form % 2 == 0);
        }
    });
});
