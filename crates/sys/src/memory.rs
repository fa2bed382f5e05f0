//! What a process keeps of memory while it waits, and who gives it out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::slice;
use std::sync::atomic::{AtomicU8, Ordering};

/// The allocator of a program that is small in one of its roles: in a process whose first argument is `role` the C
/// library's, which can live with a few pages and give back the rest, and `other` in all others.
pub struct SmallAs<A> {
    role: &'static str,
    other: A,
    chosen: AtomicU8,
}

const UNKNOWN: u8 = 0;
const SMALL: u8 = 1;
const OTHER: u8 = 2;

impl<A> SmallAs<A> {
    /// The C library's allocator as `role`, else `other`.
    pub const fn new(role: &'static str, other: A) -> Self {
        Self { role, other, chosen: AtomicU8::new(UNKNOWN) }
    }

    fn small(&self) -> bool {
        match self.chosen.load(Ordering::Relaxed) {
            UNKNOWN => {
                // Every thread that gets here comes to the same answer.
                let small = has_role(self.role.as_bytes());
                self.chosen.store(if small { SMALL } else { OTHER }, Ordering::Relaxed);
                small
            }
            chosen => chosen == SMALL,
        }
    }
}

/// Whether the first argument of this process is `role`. Asked by the allocator, so it must not allocate.
fn has_role(role: &[u8]) -> bool {
    let mut line = [0u8; 4096];
    let Ok(file) =
        rustix::fs::open(c"/proc/self/cmdline", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
    else {
        return false;
    };
    let length = rustix::io::read(&file, &mut line).unwrap_or(0);
    line[..length].split(|b| *b == 0).nth(1) == Some(role)
}

// SAFETY: both are allocators, and the choice between them is the same for as long as the process lives, so that
// memory goes back to whom it came from.
unsafe impl<A: GlobalAlloc> GlobalAlloc for SmallAs<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { if self.small() { System.alloc(layout) } else { self.other.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { if self.small() { System.alloc_zeroed(layout) } else { self.other.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { if self.small() { System.dealloc(at, layout) } else { self.other.dealloc(at, layout) } }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe {
            if self.small() { System.realloc(at, layout, size) } else { self.other.realloc(at, layout, size) }
        }
    }
}

/// Gives unused memory of the C library's allocator back to the kernel, which is also that of libraries in C.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only releases free memory; it has no other effect.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Keeps the allocator small in a process that forks once and then waits: small thresholds.
pub fn frugal_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 32 * 1024);
        libc::mallopt(libc::M_TOP_PAD, 4 * 1024);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 * 1024);
    }
}

/// Unmaps the program's code and constants, page by page; what is used again comes back from the page cache.
///
/// The kernel maps whatever lies around a page that is used, so that a process that has been busy once keeps most of a
/// large program mapped, and the kernel does not easily take back what is mapped. A page that comes back costs about a
/// microsecond.
pub fn unmap_program() {
    for (start, length) in constant_segments() {
        // SAFETY: these segments are private mappings of the executable's file that were never writable, so they hold
        // what the file holds; a page that is dropped is read from there again when it is next touched.
        unsafe {
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// Where the segments of the executable are that are never written: start and length, whole pages.
fn constant_segments() -> Vec<(usize, usize)> {
    // SAFETY: getauxval only reads a table that the kernel has left.
    let [at, count, page] =
        [libc::AT_PHDR, libc::AT_PHNUM, libc::AT_PAGESZ].map(|what| unsafe { libc::getauxval(what) });
    if at == 0 || count == 0 || page == 0 {
        return Vec::new();
    }
    // SAFETY: the kernel says that the program's own headers are there; they are mapped, aligned and constant.
    let headers = unsafe { slice::from_raw_parts(at as *const libc::Elf64_Phdr, count as usize) };
    // A position-independent program lies elsewhere than its headers say.
    let shift = headers.iter().find(|h| h.p_type == libc::PT_PHDR).map_or(0, |h| at.wrapping_sub(h.p_vaddr));
    let page = page as usize;
    headers
        .iter()
        .filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0)
        .filter_map(|h| {
            let start = h.p_vaddr.wrapping_add(shift) as usize;
            let end = (start + h.p_memsz as usize) / page * page;
            let start = start.next_multiple_of(page);
            (end > start).then(|| (start, end - start))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of the executable's constant pages that are mapped.
    fn mapped() -> u64 {
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut ours = false;
        let mut sum = 0;
        for line in smaps.lines() {
            if line.split_once(' ').is_some_and(|(range, _)| range.contains('-')) {
                ours = line.ends_with(exe.to_str().unwrap()) && line.contains(" r-xp ");
            } else if let (true, Some(rss)) = (ours, line.strip_prefix("Rss:")) {
                sum += rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            }
        }
        sum
    }

    #[test]
    fn the_role_is_the_first_argument() {
        let first = std::env::args().nth(1).unwrap_or_else(|| "none".into());
        assert_eq!(has_role(first.as_bytes()), std::env::args().len() > 1);
        assert!(!has_role(b"shim"));
        let allocator = SmallAs::new("shim", System);
        let layout = Layout::new::<u64>();
        // SAFETY: what is given back is what was given out, once, with its layout.
        unsafe {
            let at = allocator.realloc(allocator.alloc_zeroed(layout), layout, 64);
            assert!(!at.is_null() && *at == 0);
            allocator.dealloc(at, Layout::from_size_align(64, layout.align()).unwrap());
        }
        assert_eq!(allocator.chosen.load(Ordering::Relaxed), OTHER);
    }

    #[test]
    fn the_program_goes_on_without_its_pages() {
        use std::os::unix::fs::FileExt;
        let work = || {
            let mut all: Vec<String> = (0..1000).map(|i| format!("{:x}", i * 7919)).collect();
            all.sort();
            all.join(",").len()
        };
        let before = work();
        let segments = constant_segments();
        assert!(
            segments
                .iter()
                .any(|(start, length)| (*start..start + length).contains(&(mapped as *const () as usize)))
        );
        // Whatever is read by way of this file is mapped.
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        for (start, length) in segments {
            memory.read_exact_at(&mut vec![0; length], start as u64).unwrap();
        }
        let had = mapped();
        unmap_program();
        let has = mapped();
        assert!(has < had, "{has} KiB of {had} are mapped");
        assert_eq!(work(), before);
    }
}
