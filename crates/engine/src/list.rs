//! `docker ps`: filters, limits, sizes, and the sentences it shows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Engine;
use crate::container::{Container, Inner, Phase};
use crate::error::{Result, invalid, system};
use crate::filters::Filters;
use crate::{foreign, inspect, ports};

/// Which containers are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// Only the newest so many, running or not.
    pub limit: Option<usize>,
    /// With sizes.
    pub size: bool,
    /// See [`Filters`].
    pub filters: Filters,
}

const KNOWN: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// Go's `units.HumanDuration`.
pub(crate) fn ago(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (duration.as_secs_f64() / 3600.0 + 0.5) as u64;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (2..=59, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, 2..=59, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".into(),
        (.., 2..=47) => format!("{hours} hours"),
        (.., 48..=335) => format!("{} days", hours / 24),
        (.., 336..=1439) => format!("{} weeks", hours / 24 / 7),
        (.., 1440..=17519) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// `Up 2 minutes (healthy)`
pub(crate) fn status(inner: &Inner) -> String {
    let now = base::clock::now();
    let life = &inner.life;
    let since = |t: Option<jiff::Timestamp>| ago(base::clock::between(t.unwrap_or(now), now));
    match life.phase {
        Phase::Created => "Created".into(),
        Phase::Running => match &life.health {
            None => format!("Up {}", since(life.started_at)),
            Some(h) if h.status == "starting" => format!("Up {} (health: starting)", since(life.started_at)),
            Some(h) => format!("Up {} ({})", since(life.started_at), h.status),
        },
        Phase::Paused => format!("Up {} (Paused)", since(life.started_at)),
        Phase::Restarting => format!("Restarting ({}) {} ago", life.exit_code, since(life.finished_at)),
        Phase::Exited => format!("Exited ({}) {} ago", life.exit_code, since(life.finished_at)),
        Phase::Removing => "Removal In Progress".into(),
        Phase::Dead => "Dead".into(),
    }
}

/// The command as `ps` shows it: words with spaces in quotes.
pub(crate) fn command_line(words: &[String]) -> String {
    let quote = |w: &String| {
        if w.contains(' ') || w.is_empty() { format!("'{}'", w.replace('\'', "'\\''")) } else { w.clone() }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

impl Engine {
    /// The containers, newest first.
    pub async fn list(&self, options: &ListOptions) -> Result<Value> {
        let filters = &options.filters;
        filters.only(KNOWN)?;
        for status in filters.get("status") {
            let words = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
            if !words.contains(&status.as_str()) {
                return Err(invalid(format!("invalid filter 'status={status}'")));
            }
        }
        for health in filters.get("health") {
            if !["starting", "healthy", "unhealthy", "none"].contains(&health.as_str()) {
                return Err(invalid(format!("invalid filter 'health={health}'")));
            }
        }
        let mut exits = Vec::new();
        for code in filters.get("exited") {
            exits.push(code.parse::<i32>().map_err(|_| invalid(format!("invalid filter 'exited={code}'")))?);
        }
        for key in ["expose", "publish"] {
            for wanted in filters.get(key) {
                if wanted.contains(':') {
                    return Err(system(format!("filter for '{key}' should not contain ':': {wanted}")));
                }
                ports::parse(wanted)
                    .map_err(|e| system(format!("error while looking up for {key} {wanted}: {e}")))?;
            }
        }
        let is_task = filters.flag("is-task")?;
        let ancestors: Option<BTreeSet<String>> =
            (!filters.get("ancestor").is_empty()).then(|| self.descendants(filters));
        let bound = |key: &str| -> Result<Option<jiff::Timestamp>> {
            match filters.get(key).last() {
                Some(reference) => Ok(Some(self.find(reference)?.lock().asked.created)),
                None => Ok(None),
            }
        };
        let (before, since) = (bound("before")?, bound("since")?);
        // A filter by state says itself whether stopped ones are wanted.
        let all = options.all
            || options.limit.is_some()
            || !filters.get("status").is_empty()
            || !exits.is_empty()
            || before.is_some()
            || since.is_some();
        let nets: Vec<String> = filters
            .get("network")
            .iter()
            .map(|n| self.networks.get(n).map_or_else(|_| n.clone(), |net| net.record.name.clone()))
            .collect();

        let (ids, names) = (expressions(filters.get("id")), expressions(filters.get("name")));
        let mut chosen: Vec<(jiff::Timestamp, Arc<Container>)> = Vec::new();
        for container in self.all() {
            let inner = container.lock();
            let (asked, life) = (&inner.asked, &inner.life);
            let ports_match = |key: &str, published: bool| {
                filters.any(key, |wanted| {
                    let Ok(list) = ports::parse(wanted) else { return false };
                    list.iter().any(|p| {
                        if published {
                            life.ports.iter().any(|b| b.port.proto == p.proto && b.host_port == p.number)
                        } else {
                            ports::exposed(&asked.config, &asked.host).is_ok_and(|e| e.contains(p))
                        }
                    })
                })
            };
            let health = life.health.as_ref().map_or("none", |h| h.status.as_str());
            let fits = (all || life.phase.alive() || life.phase == Phase::Restarting)
                && filters.exact("status", life.phase.word())
                && filters.exact("health", health)
                && (ids.is_empty() || ids.iter().any(|e| e.is_match(&container.id)))
                && name_matches(&asked.name, &names)
                && filters.labels(&asked.config.labels)
                && (exits.is_empty()
                    || (matches!(life.phase, Phase::Exited | Phase::Restarting | Phase::Dead)
                        && exits.contains(&life.exit_code)))
                && ancestors.as_ref().is_none_or(|a| a.contains(&asked.image))
                && before.is_none_or(|b| asked.created < b)
                && since.is_none_or(|s| asked.created > s)
                && filters.any("volume", |v| {
                    asked
                        .mounts
                        .iter()
                        .any(|m| m.name == *v || m.destination == *v || m.source.to_str() == Some(v))
                })
                && (nets.is_empty() || nets.iter().any(|n| asked.endpoints.contains_key(n)))
                && ports_match("expose", false)
                && ports_match("publish", true)
                && is_task != Some(true);
            if fits {
                chosen.push((asked.created, container.clone()));
            }
        }
        chosen.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.id.cmp(&b.1.id)));
        let mut out: Vec<(jiff::Timestamp, Value)> = Vec::new();
        for (created, container) in chosen {
            if options.limit.is_some_and(|l| out.len() >= l) {
                break;
            }
            let mut line = self.summary(&container);
            if options.size {
                let (own, whole) = self.sizes(&container).await;
                line["SizeRw"] = json!(own);
                line["SizeRootFs"] = json!(whole);
            }
            out.push((created, line));
        }
        let simple = ["status", "name", "id", "label", "label!"];
        if options.limit.is_none() && filters.clone().only(&simple).is_ok() {
            for state in self.foreign.list() {
                let line = foreign::summary(&state);
                let word = line["State"].as_str().unwrap_or("");
                let labels: crate::model::Map =
                    serde_json::from_value(line["Labels"].clone()).unwrap_or_default();
                let name = line["Names"][0].as_str().unwrap_or("").trim_start_matches('/');
                let fits = (all || matches!(word, "running" | "paused"))
                    && filters.exact("status", word)
                    && filters.labels(&labels)
                    && (ids.is_empty() || ids.iter().any(|e| e.is_match(&state.id)))
                    && name_matches(name, &names);
                if fits {
                    out.push((state.created_at, line));
                }
            }
            out.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
        }
        Ok(Value::Array(out.into_iter().map(|(_, line)| line).collect()))
    }

    /// Ids of the images that the `ancestor` filter names, and of all that were made from them.
    fn descendants(&self, filters: &Filters) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        for reference in filters.get("ancestor") {
            let Ok(root) = self.images.get(reference) else { continue };
            let layers = root.diff_ids();
            out.insert(root.id.clone());
            for image in self.images.list() {
                if image.diff_ids().len() >= layers.len()
                    && image.diff_ids().starts_with(layers)
                    && !layers.is_empty()
                {
                    out.insert(image.id.clone());
                }
            }
        }
        out
    }

    fn summary(&self, container: &Container) -> Value {
        let inner = container.lock();
        let (asked, life) = (&inner.asked, &inner.life);
        let exposed = ports::exposed(&asked.config, &asked.host).unwrap_or_default();
        let ports = if life.phase.alive() { ports::summary(&exposed, &life.ports) } else { json!([]) };
        let mut line = json!({
            "Id": container.id,
            "Names": [format!("/{}", asked.name)],
            "Image": self.image_name(&asked.config.image, &asked.image),
            "ImageID": asked.image,
            "Command": command_line(&asked.args),
            "Created": asked.created.as_second(),
            "Ports": ports,
            "Labels": asked.config.labels,
            "State": life.phase.word(),
            "Status": status(&inner),
            "HostConfig": {"NetworkMode": asked.host.network_mode, "Annotations": asked.host.annotations},
            "NetworkSettings": {"Networks": inspect::networks(&inner, self, container.short())},
            "Mounts": inspect::mounts(&inner),
        });
        if asked.host.annotations.is_empty()
            && let Some(host) = line["HostConfig"].as_object_mut()
        {
            host.remove("Annotations");
        }
        line
    }

    /// The image as it was named, unless that name means another image now.
    pub(crate) fn image_name(&self, asked: &str, id: &str) -> String {
        match self.images.get(asked) {
            Ok(image) if image.id == id => asked.to_owned(),
            _ => id.to_owned(),
        }
    }

    /// Bytes of the writable layer, and of it with the image.
    pub(crate) async fn sizes(&self, container: &Container) -> (u64, u64) {
        let own = self.images.usage(&container.id).await.unwrap_or(0);
        let image = container.lock().asked.image.clone();
        (own, own + self.images.get(&image).map_or(0, |i| i.size))
    }
}

/// The values of a filter that are regular expressions, as `name` and `id` are; what is none is taken literally.
fn expressions(values: &[String]) -> Vec<regex::Regex> {
    let one = |v: &String| {
        regex::RegexBuilder::new(v)
            .size_limit(1 << 20)
            .build()
            .or_else(|_| regex::Regex::new(&regex::escape(v)))
    };
    values.iter().filter_map(|v| one(v).ok()).collect()
}

/// Whether a name fits one of the expressions; some have the slash in front that names once had.
fn name_matches(name: &str, expressions: &[regex::Regex]) -> bool {
    expressions.is_empty() || expressions.iter().any(|e| e.is_match(name) || e.is_match(&format!("/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_docker_words_them() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (3 * 3600, "3 hours"),
            (48 * 3600, "2 days"),
            (15 * 86400, "2 weeks"),
            (70 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ];
        for (seconds, text) in cases {
            assert_eq!(ago(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn names_and_commands() {
        let fits = |name, pattern: &str| name_matches(name, &expressions(&[pattern.to_owned()]));
        assert!(fits("web-1", "web") && fits("web-1", "^/web") && fits("web-1", "^web-1$"));
        assert!(fits("web-1", "^(db|web)-[0-9]$") && fits("web-1", "eb.1"));
        assert!(!fits("web-1", "^eb") && !fits("web-1", "web$"));
        assert!(!fits("web-1", "[") && name_matches("x", &[]));
        assert_eq!(command_line(&["sh".into(), "-c".into(), "sleep 1".into()]), "sh -c 'sleep 1'");
    }
}
