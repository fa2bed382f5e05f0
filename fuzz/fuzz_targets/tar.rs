//! Archives, compressed or not: any bytes give entries or an error, in bounded time and memory.
#![no_main]

use std::io::Read;

use image::archive::compress;
use image::archive::tar::Reader;

/// What is read of one archive, so that a bomb ends.
const MOST: u64 = 4 << 20;

/// Gives what looks like headers the sums that they must have, so that what stands behind them is reached.
fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for block in out.chunks_exact_mut(512).filter(|b| &b[257..262] == b"ustar") {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    out
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bytes = summed(bytes);
    let Ok((_, stream)) = compress::decoder(&bytes[..]) else { return };
    let mut reader = Reader::new(stream.take(MOST));
    while let Ok(Some(entry)) = reader.next_entry() {
        if let Some((map, whole)) = &entry.sparse {
            assert!(map.iter().map(|(_, n)| n).sum::<u64>() == entry.size);
            assert!(map.last().is_none_or(|(at, n)| at + n <= *whole));
        }
        if std::io::copy(&mut reader, &mut std::io::sink()).is_err() {
            return;
        }
    }
});
