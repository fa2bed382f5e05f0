//! `COPY` and `ADD`.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use image::archive::ModeChange;

use crate::blocking;
use crate::cache::{self, Made};
use crate::context::Tree;
use crate::copy::{self, From, Source, Target};
use crate::error::{Error, Result};
use crate::flight::Work;
use crate::instruction;
use crate::parse::Line;
use crate::pattern::Ignore;
use crate::remote;
use crate::stage::Stage;
use crate::state::State;
use crate::steps::{Origin, Place, Scratch};

/// A `COPY` or `ADD` with its variables resolved. Of its sources, what does not lie in files is here already.
pub(crate) struct Copying {
    keyword: &'static str,
    /// Here-documents and downloads.
    apart: Vec<Source>,
    /// Repositories.
    clones: Vec<Arc<Tree>>,
    /// Paths and patterns below `place`.
    paths: Vec<String>,
    place: Place,
    excludes: String,
    parents: bool,
    /// An absolute path.
    dest: String,
    /// Whether the destination was written as a folder.
    folder: bool,
    chown: Option<String>,
    chmod: Option<String>,
    mode: Option<ModeChange>,
    /// Whether what lies below counts for nothing.
    pub link: bool,
    unpack: bool,
    unpack_downloads: bool,
    classic: bool,
}

/// The sources, found.
struct Found {
    origin: Origin,
    root: OwnedFd,
    exclude: Option<Ignore>,
    sources: Vec<Source>,
    digest: String,
}

impl Copying {
    /// What it is above files of that name, with sources of that digest.
    pub fn key(&self, below: &str, digest: &str) -> String {
        let Self { chown, chmod, .. } = self;
        cache::key(&[
            b"copy",
            if self.link { "" } else { below }.as_bytes(),
            digest.as_bytes(),
            self.dest.as_bytes(),
            self.slash().as_bytes(),
            chown.as_deref().unwrap_or_default().as_bytes(),
            // Which group a user has by name alone.
            &[u8::from(self.classic && chown.is_some())],
            chmod.as_deref().unwrap_or_default().as_bytes(),
            &[self.unpack, self.unpack_downloads, self.parents, self.link].map(u8::from),
        ])
    }

    fn slash(&self) -> &'static str {
        if self.folder && self.dest != "/" { "/" } else { "" }
    }

    /// The sources by what they are made of, in the place of a digest of them; `None` where that cannot be said.
    pub async fn definition(&self, stage: &Stage<'_>) -> Result<Option<String>> {
        let Place::Stage(n) = self.place else {
            return Ok(Some(self.find(stage).await?.digest));
        };
        let Some(defined) = stage.job.defined(n).await else { return Ok(None) };
        let apart = self.apart.clone();
        let apart = blocking(move || {
            let none: OwnedFd = std::fs::File::open("/")?.into();
            let from = From { root: &none, tree: None, exclude: None, parents: false };
            from.digest(&apart).map_err(Error::Step)
        })
        .await?;
        let paths = serde_json::to_vec(&self.paths).map_err(image::Error::from)?;
        let parts =
            [b"by definition", defined.files.as_bytes(), &paths, self.excludes.as_bytes(), apart.as_bytes()];
        Ok(Some(cache::key(&parts)))
    }

    /// Looks for the sources; the stage that they are of is made if need be.
    async fn find(&self, stage: &Stage<'_>) -> Result<Found> {
        let origin = stage.files(&self.place).await?;
        let exclude = match self.excludes.as_str() {
            "" => None,
            rules => Some(Ignore::parse(rules).map_err(Error::Step)?),
        };
        let (images, classic, parents) = (stage.job.builder.images.clone(), self.classic, self.parents);
        let (keyword, folder) = (self.keyword, self.folder);
        let (mut sources, paths, clones) = (self.apart.clone(), self.paths.clone(), self.clones.clone());
        blocking(move || {
            let root = origin.root(&images)?;
            let from = From { root: &root, tree: origin.tree(), exclude: exclude.as_ref(), parents };
            for word in &paths {
                if classic && from.tree.is_some() && copy::escapes(word) {
                    return Err(Error::Step(format!("forbidden path outside the build context: {word} ()")));
                }
                sources.extend(from.find(word).map_err(|e| missing(classic, word, e))?);
            }
            if sources.is_empty() && clones.is_empty() {
                return Err(Error::Step("no source files were specified".into()));
            }
            if sources.len() + clones.len() > 1 && !folder {
                return Err(Error::Step(format!(
                    "When using {keyword} with more than one source file, the destination must be a directory and end with a /"
                )));
            }
            let mut digests = Vec::new();
            if !sources.is_empty() {
                digests.push(from.digest(&sources).map_err(Error::Step)?);
            }
            for clone in &clones {
                let root = clone.open()?;
                let from = From { root: &root, tree: Some(clone), exclude: exclude.as_ref(), parents: false };
                let all = from.find(".").map_err(Error::Step)?;
                digests.push(from.digest(&all).map_err(Error::Step)?);
            }
            Ok(Found { origin, root, exclude, sources, digest: digests.join(",") })
        })
        .await
    }

    /// Writes the sources into a snapshot. Blocking.
    fn write(self, found: &Found, merged: &OwnedFd) -> Result<()> {
        let owner = self.chown.as_deref().map(|c| copy::owner(merged, c, self.classic)).transpose();
        let owner = owner.map_err(Error::Step)?;
        let target = Target {
            path: self.dest,
            folder: self.folder,
            owner: owner.unwrap_or((0, 0)),
            owner_given: owner.is_some(),
            mode: self.mode,
            unpack: self.unpack,
            unpack_downloads: self.unpack_downloads,
        };
        let exclude = found.exclude.as_ref();
        let from = From { root: &found.root, tree: found.origin.tree(), exclude, parents: self.parents };
        from.write(&found.sources, merged, &target).map_err(Error::Step)?;
        for clone in &self.clones {
            let root = clone.open()?;
            let from = From { root: &root, tree: Some(clone), exclude, parents: false };
            let all = from.find(".").map_err(Error::Step)?;
            from.write(&all, merged, &target).map_err(Error::Step)?;
        }
        Ok(())
    }
}

