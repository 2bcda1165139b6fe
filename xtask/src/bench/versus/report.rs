//! The report: tables on the terminal, JSON, and the page.

use super::super::markdown;
use super::compare::{Difference, Pair};
use super::events::{Contents, Work, widest};
use super::page;
use super::rows::{Cost, Variant};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// What was measured, on what.
pub(super) struct Report {
    /// The day, and the versions of all that took part.
    pub(super) versions: Vec<(&'static str, String)>,
    pub(super) command: String,
    pub(super) pages: u64,
    /// How Linux works on pages' contents.
    pub(super) linux: Contents,
    pub(super) variants: Vec<(Variant, Vec<Pair>)>,
    /// Of two runs; `None`: there was one.
    pub(super) differences: Option<Vec<Difference>>,
}

impl Report {
    /// All of it as text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (variant, pairs) in &self.variants {
            text.push_str(&table(*variant, pairs));
            text.push_str(&self.without_contents(pairs));
        }
        text.push('\n');
        for (name, version) in &self.versions {
            let _ = writeln!(text, "{name:<8} {version}");
        }
        let _ = writeln!(text, "{:<8} {} of 4 KiB for each event", "pages", self.pages);
        text + &self.repeats()
    }

    /// What is left where the work on contents is taken off.
    fn without_contents(&self, pairs: &[Pair]) -> String {
        let (mut text, title) = (String::new(), widest());
        for pair in pairs {
            let Some((kvm, herald)) = pair.without(self.linux) else { continue };
            if text.is_empty() {
                let words = (self.linux.words(), Contents::Words.words());
                let _ =
                    writeln!(text, "  without zeroing and copying (KVM: {}; Herald: {})", words.0, words.1);
            }
            let part = herald / kvm.max(f64::MIN_POSITIVE);
            let _ = writeln!(
                text,
                "  {:<title$}{:>10}{:>10}{part:>8.2}",
                pair.event.title,
                ticks(kvm),
                ticks(herald)
            );
        }
        text
    }

    /// Whether it is the same each time.
    pub(super) fn repeats(&self) -> String {
        match self.differences.as_deref() {
            None => "one run of each side\n".to_owned(),
            Some([]) => "two runs of each side: no event differs by more than 1 %\n".to_owned(),
            Some(differences) => {
                let mut text = "two runs of each side; these events differ by more than 1 %:\n".to_owned();
                for Difference { side, variant, event, part } in differences {
                    let _ = writeln!(text, "  {side}, {}: {event}, {:.1} %", variant.name(), part * 100.0);
                }
                text
            }
        }
    }

    /// All of it as JSON.
    pub(super) fn json(&self) -> Value {
        let variant = |(variant, pairs): &(Variant, Vec<Pair>)| {
            let events: Vec<Value> = pairs.iter().map(|pair| self.pair(pair)).collect();
            (variant.name().to_owned(), Value::from(events))
        };
        let versions = self.versions.iter().map(|(name, text)| ((*name).to_owned(), json!(text)));
        let difference = |difference: &Difference| {
            json!({
                "side": difference.side,
                "variant": difference.variant.name(),
                "event": difference.event,
                "part": difference.part,
            })
        };
        let differences = self.differences.as_ref().map(|all| all.iter().map(difference).collect::<Vec<_>>());
        json!({
            "command": self.command,
            "versions": versions.collect::<serde_json::Map<_, _>>(),
            "pages": self.pages,
            "variants": self.variants.iter().map(variant).collect::<serde_json::Map<_, _>>(),
            "differences": differences,
        })
    }

    fn pair(&self, pair: &Pair) -> Value {
        let side = |cost: &Cost, contents: Contents| {
            json!({
                "ticks": cost.ticks_a_page(),
                "contents_ticks": contents.ticks(pair.event.work),
                "exits": cost.exits_a_page(),
                "flushes": cost.flushes_a_page(),
                "pages": cost.pages,
            })
        };
        json!({
            "event": pair.event.name,
            "title": pair.event.title,
            "kvm": side(&pair.kvm, self.linux),
            "herald": side(&pair.herald, Contents::Words),
            "ratio": pair.ratio(),
            "aim": pair.event.aim,
        })
    }

    /// All of it as tables of a paper.
    pub(super) fn markdown(&self) -> String {
        let pages = ("pages", format!("{} for each event", markdown::grouped(self.pages)));
        let versions: Vec<_> = self.versions.iter().cloned().chain([pages]).collect();
        let mut text = markdown::origin(&self.command, &versions) + &self.repeats();
        for (variant, pairs) in &self.variants {
            let _ = write!(text, "\n{}:\n\n", variant.title());
            text.push_str(&sheet(pairs));
            if *variant == Variant::Ept {
                text.push('\n');
                text.push_str(&self.sheet_without_contents(pairs));
            }
        }
        text
    }

    fn sheet_without_contents(&self, pairs: &[Pair]) -> String {
        let heading = ["without zeroing and copying", "KVM", "Herald", "ratio"].map(str::to_owned);
        let row = |pair: &Pair| {
            let (kvm, herald) = pair.without(self.linux)?;
            let ratio = format!("{:.2}", herald / kvm.max(f64::MIN_POSITIVE));
            Some(vec![pair.event.title.to_owned(), markdown::ticks(kvm), markdown::ticks(herald), ratio])
        };
        markdown::table(&heading, pairs.iter().filter_map(row))
    }

    /// Writes the JSON and the page.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn write(&self, json: &Path, html: &Path) -> Result<()> {
        for path in [json, html] {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
            }
        }
        std::fs::write(json, format!("{:#}\n", self.json())).with_context(|| json.display().to_string())?;
        std::fs::write(html, page::html(self)).with_context(|| html.display().to_string())
    }
}

