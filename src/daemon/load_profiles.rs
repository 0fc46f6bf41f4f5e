//! The profiles, from their directory to the registry: root reads the files, and only a process without privileges parses
//! them.

use super::config::{Config, SpendOn};
use super::error::DaemonError;
use super::policy::ProfileDefaults;
use super::registry::ProfileRegistry;
use super::say;
use super::settings::{Settings, directory_of_root};
use crate::grant::Spend;
use crate::privileged::limits::Limits;
use crate::profile;
use crate::profile::error::ProfileError;
use crate::profile::files::ProfileFiles;

/// More profiles than these would hide what a line says.
const MAX_NAMED: usize = 5;

/// The profiles' files, opened and read. One that cannot be read is reported and left out, so that the other profiles
/// work. Also returns how many were left out.
pub(super) fn read_files(settings: &Settings) -> Result<(Vec<ProfileFiles>, usize), DaemonError> {
    let dir = settings.config_dir.join("profiles");
    directory_of_root(&dir)?;
    let names = profile::names(&dir).map_err(|why| DaemonError::ConfigDir(dir.clone(), why))?;
    let mut profiles = Vec::with_capacity(names.len());
    let mut unreadable = 0;
    for name in names {
        match ProfileFiles::read_of_root(&dir.join(name)) {
            Ok(files) => profiles.push(files),
            Err(error) => {
                unreadable += 1;
                say_left_out(&error);
            }
        }
    }
    Ok((profiles, unreadable))
}

/// Every valid profile, and how many were left out. `knows_connections`: the kernel logs connections through grants.
pub(super) fn parse(
    settings: &Settings,
    files: Vec<ProfileFiles>,
    limits: &Limits,
    knows_connections: bool,
) -> Result<(ProfileRegistry, usize), DaemonError> {
    for files in files.iter().filter(|files| files.readable_by_others()) {
        say::event(format_args!(
            "{0:?}: others may read the keys\nfix: chmod -R go-rwx {0:?}",
            files.dir()
        ));
    }
    if settings.config.allow.is_none()
        && let Some(warning) = what_is_open(&files)
    {
        say::event(warning);
    }
    let Config { delay: seconds, error_window, spend, .. } = settings.config;
    // If the kernel does not log connections, the daemon cannot close a grant after a handshake.
    let is_closed_behind_handshake = knows_connections && spend == SpendOn::Handshake;
    let spend = if is_closed_behind_handshake { Spend::Any } else { Spend::One };
    let defaults = ProfileDefaults { seconds, error_window, spend };
    let (registry, broken) = ProfileRegistry::new(files, limits, defaults);
    broken.iter().for_each(say_left_out);
    if registry.is_empty() {
        return Err(DaemonError::NoProfiles(settings.config_dir.join("profiles")));
    }
    Ok((registry, broken.len()))
}

fn say_left_out(error: &ProfileError) {
    say::event(format_args!("a profile is left out: {error}"));
}

/// A warning that names what can be asked for where the config has no `allow`, in case it was lost by mistake. None:
/// there are no profiles.
fn what_is_open(files: &[ProfileFiles]) -> Option<String> {
    let profiles: Vec<_> = files.iter().filter_map(|files| files.profile().ok()).collect();
    let open = profiles.iter().filter(|profile| profile.config.allow.is_none());
    let names: Vec<_> = open.map(|profile| format!("{:?}", profile.name)).collect();
    let shown = names.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let others = match names.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    if profiles.is_empty() {
        None
    } else if names.is_empty() {
        Some("config names no `allow`: each profile can ask for what its own `allow` names".into())
    } else if names.len() == profiles.len() {
        Some(format!(
            "config names no `allow`: any TCP port can be asked for (profiles {shown}{others})"
        ))
    } else {
        Some(format!(
            "config names no `allow`: any TCP port can be asked for by the profiles without their own ({shown}{others})"
        ))
    }
}
