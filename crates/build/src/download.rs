//! `ADD http://...`: a download into a temporary file.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt;
use image::archive::Room;
use image::http::Client;

/// How long a server may send nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came.
#[derive(Debug)]
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
    // Its disk is others' too, on which their databases lie.
    let on_disk = |e: std::io::Error| format!("{url}: {}", image::Error::from(e));
    let mut file = tempfile::NamedTempFile::new_in(scratch).map_err(on_disk)?;
    let mut room = Room::new(file.as_file()).map_err(on_disk)?;
    let mut body = response.into_body();
    loop {
        // A peer that vanished sends nothing, not even an end: only time tells.
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
        let frame = frame.map_err(|_| format!("{url}: nothing came for {} s", PATIENCE.as_secs()))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|e| format!("{url}: {e}"))?;
        if let Some(data) = frame.data_ref() {
            room.take(file.as_file(), data.len() as u64).map_err(on_disk)?;
            // Pieces of at most some kilobytes into the page cache.
            file.write_all(data).map_err(on_disk)?;
        }
    }
    Ok(Download { file, name, mtime })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A small disk, which goes with the value.
    struct SmallDisk(tempfile::TempDir);

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }

    #[tokio::test]
    async fn a_download_leaves_room_and_says_what_helps() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let disk = SmallDisk(tempfile::tempdir().unwrap());
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("build-test", disk.0.path(), "tmpfs", flags, Some(c"size=4m")).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/large", listener.local_addr().unwrap());
        let serve = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 16777216\r\n\r\n").await;
            // It ends when the other side has had enough.
            while stream.write_all(&[7; 65536]).await.is_ok() {}
        });
        let error = get(&url, disk.0.path()).await.err().unwrap();
        assert!(error.starts_with(&format!("{url}: no space left on device: ")), "{error}");
        assert!(error.ends_with("remove images or files, or use a larger disk"), "{error}");
        assert_eq!(std::fs::read_dir(disk.0.path()).unwrap().count(), 0);
        serve.await.unwrap();
    }
}
