//! The spelling of bytes in byte-level vocabularies (GPT-2's): printable bytes stand for themselves, the others for
//! the characters from U+0100 on, so that every token is readable text. A space is "Ġ", a newline "Ċ".

/// Whether a byte stands for the character of its own number.
fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character that stands for each byte.
pub(super) fn characters() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if stands_for_itself(byte) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

/// The byte that each character below U+0144 stands for; `None` where there is none.
pub(super) fn bytes() -> [Option<u8>; 0x144] {
    let mut table = [None; 0x144];
    for (byte, c) in characters().into_iter().enumerate() {
        if let Some(entry) = table.get_mut(c as usize) {
            *entry = Some(byte as u8);
        }
    }
    table
}

/// The bytes that a token's spelling stands for; `None` when a character stands for no byte.
pub(super) fn decode(table: &[Option<u8>; 0x144], spelling: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(spelling.len());
    decode_into(table, spelling, &mut bytes).then_some(bytes)
}

/// The same, appended to `bytes`; `false` when a character stands for no byte.
pub(super) fn decode_into(table: &[Option<u8>; 0x144], spelling: &str, bytes: &mut Vec<u8>) -> bool {
    spelling.chars().all(|c| match table.get(c as usize) {
        Some(&Some(byte)) => {
            bytes.push(byte);
            true
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let characters = characters();
        assert_eq!(characters[usize::from(b' ')], 'Ġ');
        assert_eq!(characters[usize::from(b'\n')], 'Ċ');
        assert_eq!(characters[0xAD], '\u{143}');
        let table = bytes();
        let spelling: String = characters.iter().collect();
        assert_eq!(decode(&table, &spelling), Some((0..=255).collect()));
        assert_eq!(decode(&table, "a b"), None);
        assert_eq!(decode(&table, "中"), None);
    }
}
