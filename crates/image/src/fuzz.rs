//! What fuzz targets call: the parsers of what strangers send, each with what is done with the result.

use std::fs;
use std::io::{Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::archive::tar::{END, Entry, Kind, Reader, write_entry};
use crate::archive::{ExtractOptions, extract, recipe};
use crate::{http, registry};

/// What names in archives are made of. Of these some lead to each other, and some out of the root.
const PARTS: [&str; 16] = [
    "a",
    "b",
    "c",
    "d",
    "..",
    ".",
    "",
    ".wh.a",
    ".wh.b",
    ".wh..wh..opq",
    ".wh.",
    ".wh...",
    "OUTSIDE",
    "/",
    "x y",
    "ü",
];

/// Takes bytes from the front of the input; zeros when there are no more.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn name(&mut self, outside: &Path) -> Vec<u8> {
        let shape = self.next();
        let parts: Vec<&str> =
            (0..1 + shape % 4).map(|_| PARTS[usize::from(self.next()) % PARTS.len()]).collect();
        let lead = if shape & 0x80 != 0 { "/" } else { "" };
        let name = format!("{lead}{}", parts.join("/"));
        let real = outside.as_os_str().as_bytes();
        match name.split_once("OUTSIDE") {
            Some((before, after)) => [before.as_bytes(), real, after.as_bytes()].concat(),
            None => name.into_bytes(),
        }
    }
}

/// An archive that the bytes describe.
pub fn layer_of(bytes: &[u8], outside: &Path) -> Vec<u8> {
    let mut input = Bytes(bytes);
    let mut tar = Vec::new();
    while !input.0.is_empty() {
        let kind =
            [Kind::File, Kind::HardLink, Kind::Symlink, Kind::Char, Kind::Block, Kind::Dir, Kind::Fifo];
        let kind = kind[usize::from(input.next()) % kind.len()];
        let mut e = Entry::new(input.name(outside), kind);
        let data = match kind {
            Kind::File => vec![input.next(); usize::from(input.next() % 16)],
            Kind::HardLink | Kind::Symlink => {
                e.link = input.name(outside);
                Vec::new()
            }
            Kind::Char => {
                e.device = (u32::from(input.next() % 2), 0);
                Vec::new()
            }
            _ => Vec::new(),
        };
        if input.next() % 4 == 0 {
            e.mode = u32::from(input.next()) << 4;
        }
        e.size = data.len() as u64;
        // What cannot be written down as an archive is none.
        let mut one = Vec::new();
        if write_entry(&mut one, &e, &data).is_ok() {
            tar.extend(one);
        }
    }
    tar.extend_from_slice(&END);
    tar
}

/// Unpacks a tar as a layer below `scratch`, an empty folder. Nothing outside of the layer's root changes, and what was
/// unpacked gives the same tar again. Whether it was an archive at all.
pub fn layer(tar: &[u8], scratch: &Path) -> bool {
    let outside = scratch.join("outside");
    let (dir, root) = (scratch.join("layer"), scratch.join("layer/fs"));
    let made = fs::create_dir(&outside)
        .and_then(|()| fs::write(outside.join("canary"), "alive"))
        .and_then(|()| fs::create_dir_all(&root));
    made.expect("room for a layer");
    let look = || {
        let names = |dir: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
            names.sort();
            names
        };
        let of = |path: &Path| {
            let m = fs::symlink_metadata(path).expect("what was there");
            (m.mode(), m.nlink(), m.uid(), m.mtime_nsec(), m.ctime_nsec())
        };
        let canary = outside.join("canary");
        let text = fs::read_to_string(&canary).expect("the canary");
        (names(scratch), names(&outside), text, of(&outside), of(&canary))
    };
    let before = look();
    let opened = fs::File::open(&root).expect("the root");
    let mut writer = recipe::Writer::create(&dir).expect("a recipe");
    let options = ExtractOptions { whiteouts: true, guard: true, ..ExtractOptions::default() };
    let done = extract::extract(
        opened.as_fd(),
        Path::new("/"),
        &mut Reader::with_tee(Cursor::new(tar), &mut writer),
        &options,
    );
    assert_eq!(look(), before, "something outside of the root has changed");
    if done.is_err() {
        return false;
    }
    writer.finish().expect("a recipe");
    let mut again = Vec::new();
    recipe::Rebuilt::open(&dir)
        .and_then(|mut rebuilt| rebuilt.read_to_end(&mut again))
        .expect("what was unpacked can be read again");
    assert!(again == tar, "the tar is not the same again");
    true
}

/// Headers and addresses that a registry answers with.
pub fn answer(text: &str) {
    let _ = registry::parameters(text);
    if let Ok(base) = "https://registry.example/v2/app/blobs/uploads/1?state=x".parse() {
        for place in [registry::join(&base, text), http::resolve(&base, text)] {
            let place = place.ok();
            assert!(place.is_none_or(|uri| uri.host().is_some()), "an address has a host");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(entries: &[(Kind, &str, &str)]) -> Vec<u8> {
        let mut tar = Vec::new();
        for (kind, name, text) in entries {
            let mut e = Entry::new(*name, *kind);
            let data = if *kind == Kind::File { text.as_bytes() } else { b"" };
            if *kind != Kind::File {
                e.link = text.as_bytes().to_vec();
            }
            e.size = data.len() as u64;
            write_entry(&mut tar, &e, data).unwrap();
        }
        tar.extend_from_slice(&END);
        tar
    }

    #[test]
    fn layers_are_the_same_again_whatever_links_did() {
        use Kind::{Dir, File, HardLink, Symlink};
        let layers: [&[(Kind, &str, &str)]; 5] = [
            // The same file by two names, of which the second replaces what the first has written.
            &[(Dir, "e/", ""), (Symlink, "d", "e"), (File, "d/f", "first"), (File, "e/f", "second")],
            // A link that leads elsewhere later.
            &[
                (Dir, "a/", ""),
                (Dir, "b/", ""),
                (Symlink, "d", "a"),
                (File, "d/f", "in a"),
                (Symlink, "d", "b"),
                (File, "d/f", "in b"),
            ],
            // The folder behind a link is replaced.
            &[(Dir, "e/", ""), (Symlink, "d", "/e"), (File, "d/f", "first"), (File, "e", "a file now")],
            // A link to itself, a link in the place of a folder that it leads into.
            &[(File, "a/b", "text"), (HardLink, "a/c", "a/b"), (HardLink, "a", "a/b"), (File, "a", "x")],
            &[(Symlink, "a", "/../outside"), (File, "a/canary", "dead"), (File, "../../x", "")],
        ];
        for (i, entries) in layers.iter().enumerate() {
            let scratch = tempfile::tempdir().unwrap();
            let outside = scratch.path().join("outside");
            assert_eq!(layer(&tar(entries), scratch.path()), i < 4, "{i}");
            assert_eq!(fs::read_to_string(outside.join("canary")).unwrap(), "alive");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(200))]
        #[test]
        fn layers_stay_inside(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let scratch = tempfile::tempdir().unwrap();
            layer(&layer_of(&bytes, &scratch.path().join("outside")), scratch.path());
        }
    }
}
