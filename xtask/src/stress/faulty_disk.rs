//! `faulty-disk`: a swap disk that fails. Where writes fail, the pages stay and nobody notices; where reads do, a guest that has
//! lost a page ends, and says why, and the others go on; where swap is full, the guest that has most ends.

use super::Bench;
use super::plan::{Finished, Judgement, Plan};
use anyhow::{Context, Result};

const HOST: &str = "64M";
/// Wall seconds of a run.
const TIMEOUT: u64 = 900;
/// A guest that needs little, and computes; a guest that sweeps over more than the machine has.
const GUESTS: &str = r#"
[[vm]]
name = "modest"
kernel = "testguest"
append = "MODEST"
memory = "16M"

[[vm]]
name = "greedy"
kernel = "testguest"
append = "sweep rounds=ROUNDS every=24"
memory = "GREEDYM"
"#;
/// Of the greedy one: its rounds, and its memory in MiB.
const ROUNDS: u64 = 2;
const GREEDY: u64 = 96;
const QUICK_GREEDY: u64 = 72;

/// One failure, and what comes of it.
struct Case {
    label: &'static str,
    swap: &'static str,
    inject: Option<&'static str>,
    /// What the modest guest does: it lives through all of this.
    modest: &'static str,
    /// Exit status.
    status: u8,
    /// What Herald says of it; empty: nothing has to be said.
    says: &'static str,
}

const CASES: [Case; 3] = [
    Case {
        label: "writes fail",
        swap: "ram:8M,disk:128M",
        inject: Some("swap-write-errors"),
        modest: "sweep rounds=8 every=24",
        status: 0,
        says: "",
    },
    Case {
        label: "reads fail",
        swap: "ram:2M,disk:128M",
        inject: Some("swap-read-errors"),
        modest: "spin ticks=400000000",
        status: 5,
        says: "greedy: the guest ended abnormally: ",
    },
    Case {
        label: "swap is full",
        swap: "ram:2M,disk:8M",
        inject: None,
        modest: "sweep rounds=8 every=24",
        status: 5,
        says: "greedy: the guest ended abnormally: out of memory",
    },
];

/// All of them.
///
/// # Errors
/// A file cannot be written.
pub(super) fn plans(bench: &Bench<'_>) -> Result<Vec<Plan>> {
    let cases = CASES.iter().enumerate();
    cases.filter(|(_, case)| case.can_be(bench)).map(|(index, case)| case.plan(bench, index)).collect()
}

impl Case {
    /// Whether there is a disk for the requests that are to fail.
    fn can_be(&self, bench: &Bench<'_>) -> bool {
        self.inject.is_none() || bench.tiers(Some(self.swap)).is_some_and(|tiers| tiers.disk != 0)
    }

    fn plan(&'static self, bench: &Bench<'_>, index: usize) -> Result<Plan> {
        let rounds = bench.args.count.unwrap_or(if bench.args.quick { 1 } else { ROUNDS });
        let greedy = if bench.args.quick { QUICK_GREEDY } else { GREEDY };
        let guests = GUESTS.replace("MODEST", self.modest).replace("ROUNDS", &rounds.to_string());
        let guests = guests.replace("GREEDY", &greedy.to_string());
        let config = bench.dir.path().join(format!("guests-{index}.toml"));
        std::fs::write(&config, guests).with_context(|| config.display().to_string())?;
        let mut arguments = bench.machine(HOST, 1, Some(self.swap));
        arguments.extend(["--config".to_owned(), config.display().to_string()]);
        let injected = self.inject.into_iter().flat_map(|fault| ["--inject", fault]);
        arguments.extend(injected.map(str::to_owned));
        let judge = |run: &Finished| self.judge(run);
        let timeout = TIMEOUT * (rounds + 1);
        Ok(Plan {
            label: self.label.into(),
            arguments,
            clones: Vec::new(),
            steps: Vec::new(),
            timeout,
            judge: Box::new(judge),
        })
    }

    fn judge(&self, run: &Finished) -> Judgement {
        let mut judgement = Judgement::expecting(self.status, run);
        let modest = self.modest.split(' ').next().unwrap_or_default();
        judgement
            .check("the modest guest ends well", run.console.contains(&format!("[modest] {modest}: ok")));
        judgement.check("no guest has read a wrong word", !run.console.contains("FAILED"));
        if self.says.is_empty() {
            judgement.check("the greedy guest ends well", run.console.contains("[greedy] sweep: ok"));
        } else {
            judgement.check(format!("Herald says `{}`", self.says), run.log.contains(self.says));
        }
        let most = |read| (0..run.history.names().len()).map(|guest| run.history.most(guest, read)).max();
        let errors = [
            most(|record| record.host_swap.read_errors).unwrap_or(0),
            most(|record| record.host_swap.write_errors).unwrap_or(0),
        ];
        if self.inject.is_some() {
            judgement.at_least("requests to the disk that failed", errors.iter().sum(), 1);
        }
        judgement.figure("failed reads", errors[0] as f64, "");
        judgement.figure("failed writes", errors[1] as f64, "");
        judgement.figure(
            "pages written to disk",
            most(|record| record.host_swap.writes).unwrap_or(0) as f64,
            "",
        );
        judgement
    }
}
