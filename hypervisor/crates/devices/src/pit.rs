//! The 8254 timer: ports 0x40-0x43, and port 0x61 with channel 2's gate and output (Intel 8254 data sheet).
//!
//! Nothing counts between accesses: a channel remembers when its count began, and all else follows from
//! the time. Channel 0 drives IRQ 0. Modes 0, 2 and 3 are complete; 1, 4 and 5 count as mode 0 does. Counts
//! are binary: nobody uses BCD.

use crate::time::{Clock, Ticks};
use core::num::NonZeroU32;
use serde::{Deserialize, Serialize};

/// First of the four ports.
pub(crate) const BASE: u16 = 0x40;
/// Channel 2's gate and output, and the speaker.
pub(crate) const SPEAKER: u16 = 0x61;
/// Periods a second.
const HZ: u64 = 1_193_182;
/// The round that a count of 0 stands for.
const LONGEST: NonZeroU32 = NonZeroU32::new(0x1_0000).expect("not 0");

const GATE2: u8 = 1 << 0;
const REFRESH: u8 = 1 << 4;
const OUT2: u8 = 1 << 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    Both,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Channel {
    mode: u8,
    access: Access,
    /// Periods of a round, 1 to 65536; `None` until the guest has written a count.
    count: Option<NonZeroU32>,
    low: Option<u8>,
    read_high: bool,
    latch: Option<u16>,
    status: Option<u8>,
    start: Ticks,
    gate: bool,
    /// Rounds that have ended and were reported.
    reported: u64,
}

impl Channel {
    const fn new() -> Self {
        Self {
            mode: 0,
            access: Access::Both,
            count: None,
            low: None,
            read_high: false,
            latch: None,
            status: None,
            start: Ticks(0),
            gate: true,
            reported: 0,
        }
    }

    fn periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    fn control(&mut self, value: u8) {
        let access = match value >> 4 & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        let mode = value >> 1 & 7;
        // Modes 6 and 7 are 2 and 3: the bit is ignored.
        let mode = if mode > 5 { mode - 4 } else { mode };
        *self = Self { mode, access, gate: self.gate, ..Self::new() };
    }

    fn write(&mut self, value: u8, now: Ticks) {
        let count = match (self.access, self.low.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::Both, None) => {
                self.low = Some(value);
                return;
            }
        };
        self.count = Some(NonZeroU32::new(u32::from(count)).unwrap_or(LONGEST));
        self.start = now;
        self.reported = 0;
    }

    /// Periods since the count began; none pass while the gate is low.
    fn elapsed(&self, clock: Clock, now: Ticks) -> u64 {
        if self.gate { clock.periods(now.since(self.start)) } else { 0 }
    }

    fn value(&self, clock: Clock, now: Ticks) -> u16 {
        let Some(count) = self.count else { return 0 };
        let (count, elapsed) = (u64::from(count.get()), self.elapsed(clock, now));
        let value = match self.mode {
            2 => count - elapsed % count,
            // Mode 3 counts by two, twice a round.
            3 => count - (elapsed % count * 2) % count,
            _ => count.wrapping_sub(elapsed),
        };
        value as u16
    }

    fn out(&self, clock: Clock, now: Ticks) -> bool {
        let Some(count) = self.count else { return self.mode != 0 };
        let (count, elapsed) = (u64::from(count.get()), self.elapsed(clock, now));
        match self.mode {
            2 => elapsed % count != count - 1,
            3 => elapsed % count < count.div_ceil(2),
            _ => elapsed >= count,
        }
    }

    fn set_gate(&mut self, gate: bool, now: Ticks) {
        if gate && !self.gate {
            self.start = now;
        }
        self.gate = gate;
    }

    fn latch_status(&mut self, clock: Clock, now: Ticks) {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Both => 3,
        };
        let null_count = self.count.is_none();
        self.status = Some(
            u8::from(self.out(clock, now)) << 7 | u8::from(null_count) << 6 | access << 4 | self.mode << 1,
        );
    }

    fn read(&mut self, clock: Clock, now: Ticks) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let [low, high] = self.latch.unwrap_or_else(|| self.value(clock, now)).to_le_bytes();
        let (byte, done) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::Both if self.read_high => (high, true),
            Access::Both => (low, false),
        };
        self.read_high = !done;
        if done {
            self.latch = None;
        }
        byte
    }

    /// Rounds that have ended.
    fn rounds(&self, clock: Clock, now: Ticks) -> u64 {
        let Some(count) = self.count else { return 0 };
        let rounds = self.elapsed(clock, now) / u64::from(count.get());
        if self.periodic() { rounds } else { rounds.min(1) }
    }
}

