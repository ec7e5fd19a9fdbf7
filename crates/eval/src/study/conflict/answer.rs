//! Whether what a model wrote is one of the accepted answers.
//!
//! As in arXiv 2410.16090's code: what stands before the first line break, without accents, articles and punctuation, has
//! to equal an accepted answer that was treated alike. Nothing looser: a wrong answer that holds the right one would
//! count for both sources.

/// `text` without accents, ASCII punctuation, articles and superfluous spaces; in lower case unless `exact`.
pub fn normalise(text: &str, exact: bool) -> String {
    let mut bare = String::with_capacity(text.len());
    for c in text.chars() {
        match plain(c) {
            Some(letters) => bare.push_str(letters),
            None if c.is_ascii_punctuation() => {}
            None => bare.push(c),
        }
    }
    if !exact {
        bare = bare.to_lowercase();
    }
    let article = |word: &&str| matches!(word.to_lowercase().as_str(), "a" | "an" | "the");
    // an article that is all there is is an answer: the symbol A
    let words: Vec<&str> = bare.split_whitespace().collect();
    let kept: Vec<&str> = words.iter().filter(|w| !article(w)).copied().collect();
    if kept.is_empty() { words.join(" ") } else { kept.join(" ") }
}

/// The letters under the accents of European languages; `None` for everything else.
fn plain(c: char) -> Option<&'static str> {
    const TABLE: [(&str, &str); 44] = [
        ("àáâãäåāăą", "a"),
        ("ÀÁÂÃÄÅĀĂĄ", "A"),
        ("çćĉċč", "c"),
        ("ÇĆĈĊČ", "C"),
        ("ďđ", "d"),
        ("ĎĐ", "D"),
        ("èéêëēĕėęě", "e"),
        ("ÈÉÊËĒĔĖĘĚ", "E"),
        ("ĝğġģ", "g"),
        ("ĜĞĠĢ", "G"),
        ("ĥħ", "h"),
        ("ĤĦ", "H"),
        ("ìíîïĩīĭįı", "i"),
        ("ÌÍÎÏĨĪĬĮİ", "I"),
        ("ĵ", "j"),
        ("Ĵ", "J"),
        ("ķ", "k"),
        ("Ķ", "K"),
        ("ĺļľŀł", "l"),
        ("ĹĻĽĿŁ", "L"),
        ("ñńņňŉ", "n"),
        ("ÑŃŅŇ", "N"),
        ("òóôõöøōŏő", "o"),
        ("ÒÓÔÕÖØŌŎŐ", "O"),
        ("ŕŗř", "r"),
        ("ŔŖŘ", "R"),
        ("śŝşšș", "s"),
        ("ŚŜŞŠȘ", "S"),
        ("ţťŧț", "t"),
        ("ŢŤŦȚ", "T"),
        ("ùúûüũūŭůűų", "u"),
        ("ÙÚÛÜŨŪŬŮŰŲ", "U"),
        ("ŵ", "w"),
        ("Ŵ", "W"),
        ("ýÿŷ", "y"),
        ("ÝŶŸ", "Y"),
        ("źżž", "z"),
        ("ŹŻŽ", "Z"),
        ("œ", "oe"),
        ("Œ", "OE"),
        ("æ", "ae"),
        ("Æ", "AE"),
        ("ß", "ss"),
        // combining accents
        ("\u{300}\u{301}\u{302}\u{303}\u{304}\u{306}\u{307}\u{308}\u{30a}\u{30b}\u{30c}\u{327}\u{328}", ""),
    ];
    if c.is_ascii() {
        return None;
    }
    TABLE.iter().find(|(accented, _)| accented.contains(c)).map(|(_, bare)| *bare)
}

/// Whether what was written (up to its first line break) is one of `answers`.
pub fn is_one_of(written: &str, answers: &[String], exact: bool) -> bool {
    let line = written.split('\n').next().unwrap_or_default();
    let line = normalise(line, exact);
    !line.is_empty() && answers.iter().any(|a| normalise(a, exact) == line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of(written: &str, answers: &[&str], exact: bool) -> bool {
        is_one_of(written, &answers.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), exact)
    }

    #[test]
    fn accents_articles_case_and_punctuation_do_not_count() {
        assert!(one_of(" The United States.\nquestion", &["USA", "united states"], false));
        assert!(one_of("Bogotá", &["Bogota"], false) && one_of("Bogota", &["Bogotá"], false));
        assert!(one_of(" \"an œuf\"", &["oeuf"], false));
        assert!(one_of("Bogota\u{301}", &["Bogotá"], false));
    }

    #[test]
    fn nothing_looser_counts() {
        assert!(!one_of("Paris is the capital", &["Paris"], false));
        assert!(!one_of("", &["Paris"], false) && !one_of("\nParis", &["Paris"], false));
        assert!(!one_of("...", &["Paris"], false));
    }

    #[test]
    fn symbols_keep_their_case_and_a_lone_article_is_an_answer() {
        assert!(one_of("Co", &["Co"], true) && !one_of("CO", &["Co"], true));
        assert!(one_of("A", &["A"], true));
        assert_eq!(normalise("the", false), "the");
    }
}
