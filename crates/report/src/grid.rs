//! A matrix with named rows and columns as an HTML table of coloured cells: what a heat map of tokens needs, whose
//! columns are words and whose cells may hold words too.
//!
//! The table is plain markup: names stay in sight while it scrolls, a cell tells its value when it is pointed at, and its
//! colour is written in, so it needs no script and survives being printed.

use std::fmt::Write;

use crate::html::escape;

/// How values become colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// From light to dark between two values.
    Sequential {
        /// Lightest.
        low: f64,
        /// Darkest.
        high: f64,
    },
    /// White at zero, blue below, orange above, darkest at plus and minus `extent`.
    Diverging {
        /// Where the colours are darkest.
        extent: f64,
    },
}

/// One cell.
#[derive(Clone, Debug, Default)]
pub struct GridCell {
    /// Its colour's value; one that is not finite is left grey.
    pub value: f64,
    /// Written in it.
    pub text: String,
    /// Told when it is pointed at.
    pub tip: String,
}

/// A matrix of cells. Fill the fields, call [`Grid::html`]; a page needs [`Grid::STYLE`] once.
#[derive(Clone, Debug)]
pub struct Grid {
    /// The table's `id`, for a page with a script.
    pub id: String,
    /// Above the names of the rows.
    pub corner: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Names of the rows with their cells, from top to bottom.
    pub rows: Vec<(String, Vec<GridCell>)>,
    /// Colours.
    pub scale: Scale,
    /// What the colour means, with its ends, as in `("0", "probability", "1")`.
    pub legend: (String, String, String),
    /// Small square cells without words, and upright names of columns.
    pub compact: bool,
}

/// From light to dark, so that it reads in grey too.
const SHADES: [[f64; 3]; 4] = [[247.0, 250.0, 253.0], [158.0, 202.0, 225.0], [49.0, 130.0, 189.0], [8.0, 48.0, 107.0]];
/// From blue over white to orange.
const TWO_SIDED: [[f64; 3]; 5] =
    [[5.0, 77.0, 140.0], [114.0, 178.0, 222.0], [250.0, 250.0, 250.0], [244.0, 164.0, 96.0], [178.0, 64.0, 0.0]];
const NO_VALUE: [f64; 3] = [215.0, 217.0, 219.0];

impl Grid {
    /// Rules for the tables of a page.
    pub const STYLE: &'static str = "\
.gridbox{overflow:auto;width:fit-content;max-width:100%;max-height:82vh;border:1px solid #e4e6e8;border-radius:6px;margin:12px 0 4px}\
table.grid{border-collapse:separate;border-spacing:1px;font:12px ui-monospace,'DejaVu Sans Mono',monospace;\
background:#fff}\
table.grid th,table.grid td{border:0;padding:3px 5px;text-align:center}\
table.grid thead th{position:sticky;top:0;z-index:1;background:#fff;font-weight:600;vertical-align:bottom}\
table.grid tbody th{position:sticky;left:0;z-index:1;background:#fff;font-weight:400;color:#5f6368;text-align:right}\
table.grid thead th:first-child{left:0;z-index:2;color:#5f6368;font-weight:400;text-align:right}\
table.grid td{min-width:56px;max-width:104px;overflow:hidden;text-overflow:ellipsis;white-space:pre;cursor:default}\
table.grid thead th{max-width:104px;overflow:hidden;text-overflow:ellipsis;white-space:pre}\
table.grid.compact td{min-width:20px;max-width:20px;width:20px;height:16px;padding:0}\
table.grid.compact thead th:not(:first-child) span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:130px;\
overflow:hidden;display:inline-block}\
table.grid td:hover{outline:2px solid #1a1a1a;outline-offset:-1px}\
.grids{display:flex;flex-wrap:wrap;gap:0 28px}.grids>div{min-width:0}\
.legend{display:flex;align-items:center;gap:8px;color:#5f6368;font-size:13px;margin:0 0 12px}\
.legend i{display:inline-block;width:160px;height:12px;border-radius:3px;border:1px solid #e4e6e8}";

