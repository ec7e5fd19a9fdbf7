//! The page of `meden kv show`: the text, coloured, and a map of every layer and head. The text is coloured without
//! any script; the script only changes which heads are looked at.

use meden_engine::Policy;
use meden_eval::kv_lab::kept::Kept;
use meden_report::html::{Page, escape, script_json};
use serde_json::json;

const STYLE: &str = "\
.text{font:14px/1.75 ui-monospace,'DejaVu Sans Mono',monospace;white-space:pre-wrap;overflow-wrap:anywhere;\
border:1px solid #e4e6e8;border-radius:6px;padding:14px;max-height:60vh;overflow-y:auto}\
.text span{border-radius:2px}\
.bar{display:flex;gap:16px;align-items:center;flex-wrap:wrap;margin:12px 0}\
.bar label{display:flex;gap:6px;align-items:center}\
.scale{display:flex;align-items:center;gap:6px;color:#5f6368}\
.scale i{width:140px;height:12px;border-radius:3px;background:linear-gradient(90deg,#fff,#2b7bba);border:1px solid #e4e6e8}\
.map{display:flex;gap:6px}#axis{position:relative;width:56px;flex:none;color:#5f6368;font-size:12px}\
#axis span{position:absolute;right:0;line-height:1}\
#map{flex:1;min-width:0;width:100%;border:1px solid #e4e6e8;border-radius:6px;cursor:crosshair;image-rendering:pixelated}\
#tip{color:#5f6368;min-height:1.5em}";

const SCRIPT: &str = r#"
const data = JSON.parse(document.getElementById('data').textContent);
const spans = Array.from(document.querySelectorAll('.text span'));
const layer = document.getElementById('layer'), head = document.getElementById('head');
const tip = document.getElementById('tip'), map = document.getElementById('map');
const rows = [];
data.layers.forEach((heads, l) => heads.forEach((runs, h) => {
  const kept = new Uint8Array(data.tokens);
  runs.forEach(([from, count]) => kept.fill(1, from, from + count));
  rows.push({ l, h, kept });
}));
const option = (select, value, text) => { const o = document.createElement('option'); o.value = value; o.textContent = text; select.append(o); };
option(layer, -1, 'all pressed layers');
data.layers.forEach((_, l) => option(layer, l, l + (data.sliding[l] ? ' (slides)' : data.skipped[l] ? ' (left alone)' : '')));
option(head, -1, 'all heads');
if (data.layers.length) data.layers[0].forEach((_, h) => option(head, h, h));
function chosen() {
  return rows.filter(r => (+layer.value < 0 ? !data.sliding[r.l] : r.l === +layer.value) && (+head.value < 0 || r.h === +head.value));
}
function colour(share) { return 'rgba(43,123,186,' + (0.9 * share).toFixed(3) + ')'; }
function paint() {
  const some = chosen();
  spans.forEach((span, t) => {
    const count = some.reduce((sum, r) => sum + r.kept[t], 0);
    span.style.background = colour(some.length ? count / some.length : 0);
    span.title = 'token ' + t + ', kept by ' + count + ' of ' + some.length + ' heads';
  });
}
function draw() {
  const high = Math.max(2, Math.min(6, Math.floor(480 / Math.max(1, rows.length))));
  map.width = data.tokens; map.height = rows.length * high;
  const pen = map.getContext('2d'), image = pen.createImageData(map.width, map.height);
  rows.forEach((r, i) => {
    const base = data.sliding[r.l] ? [150, 150, 150] : data.skipped[r.l] ? [86, 160, 120] : [43, 123, 186];
    for (let y = i * high; y < (i + 1) * high; y++) for (let t = 0; t < data.tokens; t++) {
      const at = 4 * (y * map.width + t), on = r.kept[t], odd = r.l % 2 ? 255 : 246;
      for (let c = 0; c < 3; c++) image.data[at + c] = on ? base[c] : odd;
      image.data[at + 3] = 255;
    }
  });
  pen.putImageData(image, 0, 0);
  const tall = Math.max(map.height, 60), layers = data.layers.length, every = Math.ceil(14 * layers / tall);
  map.style.height = tall + 'px';
  data.layers.forEach((_, l) => {
    if (l % every) return;
    const label = document.createElement('span');
    label.textContent = l ? l : 'layer 0';
    label.style.top = (l * tall / layers) + 'px';
    document.getElementById('axis').append(label);
  });
}
function place(event) {
  const box = map.getBoundingClientRect();
  const t = Math.min(data.tokens - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * data.tokens)));
  const i = Math.min(rows.length - 1, Math.max(0, Math.floor((event.clientY - box.top) / box.height * rows.length)));
  return { t, row: rows[i] };
}
map.addEventListener('mousemove', event => {
  const { t, row } = place(event);
  tip.textContent = 'layer ' + row.l + ', head ' + row.h + ', token ' + t + ' ' + JSON.stringify(spans[t].textContent) + (row.kept[t] ? ': kept' : ': dropped');
});
map.addEventListener('click', event => {
  const { t, row } = place(event);
  layer.value = row.l; head.value = row.h; paint();
  spans[t].scrollIntoView({ block: 'center' });
});
layer.addEventListener('change', paint); head.addEventListener('change', paint);
draw(); paint();
"#;

/// The page.
///
/// # Errors
/// None that can happen with plain data; JSON says what.
pub fn page(model: &str, policy: &Policy, tokens: &[String], kept: &Kept, lines: &[String]) -> anyhow::Result<String> {
    let mut page = Page::new(
        &format!("What {} keeps", policy.press.name()),
        &format!(
            "{model}; press {}, budget {}, {}, {} sinks and {} recents protected",
            policy.press, policy.budget, policy.schedule, policy.sinks, policy.recents
        ),
    );
    page.style(STYLE).list(lines);
    page.heading("The text");
    page.raw(
        "<div class=\"bar\"><label>layer <select id=\"layer\"></select></label>\
         <label>head <select id=\"head\"></select></label>\
         <span class=\"scale\">kept by no head <i></i> by all</span></div>",
    );
    let spans: String = tokens.iter().zip(&kept.share).map(|(token, share)| span(token, *share)).collect();
    page.raw(&format!("<div class=\"text\">{spans}</div>"));
    page.heading("Every layer and head");
    page.paragraph(
        "A row for each head, layer by layer from the top; a column for each token. Blue: kept. Green: kept in a layer \
         that the press leaves alone. Grey: kept by a sliding window. Click to look at one head in the text.",
    );
    page.raw("<div class=\"map\"><div id=\"axis\"></div><canvas id=\"map\"></canvas></div><p id=\"tip\"></p>");
    let layers: Vec<Vec<Vec<[u32; 2]>>> = (0..kept.positions.len())
        .map(|layer| (0..kept.positions[layer].len()).map(|head| kept.runs(layer, head)).collect())
        .collect();
    let data = json!({
        "tokens": kept.tokens, "layers": layers, "sliding": kept.sliding, "skipped": kept.skipped,
    });
    page.raw(&format!("<script type=\"application/json\" id=\"data\">{}</script>", script_json(&data)?));
    page.raw(&format!("<script>{SCRIPT}</script>"));
    Ok(page.finish())
}

fn span(token: &str, share: f64) -> String {
    let alpha = 0.9 * share.clamp(0.0, 1.0);
    format!("<span style=\"background:rgba(43,123,186,{alpha:.3})\">{}</span>", escape(token))
}
