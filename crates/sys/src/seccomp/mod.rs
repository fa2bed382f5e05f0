//! System call filters: compiles a profile to classic BPF and loads it (seccomp(2)).
//!
//! The program finds a system call by binary search over its number instead of libseccomp's default chain of
//! comparisons, so a filter of 350 names costs about nine jumps. Several rules for one call are alternatives: the
//! first whose conditions all hold decides; an unconditional one beats them all. Calls newer than every named one get
//! ENOSYS when the default is an error, so that C libraries fall back instead of giving up.

mod numbers;

use std::collections::BTreeMap;
use std::io;

/// What happens to a matching system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It is executed.
    Allow,
    /// It fails with this errno.
    Errno(u16),
    /// The thread is killed.
    KillThread,
    /// The process is killed.
    KillProcess,
    /// SIGSYS.
    Trap,
    /// A tracer decides.
    Trace(u16),
    /// It is executed and logged.
    Log,
}

impl Action {
    fn code(self) -> u32 {
        match self {
            Action::Allow => 0x7fff_0000,
            Action::Errno(e) => 0x0005_0000 | u32::from(e),
            Action::KillThread => 0,
            Action::KillProcess => 0x8000_0000,
            Action::Trap => 0x0003_0000,
            Action::Trace(d) => 0x7ff0_0000 | u32::from(d),
            Action::Log => 0x7ffc_0000,
        }
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Equal.
    Eq,
    /// Greater or equal.
    Ge,
    /// Greater.
    Gt,
    /// Equal to `value_two` after masking with `value`.
    MaskedEq,
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// The comparison.
    pub op: Op,
    /// What it is compared with, or the mask.
    pub value: u64,
    /// What the masked argument is compared with.
    pub value_two: u64,
}

/// What happens to some system calls under some conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The calls' names; one that an architecture does not have is skipped there.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// All of these must hold.
    pub conditions: Vec<Condition>,
}

/// An instruction set whose calls a filter covers. Calls of any other kill the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86_64 (not the x32 variant, which gets ENOSYS).
    X86_64,
    /// 32-bit x86.
    I386,
    /// 64-bit ARM.
    Aarch64,
}

impl Arch {
    /// The one this program is compiled for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Arch = Arch::X86_64;
    /// The one this program is compiled for.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Arch = Arch::Aarch64;

    fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::I386 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }

    fn table(self) -> &'static [(&'static str, u32)] {
        match self {
            Arch::X86_64 => numbers::X86_64,
            Arch::I386 => numbers::I386,
            Arch::Aarch64 => numbers::AARCH64,
        }
    }

    /// The number of a system call.
    pub fn number(self, name: &str) -> Option<u32> {
        let table = self.table();
        table.binary_search_by_key(&name, |(n, _)| n).ok().map(|i| table[i].1)
    }
}

/// A whole filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// What happens to calls without a matching rule.
    pub default: Action,
    /// The instruction sets it covers.
    pub arches: Vec<Arch>,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// A compiled filter: instructions of eight bytes each, in the machine's byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<u8>);

impl Program {
    /// The instructions.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes back what `as_bytes` gave.
    pub fn from_bytes(bytes: Vec<u8>) -> io::Result<Self> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(8) || bytes.len() / 8 > BPF_MAXINSNS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a BPF program"));
        }
        Ok(Self(bytes))
    }

    /// Filters this thread and everything it becomes. Needs no_new_privs or CAP_SYS_ADMIN. `flags` are
    /// SECCOMP_FILTER_FLAG_*.
    pub fn load(&self, flags: u32) -> io::Result<()> {
        let instructions: Vec<libc::sock_filter> = self
            .0
            .chunks_exact(8)
            .map(|c| libc::sock_filter {
                code: u16::from_ne_bytes([c[0], c[1]]),
                jt: c[2],
                jf: c[3],
                k: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
            })
            .collect();
        let program =
            libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_ptr().cast_mut() };
        // SAFETY: `program` points at `len` instructions that live until the call returns; the kernel copies them and
        // does not write to them.
        let r = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

const BPF_MAXINSNS: usize = 4096;
const LD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RET: u16 = 0x06;
const NR: u32 = 0;
const ARCH: u32 = 4;
const X32_BIT: u32 = 0x4000_0000;
const ENOSYS: u16 = 38;

