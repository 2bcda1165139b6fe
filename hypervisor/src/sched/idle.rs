//! A CPU without a thread halts until an interrupt: a deadline of a sleeper, another CPU's kick, a device.

use super::cpu::{self, Leaving};
use crate::cpu::{timer, tsc};

/// Runs threads on this CPU from now on. `slice`: ticks that one may be ahead of another that waits.
pub(crate) fn run(slice: u64) -> ! {
    cpu::start(slice);
    loop {
        let deadline = cpu::wake_sleepers(tsc());
        cpu::set_idle(true);
        // A thread that is pushed from here on comes with a kick, which ends the wait.
        if !cpu::somebody_waits() {
            timer::wait(deadline);
        }
        cpu::set_idle(false);
        cpu::leave(Leaving::Queued);
    }
}