impl Stage<'_> {
    /// Reads a `COPY` or `ADD`.
    pub async fn read_copy(&self, state: &State, line: &Line) -> Result<Copying> {
        let job = self.job;
        let flag = |name: &str| line.flags.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.as_deref());
        let switch = |name: &str| switch(line, name);
        let (source_words, dest) = instruction::sources(line, job.escape).map_err(Error::Step)?;
        let dest = self.expand(state, &dest)?;
        let mut apart = Vec::new();
        for heredoc in &line.heredocs {
            if Path::new(&heredoc.name).file_name() != Some(heredoc.name.as_ref()) {
                return Err(Error::Step(format!(
                    "here-document {:?}: its name is that of a file, without folders",
                    heredoc.name
                )));
            }
            let content = if heredoc.expand {
                self.expand_text(state, &heredoc.content)?
            } else {
                heredoc.content.clone()
            };
            apart.push(Source::Inline { name: heredoc.name.clone(), content });
        }
        let checksum = flag("checksum").map(|c| self.expand(state, c)).transpose()?;
        let mut paths = Vec::new();
        let mut clones: Vec<Arc<Tree>> = Vec::new();
        for word in &source_words {
            let word = self.expand(state, word)?;
            if line.keyword == "ADD"
                && let Some(git) = remote::Git::parse(&word)
            {
                clones.push(job.checkout(git, switch("keep-git-dir")?).await?);
            } else if line.keyword == "ADD" && (word.starts_with("http://") || word.starts_with("https://")) {
                let got = job.download(&word).await?;
                if let Some(wanted) = &checksum {
                    let file = got.file.reopen()?;
                    let digest = blocking(move || copy::digest_of_file(file)).await?;
                    if digest != *wanted {
                        return Err(Error::Step(format!("digest mismatch {digest}: {wanted}")));
                    }
                }
                if got.name.is_empty() && dest.ends_with('/') {
                    return Err(Error::Step(format!("cannot determine filename from url: {word}")));
                }
                apart.push(Source::Download(got));
            } else {
                paths.push(word);
            }
        }
        if checksum.is_some() && !paths.is_empty() {
            return Err(Error::Step("checksum can't be specified for non-HTTP(S) sources".into()));
        }
        let place = match flag("from") {
            Some(name) => self.place(&self.expand(state, name)?).await?,
            // Without paths no file of the context is wanted, so it is not fetched.
            None if paths.is_empty() => {
                Place::Here(Origin::Tree(Arc::new(Tree::at(job.builder.scratch.clone()))))
            }
            None => Place::Here(Origin::Tree(job.contexts.main().await?)),
        };
        let mut excludes = Vec::new();
        for (_, value) in line.flags.iter().filter(|(n, _)| n == "exclude") {
            excludes.push(self.expand(state, value.as_deref().unwrap_or_default())?);
        }
        let parents = switch("parents")?;
        let chown = flag("chown").map(|c| self.expand(state, c)).transpose()?;
        let chmod = flag("chmod").map(|c| self.expand(state, c)).transpose()?;
        let mode = chmod.as_deref().map(copy::mode).transpose().map_err(Error::Step)?;
        // What is not said: archives of the context are unpacked, downloaded ones are not.
        let unpack_downloads = switch("unpack")?;
        let said = line.flags.iter().any(|(name, _)| name == "unpack");
        Ok(Copying {
            keyword: line.keyword,
            apart,
            clones,
            paths,
            place,
            excludes: excludes.join("\n"),
            parents,
            folder: dest.ends_with('/') || dest == "." || dest == ".." || dest.ends_with("/.") || parents,
            dest: instruction::absolute(&state.run().working_dir, &dest),
            // Files that don't depend on what is below them keep their cache when that changes.
            link: switch("link")? && chown.as_deref().is_none_or(copy::is_numeric),
            chown,
            chmod,
            mode,
            unpack: if said { unpack_downloads } else { line.keyword == "ADD" },
            unpack_downloads,
            classic: job.classic,
        })
    }

    /// What the history says of a `COPY` or `ADD`.
    fn copied(&self, state: &State, line: &Line, copying: &Copying, digest: &str) -> String {
        if self.job.classic {
            let mut text = line.keyword.to_string();
            for (name, value) in [("chown", &copying.chown), ("chmod", &copying.chmod)] {
                if let Some(v) = value {
                    text.push_str(&format!(" --{name}={v}"));
                }
            }
            // The destination as a path of the image, because the working directory is part of what is done.
            return self.nop(state, &format!("{text} {digest} in {}{} ", copying.dest, copying.slash()));
        }
        let words = line.original.split_once(char::is_whitespace).map_or("", |(_, r)| r.trim());
        let words = crate::words::expand_text(words, self.job.escape, &|n| state.lookup(n))
            .unwrap_or_else(|_| words.to_string());
        format!("{} {words} # buildkit", line.keyword)
    }

    pub async fn copy(&mut self, state: &mut State, line: &Line) -> Result<()> {
        let copying = self.read_copy(state, line).await?;
        let describe = |created_by: &str| created_by.trim_end_matches(" # buildkit").to_string();
        let mut definition = None;
        if matches!(copying.place, Place::Stage(_)) && !self.job.classic {
            definition = copying.definition(self).await?.map(|source| copying.key(&state.chain(), &source));
            let created_by = self.copied(state, line, &copying, "");
            if let Some((key, made)) = self.known_by(definition.as_ref(), state, &created_by).await? {
                state.record(key, definition, describe(&created_by), &made);
                return self.commit(state, &made, created_by);
            }
        }
        let found = copying.find(self).await?;
        let key = copying.key(&state.chain(), &found.digest);
        let created_by = self.copied(state, line, &copying, &found.digest);
        let description = describe(&created_by);
        let below = if copying.link { Vec::new() } else { state.layers.clone() };
        let builder = self.job.builder.clone();
        let work: Work = Box::new(move |_, _| {
            Box::pin(async move {
                let scratch = Scratch::new(&builder.images, base::rng::hex(32), &below).await?;
                let snapshot = builder.images.snapshot(&scratch.key)?;
                blocking(move || copying.write(&found, &snapshot.mount(true)?)).await?;
                Ok(Made { layer: scratch.seal().await?, created: base::clock::now() })
            })
        });
        let made = self.done(&key, state, &created_by, &description, work).await?;
        self.commit(state, &made, created_by)?;
        self.remember(state, key, definition, description, &made);
        Ok(())
    }
}

/// A source that is not there, in each builder's words.
fn missing(classic: bool, word: &str, why: String) -> Error {
    if classic || !why.ends_with("file does not exist") {
        return Error::Step(why);
    }
    let path = image::archive::root::clean(&Path::new("/").join(word));
    Error::Step(format!("failed to compute cache key: {:?}: not found", path.display().to_string()))
}

/// A flag that is there or not, or says so.
fn switch(line: &Line, name: &str) -> Result<bool> {
    match line.flags.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_deref()) {
        None => Ok(false),
        Some(None | Some("true" | "1")) => Ok(true),
        Some(Some("false" | "0")) => Ok(false),
        Some(Some(other)) => {
            Err(Error::Step(format!("expecting boolean value for flag {name}, not: {other}")))
        }
    }
}
