//! The page: one file that needs nothing else. A row of bars for each event, on the scale of what KVM takes: its bar always ends
//! at 1.
//!
//! ```text
//!   refault, random   ████████████████████████│ KVM 2,873
//!                     ██████████   ▏aim       │ Herald 1,275 (0.44)
//! ```

use super::compare::Pair;
use super::events::Contents;
use super::report::{Report, few, has_contents, ticks};
use super::rows::Variant;
use crate::stress::page::STYLE;
use crate::stress::svg::escape;
use std::fmt::Write;

/// For a row of bars.
const HEIGHT: f64 = 38.0;
const BAR: f64 = 11.0;
/// Where bars begin, where KVM's end, and the end of the picture.
const LEFT: f64 = 290.0;
const ONE: f64 = 590.0;
const WIDTH: f64 = 900.0;
/// Longest bar, in KVM's: a longer one is cut off and marked.
const MOST: f64 = 1.55;
const AIM_WIDTH: f64 = 2.5;
/// Room for a bar's figures.
const LABEL: f64 = 100.0;
const KVM: &str = "#999";
const BETTER: &str = "#0072b2";
const WORSE: &str = "#d55e00";
const AIM: &str = "#009e73";

/// Writes it.
pub(super) fn html(report: &Report) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Herald beside KVM</title>\n\
         <style>{STYLE}</style></head><body>\n<h1>Herald beside Linux KVM</h1>\n<p class=\"faint\"><code>{}</code><br>\
         The same guest on the same emulated processor, one tick an instruction: ticks a page of 4 KiB. A bar's length is its \
         part of what KVM takes. <span style=\"color:{BETTER}\">■</span> Herald takes less, \
         <span style=\"color:{WORSE}\">■</span> more, <span style=\"color:{KVM}\">■</span> KVM, \
         <span style=\"color:{AIM}\">|</span> Herald's aim.</p>\n",
        escape(&report.command),
    );
    for (variant, pairs) in &report.variants {
        let _ = writeln!(html, "<h2>{}</h2>", escape(variant.title()));
        html.push_str(&bars(*variant, pairs));
        html.push_str(&contents(report, pairs));
        html.push_str(&figures(pairs));
    }
    html.push_str("<h2>Of what this is</h2>\n<table>\n");
    for (name, version) in &report.versions {
        let _ = writeln!(html, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(version));
    }
    let _ = writeln!(html, "</table>\n<p>{}</p>", escape(report.repeats().trim_end()).replace('\n', "<br>"));
    html.push_str("</body></html>\n");
    html
}

/// The picture.
fn bars(variant: Variant, pairs: &[Pair]) -> String {
    let height = HEIGHT * pairs.len() as f64 + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#333\" role=\"img\" aria-label=\"{}\">\n",
        escape(variant.title()),
    );
    let _ = writeln!(svg, "<path class=\"rule\" d=\"M{ONE} 0V{height}\" stroke=\"#ddd\"/>");
    for (index, pair) in pairs.iter().enumerate() {
        row(&mut svg, pair, 6.0 + HEIGHT * index as f64);
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, pair: &Pair, y: f64) {
    let ratio = pair.ratio();
    let place = |part: f64| LEFT + (ONE - LEFT) * part.min(MOST);
    let (second, colour) = (y + BAR + 2.0, if ratio <= 1.0 { BETTER } else { WORSE });
    text(svg, (LEFT - 10.0, y + BAR + 5.0), "end", pair.event.title);
    for (y, end, colour) in [(y, ONE, KVM), (second, place(ratio), colour)] {
        let width = (end - LEFT).max(1.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>"
        );
    }
    if ratio > MOST {
        text(svg, (place(MOST) - 4.0, second + BAR - 1.5), "end", "»");
    }
    let mut end = place(ratio);
    if let Some(aim) = pair.event.aim {
        let x = place(f64::from(aim) / pair.kvm.ticks_a_page().max(f64::MIN_POSITIVE));
        end = end.max(x + AIM_WIDTH);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {:.1}v{:.1}\" stroke=\"{AIM}\" stroke-width=\"{AIM_WIDTH}\"/>",
            second - 1.0,
            BAR + 2.0
        );
    }
    text(svg, (ONE + 6.0, y + BAR - 1.0), "start", &format!("KVM {}", ticks(pair.kvm.ticks_a_page())));
    let herald = format!("{} ({ratio:.2})", ticks(pair.herald.ticks_a_page()));
    // Behind the bar and the aim, and not across the line at 1.
    let x = if end + LABEL > ONE { end.max(ONE) } else { end };
    text(svg, (x + 6.0, second + BAR - 1.0), "start", &herald);
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    let (x, y) = at;
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(text));
}

/// What is left without the work on contents.
fn contents(report: &Report, pairs: &[Pair]) -> String {
    if !has_contents(pairs) {
        return String::new();
    }
    let mut html = format!(
        "<p>Without zeroing and copying (KVM: {}; Herald: {}):</p>\n<table>\n<tr><td></td><td class=\"value\">KVM</td>\
         <td class=\"value\">Herald</td></tr>\n",
        report.linux.words(),
        Contents::Words.words(),
    );
    for pair in pairs {
        let Some((kvm, herald)) = pair.without(report.linux) else { continue };
        cells(&mut html, pair.event.title, &[ticks(kvm), ticks(herald)]);
    }
    html.push_str("</table>\n");
    html
}

/// Exits and flushes.
fn figures(pairs: &[Pair]) -> String {
    let mut html = "<details><summary>Exits and flushes a page</summary>\n<table>\n".to_owned();
    cells(&mut html, "", &["exits: KVM", "Herald", "flushes: KVM", "Herald"].map(str::to_owned));
    for pair in pairs {
        let (kvm, herald) = (&pair.kvm, &pair.herald);
        let exits = [kvm.exits_a_page(), herald.exits_a_page()];
        let numbers = [exits, [kvm.flushes_a_page(), herald.flushes_a_page()]].concat();
        let numbers: Vec<String> = numbers.into_iter().map(few).collect();
        cells(&mut html, pair.event.title, &numbers);
    }
    html.push_str("</table></details>\n");
    html
}

fn cells(html: &mut String, title: &str, numbers: &[String]) {
    let _ = write!(html, "<tr><td>{}</td>", escape(title));
    for number in numbers {
        let _ = write!(html, "<td class=\"value\">{}</td>", escape(number));
    }
    html.push_str("</tr>\n");
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::html;

    #[test]
    fn each_event_has_two_bars_and_its_aim() {
        let page = html(&report(None));
        assert_eq!(page.matches("<rect ").count(), 4);
        // Herald's first touch takes 0.353 of KVM's; a tenth is aimed at for discards.
        assert!(page.contains("width=\"105.9\"") && page.contains("width=\"30.0\""), "{page}");
        assert!(page.contains("2400 (0.35)") && page.contains("KVM 6800"));
        assert!(page.contains("one run of each side") && page.ends_with("</html>\n"));
    }
}