/// The timer and port 0x61.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pit {
    clock: Clock,
    channels: [Channel; 3],
    /// When channel 0 raises its output next. Asked for at each VM entry, so it is not computed there.
    due: Option<Ticks>,
    speaker: u8,
    /// See [`crate::Config::shortest_period`]; here in periods of the input clock.
    shortest_period: u64,
}

impl Pit {
    /// `shortest_period` in ticks.
    pub(crate) fn new(tsc_hz: u64, shortest_period: u64) -> Self {
        let mut channels = [Channel::new(), Channel::new(), Channel::new()];
        channels[2].gate = false;
        let clock = Clock::new(tsc_hz, HZ);
        let shortest_period = clock.periods(shortest_period);
        Self { clock, channels, due: None, speaker: 0, shortest_period }
    }

    pub(crate) fn read(&mut self, port: u16, now: Ticks) -> u8 {
        let clock = self.clock;
        match self.channels.get_mut(usize::from(port & 3)) {
            Some(channel) => channel.read(clock, now),
            None => 0xff,
        }
    }

    pub(crate) fn write(&mut self, port: u16, value: u8, now: Ticks) {
        match self.channels.get_mut(usize::from(port & 3)) {
            Some(channel) => channel.write(value, now),
            None => self.control(value, now),
        }
        self.due = self.next_edge();
    }

    fn control(&mut self, value: u8, now: Ticks) {
        let clock = self.clock;
        if let Some(channel) = self.channels.get_mut(usize::from(value >> 6)) {
            if value & 0x30 != 0 {
                channel.control(value);
            } else if channel.latch.is_none() {
                channel.latch = Some(channel.value(clock, now));
            }
            return;
        }
        // Read-back: a zero in bit 5 latches counts, in bit 4 status, of the channels in bits 3:1.
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if value >> (index + 1) & 1 == 0 {
                continue;
            }
            if value & 0x20 == 0 && channel.latch.is_none() {
                channel.latch = Some(channel.value(clock, now));
            }
            if value & 0x10 == 0 && channel.status.is_none() {
                channel.latch_status(clock, now);
            }
        }
    }

    pub(crate) fn read_speaker(&self, now: Ticks) -> u8 {
        // The refresh bit toggles every 15 microseconds; old delay loops wait for it.
        let refresh = if (self.clock.periods(now.0) / 18) & 1 != 0 { REFRESH } else { 0 };
        let out = if self.channels[2].out(self.clock, now) { OUT2 } else { 0 };
        self.speaker | refresh | out
    }

    pub(crate) fn write_speaker(&mut self, value: u8, now: Ticks) {
        self.speaker = value & 0xf;
        self.channels[2].set_gate(value & GATE2 != 0, now);
    }

    /// Whether channel 0 has raised its output since it was asked last. Rounds that nobody saw are lost, as
    /// edges are on hardware.
    pub(crate) fn take_edge(&mut self, now: Ticks) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        let channel = &mut self.channels[0];
        channel.reported = channel.rounds(self.clock, now);
        self.due = self.next_edge();
        true
    }

    /// When channel 0 raises its output next.
    pub(crate) const fn deadline(&self) -> Option<Ticks> {
        self.due
    }

    fn next_edge(&self) -> Option<Ticks> {
        let channel = &self.channels[0];
        let count = u64::from(channel.count?.get());
        let periods = match (channel.periodic(), channel.reported) {
            (true, reported) => {
                reported.saturating_mul(count).saturating_add(count.max(self.shortest_period))
            }
            (false, 0) => count,
            (false, _) => return None,
        };
        Some(channel.start.after(self.clock.ticks(periods)))
    }
}

#[cfg(test)]
mod tests {
    use super::Pit;
    use crate::time::Ticks;

    const TSC: u64 = 1_193_182;
    const SHORTEST_PERIOD: u64 = 119;

    #[test]
    fn mode_2_interrupts_every_round() {
        let mut pit = Pit::new(TSC, SHORTEST_PERIOD);
        pit.write(0x43, 0x34, Ticks(0));
        pit.write(0x40, 0xe8, Ticks(0));
        assert_eq!(pit.deadline(), None);
        pit.write(0x40, 3, Ticks(0));
        assert_eq!(pit.deadline(), Some(Ticks(1000)));
        assert!(!pit.take_edge(Ticks(999)));
        assert!(pit.take_edge(Ticks(3500)));
        assert!(!pit.take_edge(Ticks(3500)), "lost rounds do not pile up");
        assert_eq!(pit.deadline(), Some(Ticks(4000)));
    }

