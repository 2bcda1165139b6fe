//! Input for the guests' consoles: a thread takes what has come on COM1 to the guest that has the focus, as far as its UART
//! has room.
//!
//! ```text
//!   COM1's handler ─► ring ─► input thread ─► UART of the guest with the focus ─► guest reads: room again ─┐
//!        └─ unpark ────────────────┘ ▲                                                                     │
//!                                    └──────────────────────── unpark ─────────────────────────────────────┘
//! ```
//!
//! Ctrl-\ begins a command:
//!
//! | then | |
//! |---|---|
//! | 1 to 9, a to g | the guest of this number in the configuration gets the focus; before it starts, its input waits |
//! | n | the next one that has not ended |
//! | + | the guest with the focus is cloned |
//! | s | a snapshot of it is taken |
//! | Ctrl-\ | the guest gets Ctrl-\ |

use super::vm::Vm;
use crate::cpu::serial;
use crate::sched::{self, Group, Thread};
use abi::config::MAX_GUESTS;
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
        name: Arc<str>,
    },
    Runs {
        name: Arc<str>,
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

    /// Does something to the guest with the focus, on a thread: it may have to wait.
    fn work_on_focused(&self, what: &'static str, work: fn(&Vm)) {
        let Some(vm) = self.focused() else {
            return log::info!("console: there is nothing yet for a {what}");
        };
        let machine = vm.machine;
        match sched::spawn(&Group::new(WEIGHT), move || work(&vm)) {
            // The guests are locked: none of them is gone for good before Herald knows that there may be one more.
            Ok(worker) => machine.joins(worker),
            Err(error) => log::error!("no {what}: {error}"),
        }
    }

    /// Takes a byte that belongs to a command; `false`: it is the guest's.
    fn obey(&mut self, byte: u8) -> bool {
        let in_command = core::mem::replace(&mut self.in_command, false);
        match byte {
            COMMAND if in_command => return false,
            COMMAND => self.in_command = true,
            _ if !in_command => return false,
            b'1'..=b'9' => self.give_focus(usize::from(byte - b'1')),
            b'a'..=b'g' => self.give_focus(usize::from(byte - b'a') + 9),
            b'n' => self.next(),
            b'+' => self.work_on_focused("clone", clone),
            b's' => self.work_on_focused("snapshot", snapshot),
            _ => log::info!("console: Ctrl-\\, then 1 to 9 or a to g, n, +, s, or Ctrl-\\ again"),
        }
        true
    }
}

fn clone(vm: &Vm) {
    if let Err(error) = vm.clone_guest(None) {
        log::error!("{}: no clone: {error}", vm.name());
    }
}

fn snapshot(vm: &Vm) {
    if let Err(error) = vm.snapshot(None) {
        log::error!("{}: no snapshot: {error}", vm.name());
    }
}

/// Starts the thread, for guests of these names.
///
/// # Errors
/// [`OutOfFrames`].
pub(super) fn start<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), OutOfFrames> {
    GUESTS.lock().all.extend(names.map(|name| Place::Expected { name: name.into() }));
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

/// One more guest, by a name for its number; `None`: there are as many as there can be. A number may be one that another guest
/// had which has ended.
pub(super) fn expect(name: impl FnOnce(u32) -> Arc<str>) -> Option<u32> {
    let mut guests = GUESTS.lock();
    // Number 0 is no clone's.
    let ended = guests.all.iter().skip(1).position(|place| matches!(place, Place::Ended));
    let index = ended.map_or(guests.all.len(), |index| index + 1);
    if index == MAX_GUESTS {
        return None;
    }
    let place = Place::Expected { name: name(index as u32) };
    match guests.all.get_mut(index) {
        Some(ended) => *ended = place,
        None => guests.all.push(place),
    }
    Some(index as u32)
}

/// What guest `index`, which has not ended, is called.
pub(super) fn name(index: usize) -> Arc<str> {
    match &GUESTS.lock().all[index] {
        Place::Expected { name } | Place::Runs { name, .. } => Arc::clone(name),
        Place::Ended => "".into(),
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

fn set(index: usize, make: impl FnOnce(Arc<str>) -> Place) {
    let mut guests = GUESTS.lock();
    if let Place::Expected { name } | Place::Runs { name, .. } = &guests.all[index] {
        guests.all[index] = make(Arc::clone(name));
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