    /// The table and its legend.
    pub fn html(&self) -> String {
        let mut out = format!(
            "<div class=\"gridbox\"><table class=\"grid{}\" id=\"{}\"><thead><tr><th>{}</th>",
            if self.compact { " compact" } else { "" },
            escape(&self.id),
            escape(&self.corner)
        );
        for name in &self.columns {
            let name = escape(name);
            let _ = write!(out, "<th title=\"{name}\"><span>{name}</span></th>");
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for (name, cells) in &self.rows {
            let _ = write!(out, "<tr><th>{}</th>", escape(name));
            for cell in cells {
                let (colour, ink) = self.scale.colours(cell.value);
                let tip = if cell.tip.is_empty() { String::new() } else { format!(" title=\"{}\"", escape(&cell.tip)) };
                let text = escape(&cell.text);
                let _ = write!(out, "<td style=\"background:{colour};color:{ink}\"{tip}>{text}</td>");
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        out + &self.scale.legend(&self.legend)
    }
}

/// Tables beside each other, as far as the window is wide.
pub fn beside(grids: &[Grid]) -> String {
    let each: String = grids.iter().map(|grid| format!("<div>{}</div>", grid.html())).collect();
    format!("<div class=\"grids\">{each}</div>")
}

impl Scale {
    /// A scale from the least to the largest of some values; those that are not finite are left out.
    pub fn around(values: impl IntoIterator<Item = f64>) -> Scale {
        let finite = values.into_iter().filter(|v| v.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high { Scale::Sequential { low: 0.0, high: 1.0 } } else { Scale::Sequential { low, high } }
    }

    /// A two-sided scale as wide as the largest magnitude.
    pub fn two_sided(values: impl IntoIterator<Item = f64>) -> Scale {
        let extent = values.into_iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
        Scale::Diverging { extent: if extent > 0.0 { extent } else { 1.0 } }
    }

    fn rgb(self, value: f64) -> [f64; 3] {
        if !value.is_finite() {
            return NO_VALUE;
        }
        match self {
            Scale::Sequential { low, high } => {
                blend(&SHADES, if high > low { (value - low) / (high - low) } else { 0.5 })
            }
            Scale::Diverging { extent } => blend(&TWO_SIDED, 0.5 + 0.5 * value / extent),
        }
    }

    /// Colours of a cell and of the words in it, as CSS.
    pub fn colours(self, value: f64) -> (String, &'static str) {
        let [r, g, b] = self.rgb(value);
        // how bright a colour looks
        let light = 0.299 * r + 0.587 * g + 0.114 * b;
        (format!("rgb({r:.0},{g:.0},{b:.0})"), if light < 140.0 { "#fff" } else { "#1a1a1a" })
    }

    fn legend(self, (low, name, high): &(String, String, String)) -> String {
        let (from, to) = match self {
            Scale::Sequential { low, high } => (low, high),
            Scale::Diverging { extent } => (-extent, extent),
        };
        let stops: Vec<String> = (0..=8).map(|i| self.colours(from + (to - from) * f64::from(i) / 8.0).0).collect();
        format!(
            "<p class=\"legend\"><span class=\"low\">{}</span><i style=\"background:linear-gradient(90deg,{})\"></i>\
             <span class=\"high\">{}</span><span class=\"name\">{}</span></p>\n",
            escape(low),
            stops.join(","),
            escape(high),
            escape(name)
        )
    }
}

fn blend(stops: &[[f64; 3]], share: f64) -> [f64; 3] {
    let place = share.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let below = (place as usize).min(stops.len() - 2);
    let part = place - below as f64;
    std::array::from_fn(|i| (stops[below][i] * (1.0 - part) + stops[below + 1][i] * part).round())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(value: f64, text: &str) -> Grid {
        Grid {
            id: "g".into(),
            corner: "layer".into(),
            columns: vec![text.into()],
            rows: vec![(text.into(), vec![GridCell { value, text: text.into(), tip: text.into() }])],
            scale: Scale::Sequential { low: 0.0, high: 1.0 },
            legend: ("0".into(), text.into(), "1".into()),
            compact: false,
        }
    }

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let html = grid(0.5, "</td><script>\"'").html();
        assert!(!html.contains("<script>") && html.matches("&lt;script&gt;").count() == 6, "{html}");
    }

    #[test]
    fn words_stay_readable_on_every_colour() {
        for (scale, value, ink) in [
            (Scale::Sequential { low: 0.0, high: 1.0 }, 0.0, "#1a1a1a"),
            (Scale::Sequential { low: 0.0, high: 1.0 }, 1.0, "#fff"),
            (Scale::Diverging { extent: 2.0 }, 0.0, "#1a1a1a"),
            (Scale::Diverging { extent: 2.0 }, -2.0, "#fff"),
            (Scale::Diverging { extent: 2.0 }, 2.0, "#fff"),
            (Scale::Diverging { extent: 2.0 }, f64::NAN, "#1a1a1a"),
        ] {
            assert_eq!(scale.colours(value).1, ink, "{scale:?} {value}");
        }
        assert_eq!(Scale::Diverging { extent: 1.0 }.colours(0.0).0, "rgb(250,250,250)");
        assert_eq!(Scale::around([f64::NAN]), Scale::Sequential { low: 0.0, high: 1.0 });
        assert_eq!(Scale::around([3.0, -1.0]), Scale::Sequential { low: -1.0, high: 3.0 });
        assert_eq!(Scale::two_sided([0.5, -3.0]), Scale::Diverging { extent: 3.0 });
    }
}
