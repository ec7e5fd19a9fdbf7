//! The drawing surface: primitives with the house's colours and type sizes.

use std::fmt::Write;

/// Colours that stay apart for colour-blind readers and in print (Okabe and Ito's set, the yellow left out).
pub(super) const PALETTE: [&str; 6] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
pub(super) const INK: &str = "#1a1a1a";
pub(super) const QUIET: &str = "#5f6368";
pub(super) const GRID: &str = "#e4e6e8";

/// Width of a chart in pixels.
pub(super) const WIDTH: f64 = 720.0;

/// Where a text is held.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// Size, weight and colour of a text.
#[derive(Clone, Copy)]
pub(super) struct Type {
    size: u32,
    bold: bool,
    colour: &'static str,
}

impl Type {
    pub(super) const TITLE: Type = Type { size: 16, bold: true, colour: INK };
    pub(super) const SUBTITLE: Type = Type { size: 12, bold: false, colour: QUIET };
    pub(super) const AXIS: Type = Type { size: 12, bold: false, colour: QUIET };
    pub(super) const LABEL: Type = Type { size: 12, bold: false, colour: INK };

    pub(super) fn coloured(self, colour: &'static str) -> Type {
        Type { colour, bold: true, ..self }
    }
}

pub(super) struct Canvas {
    body: String,
    height: f64,
    title: String,
}

impl Canvas {
    /// A white sheet with a title and a line under it.
    pub(super) fn new(height: f64, title: &str, subtitle: &str) -> Canvas {
        let mut canvas = Canvas { body: String::new(), height, title: title.to_owned() };
        canvas.text(20.0, 28.0, title, Anchor::Start, Type::TITLE);
        canvas.text(20.0, 46.0, subtitle, Anchor::Start, Type::SUBTITLE);
        canvas
    }

    pub(super) fn text(&mut self, x: f64, y: f64, text: &str, anchor: Anchor, face: Type) {
        if text.is_empty() {
            return;
        }
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let weight = if face.bold { " font-weight=\"600\"" } else { "" };
        self.put(format_args!(
            "<text x=\"{}\" y=\"{}\" font-size=\"{}\" fill=\"{}\" text-anchor=\"{anchor}\"{weight}>{}</text>",
            px(x),
            px(y),
            face.size,
            face.colour,
            escape(text)
        ));
    }

    pub(super) fn segment(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, dashed: bool) {
        let dash = if dashed { " stroke-dasharray=\"5 4\"" } else { "" };
        self.put(format_args!(
            "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{colour}\"{dash}/>",
            px(from.0),
            px(from.1),
            px(to.0),
            px(to.1)
        ));
    }

    /// Dashes are written as SVG does, empty for a whole line.
    pub(super) fn polyline(&mut self, points: &[(f64, f64)], colour: &str, dashes: &str) {
        let dashes = if dashes.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dashes}\"") };
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "{},{} ", px(*x), px(*y));
        }
        self.put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\"{dashes}/>",
            path.trim_end()
        ));
    }

    pub(super) fn dot(&mut self, at: (f64, f64), colour: &str) {
        self.put(format_args!("<circle cx=\"{}\" cy=\"{}\" r=\"3.5\" fill=\"{colour}\"/>", px(at.0), px(at.1)));
    }

    pub(super) fn rect(&mut self, corner: (f64, f64), size: (f64, f64), colour: &str, tip: &str) {
        let tip = if tip.is_empty() { String::new() } else { format!("<title>{}</title>", escape(tip)) };
        self.put(format_args!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{colour}\">{tip}</rect>",
            px(corner.0),
            px(corner.1),
            px(size.0.max(0.0)),
            px(size.1.max(0.0))
        ));
    }

    /// The whole document.
    pub(super) fn finish(self) -> String {
        let title = escape(&self.title);
        let (width, height) = (px(WIDTH), px(self.height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, -apple-system, 'Segoe UI', \
             'DejaVu Sans', sans-serif\" role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
            self.body
        )
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.body, "{element}");
    }
}

/// About how wide `text` is at 12 pixels: sans-serif letters are a little over half as wide as high.
pub(super) fn text_width(text: &str) -> f64 {
    use unicode_width::UnicodeWidthStr;
    text.width() as f64 * 6.7
}

/// A coordinate with at most one decimal, without a trailing zero; what is not finite is drawn at 0.
fn px(value: f64) -> String {
    if !value.is_finite() {
        return "0".to_owned();
    }
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// `text` for an XML document: markup escaped, control characters (which XML forbids) replaced.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
