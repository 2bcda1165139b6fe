//! The test device that every guest has: ports, and what a write to each asks of the host.
//!
//! | port | width | write | read |
//! |---|---|---|---|
//! | 0xf4 | 8, 16, 32 | ends the guest with that code | all ones |
//! | 0xe4 | 32 | a gpa: the host mprotects its page to NONE and back (outside RAM: ignored) | all ones |
//! | 0xe0-0xe3 | 8, 16, 32 | scratch register | what was written |
//! | 0x2000+N | 8, 16, 32 | 1 or 0 raises or lowers interrupt line N | all ones |

/// Ends the guest with the written code.
pub const EXIT: u16 = 0xf4;
/// mprotect(NONE) and back, on the page of the written guest-physical address.
pub const PROTECT: u16 = 0xe4;
/// First of the four scratch ports.
pub const SCRATCH: u16 = 0xe0;
/// Interrupt line 0; line N is at `IRQ_LINE + N`.
pub const IRQ_LINE: u16 = 0x2000;
/// Interrupt lines, as many as the I/O APIC has pins.
pub const IRQ_LINES: u16 = 24;
