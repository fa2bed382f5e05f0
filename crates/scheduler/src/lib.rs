//! The scheduler: filter and score plugins.
