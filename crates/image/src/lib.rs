//! Images: content store, pull, push, unpacking, snapshots, garbage collection.
