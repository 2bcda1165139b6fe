//! A puppet: a process whose address space is the subject. It makes the system calls that it is told, in order, and
//! answers with what the kernel has answered. It knows nothing of what they are for.
//!
//! ```text
//!   puppet CHANNEL        CHANNEL: a socket, already open
//!   request ──► calls, one after the other ──► answers
//!                 └─ fork(channel): the child obeys that socket from now on, the parent answers
//! ```
//!
//! Memory is touched without a signal handler: to load is to `write` from it into a pipe, to store is to `read` a
//! pipe into it. Where a program would get a signal, the kernel answers EFAULT.

use linux::wire::{Call, read_call, read_number};
use std::io::{BufReader, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;

fn main() -> std::io::Result<()> {
    let number = std::env::args().nth(1).and_then(|number| number.parse().ok());
    let mut channel = open(number.expect("the number of a socket"));
    // SAFETY: no handler is installed; the process never waits for a child, and whoever has died is gone.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let adopt = Call::new(libc::SYS_prctl, [libc::PR_SET_CHILD_SUBREAPER as u64, 1, 0, 0, 0, 0]);
    make(&adopt);
    while let Some(calls) = receive(&channel) {
        let mut answers = Vec::new();
        for call in calls {
            let (is_fork, is_exit) =
                (call.number == libc::SYS_fork as u64, call.number == libc::SYS_exit_group as u64);
            if is_exit {
                // Before the end: whoever obeys this socket next is not to find the request there.
                channel.write_all(&0u64.to_ne_bytes())?;
            }
            let answer = make(&call);
            if is_fork && answer == 0 {
                // The old one stays open: a grandchild may have to obey it.
                std::mem::forget(std::mem::replace(&mut channel, open(call.args[0] as i32)));
                answers.clear();
                break;
            }
            answers.extend(answer.to_ne_bytes());
        }
        channel.write_all(&answers)?;
    }
    Ok(())
}

/// A request; `None`: nobody holds the other end any more.
fn receive(channel: &UnixStream) -> Option<Vec<Call>> {
    let mut requests = BufReader::new(channel);
    let count = read_number(&mut requests).ok()?;
    (0..count).map(|_| read_call(&mut requests).ok()).collect()
}

/// The socket of that number, inherited from the bench.
fn open(number: i32) -> UnixStream {
    // SAFETY: the bench has opened the socket for the puppets and names no other number. Nobody in this process owns
    // it: `main` owns the one that it obeys, and gives it up before it obeys another.
    unsafe { UnixStream::from_raw_fd(number) }
}

/// Makes a system call; what it returns, or the negated errno.
fn make(call: &Call) -> i64 {
    let [a, b, c, d, e, f] = call.args;
    // SAFETY: the bench names only calls that change the arena, which nothing in this process refers to, or that
    // fail; it keeps every length short of where the program, its libraries and its stack lie. fork is called in a
    // process that has one thread.
    let answer = unsafe { libc::syscall(call.number as libc::c_long, a, b, c, d, e, f) };
    let errno = || i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
    if answer == -1 { -errno() } else { answer }
}
