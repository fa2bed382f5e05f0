//! A container's log, as `docker logs` reads it.

use std::path::PathBuf;

use futures::Stream;
use jiff::Timestamp;
use runtime::LogSpec;
use runtime::logs::{LogLine, ReadOptions};

use crate::Engine;
use crate::error::{Error, Result};

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
    /// Only lines at or after.
    pub since: Option<Timestamp>,
    /// Only lines at or before.
    pub until: Option<Timestamp>,
    /// Only the last so many.
    pub tail: Option<u64>,
    /// Go on while it runs.
    pub follow: bool,
}

impl Engine {
    /// The log's lines; with `follow` until the container ends or is removed.
    pub fn logs(
        &self,
        reference: &str,
        options: LogOptions,
    ) -> Result<impl Stream<Item = runtime::Result<LogLine>> + Send + 'static + use<>> {
        let (path, mut mark) = if let Some(id) = self.foreign.find(reference) {
            (self.foreign_log(&id)?, self.foreign.mark(&id))
        } else {
            let container = self.find(reference)?;
            if container.lock().asked.host.log_config.driver == "none" {
                return Err(Error::NotImplemented(
                    "configured logging driver does not support reading".into(),
                ));
            }
            (container.log_path(), Some(container.mark.subscribe()))
        };
        let up = mark.as_ref().is_some_and(|m| m.borrow().up);
        let read = ReadOptions {
            since: options.since,
            until: options.until,
            tail: options.tail,
            follow: options.follow && up,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        let done = async move {
            // An error means that the container is gone.
            if let Some(mark) = &mut mark {
                drop(mark.wait_for(|m| !m.up || m.removed).await);
            }
        };
        Ok(runtime::logs::read(&path, read, done))
    }

    /// The path of a pod's container's log.
    fn foreign_log(&self, id: &str) -> Result<PathBuf> {
        match self.foreign.get(id).map(|s| s.spec.io.log.clone()) {
            Some(LogSpec::JsonFile { path, .. }) => Ok(path),
            _ => Err(Error::NotImplemented("configured logging driver does not support reading".into())),
        }
    }
}
