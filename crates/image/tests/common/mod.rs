//! What tests of registries and archives share: parts of archives, and a registry that answers as it is told.

#![allow(dead_code)] // each test uses its part

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use image::archive::compress::digest_of;
use image::archive::tar::{self, Entry, Kind};
use image::{Error, ImageStore, RegistryConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub fn entry(path: impl Into<Vec<u8>>, kind: Kind, data: &[u8]) -> Vec<u8> {
    let mut e = Entry::new(path, kind);
    e.size = data.len() as u64;
    let mut out = Vec::new();
    tar::write_entry(&mut out, &e, data).unwrap();
    out
}

pub fn ended(mut entries: Vec<u8>) -> Vec<u8> {
    entries.extend_from_slice(&tar::END);
    entries
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

/// A registry that answers what `answer` says to each request's head; `None` says nothing and keeps the line open.
pub async fn registry(answer: impl Fn(&str, u32) -> Option<Vec<u8>> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, count) = (answer.clone(), count.clone());
            tokio::spawn(async move {
                let _ = talk(stream, &*answer, &count).await;
            });
        }
    });
    address
}

async fn talk(
    mut stream: TcpStream,
    answer: &(dyn Fn(&str, u32) -> Option<Vec<u8>> + Send + Sync),
    count: &std::sync::atomic::AtomicU32,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(b) => head.push(b),
            Err(_) => return Ok(()),
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let line = text.lines().next().unwrap_or_default().to_string();
    if line.contains(" /v2/ ") {
        return stream.write_all(&ok("application/json", b"{}")).await;
    }
    let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let hold = match answer(&text, n) {
        Some(bytes) => {
            let part = bytes.strip_prefix(HOLD);
            stream.write_all(part.unwrap_or(&bytes)).await?;
            part.is_some()
        }
        None => true,
    };
    if hold {
        // The client must give up, not we.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
    }
    Ok(())
}

/// Before an answer after which the connection stays open, silent.
pub const HOLD: &[u8] = b"HOLD";

pub fn reply(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut out =
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len())
            .into_bytes();
    out.extend_from_slice(body);
    out
}

pub fn ok(kind: &str, body: &[u8]) -> Vec<u8> {
    reply("200 OK", &format!("content-type: {kind}\r\n"), body)
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image of one layer: manifest, configuration, and the compressed layer.
pub struct Made {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layer: Vec<u8>,
}

pub fn made() -> Made {
    let mut noise = vec![0u8; 300_000];
    base::rng::fill(&mut noise);
    let tar = ended(entry("file", Kind::File, &noise));
    let layer = gzip(&tar);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        digest_of(&tar)
    )
    .into_bytes();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":{}}}]}}"#,
        digest_of(&config),
        config.len(),
        digest_of(&layer),
        layer.len()
    )
    .into_bytes();
    Made { manifest, config, layer }
}

impl Made {
    /// The layer, uncompressed.
    pub fn plain(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&self.layer[..]), &mut plain).unwrap();
        plain
    }

    /// An honest answer.
    pub fn answer(&self, line: &str) -> Vec<u8> {
        if line.contains("/manifests/") {
            ok(MANIFEST, &self.manifest)
        } else if line.contains(&digest_of(&self.config)) {
            ok("application/octet-stream", &self.config)
        } else {
            ok("application/octet-stream", &self.layer)
        }
    }
}

/// Of the registry of a test, which waits for the end of a greeting by TLS: whoever asks it so gives up soon.
pub fn impatient(store: &ImageStore) {
    store.configure_registries(RegistryConfig {
        patience: Duration::from_secs(1),
        ..RegistryConfig::default()
    });
}

pub async fn pull(store: &Arc<ImageStore>, address: &str) -> Result<Arc<image::Image>, Error> {
    impatient(store);
    let (tx, mut rx) = tokio::sync::mpsc::channel(100);
    let name = format!("{address}/app:1");
    let (result, ()) =
        tokio::join!(store.pull(&name, None, None, tx), async { while rx.recv().await.is_some() {} });
    result
}
