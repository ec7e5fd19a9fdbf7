//! The page of `meden lens logits`: a map of tokens by layers, and what it says about one of them when it is pointed at.
//! The map is plain markup; the script only changes its colours and fills the panel.

use meden_lens::logit_lens::{LensTable, Reading};
use meden_lens::place::Place;
use meden_report::grid::{Grid, GridCell, Scale};
use meden_report::html::{Page, escape, script_json};
use meden_report::svg::{LineChart, Series};
use serde_json::json;

use super::logits::probability;
use super::words::{Words, visible};

/// What is shown.
pub struct View<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Which lens.
    pub lens: &'static str,
    /// The prompt.
    pub ids: &'a [u32],
    /// Its words.
    pub words: Words<'a>,
    /// What was read.
    pub table: &'a LensTable,
}

const STYLE: &str = "\
.prompt{font:14px/1.7 ui-monospace,'DejaVu Sans Mono',monospace;white-space:pre-wrap;overflow-wrap:anywhere;\
background:#f7f8f9;border-radius:6px;padding:10px 14px}\
.bar{display:flex;gap:16px;align-items:center;flex-wrap:wrap;margin:12px 0}\
.bar label{display:flex;gap:6px;align-items:center}\
#panel{border:1px solid #e4e6e8;border-radius:6px;padding:10px 14px;min-height:150px;margin:0 0 12px}\
#panel h3{font-size:14px;margin:0 0 6px}#panel p{margin:2px 0;color:#5f6368;font-size:13px}\
#panel .row{display:grid;grid-template-columns:160px 1fr 64px;gap:8px;align-items:center;font-size:13px;\
font-variant-numeric:tabular-nums;max-width:640px}\
#panel .row span:first-child{font-family:ui-monospace,'DejaVu Sans Mono',monospace;white-space:pre;overflow:hidden;\
text-overflow:ellipsis;text-align:right}\
#panel .row.asked{margin-top:0}#panel .row:not(.asked)+.row.asked{border-top:1px solid #e4e6e8;margin-top:4px;padding-top:4px}\
#panel .row i{display:block;height:12px;background:#3182bd;border-radius:2px}\
#map td.on{outline:2px solid #b24000;outline-offset:-1px}";

const SCRIPT: &str = r#"
const data = JSON.parse(document.getElementById('data').textContent);
const map = document.getElementById('map'), mode = document.getElementById('mode'), panel = document.getElementById('panel');
const lines = Array.from(map.tBodies[0].rows);
const cells = lines.map(r => Array.from(r.cells).slice(1));
const stops = [[247,250,253],[158,202,225],[49,130,189],[8,48,107]];
function shade(x) {
  const at = Math.min(Math.max(x, 0), 1) * 3, i = Math.min(Math.floor(at), 2), f = at - i;
  return stops[i].map((v, c) => Math.round(v * (1 - f) + stops[i + 1][c] * f));
}
function paint() {
  const m = mode.value, [low, high, name] = ['low', 'high', 'name'].map(c => document.querySelector('.legend .' + c));
  const value = d => m === 'p' ? Math.exp(d.top[0][1]) : m === 'entropy' ? d.entropy : m === 'kl' ? d.kl : m === 'js' ? d.js
    : Math.exp(d.asked[+m][1]);
  let most = 1;
  if (m === 'entropy' || m === 'kl') most = Math.max(1e-9, ...data.rows.flat().map(value));
  if (m === 'js') most = Math.LN2;
  cells.forEach((row, r) => row.forEach((cell, c) => {
    const rgb = shade(value(data.rows[r][c]) / most);
    cell.style.background = 'rgb(' + rgb.join(',') + ')';
    cell.style.color = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 140 ? '#fff' : '#1a1a1a';
  }));
  low.textContent = '0'; high.textContent = most === 1 ? '1' : most.toFixed(2);
  name.textContent = mode.selectedOptions[0].textContent;
}
let fixed = null;
function show(r, c) {
  const d = data.rows[r][c];
  map.querySelectorAll('td.on').forEach(cell => cell.classList.remove('on'));
  cells[r][c].classList.add('on');
  panel.replaceChildren();
  const head = document.createElement('h3');
  head.textContent = data.places[r] + ', behind token ' + data.positions[c] + ' “' + data.tokens[c] + '”';
  panel.append(head);
  const bars = d.top.map(t => [t[0], Math.exp(t[1]), '']).concat(d.asked.map((t, i) => [data.asked[i], Math.exp(t[1]), 'rank ' + t[0]]));
  bars.forEach(([text, p, more]) => {
    const row = document.createElement('div'), word = document.createElement('span'), bar = document.createElement('i'), figure = document.createElement('span');
    row.className = more ? 'row asked' : 'row'; word.textContent = text; bar.style.width = Math.max(0.3, 100 * p) + '%';
    figure.textContent = more || (p >= 5e-4 ? p.toFixed(3) : p.toExponential(0));
    row.append(word, bar, figure); panel.append(row);
  });
  const rest = document.createElement('p');
  rest.textContent = 'entropy ' + d.entropy.toFixed(2) + ' nats; from what the model says in the end: KL ' + d.kl.toFixed(3) + ', JS ' + d.js.toFixed(3);
  panel.append(rest);
}
cells.forEach((row, r) => row.forEach((cell, c) => {
  cell.removeAttribute('title');
  cell.addEventListener('mouseenter', () => { if (!fixed) show(r, c); });
  cell.addEventListener('click', () => { const same = fixed && fixed[0] === r && fixed[1] === c; fixed = same ? null : [r, c]; show(r, c); });
}));
mode.addEventListener('change', paint);
if (cells.length && cells[0].length) { paint(); show(0, cells[0].length - 1); const box = map.parentElement; box.scrollLeft = box.scrollWidth; }
"#;