    #[test]
    fn a_round_of_two_periods_leaves_the_guest_time() {
        let mut pit = Pit::new(TSC, SHORTEST_PERIOD);
        for value in [(0x43, 0x14), (0x40, 2)] {
            pit.write(value.0, value.1, Ticks(0));
        }
        assert_eq!(pit.deadline(), Some(Ticks(SHORTEST_PERIOD)));
        assert!(pit.take_edge(Ticks(1001)));
        assert_eq!(pit.deadline(), Some(Ticks(1000 + SHORTEST_PERIOD)));
    }

    #[test]
    fn counts_latch_and_read_back() {
        let mut pit = Pit::new(TSC, SHORTEST_PERIOD);
        pit.write(0x43, 0x30, Ticks(0));
        pit.write(0x40, 0, Ticks(0));
        pit.write(0x40, 1, Ticks(0));
        pit.write(0x43, 0, Ticks(10));
        assert_eq!([pit.read(0x40, Ticks(99)), pit.read(0x40, Ticks(99))], [246, 0]);
        pit.write(0x43, 0xe2, Ticks(20));
        assert_eq!(pit.read(0x40, Ticks(20)), 0x30);
        assert_eq!(pit.read(0x40, Ticks(20)), 236);
        assert!(pit.take_edge(Ticks(256)));
        assert_eq!(pit.deadline(), None, "mode 0 ends");
    }

    #[test]
    fn channel_2_calibrates() {
        let mut pit = Pit::new(TSC, SHORTEST_PERIOD);
        pit.write_speaker(1, Ticks(0));
        pit.write(0x43, 0xb0, Ticks(5));
        pit.write(0x42, 100, Ticks(5));
        pit.write(0x42, 0, Ticks(5));
        assert_eq!(pit.read_speaker(Ticks(104)) & 0x20, 0);
        assert_eq!(pit.read_speaker(Ticks(105)) & 0x20, 0x20);
    }

    #[test]
    fn mode_3_is_a_square_wave() {
        let mut pit = Pit::new(TSC, SHORTEST_PERIOD);
        pit.write_speaker(1, Ticks(0));
        for (port, value) in [(0x43, 0xb6), (0x42, 100), (0x42, 0)] {
            pit.write(port, value, Ticks(0));
        }
        let out = |ticks| pit.read_speaker(Ticks(ticks)) & 0x20 != 0;
        assert_eq!([0, 49, 50, 99, 100].map(out), [true, true, false, false, true]);
        let mut value = |ticks| {
            pit.write(0x43, 0x80, Ticks(ticks));
            u16::from_le_bytes([pit.read(0x42, Ticks(ticks)), pit.read(0x42, Ticks(ticks))])
        };
        assert_eq!(
            [0, 10, 49, 50, 60].map(&mut value),
            [100, 80, 2, 100, 80],
            "counts by two, twice a round"
        );
    }

    #[test]
    fn linux_one_shots_fire_once_each() {
        let mut pit = Pit::new(TSC, SHORTEST_PERIOD);
        let mut now = 0;
        for _ in 0..3 {
            // Mode 4, as its clock event driver has it.
            for (port, value) in [(0x43, 0x38), (0x40, 0x10), (0x40, 0x27)] {
                pit.write(port, value, Ticks(now));
            }
            now += 0x2710;
            assert_eq!(pit.deadline(), Some(Ticks(now)));
            assert!(pit.take_edge(Ticks(now)));
            assert_eq!(pit.deadline(), None);
        }
    }

    #[test]
    fn the_gate_holds_channel_2() {
        let mut pit = Pit::new(TSC, SHORTEST_PERIOD);
        for (port, value) in [(0x43, 0xb0), (0x42, 100), (0x42, 0)] {
            pit.write(port, value, Ticks(0));
        }
        assert_eq!(pit.read_speaker(Ticks(1_000_000)) & 0x20, 0);
        pit.write_speaker(1, Ticks(1_000_000));
        assert_eq!(pit.read_speaker(Ticks(1_000_099)) & 0x20, 0);
        assert_eq!(pit.read_speaker(Ticks(1_000_100)) & 0x20, 0x20);
    }

    #[test]
    fn a_tsc_of_another_rate() {
        // 3 GHz: one period is 2514.3 ticks, and the deadline is rounded up.
        let mut pit = Pit::new(3_000_000_000, 0);
        for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
            pit.write(port, value, Ticks(7));
        }
        assert_eq!(pit.deadline(), Some(Ticks(7 + 30_000_453)));
        assert!(!pit.take_edge(Ticks(7 + 30_000_452)));
        assert!(pit.take_edge(Ticks(7 + 30_000_453)));
    }
}
