//! `ADD http://...`: a download into a temporary file.

use std::io::Write;
use std::path::Path;

use http_body_util::BodyExt;
use image::http::{Client, full};

/// What came.
pub(crate) struct Download {
    pub file: tempfile::NamedTempFile,
    /// The name that the address ends with.
    pub name: String,
    /// Seconds since 1970, if the server said so; else 0.
    pub mtime: i64,
}

/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// Gets `url` into a file below `scratch`.
pub(crate) async fn get(url: &str, scratch: &Path) -> Result<Download, String> {
    let client = Client::new(&[], false).map_err(|e| e.to_string())?;
    let mut at: http::Uri = url.parse().map_err(|e| format!("parse {url:?}: {e}"))?;
    let name = at.path().rsplit('/').next().unwrap_or_default().to_string();
    for _ in 0..REDIRECTS {
        let host = at.authority().map(ToString::to_string).unwrap_or_default();
        let request = http::Request::get(at.clone())
            .header("host", host)
            .header("user-agent", concat!("tug/", env!("CARGO_PKG_VERSION")))
            .body(full(""))
            .map_err(|e| e.to_string())?;
        let response = client.send(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let header =
            |n: &str| response.headers().get(n).and_then(|v| v.to_str().ok()).map(ToString::to_string);
        if status.is_redirection()
            && let Some(location) = header("location")
        {
            at = resolve(&at, &location)?;
            continue;
        }
        if !status.is_success() {
            return Err(format!("failed to GET {url} with status {status}"));
        }
        let mtime = header("last-modified")
            .and_then(|t| jiff::fmt::rfc2822::parse(&t).ok())
            .map_or(0, |z| z.timestamp().as_second());
        let mut file = tempfile::NamedTempFile::new_in(scratch).map_err(|e| e.to_string())?;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| format!("{url}: {e}"))?;
            if let Some(data) = frame.data_ref() {
                // Pieces of at most some kilobytes into the page cache.
                file.write_all(data).map_err(|e| e.to_string())?;
            }
        }
        return Ok(Download { file, name, mtime });
    }
    Err(format!("{url}: too many redirects"))
}

fn resolve(base: &http::Uri, location: &str) -> Result<http::Uri, String> {
    let bad = |e: &dyn std::fmt::Display| format!("redirect to {location:?}: {e}");
    let uri: http::Uri = location.parse().map_err(|e| bad(&e))?;
    if uri.scheme().is_some() {
        return Ok(uri);
    }
    let mut parts = base.clone().into_parts();
    let path = if location.starts_with('/') {
        location.to_string()
    } else {
        let dir = base.path().rsplit_once('/').map_or("", |(d, _)| d);
        format!("{dir}/{location}")
    };
    parts.path_and_query = Some(path.parse().map_err(|e| bad(&e))?);
    http::Uri::from_parts(parts).map_err(|e| bad(&e))
}
