//! Docker's default system call filter: which calls are harmless, and which capability makes which others so.

use crate::seccomp::{ArchMap, Arg, Call, Conditions, Profile};

/// Allowed to everyone.
const ALWAYS: &str = "\
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 \
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 \
    dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 \
    fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat \
    fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 \
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait \
    futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid \
    geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid \
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list \
    getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 \
    getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl \
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit \
    ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr \
    link linkat listen listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat \
    lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod \
    mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive \
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv \
    msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open \
    openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect \
    poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 \
    pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom \
    recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat \
    renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo \
    sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min \
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity \
    sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop \
    semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 \
    setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid \
    setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit \
    set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr \
    setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn \
    socketcall socketpair splice stat stat64 statfs statfs64 statx symlink symlinkat sync \
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun \
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit \
    umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 \
    waitid waitpid write writev";

/// Allowed to those who hold a capability.
const BY_CAPABILITY: [(&str, &str); 13] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns statmount syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
];

fn names(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

fn allow(text: &str) -> Call {
    Call { names: names(text), action: "SCMP_ACT_ALLOW".into(), ..Call::default() }
}

fn arg(index: u8, op: &str, value: u64, value_two: u64) -> Vec<Arg> {
    vec![Arg { index, value, value_two, op: op.into() }]
}

/// The profile; it is resolved for each set of capabilities.
pub(crate) fn seccomp_profile() -> Profile {
    let mut syscalls = vec![allow(ALWAYS)];
    let mut ptrace = allow("process_vm_readv process_vm_writev ptrace");
    // Before 4.8 a traced process could slip through a filter.
    ptrace.includes.min_kernel = Some("4.8".into());
    syscalls.push(ptrace);
    const AF_VSOCK: u64 = 40;
    syscalls.push(Call { args: arg(0, "SCMP_CMP_NE", AF_VSOCK, 0), ..allow("socket") });
    for persona in [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        syscalls.push(Call { args: arg(0, "SCMP_CMP_EQ", persona, 0), ..allow("personality") });
    }
    for (arches, calls) in [
        (&["amd64", "x32"][..], "arch_prctl"),
        (&["amd64", "x32", "x86"][..], "modify_ldt"),
        (
            &["arm", "arm64"][..],
            "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
        ),
    ] {
        let mut call = allow(calls);
        call.includes.arches = arches.iter().map(|a| (*a).to_string()).collect();
        syscalls.push(call);
    }
    for (capability, calls) in BY_CAPABILITY {
        let mut call = allow(calls);
        call.includes.caps = vec![capability.into()];
        syscalls.push(call);
    }
    let mut perf = allow("perf_event_open");
    perf.includes.caps = vec!["CAP_PERFMON".into()];
    syscalls.push(perf);
    let not_admin = || Conditions { caps: vec!["CAP_SYS_ADMIN".into()], ..Conditions::default() };
    // Every CLONE_NEW* bit: threads and processes yes, namespaces no.
    const NAMESPACES: u64 = 0x7e02_0000;
    syscalls.push(Call {
        args: arg(0, "SCMP_CMP_MASKED_EQ", NAMESPACES, 0),
        excludes: not_admin(),
        ..allow("clone")
    });
    // Its flags are in memory, where a filter cannot look: callers fall back to clone.
    const ENOSYS: u16 = 38;
    syscalls.push(Call {
        action: "SCMP_ACT_ERRNO".into(),
        errno_ret: Some(ENOSYS),
        excludes: not_admin(),
        ..allow("clone3")
    });
    let map = |architecture: &str, subs: &[&str]| ArchMap {
        architecture: architecture.into(),
        sub_architectures: subs.iter().map(|s| (*s).to_string()).collect(),
    };
    Profile {
        default_action: "SCMP_ACT_ERRNO".into(),
        default_errno_ret: Some(1),
        arch_map: vec![
            map("SCMP_ARCH_X86_64", &["SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
            map("SCMP_ARCH_AARCH64", &["SCMP_ARCH_ARM"]),
        ],
        syscalls,
        ..Profile::default()
    }
}
