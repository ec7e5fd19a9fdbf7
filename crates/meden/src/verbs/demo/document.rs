//! What is read and what is asked.

/// Jane Austen, Pride and Prejudice (1813), chapters 1 to 3: in the public domain.
const TEXT: &str = include_str!("../../../assets/pride-and-prejudice-1-3.txt");
/// Name of the document.
pub const TITLE: &str = "Pride and Prejudice, chapters 1 to 3";
/// The planted sentence. Nothing else in the text is about a lighthouse or a number of this kind.
const FACT: &str = "The secret code of the lighthouse is 7391.";
const QUESTION: &str = "What is the secret code of the lighthouse?";
const EXPECTED: &str = "7391";

/// The document with its planted sentence, and the question about it.
pub struct Task {
    /// The text with the sentence in it.
    pub document: String,
    /// The planted sentence.
    pub fact: &'static str,
    /// The question.
    pub question: &'static str,
    /// What a right answer contains.
    pub expected: &'static str,
    /// Where the sentence stands, as a share of the document's bytes.
    pub place: f64,
}

impl Task {
    /// Plants the sentence as a paragraph of its own, at the paragraph border nearest before `depth` percent.
    pub fn new(depth: u8) -> Task {
        let text = TEXT.trim_end();
        let mut wanted = text.len() * usize::from(depth) / 100;
        while !text.is_char_boundary(wanted) {
            wanted -= 1;
        }
        let at = if wanted == text.len() { wanted } else { text[..wanted].rfind("\n\n").map_or(0, |at| at) };
        let (before, after) = text.split_at(at);
        let separator = if before.is_empty() { "" } else { "\n\n" };
        let following = if before.is_empty() { "\n\n" } else { "" };
        Task {
            document: format!("{before}{separator}{FACT}{following}{after}"),
            fact: FACT,
            question: QUESTION,
            expected: EXPECTED,
            place: at as f64 / text.len() as f64,
        }
    }

    /// Document and question as one message.
    pub fn message(&self) -> String {
        format!("{}\n\n{}", self.document, self.question)
    }

    /// Whether an answer contains what it should.
    pub fn is_right(&self, answer: &str) -> bool {
        answer.contains(self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_is_planted_once_between_paragraphs_at_every_depth() {
        for depth in [0, 1, 37, 50, 99, 100] {
            let task = Task::new(depth);
            assert_eq!(task.document.matches(FACT).count(), 1, "{depth}");
            let at = task.document.find(FACT).unwrap();
            assert!(at == 0 || task.document[..at].ends_with("\n\n"), "{depth}");
            let after = &task.document[at + FACT.len()..];
            assert!(after.is_empty() || after.starts_with("\n\n"), "{depth}");
            assert!(task.place <= f64::from(depth) / 100.0 + 1e-9 && task.place > f64::from(depth) / 100.0 - 0.1);
        }
    }

    #[test]
    fn the_document_alone_does_not_give_the_answer_away() {
        assert!(!TEXT.contains(EXPECTED) && !TEXT.contains("lighthouse"));
        assert!(!Task::new(50).is_right(QUESTION));
    }
}
