//! The event bus: what happened to containers, images, networks and volumes, as `docker events` tells it.
//!
//! The last 1024 events are kept in memory for `since`; they do not survive the daemon. A subscriber that is
//! more than 4096 events behind loses the oldest ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::filters::Filters;
use crate::model::Map;

/// How many events are remembered.
const HISTORY: usize = 1024;

/// One event, in the API's form.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// The action, for old clients (containers and images only).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// The object's id, for old clients.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The image of the container, for old clients.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// `container`, `image`, `network`, `volume`, `daemon`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    /// `create`, `start`, `die`, ...
    #[serde(rename = "Action")]
    pub action: String,
    /// What it happened to.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// Always `local`.
    pub scope: &'static str,
    /// Seconds since the epoch.
    pub time: i64,
    /// Nanoseconds since the epoch.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// The object of an event.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Actor {
    /// Its id, or its name where it has none.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name, image, labels, exit code, ...
    pub attributes: Map,
}

/// The bus itself.
#[derive(Debug)]
pub struct Bus {
    history: Mutex<VecDeque<Arc<Event>>>,
    count: AtomicU64,
    /// Holds its 4096 places from the start: a place is a pointer, so that they cost little while they are empty.
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for Bus {
    fn default() -> Self {
        Bus { history: Mutex::default(), count: AtomicU64::new(0), live: broadcast::channel(4096).0 }
    }
}

impl Bus {
    /// Tells everyone.
    pub fn publish(&self, kind: &'static str, action: impl Into<String>, id: &str, attributes: Map) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let now = base::clock::now();
        let action = action.into();
        let legacy = matches!(kind, "container" | "image");
        let event = Arc::new(Event {
            status: if legacy { action.clone() } else { String::new() },
            id: if legacy { id.to_owned() } else { String::new() },
            from: if kind == "container" {
                attributes.get("image").cloned().unwrap_or_default()
            } else {
                String::new()
            },
            kind,
            action,
            actor: Actor { id: id.to_owned(), attributes },
            scope: "local",
            time: now.as_second(),
            time_nano: i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
        });
        // Under the lock, so that a subscriber sees each event once: in the history or live.
        let mut history = self.history.lock();
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(event.clone());
        let _ = self.live.send(event); // nobody listening is fine
    }

    /// How many there have been.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many listen now.
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
    }

    /// What happened since `since` (nothing without it), and a receiver of what happens from now on.
    pub fn subscribe(&self, since: Option<Timestamp>) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let history = self.history.lock();
        let past = since.map_or(Vec::new(), |since| {
            history.iter().filter(|e| i128::from(e.time_nano) >= since.as_nanosecond()).cloned().collect()
        });
        (past, self.live.subscribe())
    }
}

impl Event {
    /// Whether the filters let it pass, as Docker judges: an object's filter compares with the id and the name of
    /// whatever the event is about, and what is no filter of events has no effect.
    pub fn matches(&self, filters: &Filters) -> bool {
        let name = self.actor.attributes.get("name").map_or("", String::as_str);
        let object = |kind: &str| {
            filters.any(kind, |wanted| {
                self.actor.id.starts_with(wanted.as_str()) || name.starts_with(wanted.as_str())
            })
        };
        let image = filters.any("image", |wanted| {
            let bare = |have: &str| match have.rsplit_once([':', '@']) {
                Some((bare, tag)) if !tag.contains('/') => bare == wanted,
                _ => false,
            };
            let about = if self.kind == "image" { "name" } else { "image" };
            let about = self.actor.attributes.get(about).map_or("", String::as_str);
            [self.actor.id.as_str(), about].iter().any(|have| have == wanted || bare(have))
        });
        // Actions with more than a verb: one of these among the values lets all of them be compared by their beginning.
        let verbs = ["health_status", "exec_create", "exec_start"];
        let by_verb = filters.get("event").iter().any(|v| verbs.contains(&v.as_str()));
        let action = filters.any("event", |wanted| {
            *wanted == self.action || by_verb && self.action.starts_with(wanted.as_str())
        });
        let objects =
            ["daemon", "container", "plugin", "volume", "network", "node", "service", "secret", "config"];
        action
            && filters.exact("type", self.kind)
            && filters.exact("scope", self.scope)
            && filters.labels(&self.actor.attributes)
            && objects.iter().all(|kind| object(kind))
            && image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn history_and_live_do_not_overlap() {
        let bus = Bus::default();
        let name =
            |n: &str| Map::from([("name".to_owned(), n.to_owned()), ("image".to_owned(), "b:1".to_owned())]);
        bus.publish("container", "create", "c1", name("web"));
        let (past, mut live) = bus.subscribe(Some(Timestamp::UNIX_EPOCH));
        assert_eq!(past.len(), 1);
        bus.publish("container", "health_status: healthy", "c1", name("web"));
        let event = live.recv().await.unwrap();
        assert!(
            event.matches(&Filters::parse(r#"{"event":["health_status"],"container":["web"]}"#).unwrap())
        );
        assert!(event.matches(&Filters::parse(r#"{"image":["b"]}"#).unwrap()));
        assert!(!event.matches(&Filters::parse(r#"{"container":["db"]}"#).unwrap()));
        assert!(event.matches(&Filters::parse(r#"{"container":["we"]}"#).unwrap()), "the name's beginning");
        assert!(!event.matches(&Filters::parse(r#"{"event":["health"]}"#).unwrap()), "a verb is whole");
        assert!(event.matches(&Filters::parse(r#"{"event":["die","health_status"]}"#).unwrap()));
        assert_eq!(bus.count(), 2);
        assert!(!event.matches(&Filters::parse(r#"{"type":["image"]}"#).unwrap()));
        assert!(bus.subscribe(None).0.is_empty());
    }
}
