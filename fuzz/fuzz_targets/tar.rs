//! Archives, compressed or not: any bytes give entries or an error, in bounded time and memory.
#![no_main]

use std::io::Read;

use image::archive::compress;
use image::archive::tar::Reader;

/// What is read of one archive, so that a bomb ends.
const MOST: u64 = 4 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok((_, stream)) = compress::decoder(bytes) else { return };
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
