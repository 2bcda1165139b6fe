//! A chart as an SVG picture: a frame, a grid, lines, and their names at the right.

use super::chart::{Chart, Line};
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 740.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 212.0;
/// Between two names.
const NAME: f64 = 16.0;
/// Lines of a grid, about.
const GRID: f64 = 5.0;
/// Told apart by most eyes, on light and on dark ground; the first eight are Okabe's and Ito's, but for their black.
const COLOURS: [&str; 12] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b5a800", "#808080", "#7a5fd0",
    "#a0522d", "#4c9a2a", "#e0457b",
];

/// Draws it.
pub(super) fn draw(chart: &Chart) -> String {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let end = points().map(|&(at, _)| at).fold(0.0, f64::max).max(1e-3);
    let most = points().map(|&(_, value)| value).fold(0.0, f64::max).max(1e-9);
    let (step_x, step_y) = (nice(end / GRID * 0.75), nice(most / GRID));
    let top = (most / step_y).ceil() * step_y;
    let place =
        |(at, value): (f64, f64)| (LEFT + (RIGHT - LEFT) * at / end, BOTTOM - (BOTTOM - TOP) * value / top);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\" fill=\"#333\" role=\"img\" aria-label=\"{title}\">\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{title}\
         <tspan font-size=\"11\" font-weight=\"normal\" dx=\"8\">{unit}</tspan></text>\n",
        title = escape(chart.title),
        unit = escape(chart.unit),
    );
    for value in steps(top, step_y) {
        let (_, y) = place((0.0, value));
        rule(&mut svg, (LEFT, y), (RIGHT, y));
        label(&mut svg, (LEFT - 6.0, y + 4.0), "end", &number(value));
    }
    for at in steps(end, step_x) {
        let (x, _) = place((at, 0.0));
        rule(&mut svg, (x, TOP), (x, BOTTOM));
        label(&mut svg, (x, BOTTOM + 15.0), "middle", &number(at));
    }
    label(&mut svg, ((LEFT + RIGHT) / 2.0, BOTTOM + 31.0), "middle", "seconds of the machine");
    for (index, line) in chart.lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        draw_line(&mut svg, line, colour, place);
        let y = TOP + 8.0 + NAME * index as f64;
        let _ =
            writeln!(svg, "<path d=\"M{} {y}h18\" stroke=\"{colour}\" stroke-width=\"2.5\"/>", RIGHT + 14.0);
        label(&mut svg, (RIGHT + 38.0, y + 4.0), "start", &line.name);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_line(svg: &mut String, line: &Line, colour: &str, place: impl Fn((f64, f64)) -> (f64, f64)) {
    let points = line.points.iter().fold(String::new(), |mut text, &point| {
        let (x, y) = place(point);
        let _ = write!(text, "{x:.1},{y:.1} ");
        text
    });
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" stroke-linejoin=\"round\"/>",
        points.trim_end()
    );
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<path class=\"rule\" d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"#ddd\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn label(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
        at.0,
        at.1,
        escape(text)
    );
}

/// The next of 1, 2, 5, 10, 20, ... from `least` on.
fn nice(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * power >= least * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * power
}

fn steps(end: f64, step: f64) -> impl Iterator<Item = f64> {
    (0..=(end / step + 1e-9).floor() as u32).map(move |index| f64::from(index) * step)
}

/// A number on an axis, short.
pub(super) fn number(value: f64) -> String {
    let (value, unit) = match value {
        _ if value >= 1e6 => (value / 1e6, "M"),
        _ if value >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

/// Text as HTML and SVG have it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{draw, nice, number, steps};
    use crate::stress::chart::{Chart, Line};

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!([0.9, 1.0, 1.1, 3.0, 51.0, 0.03].map(nice), [1.0, 1.0, 2.0, 5.0, 100.0, 0.05]);
        assert_eq!(steps(6.0, 2.0).collect::<Vec<_>>(), [0.0, 2.0, 4.0, 6.0]);
        assert_eq!([0.0, 0.5, 9000.0, 15000.0, 2.5e7].map(number), ["0", "0.5", "9000", "15k", "25M"]);
    }

    #[test]
    fn a_picture_stays_within_its_frame() {
        let line = Line { name: "a<b".into(), points: vec![(0.0, 0.0), (10.0, 7.0)] };
        let svg = draw(&Chart { title: "t", unit: "u", lines: vec![line] });
        assert!(svg.contains("points=\"64.0,212.0 740.0,58.0\""), "{svg}");
        assert!(svg.contains("a&lt;b") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_at_all_can_be_drawn() {
        assert!(draw(&Chart { title: "t", unit: "u", lines: Vec::new() }).ends_with("</svg>\n"));
    }
}
