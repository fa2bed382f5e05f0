//! A stage while it is built: its files as layers, its configuration, its arguments.

use std::collections::BTreeMap;
use std::sync::Arc;

use image::{Config, Finished, History, ImageConfig, Layer, Platform};
use jiff::Timestamp;

use crate::cache::Made;

/// A step whose result can be found again.
#[derive(Debug, Clone)]
pub(crate) struct StepRecord {
    pub key: String,
    /// Of a step that takes files of another stage: what else it is found by.
    pub definition: Option<String>,
    pub description: String,
    pub made: Made,
}

/// What the steps so far have made.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Everything but the layers.
    pub config: ImageConfig,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// How many of them the base image brought.
    pub base_layers: usize,
    /// The image that the last step made, or the base image; none of a `FROM scratch` without steps.
    pub id: Option<String>,
    /// Declared arguments with their values.
    pub args: BTreeMap<String, Option<String>>,
    pub cmd_set: bool,
    /// When the last step was done.
    pub created: Option<Timestamp>,
    /// Whether any step was taken.
    pub stepped: bool,
    /// Images of single steps, not stored yet.
    pub made: Vec<Finished>,
    /// The steps that brought files, base stages' included.
    pub steps: Vec<StepRecord>,
    /// Steps of stages that this one did not come from, of a build's last stage.
    pub others: Vec<StepRecord>,
}

/// What a build made for one platform; of a build for one alone, none is named.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub platform: Option<Platform>,
    pub state: Arc<State>,
}

impl Part {
    /// The one result of a build that is not for several platforms.
    pub fn only(state: Arc<State>) -> Vec<Self> {
        vec![Self { platform: None, state }]
    }
}

impl State {
    /// The steps of all parts, as if one build had taken them.
    pub fn joined(parts: &[Part]) -> Option<Arc<State>> {
        let (first, rest) = parts.split_first()?;
        if rest.is_empty() {
            return Some(first.state.clone());
        }
        let mut all = (*first.state).clone();
        for part in rest {
            all.steps.extend(part.state.steps.iter().cloned());
            all.others.extend(part.state.others.iter().cloned());
        }
        Some(Arc::new(all))
    }

    /// How to run it.
    pub fn run(&self) -> &Config {
        &self.config.config
    }

    pub fn run_mut(&mut self) -> &mut Config {
        &mut self.config.config
    }

    pub fn env(&self, name: &str) -> Option<String> {
        self.run()
            .env
            .iter()
            .find_map(|e| e.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    pub fn lookup(&self, name: &str) -> Option<String> {
        self.env(name).or_else(|| self.args.get(name).cloned().flatten())
    }

    /// How much there is to remember of it: what texts the Dockerfile's author chose, and what variables made of them.
    pub fn bytes(&self) -> usize {
        let run = self.run();
        let pair = |(k, v): (&String, &String)| k.len() + v.len();
        let argument = |(k, v): (&String, &Option<String>)| k.len() + v.as_ref().map_or(0, String::len);
        let history = &self.config.history;
        run.env.iter().map(String::len).sum::<usize>()
            + run.labels.iter().map(pair).sum::<usize>()
            + run.volumes.keys().map(String::len).sum::<usize>()
            + run.on_build.iter().map(String::len).sum::<usize>()
            + self.args.iter().map(argument).sum::<usize>()
            + history.iter().map(|h| h.created_by.len()).sum::<usize>()
    }

    /// The layers' digests, lowest first.
    pub fn diff_ids(&self) -> Vec<String> {
        self.layers.iter().map(|l| l.diff_id.clone()).collect()
    }

    /// What names the files below a step.
    pub fn chain(&self) -> String {
        self.diff_ids().join(",")
    }

    /// Adds a step's line to the history, and its layer.
    pub fn push(&mut self, layer: Option<Layer>, created: Timestamp, created_by: String, comment: &str) {
        self.config.history.push(History {
            created: Some(created),
            created_by,
            comment: comment.into(),
            empty_layer: layer.is_none(),
            ..History::default()
        });
        self.layers.extend(layer);
        self.created = Some(created);
        self.config.created = Some(created);
        self.stepped = true;
    }

    /// Nothing of it counts as made after this time.
    pub fn not_after(&mut self, time: Timestamp) {
        for line in &mut self.config.history {
            line.created = line.created.map(|t| t.min(time));
        }
        self.config.created = self.config.created.map(|t| t.min(time));
        self.created = self.created.map(|t| t.min(time));
    }

    /// Remembers how the last step can be found again.
    pub fn record(&mut self, key: String, definition: Option<String>, description: String, made: &Made) {
        self.steps.push(StepRecord { key, definition, description, made: made.clone() });
    }

    /// As an image to be stored; `parent` is remembered as its parent.
    pub fn finished(&self, parent: Option<String>) -> Finished {
        Finished { config: self.config.clone(), parent, layers: self.layers.clone() }
    }
}
