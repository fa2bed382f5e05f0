//! Contexts from elsewhere: git repositories, and addresses of tars and Dockerfiles.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::context::{self, Tree};
use crate::error::{Error, Result};
use crate::{blocking, download, parse};

/// What an address led to.
pub(crate) enum Fetched {
    Tree(Tree),
    /// A single file that is no archive.
    Dockerfile(String),
}

/// A repository with what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Git {
    pub url: String,
    /// A branch, tag or commit; empty is the default branch.
    pub reference: String,
    pub folder: String,
}

impl Git {
    /// Understands `https://host/repo.git#ref:folder`, `git://`, `ssh://`, `git@host:repo` and `github.com/owner/repo`.
    pub fn parse(address: &str) -> Option<Self> {
        let (url, fragment) = address.split_once('#').unwrap_or((address, ""));
        let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
        let http = url.starts_with("http://") || url.starts_with("https://");
        let scp = url
            .split_once(':')
            .is_some_and(|(head, tail)| head.contains('@') && !head.contains('/') && !tail.starts_with("//"));
        let url = match () {
            () if http && url.split('?').next().is_some_and(|u| u.ends_with(".git")) => url.to_string(),
            () if url.starts_with("git://") || url.starts_with("ssh://") || scp => url.to_string(),
            () if url.starts_with("github.com/") => format!("https://{url}"),
            () => return None,
        };
        Some(Self { url, reference: reference.into(), folder: folder.into() })
    }

    /// Clones what is wanted into a folder below `scratch`.
    pub async fn checkout(&self, scratch: &Path, keep_git_dir: bool) -> Result<Tree> {
        let mut tree = context::folder(scratch)?;
        let dir = tree.path.join("repository");
        std::fs::create_dir(&dir)?;
        if self.url.starts_with('-') || self.reference.starts_with('-') {
            return Err(Error::Invalid(format!(
                "{}: a repository's address cannot start with a dash",
                self.url
            )));
        }
        git(&dir, &["init", "--quiet"]).await?;
        git(&dir, &["remote", "add", "origin", &self.url]).await?;
        let reference = if self.reference.is_empty() { "HEAD" } else { &self.reference };
        let shallow = git(&dir, &["fetch", "--quiet", "--depth", "1", "origin", reference]).await;
        let wanted = match shallow {
            Ok(()) => "FETCH_HEAD".to_string(),
            Err(first) => {
                // Not every server hands out single commits: then all of it is fetched.
                git(&dir, &["fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"])
                    .await
                    .map_err(|_| first)?;
                self.fetched(&dir).await?
            }
        };
        git(&dir, &["checkout", "--quiet", "--detach", &wanted]).await?;
        if dir.join(".gitmodules").exists() {
            git(&dir, &["submodule", "update", "--quiet", "--init", "--recursive", "--depth", "1"]).await?;
        }
        if !keep_git_dir {
            std::fs::remove_dir_all(dir.join(".git"))?;
        }
        tree.path = self.inside(&dir)?;
        Ok(tree)
    }

    /// What the reference is called after everything was fetched.
    async fn fetched(&self, dir: &Path) -> Result<String> {
        if self.reference.is_empty() {
            git(dir, &["remote", "set-head", "origin", "--auto"]).await?;
            return Ok("refs/remotes/origin/HEAD".into());
        }
        for place in ["refs/tags/", "refs/remotes/origin/", ""] {
            let name = format!("{place}{}^{{commit}}", self.reference);
            if git(dir, &["rev-parse", "--quiet", "--verify", &name]).await.is_ok() {
                return Ok(name);
            }
        }
        Err(Error::Invalid(format!(
            "failed to fetch remote: {} has no branch, tag or commit {}",
            self.url, self.reference
        )))
    }

    fn inside(&self, dir: &Path) -> Result<PathBuf> {
        let inner = image::archive::root::clean(&Path::new("/").join(&self.folder));
        let path = dir.join(inner.strip_prefix("/").unwrap_or(&inner));
        let real = path.canonicalize().map_err(|e| Error::Invalid(format!("{}: {e}", self.folder)))?;
        if !real.starts_with(dir.canonicalize()?) || !real.is_dir() {
            return Err(Error::Invalid(format!("{} is no folder of {}", self.folder, self.url)));
        }
        Ok(real)
    }
}

async fn git(dir: &Path, args: &[&str]) -> Result<()> {
    let output = tokio::process::Command::new("git")
        .current_dir(dir)
        .args(["-c", "protocol.ext.allow=never", "-c", "advice.detachedHead=false"])
        .args(args)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::Invalid(
                "building from a git repository needs the program git: install it on the engine's machine"
                    .into(),
            ),
            _ => e.into(),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(Error::Invalid(format!("failed to fetch remote: git {}: {}", args.join(" "), why.trim())))
}

