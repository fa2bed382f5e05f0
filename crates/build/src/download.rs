//! `ADD http://...`: a download into a temporary file.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt;
use image::http::Client;

/// How long a server may send nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes between two looks at the disk.
const LOOK: usize = 32 << 20;

/// Refuses to fill the disk to the end, on which databases lie too.
fn room(folder: &Path) -> Result<(), String> {
    let disk = rustix::fs::statvfs(folder).map_err(|e| e.to_string())?;
    let reserve = (disk.f_blocks.saturating_mul(disk.f_frsize) / 50).min(1 << 30);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    match free.saturating_sub(reserve) {
        0 => Err(format!(
            "no space left on device: {} MiB are free, of which {} MiB are kept for others",
            free >> 20,
            reserve >> 20
        )),
        _ => Ok(()),
    }
}

/// What came.
pub(crate) struct Download {
    pub file: tempfile::NamedTempFile,
    /// The name that the address ends with.
    pub name: String,
    /// Seconds since 1970, if the server said so; else 0.
    pub mtime: i64,
}

/// Gets `url` into a file below `scratch`.
pub(crate) async fn get(url: &str, scratch: &Path) -> Result<Download, String> {
    let client = Client::new(&[], false).map_err(|e| e.to_string())?;
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let name = path.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let name = name.rsplit('/').next().unwrap_or_default().to_string();
    let response = client.get(url).await.map_err(|e| e.to_string())?;
    let mtime = response
        .headers()
        .get(http::header::LAST_MODIFIED)
        .and_then(|t| jiff::fmt::rfc2822::parse(t.to_str().ok()?).ok())
        .map_or(0, |z| z.timestamp().as_second());
    let mut file = tempfile::NamedTempFile::new_in(scratch).map_err(|e| e.to_string())?;
    let mut body = response.into_body();
    let mut unchecked = 0;
    loop {
        // A peer that vanished sends nothing, not even an end: only time tells.
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
        let frame = frame.map_err(|_| format!("{url}: nothing came for {} s", PATIENCE.as_secs()))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|e| format!("{url}: {e}"))?;
        if let Some(data) = frame.data_ref() {
            if unchecked == 0 {
                room(scratch).map_err(|e| format!("{url}: {e}"))?;
                unchecked = LOOK;
            }
            unchecked = unchecked.saturating_sub(data.len());
            // Pieces of at most some kilobytes into the page cache.
            file.write_all(data).map_err(|e| e.to_string())?;
        }
    }
    Ok(Download { file, name, mtime })
}
