//! Typed calls to the API server, informers, work queue.
