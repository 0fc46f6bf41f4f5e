//! Why there is no connection: what is wrong in one clause, and a hint.

use tokio::task::JoinError;

use super::never_opened::NeverOpened;
use super::plain::{HINT, PlainError};
use crate::client::knock::error::KnockError;
use crate::client::knock::profile_lock::LockError;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// No knock was sent.
    #[error(transparent)]
    Knock(#[from] KnockError),
    /// Others are knocking with the same profile.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The host was knocked at, but does not let us in.
    #[error(transparent)]
    NeverOpened(#[from] NeverOpened),
    /// The host has no profile, and cannot be connected to without a knock either.
    #[error(transparent)]
    Plain(#[from] PlainError),
    /// A thread of this process panicked.
    #[error("an error in this program itself ({0})")]
    Broken(#[from] JoinError),
}

impl ConnectError {
    /// What to do, or what has happened all the same.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Knock(error) => error.hint(),
            Self::Lock(_) => Some("nothing was sent, no counter spent".to_owned()),
            Self::NeverOpened(never) => Some(never.hint().to_owned()),
            Self::Plain(PlainError::Unresolved(_)) => Some(HINT.to_owned()),
            Self::Plain(_) | Self::Broken(_) => None,
        }
    }

    /// 2 where the command line lacks something, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Knock(error) => error.exit_code(),
            _ => 1,
        }
    }
}
