//! Words, numbers and filler that say nothing, so that a task needs no file.

use meden_stats::Rng;

/// Plain nouns; none is part of another, so that each can be looked for.
pub const NOUNS: [&str; 64] = [
    "anchor", "apple", "arrow", "basket", "beacon", "blanket", "bottle", "bridge", "bucket", "button", "candle",
    "canyon", "castle", "cedar", "circle", "cloud", "compass", "copper", "cotton", "cradle", "desert", "dragon",
    "eagle", "engine", "falcon", "feather", "forest", "garden", "glacier", "hammer", "harbor", "helmet", "island",
    "jacket", "kettle", "ladder", "lantern", "lemon", "magnet", "marble", "meadow", "mirror", "needle", "ocean",
    "orchard", "paper", "pebble", "pencil", "pillow", "planet", "pocket", "rabbit", "ribbon", "river", "saddle",
    "shadow", "silver", "spider", "temple", "thunder", "tunnel", "valley", "violin", "window",
];

/// The sentences of the passkey filler: nothing in them changes, as in the task of Mohtashami and Jaggi (arXiv
/// 2305.16300), so that whatever is remembered of them is worth nothing.
pub const FILLER: [&str; 4] =
    ["The hills are far.", "The water is cold.", "The lamp is lit.", "We walk along, and then we walk back."];

/// One of a list.
pub fn pick<'a, T: ?Sized>(rng: &mut Rng, list: &[&'a T]) -> &'a T {
    list[rng.below(list.len() as u64) as usize]
}

/// `count` different words in random order.
pub fn different(rng: &mut Rng, count: usize) -> Vec<&'static str> {
    let mut words = NOUNS;
    rng.shuffle(&mut words);
    words[..count.min(words.len())].to_vec()
}

/// A number of `digits` digits that does not begin with 0.
pub fn number(rng: &mut Rng, digits: u32) -> String {
    let low = 10u64.pow(digits.saturating_sub(1));
    (low + rng.below(9 * low)).to_string()
}

/// A random uuid of version 4, as text.
pub fn uuid(rng: &mut Rng) -> String {
    let (a, b) = (rng.next_u64(), rng.next_u64());
    let version = (a & 0xfff) | 0x4000;
    let variant = (b >> 48 & 0x3fff) | 0x8000;
    format!("{:08x}-{:04x}-{version:04x}-{variant:04x}-{:012x}", a >> 32, a >> 16 & 0xffff, b & 0xffff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_noun_hides_in_another_or_in_a_sentence_part() {
        for (i, noun) in NOUNS.iter().enumerate() {
            let other = NOUNS.iter().enumerate().find(|(j, o)| *j != i && o.contains(noun));
            assert_eq!(other, None, "{noun}");
        }
    }

    #[test]
    fn numbers_and_uuids_have_their_form() {
        let mut rng = Rng::new(1, 2);
        for _ in 0..200 {
            let number = number(&mut rng, 5);
            assert!(number.len() == 5 && !number.starts_with('0'), "{number}");
            let uuid = uuid(&mut rng);
            let parts: Vec<usize> = uuid.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{uuid}");
            assert!(uuid[14..].starts_with('4') && "89ab".contains(&uuid[19..20]), "{uuid}");
        }
    }

    #[test]
    fn different_words_are_different() {
        let words = different(&mut Rng::new(3, 3), 40);
        let set: std::collections::BTreeSet<_> = words.iter().collect();
        assert_eq!(set.len(), 40);
    }
}
