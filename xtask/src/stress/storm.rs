//! `storm` and `kills`: guests that verify their memory while host operations are done to it at random; in `kills` they are
//! also killed and started again.

use super::Bench;
use super::plan::{Finished, Judgement, Plan};

/// Storm operations beside guests that are killed: never all done.
const ENDLESS: &str = "1000000000";
/// Operations that content a guest that is not killed.
const FEW: u64 = 300;
/// Operations, and kills of each guest, if the command line does not say.
const OPERATIONS: u64 = 1_000_000;
const KILLS: u64 = 200;
/// The same of the short form.
const QUICK_OPERATIONS: u64 = 20_000;
const QUICK_KILLS: u64 = 10;
/// RAM of a guest.
const MEMORY: &str = "16M";

/// A guest in a storm.
pub(super) fn storm(bench: &Bench<'_>) -> Plan {
    let count = bench.args.count.unwrap_or(if bench.args.quick { QUICK_OPERATIONS } else { OPERATIONS });
    let mut arguments = guests(bench, count);
    arguments.extend(["--oracle", "--storm", ENDLESS].map(str::to_owned));
    // Five times what Bochs took for as much on one slow CPU, and five minutes.
    Plan {
        label: "storm".into(),
        arguments,
        clones: Vec::new(),
        steps: Vec::new(),
        timeout: 300 + count / 100,
        judge: Box::new(judge),
    }
}

/// Two guests that are killed.
pub(super) fn kills(bench: &Bench<'_>) -> Plan {
    let count = bench.args.count.unwrap_or(if bench.args.quick { QUICK_KILLS } else { KILLS });
    let mut arguments = guests(bench, FEW);
    let kills = count.to_string();
    arguments
        .extend(["--vms", "2", "--log", "info", "--kills", &kills, "--storm", ENDLESS].map(str::to_owned));
    Plan {
        label: "kills".into(),
        arguments,
        clones: Vec::new(),
        steps: Vec::new(),
        timeout: 300 + count.saturating_mul(5),
        judge: Box::new(judge),
    }
}

fn guests(bench: &Bench<'_>, operations: u64) -> Vec<String> {
    let mut arguments = bench.machine("1G", 2, None);
    let vcpus = bench.args.vcpus.unwrap_or(2).to_string();
    let kernel = bench.testguest.display().to_string();
    let append = format!("storm operations={operations}");
    let words = ["--kernel", &kernel, "--memory", MEMORY, "--vcpus", &vcpus, "--append", &append];
    arguments.extend(words.map(str::to_owned));
    arguments
}

fn judge(run: &Finished) -> Judgement {
    let mut judgement = Judgement::expecting(0, run);
    judgement.at_least(
        "guests that are content at the end",
        run.console.matches("storm: ok").count() as u64,
        run.history.names().len() as u64,
    );
    judgement.figure("checks of the oracle", run.history.sum(|record| record.oracle_checks) as f64, "");
    judgement
}
