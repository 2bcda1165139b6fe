//! What the guest says about each event, and the variants in which it says so.

use std::collections::BTreeMap;

/// How guest memory is translated, and in pages of which size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in super::super) enum Variant {
    /// EPT, pages of 4 KiB.
    Ept,
    /// EPT, pages of 2 MiB.
    Huge,
    /// Shadow page tables.
    Shadow,
    /// Shadow page tables, pages of 2 MiB.
    HugeShadow,
}

impl Variant {
    pub(in super::super) const ALL: [Self; 4] = [Self::Ept, Self::Huge, Self::Shadow, Self::HugeShadow];

    pub(in super::super) const fn name(self) -> &'static str {
        match self {
            Self::Ept => "ept",
            Self::Huge => "huge",
            Self::Shadow => "shadow",
            Self::HugeShadow => "huge-shadow",
        }
    }

    pub(in super::super) const fn title(self) -> &'static str {
        match self {
            Self::Ept => "EPT, pages of 4 KiB",
            Self::Huge => "EPT, pages of 2 MiB",
            Self::Shadow => "shadow page tables (KVM: ept=0)",
            Self::HugeShadow => "shadow page tables (KVM: ept=0), pages of 2 MiB",
        }
    }

    pub(in super::super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| variant.name() == name)
    }

    /// For KVM's module.
    pub(in super::super) const fn kvm_module(self) -> &'static str {
        match self {
            Self::Ept | Self::Huge => "ept=1",
            Self::Shadow | Self::HugeShadow => "ept=0",
        }
    }

    /// For `run`.
    pub(in super::super) const fn herald(self) -> &'static [&'static str] {
        match self {
            Self::Ept | Self::Huge => &["--paging", "ept"],
            Self::Shadow | Self::HugeShadow => &["--paging", "shadow"],
        }
    }

    /// For the guest.
    pub(in super::super) fn command_line(self, pages: u64) -> String {
        match self {
            Self::Ept | Self::Shadow => format!("versus pages={pages}"),
            Self::Huge | Self::HugeShadow => format!("versus pages={pages} huge=1"),
        }
    }
}

/// What one event has cost, in all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cost {
    pub(super) ticks: u64,
    pub(super) pages: u64,
    pub(super) exits: u64,
    pub(super) flushes: u64,
}

impl Cost {
    /// A page's share.
    fn share(&self, of: u64) -> f64 {
        of as f64 / self.pages.max(1) as f64
    }

    pub(super) fn ticks_a_page(&self) -> f64 {
        self.share(self.ticks)
    }

    pub(super) fn exits_a_page(&self) -> f64 {
        self.share(self.exits)
    }

    pub(super) fn flushes_a_page(&self) -> f64 {
        self.share(self.flushes)
    }
}

/// What a guest has said, in the order in which it did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Figures {
    rows: BTreeMap<Variant, Vec<(String, Cost)>>,
    /// By which entry it came.
    entry: String,
}

impl Figures {
    /// Takes a line in; whether it was one of the guest's.
    pub(super) fn take(&mut self, variant: Variant, line: &str) -> bool {
        let row = parse(line);
        let entry = line.trim().strip_prefix("entry: ");
        let says_no_more = line.starts_with("now: ") || line.trim() == "versus: ok";
        let is_taken = row.is_some() || entry.is_some() || says_no_more;
        if let Some(entry) = entry {
            entry.clone_into(&mut self.entry);
        }
        self.rows.entry(variant).or_default().extend(row);
        is_taken
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.values().all(Vec::is_empty)
    }

    /// By which entry the guest came, as it says.
    pub(super) fn entry(&self) -> &str {
        &self.entry
    }

    /// What an event has cost, if it was measured.
    pub(super) fn cost(&self, variant: Variant, event: &str) -> Option<&Cost> {
        self.rows.get(&variant)?.iter().find(|(name, _)| name == event).map(|(_, cost)| cost)
    }

    /// All of a variant.
    pub(super) fn of(&self, variant: Variant) -> &[(String, Cost)] {
        self.rows.get(&variant).map_or(&[], Vec::as_slice)
    }
}

/// The event of a line, and a page's ticks.
pub(in super::super) fn ticks_a_page(line: &str) -> Option<(String, u64)> {
    parse(line).map(|(name, cost)| (name, cost.ticks_a_page().round() as u64))
}

/// `row: NAME ticks=T pages=N exits=E flushes=F`.
fn parse(line: &str) -> Option<(String, Cost)> {
    let mut words = line.trim().strip_prefix("row: ")?.split(' ');
    let name = words.next()?.to_owned();
    let mut number = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=')?.parse().ok();
    let (ticks, pages) = (number("ticks")?, number("pages")?);
    Some((name, Cost { ticks, pages, exits: number("exits")?, flushes: number("flushes")? }))
}

#[cfg(test)]
mod tests {
    use super::{Cost, Figures, Variant, parse};

    #[test]
    fn a_line_has_four_numbers() {
        let cost = Cost { ticks: 12, pages: 4, exits: 2, flushes: 1 };
        assert_eq!(parse("row: fork ticks=12 pages=4 exits=2 flushes=1\r"), Some(("fork".into(), cost)));
        assert!(parse("row: fork ticks=12 pages=4 exits=2").is_none());
        assert!(parse("cost: fork 12").is_none());
        assert!((cost.ticks_a_page(), cost.exits_a_page(), cost.flushes_a_page()) == (3.0, 0.5, 0.25));
    }

    #[test]
    fn figures_belong_to_a_variant() {
        let mut figures = Figures::default();
        assert!(figures.is_empty());
        assert!(figures.take(Variant::Ept, "row: fork ticks=12 pages=4 exits=2 flushes=1"));
        assert!(figures.take(Variant::Ept, "now: merge") && figures.take(Variant::Ept, "versus: ok"));
        assert!(!figures.take(Variant::Shadow, "insmod: no such file"));
        assert!(figures.take(Variant::Ept, "entry: 64-bit\r") && figures.entry() == "64-bit");
        assert_eq!(figures.cost(Variant::Ept, "fork").map(|cost| cost.ticks), Some(12));
        assert!(figures.cost(Variant::Shadow, "fork").is_none() && !figures.is_empty());
    }

    #[test]
    fn variants_have_names() {
        Variant::ALL.iter().for_each(|variant| assert_eq!(Variant::of(variant.name()), Some(*variant)));
    }
}
