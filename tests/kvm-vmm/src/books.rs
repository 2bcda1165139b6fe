//! What Linux counts, read from its files, and the clock that all is measured by.

use anyhow::{Context, Result};
use std::fs;

/// Exits and flushes of all machines; there is one.
const KVM: &str = "/sys/kernel/debug/kvm";
const KSM: &str = "/sys/kernel/mm/ksm";
const GENERATIONS: &str = "/sys/kernel/debug/lru_gen";

/// The time-stamp counter.
pub(crate) fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// A counter of KVM's.
pub(crate) fn kvm(name: &str) -> Result<u64> {
    number(&format!("{KVM}/{name}"))
}

/// A counter of same-page merging.
pub(crate) fn ksm(name: &str) -> Result<u64> {
    number(&format!("{KSM}/{name}"))
}

/// A setting of same-page merging.
pub(crate) fn set_ksm(name: &str, value: u64) -> Result<()> {
    write(&format!("{KSM}/{name}"), &value.to_string())
}

fn number(path: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    text.trim().parse().with_context(|| format!("{path}: `{}`", text.trim()))
}

fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{path}: `{text}`"))
}

/// Pages of this program that are in swap.
pub(crate) fn swapped() -> Result<u64> {
    const PATH: &str = "/proc/self/status";
    let text = fs::read_to_string(PATH).context(PATH)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmSwap:")).context("no VmSwap")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmSwap {line}"))?;
    Ok(kib / 4)
}

/// What asks for a pass of aging over the memory of all programs (Linux: Documentation/admin-guide/mm/multigen_lru.rst,
/// "Working set estimation"): group, node, the youngest generation; with swap, and whether much or little memory is left.
pub(crate) struct AgingPass(String);

impl AgingPass {
    /// Looks which generation is the youngest.
    pub(crate) fn next() -> Result<Self> {
        let text = fs::read_to_string(GENERATIONS).context(GENERATIONS)?;
        youngest(&text)
            .map(|(group, node, youngest)| Self(format!("+ {group} {node} {youngest} 1 1")))
            .context(text)
    }

    /// Makes the pass.
    pub(crate) fn run(&self) -> Result<()> {
        write(GENERATIONS, &self.0)
    }
}

/// `memcg ID PATH`, below it `node N`, below it a line for each generation, the youngest last: those of the first group.
fn youngest(text: &str) -> Option<(u64, u64, u64)> {
    let mut lines = text.lines();
    let group = lines.next()?.trim().strip_prefix("memcg")?.split_whitespace().next()?.parse().ok()?;
    let node = lines.next()?.trim().strip_prefix("node")?.trim().parse().ok()?;
    let generation = |line: &str| line.split_whitespace().next()?.parse().ok();
    let last = lines.map_while(generation).last()?;
    Some((group, node, last))
}

#[cfg(test)]
mod tests {
    use super::youngest;

    #[test]
    fn the_youngest_generation_is_the_last_of_the_first_group() {
        let text = "memcg     1 /\n node     0\n          0      12300          0        5000 \n          \
                    1       9000          3           0 \n          2         10         40           0 \n\
                    memcg     7 /a\n node     0\n          9   1   1   1\n";
        assert_eq!(youngest(text), Some((1, 0, 2)));
        assert_eq!(youngest("nothing\n"), None);
    }
}
