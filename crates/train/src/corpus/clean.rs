//! Plain text out of files.

use std::path::Path;

/// How a file's text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Plain,
    /// Perl's documentation: paragraphs between lines of commands.
    Pod,
    /// Markup in angle brackets.
    Html,
}

impl Kind {
    /// By the end of the name; `None` for files that are no text.
    pub fn of(path: &Path) -> Option<Kind> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("txt" | "md" | "rst") => Some(Kind::Plain),
            Some("pod") => Some(Kind::Pod),
            Some("html" | "htm") => Some(Kind::Html),
            _ => None,
        }
    }
}

/// The text alone, with lines ended alike.
pub fn clean(text: &str, kind: Kind) -> String {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    match kind {
        Kind::Plain => text,
        Kind::Pod => pod(&text),
        Kind::Html => html(&text),
    }
}

/// Headings and items keep their words, other commands go, and `C<x>` becomes `x`.
fn pod(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let line = match line.strip_prefix('=') {
            None => line,
            Some(command) if command.starts_with("head") || command.starts_with("item") => {
                command.split_once(' ').map_or("", |(_, words)| words)
            }
            Some(_) => continue,
        };
        out.push_str(&codes(line));
        out.push('\n');
    }
    out
}

/// `C<x>`, `L<x>`, `B<< x >>` and their kin without their frame; entities as letters.
fn codes(line: &str) -> String {
    let line = line.replace("E<gt>", "\u{1}").replace("E<lt>", "\u{2}");
    let letters: Vec<char> = line.chars().collect();
    let (mut out, mut open, mut at) = (String::with_capacity(line.len()), Vec::new(), 0);
    while at < letters.len() {
        let frame = letters[at].is_ascii_uppercase() && letters.get(at + 1) == Some(&'<');
        let begins = at == 0 || !letters[at - 1].is_alphanumeric();
        if frame && begins {
            let width = letters[at + 1..].iter().take_while(|c| **c == '<').count();
            open.push(width);
            at += 1 + width;
        } else if letters[at] == '>' && open.last().is_some_and(|w| letters[at..].iter().take(*w).all(|c| *c == '>')) {
            at += open.pop().unwrap_or(1);
        } else {
            out.push(letters[at]);
            at += 1;
        }
    }
    out.replace('\u{1}', ">").replace('\u{2}', "<")
}

/// Text between tags, without scripts and styles.
fn html(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let lower: String = rest.chars().take(8).collect::<String>().to_lowercase();
        let hidden = ["script", "style"].into_iter().find(|tag| lower[1..].starts_with(tag));
        let end = match hidden {
            Some(tag) => rest.find(&format!("</{tag}")).unwrap_or(rest.len()),
            None => 0,
        };
        rest = &rest[end..];
        rest = rest.find('>').map_or("", |at| &rest[at + 1..]);
    }
    out.push_str(rest);
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&nbsp;", " "), ("&amp;", "&")];
    plain.iter().fold(out, |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_goes_and_words_stay() {
        let text =
            "=head1 NAME\n\nUse C<< a > b >> or L<perlfunc/open>, I<not> X-ray.\n\n=over 4\n\n=item first\n\nE<gt>\n";
        assert_eq!(clean(text, Kind::Pod), "NAME\n\nUse  a > b  or perlfunc/open, not X-ray.\n\n\nfirst\n\n>\n");
        let text = "<p>One &amp; two<script>var x = '<b>';</script> three</p><style>p{}</style>";
        assert_eq!(clean(text, Kind::Html), "One & two three");
        assert_eq!(clean("\u{feff}a\r\nb", Kind::Plain), "a\nb");
        assert_eq!(clean("unclosed <b", Kind::Html), "unclosed ");
        assert_eq!(Kind::of(Path::new("x.json")), None);
    }
}