fn table(variant: Variant, pairs: &[Pair]) -> String {
    let (mut text, title) = (format!("\n{}, ticks a page of 4 KiB\n", variant.title()), widest());
    let _ = writeln!(
        text,
        "  {:<title$}{:>10}{:>10}{:>8}{:>8}  {:>10}{:>10}{:>12}{:>10}",
        "", "KVM", "Herald", "ratio", "aim", "exits KVM", "Herald", "flushes KVM", "Herald"
    );
    for pair in pairs {
        let aim = pair.event.aim.map(|aim| aim.to_string()).unwrap_or_default();
        let _ = writeln!(
            text,
            "  {:<title$}{:>10}{:>10}{:>8.2}{aim:>8}  {:>10}{:>10}{:>12}{:>10}",
            pair.event.title,
            ticks(pair.kvm.ticks_a_page()),
            ticks(pair.herald.ticks_a_page()),
            pair.ratio(),
            few(pair.kvm.exits_a_page()),
            few(pair.herald.exits_a_page()),
            few(pair.kvm.flushes_a_page()),
            few(pair.herald.flushes_a_page()),
        );
    }
    text
}

/// A variant's table in a paper; the aims stand in it where there are some.
fn sheet(pairs: &[Pair]) -> String {
    let has_aims = pairs.iter().any(|pair| pair.event.aim.is_some());
    let mut heading = vec!["event", "KVM", "Herald", "ratio"];
    heading.extend(has_aims.then_some("aim"));
    heading.extend(["exits: KVM, Herald", "flushes: KVM, Herald"]);
    let heading: Vec<String> = heading.into_iter().map(str::to_owned).collect();
    let both = |kvm: f64, herald: f64| format!("{}, {}", markdown::share(kvm), markdown::share(herald));
    let row = |pair: &Pair| {
        let Pair { event, kvm, herald } = pair;
        let mut cells = vec![event.title.to_owned()];
        cells.extend([kvm, herald].map(|cost| markdown::ticks(cost.ticks_a_page())));
        cells.push(format!("{:.2}", pair.ratio()));
        let aim = event.aim.map(|aim| markdown::grouped(aim.into())).unwrap_or_default();
        cells.extend(has_aims.then_some(aim));
        cells.push(both(kvm.exits_a_page(), herald.exits_a_page()));
        cells.push(both(kvm.flushes_a_page(), herald.flushes_a_page()));
        cells
    };
    markdown::table(&heading, pairs.iter().map(row))
}

