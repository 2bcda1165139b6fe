//! Tables as the papers have them (`--markdown FILE`): what `docs/performance.md` shows is pasted from there.

use super::{Row, Table};
use crate::cli::BenchArgs;
use anyhow::{Context, Result};
use std::fmt::Write;

/// From here on a row is in millions.
const MILLIONS: u64 = 10_000_000;

/// A table with this heading and these rows; what is in the first column are names.
pub(super) fn table(heading: &[String], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| {
        cells.iter().fold("|".to_owned(), |line, cell| {
            if cell.is_empty() { line + " |" } else { format!("{line} {cell} |") }
        }) + "\n"
    };
    let mut text = line(heading) + "|" + &"---|".repeat(heading.len()) + "\n";
    rows.into_iter().for_each(|row| text.push_str(&line(&row)));
    text
}

/// What was asked for, when, and of which Herald.
pub(super) fn origin(command: &str, versions: &[(&'static str, String)]) -> String {
    let versions: Vec<String> = versions.iter().map(|(name, text)| format!("{name} {text}")).collect();
    format!("By `{command}`. {}.\n\n", versions.join("; "))
}

/// A table of whole numbers, as it is printed.
pub(super) fn plain(Table { title, columns, rows }: &Table) -> String {
    let heading = [(*title).to_owned()].into_iter().chain(columns.iter().map(|column| (*column).to_owned()));
    let row = |row: &Row| {
        let (name, numbers) = in_millions(row);
        [name].into_iter().chain(numbers).collect()
    };
    table(&heading.collect::<Vec<_>>(), rows.iter().map(row))
}

/// A row's name and its numbers, in millions where they are many.
pub(super) fn in_millions(row: &Row) -> (String, Vec<String>) {
    if row.values.iter().all(|value| *value >= MILLIONS) {
        let numbers = row.values.iter().map(|value| format!("{:.1}", *value as f64 / 1e6));
        return (format!("{}, in millions", row.name), numbers.collect());
    }
    (row.name.clone(), row.values.iter().map(|value| grouped(*value)).collect())
}

/// Ticks: whole ones, and a digit more where there are few.
pub(super) fn ticks(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.1}") } else { grouped(value.round() as u64) }
}

/// Events a page: `1/4,096` says that there was one for all pages.
pub(super) fn share(value: f64) -> String {
    match value {
        _ if value == value.trunc() => grouped(value as u64),
        _ if value < 0.01 => format!("1/{}", grouped((1.0 / value).round() as u64)),
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 100.0 => format!("{value:.1}"),
        _ => grouped(value.round() as u64),
    }
}

/// With a comma between thousands.
pub(super) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes what was asked for, if it was.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(args: &BenchArgs, text: impl FnOnce() -> String) -> Result<()> {
    let Some(path) = &args.markdown else { return Ok(()) };
    let mut file = text();
    if !file.ends_with('\n') {
        let _ = writeln!(file);
    }
    std::fs::write(path, file).with_context(|| format!("--markdown {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Row, Table, grouped, plain, share, table, ticks};

    #[test]
    fn numbers_are_as_in_the_papers() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([12.345, 1234.5].map(ticks), ["12.3", "1,235"]);
        let shares = [0.0, 1.0 / 4096.0, 0.25, 1.0, 2.003, 18.12, 271.4];
        assert_eq!(shares.map(share), ["0", "1/4,096", "0.25", "1", "2.00", "18.1", "271"]);
    }

    #[test]
    fn a_table_has_a_rule_and_empty_cells() {
        let heading = ["event", "KVM"].map(str::to_owned);
        let text = table(&heading, [vec!["fork".to_owned(), String::new()]]);
        assert_eq!(text, "| event | KVM |\n|---|---|\n| fork | |\n");
    }

    #[test]
    fn large_numbers_are_in_millions() {
        let row = |name: &str, value| Row { name: name.to_owned(), values: vec![value] };
        let rows = vec![row("boot", 68_400_000), row("fork", 98_600)];
        let text = plain(&Table { title: "ticks", columns: vec!["Herald"], rows });
        assert!(text.contains("| boot, in millions | 68.4 |\n| fork | 98,600 |"), "{text}");
    }
}
