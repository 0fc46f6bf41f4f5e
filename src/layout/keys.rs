//! Which layout a profile has, and its keys.

use super::classic::{self, Keys};
use super::stealth::{self, StealthKeys};

/// The layouts that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// The protocol of knockknock 0.8.
    #[default]
    Classic,
    /// A knock that is this host's own SYN to the port that it asks for.
    Stealth,
}

impl Layout {
    /// The layouts by the names that a profile's `config` and people call them.
    pub const NAMES: [(&str, Self); 2] = [("classic", Self::Classic), ("stealth", Self::Stealth)];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Stealth => "stealth",
        }
    }

    /// The files with a profile's keys, and how many bytes each has.
    #[must_use]
    pub fn key_files(self) -> &'static [(&'static str, usize)] {
        match self {
            Self::Classic => &[("cipher.key", classic::KEY_LEN), ("mac.key", classic::KEY_LEN)],
            Self::Stealth => &[("secret.key", stealth::SECRET_LEN)],
        }
    }
}

/// The keys of a profile, as its layout has them. They wipe themselves when dropped; `Debug` shows no byte of them.
#[derive(Clone, Debug)]
pub enum LayoutKeys {
    /// `cipher.key` and `mac.key`.
    Classic(Keys),
    /// What is made of `secret.key`.
    Stealth(StealthKeys),
}

impl LayoutKeys {
    /// The layout that they are for.
    #[must_use]
    pub fn layout(&self) -> Layout {
        match self {
            Self::Classic(_) => Layout::Classic,
            Self::Stealth(_) => Layout::Stealth,
        }
    }

    /// Those of the classic layout, if that is theirs.
    #[must_use]
    pub fn classic(&self) -> Option<&Keys> {
        match self {
            Self::Classic(keys) => Some(keys),
            Self::Stealth(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layout_has_its_name_and_its_files() {
        for (name, layout) in Layout::NAMES {
            assert_eq!(layout.name(), name);
        }
        assert_eq!(Layout::Classic.key_files(), [("cipher.key", 16), ("mac.key", 16)]);
        assert_eq!(Layout::Stealth.key_files(), [("secret.key", 32)]);
    }

    #[test]
    fn keys_are_of_one_layout() {
        let classic = LayoutKeys::Classic(Keys::new([1; 16], [2; 16]));
        let stealth = LayoutKeys::Stealth(StealthKeys::new(&[3; 32]));
        assert_eq!([classic.layout(), stealth.layout()], [Layout::Classic, Layout::Stealth]);
        assert_eq!(classic.classic().unwrap().bytes(), (&[1; 16], &[2; 16]));
        assert!(stealth.classic().is_none());
    }
}
