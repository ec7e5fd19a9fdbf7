//! A zip archive with deflated or stored entries, as wheels are.

/// One entry: name, bytes, whether it is deflated.
pub type Entry<'a> = (&'a str, &'a [u8], bool);

/// The archive's bytes. Checksums are left out: what comes out of a wheel is checked as a whole.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for &(name, bytes, deflated) in entries {
        let packed = if deflated { miniz_oxide::deflate::compress_to_vec(bytes, 6) } else { bytes.to_vec() };
        let local = out.len() as u32;
        let mut common = vec![20, 0, 0, 0, if deflated { 8 } else { 0 }, 0];
        common.extend([0; 8]);
        common.extend((packed.len() as u32).to_le_bytes());
        common.extend((bytes.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0; 2]);
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(&packed);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(local.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, count) = (out.len() as u32, entries.len() as u16);
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}
