//! The page of `meden lens patterns`: one map a head, drawn small for all heads and large for the chosen one, and the text
//! coloured by what the token that is pointed at reads.

use std::fmt::Write;

use meden_lens::patterns::{Attention, HeadKind};
use meden_report::html::{Page, script_json};
use serde_json::json;

use super::words::Words;

const STYLE: &str = "\
.bar{display:flex;gap:16px;align-items:center;flex-wrap:wrap;margin:12px 0}\
.bar label{display:flex;gap:6px;align-items:center}\
.text{font:14px/2 ui-monospace,'DejaVu Sans Mono',monospace;white-space:pre-wrap;overflow-wrap:anywhere;\
border:1px solid #e4e6e8;border-radius:6px;padding:10px 14px;max-height:36vh;overflow-y:auto}\
.text span{border-radius:2px;cursor:default}.text span.on{outline:2px solid #b24000}\
.two{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,320px);gap:16px;align-items:start}\
@media(max-width:800px){.two{grid-template-columns:1fr}}\
#large{max-width:100%;cursor:crosshair}\
#all{display:grid;gap:3px;overflow:auto;max-height:70vh;border:1px solid #e4e6e8;border-radius:6px;padding:6px}\
#all canvas{width:100%;image-rendering:pixelated;cursor:pointer;border:1px solid #e4e6e8}\
#all canvas.on{outline:2px solid #b24000}#all b{font:11px system-ui,sans-serif;color:#5f6368;align-self:center;text-align:right}\
#tip,#kind{color:#5f6368;min-height:1.5em;font-size:13px}";

