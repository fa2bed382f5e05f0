//! Images: lists, documents, tags, removal, and the streams of load, save, import, pull and push.

use std::io;

use engine::CommitRequest;
use engine::model::Config;
use http::StatusCode;
use image::{Import, Platform, Progress, reference};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use crate::body::{self, Answer};
use crate::call::Call;
use crate::progress;
use crate::{Error, Result, compat};

pub(crate) async fn list(call: Call) -> Result<Answer> {
    let q = &call.query;
    let mut filters = q.filters()?;
    if let Some(name) = q.text("filter") {
        filters = filters.with("reference", name);
    }
    let options = engine::ImageListOptions {
        all: q.flag("all"),
        shared: q.flag("shared-size"),
        manifests: q.flag("manifests") && call.at_least(1, 47),
        virtual_size: !call.at_least(1, 44),
    };
    Ok(body::ok(&call.engine.image_list(&filters, &options)?))
}

pub(crate) async fn inspect(call: Call) -> Result<Answer> {
    let platform = one_platform(&call, 49)?;
    let manifests = call.query.flag("manifests") && call.at_least(1, 48);
    if manifests && platform.is_some() {
        return Err(Error::invalid("conflicting options: manifests and platform options cannot both be set"));
    }
    let mut document = call.engine.image_inspect(call.id(), platform.as_ref(), manifests)?;
    compat::image(call.version, &mut document);
    Ok(body::ok(&document))
}

pub(crate) async fn history(call: Call) -> Result<Answer> {
    let platform = one_platform(&call, 48)?;
    Ok(body::ok(&call.engine.image_history(call.id(), platform.as_ref())?))
}

pub(crate) async fn tag(call: Call) -> Result<Answer> {
    let target = target(call.query.text("repo"), call.query.text("tag"))?
        .ok_or_else(|| Error::invalid("invalid reference format: repo must not be empty"))?;
    call.engine.image_tag(call.id(), &target).await?;
    Ok(body::empty(StatusCode::CREATED))
}

/// `repo` and `tag` of a query as one reference.
fn target(repo: Option<&str>, tag: Option<&str>) -> Result<Option<String>> {
    let Some(repo) = repo else { return Ok(None) };
    let whole = match tag {
        Some(tag) if tag.contains(':') => format!("{repo}@{tag}"),
        Some(tag) => format!("{repo}:{tag}"),
        None => repo.to_owned(),
    };
    reference::parse(&whole)?;
    Ok(Some(whole))
}

pub(crate) async fn remove(call: Call) -> Result<Answer> {
    let q = &call.query;
    let platforms: Vec<Platform> = match call.at_least(1, 50) {
        true => q.all("platforms").iter().map(|p| decode_platform(p)).collect::<Result<_>>()?,
        false => Vec::new(),
    };
    let (force, no_prune) = (q.flag("force"), q.flag("noprune"));
    Ok(body::ok(&call.engine.image_remove(call.id(), &platforms, force, no_prune).await?))
}

pub(crate) async fn prune(call: Call) -> Result<Answer> {
    Ok(body::ok(&call.engine.image_prune(&call.query.filters()?).await?))
}

/// A platform as OCI's descriptors write it (`{"os": ..., "architecture": ...}`).
fn decode_platform(text: &str) -> Result<Platform> {
    #[derive(serde::Deserialize)]
    #[serde(default, rename_all = "lowercase")]
    #[derive(Default)]
    struct Given {
        os: String,
        architecture: String,
        variant: String,
        #[serde(rename = "os.version")]
        version: String,
        #[serde(rename = "os.features")]
        features: Vec<String>,
    }
    let given: Given = engine::model::decode(text.as_bytes())
        .map_err(|e| Error::invalid(format!("failed to parse platform: {e}")))?;
    match (given.os.is_empty(), given.architecture.is_empty()) {
        (false, false) => {
            Ok(Platform { os: given.os, architecture: given.architecture, variant: given.variant })
        }
        (true, true)
            if !(given.variant.is_empty() && given.version.is_empty() && given.features.is_empty()) =>
        {
            Err(Error::invalid("optional platform fields provided, but OS and Architecture are missing"))
        }
        _ => Err(Error::invalid("both OS and Architecture must be provided")),
    }
}

/// The platform that a request about images names, since that version of the API; one at most, until API 1.52.
fn one_platform(call: &Call, since: u32) -> Result<Option<Platform>> {
    if !call.at_least(1, since) {
        return Ok(None);
    }
    match call.query.all("platform").as_slice() {
        [] => Ok(None),
        [one] if one.is_empty() => Ok(None),
        [one] => decode_platform(one).map(Some),
        _ => Err(Error::invalid(
            "multiple platform parameters are not supported in this API version; use API version 1.52 or later",
        )),
    }
}