#[derive(Clone, Copy)]
struct Insn {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

fn insn(code: u16, k: u32) -> Insn {
    Insn { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: usize, jf: usize) -> Insn {
    debug_assert!(jt < 256 && jf < 256);
    Insn { code, jt: jt as u8, jf: jf as u8, k }
}

/// What happens to one system call: alternatives, tried in order.
type Leaf = Vec<(Vec<Condition>, Action)>;

/// Compiles a filter. Fails only if the result would be longer than the kernel takes (4,096 instructions).
pub fn compile(filter: &Filter) -> io::Result<Program> {
    let mut out = vec![insn(LD, ARCH)];
    for arch in &filter.arches {
        let section = section(filter, *arch);
        out.push(jump(JEQ, arch.audit(), 1, 0));
        out.push(insn(JA, section.len() as u32));
        out.extend(section);
    }
    out.push(insn(RET, Action::KillProcess.code()));
    if out.len() > BPF_MAXINSNS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the seccomp profile compiles to {} instructions, the kernel takes {BPF_MAXINSNS}",
                out.len()
            ),
        ));
    }
    let mut bytes = Vec::with_capacity(out.len() * 8);
    for i in out {
        bytes.extend_from_slice(&i.code.to_ne_bytes());
        bytes.extend_from_slice(&[i.jt, i.jf]);
        bytes.extend_from_slice(&i.k.to_ne_bytes());
    }
    Ok(Program(bytes))
}

/// The instructions for one architecture; every path through them returns.
fn section(filter: &Filter, arch: Arch) -> Vec<Insn> {
    let mut calls: BTreeMap<u32, Leaf> = BTreeMap::new();
    for rule in &filter.rules {
        for name in &rule.names {
            let Some(number) = arch.number(name) else { continue };
            let leaf = calls.entry(number).or_default();
            if rule.conditions.is_empty() {
                // An unconditional rule beats conditional ones; the first unconditional one stays.
                if !leaf.iter().any(|(c, _)| c.is_empty()) {
                    *leaf = vec![(Vec::new(), rule.action)];
                }
            } else if !leaf.iter().any(|(c, _)| c.is_empty()) {
                leaf.push((rule.conditions.clone(), rule.action));
            }
        }
    }
    // Intervals of numbers with the same fate, covering everything from 0.
    let default: Leaf = vec![(Vec::new(), filter.default)];
    let beyond = match filter.default {
        Action::Errno(_) => vec![(Vec::new(), Action::Errno(ENOSYS))],
        _ => default.clone(),
    };
    let mut intervals: Vec<(u32, Leaf)> = Vec::new();
    let mut push = |start: u32, leaf: Leaf| match intervals.last() {
        Some((_, last)) if *last == leaf => {}
        _ => intervals.push((start, leaf)),
    };
    let mut next = 0;
    for (number, leaf) in calls {
        if number > next {
            push(next, default.clone());
        }
        push(number, leaf);
        next = number + 1;
    }
    push(next, beyond);
    if arch == Arch::X86_64 {
        push(X32_BIT, vec![(Vec::new(), Action::Errno(ENOSYS))]);
    }
    let mut out = vec![insn(LD, NR)];
    tree(&intervals, filter.default, &mut out);
    out
}

/// Binary search among intervals; the number is in the accumulator.
fn tree(intervals: &[(u32, Leaf)], default: Action, out: &mut Vec<Insn>) {
    if let [(_, leaf)] = intervals {
        return emit_leaf(leaf, default, out);
    }
    let middle = intervals.len() / 2;
    let (left, right) = intervals.split_at(middle);
    // jge: skip over the left half by an unconditional jump, which reaches farther than a conditional one.
    out.push(jump(JGE, right[0].0, 0, 1));
    let at = out.len();
    out.push(insn(JA, 0));
    tree(left, default, out);
    out[at].k = (out.len() - at - 1) as u32;
    tree(right, default, out);
}

fn emit_leaf(leaf: &Leaf, default: Action, out: &mut Vec<Insn>) {
    for (conditions, action) in leaf {
        let mut block = Vec::new();
        // Built from the end: each condition falls through to the next and jumps to the block's end if it fails.
        block.push(insn(RET, action.code()));
        for condition in conditions.iter().rev() {
            let code = compare(condition, block.len());
            block.splice(0..0, code);
        }
        out.extend(block);
        if conditions.is_empty() {
            return;
        }
    }
    out.push(insn(RET, default.code()));
}

