//! Follows the definitions.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use api::kinds::CLEANUP;
use api::kinds::crd::outline;
use api::{Object, Status, Value};
use futures::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clear::clear;
use super::names::Names;
use super::serve::{Changed, serve};
use super::status::{decide, may_be_loose, structure};
use super::{AGAIN, GROUP, PLURAL, is_built_in, write};
use crate::ApiServer;
use crate::cache::KindCache;

/// How many definitions one pass looks at: the first of many is not to wait for all of them.
const PASS: usize = 8;

/// A definition, and why its schemas are not structural if that was asked.
struct Seen {
    object: Arc<Object>,
    outline: Value,
    structure: Option<Option<String>>,
}

impl Seen {
    fn of(object: Arc<Object>) -> Self {
        let outline = outline(object.json());
        let structure = may_be_loose(&outline).then(|| structure(object.value()));
        Self { object, outline, structure }
    }

    /// The same of a definition as it is now, which may have changed since.
    fn structure_of(&self, crd: &Value) -> Option<String> {
        let same = |v: &Value| (api::meta::uid(v).to_owned(), api::meta::generation(v));
        match &self.structure {
            Some(known) if same(crd) == same(&self.outline) => known.clone(),
            _ if may_be_loose(crd) => structure(crd),
            _ => None,
        }
    }
}

/// Those whose status could not be written, and when they are tried again: other definitions that come do not put it off.
#[derive(Default)]
struct Unsaid {
    names: Vec<Arc<str>>,
    due: Option<Instant>,
}

impl Unsaid {
    fn extend(&mut self, names: Vec<Arc<str>>) {
        if !names.is_empty() {
            self.due.get_or_insert_with(|| Instant::now() + AGAIN);
        }
        self.names.extend(names);
    }

    /// All of them, when it is time; does not end if there are none.
    async fn due(&mut self) -> Vec<Arc<str>> {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
        self.due = None;
        std::mem::take(&mut self.names)
    }
}

struct Controller {
    server: Arc<ApiServer>,
    kind: Arc<KindCache>,
    names: Names,
    /// Those to be looked at, each once.
    queue: VecDeque<Arc<str>>,
    clearing: HashMap<String, tokio::task::JoinHandle<()>>,
    /// Those that went last: who follows their objects has until the next go to hear of their ends.
    gone: Vec<Arc<str>>,
    shutdown: CancellationToken,
}

/// Follows the definitions until `shutdown`. What is established is served before this returns, so that a server which starts
/// serves what it served before.
pub async fn start(server: Arc<ApiServer>, shutdown: CancellationToken) {
    let kind = server.cache.kind(GROUP, PLURAL);
    let (snapshot, mut watcher) = server.cache.list_and_watch(kind.clone(), "");
    let (names, queue, clearing, gone) = Default::default();
    let mut controller = Controller { server, kind, names, queue, clearing, gone, shutdown };
    let mut changed = Vec::new();
    for definition in &snapshot.items {
        let (name, outline) = (Arc::from(definition.name()), outline(definition.json()));
        controller.names.note(&name, &outline);
        controller.enqueue(name.clone());
        changed.push(Changed { name, now: Some((outline, definition.json().clone())) });
    }
    serve(&controller.server, &changed);
    drop((changed, snapshot));
    tokio::spawn(async move {
        let mut unsaid = Unsaid::default();
        loop {
            while !controller.queue.is_empty() {
                unsaid.extend(controller.pass().await);
                tokio::task::yield_now().await;
            }
            tokio::select! {
                () = controller.shutdown.cancelled() => return,
                events = watcher.next() => match events {
                    Ok(events) => events.iter().for_each(|e| controller.enqueue(e.object.name().into())),
                    Err(_) => {
                        (_, watcher) = controller.server.cache.list_and_watch(controller.kind.clone(), "");
                        controller.enqueue_all();
                    }
                },
                names = unsaid.due() => names.into_iter().for_each(|name| controller.enqueue(name)),
            }
        }
    });
}

impl Controller {
    fn enqueue(&mut self, name: Arc<str>) {
        if !self.queue.contains(&name) {
            self.queue.push_back(name);
        }
    }

    /// All that there are, and all that there were.
    fn enqueue_all(&mut self) {
        let now: Vec<Arc<str>> = self.kind.all("").iter().map(|o| o.name().into()).collect();
        let before: Vec<Arc<str>> = self.names.all().cloned().collect();
        now.into_iter().chain(before).for_each(|name| self.enqueue(name));
    }

