//! The HTML page of a stress program: one file that needs nothing else.

use super::chart::Chart;
use super::plan::Judgement;
use super::svg::{self, escape};
use std::fmt::Write;

/// How pages look.
pub(crate) const STYLE: &str = "
:root { color-scheme: light dark; --ground: #fff; --ink: #222; --faint: #667; --rule: #ddd; --well: #080; --bad: #c00 }
@media (prefers-color-scheme: dark) {
  :root { --ground: #181a1e; --ink: #ddd; --faint: #99a; --rule: #3a3d44; --well: #6c6; --bad: #f66 }
}
body { font: 15px/1.45 sans-serif; max-width: 940px; margin: 2em auto; padding: 0 1em; background: var(--ground);
  color: var(--ink) }
h1 { font-size: 1.5em; margin-bottom: 0 } h2 { font-size: 1.15em; margin-top: 1.6em }
.well { color: var(--well) } .bad { color: var(--bad) } .faint { color: var(--faint) }
table { border-collapse: collapse } td { padding: .15em 1.2em .15em 0; border-bottom: 1px solid var(--rule) }
td.value { text-align: right; font-variant-numeric: tabular-nums }
code { font-size: .92em; overflow-wrap: anywhere }
svg { width: 100%; height: auto; margin: .4em 0 } svg text { fill: var(--ink) } svg .rule { stroke: var(--rule) }
";

/// One run on it.
pub(super) struct Section {
    pub(super) label: String,
    pub(super) command: String,
    /// How long it took.
    pub(super) summary: String,
    pub(super) charts: Vec<Chart>,
}

/// What stands on it.
pub(super) struct Page<'a> {
    pub(super) name: &'a str,
    pub(super) judgement: &'a Judgement,
    pub(super) sections: &'a [Section],
}

impl Page<'_> {
    /// Writes it.
    pub(super) fn html(&self) -> String {
        let (class, verdict) = if self.judgement.passed() { ("well", "passed") } else { ("bad", "FAILED") };
        let name = escape(self.name);
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Herald: stress {name}</title>\n\
             <style>{STYLE}</style></head><body>\n<h1>stress {name}: <span class=\"{class}\">{verdict}</span></h1>\n",
        );
        html.push_str(&self.tables());
        self.sections.iter().for_each(|section| html.push_str(&section.html()));
        html.push_str("</body></html>\n");
        html
    }

    fn tables(&self) -> String {
        let mut html = "<h2>What had to be true</h2>\n<table>\n".to_owned();
        for check in &self.judgement.checks {
            let (class, sign) = if check.passed { ("well", "✓") } else { ("bad", "✗") };
            let what = escape(&check.what);
            let _ = writeln!(html, "<tr><td class=\"{class}\">{sign}</td><td>{what}</td></tr>");
        }
        html.push_str("</table>\n");
        if self.judgement.figures.is_empty() {
            return html;
        }
        html.push_str("<h2>What was measured</h2>\n<table>\n");
        for figure in &self.judgement.figures {
            let (name, unit) = (escape(&figure.name), escape(figure.unit));
            let value = svg::number(figure.value);
            let _ = writeln!(html, "<tr><td>{name}</td><td class=\"value\">{value}</td><td>{unit}</td></tr>");
        }
        html.push_str("</table>\n");
        html
    }
}

impl Section {
    fn html(&self) -> String {
        let heading = format!(
            "<h2>{} over time</h2>\n<p class=\"faint\">{}<br><code>{}</code></p>\n",
            escape(&self.label),
            escape(&self.summary),
            escape(&self.command),
        );
        self.charts.iter().fold(heading, |html, chart| html + &svg::draw(chart))
    }
}
