//! `bench --vs kvm`: one guest program on Herald and on Linux' KVM, on the same emulated processor.
//!
//! ```text
//!                 ┌─► Bochs ─► Herald ───────────────────► the guest ─► row: ...  ┐
//!   testguest ────┤                                                               ├─► compare ─► text, JSON, page
//!                 └─► Bochs ─► Linux, KVM ─► kvm-vmm ────► the guest ─► row: ...  ┘
//! ```
//!
//! Each side runs twice (`--quick`: once); where two runs of it are more than a hundredth apart, the report says so.

mod compare;
mod events;
mod herald;
mod kvm;
mod linux;
mod page;
mod report;
mod rows;

pub(super) use events::title;
pub(super) use herald::MACHINE;
pub(crate) use kvm::MONITOR_PACKAGES;
pub(super) use kvm::traced as traced_on_kvm;
pub(super) use linux::{VARIANTS as LINUX_VARIANTS, measure as linux_on_kvm, outside as outside_on_kvm};
pub(super) use report::few;
pub(super) use rows::{Variant, ticks_a_page};

use super::{command, guest_file, markdown, versions};
use crate::bochs::model;
use crate::cli::{BenchArgs, Cpu, Rival};
use crate::run::RunDir;
use crate::{setup, workspace};
use anyhow::{Result, ensure};
use compare::{differences, lacking, pairs};
use report::Report;
use rows::Figures;

const PAGES: u64 = 4096;
const FEW_PAGES: u64 = 2048;

/// What one side has said, each time.
struct Runs {
    first: Figures,
    second: Option<Figures>,
}

impl Runs {
    fn differences(&self, side: &'static str) -> Vec<compare::Difference> {
        self.second.as_ref().map(|second| differences(side, &self.first, second)).unwrap_or_default()
    }
}

/// Measures both, prints, and writes JSON and the page.
///
/// # Errors
/// Something is missing and cannot be installed, something cannot be built, or a guest fails.
pub(super) fn run(args: &BenchArgs, rival: Rival) -> Result<u8> {
    let Rival::Kvm = rival;
    ensure!(args.cpu != Cpu::Penryn, "--cpu penryn: it has no EPT, so there is half of the comparison only");
    let pages = if args.quick { FEW_PAGES } else { PAGES };
    let dir = RunDir::create()?;
    let guest = guest_file(dir.path())?;
    let herald = Runs {
        first: herald::measure(&guest, pages, args.cpu)?,
        second: (!args.quick).then(|| herald::measure(&guest, pages, args.cpu)).transpose()?,
    };
    let kvm = kvm::measure(&guest, pages, args.cpu)?;
    let again = (!args.quick).then(|| kvm::measure(&guest, pages, args.cpu)).transpose()?;
    let kvm_runs = Runs { first: kvm.figures, second: again.map(|said| said.figures) };
    let entry = kvm_runs.first.entry().to_owned();
    ensure!(entry == herald.first.entry(), "the guest's entry: {entry} and {}", herald.first.entry());
    for variant in Variant::ALL {
        for (event, side) in lacking(&kvm_runs.first, &herald.first, variant) {
            println!("not compared: {event}, {}: {side} has no figure", variant.name());
        }
    }
    let variants = Variant::ALL.map(|variant| (variant, pairs(&kvm_runs.first, &herald.first, variant)));
    let report = Report {
        versions: versions(&kvm.kernel, &entry, args.cpu)?,
        command: command(args),
        pages,
        linux: kvm.contents,
        variants: variants.into(),
        differences: (!args.quick)
            .then(|| [kvm_runs.differences("KVM"), herald.differences("Herald")].concat()),
    };
    print!("{}", report.text());
    let place = |file: &str| workspace::target().join("bench").join(file);
    let json = args.json.clone().unwrap_or_else(|| place("vs-kvm.json"));
    let html = args.html.clone().unwrap_or_else(|| place("vs-kvm.html"));
    report.write(&json, &html)?;
    markdown::write(args, || report.markdown())?;
    println!("{} and {}", json.display(), html.display());
    Ok(0)
}

/// The day, and who took part.
fn versions(linux: &str, entry: &str, cpu: Cpu) -> Result<Vec<(&'static str, String)>> {
    let bochs = setup::version_of("bochs").unwrap_or_else(|| "of another origin".to_owned());
    let mut versions = versions::own()?;
    versions.extend([
        ("Linux", format!("{linux}: {}", kvm::LINUX)),
        ("Bochs", format!("{bochs}: {}", model(cpu))),
        ("entry", format!("{entry}: the same file on both sides")),
    ]);
    Ok(versions)
}
