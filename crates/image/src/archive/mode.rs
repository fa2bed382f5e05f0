//! Permissions as `chmod` takes them: `0755`, `u=rwX,go-w`.

/// What is done to the permissions of files and folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    /// These bits, whatever was there.
    Exact(u32),
    /// Changes one after the other.
    Symbolic(Vec<Clause>),
}

/// One change: of whom, how, to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// The bits that it may touch.
    who: u32,
    /// Whether it said whom; if not, the usual mask of new files holds.
    named: bool,
    operation: u8,
    /// `rwxst` as bits of all three.
    bits: u32,
    /// `X`: to be executed where somebody may already, and in folders.
    passable: bool,
    /// Permissions taken over from user (6), group (3) or others (0), as a number of bits to shift.
    from: Option<u32>,
}

const MASK: u32 = 0o022;

impl ModeChange {
    /// Reads an octal number up to 07777, or clauses with commas between them; `None` if it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777).map(Self::Exact);
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let actions = part.find(['+', '-', '='])?;
            let (mut who, named) = (0, actions > 0);
            for c in part[..actions].bytes() {
                who |= match c {
                    b'u' => 0o4700,
                    b'g' => 0o2070,
                    b'o' => 0o0007,
                    b'a' => 0o7777,
                    _ => return None,
                };
            }
            if !named {
                who = 0o7777;
            }
            let mut rest = &part.as_bytes()[actions..];
            while let [operation @ (b'+' | b'-' | b'='), after @ ..] = rest {
                let end = after.iter().position(|b| matches!(b, b'+' | b'-' | b'=')).unwrap_or(after.len());
                let mut clause =
                    Clause { who, named, operation: *operation, bits: 0, passable: false, from: None };
                for c in &after[..end] {
                    match c {
                        b'r' => clause.bits |= 0o444,
                        b'w' => clause.bits |= 0o222,
                        b'x' => clause.bits |= 0o111,
                        b'X' => clause.passable = true,
                        b's' => clause.bits |= 0o6000,
                        b't' => clause.bits |= 0o1000,
                        b'u' | b'g' | b'o' if end == 1 => {
                            clause.from = Some(match c {
                                b'u' => 6,
                                b'g' => 3,
                                _ => 0,
                            });
                        }
                        _ => return None,
                    }
                }
                clauses.push(clause);
                rest = &after[end..];
            }
        }
        Some(Self::Symbolic(clauses))
    }

    /// The permissions of something that had `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Exact(mode) => *mode,
            Self::Symbolic(clauses) => clauses.iter().fold(mode & 0o7777, |m, c| c.apply(m, is_dir)),
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let mut bits = self.bits;
        if self.passable && (is_dir || mode & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(shift) = self.from {
            let three = mode >> shift & 7;
            bits |= three << 6 | three << 3 | three;
        }
        // The sticky bit is nobody's: it is changed where everybody is meant.
        let mut bits = bits & if self.who & 0o777 == 0o777 { 0o7777 } else { self.who };
        if !self.named {
            bits &= !MASK;
        }
        match self.operation {
            b'+' => mode | bits,
            b'-' => mode & !bits,
            _ => {
                // The bits of a folder that files take over stay unless they are named.
                let kept = if is_dir { 0o6000 } else { 0 };
                mode & !(self.who & !kept) | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_chmod_does() {
        for (text, before, is_dir, after) in [
            ("644", 0o755, false, 0o644),
            ("04755", 0o644, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("+w", 0o444, false, 0o644),
            ("go-rwx", 0o777, false, 0o700),
            ("g=u", 0o750, false, 0o770),
            ("u+s,g-x", 0o755, false, 0o4745),
            ("u=r+w", 0o777, false, 0o677),
            ("+t", 0o755, true, 0o1755),
            ("o=", 0o757, false, 0o750),
            ("g=rx", 0o2770, true, 0o2750),
        ] {
            let got = ModeChange::parse(text).unwrap().apply(before, is_dir);
            assert_eq!(got, after, "{text} of {before:o}: {got:o}");
        }
        for wrong in ["", "8", "77777", "u", "u=q", "z+r", "u=rwx,", "u=go"] {
            assert_eq!(ModeChange::parse(wrong), None, "{wrong}");
        }
    }
}
