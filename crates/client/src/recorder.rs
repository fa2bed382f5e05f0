//! Events: what a component tells people about an object. Repeats are counted in one Event, floods are cut off.
//!
//! Telling is never worth waiting for, so [`Recorder::event`] does not: a task of the recorder's writes the Events, in
//! order. What it cannot write it tries again a few times, then drops.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use api::{Object, Value, meta};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{Client, PatchType, gvr};

/// How many Events wait to be written at most; more are dropped.
const QUEUE: usize = 1000;
/// How many different Events, messages and objects are remembered, as upstream.
const MEMORY: usize = 4096;
/// Repeats are counted in the same Event when they are not further apart than this.
const APART: Duration = Duration::from_secs(600);
/// So many Events with one reason but different messages within [`APART`] become one with a combined message.
const SIMILAR: usize = 10;
/// So many Events about one object at once, then one more every [`REFILL`].
const BURST: f64 = 25.0;
/// See [`BURST`].
const REFILL: Duration = Duration::from_secs(300);
/// How often writing an Event is tried.
const TRIES: u32 = 5;

/// What makes two Events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventKey {
    uid: String,
    field: String,
    kind: String,
    reason: String,
    message: String,
}

struct Told {
    involved: Value,
    kind: &'static str,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Records Events as one component. Clones share its memory.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Told>,
}

impl Recorder {
    /// Events from `component` (on `host`; `""` if that says nothing). To be called inside a tokio runtime. The task that
    /// writes them ends when the last clone is gone.
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (queue, told) = mpsc::channel(QUEUE);
        tokio::spawn(write(client, component.into(), host.into(), told));
        Self { queue }
    }

    /// Tells something about `object`; `kind` is `Normal` or `Warning`.
    pub fn event(&self, object: &Object, kind: &'static str, reason: &str, message: impl Into<String>) {
        self.event_about(reference(object), kind, reason, message);
    }

    /// As `event`, about a part of it: `spec.containers{main}`.
    pub fn event_at(
        &self,
        object: &Object,
        field: &str,
        kind: &'static str,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut involved = reference(object);
        involved["fieldPath"] = field.into();
        self.event_about(involved, kind, reason, message);
    }

    /// As `event`, about what an ObjectReference names.
    pub fn event_about(&self, involved: Value, kind: &'static str, reason: &str, message: impl Into<String>) {
        let message = message.into();
        tracing::debug!(object = %involved["name"], kind, reason, %message, "event");
        let told = Told { involved, kind, reason: reason.into(), message, at: base::clock::now() };
        if self.queue.try_send(told).is_err() {
            tracing::warn!(reason, "an event was dropped: too many wait to be written");
        }
    }
}

fn reference(object: &Object) -> Value {
    let mut out = json!({"kind": object.kind(), "namespace": object.namespace(), "name": object.name(), "uid": object.uid(),
        "apiVersion": object.api_version(), "resourceVersion": object.revision().to_string()});
    if object.namespace().is_empty()
        && let Some(o) = out.as_object_mut()
    {
        o.shift_remove("namespace");
    }
    out
}

#[derive(Clone)]
struct Written {
    name: String,
    count: u64,
    last: Instant,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

/// Remembers [`MEMORY`] values: those that were asked for last.
struct Recent<K, V> {
    values: HashMap<K, (V, u64)>,
    /// Keys, by when they were asked for.
    order: BTreeMap<u64, K>,
    asked: u64,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { values: HashMap::new(), order: BTreeMap::new(), asked: 0 }
    }
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    /// What is remembered of `key`, as the one asked for last.
    fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (value, at) = self.values.get_mut(key)?;
        self.asked += 1;
        if let Some(key) = self.order.remove(at) {
            self.order.insert(self.asked, key);
        }
        *at = self.asked;
        Some(value)
    }

    /// Remembers a value in the place of what there was, if there was anything.
    fn put(&mut self, key: K, value: V) {
        self.asked += 1;
        if let Some((_, at)) = self.values.insert(key.clone(), (value, self.asked)) {
            self.order.remove(&at);
        }
        self.order.insert(self.asked, key);
        if self.order.len() > MEMORY
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.values.remove(&oldest);
        }
    }
}

