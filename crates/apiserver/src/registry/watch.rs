//! Watches: what is there, then what happens, as bytes for the wire or as shared objects for this process.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::codec::MediaType;
use api::object::Encoded;
use api::selector::{Field, Label};
use api::table::Include;
use api::{Object, Status};
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use http::{Response, StatusCode, header};
use serde_json::json;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::render::{render_event, reply};
use super::{Context, parse_selectors};
use crate::ApiServer;
use crate::body::{Body, BoxError};
use crate::cache::{Change, Expired, Watcher, frame};
use crate::conversion::Converter;
use crate::metrics::Running;
use crate::negotiate::{Accept, Form};
use crate::query::{ListOptions, VersionMatch};

/// A watch without `timeoutSeconds` ends after this long plus up to as much again, so that clients spread out after a
/// restart; upstream's min-request-timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// How often a quiet watch tells how far it is. A bookmark is about the absence of events, so only a timer can send it.
const BOOKMARK_EVERY: Duration = Duration::from_secs(55);

/// One item of a watch.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // the large one is the last of its stream
pub enum WatchItem {
    /// A change, seen through the watch's selectors; the bytes are the framed JSON of the stored object.
    Event(Change, Arc<Encoded>, Option<Bytes>),
    /// Everything up to this revision has been delivered; whether this marks the end of the initial events.
    Bookmark(u64, bool),
    /// The watch cannot go on.
    Failed(Status),
}

/// How many items are handed on at once at most: enough that the cost of a write is shared.
const BATCH: usize = 64;

struct State {
    watcher: Watcher,
    /// What there was at first and has not been told: it is framed when its turn comes.
    initial: std::vec::IntoIter<Arc<Encoded>>,
    /// Whether, and of which revision, the end of that is to be told.
    initial_end: Option<u64>,
    ready: VecDeque<WatchItem>,
    namespace: String,
    labels: Label,
    fields: Field,
    bookmarks: bool,
    ends: Instant,
    /// When the next bookmark is due, or the end. It waits on from one event to the next, as does `stop`: to enter the lists
    /// that all watches share and leave them costs more than an event does.
    wake: Pin<Box<Sleep>>,
    done: bool,
    framed: bool,
    /// Of custom resources: what brings them into the version of the watch, and that version.
    converter: Option<(Arc<Converter>, String)>,
    /// Over when the kind stops being served, or the server stops.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

fn expired(e: Expired) -> Status {
    Status::expired(format!("too old resource version: {} ({})", e.at, e.oldest))
}

impl State {
    fn matches(&self, object: &Arc<Encoded>) -> bool {
        (self.namespace.is_empty() || object.namespace() == self.namespace)
            && (self.labels.is_everything() || self.labels.matches(object.labels()))
            && (self.fields.is_everything() || self.fields.selects(object))
    }

    fn initial(&mut self) {
        while self.ready.len() < BATCH {
            let Some(object) = self.initial.next() else {
                let end = self.initial_end.take().map(|revision| WatchItem::Bookmark(revision, true));
                self.ready.extend(end);
                return;
            };
            if self.matches(&object) {
                let bytes = self.framed.then(|| frame(Change::Added.word(), object.json()));
                self.ready.push_back(WatchItem::Event(Change::Added, object, bytes));
            }
        }
    }

