//! Stop strings: text at which generation ends.
//!
//! A stop string rarely falls on token borders, so a piece of text that might be the beginning of one is held back
//! until the next pieces decide. What is shown never contains any part of a stop string that was hit, and the shown
//! text does not depend on how the stream was cut into pieces.

use super::error::TextError;

/// Watches a stream of text for stop strings.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    hit: Option<usize>,
}

impl StopStrings {
    /// Watches for `stops`; an empty list lets everything through at once.
    ///
    /// An empty stop string would end every text at its beginning and is an error.
    pub fn new(stops: Vec<String>) -> Result<StopStrings, TextError> {
        if stops.iter().any(String::is_empty) {
            return Err(TextError::setting("stop", "an empty string", "strings of at least one character"));
        }
        Ok(StopStrings { stops, held: String::new(), hit: None })
    }

    /// Takes the next piece and returns what may be shown now, possibly nothing.
    ///
    /// When a stop string is complete, the text before it is returned and [`StopStrings::hit`] names it; everything
    /// after that is dropped. Of several, the one that is complete first counts.
    pub fn push(&mut self, piece: &str) -> String {
        if self.hit.is_some() {
            return String::new();
        }
        self.held.push_str(piece);
        if let Some((start, which)) = self.first_complete() {
            self.hit = Some(which);
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let keep = self.possible_beginning();
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// The stop string that ended the text.
    pub fn hit(&self) -> Option<&str> {
        self.hit.map(|i| self.stops[i].as_str())
    }

    /// The text that was held back, when the stream has ended without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start and number of the stop string that ends first; of two that end together, the longer.
    fn first_complete(&self) -> Option<(usize, usize)> {
        let found = self.stops.iter().enumerate().filter_map(|(i, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, i))
        });
        found.min().map(|(_, start, i)| (start, i))
    }

    /// Bytes at the end of the held text that could be the beginning of a stop string.
    fn possible_beginning(&self) -> usize {
        let longest = |stop: &String| {
            let most = (stop.len() - 1).min(self.held.len());
            // A stop string's beginning that ends inside a character cannot be the end of whole characters.
            (1..=most).rev().find(|&n| stop.is_char_boundary(n) && self.held.ends_with(&stop[..n]))
        };
        self.stops.iter().filter_map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown and what was hit when `text` arrives in pieces of `size` characters.
    fn run(stops: &[&str], text: &str, size: usize) -> (String, Option<String>) {
        let mut watch = StopStrings::new(stops.iter().map(|s| s.to_string()).collect()).unwrap();
        let chars: Vec<char> = text.chars().collect();
        let mut shown = String::new();
        for piece in chars.chunks(size) {
            shown += &watch.push(&piece.iter().collect::<String>());
        }
        shown += &watch.finish();
        (shown, watch.hit().map(str::to_owned))
    }

    #[test]
    fn shown_text_does_not_depend_on_how_the_stream_is_cut() {
        let cases: &[(&[&str], &str, &str, Option<&str>)] = &[
            (&["END"], "all EEN ENENDED", "all EEN EN", Some("END")),
            (&["\n\n"], "a\nb\n\nc", "a\nb", Some("\n\n")),
            (&["ab cd", "b"], "xab cd", "xa", Some("b")),
            (&["cd", "bcd"], "abcd", "a", Some("bcd")),
            (&["aab"], "aaaab", "aa", Some("aab")),
            (&["né?"], "une née né", "une née né", None),
            (&["👩‍👧"], "👩‍👦 👩‍👧", "👩‍👦 ", Some("👩‍👧")),
            (&[], "plain", "plain", None),
        ];
        for (stops, text, shown, hit) in cases {
            for size in 1..=text.chars().count() {
                let (got, got_hit) = run(stops, text, size);
                assert_eq!(got, *shown, "{stops:?} in {text:?} by {size}");
                assert_eq!(got_hit.as_deref(), *hit, "{stops:?} in {text:?} by {size}");
            }
        }
    }

    #[test]
    fn only_a_possible_beginning_is_held_back() {
        let mut watch = StopStrings::new(vec!["<|end|>".into()]).unwrap();
        assert_eq!(watch.push("hello <"), "hello ");
        assert_eq!(watch.push("b> and <|en"), "<b> and ");
        assert_eq!(watch.push("d"), "");
        assert_eq!(watch.push("!"), "<|end!");
        assert_eq!(watch.push("<|end|>more"), "");
        assert_eq!(watch.hit(), Some("<|end|>"));
        assert_eq!(watch.push("more"), "");
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopStrings::new(vec!["a".into(), String::new()]).unwrap_err();
        assert!(error.to_string().contains("stop"), "{error}");
    }
}
