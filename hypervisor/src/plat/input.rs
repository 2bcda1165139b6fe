//! Input for the guests' consoles: a thread takes what has come on COM1 to the guest that has the focus, as far as its UART
//! has room.
//!
//! ```text
//!   COM1's handler ─► ring ─► input thread ─► UART of the guest with the focus ─► guest reads: room again ─┐
//!        └─ unpark ────────────────┘ ▲                                                                     │
//!                                    └──────────────────────── unpark ─────────────────────────────────────┘
//! ```
//!
//! With several guests, Ctrl-\ begins a command:
//!
//! | then | |
//! |---|---|
//! | 1 to 9, a to g | the guest of this number in the configuration gets the focus; before it starts, its input waits |
//! | n | the next one that has not ended |
//! | Ctrl-\ | the guest gets Ctrl-\ |

use super::vm::Vm;
use crate::cpu::serial;
use crate::sched::{self, Group, Thread};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use mm::OutOfFrames;
use spin::{Mutex, Once};

/// Ctrl-\.
const COMMAND: u8 = 0x1c;
/// Input is rare and short, and a person waits for it.
const WEIGHT: u32 = 1000;

static THREAD: Once<Arc<Thread>> = Once::new();
static GUESTS: Mutex<Guests> = Mutex::new(Guests { all: Vec::new(), focus: 0, in_command: false });

/// A guest, as a place for input.
enum Place {
    /// It has not started yet: its input waits.
    Expected {
        name: &'static str,
    },
    Runs {
        name: &'static str,
        vm: Weak<Vm>,
    },
    Ended,
}

/// Guests by number.
struct Guests {
    all: Vec<Place>,
    focus: usize,
    /// Ctrl-\ came last.
    in_command: bool,
}

impl Guests {
    fn focused(&self) -> Option<Arc<Vm>> {
        match self.all.get(self.focus)? {
            Place::Runs { vm, .. } => vm.upgrade(),
            Place::Expected { .. } | Place::Ended => None,
        }
    }

    /// Gives the focus to the next guest that has not ended, if there is another.
    fn next(&mut self) {
        let count = self.all.len();
        if let Some(next) =
            (1..count).map(|step| (self.focus + step) % count).find(|&index| self.lives(index))
        {
            self.give_focus(next);
        }
    }

    fn lives(&self, index: usize) -> bool {
        self.all.get(index).is_some_and(|place| !matches!(place, Place::Ended))
    }

    fn give_focus(&mut self, index: usize) {
        if let Some(Place::Expected { name } | Place::Runs { name, .. }) = self.all.get(index) {
            self.focus = index;
            log::info!("console: input goes to {name}");
        }
    }

    /// Takes a byte that belongs to a command; `false`: it is the guest's.
    fn obey(&mut self, byte: u8) -> bool {
        let in_command = core::mem::replace(&mut self.in_command, false);
        match byte {
            _ if self.all.len() < 2 => return false,
            COMMAND if in_command => return false,
            COMMAND => self.in_command = true,
            _ if !in_command => return false,
            b'1'..=b'9' => self.give_focus(usize::from(byte - b'1')),
            b'a'..=b'g' => self.give_focus(usize::from(byte - b'a') + 9),
            b'n' => self.next(),
            _ => log::info!("console: Ctrl-\\, then 1 to 9 or a to g, n, or Ctrl-\\ again"),
        }
        true
    }
}

/// Starts the thread, for guests of these names.
///
/// # Errors
/// [`OutOfFrames`].
pub(super) fn start(names: impl Iterator<Item = &'static str>) -> Result<(), OutOfFrames> {
    GUESTS.lock().all.extend(names.map(|name| Place::Expected { name }));
    let handle = sched::spawn(&Group::new(WEIGHT), || {
        loop {
            feed();
            sched::park(None);
        }
    })?;
    THREAD.call_once(|| Arc::clone(handle.thread()));
    serial::on_input(more);
    Ok(())
}

/// There may be something to do: input, or room for it.
pub(super) fn more() {
    if let Some(thread) = THREAD.get() {
        thread.unpark();
    }
}

/// Guest `index` runs.
pub(super) fn add(index: usize, vm: &Arc<Vm>) {
    set(index, |name| Place::Runs { name, vm: Arc::downgrade(vm) });
    more();
}

/// Guest `index` will start again.
pub(super) fn suspend(index: usize) {
    set(index, |name| Place::Expected { name });
}

/// Guest `index` has ended: the focus goes to another.
pub(super) fn remove(index: usize) {
    set(index, |_| Place::Ended);
    let mut guests = GUESTS.lock();
    if guests.focus == index {
        guests.next();
    }
    drop(guests);
    more();
}

fn set(index: usize, make: impl FnOnce(&'static str) -> Place) {
    let mut guests = GUESTS.lock();
    if let Place::Expected { name } | Place::Runs { name, .. } = guests.all[index] {
        guests.all[index] = make(name);
    }
}

fn feed() {
    while let Some(byte) = serial::peek() {
        let vm = {
            let mut guests = GUESTS.lock();
            let vm = guests.focused().filter(|vm| vm.console_has_room());
            // A byte that cannot be delivered yet is looked at again.
            if byte != COMMAND && !guests.in_command && vm.is_none() {
                return;
            }
            if guests.obey(byte) { None } else { vm }
        };
        let _ = serial::get();
        if let Some(vm) = vm {
            vm.console_input(byte);
        }
    }
}