#[derive(Default)]
struct Memory {
    written: Recent<EventKey, Written>,
    /// Messages of late, by everything but the message.
    similar: Recent<EventKey, (Instant, Vec<String>)>,
    buckets: Recent<String, Bucket>,
}

impl Memory {
    /// Whether one more Event about this object is allowed.
    fn allowed(&mut self, uid: &str) -> bool {
        let now = Instant::now();
        if let Some(b) = self.buckets.get(uid) {
            let more = now.duration_since(b.at).as_secs_f64() / REFILL.as_secs_f64();
            (b.tokens, b.at) = ((b.tokens + more).min(BURST), now);
            let allowed = b.tokens >= 1.0;
            b.tokens -= f64::from(u8::from(allowed));
            return allowed;
        }
        self.buckets.put(uid.into(), Bucket { tokens: BURST - 1.0, at: now });
        true
    }

    /// The key to count this under, and the message to write.
    fn key(&mut self, told: &Told) -> (EventKey, String) {
        let text = |f: &str| told.involved[f].as_str().unwrap_or_default().to_owned();
        let uid = if text("uid").is_empty() {
            format!("{}/{}", text("namespace"), text("name"))
        } else {
            text("uid")
        };
        let mut key = EventKey {
            uid,
            field: text("fieldPath"),
            kind: told.kind.into(),
            reason: told.reason.clone(),
            message: String::new(),
        };
        let now = Instant::now();
        if self.similar.get(&key).is_none_or(|(at, _)| now.duration_since(*at) > APART) {
            self.similar.put(key.clone(), (now, Vec::new()));
        }
        let mut none = (now, Vec::new());
        let (at, messages) = self.similar.get(&key).unwrap_or(&mut none);
        *at = now;
        if !messages.contains(&told.message) {
            if messages.len() >= SIMILAR {
                return (key, format!("(combined from similar events): {}", told.message));
            }
            messages.push(told.message.clone());
        }
        key.message.clone_from(&told.message);
        (key, told.message.clone())
    }
}

async fn write(client: Client, component: Arc<str>, host: Arc<str>, mut queue: mpsc::Receiver<Told>) {
    let mut memory = Memory::default();
    while let Some(told) = queue.recv().await {
        let (key, message) = memory.key(&told);
        if !memory.allowed(&key.uid) {
            continue;
        }
        let namespace = match told.involved["namespace"].as_str() {
            Some(ns) if !ns.is_empty() => ns.to_owned(),
            _ => "default".to_owned(),
        };
        let time = meta::time(told.at);
        let now = Instant::now();
        let known = memory.written.get(&key).filter(|w| now.duration_since(w.last) <= APART);
        let mut known = known.cloned();
        let mut tries = 0;
        let written = loop {
            tries += 1;
            let result = match &known {
                Some(w) => {
                    let patch = json!({"count": w.count + 1, "lastTimestamp": time, "message": message});
                    client.patch(&gvr::EVENTS, &namespace, &w.name, PatchType::Merge, &patch).await
                }
                None => {
                    let event = event(&told, &namespace, &message, &time, &component, &host);
                    client.create(&gvr::EVENTS, &namespace, &event).await
                }
            };
            match result {
                Ok(o) => {
                    let count = known.as_ref().map_or(1, |w| w.count + 1);
                    break Some(Written { name: o.name().into(), count, last: now });
                }
                Err(e) if e.is_not_found() && known.is_some() => known = None, // it has expired: begin a new one
                Err(e) if e.is_transient() && tries < TRIES => {
                    // A timer, because nothing tells when a server that failed is back.
                    tokio::time::sleep(e.retry_after().unwrap_or(Duration::from_secs(u64::from(tries))))
                        .await;
                }
                Err(e) => {
                    // A namespace that is going away takes no more Events: nobody would read them.
                    tracing::debug!(reason = told.reason, error = %e, "an event was not written");
                    break None;
                }
            }
        };
        if let Some(written) = written {
            memory.written.put(key, written);
        }
    }
}

