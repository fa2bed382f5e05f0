//! Passwords: an htpasswd file with bcrypt hashes, read again when it changes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// How many passwords may wait to be checked. Each takes a processor for a good part of a second.
const QUEUE: usize = 64;

/// The people of a registry.
pub struct Htpasswd {
    path: PathBuf,
    state: Mutex<State>,
    /// Held while a password is checked: strangers who try some take one processor, not all.
    turn: Mutex<()>,
    waiting: AtomicUsize,
}

/// One that waits for its turn, or has it.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct State {
    read: Option<SystemTime>,
    hashes: HashMap<String, String>,
    /// Digests of pairs that were right, so that a push of a hundred requests costs one check.
    right: HashSet<[u8; 32]>,
}

impl Htpasswd {
    /// The file of that name, which must be readable now.
    pub fn open(path: PathBuf) -> Result<Self> {
        let users =
            Self { path, state: Mutex::default(), turn: Mutex::default(), waiting: AtomicUsize::new(0) };
        users.refresh()?;
        Ok(users)
    }

    fn refresh(&self) -> Result<()> {
        let failed =
            |e: std::io::Error| Error::Configuration(format!("password file {}: {e}", self.path.display()));
        let changed = fs::metadata(&self.path).and_then(|m| m.modified()).map_err(failed)?;
        if self.state.lock().read == Some(changed) {
            return Ok(());
        }
        let text = fs::read_to_string(&self.path).map_err(failed)?;
        let mut hashes = HashMap::new();
        for (i, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |why: &str| {
                Error::Configuration(format!("password file {}, line {}: {why}", self.path.display(), i + 1))
            };
            let (name, hash) = line.split_once(':').ok_or_else(|| bad("it has no colon"))?;
            if !["$2a$", "$2b$", "$2y$"].iter().any(|p| hash.starts_with(p)) {
                return Err(bad("the password is not hashed with bcrypt: make it with `htpasswd -B`"));
            }
            hashes.insert(name.to_string(), hash.to_string());
        }
        *self.state.lock() = State { read: Some(changed), hashes, right: HashSet::new() };
        Ok(())
    }

    /// Whether this is the user's password. Blocking, and slow on purpose the first time. Refused where too many wait.
    pub fn check(&self, name: &str, password: &str) -> Result<bool> {
        self.refresh()?;
        let pair: [u8; 32] =
            Sha256::new().chain_update(name).chain_update([0]).chain_update(password).finalize().into();
        if self.state.lock().right.contains(&pair) {
            return Ok(true);
        }
        let _waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= QUEUE {
            return Err(Error::too_many("too many passwords are being checked: try again later"));
        }
        let _turn = self.turn.lock();
        let (exists, hash) = {
            let state = self.state.lock();
            // Who came before may have brought the same.
            if state.right.contains(&pair) {
                return Ok(true);
            }
            let own = state.hashes.get(name);
            // A name that is not there costs as much as one that is: an answer's delay must not tell who is.
            (own.is_some(), own.or_else(|| state.hashes.values().next()).cloned())
        };
        let right = hash.is_some_and(|h| bcrypt::verify(password, &h).unwrap_or(false)) && exists;
        if right {
            self.state.lock().right.insert(pair);
        }
        Ok(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_and_follows_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        let line = |name: &str, password: &str| format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap());
        fs::write(&path, line("ann", "secret")).unwrap();
        let users = Htpasswd::open(path.clone()).unwrap();
        assert!(users.check("ann", "secret").unwrap() && users.check("ann", "secret").unwrap());
        assert!(!users.check("ann", "wrong").unwrap() && !users.check("bob", "secret").unwrap());
        fs::write(&path, line("bob", "other")).unwrap();
        let later = fs::metadata(&path).unwrap().modified().unwrap() + std::time::Duration::from_secs(2);
        fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert!(!users.check("ann", "secret").unwrap() && users.check("bob", "other").unwrap());
        fs::write(&path, "ann:{SHA}x\n").unwrap();
        assert!(Htpasswd::open(path).err().unwrap().to_string().contains("htpasswd -B"));
    }
    #[test]
    fn strangers_wait_in_a_short_queue() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        fs::write(&path, format!("ann:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
        let users = Htpasswd::open(path).unwrap();
        assert!(users.check("ann", "secret").unwrap());
        std::thread::scope(|scope| {
            let held = users.turn.lock();
            let guesses: Vec<_> = (0..QUEUE)
                .map(|n| {
                    scope.spawn({
                        let users = &users;
                        move || users.check("ann", &n.to_string())
                    })
                })
                .collect();
            while users.waiting.load(Ordering::Acquire) < QUEUE {
                std::thread::yield_now();
            }
            assert_eq!(users.check("ann", "one more").unwrap_err().parts().0, 429);
            // Whoever was here before does not wait.
            assert!(users.check("ann", "secret").unwrap());
            drop(held);
            assert!(guesses.into_iter().all(|guess| !guess.join().unwrap().unwrap()));
        });
        assert!(!users.check("ann", "one more").unwrap());
    }
}
