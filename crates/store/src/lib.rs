//! Revisions and watch: the embedded store and etcd.