/// One line of progress in the API's form.
pub(crate) fn progress_line(p: Progress) -> Value {
    if let Some((tag, digest, size)) = p.pushed {
        return json!({"progressDetail": {}, "aux": {"Tag": tag, "Digest": digest, "Size": size}});
    }
    let mut line = json!({"status": p.status});
    if !p.id.is_empty() {
        line["id"] = json!(p.id);
        line["progressDetail"] = json!({});
    }
    if let Some(current) = p.current {
        line["progressDetail"]["current"] = json!(current);
        if let Some(total) = p.total {
            line["progressDetail"]["total"] = json!(total);
        }
        line["progress"] = json!(bar(current, p.total));
    }
    line
}

/// The bar that old clients print: `[==>   ]  1.2MB/3MB`.
fn bar(current: u64, total: Option<u64>) -> String {
    let size = |n: u64| match n {
        0..1_000 => format!("{n}B"),
        1_000..1_000_000 => format!("{:.4}kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.4}MB", n as f64 / 1e6),
        _ => format!("{:.4}GB", n as f64 / 1e9),
    };
    match total.filter(|t| *t > 0) {
        None => size(current),
        Some(total) => {
            let done = usize::try_from(current.min(total) * 50 / total).unwrap_or(50);
            let head = if done < 50 { ">" } else { "" };
            format!(
                "[{}{head}{}]  {}/{}",
                "=".repeat(done),
                " ".repeat(50 - done - head.len()),
                size(current),
                size(total)
            )
        }
    }
}

fn platform(call: &Call) -> Result<Option<Platform>> {
    Ok(call.query.text("platform").map(Platform::parse).transpose()?)
}

/// Pull, or import (`fromSrc`).
pub(crate) async fn create(call: Call) -> Result<Answer> {
    if call.query.has("fromSrc") {
        return import(call).await;
    }
    let name =
        call.query.text("fromImage").ok_or_else(|| Error::invalid("fromImage or fromSrc must be given"))?;
    let whole = target(Some(name), call.query.text("tag"))?.unwrap_or_default();
    let (auth, platform, engine) = (call.registry_auth()?, platform(&call)?, call.engine.clone());
    // Without a tag all of them are meant: who wants the latest says so.
    let r = reference::parse(&whole)?;
    let all = r.tag.is_none() && r.digest.is_none();
    progress::lines(progress_line, move |progress| async move {
        if all {
            engine.image_pull_all(&whole, auth, platform, progress).await?;
        } else {
            engine.image_pull(&whole, auth, platform, progress).await?;
        }
        Ok(Vec::new())
    })
    .await
}

async fn import(call: Call) -> Result<Answer> {
    let q = &call.query;
    let source = q.text("fromSrc").unwrap_or("").to_owned();
    let mut config = image::Config::default();
    build::changes(&mut config, &q.all("changes")).map_err(|e| Error::invalid(e.to_string()))?;
    let import = Import {
        reference: target(q.text("repo"), q.text("tag"))?,
        message: q.text("message").map_or_else(|| format!("Imported from {source}"), str::to_owned),
        config,
        platform: platform(&call)?,
    };
    let engine = call.engine.clone();
    if source != "-" {
        let url = if source.contains("://") { source } else { format!("http://{source}") };
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Error::invalid(format!(
                "importing from {url}: only http:// and https:// addresses, and \"-\" for the request's own body, can be \
                 imported"
            )));
        }
        let response = image::http::Client::new(&[], false)?.get(&url).await?;
        return progress::lines(progress_line, move |progress| async move {
            let image = engine.image_import(downloaded(url, response, progress).await, import).await?;
            Ok(vec![json!({"status": image.id})])
        })
        .await;
    }
    let image = engine.image_import(body::upload_reader(call.request.into_body()), import).await?;
    Ok(body::stream(
        "application/json",
        futures::stream::iter([Ok(body::line(&json!({"status": image.id})))]),
    ))
}

/// The body of an answer, while it is told how much of it has come.
async fn downloaded(
    url: String,
    response: http::Response<hyper::body::Incoming>,
    progress: mpsc::Sender<Progress>,
) -> impl tokio::io::AsyncRead + Send + Unpin + 'static {
    let total = response.headers().get(http::header::CONTENT_LENGTH);
    let total = total.and_then(|l| l.to_str().ok()?.parse().ok());
    let first = Progress { status: format!("Downloading from {url}"), ..Progress::default() };
    let _ = progress.send(first).await; // whoever went away ends the work
    let (mut done, mut told) = (0, 0);
    body::watched(response.into_body(), move |length| {
        done += length;
        if done - told >= 512 << 10 || Some(done) == total {
            told = done;
            // A slow listener misses lines rather than slowing the download.
            let _ = progress.try_send(Progress {
                status: "Importing".into(),
                current: Some(done),
                total,
                ..Progress::default()
            });
        }
    })
}

pub(crate) async fn load(call: Call) -> Result<Answer> {
    let engine = call.engine.clone();
    let quiet = call.query.flag("quiet");
    let platform = one_platform(&call, 48)?;
    let tar = body::upload_reader(call.request.into_body());
    progress::lines(progress_line, move |progress| async move {
        // A broken archive is told in the stream: the client has sent all of it by then.
        let loaded = match engine.image_load(tar, platform, (!quiet).then_some(progress)).await {
            Ok(loaded) => loaded,
            Err(e) => return Ok(vec![Error::from(e).document()]),
        };
        let mut lines = Vec::new();
        for one in loaded {
            if one.references.is_empty() {
                lines.push(json!({"stream": format!("Loaded image ID: {}\n", one.image.id)}));
            }
            for name in one.references {
                lines.push(json!({"stream": format!("Loaded image: {name}\n")}));
            }
        }
        Ok(lines)
    })
    .await
}

