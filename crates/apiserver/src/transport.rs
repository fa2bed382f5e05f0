//! The client's transport inside the server's own process: no socket, no encoding of lists and watches, everything else as for
//! everybody.

use std::sync::Arc;

use api::object::Encoded;
use api::{Gvr, Object};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use client::{BoxBody, BoxStream, Duplex, Error, WatchEvent, WatchKind};
use futures::StreamExt;
use http_body_util::BodyExt;

use crate::ApiServer;
use crate::authz::Attributes;
use crate::body::Body;
use crate::cache::Change;
use crate::path::RequestInfo;
use crate::pipeline::{Payload, Peer, Shown};
use crate::query::{ListOptions, VersionMatch};
use crate::registry::{Context, WatchItem, bookmark_object, is_plain, value_in, watch_stream};
use crate::resource::{Found, check_scope};
use crate::user::UserInfo;

/// Where requests go that take no socket, for their metrics.
const HOST: &str = "in-process";

/// See the module.
pub struct InProcess {
    server: Arc<ApiServer>,
    peer: Peer,
    user: Arc<UserInfo>,
}

impl InProcess {
    /// A transport as `user`.
    pub fn new(server: Arc<ApiServer>, user: UserInfo) -> Self {
        let user = Arc::new(user);
        Self { server, peer: Peer { shown: Shown::User(user.clone(), None), address: None }, user }
    }

    /// Answers a request, and counts it as clients' requests are.
    async fn answer(&self, request: http::Request<Bytes>) -> http::Response<Body> {
        let method = request.method().clone();
        let started = tokio::time::Instant::now();
        let response = self.server.carry_out(request.map(Payload::Bytes), self.peer.clone()).await;
        client::metrics::requested(HOST, &method, Some(response.status()), started.elapsed());
        response
    }

    fn context(
        &self,
        gvr: &Gvr,
        ns: Option<&str>,
        verb: &'static str,
        fields: String,
    ) -> client::Result<Context> {
        let Found { kind, version, converter } = self
            .server
            .kinds
            .load()
            .find(&gvr.group, &gvr.version, &gvr.resource)
            .ok_or_else(api::Status::no_such_path)?;
        let info = RequestInfo {
            is_resource: true,
            verb,
            group: gvr.group.clone().into_owned(),
            version: gvr.version.clone().into_owned(),
            resource: gvr.resource.clone().into_owned(),
            namespace: ns.unwrap_or("").to_owned(),
            fields,
            ..RequestInfo::default()
        };
        let cx = Context {
            user: self.user.clone(),
            info,
            kind,
            version,
            converter,
            agent: "tug".into(),
            warnings: Vec::new(),
        };
        self.server.require(&Attributes::of(&cx.user, &cx.info))?;
        check_scope(&cx.kind, cx.version, &cx.info)?;
        Ok(cx)
    }
}

/// An object in the version that was asked for; the server's own if that is the stored one.
fn in_version(cx: &Context, encoded: &Arc<Encoded>) -> Arc<Object> {
    let object = encoded.object();
    if is_plain(&cx.kind, cx.version(), object.api_version()) {
        return object;
    }
    Object::from_value(value_in(&cx.kind, cx.version(), &object))
}

fn list_options(labels: String, fields: String) -> ListOptions {
    ListOptions {
        labels,
        fields,
        limit: 0,
        token: None,
        version: VersionMatch::Latest,
        timeout: None,
        bookmarks: false,
        initial_events: None,
    }
}

async fn whole(body: Body) -> client::Result<Bytes> {
    match body {
        Body::Full(bytes) => Ok(bytes),
        Body::List(list) => Ok(list.collect()),
        Body::Gzip(mut gzip) => {
            let mut out = BytesMut::new();
            while let Some(chunk) = gzip.chunk() {
                out.extend_from_slice(&chunk.map_err(|e| Error::Transport(e.to_string()))?);
            }
            Ok(out.freeze())
        }
        Body::Stream(mut stream) => {
            let mut out = BytesMut::new();
            while let Some(chunk) = stream.next().await {
                out.extend_from_slice(&chunk.map_err(|e| Error::Transport(e.to_string()))?);
            }
            Ok(out.freeze())
        }
        Body::Proxied(body) => {
            Ok(body.collect().await.map_err(|e| Error::Transport(e.to_string()))?.to_bytes())
        }
    }
}

#[async_trait]
impl client::Transport for InProcess {
    async fn call(&self, request: http::Request<Bytes>) -> client::Result<http::Response<Bytes>> {
        let (parts, body) = self.answer(request).await.into_parts();
        Ok(http::Response::from_parts(parts, whole(body).await?))
    }

    async fn open(&self, request: http::Request<Bytes>) -> client::Result<http::Response<BoxBody>> {
        let response = self.answer(request).await;
        Ok(response.map(|b| b.map_err(|e| Error::Transport(e.to_string())).boxed_unsync()))
    }

    async fn upgrade(&self, _: http::Request<()>) -> client::Result<(http::Response<()>, Box<dyn Duplex>)> {
        Err(Error::Unsupported("switching protocols"))
    }

    async fn list(
        &self,
        gvr: &Gvr,
        ns: Option<&str>,
        options: &client::ListOptions,
    ) -> client::Result<client::ObjectList> {
        let cx = self.context(gvr, ns, "list", options.fields.to_string())?;
        let mut wanted = list_options(options.labels.to_string(), options.fields.to_string());
        wanted.limit = usize::try_from(options.limit).unwrap_or(usize::MAX);
        wanted.token = Some(options.next.clone()).filter(|t| !t.is_empty());
        if options.any_revision {
            wanted.version = VersionMatch::Any;
        }
        let listed = self.server.list(&cx, &wanted).await?;
        let items = listed.items.iter().map(|o| in_version(&cx, o)).collect();
        Ok(client::ObjectList { revision: listed.revision, items, next: listed.next })
    }

    async fn watch(
        &self,
        gvr: &Gvr,
        ns: Option<&str>,
        options: &client::WatchOptions,
    ) -> client::Result<BoxStream<'static, client::Result<WatchEvent>>> {
        let cx = self.context(gvr, ns, "watch", options.fields.to_string())?;
        let mut wanted = list_options(options.labels.to_string(), options.fields.to_string());
        wanted.bookmarks = options.bookmarks;
        if options.revision > 0 {
            wanted.version = VersionMatch::NotOlderThan(options.revision);
        }
        let items = watch_stream(&self.server, &cx, &wanted, false).await?;
        let items = items.flat_map(futures::stream::iter);
        Ok(Box::pin(items.map(move |item| match item {
            WatchItem::Event(change, object, _) => {
                let kind = match change {
                    Change::Added => WatchKind::Added,
                    Change::Modified => WatchKind::Modified,
                    Change::Deleted => WatchKind::Deleted,
                };
                Ok(WatchEvent { kind, object: in_version(&cx, &object) })
            }
            WatchItem::Bookmark(revision, initial) => {
                Ok(WatchEvent { kind: WatchKind::Bookmark, object: bookmark_object(&cx, revision, initial) })
            }
            WatchItem::Failed(status) => Err(status.into()),
        })))
    }
}
