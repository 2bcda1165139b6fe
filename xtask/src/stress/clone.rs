//! `clone`: one warm Linux guest, and its clones, of which each does some work and answers on its own console. Counted are the
//! memory of an idle clone, the ticks that the parent stands still, and those until a clone can go on.

use super::Bench;
use super::plan::{Finished, Judgement, Plan, Step};

const HOST: &str = "512M";
const QUICK_HOST: &str = "128M";
const MEMORY: &str = "64M";
const CLONES: u64 = 100;
const QUICK_CLONES: u64 = 6;
/// The name of a guest that has none of its own.
const PARENT: &str = "tiny";
const PROMPT: &str = "herald:/# ";
/// Words in a file, so that clones have something that they must find again; the answer differs from its echo.
const WARMS: &str = "seq 1 200000 >/tmp/work; md5sum /tmp/work >/tmp/sum; echo warm $((1 + 1))\n";
const WARM: &str = "warm 2";
/// Of the console: one more clone of the guest with the focus; the focus to the next guest.
const CLONE: &str = "\u{1c}+";
const NEXT: &str = "\u{1c}n";
/// Most pages that clones which have done some work cost on average: 8 MiB.
const MOST: u64 = 2048;
/// Wall seconds: some for each clone.
const TIMEOUT: u64 = 300;
const TIMEOUT_EACH: u64 = 20;

/// The guest.
pub(super) fn plan(bench: &Bench<'_>) -> Plan {
    let (clones, host) = if bench.args.quick { (QUICK_CLONES, QUICK_HOST) } else { (CLONES, HOST) };
    let clones = bench.args.count.unwrap_or(clones);
    let mut arguments = bench.machine(host, 1, None);
    // With many guests many records are much to send.
    arguments.extend(["--memory", MEMORY, "--log", "info", "--telemetry-rate", "2"].map(str::to_owned));
    Plan {
        label: "clone".into(),
        arguments,
        clones: (1..=clones).map(clone).collect(),
        steps: steps(clones),
        timeout: TIMEOUT + TIMEOUT_EACH * clones,
        judge: Box::new(move |run| judge(run, clones)),
    }
}

fn clone(number: u64) -> String {
    format!("{PARENT}.{number}")
}

/// What the clone of this number is to do, and what it says then.
fn work(number: u64) -> String {
    format!("{NEXT}md5sum -c /tmp/sum && seq 1 {number}00 >/tmp/own && echo $(wc -l </tmp/own) of its own\n")
}

fn answer(number: u64) -> String {
    format!("[{}] {number}00 of its own", clone(number))
}

/// The parent gets warm; its clones come; each is asked in turn; all are sent home.
fn steps(clones: u64) -> Vec<Step> {
    let born = |number| format!("{} is a clone of", clone(number));
    let mut steps = vec![Step::new(PROMPT, WARMS), Step::new(WARM, CLONE)];
    steps.extend((1..clones).map(|number| Step::new(born(number), CLONE)));
    steps.push(Step::new(born(clones), work(1)));
    steps.extend((1..clones).map(|number| Step::new(answer(number), work(number + 1))));
    // The last one has the focus; each that goes hands it on.
    let home = |wait: &str| Step::new(wait, "poweroff -f\n");
    steps.push(home(&answer(clones)));
    steps.extend((0..clones).map(|_| home("powered off")));
    steps
}

fn judge(run: &Finished, clones: u64) -> Judgement {
    let mut judgement = Judgement::expecting(0, run);
    let found = (1..=clones).filter(|&number| run.console.contains(&answer(number))).count() as u64;
    judgement.at_least("clones that have done their work", found, clones);
    let count = clones as usize;
    let mark = |step: usize| run.marks.get(step).copied();
    let (Some(warm), Some(born), Some(worked)) = (mark(1), mark(count + 1), mark(2 * count + 1)) else {
        judgement.check("all clones came to their ends", false);
        return judgement;
    };
    let free = |at| run.history.value(0, at, |record| record.free_frames);
    let cost = |at| free(warm).saturating_sub(free(at)) / clones;
    judgement.figure(
        "memory of a clone that has done nothing yet, on average",
        cost(born) as f64 * 4.0,
        "KiB",
    );
    judgement.figure("memory of a clone that has worked, on average", cost(worked) as f64 * 4.0, "KiB");
    judgement.at_most("pages of a clone that has worked, on average", cost(worked), MOST);
    let lasts = || (1..=count).filter_map(|guest| run.history.last(guest)).map(|sample| &sample.record);
    let mean = |total: u64| total as f64 / clones as f64;
    let pauses = || lasts().map(|record| record.clone_pause_ticks);
    judgement.figure("ticks that the parent stands still, on average", mean(pauses().sum()), "");
    judgement.figure("the same, at most", pauses().max().unwrap_or(0) as f64, "");
    let ready = lasts().map(|record| record.clone_ready_ticks);
    judgement.figure("ticks from the call until a clone can go on, on average", mean(ready.sum()), "");
    judgement
}