const SCRIPT: &str = r#"
const data = JSON.parse(document.getElementById('data').textContent), n = data.tokens.length;
const raw = atob(data.patterns), half = n * (n + 1) / 2;
const at = (i, q, k) => k > q ? 0 : raw.charCodeAt(i * half + q * (q + 1) / 2 + k) / 255;
const stops = [[255,255,255],[158,202,225],[49,130,189],[8,48,107]];
function shade(x) {
  const s = Math.sqrt(Math.min(Math.max(x, 0), 1)) * 3, i = Math.min(Math.floor(s), 2), f = s - i;
  return stops[i].map((v, c) => Math.round(v * (1 - f) + stops[i + 1][c] * f));
}
function draw(canvas, i) {
  canvas.width = canvas.height = n;
  const pen = canvas.getContext('2d'), image = pen.createImageData(n, n);
  for (let q = 0; q < n; q++) for (let k = 0; k < n; k++) {
    const rgb = k > q ? [246, 247, 248] : shade(at(i, q, k)), p = 4 * (q * n + k);
    for (let c = 0; c < 3; c++) image.data[p + c] = rgb[c];
    image.data[p + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
}
// the chosen head, with the tokens beside it where there is room for words
const cell = Math.max(1, Math.min(26, Math.floor(620 / n))), words = cell >= 10, margin = words ? 104 : 0, sharp = 2;
function drawLarge(i) {
  const side = n * cell, pen = large.getContext('2d');
  large.width = sharp * (side + margin); large.height = sharp * (side + margin);
  large.style.width = (side + margin) + 'px';
  pen.scale(sharp, sharp);
  pen.fillStyle = '#fff'; pen.fillRect(0, 0, side + margin, side + margin);
  for (let q = 0; q < n; q++) for (let k = 0; k < n; k++) {
    pen.fillStyle = k > q ? '#f6f7f8' : 'rgb(' + shade(at(i, q, k)).join(',') + ')';
    pen.fillRect(margin + k * cell, q * cell, cell - (words ? 1 : 0), cell - (words ? 1 : 0));
  }
  if (!words) return;
  pen.fillStyle = '#1a1a1a'; pen.font = Math.min(12, cell) + 'px ui-monospace, "DejaVu Sans Mono", monospace'; pen.textBaseline = 'middle';
  data.tokens.forEach((token, t) => {
    const word = token.replace(/ /g, '·').replace(/\n/g, '⏎'), short = word.length > 13 ? word.slice(0, 12) + '…' : word;
    pen.textAlign = 'right'; pen.fillText(short, margin - 6, (t + 0.5) * cell);
    pen.save(); pen.translate(margin + (t + 0.5) * cell, side + 6); pen.rotate(-Math.PI / 2); pen.fillText(short, 0, 0); pen.restore();
  });
}
const layer = document.getElementById('layer'), head = document.getElementById('head'), large = document.getElementById('large');
const text = document.getElementById('text'), tip = document.getElementById('tip'), kind = document.getElementById('kind'), all = document.getElementById('all');
const spans = data.tokens.map((t, k) => {
  const span = document.createElement('span'); span.textContent = t; text.append(span);
  span.addEventListener('mouseenter', () => read(k)); return span;
});
let now = 0;
const per = data.heads;
data.layers.forEach(l => layer.add(new Option(l, l)));
for (let h = 0; h < per; h++) head.add(new Option(h, h));
all.style.gridTemplateColumns = '34px repeat(' + per + ', minmax(22px, 1fr))';
const small = [];
data.layers.forEach((l, r) => {
  const name = document.createElement('b'); name.textContent = l; all.append(name);
  for (let h = 0; h < per; h++) {
    const canvas = document.createElement('canvas'), i = r * per + h;
    canvas.title = 'layer ' + l + ', head ' + h; canvas.addEventListener('click', () => choose(i));
    all.append(canvas); small.push(canvas);
  }
});
function read(q) {
  spans.forEach((span, k) => {
    const share = at(now, q, k), rgb = shade(share);
    span.style.background = k > q ? '' : 'rgb(' + rgb.join(',') + ')';
    span.style.color = k <= q && 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 140 ? '#fff' : '';
    span.classList.toggle('on', k === q);
    span.title = k > q ? '' : (100 * share).toFixed(1) + '% of what token ' + q + ' reads';
  });
}
function choose(i) {
  small[now].classList.remove('on'); now = i; small[i].classList.add('on');
  layer.value = data.layers[Math.floor(i / per)]; head.value = i % per;
  drawLarge(i); kind.textContent = data.kinds[i]; read(n - 1);
}
const chosen = () => choose(data.layers.indexOf(+layer.value) * per + +head.value);
layer.addEventListener('change', chosen); head.addEventListener('change', chosen);
large.addEventListener('mousemove', event => {
  const box = large.getBoundingClientRect();
  const scale = box.width / (n * cell + margin), inside = v => Math.min(n - 1, Math.max(0, Math.floor(v / (scale * cell))));
  const k = inside(event.clientX - box.left - margin * scale), q = inside(event.clientY - box.top);
  tip.textContent = k > q ? '' : 'token ' + q + ' ' + JSON.stringify(data.tokens[q]) + ' reads token ' + k + ' ' + JSON.stringify(data.tokens[k]) + ': ' + (100 * at(now, q, k)).toFixed(1) + '%';
  read(q);
});
let next = 0;
(function some() { const until = Math.min(next + 90, small.length); for (; next < until; next++) draw(small[next], next); if (next < small.length) setTimeout(some); })();
choose(0);
"#;

/// The page.
///
/// # Errors
/// None that can happen with plain data; JSON says what.
pub fn page(
    model: &str,
    ids: &[u32],
    words: Words<'_>,
    attention: &Attention,
    kinds: &[HeadKind],
) -> anyhow::Result<String> {
    let tokens = ids.len();
    let mut bytes = Vec::with_capacity(kinds.len() * tokens * (tokens + 1) / 2);
    for kind in kinds {
        let Some(pattern) = attention.pattern(kind.layer, kind.head) else { continue };
        for (query, row) in pattern.chunks_exact(tokens).enumerate() {
            bytes.extend(row[..=query].iter().map(|p| (p * 255.0).round() as u8));
        }
    }
    let mut page = Page::new("Attention patterns", &format!("{model}; {tokens} tokens, {} heads", kinds.len()));
    page.style(STYLE);
    page.raw(
        "<div class=\"bar\"><label>layer <select id=\"layer\"></select></label>\
         <label>head <select id=\"head\"></select></label><span id=\"kind\"></span></div>",
    );
    page.paragraph("Point at a token: the darker another token, the more of it this one reads.");
    page.raw("<div class=\"text\" id=\"text\"></div>");
    page.heading("The chosen head, and all of them");
    page.paragraph(
        "Each row is a token that reads, each column a token that is read, both from the first. Shades follow the square \
         root of the share, so that small ones are seen. Click a small map to choose its head; rows are layers.",
    );
    page.raw(
        "<div class=\"two\"><div><canvas id=\"large\"></canvas><p id=\"tip\"></p></div><div id=\"all\"></div></div>",
    );
    let data = json!({
        "tokens": ids.iter().map(|&id| words.raw(id)).collect::<Vec<_>>(),
        "layers": attention.layers(),
        "heads": attention.heads(),
        "kinds": kinds.iter().map(kind_line).collect::<Vec<_>>(),
        "patterns": base64(&bytes),
    });
    page.raw(&format!("<script type=\"application/json\" id=\"data\">{}</script>", script_json(&data)?));
    page.raw(&format!("<script>{SCRIPT}</script>"));
    Ok(page.finish())
}

fn kind_line(kind: &HeadKind) -> String {
    let percent = |v: f64| if v.is_nan() { "-".to_owned() } else { format!("{:.0}%", 100.0 * v) };
    let mut line = format!("entropy {:.2} nats", kind.entropy);
    for (name, value) in [
        ("first token", kind.first),
        ("itself", kind.this),
        ("the one before", kind.previous),
        ("copies", kind.duplicate),
        ("behind copies", kind.induction),
    ] {
        let _ = write!(line, ", {name} {}", percent(value));
    }
    line
}

/// Base64 with padding (RFC 4648): a megabyte of it costs no dependency.
fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            match i <= three.len() {
                true => out.push(char::from(SIGNS[(word >> (18 - 6 * i) & 63) as usize])),
                false => out.push('='),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
