//! Pages in one file: no outside script, font or picture, so that a page can be mailed and opened anywhere.

use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light}\
body{font:15px/1.5 system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;color:#1a1a1a;background:#fff;\
max-width:1180px;margin:32px auto;padding:0 24px}\
h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:36px 0 8px}\
p{margin:8px 0;max-width:80ch}.lead{color:#5f6368}\
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(520px,100%),1fr));gap:16px;margin:12px 0}\
.figures svg{width:100%;height:auto;border:1px solid #e4e6e8;border-radius:6px}\
.scroll{overflow-x:auto;margin:12px 0}\
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}\
th,td{padding:4px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid #e4e6e8}\
th{font-weight:600;border-bottom:1px solid #9aa0a6;position:sticky;top:0;background:#fff}\
th.l,td.l{text-align:left}\
code{font:13px ui-monospace,'DejaVu Sans Mono',monospace;background:#f3f4f6;padding:1px 4px;border-radius:3px}\
ul{margin:8px 0;padding-left:20px}";

/// A page under construction.
pub struct Page {
    title: String,
    style: String,
    body: String,
}

impl Page {
    /// A page with a title and a line under it.
    pub fn new(title: &str, lead: &str) -> Page {
        let body = format!("<h1>{}</h1>\n<p class=\"lead\">{}</p>\n", escape(title), escape(lead));
        Page { title: title.to_owned(), style: STYLE.to_owned(), body }
    }

    /// Adds style rules of the page's own.
    pub fn style(&mut self, rules: &str) -> &mut Page {
        self.style.push_str(rules);
        self
    }

    /// A section's heading.
    pub fn heading(&mut self, text: &str) -> &mut Page {
        self.put(format_args!("<h2>{}</h2>", escape(text)))
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) -> &mut Page {
        self.put(format_args!("<p>{}</p>", escape(text)))
    }

    /// A list of sentences; nothing where there are none.
    pub fn list<S: AsRef<str>>(&mut self, items: &[S]) -> &mut Page {
        if items.is_empty() {
            return self;
        }
        let items: String = items.iter().map(|i| format!("<li>{}</li>", escape(i.as_ref()))).collect();
        self.put(format_args!("<ul>{items}</ul>"))
    }

    /// Charts side by side, as far as the window is wide. Each is the text of an SVG document.
    pub fn figures<S: AsRef<str>>(&mut self, charts: &[S]) -> &mut Page {
        let charts: Vec<&str> = charts.iter().map(AsRef::as_ref).collect();
        self.put(format_args!("<div class=\"figures\">\n{}</div>", charts.concat()))
    }

    /// A table; the first `words` columns are aligned left.
    pub fn table<S: AsRef<str>>(&mut self, header: &[&str], rows: &[Vec<S>], words: usize) -> &mut Page {
        let head = row_cells("th", header.iter().copied(), words);
        let mut body = String::new();
        for row in rows {
            let _ = writeln!(body, "<tr>{}</tr>", row_cells("td", row.iter().map(AsRef::as_ref), words));
        }
        self.put(format_args!(
            "<div class=\"scroll\"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
        ))
    }

    /// Markup of the caller's own; everything in it that comes from outside has to be [`escape`]d.
    pub fn raw(&mut self, html: &str) -> &mut Page {
        self.put(format_args!("{html}"))
    }

    /// The document.
    pub fn finish(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
             <link rel=\"icon\" href=\"data:,\">\n\
             <title>{}</title>\n<style>{}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
            escape(&self.title),
            self.style,
            self.body
        )
    }

    fn put(&mut self, html: std::fmt::Arguments<'_>) -> &mut Page {
        let _ = writeln!(self.body, "{html}");
        self
    }
}

/// Cells of a table's row; the first `words` are aligned left.
fn row_cells<'a>(tag: &str, cells: impl Iterator<Item = &'a str>, words: usize) -> String {
    let side = |column: usize| if column < words { " class=\"l\"" } else { "" };
    cells.enumerate().map(|(i, c)| format!("<{tag}{}>{}</{tag}>", side(i), escape(c))).collect()
}

/// `text` for a place between tags or inside a quoted attribute; control characters other than line breaks and tabs
/// are replaced.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// JSON for a place inside a script element: nothing in it can end the element or open a comment.
pub fn script_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    let json = serde_json::to_string(value)?;
    Ok(json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let evil = "</script><img src=x onerror=alert(1)>'\"&\u{1b}";
        let mut page = Page::new(evil, evil);
        page.heading(evil).paragraph(evil).list(&[evil]).table(&[evil], &[vec![evil]], 1);
        let html = page.finish();
        assert!(!html.contains("<img") && !html.contains("</script>") && !html.contains('\u{1b}'));
        assert_eq!(html.matches("onerror").count(), 8);
        let json = script_json(evil).unwrap();
        assert!(!json.contains('<'));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), evil);
    }

    #[test]
    fn a_page_needs_nothing_from_outside() {
        let html = Page::new("t", "l").finish();
        assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
        for outside in ["http:", "https:", "<script src", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
    }
}
