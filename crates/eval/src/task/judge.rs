//! Whether what a model wrote is the answer.

use super::Probe;

/// How an answer is judged. All judges look at what was written after the prefix, up to its first line break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// The first whole number that was written is the answer.
    FirstNumber,
    /// The answer occurs in what was written, whatever the case of its letters.
    Contains,
    /// What was written begins with the answer, whatever the case of its letters.
    Begins,
    /// Of the answer and the candidates, the answer is the one that was written first.
    FirstNamed,
}

impl Judge {
    /// Whether `written` is right.
    pub fn is_right(self, probe: &Probe, written: &str) -> bool {
        let line = written.trim_start().lines().next().unwrap_or_default().to_lowercase();
        let answer = probe.answer.trim().to_lowercase();
        match self {
            Judge::FirstNumber => first_number(&line) == Some(answer.as_str()),
            Judge::Contains => line.contains(&answer),
            Judge::Begins => line.starts_with(&answer),
            Judge::FirstNamed => {
                let Some(at) = word_at(&line, &answer) else { return false };
                let others = probe.candidates.iter().map(|c| c.trim().to_lowercase()).filter(|c| *c != answer);
                others.filter_map(|other| word_at(&line, &other)).all(|other| at < other)
            }
        }
    }
}

/// Digits that stand together; a thousands comma inside them is no digit, so it ends them.
fn first_number(text: &str) -> Option<&str> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let rest = &text[start..];
    Some(&rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())])
}

/// Where `word` stands as a word of its own.
fn word_at(text: &str, word: &str) -> Option<usize> {
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(word)
        .map(|(at, _)| at)
        .find(|&at| !is_letter(text[..at].chars().next_back()) && !is_letter(text[at + word.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(answer: &str, candidates: &[&str]) -> Probe {
        Probe {
            question: String::new(),
            prefix: String::new(),
            answer: answer.to_owned(),
            candidates: candidates.iter().map(|c| (*c).to_owned()).collect(),
            judge: Judge::Contains,
        }
    }

    #[test]
    fn the_first_number_decides_and_a_longer_one_is_wrong() {
        let key = probe("41093", &[]);
        for right in [" 41093", "41093.", "is **41093**", "\n 41093\n999"] {
            assert!(Judge::FirstNumber.is_right(&key, right), "{right:?}");
        }
        for wrong in ["", "4109", "410930", "1 41093", "41,093", "none\n41093"] {
            assert!(!Judge::FirstNumber.is_right(&key, wrong), "{wrong:?}");
        }
    }

    #[test]
    fn containing_is_looser_than_beginning_and_both_ignore_case() {
        let fact = probe("Blue Heron", &[]);
        assert!(Judge::Contains.is_right(&fact, "It is the blue heron."));
        assert!(!Judge::Begins.is_right(&fact, "It is the blue heron."));
        assert!(Judge::Begins.is_right(&fact, " BLUE HERON, of course"));
        assert!(!Judge::Contains.is_right(&fact, "I do not know.\nblue heron"));
    }

    #[test]
    fn of_several_labels_the_first_that_stands_alone_counts() {
        let label = probe("river", &["stone", "river", "cloud"]);
        assert!(Judge::FirstNamed.is_right(&label, " river or stone"));
        assert!(!Judge::FirstNamed.is_right(&label, " stone, river"));
        assert!(Judge::FirstNamed.is_right(&label, "gravestone: river"));
        assert!(!Judge::FirstNamed.is_right(&label, "rivers"));
        assert!(!Judge::FirstNamed.is_right(&label, ""));
    }
}