fn archive(call: &Call, names: Vec<String>) -> Result<Answer> {
    let platform = one_platform(call, 48)?;
    if names.is_empty() {
        return Err(Error::invalid("no images to save: give names"));
    }
    let engine = call.engine.clone();
    engine.images().can_save(&names, platform.as_ref())?;
    let (near, far) = tokio::io::duplex(1 << 18);
    let (to, mut failed) = mpsc::channel::<io::Error>(1);
    tokio::spawn(async move {
        if let Err(e) = engine.image_save(&names, platform.as_ref(), near).await {
            let _ = to.send(io::Error::other(e.to_string())).await; // the client may be gone
        }
    });
    // A failure breaks the stream off, so that the client does not take half an archive for a whole one.
    let end = futures::stream::once(async move { failed.recv().await });
    let end = futures::StreamExt::filter_map(end, |e| async move { e.map(Err) });
    let pieces = futures::StreamExt::chain(ReaderStream::with_capacity(far, 1 << 16), end);
    Ok(body::stream("application/x-tar", pieces))
}

pub(crate) async fn save(call: Call) -> Result<Answer> {
    archive(&call, call.query.all("names"))
}

pub(crate) async fn save_one(call: Call) -> Result<Answer> {
    archive(&call, vec![call.id().to_owned()])
}

pub(crate) async fn push(call: Call) -> Result<Answer> {
    let whole = target(Some(call.id()), call.query.text("tag"))?.unwrap_or_default();
    let (auth, engine) = (call.registry_auth()?, call.engine.clone());
    let platform = one_platform(&call, 46)?;
    engine.images().can_push(&whole, platform.as_ref())?;
    progress::lines(progress_line, move |progress| async move {
        engine.image_push(&whole, auth, platform.as_ref(), progress).await?;
        Ok(Vec::new())
    })
    .await
}

pub(crate) async fn search(call: Call) -> Result<Answer> {
    let q = &call.query;
    let term = q.text("term").ok_or_else(|| Error::invalid("term must be given"))?;
    let (filters, auth) = (q.filters()?, call.registry_auth()?);
    Ok(body::ok(&call.engine.image_search(term, q.number("limit")?, &filters, auth).await?))
}

pub(crate) async fn distribution(call: Call) -> Result<Answer> {
    let auth = call.registry_auth()?;
    Ok(body::ok(&call.engine.image_distribution(call.id(), auth).await?))
}

pub(crate) async fn commit(call: Call) -> Result<Answer> {
    let q = &call.query;
    let container = q.text("container").ok_or_else(|| Error::invalid("container must be given"))?.to_owned();
    let reference = target(q.text("repo"), q.text("tag"))?;
    let changes = q.all("changes");
    let (comment, author) =
        (q.text("comment").unwrap_or("").to_owned(), q.text("author").unwrap_or("").to_owned());
    let pause = q.flag_or("pause", true);
    let engine = call.engine.clone();
    let mut config = engine.commit_config(&container)?;
    let own: Option<Config> = {
        let bytes = call.bytes().await?;
        if bytes.iter().all(u8::is_ascii_whitespace) || bytes.as_ref() == b"null" {
            None
        } else {
            Some(engine::model::decode(&bytes).map_err(|e| Error::invalid(format!("invalid JSON: {e}")))?)
        }
    };
    if let Some(own) = own {
        config = engine::merge_config(own, &config);
    }
    build::changes(&mut config, &changes).map_err(|e| Error::invalid(e.to_string()))?;
    let request = CommitRequest { reference, comment, author, pause, config };
    let id = engine.commit(&container, request).await?;
    Ok(body::json(StatusCode::CREATED, &json!({"Id": id})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        let arm = decode_platform(r#"{"os":"linux","architecture":"arm","variant":"v6"}"#).unwrap();
        assert_eq!(arm.to_string(), "linux/arm/v6");
        for (text, why) in [
            ("linux/arm", "failed to parse platform: "),
            (r#"{"os":"linux"}"#, "both OS and Architecture must be provided"),
            (r#"{}"#, "both OS and Architecture must be provided"),
            (r#"{"variant":"v6"}"#, "optional platform fields provided, but OS and Architecture are missing"),
        ] {
            let error = decode_platform(text).unwrap_err().document().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn targets_and_bars() {
        assert_eq!(target(Some("a/b"), Some("1")).unwrap().as_deref(), Some("a/b:1"));
        assert_eq!(target(Some("host:5000/a"), None).unwrap().as_deref(), Some("host:5000/a"));
        assert!(target(Some("Upper"), None).is_err());
        assert_eq!(bar(50, Some(100)).matches('=').count(), 25);
        assert!(bar(100, Some(100)).contains("100B/100B"));
    }
}