impl View<'_> {
    /// The page.
    ///
    /// # Errors
    /// None that can happen with plain data; JSON says what.
    pub fn page(&self) -> anyhow::Result<String> {
        let title = match self.lens {
            "tuned lens" => "Tuned lens: what the model is about to say, layer by layer",
            _ => "Logit lens: what the model is about to say, layer by layer",
        };
        let mut page = Page::new(title, &format!("{}; {} tokens", self.model, self.ids.len()));
        page.style(Grid::STYLE).style(STYLE);
        let text: String = self.ids.iter().map(|&id| self.words.raw(id)).collect();
        page.raw(&format!("<div class=\"prompt\">{}</div>", escape(&text)));
        page.paragraph(
            "Each column is a token of the prompt, each row a place in the model, the last layer at the top. A cell holds \
             the token that would come next if the model stopped there; the darker, the surer. Point at a cell for the \
             likeliest tokens; click to hold it.",
        );
        page.raw(&format!(
            "<div class=\"bar\"><label>colour <select id=\"mode\">{}</select></label></div>",
            self.modes()
        ));
        page.raw("<div id=\"panel\"></div>");
        page.raw(&self.grid().html());
        page.heading("The last position");
        page.figures(&self.charts());
        page.raw(&format!("<script type=\"application/json\" id=\"data\">{}</script>", script_json(&self.data())?));
        page.raw(&format!("<script>{SCRIPT}</script>"));
        Ok(page.finish())
    }

    fn modes(&self) -> String {
        let mut modes = vec![
            ("p".to_owned(), "probability of the likeliest token".to_owned()),
            ("entropy".to_owned(), "entropy in nats".to_owned()),
            ("kl".to_owned(), "KL from what the model says in the end".to_owned()),
            ("js".to_owned(), "JS from what the model says in the end".to_owned()),
        ];
        let asked = self.asked().into_iter().enumerate();
        modes.extend(asked.map(|(i, word)| (i.to_string(), format!("probability of “{word}”"))));
        modes.iter().map(|(value, name)| format!("<option value=\"{value}\">{}</option>", escape(name))).collect()
    }

    fn asked(&self) -> Vec<String> {
        let first = self.table.last.first();
        first.map(|r| r.tokens.iter().map(|t| self.words.shown(t.id)).collect()).unwrap_or_default()
    }

    /// Places from the last to the first, so that the output is at the top.
    fn downwards(&self) -> impl Iterator<Item = (&Place, &Vec<Reading>)> {
        self.table.places.iter().zip(&self.table.readings).rev()
    }

    fn grid(&self) -> Grid {
        let cell = |reading: &Reading| {
            let best = &reading.top[0];
            let tip: Vec<String> =
                reading.top.iter().map(|t| format!("{} {}", self.words.shown(t.id), probability(t.logprob))).collect();
            GridCell { value: best.logprob.exp(), text: self.words.shown(best.id), tip: tip.join("\n") }
        };
        let name = |place: &Place| match place.site.is_global() {
            true => place.to_string(),
            false if self.one_site() => place.layer.to_string(),
            false => place.to_string(),
        };
        Grid {
            id: "map".into(),
            corner: if self.one_site() { "layer".into() } else { "place".into() },
            columns: self.table.rows.iter().map(|r| self.words.shown(r.id)).collect(),
            rows: self.downwards().map(|(place, row)| (name(place), row.iter().map(cell).collect())).collect(),
            scale: Scale::Sequential { low: 0.0, high: 1.0 },
            legend: ("0".into(), "probability of the likeliest token".into(), "1".into()),
            compact: false,
        }
    }

    fn one_site(&self) -> bool {
        self.table.places.windows(2).all(|p| p[0].site == p[1].site)
    }

    fn charts(&self) -> Vec<String> {
        let Some(row) = self.table.rows.len().checked_sub(1) else { return Vec::new() };
        let behind = visible(&self.words.raw(self.table.rows[row].id));
        // one line a site, over layers
        let mut sites: Vec<_> = self.table.places.iter().map(|p| p.site).filter(|s| !s.is_global()).collect();
        sites.sort_unstable();
        sites.dedup();
        let lines = |value: &dyn Fn(&Reading) -> f64, prefix: &str| -> Vec<Series> {
            let series = |&site: &meden_engine::Site| {
                let of = self.table.places.iter().zip(&self.table.readings).filter(|(p, _)| p.site == site);
                let points = of.map(|(place, readings)| (place.layer as f64, value(&readings[row]))).collect();
                let name = if sites.len() > 1 { format!("{prefix}{site}") } else { prefix.trim().to_owned() };
                Series { name, points, ..Series::default() }
            };
            sites.iter().map(series).collect()
        };
        let chart = |title: String, y_name: &str, series: Vec<Series>| {
            LineChart {
                title,
                subtitle: format!("{}; behind “{behind}”", self.model),
                x_name: "layer".into(),
                y_name: y_name.into(),
                y_from_zero: true,
                dots: true,
                series,
                ..LineChart::default()
            }
            .svg()
        };
        let mut charts = Vec::new();
        let distance = [lines(&|r| r.entropy, "entropy "), lines(&|r| r.from_final.kl, "KL ")].concat();
        charts.push(chart("How far from the end".into(), "nats", distance));
        let asked = self.asked();
        if asked.is_empty() {
            let winner = self.table.last[row].top[0].id;
            let p = |r: &Reading| r.top.iter().find(|t| t.id == winner).map_or(f64::NAN, |t| t.logprob.exp());
            let title = format!("Probability of “{}”, the model's choice", self.words.shown(winner));
            charts.push(chart(title, "probability, where it is among the likeliest", lines(&p, "")));
        } else {
            let series = |kind: fn(&meden_lens::probability::TokenStanding) -> f64| -> Vec<Series> {
                let each = asked.iter().enumerate();
                each.flat_map(|(i, word)| lines(&|r| kind(&r.tokens[i]), &format!("{word} "))).collect()
            };
            charts.push(chart("Log-probability of the tokens asked about".into(), "nats", series(|t| t.logprob)));
            charts.push(chart("Their ranks".into(), "log10 of the rank", series(|t| (t.rank as f64).log10())));
        }
        charts
    }

    fn data(&self) -> serde_json::Value {
        let reading = |r: &Reading| {
            json!({
                "top": r.top.iter().map(|t| json!([self.words.shown(t.id), t.logprob])).collect::<Vec<_>>(),
                "asked": r.tokens.iter().map(|t| json!([t.rank, t.logprob])).collect::<Vec<_>>(),
                "entropy": r.entropy, "kl": r.from_final.kl, "js": r.from_final.js,
            })
        };
        let rows = self.downwards().map(|(_, readings)| readings.iter().map(reading).collect::<Vec<_>>());
        json!({
            "places": self.downwards().map(|(place, _)| place.to_string()).collect::<Vec<_>>(),
            "positions": self.table.rows.iter().map(|r| r.position).collect::<Vec<_>>(),
            "tokens": self.table.rows.iter().map(|r| self.words.shown(r.id)).collect::<Vec<_>>(),
            "asked": self.asked(),
            "rows": rows.collect::<Vec<_>>(),
        })
    }
}
