//! A CPU without a thread does what there is no hurry for, and then halts until an interrupt: a deadline of a sleeper, another CPU's
//! kick, a device.

use super::cpu::{self, Leaving};
use crate::cpu::interrupts::take_interrupts;
use crate::cpu::{timer, tsc};

/// Runs threads on this CPU from now on. `slice`: ticks that one may be ahead of another that waits. `spare`: what the CPU does while it
/// has nothing else to do, as long as what it is given says so.
pub(crate) fn run(slice: u64, spare: impl Fn(&dyn Fn() -> bool)) -> ! {
    cpu::start(slice);
    loop {
        let deadline = cpu::wake_sleepers(tsc());
        cpu::set_idle(true);
        spare(&|| has_time(deadline));
        // A thread that is pushed from here on comes with a kick, which ends the wait.
        if !cpu::somebody_waits() {
            timer::wait(deadline);
        }
        cpu::set_idle(false);
        cpu::leave(Leaving::Queued);
    }
}

/// Whether no thread wants to run, and no sleeper is due. Lets interrupts in first: they may wake one.
fn has_time(deadline: Option<u64>) -> bool {
    take_interrupts();
    !cpu::somebody_waits() && deadline.is_none_or(|deadline| tsc() < deadline)
}
