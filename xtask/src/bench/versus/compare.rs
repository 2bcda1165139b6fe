//! Both sides of each event, and how far two runs of one side are apart.

use super::events::{self, Contents, Event, Work};
use super::rows::{Cost, Figures, Variant};

/// Two runs that differ by more than this part are told of.
const REPEATABLE: f64 = 0.01;

/// Both sides of one event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) event: Event,
    pub(super) kvm: Cost,
    pub(super) herald: Cost,
}

impl Pair {
    /// Herald's part of what KVM takes.
    pub(super) fn ratio(&self) -> f64 {
        self.herald.ticks_a_page() / self.kvm.ticks_a_page().max(f64::MIN_POSITIVE)
    }

    /// Ticks of KVM and of Herald without the work on contents.
    pub(super) fn without(&self, kvm: Contents) -> Option<(f64, f64)> {
        if self.event.work == Work::None {
            return None;
        }
        let rest = |cost: &Cost, contents: Contents| {
            cost.ticks_a_page() - f64::from(contents.ticks(self.event.work))
        };
        Some((rest(&self.kvm, kvm), rest(&self.herald, Contents::Words)))
    }
}

/// What both have measured of a variant.
pub(super) fn pairs(kvm: &Figures, herald: &Figures, variant: Variant) -> Vec<Pair> {
    let pair = |event: Event| {
        let (kvm, herald) = (kvm.cost(variant, event.name)?, herald.cost(variant, event.name)?);
        Some(Pair { event, kvm: *kvm, herald: *herald })
    };
    events::of(variant).filter_map(pair).collect()
}

/// Events of a variant that only one side has measured, and which side has not.
pub(super) fn lacking(
    kvm: &Figures,
    herald: &Figures,
    variant: Variant,
) -> Vec<(&'static str, &'static str)> {
    let lacks = |event: Event| {
        let has = |figures: &Figures| figures.cost(variant, event.name).is_some();
        match (has(kvm), has(herald)) {
            (true, false) => Some((event.title, "Herald")),
            (false, true) => Some((event.title, "KVM")),
            _ => None,
        }
    };
    events::of(variant).filter_map(lacks).collect()
}

/// Two runs of one side that are not the same.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Difference {
    pub(super) side: &'static str,
    pub(super) variant: Variant,
    pub(super) event: String,
    /// By which part of the first.
    pub(super) part: f64,
}

/// Events whose two runs are further apart than they may be.
pub(super) fn differences(side: &'static str, first: &Figures, second: &Figures) -> Vec<Difference> {
    let mut found = Vec::new();
    for variant in Variant::ALL {
        for (event, cost) in first.of(variant) {
            let Some(other) = second.cost(variant, event) else { continue };
            let part = (other.ticks_a_page() / cost.ticks_a_page().max(f64::MIN_POSITIVE) - 1.0).abs();
            if part > REPEATABLE {
                found.push(Difference { side, variant, event: event.clone(), part });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::events::Contents;
    use super::super::rows::{Figures, Variant};
    use super::{differences, lacking, pairs};

    fn figures(lines: &[&str]) -> Figures {
        let mut figures = Figures::default();
        lines.iter().for_each(|line| assert!(figures.take(Variant::Ept, line), "{line}"));
        figures
    }

    #[test]
    fn what_one_side_lacks_is_not_compared() {
        let kvm = figures(&["row: fork ticks=40 pages=4 exits=1 flushes=1"]);
        let herald = figures(&[
            "row: fork ticks=4 pages=4 exits=1 flushes=1",
            "row: merge ticks=4 pages=4 exits=1 flushes=1",
        ]);
        let found = pairs(&kvm, &herald, Variant::Ept);
        assert_eq!(lacking(&kvm, &herald, Variant::Ept), [("merge of an equal page", "KVM")]);
        assert_eq!(found.len(), 1);
        assert!((found[0].ratio() - 0.1).abs() < 1e-9);
        assert!(found[0].without(Contents::Loops).is_none());
    }

    #[test]
    fn contents_are_told_apart() {
        let kvm = figures(&["row: first-touch ticks=6709 pages=1 exits=1 flushes=0"]);
        let herald = figures(&["row: first-touch ticks=1513 pages=1 exits=1 flushes=0"]);
        let found = pairs(&kvm, &herald, Variant::Ept);
        assert_eq!(found[0].without(Contents::Loops), Some((6000.0, 1000.0)));
    }

    #[test]
    fn runs_may_differ_by_a_hundredth() {
        let first = figures(&[
            "row: fork ticks=1000 pages=1 exits=1 flushes=1",
            "row: merge ticks=1000 pages=1 exits=1 flushes=1",
        ]);
        let second = figures(&[
            "row: fork ticks=1009 pages=1 exits=1 flushes=1",
            "row: merge ticks=980 pages=1 exits=1 flushes=1",
        ]);
        let found = differences("KVM", &first, &second);
        assert_eq!(found.len(), 1);
        assert!(found[0].event == "merge" && (found[0].part - 0.02).abs() < 1e-9);
    }
}