/// Ticks: whole ones, and a digit more where there are few.
pub(super) fn ticks(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Events a page, which are rarely many: `1/4096` says that there was one for all pages.
pub(in super::super) fn few(share: f64) -> String {
    match share {
        0.0 => "0".to_owned(),
        _ if share < 0.01 => format!("1/{:.0}", 1.0 / share),
        _ => format!("{share:.2}"),
    }
}

/// Whether anything is done to contents in one of the events.
pub(super) fn has_contents(pairs: &[Pair]) -> bool {
    pairs.iter().any(|pair| pair.event.work != Work::None)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::compare::{Difference, pairs};
    use super::super::events::Contents;
    use super::super::rows::{Figures, Variant};
    use super::{Report, few, ticks};

    /// A report of two events.
    pub(in super::super) fn report(differences: Option<Vec<Difference>>) -> Report {
        let figures = |lines: [&str; 2]| {
            let mut figures = Figures::default();
            lines.iter().for_each(|line| assert!(figures.take(Variant::Ept, line)));
            figures
        };
        let kvm = figures([
            "row: first-touch ticks=68000 pages=10 exits=11 flushes=2",
            "row: discard ticks=14000 pages=10 exits=1 flushes=1",
        ]);
        let herald = figures([
            "row: first-touch ticks=24000 pages=10 exits=10 flushes=0",
            "row: discard ticks=1400 pages=10 exits=1 flushes=1",
        ]);
        Report {
            versions: vec![("Linux", "6.1".into())],
            command: "cargo xtask bench --vs kvm".into(),
            pages: 10,
            linux: Contents::Loops,
            variants: vec![(Variant::Ept, pairs(&kvm, &herald, Variant::Ept))],
            differences,
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([12.345, 1234.5].map(ticks), ["12.3", "1234"]);
        assert_eq!([0.0, 1.0 / 4096.0, 0.25, 1.0].map(few), ["0", "1/4096", "0.25", "1.00"]);
    }

    #[test]
    fn the_text_has_both_sides_and_their_ratio() {
        let text = report(None).text();
        let words = |title: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.contains(title)).expect("a line");
            line.trim_start().trim_start_matches(title).split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(
            words("first touch, in order"),
            ["6800", "2400", "0.35", "1000", "1.10", "1.00", "0.20", "0"]
        );
        assert_eq!(
            words("madvise(DONTNEED)"),
            ["1400", "140", "0.10", "145", "0.10", "0.10", "0.10", "0.10"]
        );
        assert!(text.contains("without zeroing") && text.contains("one run of each side"));
    }

    #[test]
    fn a_paper_has_the_same_tables() {
        let text = report(None).markdown();
        assert!(
            text.starts_with("By `cargo xtask bench --vs kvm`. Linux 6.1; pages 10 for each event."),
            "{text}"
        );
        let row = "| first touch, in order | 6,800 | 2,400 | 0.35 | 1,000 | 1.10, 1 | 0.20, 0 |";
        assert!(
            text.contains(row) && text.contains("| first touch, in order | 6,091 | 1,887 | 0.31 |"),
            "{text}"
        );
    }

    #[test]
    fn two_runs_are_compared() {
        assert!(report(Some(Vec::new())).repeats().contains("no event differs"));
        let difference = Difference { side: "KVM", variant: Variant::Ept, event: "fork".into(), part: 0.025 };
        assert!(report(Some(vec![difference])).repeats().contains("KVM, ept: fork, 2.5 %"));
    }

    #[test]
    fn json_has_shares_of_a_page() {
        let json = report(None).json();
        assert_eq!(json.pointer("/variants/ept/0/kvm/ticks"), Some(&6800.0.into()));
        assert_eq!(json.pointer("/variants/ept/0/herald/contents_ticks"), Some(&513.into()));
        assert_eq!(json.pointer("/variants/ept/1/aim"), Some(&145.into()));
    }
}