    /// Looks at the next few. Returns those whose status could not be written.
    async fn pass(&mut self) -> Vec<Arc<str>> {
        let mut present = Vec::new();
        let mut changed = Vec::new();
        for name in self.queue.drain(..PASS.min(self.queue.len())).collect::<Vec<_>>() {
            let waiting = match self.kind.get(&name) {
                Some(object) => {
                    let seen = Seen::of(object);
                    let waiting = self.names.note(&name, &seen.outline);
                    present.push((name, seen));
                    waiting
                }
                None => {
                    let waiting = self.names.forget(&name);
                    changed.push(Changed { name, now: None });
                    waiting
                }
            };
            waiting.into_iter().for_each(|name| self.enqueue(name));
        }
        let mut unsaid = Vec::new();
        for (name, seen) in present {
            let (mut now, json) = (seen.outline.clone(), seen.object.json().clone());
            if seen.object.is_deleting() {
                self.end(&seen);
            } else if let Some(decided) = decide(&now, &self.names, seen.structure_of(&now)) {
                // What it is given now, those after it cannot have.
                let waiting = self.names.note(&name, &decided);
                waiting.into_iter().for_each(|name| self.enqueue(name));
                unsaid.push((name.clone(), seen));
                now = decided;
            }
            changed.push(Changed { name, now: Some((now, json)) });
        }
        // Served first and told then: who hears that it is established uses it at once.
        serve(&self.server, &changed);
        self.forget(changed.iter().filter(|c| c.now.is_none()).map(|c| c.name.clone()).collect());
        drop(changed);
        let (server, names) = (&self.server, &self.names);
        let tell = async |(name, seen): (Arc<str>, Seen)| {
            let told = tell(server, names, &seen).await;
            let status = told.err()?;
            tracing::warn!(crd = &*name, error = %status.message, "definition's status not written");
            Some(name)
        };
        let written = !unsaid.is_empty();
        let failed = futures::stream::iter(unsaid).map(tell).buffer_unordered(PASS).filter_map(async |f| f);
        let failed = failed.collect().await;
        if written {
            self.see_written().await;
        }
        failed
    }

    /// Waits until the cache holds what was written: read as they were before, definitions would not have been given their
    /// names, and others would get them.
    async fn see_written(&self) {
        while let Err(error) = self.server.cache.caught_up().await {
            tracing::warn!(%error, "the state of definitions is not known");
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Lets go of what has happened to the kinds that went before these.
    fn forget(&mut self, gone: Vec<Arc<str>>) {
        if gone.is_empty() {
            return;
        }
        for name in std::mem::replace(&mut self.gone, gone) {
            // What is built in stays, whoever was named like it.
            let own = |(plural, group): &(&str, &str)| !is_built_in(group, plural);
            if let Some((plural, group)) = name.split_once('.').filter(own)
                && self.kind.get(&name).is_none()
            {
                self.server.cache.forget(group, plural);
            }
        }
    }

    fn end(&mut self, seen: &Seen) {
        self.clearing.retain(|_, task| !task.is_finished());
        let held = api::meta::finalizers(&seen.outline).any(|f| f == CLEANUP);
        if held && !self.clearing.contains_key(seen.object.uid()) {
            let task = tokio::spawn(clear(self.server.clone(), seen.object.clone(), self.shutdown.clone()));
            self.clearing.insert(seen.object.uid().to_owned(), task);
        }
    }
}

async fn tell(server: &ApiServer, names: &Names, seen: &Seen) -> Result<(), Status> {
    let change = |old: &Value| decide(old, names, seen.structure_of(old)).unwrap_or_else(|| old.clone());
    write(server, &seen.object, "status", &change).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_unsaid_is_not_put_off() {
        let start = Instant::now();
        let mut unsaid = Unsaid::default();
        unsaid.extend(vec!["a".into()]);
        let half = AGAIN / 2;
        assert!(tokio::time::timeout(half, unsaid.due()).await.is_err(), "an event comes first");
        unsaid.extend(Vec::new());
        unsaid.extend(vec!["b".into()]);
        assert_eq!(unsaid.due().await, ["a".into(), "b".into()]);
        assert_eq!(start.elapsed(), AGAIN);
        assert!(tokio::time::timeout(AGAIN * 9, unsaid.due()).await.is_err(), "there is none");
    }
}
