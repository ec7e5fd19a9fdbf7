//! Mutated safetensors files.

use super::Random;
use crate::common::raw;

const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"I64","shape":[1],"data_offsets":[32,40]}}"#;

/// One mutated file.
pub fn safetensors(random: &mut Random) -> Vec<u8> {
    let mut head = GOOD.to_owned();
    for _ in 0..random.below(4) {
        head = mutate(&head, random);
    }
    let size = if random.below(4) == 0 { random.below(64) } else { 40 };
    let mut bytes = raw::safetensors(&head, size);
    match random.below(8) {
        0 => {
            let new = random.number(head.len() as u64);
            bytes[..8].copy_from_slice(&new.to_le_bytes());
        }
        1 => random.bytes(&mut bytes),
        _ => {}
    }
    bytes
}

/// Another number, word or piece of the head.
fn mutate(head: &str, random: &mut Random) -> String {
    const WORDS: [&str; 14] = [
        "\"F16\"",
        "\"F64\"",
        "\"Q9\"",
        "null",
        "[]",
        "{}",
        "-1",
        "1e300",
        "0.5",
        "true",
        "\"\"",
        "\"__metadata__\"",
        "[[[[",
        "99999999999999999999",
    ];
    let is_digit = |c: char| c.is_ascii_digit();
    let starts: Vec<usize> = head.char_indices().map(|(i, _)| i).collect();
    let numbers: Vec<&str> = head.split(|c| !is_digit(c)).filter(|n| !n.is_empty()).collect();
    if numbers.is_empty() {
        return head.to_owned();
    }
    let number = random.pick(&numbers);
    match random.below(5) {
        0 | 1 => head.replacen(number, &random.number(number.parse().unwrap_or(7)).to_string(), 1 + random.below(2)),
        2 => head.replacen(number, random.pick(&WORDS), 1),
        3 => head.replacen(
            random.pick(&["\"a\"", "\"b\"", "\"c\"", "shape", "dtype", "\"F32\"", "\"I64\""]),
            random.pick(&WORDS),
            1,
        ),
        _ => {
            let (a, b) = (random.pick(&starts), random.pick(&starts));
            format!("{}{}", &head[..a.max(b)], &head[a.min(b)..])
        }
    }
}
