//! Which device files may be used: lines of text in version 1, a BPF program in version 2.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// The file and the line that carry a rule in version 1.
pub(super) fn line(rule: &LinuxDeviceCgroup) -> io::Result<(&'static str, String)> {
    let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => "a",
        Some(LinuxDeviceType::B) => "b",
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
        Some(LinuxDeviceType::P) => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a FIFO is no device to allow"));
        }
    };
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or("*".into(), |n| n.to_string());
    let access = rule.access().as_deref().filter(|a| !a.is_empty()).unwrap_or("rwm");
    Ok((file, format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()))))
}

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// One BPF instruction.
fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> [u8; 8] {
    let mut b = [0u8; 8];
    b[0] = code;
    b[1] = dst | src << 4;
    b[2..4].copy_from_slice(&off.to_ne_bytes());
    b[4..8].copy_from_slice(&imm.to_ne_bytes());
    b
}

/// The program: r2 type, r3 access, r4 major, r5 minor; rules from the last to the first, else no.
fn program(rules: &[LinuxDeviceCgroup]) -> Vec<[u8; 8]> {
    const LDX_W: u8 = 0x61;
    const MOV_REG: u8 = 0xbf;
    const AND: u8 = 0x57;
    const RSH: u8 = 0x77;
    const MOV: u8 = 0xb7;
    const JNE: u8 = 0x55;
    const JEQ: u8 = 0x15;
    const EXIT: u8 = 0x95;
    let mut out = vec![
        insn(LDX_W, 2, 1, 0, 0),
        insn(MOV_REG, 3, 2, 0, 0),
        insn(AND, 2, 0, 0, 0xffff),
        insn(RSH, 3, 0, 0, 16),
        insn(LDX_W, 4, 1, 4, 0),
        insn(LDX_W, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let access = rule.access().as_deref().filter(|a| !a.is_empty()).unwrap_or("rwm");
        let bits = access.bytes().fold(0, |bits, b| {
            bits | match b {
                b'r' => READ,
                b'w' => WRITE,
                b'm' => MKNOD,
                _ => 0,
            }
        });
        let mut block = vec![insn(MOV, 0, 0, 0, i32::from(rule.allow())), insn(EXIT, 0, 0, 0, 0)];
        // Each test is put in front and jumps over what follows it.
        let mut test = |code: &[[u8; 8]], op: u8, reg: u8, value: i32| {
            let skip = block.len() as i16;
            let mut new = code.to_vec();
            new.push(insn(op, reg, 0, skip, value));
            new.append(&mut block);
            block = new;
        };
        if bits != READ | WRITE | MKNOD {
            if rule.allow() {
                // Everything asked for must be in the rule.
                test(&[insn(MOV_REG, 1, 3, 0, 0), insn(AND, 1, 0, 0, !(bits as i32))], JNE, 1, 0);
            } else {
                // Anything asked for is in the rule.
                test(&[insn(MOV_REG, 1, 3, 0, 0), insn(AND, 1, 0, 0, bits as i32)], JEQ, 1, 0);
            }
        }
        if let Some(minor) = rule.minor().filter(|n| *n >= 0) {
            test(&[], JNE, 5, minor as i32);
        }
        if let Some(major) = rule.major().filter(|n| *n >= 0) {
            test(&[], JNE, 4, major as i32);
        }
        match rule.typ() {
            Some(LinuxDeviceType::B) => test(&[], JNE, 2, 1),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => test(&[], JNE, 2, 2),
            _ => {}
        }
        let unconditional = block.len() == 2;
        out.extend(block);
        if unconditional {
            // The kernel refuses programs with instructions that cannot be reached.
            return out;
        }
    }
    out.push(insn(MOV, 0, 0, 0, 0));
    out.push(insn(EXIT, 0, 0, 0, 0));
    out
}

/// Loads the program for these rules and attaches it to a version 2 group.
pub(super) fn attach(dir: &Path, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    use rustix::fs::OFlags;
    const PROG_LOAD: libc::c_long = 5;
    const PROG_ATTACH: libc::c_long = 8;
    const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let code = program(rules);
    let license = c"Apache-2.0";
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let load = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type: ATTACH_CGROUP_DEVICE,
        ..Default::default()
    };
    // SAFETY: `load` is the kernel's union bpf_attr up to the field used last; `insns` and `license` point at memory
    // that lives until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else owns it.
    let prog = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let group = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, 0.into())?;
    #[repr(C)]
    struct Attach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
    }
    let attach = Attach {
        target_fd: group.as_raw_fd() as u32,
        attach_bpf_fd: prog.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
    };
    // SAFETY: as above; the struct is of the size given.
    let r = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        allow: bool,
        typ: LinuxDeviceType,
        major: Option<i64>,
        minor: Option<i64>,
        access: &str,
    ) -> LinuxDeviceCgroup {
        let mut r = LinuxDeviceCgroup::default();
        r.set_allow(allow)
            .set_typ(Some(typ))
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.into()));
        r
    }

    /// Interprets the few instructions that `program` uses.
    fn run(code: &[[u8; 8]], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [kind | access << 16, major, minor];
        let mut r = [0u64; 10];
        let mut pc = 0;
        loop {
            let c = code[pc];
            let (dst, src) = ((c[1] & 15) as usize, (c[1] >> 4) as usize);
            let off = i16::from_ne_bytes([c[2], c[3]]);
            let imm = i32::from_ne_bytes([c[4], c[5], c[6], c[7]]);
            pc += 1;
            match c[0] {
                0x61 => r[dst] = u64::from(context[off as usize / 4]),
                0xbf => r[dst] = r[src],
                0x57 => r[dst] &= imm as i64 as u64,
                0x77 => r[dst] >>= imm,
                0xb7 => r[dst] = imm as i64 as u64,
                0x55 => pc += if r[dst] != imm as i64 as u64 { off as usize } else { 0 },
                0x15 => pc += if r[dst] == imm as i64 as u64 { off as usize } else { 0 },
                0x95 => return r[0],
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_last_match_decides() {
        use LinuxDeviceType::{A, B, C};
        let rules = [
            rule(false, A, None, None, "rwm"),
            rule(true, C, None, None, "m"),
            rule(true, B, None, None, "m"),
            rule(true, C, Some(1), Some(3), "rwm"),
            rule(true, C, Some(136), None, "rw"),
            rule(false, C, Some(1), Some(3), "w"),
        ];
        let p = program(&rules);
        assert_eq!(run(&p, 2, READ, 1, 3), 1);
        assert_eq!(run(&p, 2, WRITE, 1, 3), 0);
        assert_eq!(run(&p, 2, READ | WRITE, 1, 3), 0);
        assert_eq!(run(&p, 2, READ | WRITE, 136, 77), 1);
        assert_eq!(run(&p, 2, MKNOD, 136, 77), 1);
        assert_eq!(run(&p, 1, MKNOD, 8, 0), 1);
        assert_eq!(run(&p, 1, READ, 8, 0), 0);
        assert_eq!(line(&rules[0]).unwrap(), ("devices.deny", "a *:* rwm".into()));
        assert_eq!(line(&rules[4]).unwrap(), ("devices.allow", "c 136:* rw".into()));
    }
}
