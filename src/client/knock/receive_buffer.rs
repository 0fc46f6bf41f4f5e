//! How much of a new socket's receive buffer the kernel offers to the other side. Sends nothing.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, getsockopt, setsockopt, socket, sockopt,
};

use super::socket_options::RcvLowat;

/// In 256ths: half.
const USUAL_SHARE: u64 = 128;
/// Enough for the share to come out exactly, in bytes.
const WANTED: u32 = 4 << 20;

/// `tcp_full_space`: how much of a new socket's receive buffer a window may offer, in bytes.
///
/// The share is half, but for some kernels around 6.6 and where `tcp_adv_win_scale` was changed. A new socket tells it:
/// to hold `SO_RCVLOWAT` bytes, the kernel makes the buffer as large as that takes (`tcp_set_rcvlowat`), and that can be
/// read. It takes up to half of what `tcp_rmem` allows; where that is no more than the buffer has, half is assumed.
pub(super) fn full_space(largest: u32) -> Result<u32, Errno> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .or_else(|_| {
            socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        })?;
    let buffer = || getsockopt(&socket, sockopt::RcvBuf).map(|bytes| bytes as u64);
    let before = buffer()?;
    let wanted = (largest / 2).min(WANTED);
    setsockopt(&socket, RcvLowat, &i32::try_from(wanted).unwrap_or(i32::MAX))?;
    let share = share(wanted.into(), before, buffer()?);
    Ok(u32::try_from(before * share / 256).unwrap_or(u32::MAX))
}

/// The 256ths of a buffer that is a window, where a buffer of `before` bytes was made `after` for one of `window`. The kernel
/// has rounded down (`tcp_space_from_win`).
fn share(window: u64, before: u64, after: u64) -> u64 {
    if after > before { (window * 256 + after / 2) / after } else { USUAL_SHARE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_share_is_found_from_what_the_kernel_makes_of_it() {
        for window in [65_536, u64::from(WANTED)] {
            for exact in 1..=256 {
                assert_eq!(share(window, 0, window * 256 / exact), exact);
            }
        }
        assert_eq!(share(65_536, 200_000, 200_000), USUAL_SHARE, "it was large enough before");
    }

    #[test]
    fn a_window_takes_no_more_than_the_buffer() {
        for largest in [1, 6_291_456, u32::MAX] {
            let space = full_space(largest).unwrap();
            assert!(0 < space && space < 1 << 30, "{space}");
        }
    }
}