/// Falls through if the condition holds, else jumps over the `rest` instructions that follow.
fn compare(c: &Condition, rest: usize) -> Vec<Insn> {
    let low = 16 + 8 * u32::from(c.argument) + if cfg!(target_endian = "big") { 4 } else { 0 };
    let high = 16 + 8 * u32::from(c.argument) + if cfg!(target_endian = "big") { 0 } else { 4 };
    let (vl, vh) = (c.value as u32, (c.value >> 32) as u32);
    match c.op {
        Op::Eq => vec![insn(LD, high), jump(JEQ, vh, 0, 2 + rest), insn(LD, low), jump(JEQ, vl, 0, rest)],
        Op::Ne => vec![insn(LD, high), jump(JEQ, vh, 0, 2), insn(LD, low), jump(JEQ, vl, rest, 0)],
        Op::MaskedEq => {
            let (tl, th) = (c.value_two as u32, (c.value_two >> 32) as u32);
            vec![
                insn(LD, high),
                insn(AND, vh),
                jump(JEQ, th, 0, 3 + rest),
                insn(LD, low),
                insn(AND, vl),
                jump(JEQ, tl, 0, rest),
            ]
        }
        Op::Gt | Op::Ge => {
            let last = if c.op == Op::Gt { JGT } else { JGE };
            vec![
                insn(LD, high),
                jump(JGT, vh, 3, 0),
                jump(JEQ, vh, 0, 2 + rest),
                insn(LD, low),
                jump(last, vl, 0, rest),
            ]
        }
        Op::Lt | Op::Le => {
            let last = if c.op == Op::Lt { JGE } else { JGT };
            vec![
                insn(LD, high),
                jump(JGT, vh, 3 + rest, 0),
                jump(JEQ, vh, 0, 2),
                insn(LD, low),
                jump(last, vl, rest, 0),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets a program as the kernel does.
    fn run(program: &Program, arch: u32, nr: u32, args: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&nr.to_ne_bytes());
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        for (i, a) in args.iter().enumerate() {
            data[16 + 8 * i..24 + 8 * i].copy_from_slice(&a.to_ne_bytes());
        }
        let (mut pc, mut acc) = (0usize, 0u32);
        loop {
            let c = &program.0[pc * 8..pc * 8 + 8];
            let (code, jt, jf) = (u16::from_ne_bytes([c[0], c[1]]), c[2] as usize, c[3] as usize);
            let k = u32::from_ne_bytes([c[4], c[5], c[6], c[7]]);
            pc += 1;
            match code {
                LD => acc = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
                AND => acc &= k,
                JA => pc += k as usize,
                JEQ => pc += if acc == k { jt } else { jf },
                JGT => pc += if acc > k { jt } else { jf },
                JGE => pc += if acc >= k { jt } else { jf },
                RET => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn holds(op: Op, arg: u64, value: u64, two: u64) -> bool {
        match op {
            Op::Ne => arg != value,
            Op::Lt => arg < value,
            Op::Le => arg <= value,
            Op::Eq => arg == value,
            Op::Ge => arg >= value,
            Op::Gt => arg > value,
            Op::MaskedEq => arg & value == two,
        }
    }

    #[test]
    fn conditions_compare_64_bits() {
        let values = [0, 1, 2, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x2_0000_0000, u64::MAX];
        for op in [Op::Ne, Op::Lt, Op::Le, Op::Eq, Op::Ge, Op::Gt, Op::MaskedEq] {
            for value in values {
                for arg in values {
                    let two = value & 0x1_0000_0001;
                    let filter = Filter {
                        default: Action::KillThread,
                        arches: vec![Arch::X86_64],
                        rules: vec![Rule {
                            names: vec!["personality".into()],
                            action: Action::Allow,
                            conditions: vec![
                                Condition { argument: 1, op, value, value_two: two },
                                Condition { argument: 0, op: Op::Eq, value: 7, value_two: 0 },
                            ],
                        }],
                    };
                    let p = compile(&filter).unwrap();
                    let nr = Arch::X86_64.number("personality").unwrap();
                    let want = if holds(op, arg, value, two) { Action::Allow } else { Action::KillThread };
                    let got = run(&p, Arch::X86_64.audit(), nr, [7, arg, 0, 0, 0, 0]);
                    assert_eq!(got, want.code(), "{arg:#x} {op:?} {value:#x}");
                    assert_eq!(run(&p, Arch::X86_64.audit(), nr, [8, arg, 0, 0, 0, 0]), 0);
                }
            }
        }
    }

    #[test]
    fn every_number_meets_its_fate() {
        let allowed = ["read", "write", "openat", "close", "execve", "clock_gettime", "futex_waitv"];
        let filter = Filter {
            default: Action::Errno(1),
            arches: vec![Arch::X86_64, Arch::I386],
            rules: vec![
                Rule { names: allowed.map(String::from).to_vec(), action: Action::Allow, conditions: vec![] },
                Rule { names: vec!["clone3".into()], action: Action::Errno(38), conditions: vec![] },
            ],
        };
        let p = compile(&filter).unwrap();
        for arch in [Arch::X86_64, Arch::I386] {
            for nr in 0..600 {
                let name = arch.table().iter().find(|(_, n)| *n == nr).map(|(n, _)| *n);
                let want = match name {
                    Some(n) if allowed.contains(&n) => Action::Allow,
                    Some("clone3") => Action::Errno(38),
                    _ if nr > arch.number("futex_waitv").unwrap() => Action::Errno(ENOSYS),
                    _ => Action::Errno(1),
                };
                assert_eq!(run(&p, arch.audit(), nr, [0; 6]), want.code(), "{arch:?} {nr} {name:?}");
            }
        }
        assert_eq!(run(&p, Arch::X86_64.audit(), X32_BIT + 1, [0; 6]), Action::Errno(ENOSYS).code());
        assert_eq!(run(&p, Arch::Aarch64.audit(), 1, [0; 6]), Action::KillProcess.code());
    }

    #[test]
    fn tables_are_sorted() {
        for table in [numbers::X86_64, numbers::I386, numbers::AARCH64] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0));
        }
        assert_eq!(Arch::X86_64.number("openat2"), Some(437));
        assert_eq!(Arch::X86_64.number("nope"), None);
    }
}
