//! The files of `COPY` and `ADD`: finding the sources, digesting what they contain, and writing them into a snapshot.
//!
//! Sources and destination are both roots given as descriptors, and every path is resolved inside its root: a link in
//! the context or in an image leads nowhere else. Blocking.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::archive::compress::{self, Digesting};
use image::archive::tar::{self, Entry, Kind};
use image::archive::{ExtractOptions, ModeChange, TarOptions, extract_into, root, tar_of_filtered};
use rustix::fs::{FileType, OFlags};

use crate::context::Tree;
use crate::download::Download;
use crate::pattern::{self, Ignore};

/// An image's /etc/passwd is read up to so many bytes.
const DATABASE: u64 = 16 << 20;

/// One source.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file or folder below the sources' root. `below` is its path as `--exclude` sees it, and the destination with
    /// `--parents`: of a folder's content below the folder, of a file its name; with `--parents` all but what they do
    /// not keep.
    Path { path: PathBuf, is_dir: bool, below: PathBuf },
    /// A here-document.
    Inline { name: String, content: String },
    /// A download, complete in a temporary file.
    Download(std::sync::Arc<Download>),
}

/// The root that sources are in, and what of it is left out.
pub(crate) struct From<'a> {
    pub root: &'a OwnedFd,
    /// The context that it is, if it is one: it says what is left out, and remembers digests.
    pub tree: Option<&'a Tree>,
    /// `--exclude`.
    pub exclude: Option<&'a Ignore>,
    /// `--parents`: files keep the folders that they are in.
    pub parents: bool,
}

/// Where and how to write.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target {
    /// Absolute and clean.
    pub path: String,
    /// Whether it was written with a slash at its end, or has several sources: then it is a folder.
    pub folder: bool,
    pub owner: (u32, u32),
    /// Whether the owner was asked for, so that it holds for unpacked archives too.
    pub owner_given: bool,
    pub mode: Option<ModeChange>,
    /// `ADD`: archives of the context are unpacked.
    pub unpack: bool,
    /// `ADD --unpack`: downloaded ones, too.
    pub unpack_downloads: bool,
}

/// Whether a source leads out of the context by its text. Such a path ends at the context's root, except that the classic
/// builder refuses it.
pub(crate) fn escapes(word: &str) -> bool {
    let mut depth = 0i32;
    word.split('/').any(|part| {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        depth < 0
    })
}