fn event(told: &Told, namespace: &str, message: &str, time: &str, component: &str, host: &str) -> Value {
    let name = told.involved["name"].as_str().unwrap_or_default();
    let mut source = json!({"component": component});
    if !host.is_empty() {
        source["host"] = host.into();
    }
    // Unique enough in upstream's shape: nanoseconds, and four random digits because clocks may be coarse.
    let suffix = format!("{:x}{}", told.at.as_nanosecond() / 65_536, base::rng::hex(2));
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{name}.{suffix}"), "namespace": namespace},
        "involvedObject": told.involved, "reason": told.reason, "message": message, "source": source,
        "firstTimestamp": time, "lastTimestamp": time, "count": 1, "type": told.kind,
        "eventTime": null, "reportingComponent": component, "reportingInstance": host,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ListOptions;
    use crate::fake::Fake;

    async fn recorded(client: &Client, recorder: Recorder) -> Vec<(String, u64, String)> {
        drop(recorder);
        tokio::time::sleep(Duration::from_secs(60)).await; // virtual time: lets the task finish
        let list = client.list(&gvr::EVENTS, "ns", &ListOptions::default()).await.unwrap();
        let mut out: Vec<_> = list
            .items
            .iter()
            .map(|e| {
                let v = e.value();
                (
                    v["reason"].as_str().unwrap().into(),
                    v["count"].as_u64().unwrap(),
                    v["message"].as_str().unwrap().into(),
                )
            })
            .collect();
        out.sort();
        out
    }

    fn pod() -> Arc<Object> {
        Object::from_value(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "uid": "u"}}),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_counted() {
        let (_, client) = Fake::new();
        let recorder = Recorder::new(client.clone(), "c", "h");
        for _ in 0..3 {
            recorder.event(&pod(), "Warning", "Failed", "no");
        }
        recorder.event(&pod(), "Normal", "Done", "yes");
        let got = recorded(&client, recorder).await;
        assert_eq!(got, [("Done".into(), 1, "yes".into()), ("Failed".into(), 3, "no".into())]);
    }

    #[tokio::test(start_paused = true)]
    async fn similar_ones_are_combined_and_floods_cut() {
        let (_, client) = Fake::new();
        let recorder = Recorder::new(client.clone(), "c", "");
        for i in 0..100 {
            recorder.event(&pod(), "Normal", "R", format!("number {i}"));
        }
        let got = recorded(&client, recorder).await;
        assert_eq!(got.len(), SIMILAR + 1);
        assert_eq!(got.iter().map(|g| g.1).sum::<u64>(), BURST as u64);
        assert!(got[SIMILAR].2.starts_with("(combined from similar events): number"), "{got:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_longest_ago_is_forgotten() {
        let mut memory = Memory::default();
        let about = |uid: usize| Told {
            involved: json!({"uid": uid.to_string()}),
            kind: "Normal",
            reason: "R".into(),
            message: "m".into(),
            at: Timestamp::UNIX_EPOCH,
        };
        for uid in 0..3 * MEMORY {
            let (key, _) = memory.key(&about(uid));
            assert!(memory.allowed(&key.uid));
            assert!(memory.buckets.get("0").is_some(), "it is asked for again and again");
            memory.written.put(key, Written { name: String::new(), count: 1, last: Instant::now() });
        }
        for lengths in [
            (memory.written.values.len(), memory.written.order.len()),
            (memory.similar.values.len(), memory.similar.order.len()),
            (memory.buckets.values.len(), memory.buckets.order.len()),
        ] {
            assert_eq!(lengths, (MEMORY, MEMORY));
        }
        assert!(memory.buckets.get("1").is_none());
        assert!((1..BURST as u32).all(|_| memory.allowed("0")) && !memory.allowed("0"));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again() {
        let (fake, client) = Fake::new();
        fake.fail_next("POST", "events", api::Status::too_many_requests("later", 1));
        let recorder = Recorder::new(client.clone(), "c", "");
        recorder.event(&pod(), "Normal", "R", "m");
        assert_eq!(recorded(&client, recorder).await.len(), 1);
    }
}
