//! `merge`: equal Linux guests, whose equal pages are merged until there is little more than one guest in memory; then each writes
//! what only it would into a file that all had in common, and finds that, also when merging has gone on for a while. Before,
//! one guest does the same alone: what it takes is what the others are measured by.

use super::Bench;
use super::history::History;
use super::plan::{Finished, Judgement, Plan, Step};
use std::cell::Cell;
use std::rc::Rc;

const HOST: &str = "512M";
const QUICK_HOST: &str = "192M";
const MEMORY: &str = "64M";
const GUESTS: u64 = 10;
const QUICK_GUESTS: u64 = 4;
/// Pages of the file that all have: the beginning of a program that is there anyway.
const PAGES: u64 = 400;
const QUICK_PAGES: u64 = 100;
/// All of one processor that guests leave.
const SHARE: &str = "100";
/// Passes from the moment at which all are the same; from the one at which none is.
const PASSES: u64 = 4;
const MORE_PASSES: u64 = 2;
/// What all guests take in the end, in hundredths of what one takes.
const MOST: u64 = 250;
/// Of a file that is not merged any more, so many hundredths at least are in memory anew.
const PART: u64 = 80;
/// Wall seconds: some for each guest.
const TIMEOUT: u64 = 400;
const TIMEOUT_EACH: u64 = 200;
/// The answers differ from the echoes of what is typed.
const WARM: &str = "warm 42";
const OWN: &str = "own 43";
const STILL: &str = "still 44";

/// A number of guests that do the same.
#[derive(Clone, Copy)]
struct Crowd {
    guests: u64,
    pages: u64,
}

/// One guest alone, then all.
pub(super) fn plans(bench: &Bench<'_>) -> Vec<Plan> {
    let quick = bench.args.quick;
    let (guests, pages) = if quick { (QUICK_GUESTS, QUICK_PAGES) } else { (GUESTS, PAGES) };
    let guests = bench.args.count.map_or(guests, |count| count.clamp(2, 16));
    let one = Rc::new(Cell::new(0));
    let alone = Crowd { guests: 1, pages };
    let all = Crowd { guests, pages };
    let found = Rc::clone(&one);
    vec![
        plan(bench, "one", alone, move |run| {
            let judgement = alone.judge(run);
            found.set(alone.memory_when_merged(run));
            judgement
        }),
        plan(bench, "all", all, move |run| all.judge_beside(run, one.get())),
    ]
}

fn plan(
    bench: &Bench<'_>,
    label: &str,
    crowd: Crowd,
    judge: impl Fn(&Finished) -> Judgement + 'static,
) -> Plan {
    let host = if bench.args.quick { QUICK_HOST } else { HOST };
    let mut arguments = bench.machine(host, 1, None);
    let vms = crowd.guests.to_string();
    let words =
        ["--vms", &vms, "--memory", MEMORY, "--merge", "--merge-share", SHARE, "--telemetry-rate", "2"];
    arguments.extend(words.map(str::to_owned));
    Plan {
        label: label.to_owned(),
        arguments,
        clones: Vec::new(),
        steps: crowd.steps(),
        timeout: TIMEOUT + TIMEOUT_EACH * crowd.guests,
        judge: Box::new(judge),
    }
}

impl Crowd {
    /// What a guest says, as the console has it.
    fn says(self, number: u64, text: &str) -> String {
        if self.guests == 1 { text.to_owned() } else { format!("[tiny-{number}] {text}") }
    }

    /// Keys for one of them.
    fn keys(self, number: u64, keys: &str) -> String {
        format!("{}{keys}", super::idle::focus(number as usize))
    }

    /// The file that all have.
    fn common_file(self) -> String {
        format!("head -c {} /bin/busybox", self.pages << 12)
    }

    /// The file that a guest has by itself: all zeros of the common one are its letter.
    fn own_file(self, number: u64) -> String {
        let letter = char::from(b'a' + (number - 1) as u8);
        format!("{} | tr '\\000' {letter}", self.common_file())
    }

    /// All are asked in turn; each says `answer`. The first step waits for `before`.
    fn in_turn(self, before: Step, answer: &str, keys: impl Fn(u64) -> String) -> Vec<Step> {
        let asked = |number: u64| self.keys(number, &keys(number));
        let first = Step { keys: asked(1), ..before };
        let others = (2..=self.guests).map(|number| Step::new(self.says(number - 1, answer), asked(number)));
        std::iter::once(first).chain(others).collect()
    }

