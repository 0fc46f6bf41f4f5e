//! One line from a terminal that does not show it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// No line of a terminal is longer, in bytes: the kernel cuts it.
pub(super) const MAX_TYPED: usize = 4096;

/// What would end the program before the terminal shows again what is typed.
const ENDINGS: [Signal; 4] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP];

/// A terminal that shows nothing of what is typed, until this is dropped.
pub(super) struct EchoOff<'t> {
    terminal: &'t File,
    before: Termios,
    signals: SignalFd,
}

impl<'t> EchoOff<'t> {
    /// From here on. What was typed before is gone: it was shown.
    pub(super) fn start(terminal: &'t File) -> io::Result<Self> {
        let endings: SigSet = ENDINGS.into_iter().collect();
        endings.thread_block()?;
        let signals = SignalFd::with_flags(&endings, SfdFlags::SFD_CLOEXEC)?;
        let before = tcgetattr(terminal)?;
        let mut without = before.clone();
        without.local_flags &= !(LocalFlags::ECHO | LocalFlags::ECHONL);
        tcsetattr(terminal, SetArg::TCSAFLUSH, &without)?;
        Ok(Self { terminal, before, signals })
    }
}

impl Drop for EchoOff<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(self.terminal, SetArg::TCSANOW, &self.before);
        let _ = ENDINGS.into_iter().collect::<SigSet>().thread_unblock();
    }
}

/// Appends to `bytes`, which has room for them, what is typed until a line is not blank, or nothing more comes, or there are
/// more than `max_len` bytes.
pub(super) fn read_line(
    mut terminal: &File,
    bytes: &mut Vec<u8>,
    max_len: usize,
    echo_off: &EchoOff<'_>,
) -> io::Result<()> {
    let mut typed = Zeroizing::new([0; MAX_TYPED]);
    loop {
        let mut ready = [
            PollFd::new(terminal.as_fd(), PollFlags::POLLIN),
            PollFd::new(echo_off.signals.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ready, PollTimeout::NONE)?;
        let [_, signals] = ready;
        if signals.any().unwrap_or_default() {
            // It is not taken, so it is there when `EchoOff` lets signals through again, and ends the program.
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = terminal.read(&mut *typed)?;
        bytes.extend_from_slice(typed.get(..len).unwrap_or_default());
        let is_line = bytes.ends_with(b"\n") && !bytes.trim_ascii().is_empty();
        if len == 0 || is_line || bytes.len() > max_len {
            return Ok(());
        }
    }
}