    /// What is next, all that is ready up to [`BATCH`]; never nothing.
    async fn next(&mut self) -> Option<Vec<WatchItem>> {
        loop {
            self.initial();
            if !self.ready.is_empty() {
                let n = self.ready.len().min(BATCH);
                let items: Vec<WatchItem> = self.ready.drain(..n).collect();
                self.done |= items.iter().any(|item| matches!(item, WatchItem::Failed(_)));
                return Some(items);
            }
            if self.done {
                return None;
            }
            let events = tokio::select! {
                events = self.watcher.next() => Some(events),
                () = &mut self.wake => None,
                () = &mut self.stop => {
                    // What has happened until then is told still.
                    self.done = true;
                    match self.watcher.take() {
                        Ok(events) => Some(Ok(events)),
                        Err(_) => return None,
                    }
                }
            };
            let events = match (events, &self.converter) {
                (Some(Ok(events)), Some((converter, to))) => match converter.events(events, to).await {
                    Ok(events) => Some(Ok(events)),
                    Err(status) => {
                        self.ready.push_back(WatchItem::Failed(status));
                        continue;
                    }
                },
                (events, _) => events,
            };
            match events {
                Some(Ok(events)) => {
                    for event in events {
                        if let Some((change, object)) = event.seen_through(|o| self.matches(o)) {
                            let bytes = self.framed.then(|| event.frame(change, &object));
                            self.ready.push_back(WatchItem::Event(change, object, bytes));
                        }
                    }
                }
                Some(Err(e)) => self.ready.push_back(WatchItem::Failed(expired(e))),
                None => {
                    let now = Instant::now();
                    if self.bookmarks
                        && let Some(revision) = self.watcher.bookmark()
                    {
                        self.ready.push_back(WatchItem::Bookmark(revision, false));
                    }
                    self.wake.as_mut().reset(self.ends.min(now + BOOKMARK_EVERY));
                    self.done = now >= self.ends;
                }
            }
        }
    }
}

/// Starts a watch: its items, those together that are ready together. With `framed`, events carry the bytes that all watchers of the stored form share.
pub async fn watch_stream(
    server: &ApiServer,
    cx: &Context,
    options: &ListOptions,
    framed: bool,
) -> Result<BoxStream<'static, Vec<WatchItem>>, Status> {
    let (labels, fields) = parse_selectors(cx, options)?;
    let kind = server.cache.kind(&cx.kind.group, &cx.kind.plural);
    let namespace = cx.namespace().to_owned();
    let initial = match (options.initial_events, options.version) {
        (Some(send), _) => send,
        (None, VersionMatch::Latest | VersionMatch::Any) => true,
        (None, _) => false,
    };
    server
        .fresh(if options.initial_events == Some(false) && options.version == VersionMatch::Latest {
            VersionMatch::Latest
        } else {
            match options.version {
                // A watch from the future waits for it, as long as it has to.
                VersionMatch::NotOlderThan(_) if !initial => VersionMatch::Any,
                other => other,
            }
        })
        .await?;
    let mut initial_items = Vec::new();
    let mut initial_revision = 0;
    let watcher = if initial {
        let (snapshot, watcher) = server.cache.list_and_watch(kind, &namespace);
        initial_revision = snapshot.revision;
        initial_items = cx.all_seen(snapshot.items).await?;
        watcher
    } else {
        let after = match options.version {
            VersionMatch::NotOlderThan(r) | VersionMatch::Exact(r) => r,
            _ => server.cache.revision(),
        };
        match server.cache.watch(kind, after) {
            Ok(watcher) => watcher,
            Err(e) => {
                // Said inside the stream, where clients of a watch look for it.
                let failed = WatchItem::Failed(expired(e));
                return Ok(Box::pin(futures::stream::iter([vec![failed]])));
            }
        }
    };
    let spread = Duration::from_secs_f64(DEFAULT_TIMEOUT.as_secs_f64() * base::rng::fraction());
    let timeout = options.timeout.unwrap_or(DEFAULT_TIMEOUT + spread);
    let now = Instant::now();
    let bookmarks = options.bookmarks;
    let ends = base::clock::later(now, timeout);
    let first =
        BOOKMARK_EVERY.min(timeout.saturating_sub(Duration::from_secs(2)).max(Duration::from_secs(1)));
    let wake = if bookmarks { ends.min(now + first) } else { ends };
    let state = State {
        watcher,
        initial: initial_items.into_iter(),
        initial_end: (options.initial_events == Some(true) && bookmarks).then_some(initial_revision),
        ready: VecDeque::new(),
        namespace,
        labels,
        fields,
        bookmarks,
        ends,
        wake: Box::pin(tokio::time::sleep_until(wake)),
        done: false,
        framed,
        converter: cx.converter.clone().map(|c| (c, cx.version().api_version())),
        stop: Box::pin(server.stop_of(&cx.kind).cancelled_owned()),
    };
    Ok(Box::pin(futures::stream::unfold(
        state,
        |mut s| async move { s.next().await.map(|items| (items, s)) },
    )))
}

/// The object of a bookmark.
pub fn bookmark_object(cx: &Context, revision: u64, initial: bool) -> Arc<Object> {
    let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if initial {
        meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    Object::from_value(
        json!({"kind": cx.kind.kind, "apiVersion": cx.version().api_version(), "metadata": meta}),
    )
}

/// An answer that is a watch.
pub async fn render_watch(
    server: &ApiServer,
    cx: &Context,
    accept: Accept,
    include: Include,
    options: &ListOptions,
    running: Option<Arc<Running>>,
) -> Result<Response<Body>, Status> {
    use futures::StreamExt;
    let started = Instant::now();
    // YAML has no form of a stream.
    let media = if accept.media == MediaType::Yaml { MediaType::Json } else { accept.media };
    let accept = Accept { media, form: accept.form };
    let plain = media == MediaType::Json
        && accept.form == Form::Object
        && cx.kind.is_storage(cx.version())
        && !cx.kind.custom;
    let items = watch_stream(server, cx, options, plain).await?;
    let cx = cx.clone();
    let content_type = match media {
        MediaType::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    let mut headers = true;
    let mut render = move |item| {
        let bytes = match item {
            WatchItem::Event(_, _, Some(bytes)) => Ok(bytes),
            WatchItem::Event(change, object, None) => {
                let bytes = render_event(&cx, &accept, include, change.word(), &object.object(), headers);
                headers = false;
                bytes
            }
            WatchItem::Bookmark(revision, initial) => {
                if let Some(running) = running.as_ref().filter(|_| initial) {
                    running.counters().listed(started.elapsed());
                }
                let object = bookmark_object(&cx, revision, initial);
                if plain {
                    Ok(frame("BOOKMARK", object.json()))
                } else {
                    let bytes = render_event(&cx, &accept, include, "BOOKMARK", &object, headers);
                    headers = false;
                    bytes
                }
            }
            WatchItem::Failed(status) => {
                if accept.media == MediaType::Protobuf {
                    let schema = api::schema::TypeId::named("io.k8s.apimachinery.pkg.apis.meta.v1.Status")
                        .map_or(api::schema::Schema::Any, api::schema::TypeId::schema);
                    api::codec::protobuf::encode_watch_event("ERROR", &status.to_value(), schema)
                        .map(Bytes::from)
                } else {
                    Ok(frame("ERROR", &status.to_json()))
                }
            }
        };
        bytes.map_err(|s| -> BoxError { Box::new(s) })
    };
    let stream = items.map(move |items| {
        let mut parts = items.into_iter().map(&mut render);
        let first = parts.next().unwrap_or_else(|| Ok(Bytes::new()))?;
        let Some(second) = parts.next() else { return Ok(first) };
        let mut whole = BytesMut::from(first.as_ref());
        whole.extend_from_slice(&second?);
        for part in parts {
            whole.extend_from_slice(&part?);
        }
        Ok(whole.freeze())
    });
    let mut response = reply(StatusCode::OK, content_type, Body::Stream(Box::pin(stream)));
    response.headers_mut().remove(header::CONTENT_LENGTH);
    Ok(response)
}
