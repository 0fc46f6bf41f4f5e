//! The user that the daemon and its helper run as.

use nix::unistd::User;

use super::error::DaemonError;
use super::say;
use crate::privileged::drop_privileges::Ids;

const DEFAULT_USER: &str = "knockknock";
const FALLBACK_USER: &str = "nobody";

/// The user of this name; without one the default's, if there is such a user.
pub(super) fn user_to_run_as(name: Option<&str>) -> Result<Ids, DaemonError> {
    let user = if let Some(name) = name {
        find(name)?.ok_or_else(|| DaemonError::NoUser(name.to_owned()))?
    } else if let Some(user) = find(DEFAULT_USER)? {
        user
    } else {
        say::event(format_args!(
            "there is no user {DEFAULT_USER:?}; runs as {FALLBACK_USER:?}, which other programs may run as and end it\n\
             fix: adduser --system --group --no-create-home {DEFAULT_USER}"
        ));
        find(FALLBACK_USER)?.ok_or_else(|| DaemonError::NoUser(DEFAULT_USER.into()))?
    };
    if user.uid.is_root() {
        return Err(DaemonError::RootUser(user.name));
    }
    Ok(Ids { uid: user.uid, gid: user.gid, groups: Vec::new() })
}

fn find(name: &str) -> Result<Option<User>, DaemonError> {
    User::from_name(name).map_err(|why| DaemonError::System("cannot look users up", why.into()))
}
