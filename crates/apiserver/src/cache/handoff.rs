//! From a writer to the cache: the object that was written, which need not be decoded again.

use std::sync::{Arc, OnceLock};

use api::{Object, Value};
use bytes::Bytes;
use parking_lot::Mutex;

use super::Cache;

/// A write on its way: lets the cache take over the writer's decoded object instead of decoding the bytes again.
#[derive(Debug)]
pub struct Written {
    pub(super) stored: Bytes,
    pub(super) value: Mutex<Option<Value>>,
    pub(super) object: OnceLock<Option<Arc<Object>>>,
}

impl Written {
    /// The object at the revision the store gave it; whoever asks first makes it.
    pub fn object(&self, revision: u64) -> Option<Arc<Object>> {
        self.object
            .get_or_init(|| {
                let value = self.value.lock().take()?;
                Object::from_written(&self.stored, value, revision).ok()
            })
            .clone()
    }
}

/// A write that was announced. Dropped before it is settled, because its writer was, it leaves nothing behind.
#[derive(Debug)]
pub struct Announced<'a> {
    pub(super) cache: &'a Cache,
    pub(super) written: Arc<Written>,
    pub(super) open: bool,
}

impl Announced<'_> {
    /// To be called when the write has ended: with its revision, or nothing if it failed. The object that came of it.
    pub fn settled(mut self, revision: Option<u64>) -> Option<Arc<Object>> {
        self.open = false;
        let object = revision.and_then(|r| self.written.object(r));
        self.cache.settled(&self.written.stored, revision);
        object
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if self.open {
            self.cache.settled(&self.written.stored, None);
        }
    }
}
