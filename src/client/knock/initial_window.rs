//! The window and the window scale that Linux offers in a SYN: `tcp_select_initial_window`, with the numbers that
//! `tcp_connect_init` hands it (Linux 4.20 and later). Pure.

/// The largest window without a scale, in bytes.
const MAX_UNSCALED: u32 = 65_535;
/// The same to a peer that takes it for a signed number (`MAX_TCP_WINDOW`).
const MAX_SIGNED: u32 = 32_767;
/// `TCP_MAX_WSCALE`.
const MAX_SCALE: u32 = 14;

/// What decides. Bytes, but for what says otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowSettings {
    /// How much of the receive buffer a window may offer (`tcp_full_space`).
    pub(super) space: u32,
    /// The largest segment that we take, not 0.
    pub(super) mss: u16,
    /// The route's `window`; 0: none.
    pub(super) clamp: u32,
    /// The route's `initrwnd`, in segments; 0: none.
    pub(super) initial_segments: u32,
    /// How large the receive buffer may become: the larger of `tcp_rmem`'s last and `rmem_max`.
    pub(super) max_buffer: u32,
    /// `tcp_window_scaling`.
    pub(super) scaling: bool,
    /// `tcp_workaround_signed_windows`.
    pub(super) signed: bool,
}

impl WindowSettings {
    /// The window as the SYN has it, which is never scaled, and the scale; `None`: there is no such option.
    pub(super) fn offer(&self) -> (u16, Option<u8>) {
        let clamp = match self.clamp {
            0 => MAX_UNSCALED << MAX_SCALE,
            clamp => clamp,
        };
        let mss = u32::from(self.mss).max(1);
        let space = self.space.min(clamp);
        let space = if space > mss { space / mss * mss } else { space };
        let mut window = if self.signed { space.min(MAX_SIGNED) } else { space };
        if self.initial_segments > 0 {
            window = window.min(self.initial_segments.saturating_mul(mss));
        }
        let scale = self.scaling.then(|| {
            let bits = space.max(self.max_buffer).min(clamp).checked_ilog2().unwrap_or(0);
            bits.saturating_sub(15).min(MAX_SCALE)
        });
        #[expect(clippy::cast_possible_truncation, reason = "limited to as many bits")]
        (window.min(MAX_UNSCALED) as u16, scale.map(|scale| scale as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Debian 12 with an Ethernet.
    const USUAL: WindowSettings = WindowSettings {
        space: 65_536,
        mss: 1460,
        clamp: 0,
        initial_segments: 0,
        max_buffer: 6_291_456,
        scaling: true,
        signed: false,
    };

    #[test]
    fn the_window_is_a_multiple_of_the_segment() {
        assert_eq!(USUAL.offer(), (64_240, Some(7)));
        for (mss, window) in [(536, 65_392), (1220, 64_660), (8960, 62_720), (65_495, 65_495)] {
            assert_eq!(WindowSettings { mss, ..USUAL }.offer().0, window, "{mss}");
        }
        let small = WindowSettings { space: 1000, ..USUAL };
        assert_eq!(small.offer().0, 1000, "less than one segment is offered as it is");
        let large = WindowSettings { space: 3_145_728, ..USUAL };
        assert_eq!(large.offer().0, 65_535, "what does not fit into the field");
    }

    #[test]
    fn the_scale_is_for_the_largest_buffer_and_14_at_most() {
        for (max_buffer, scale) in
            [(0, 0), (65_535, 0), (65_536, 1), (33_554_432, 10), (1 << 29, 14), (u32::MAX, 14)]
        {
            let settings = WindowSettings { max_buffer, space: 1, ..USUAL };
            assert_eq!(settings.offer().1, Some(scale), "{max_buffer}");
        }
        assert_eq!(WindowSettings { scaling: false, ..USUAL }.offer(), (64_240, None));
    }

    #[test]
    fn a_route_and_a_cautious_administrator_make_it_smaller() {
        assert_eq!(WindowSettings { clamp: 20_000, ..USUAL }.offer(), (18_980, Some(0)));
        assert_eq!(WindowSettings { initial_segments: 10, ..USUAL }.offer().0, 14_600);
        assert_eq!(WindowSettings { signed: true, ..USUAL }.offer().0, 32_767);
    }
}
