//! What fuzz targets call: the parsers of what comes from images, users and files, each with what is done with the result.

use std::collections::BTreeMap;
use std::path::Path;

use crate::logs::{drivers, entry, reader};
use crate::shim::users::Database;
use crate::{LoggedContainer, seccomp};

/// An image's `/etc/passwd` and `/etc/group`, parted by a line of dashes, after the user that is looked for.
pub fn users(text: &str) {
    let (wanted, files) = text.split_once('\n').unwrap_or((text, ""));
    let (passwd, group) = files.split_once("\n---\n").unwrap_or((files, ""));
    let database = Database::of(passwd, group);
    if let Ok(id) = database.resolve(wanted) {
        let _ = database.home_of(id.uid);
        let named = wanted.split_once(':').is_some_and(|(_, group)| !group.is_empty());
        assert!(!named || id.groups == [id.gid], "a named group stands alone");
        assert!(id.groups.iter().chain([&id.uid]).all(|id| *id <= i32::MAX as u32), "{id:?}");
    }
}

/// A seccomp profile, Docker's or OCI's: what is understood compiles to a filter or is refused.
pub fn seccomp(text: &str) {
    seccomp::try_out(text);
}

/// Records of a log in Docker's binary form, and lines of one in JSON.
pub fn log(bytes: &[u8]) {
    let mut rest = bytes;
    while let entry::Record::Whole(length, read) = entry::decode(rest) {
        let (record, after) = rest.split_at(length);
        let end = record.last_chunk::<4>().copied().and_then(entry::length_before);
        assert_eq!(end, Some(length as u64), "a record can be found from its end");
        if let Some(e) = read {
            let attributes = entry::attributes(&e.attributes);
            let mut again = Vec::new();
            entry::encode(&mut again, &e.line, e.stream, e.time, e.piece.as_ref(), &attributes);
            assert_eq!(entry::decode(&again), entry::Record::Whole(again.len(), Some(e)));
        }
        rest = after;
    }
    for line in bytes.split(|b| *b == b'\n') {
        let _ = reader::parse(line);
    }
}

/// The template of a log's tag.
pub fn tag(text: &str) {
    let _ = drivers::try_tag(text);
}

/// A log driver and its options, a line each: what is taken is enough to say how a container's log is written.
pub fn log_driver(text: &str) {
    let mut lines = text.lines();
    let name = lines.next().unwrap_or_default();
    let options: drivers::Options =
        lines.filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    if drivers::validate(name, &options).is_ok() {
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        let asked = drivers::Asked {
            container: &LoggedContainer::default(),
            labels: &labels,
            env: &["A=b".to_owned()],
            folder: Path::new("/x"),
        };
        let _ = drivers::spec(name, &options, &asked);
    }
}