impl From<'_> {
    fn ignore(&self) -> Option<&Ignore> {
        self.tree.map(|tree| &tree.ignore)
    }

    /// Finds what a source word names: one path, or all that match a pattern.
    pub fn find(&self, word: &str) -> Result<Vec<Source>, String> {
        // With `--parents`, what stands before `/./` is where to look, and not kept.
        let hidden = match word.split_once("/./") {
            Some((before, _)) if self.parents => root::clean(Path::new(before))
                .components()
                .count()
                .saturating_sub(1)
                .max(before.split('/').filter(|p| !p.is_empty() && *p != ".").count()),
            _ => 0,
        };
        let clean = root::clean(Path::new(word));
        let clean = clean.strip_prefix("/").unwrap_or(&clean).to_path_buf();
        if !pattern::is_pattern(word) {
            return match self.source(&clean, hidden) {
                Some(s) => Ok(vec![s]),
                None if self.tree.is_some() => Err(format!(
                    "file not found in build context or excluded by .dockerignore: stat {}: file does not exist",
                    clean.display()
                )),
                None => Err(format!("stat {word}: file does not exist")),
            };
        }
        let mut found = vec![PathBuf::new()];
        for part in clean.to_string_lossy().split('/') {
            let mut next = Vec::new();
            for dir in found {
                if part == "**" {
                    next.push(dir.clone());
                    self.below(&dir, &mut next);
                } else if pattern::is_pattern(part) {
                    for name in self.names(&dir) {
                        match pattern::path(part, &name) {
                            Some(true) => next.push(dir.join(name)),
                            Some(false) => {}
                            None => return Err(format!("syntax error in pattern: {word}")),
                        }
                    }
                } else {
                    next.push(dir.join(part));
                }
            }
            found = next;
        }
        found.sort();
        found.dedup();
        Ok(found.iter().filter_map(|p| self.source(p, hidden)).collect())
    }

    /// Whether a path is left out, which is `below` for `--exclude`.
    fn leaves_out(&self, path: &Path, below: &Path) -> bool {
        self.ignore().is_some_and(|i| i.excludes(&path.to_string_lossy()))
            || self.exclude.is_some_and(|i| i.excludes(&below.to_string_lossy()))
    }

    /// All folders below a folder.
    fn below(&self, dir: &Path, found: &mut Vec<PathBuf>) {
        for name in self.names(dir) {
            let path = dir.join(name);
            let is_dir = root::stat(self.root.as_fd(), &path, false)
                .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
            if is_dir {
                found.push(path.clone());
                self.below(&path, found);
            }
        }
    }

    fn source(&self, path: &Path, hidden: usize) -> Option<Source> {
        let stat = root::stat(self.root.as_fd(), path, true).ok()?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let below: PathBuf = match is_dir {
            _ if self.parents => path.components().skip(hidden).collect(),
            true => PathBuf::new(),
            false => path.file_name().unwrap_or_default().into(),
        };
        // A folder that is left out may hold something that is not.
        if !is_dir && self.leaves_out(path, &below) {
            return None;
        }
        if is_dir && self.leaves_out(path, &below) {
            let mut probe = Count::default();
            self.pack(path, &below, "", true, &mut probe).ok()?;
            // Two blocks of zeros end an empty archive.
            if probe.0 <= 1024 {
                return None;
            }
        }
        Some(Source::Path { path: path.to_path_buf(), is_dir, below })
    }

    fn names(&self, dir: &Path) -> Vec<String> {
        let Ok(fd) = root::open(self.root.as_fd(), dir, OFlags::RDONLY | OFlags::DIRECTORY) else {
            return Vec::new();
        };
        let Ok(entries) = rustix::fs::Dir::read_from(&fd) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .filter_map(|e| e.ok()?.file_name().to_str().ok().map(ToString::to_string))
            .filter(|n| n != "." && n != "..")
            .collect();
        names.sort();
        names
    }

    /// A tar of a source: a folder's content, or one file called `name`.
    fn pack(
        &self,
        path: &Path,
        below: &Path,
        name: &str,
        content_only: bool,
        out: &mut dyn Write,
    ) -> image::Result<()> {
        let options =
            TarOptions { name: Some(name.into()), follow: true, content_only, ..TarOptions::default() };
        let filter = |inside: &[u8]| {
            let inside = OsStr::from_bytes(inside);
            !self.leaves_out(&path.join(inside), &below.join(inside))
        };
        tar_of_filtered(self.root.as_fd(), path, &options, Some(&filter), out)
    }

    /// A digest of everything that the sources bring: names, modes, attributes and content, no times.
    pub fn digest(&self, sources: &[Source]) -> Result<String, String> {
        let mut all = Vec::new();
        for source in sources {
            let digest = match source {
                Source::Path { path, is_dir, below } => self.digest_of(path, *is_dir, below)?,
                Source::Inline { name, content } => {
                    let text = format!("{name}\0{content}");
                    format!("file:{}", compress::digest_of(text.as_bytes()).trim_start_matches("sha256:"))
                }
                Source::Download(download) => {
                    let mut hash = Digesting::new(io::sink());
                    hash.write_all(download.name.as_bytes()).map_err(|e| e.to_string())?;
                    let mut reader = download.file.reopen().map_err(|e| e.to_string())?;
                    io::copy(&mut reader, &mut hash).map_err(|e| e.to_string())?;
                    format!("file:{}", hash.finish().0.trim_start_matches("sha256:"))
                }
            };
            all.push(digest);
        }
        Ok(match all.as_slice() {
            [one] => one.clone(),
            many => {
                let digest = compress::digest_of(many.join(",").as_bytes());
                format!("multi:{}", digest.trim_start_matches("sha256:"))
            }
        })
    }

    /// The digest of one source, once for all who ask for the same of a context.
    fn digest_of(&self, path: &Path, is_dir: bool, below: &Path) -> Result<String, String> {
        // Rules of one step's own are seldom another's.
        let known = self.tree.filter(|_| self.exclude.is_none()).map(|tree| {
            let asked = format!("{} {path:?} {below:?}", self.parents);
            (&tree.digests, asked)
        });
        if let Some((digests, asked)) = &known
            && let Some(digest) = digests.lock().get(asked)
        {
            return Ok(digest.clone());
        }
        let name = if is_dir { "" } else { file_name(path) };
        let mut hash = Digesting::new(io::sink());
        self.pack(path, below, name, true, &mut hash).map_err(|e| e.to_string())?;
        let kind = if is_dir { "dir" } else { "file" };
        if self.parents {
            hash.write_all(below.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
        }
        let digest = format!("{kind}:{}", hash.finish().0.trim_start_matches("sha256:"));
        if let Some((digests, asked)) = known {
            digests.lock().insert(asked, digest.clone());
        }
        Ok(digest)
    }

    /// Writes the sources below the merged root `to`.
    pub fn write(&self, sources: &[Source], to: &OwnedFd, target: &Target) -> Result<(), String> {
        for source in sources {
            self.write_one(source, to, target)?;
        }
        Ok(())
    }

    fn write_one(&self, source: &Source, to: &OwnedFd, target: &Target) -> Result<(), String> {
        let kept;
        let target = match source {
            Source::Path { is_dir, below, .. } if self.parents => {
                let folders = if *is_dir { Some(below.as_path()) } else { below.parent() };
                let path = Path::new(&target.path).join(folders.unwrap_or(Path::new("")));
                let path = path.to_string_lossy().into_owned();
                kept = Target { path, folder: true, ..target.clone() };
                &kept
            }
            _ => target,
        };
        let path = Path::new(&target.path);
        let existing = root::stat(to.as_fd(), path, true).ok().map(|s| FileType::from_raw_mode(s.st_mode));
        if let Source::Path { path: from, is_dir: true, below } = source {
            if existing.is_some_and(|k| k != FileType::Directory) {
                return Err(format!("cannot copy to non-directory: {}", target.path));
            }
            make_dirs(to, path, target)?;
            return self.pipe(to, path, target, |out| self.pack(from, below, "", false, out));
        }
        // Twice: to see what it is, and to read it.
        let open = || match source {
            Source::Path { path, .. } if target.unpack => open_file(self.root, path),
            Source::Download(download) if target.unpack_downloads => download.file.reopen().map(Some),
            _ => Ok(None),
        };
        let open = || open().map_err(|e| format!("cannot read the source of {}: {e}", target.path));
        if open()?.is_some_and(is_archive)
            && let Some(file) = open()?
        {
            make_dirs(to, path, target)?;
            let options = ExtractOptions {
                owner: target.owner_given.then_some(target.owner),
                ..ExtractOptions::default()
            };
            return extract_into(to.as_fd(), path, file, &options).map(|_| ()).map_err(|e| e.to_string());
        }
        let own_name = match source {
            Source::Path { path, .. } => file_name(path).to_string(),
            Source::Inline { name, .. } => name.clone(),
            Source::Download(download) => download.name.clone(),
        };
        let into_folder = target.folder || existing == Some(FileType::Directory);
        let (dir, name) = match path.file_name() {
            Some(name) if !into_folder => {
                (path.parent().unwrap_or(Path::new("/")), name.to_string_lossy().into_owned())
            }
            _ => (path, own_name),
        };
        make_dirs(to, dir, target)?;
        match source {
            Source::Path { path, below, .. } => {
                self.pipe(to, dir, target, |out| self.pack(path, below, &name, false, out))
            }
            Source::Inline { content, .. } => self.pipe(to, dir, target, |out| {
                let mut e = Entry::new(name.as_bytes(), Kind::File);
                e.size = content.len() as u64;
                e.mtime = (base::clock::now().as_second(), 0);
                tar::write_entry(out, &e, content.as_bytes())?;
                Ok(out.write_all(&tar::END)?)
            }),
            Source::Download(download) => self.pipe(to, dir, target, |out| {
                let mut reader = download.file.reopen()?;
                let mut e = Entry::new(name.as_bytes(), Kind::File);
                e.size = reader.metadata()?.len();
                e.mode = 0o600;
                e.mtime = (download.mtime, 0);
                out.write_all(&tar::header(&e))?;
                io::copy(&mut Read::take(&mut reader, e.size), out)?;
                out.write_all(tar::pad(e.size))?;
                Ok(out.write_all(&tar::END)?)
            }),
        }
    }

    /// Extracts below `dir` what `pack` writes, while it writes.
    fn pipe(
        &self,
        to: &OwnedFd,
        dir: &Path,
        target: &Target,
        pack: impl FnOnce(&mut dyn Write) -> image::Result<()> + Send,
    ) -> Result<(), String> {
        let (reader, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| e.to_string())?;
        let options = ExtractOptions {
            owner: Some(target.owner),
            mode: target.mode.clone(),
            ..ExtractOptions::default()
        };
        std::thread::scope(|scope| {
            let packing = scope.spawn(move || {
                let mut out = io::BufWriter::with_capacity(64 * 1024, File::from(writer));
                pack(&mut out)?;
                Ok::<_, image::Error>(out.flush()?)
            });
            let extracted = extract_into(to.as_fd(), dir, File::from(reader), &options);
            match packing.join() {
                Ok(packed) => extracted.and(packed).map_err(|e| e.to_string()),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

#[derive(Default)]
struct Count(u64);

impl Write for Count {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or("file")
}

fn make_dirs(to: &OwnedFd, path: &Path, target: &Target) -> Result<(), String> {
    root::make_dirs(to.as_fd(), path, 0o755, target.owner).map(|_| ()).map_err(|e| match e.kind() {
        io::ErrorKind::NotADirectory => format!("cannot copy to non-directory: {}", path.display()),
        _ => format!("{}: {e}", path.display()),
    })
}

/// A regular file inside a root; `None` for anything else, which is not even opened: a FIFO would hold whoever reads it,
/// and a device is the machine's.
fn open_file(root_fd: &OwnedFd, path: &Path) -> io::Result<Option<File>> {
    let found = root::open(root_fd.as_fd(), path, OFlags::PATH)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
        FileType::RegularFile => File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map(Some),
        _ => Ok(None),
    }
}

/// The digest of a file.
pub(crate) fn digest_of_file(mut file: File) -> crate::Result<String> {
    let mut hash = Digesting::new(io::sink());
    io::copy(&mut file, &mut hash)?;
    Ok(hash.finish().0)
}

/// `--chmod`: an octal number, or clauses as of `chmod`.
pub(crate) fn mode(text: &str) -> Result<ModeChange, String> {
    ModeChange::parse(text).ok_or_else(|| {
        format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777, or symbolic as u=rwX,go=rX"
        )
    })
}

/// Whether an owner is given by numbers, which mean the same in every image.
pub(crate) fn is_numeric(spec: &str) -> bool {
    spec.split(':').all(|p| p.parse::<u32>().is_ok())
}

/// Whether a file is a tar, compressed or not.
pub(crate) fn is_archive(file: File) -> bool {
    let Ok((_, stream)) = compress::decoder(file) else { return false };
    matches!(tar::Reader::new(stream).next_entry(), Ok(Some(_)))
}

/// `user[:group]` by the image's own files, as numbers. A user without a group gets the one that /etc/passwd says, or the
/// classic builder's: that of the same name. A number means both.
pub(crate) fn owner(root_fd: &OwnedFd, spec: &str, classic: bool) -> Result<(u32, u32), String> {
    let (user, group) = spec.split_once(':').map_or((spec, None), |(u, g)| (u, Some(g)));
    let group = group.filter(|g| !g.is_empty()).or(classic.then_some(user));
    let fail = |why: String| format!("unable to convert uid/gid chown string to host mapping: {why}");
    let (uid, own) = match user.parse() {
        Ok(n) => Some((n, n)),
        Err(_) => lookup(root_fd, "/etc/passwd", user, |mut rest| {
            Some((rest.nth(1)?.parse().ok()?, rest.next()?.parse().ok()?))
        }),
    }
    .ok_or_else(|| fail(format!("can't find uid for user {user}: no such user: {user}")))?;
    let gid = match group {
        None => Some(own),
        Some(group) => group
            .parse()
            .ok()
            .or_else(|| lookup(root_fd, "/etc/group", group, |mut rest| rest.nth(1)?.parse().ok())),
    };
    let group = group.unwrap_or_default();
    Ok((uid, gid.ok_or_else(|| fail(format!("can't find gid for group {group}: no such group: {group}")))?))
}

/// What `read` makes of the fields after the name, on the line of that name.
fn lookup<T>(
    root_fd: &OwnedFd,
    file: &str,
    name: &str,
    read: impl Fn(std::str::Split<'_, char>) -> Option<T>,
) -> Option<T> {
    let file = open_file(root_fd, Path::new(file)).ok()??;
    let mut text = String::new();
    file.take(DATABASE).read_to_string(&mut text).ok()?;
    text.lines().find_map(|l| {
        let mut fields = l.split(':');
        (fields.next() == Some(name)).then(|| read(fields)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn open(p: &Path) -> OwnedFd {
        File::open(p).unwrap().into()
    }

    fn tree() -> tempfile::TempDir {
        let t = tempfile::tempdir().unwrap();
        fs::create_dir_all(t.path().join("sub/deep")).unwrap();
        for (name, text) in [("a.txt", "a"), ("b.txt", "b"), ("sub/c.txt", "c"), ("sub/deep/d.txt", "d")] {
            fs::write(t.path().join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("a.txt", t.path().join("link")).unwrap();
        t
    }

    fn shown(found: &[Source]) -> Vec<String> {
        found
            .iter()
            .map(|s| match s {
                Source::Path { path, is_dir, .. } => {
                    format!("{}{}", path.display(), if *is_dir { "/" } else { "" })
                }
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn finds() {
        let t = tree();
        let fd = open(t.path());
        let mut tree = Tree::at(t.path().into());
        tree.ignore = Ignore::parse("b.txt\nsub\n!sub/deep/d.txt").unwrap();
        let from = From { root: &fd, tree: Some(&tree), exclude: None, parents: false };
        assert_eq!(shown(&from.find("*.txt").unwrap()), ["a.txt"]);
        assert_eq!(shown(&from.find("/sub/").unwrap()), ["sub/"]);
        assert_eq!(shown(&from.find("s*/*").unwrap()), ["sub/deep/"]);
        assert_eq!(shown(&from.find(".").unwrap()), ["/"]);
        assert_eq!(shown(&from.find("../sub/../../a.txt").unwrap()), ["a.txt"]);
        assert!(escapes("../x") && escapes("a/../../x") && !escapes("a/../x/./y"));
        assert!(from.find("b.txt").unwrap_err().contains("excluded by .dockerignore"));
        assert!(from.find("none").unwrap_err().contains("stat none: file does not exist"));
    }

    #[test]
    fn excludes_what_is_below_the_source() {
        let t = tree();
        let out = tempfile::tempdir().unwrap();
        let (fd, to) = (open(t.path()), open(out.path()));
        let exclude = Ignore::parse("deep\nsub/c.txt\nb.txt").unwrap();
        let copy = |word: &str, path: &str, parents| {
            let from = From { root: &fd, tree: None, exclude: Some(&exclude), parents };
            let found = from.find(word).unwrap();
            from.write(&found, &to, &Target { path: path.into(), folder: true, ..Target::default() })
                .unwrap();
            let mut all = Vec::new();
            image::archive::tar_of(to.as_fd(), Path::new(path), &TarOptions::default(), &mut all).unwrap();
            let (mut names, mut tar) = (Vec::new(), tar::Reader::new(all.as_slice()));
            while let Some(e) = tar.next_entry().unwrap() {
                names.push(String::from_utf8_lossy(&e.path).into_owned());
            }
            names.join(" ")
        };
        assert_eq!(copy("sub", "/a", false), "a/ a/c.txt");
        assert_eq!(copy("*.txt", "/b", false), "b/ b/a.txt");
        assert_eq!(copy(".", "/c", false), "c/ c/a.txt c/link c/sub/ c/sub/deep/ c/sub/deep/d.txt");
        assert_eq!(copy("sub", "/d", true), "d/ d/sub/ d/sub/deep/ d/sub/deep/d.txt");
        assert_eq!(copy("sub/./c.txt", "/e", true), "e/ e/c.txt");
        let all = Ignore::parse("*").unwrap();
        let from = From { root: &fd, tree: None, exclude: Some(&all), parents: false };
        assert_eq!(shown(&from.find("sub").unwrap()), ["sub/"]);
        // Where the kept folders begin is a part of what is copied.
        let from = From { root: &fd, tree: None, exclude: None, parents: true };
        let digest = |word: &str| from.digest(&from.find(word).unwrap()).unwrap();
        assert_ne!(digest("sub/deep/d.txt"), digest("sub/./deep/d.txt"));
    }

    #[test]
    fn writes_and_digests() {
        let t = tree();
        let out = tempfile::tempdir().unwrap();
        let (fd, to) = (open(t.path()), open(out.path()));
        let mut tree = Tree::at(t.path().into());
        tree.ignore = Ignore::parse("**/c.txt").unwrap();
        let from = From { root: &fd, tree: Some(&tree), exclude: None, parents: false };
        let target = |path: &str, folder| Target { path: path.into(), folder, ..Target::default() };
        let copy = |word: &str, target: &Target| {
            let found = from.find(word).unwrap();
            from.write(&found, &to, target)
        };
        copy("sub", &target("/data", false)).unwrap();
        copy("a.txt", &target("/data", false)).unwrap();
        copy("a.txt", &target("/x/renamed", false)).unwrap();
        copy("link", &target("/y/", true)).unwrap();
        let read = |p: &str| fs::read_to_string(out.path().join(p));
        assert_eq!(read("data/deep/d.txt").unwrap(), "d");
        assert!(read("data/c.txt").is_err());
        assert_eq!(read("data/a.txt").unwrap(), "a");
        assert_eq!(read("x/renamed").unwrap(), "a");
        assert_eq!(read("y/link").unwrap(), "a");
        assert_eq!(
            copy("sub", &target("/x/renamed", false)).unwrap_err(),
            "cannot copy to non-directory: /x/renamed"
        );

        let digest = |word: &str| from.digest(&from.find(word).unwrap()).unwrap();
        let before = digest("sub");
        let changed = |path: &str, text: &str| {
            fs::write(t.path().join(path), text).unwrap();
            // A context is at rest as long as it is one.
            assert_eq!(digest("sub"), before);
            tree.digests.lock().clear();
        };
        changed("sub/c.txt", "left out");
        assert_eq!(digest("sub"), before);
        changed("sub/deep/d.txt", "counts");
        assert_ne!(digest("sub"), before);
        assert!(digest("*.txt").starts_with("multi:"));
    }

    #[test]
    fn owners() {
        let t = tempfile::tempdir().unwrap();
        fs::create_dir(t.path().join("etc")).unwrap();
        fs::write(t.path().join("etc/passwd"), "root:x:0:0::/:\napp:x:10:20::/:\n").unwrap();
        fs::write(t.path().join("etc/group"), "root:x:0:\napp:x:30:\nweb:x:40:\n").unwrap();
        let fd = open(t.path());
        for (spec, modern, old) in [
            ("app", (10, 20), (10, 30)),
            ("app:", (10, 20), (10, 30)),
            ("app:web", (10, 40), (10, 40)),
            ("app:7", (10, 7), (10, 7)),
            ("5", (5, 5), (5, 5)),
            ("5:web", (5, 40), (5, 40)),
        ] {
            assert_eq!((owner(&fd, spec, false), owner(&fd, spec, true)), (Ok(modern), Ok(old)), "{spec}");
        }
        assert!(owner(&fd, "web", false).unwrap_err().contains("no such user: web"));
        assert!(owner(&fd, "app:none", false).unwrap_err().contains("no such group: none"));
    }

    #[test]
    fn unpacks_archives_only() {
        let t = tree();
        let mut bytes = Vec::new();
        let mut e = Entry::new("inside", Kind::File);
        e.size = 2;
        tar::write_entry(&mut bytes, &e, b"in").unwrap();
        bytes.extend_from_slice(&tar::END);
        fs::write(t.path().join("x.tar"), &bytes).unwrap();
        let out = tempfile::tempdir().unwrap();
        let (fd, to) = (open(t.path()), open(out.path()));
        let from = From { root: &fd, tree: None, exclude: None, parents: false };
        let target = Target { path: "/u".into(), folder: true, unpack: true, ..Target::default() };
        from.write(&from.find("x.tar").unwrap(), &to, &target).unwrap();
        from.write(&from.find("a.txt").unwrap(), &to, &target).unwrap();
        assert_eq!(fs::read_to_string(out.path().join("u/inside")).unwrap(), "in");
        assert_eq!(fs::read_to_string(out.path().join("u/a.txt")).unwrap(), "a");
        // A download is for itself, unless it was asked for.
        for unpack_downloads in [false, true] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&bytes).unwrap();
            let source =
                Source::Download(std::sync::Arc::new(Download { name: "y.tar".into(), file, mtime: 0 }));
            let path = format!("/{unpack_downloads}");
            let target = Target { path, folder: true, unpack: true, unpack_downloads, ..Target::default() };
            from.write(&[source], &to, &target).unwrap();
        }
        assert!(out.path().join("false/y.tar").is_file() && !out.path().join("false/inside").exists());
        assert!(out.path().join("true/inside").is_file() && !out.path().join("true/y.tar").exists());
    }
}
