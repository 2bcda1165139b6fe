//! `swapstorm`: one guest sweeps over three times the machine's memory, and looks at each word of each page. How much of it is
//! in swap at a time tells that there was no other way.

use super::Bench;
use super::plan::{Finished, Judgement, Plan};

/// RAM of the machine, in MiB.
const HOST: u64 = 96;
const QUICK_HOST: u64 = 64;
/// So many times as much has the guest.
const TIMES: u64 = 3;
/// Words without order are so far apart that compressed memory alone is enough: two of three pages have to go.
const EVERY: u64 = 24;
/// Wall seconds for each round, several times what Bochs takes.
const TIMEOUT: u64 = 900;

/// The guest.
pub(super) fn plan(bench: &Bench<'_>) -> Plan {
    let quick = bench.args.quick;
    let host = if quick { QUICK_HOST } else { HOST };
    let rounds = bench.args.count.unwrap_or(if quick { 1 } else { 2 });
    let tier = format!("ram:{}M", host * 3 / 2);
    let mut arguments = bench.machine(&format!("{host}M"), 1, Some(&tier));
    let memory = format!("{}M", host * TIMES);
    arguments.extend(bench.testguest(&memory, &format!("sweep rounds={rounds} every={EVERY}")));
    let judge = move |run: &Finished| judge(run, host << 8);
    Plan {
        label: "swapstorm".into(),
        arguments,
        clones: Vec::new(),
        steps: Vec::new(),
        timeout: TIMEOUT * (rounds + 1),
        judge: Box::new(judge),
    }
}

fn judge(run: &Finished, host_pages: u64) -> Judgement {
    let mut judgement = Judgement::expecting(0, run);
    judgement.check("no word of any page was wrong", run.console.contains("sweep: ok"));
    let most = run.history.most(0, |record| record.swap.pages);
    judgement.at_least("pages in swap at a time, with twice the machine's memory", most, 2 * host_pages);
    let (out, back) = (run.history.sum(|record| record.swap.out), run.history.sum(|record| record.swap.back));
    judgement.figure("pages swapped out", out as f64, "");
    judgement.figure("pages swapped in", back as f64, "");
    let ticks = run.history.sum(|record| record.memory_ticks);
    let faults = run.history.sum(|record| record.exits.ept_fault);
    judgement.figure("ticks that a fault takes on average", ticks as f64 / faults.max(1) as f64, "");
    judgement
}
