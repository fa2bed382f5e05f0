//! The one source of randomness: the kernel's in production, a seeded generator in simulations.
//! Keys and tokens of a security protocol do not come from here but from ring, in `pki`.

use std::sync::OnceLock;

use parking_lot::Mutex;

static SEEDED: OnceLock<Mutex<fastrand::Rng>> = OnceLock::new();

/// Makes every later draw of this process deterministic. Returns false if a seed was already set.
pub fn seed(seed: u64) -> bool {
    SEEDED.set(Mutex::new(fastrand::Rng::with_seed(seed))).is_ok()
}

/// Fills `buf` with random bytes.
pub fn fill(buf: &mut [u8]) {
    if let Some(rng) = SEEDED.get() {
        rng.lock().fill(buf);
        return;
    }
    let mut done = 0;
    while done < buf.len() {
        match rustix::rand::getrandom(&mut buf[done..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("getrandom(2) failed: {e}; no safe fallback exists"),
        }
    }
}

/// A random number below `bound` (which must not be zero).
pub fn below(bound: u64) -> u64 {
    assert!(bound > 0, "below(0) has no answer");
    let mut b = [0u8; 8];
    // Rejection sampling: the last, incomplete copy of 0..bound is drawn again.
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        fill(&mut b);
        let n = u64::from_ne_bytes(b);
        if n < limit {
            return n % bound;
        }
    }
}

/// A random fraction in [0, 1), for jitter.
pub fn fraction() -> f64 {
    below(1 << 53) as f64 / (1u64 << 53) as f64
}

/// `bytes` random bytes in lower-case hexadecimal; a Docker id is `hex(32)`.
pub fn hex(bytes: usize) -> String {
    let mut b = vec![0u8; bytes];
    fill(&mut b);
    ::hex::encode(b)
}

/// A random version 4 UUID in its usual form.
pub fn uuid() -> String {
    let mut b = [0u8; 16];
    fill(&mut b);
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let h = ::hex::encode(b);
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}

/// The suffix that Kubernetes gives generated names: `n` characters without vowels or look-alikes.
pub fn suffix(n: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..n).map(|_| ALPHABET[below(ALPHABET.len() as u64) as usize] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        assert_eq!(hex(32).len(), 64);
        let u = uuid();
        assert_eq!(u.len(), 36);
        assert_eq!(&u[14..15], "4");
        assert_ne!(uuid(), uuid());
        assert!(suffix(5).chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c)));
        assert!((0..1000).all(|_| below(7) < 7));
        assert!((0..1000).all(|_| (0.0..1.0).contains(&fraction())));
    }
}