/// Fetches what a remote context's address means.
pub(crate) async fn fetch(address: &str, scratch: &Path) -> Result<Fetched> {
    if let Some(git) = Git::parse(address) {
        return git.checkout(scratch, false).await.map(Fetched::Tree);
    }
    if !(address.starts_with("http://") || address.starts_with("https://")) {
        return Err(Error::Invalid(format!(
            "unable to use {address} as a build context: it is neither a git repository nor an http address"
        )));
    }
    let got = download::get(address, scratch)
        .await
        .map_err(|e| Error::Invalid(format!("error downloading remote context {address}: {e}")))?;
    let scratch = scratch.to_path_buf();
    blocking(move || {
        if crate::copy::is_archive(got.file.reopen()?) {
            return context::unpack(got.file.reopen()?, &scratch).map(Fetched::Tree);
        }
        let mut bytes = Vec::new();
        got.file.reopen()?.take(parse::SIZE_LIMIT as u64 + 1).read_to_end(&mut bytes)?;
        context::text("the remote Dockerfile", bytes).map(Fetched::Dockerfile)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server without git of its own: it gives files, neither single commits nor what its default branch is but by a file.
    #[tokio::test]
    async fn a_repository_that_is_only_files() {
        let folder = tempfile::tempdir().unwrap();
        let run = |dir: &Path, args: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"];
            let ran = std::process::Command::new("git").current_dir(dir).args(identity).args(args).output();
            ran.map(|o| assert!(o.status.success(), "{o:?}"))
        };
        let work = folder.path().join("work");
        std::fs::create_dir_all(work.join("sub")).unwrap();
        if run(&work, &["init", "--quiet"]).is_err() {
            println!("skipped: git is not installed");
            return;
        }
        std::fs::write(work.join("sub/file"), "one").unwrap();
        run(&work, &["add", "."]).unwrap();
        run(&work, &["commit", "--quiet", "-m", "one"]).unwrap();
        run(&work, &["tag", "v1"]).unwrap();
        std::fs::write(work.join("sub/file"), "two").unwrap();
        run(&work, &["commit", "--quiet", "-a", "-m", "two"]).unwrap();
        run(folder.path(), &["clone", "--quiet", "--bare", "work", "r.git"]).unwrap();
        run(&folder.path().join("r.git"), &["update-server-info"]).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/r.git", listener.local_addr().unwrap());
        let root = folder.path().to_path_buf();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                files(stream, &root).await.unwrap();
            }
        });
        for (fragment, want) in [("", "two"), ("#main", "two"), ("#v1:sub", "one"), ("#:sub", "two")] {
            let scratch = folder.path().join(base::rng::hex(4));
            std::fs::create_dir(&scratch).unwrap();
            let tree =
                Git::parse(&format!("{url}{fragment}")).unwrap().checkout(&scratch, false).await.unwrap();
            let file = if fragment.contains(':') { "file" } else { "sub/file" };
            assert_eq!(std::fs::read_to_string(tree.path.join(file)).unwrap(), want, "{fragment:?}");
        }
        let error = Git::parse(&format!("{url}#none")).unwrap().checkout(folder.path(), false).await.err();
        assert!(error.unwrap().to_string().contains("no branch, tag or commit none"));
    }

    /// Answers one request for a file.
    async fn files(mut stream: tokio::net::TcpStream, root: &Path) -> std::io::Result<()> {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(read).lines();
        let first = lines.next_line().await?.unwrap_or_default();
        while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
        let path = first.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/");
        let (status, body) = match std::fs::read(root.join(path.trim_start_matches('/'))) {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", Vec::new()),
        };
        let head =
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        write.write_all(head.as_bytes()).await?;
        write.write_all(&body).await
    }

    #[test]
    fn addresses() {
        let parse = |a: &str| Git::parse(a).map(|g| (g.url, g.reference, g.folder));
        let is = |url: &str, r: &str, f: &str| Some((url.to_string(), r.to_string(), f.to_string()));
        assert_eq!(parse("https://h/r.git#v1:sub"), is("https://h/r.git", "v1", "sub"));
        assert_eq!(parse("https://h/r.git"), is("https://h/r.git", "", ""));
        assert_eq!(parse("git@h:o/r.git#:d"), is("git@h:o/r.git", "", "d"));
        assert_eq!(parse("github.com/o/r"), is("https://github.com/o/r", "", ""));
        assert_eq!(parse("https://h/context.tar.gz"), None);
    }
}
