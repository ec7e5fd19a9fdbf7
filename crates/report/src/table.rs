//! Aligned tables in plain text: a header, a thin rule, rows; no boxes. They read well in a terminal and survive being
//! pasted into a mail or an issue.

use std::fmt;
use unicode_width::UnicodeWidthStr;

/// How the cells of a column stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

enum Line {
    Cells(Vec<String>),
    Rule,
}

/// A table that is written with `Display`. The first column is aligned left, the others right, unless
/// [`Table::align`] says otherwise.
pub struct Table {
    header: Vec<String>,
    align: Vec<Align>,
    lines: Vec<Line>,
    indent: usize,
}

impl Table {
    /// A table with the given column names; empty names for a table without a header.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Table {
        let header: Vec<String> = header.into_iter().map(Into::into).collect();
        let align = (0..header.len()).map(|i| if i == 0 { Align::Left } else { Align::Right }).collect();
        Table { header, align, lines: Vec::new(), indent: 0 }
    }

    /// Sets the alignment of the column `column`; columns that do not exist are ignored.
    pub fn align(mut self, column: usize, align: Align) -> Table {
        if let Some(slot) = self.align.get_mut(column) {
            *slot = align;
        }
        self
    }

    /// Starts every line with `spaces` spaces.
    pub fn indent(mut self, spaces: usize) -> Table {
        self.indent = spaces;
        self
    }

    /// Adds a row. Missing cells are empty; cells beyond the header's columns are dropped. Control characters, which
    /// would break the lines or drive the terminal, are shown escaped.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Table {
        let mut cells: Vec<String> = cells.into_iter().map(|c| printable(c.into())).collect();
        cells.resize(self.header.len(), String::new());
        self.lines.push(Line::Cells(cells));
        self
    }

    /// Adds a thin rule between rows.
    pub fn rule(&mut self) -> &mut Table {
        self.lines.push(Line::Rule);
        self
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.header.iter().map(|h| h.width()).collect();
        for line in &self.lines {
            if let Line::Cells(cells) = line {
                for (width, cell) in widths.iter_mut().zip(cells) {
                    *width = (*width).max(cell.width());
                }
            }
        }
        widths
    }

    fn write_cells(&self, f: &mut fmt::Formatter<'_>, cells: &[String], widths: &[usize]) -> fmt::Result {
        let mut line = " ".repeat(self.indent);
        for (i, (cell, &width)) in cells.iter().zip(widths).enumerate() {
            if i > 0 {
                line.push_str("  ");
            }
            let padding = " ".repeat(width - cell.width());
            match self.align[i] {
                Align::Left => line.extend([cell.as_str(), &padding]),
                Align::Right => line.extend([&padding, cell.as_str()]),
            }
        }
        writeln!(f, "{}", line.trim_end())
    }

    fn write_rule(&self, f: &mut fmt::Formatter<'_>, widths: &[usize]) -> fmt::Result {
        let total = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        writeln!(f, "{}{}", " ".repeat(self.indent), "─".repeat(total))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        if self.header.iter().any(|h| !h.is_empty()) {
            self.write_cells(f, &self.header, &widths)?;
            self.write_rule(f, &widths)?;
        }
        for line in &self.lines {
            match line {
                Line::Cells(cells) => self.write_cells(f, cells, &widths)?,
                Line::Rule => self.write_rule(f, &widths)?,
            }
        }
        Ok(())
    }
}

/// `text` with control characters escaped, so that what a file or a model says cannot move the cursor.
pub fn printable(text: String) -> String {
    if !text.chars().any(char::is_control) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_also_under_wide_characters() {
        let mut table = Table::new(["", "dense", "pressed"]);
        table.row(["cache", "90.0 MiB", "22.5 MiB"]);
        table.row(["答え", "1", "2"]);
        let text = table.to_string();
        assert_eq!(
            text,
            "          dense   pressed\n─────────────────────────\ncache  90.0 MiB  22.5 MiB\n答え          1         2\n"
        );
    }

    #[test]
    fn short_rows_long_rows_and_control_characters_are_tamed() {
        let mut table = Table::new(["a", "b"]).align(1, Align::Left).indent(2);
        table.row(["x"]).row(["1", "2", "3"]).rule().row(["\u{1b}[31m", "\n"]);
        let text = table.to_string();
        assert!(text.contains("  x\n"));
        assert!(text.contains("\\u{1b}[31m  \\n"));
        assert_eq!(text.lines().count(), 6);
    }

    #[test]
    fn a_table_without_names_has_no_header() {
        let mut table = Table::new(["", ""]);
        table.row(["context", "8192"]);
        assert_eq!(table.to_string(), "context  8192\n");
    }
}
