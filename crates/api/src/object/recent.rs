//! The objects that were decoded last, kept decoded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Object;

/// So many bytes of JSON: a few hundred pods, ten to fifteen times as many bytes decoded.
const BYTES: usize = 1 << 20;

#[derive(Default)]
struct Recent {
    objects: VecDeque<(Arc<Object>, usize)>,
    bytes: usize,
}

static RECENT: Mutex<Recent> = Mutex::new(Recent { objects: VecDeque::new(), bytes: 0 });

fn recent() -> MutexGuard<'static, Recent> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn keep(object: Arc<Object>, size: usize) {
    // One large object is not worth all the others.
    if size > BYTES / 8 {
        return;
    }
    let mut recent = recent();
    recent.bytes += size;
    recent.objects.push_back((object, size));
    let mut old = Vec::new();
    while recent.bytes > BYTES
        && let Some((object, size)) = recent.objects.pop_front()
    {
        recent.bytes -= size;
        old.push(object);
    }
    drop(recent);
    drop(old); // which may take a while, and nobody is to wait for it
}

/// Lets go of all of them: for a process that is idle.
pub fn forget() {
    let all = std::mem::take(&mut *recent());
    drop(all);
}