    /// All get warm, are merged, part, and are looked at again; all are sent home.
    fn steps(self) -> Vec<Step> {
        let last = |answer| Step::new(self.says(self.guests, answer), "");
        let prompts = (1..self.guests).map(|number| Step::new(self.says(number, "herald:/# "), ""));
        let warm = self.in_turn(last("herald:/# "), WARM, |_| {
            format!("{} >/tmp/work; echo warm $((40 + 2))\n", self.common_file())
        });
        let parted = self.in_turn(last(WARM).after_passes(PASSES), OWN, |number| {
            let (common, own) = (self.common_file(), self.own_file(number));
            format!(
                "{common} | cmp - /tmp/work && {own} | dd of=/tmp/work bs=4k conv=notrunc 2>/dev/null; \
                 {own} | cmp - /tmp/work && echo own $((40 + 3))\n"
            )
        });
        let looked = self.in_turn(last(OWN).after_passes(MORE_PASSES), STILL, |number| {
            format!("{} | cmp - /tmp/work && echo still $((40 + 4))\n", self.own_file(number))
        });
        let home = (1..=self.guests).map(|number| self.keys(number, "poweroff -f\n")).collect::<String>();
        prompts
            .chain(warm)
            .chain([last(WARM)])
            .chain(parted)
            .chain([last(OWN)])
            .chain(looked)
            .chain([Step { keys: home, ..last(STILL) }])
            .collect()
    }

    /// Frames that guests take: what merging has saved is counted in each of them.
    fn memory(self, history: &History, at: f64) -> u64 {
        let sum: u64 = (0..self.guests as usize)
            .map(|guest| history.value(guest, at, |record| record.resident_frames))
            .sum();
        let saved = (0..self.guests as usize)
            .filter_map(|guest| history.of(guest).iter().rfind(|sample| sample.at <= at))
            .max_by(|a, b| a.at.total_cmp(&b.at))
            .map_or(0, |sample| sample.record.merge.sharing.saturating_sub(sample.record.merge.shared));
        sum.saturating_sub(saved)
    }
}

/// The steps whose moments count.
impl Crowd {
    fn mark(self, run: &Finished, step: u64) -> Option<f64> {
        run.marks.get(step as usize).copied()
    }

    /// All have written the file.
    fn warm(self, run: &Finished) -> Option<f64> {
        self.mark(run, 2 * self.guests - 1)
    }

    /// What is equal is merged.
    fn merged(self, run: &Finished) -> Option<f64> {
        self.mark(run, 2 * self.guests)
    }

    /// Each has its own file.
    fn parted(self, run: &Finished) -> Option<f64> {
        self.mark(run, 3 * self.guests)
    }

    fn memory_when_merged(self, run: &Finished) -> u64 {
        self.merged(run).map_or(0, |at| self.memory(&run.history, at))
    }

    /// What holds for one, too.
    fn judge(self, run: &Finished) -> Judgement {
        let mut judgement = Judgement::expecting(0, run);
        for (answer, what) in
            [(OWN, "guests that have written their own"), (STILL, "guests that still have it")]
        {
            let says = |&number: &u64| run.console.contains(&self.says(number, answer));
            judgement.at_least(what, (1..=self.guests).filter(says).count() as u64, self.guests);
        }
        let (Some(warm), Some(merged), Some(parted)) = (self.warm(run), self.merged(run), self.parted(run))
        else {
            judgement.check("all guests came to their ends", false);
            return judgement;
        };
        for (at, when) in
            [(warm, "when all are warm"), (merged, "when they are merged"), (parted, "when they have parted")]
        {
            judgement.figure(
                format!("memory of guests {when}"),
                self.memory(&run.history, at) as f64 * 4.0,
                "KiB",
            );
        }
        judgement.figure("the machine's time from warm to merged", merged - warm, "s");
        judgement
    }

    fn judge_beside(self, run: &Finished, one: u64) -> Judgement {
        let mut judgement = self.judge(run);
        let (Some(merged), Some(parted)) = (self.merged(run), self.parted(run)) else { return judgement };
        let memory = |at| self.memory(&run.history, at);
        judgement.at_most(
            "memory of all when merged, in % of that of one",
            memory(merged) * 100 / one.max(1),
            MOST,
        );
        let grown = memory(parted).saturating_sub(memory(merged));
        let files = self.guests * self.pages * PART / 100;
        judgement.at_least("pages that all take anew once they have parted", grown, files);
        let value = |read| run.history.value(0, merged, read);
        let gained = value(|record| record.merge.merged + record.merge.zero);
        let ticks = value(|record| record.merge.ticks);
        judgement.figure("pages that have become others", gained as f64, "");
        judgement.figure("pages that were looked at", value(|record| record.merge.scanned) as f64, "");
        judgement.figure("ticks for each that has become another", ticks as f64 / gained.max(1) as f64, "");
        judgement
    }
}
