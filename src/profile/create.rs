//! Makes a profile on the server: whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::allow::{ConfigUpdate, InConfig};
use super::config::ProfileConfig;
use super::enrolment::Enrolment;
use super::error::CreateError;
use super::names;
use super::unfinished::{HIDDEN, Unfinished, private_dir};
use crate::grant::{Protocol, Service, listed};
use crate::layout::keys::Layout;

/// What a new profile is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewProfile<'a> {
    /// Classic: where its knocks go. None: it is of the stealth layout.
    pub(crate) knock_port: Option<u16>,
    /// Stealth: its knocks are good from the address alone that they are sent from.
    pub(crate) bind_source: bool,
    /// What it may ask for; nothing: whatever the server allows.
    pub(crate) allow: &'a [Service],
}

/// Makes the profile `name` as [`create_and_hand_over`] does, for nobody yet.
pub(crate) fn create(
    config_dir: &Path,
    name: &str,
    knock_port: Option<u16>,
    allow: &[Service],
) -> Result<(PathBuf, InConfig), CreateError> {
    let new = NewProfile { knock_port, bind_source: false, allow };
    create_and_hand_over(config_dir, name, &new, |_| Ok(()))
}

/// Makes the profile `name` with fresh random keys in `config_dir`, and returns its directory (0700, files 0600). It may ask
/// for what `allow` names, if that names anything; then `config` gets the same line, unless it has one.
///
/// It is built under a hidden name, synced, and then renamed: a profile that is there is whole. Then `hand_over` gets it,
/// for the client; where that fails, it is gone again.
pub(crate) fn create_and_hand_over(
    config_dir: &Path,
    name: &str,
    new: &NewProfile<'_>,
    hand_over: impl FnOnce(&Enrolment) -> io::Result<()>,
) -> Result<(PathBuf, InConfig), CreateError> {
    check_name(name)?;
    if new.knock_port == Some(0) {
        return Err(CreateError::PortZero);
    }
    let profiles_dir = &config_dir.join("profiles");
    let failed = |path: &Path, why| CreateError::Io(path.to_owned(), why);
    private_dir(true).create(profiles_dir).map_err(|why| failed(profiles_dir, why))?;
    // Two at once must not both find the port free.
    let lock = File::open(profiles_dir).map_err(|why| failed(profiles_dir, why))?;
    lock.lock().map_err(|why| failed(profiles_dir, why))?;

    let dir = profiles_dir.join(name);
    if dir.symlink_metadata().is_ok() {
        return Err(CreateError::Exists(dir));
    }
    if let Some(knock_port) = new.knock_port {
        refuse_taken_port(profiles_dir, knock_port)?;
    }

    let hidden = profiles_dir.join(HIDDEN);
    let made = Unfinished::remove_left(&hidden).and_then(|()| with_fresh_keys(new)).and_then(
        |enrolment| {
            let config = enrolment.config(&allow_line(new.allow));
            Ok((Unfinished::write(hidden.clone(), &enrolment, &config)?, enrolment))
        },
    );
    let (mut made, enrolment) = made.map_err(|why| failed(&hidden, why))?;
    // All that can fail for want of room or sense has been done when the names change.
    let update = ConfigUpdate::prepare(config_dir, new.allow)?;
    made.move_to(&dir).map_err(|why| failed(&dir, why))?;
    lock.sync_all().map_err(|why| failed(profiles_dir, why))?;
    hand_over(&enrolment).map_err(CreateError::NotHandedOver)?;
    let in_config = update.carry_out()?;
    Ok((made.keep(), in_config))
}

/// A name is the name of a directory, and goes into an `scp` line: no path, nothing hidden, nothing that is an option.
fn check_name(name: &str) -> Result<(), CreateError> {
    let plain =
        name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '+'));
    if plain && name.starts_with(|c: char| c.is_alphanumeric() || c == '_') && name.len() <= 200 {
        Ok(())
    } else {
        Err(CreateError::BadName(name.to_owned()))
    }
}

/// One port, one profile: the classic layout finds the profile by it.
fn refuse_taken_port(profiles_dir: &Path, knock_port: u16) -> Result<(), CreateError> {
    for other in names(profiles_dir).map_err(|why| CreateError::Io(profiles_dir.to_owned(), why))? {
        let path = profiles_dir.join(&other).join("config");
        let bytes = fs::read(&path).map_err(|why| CreateError::Io(path.clone(), why))?;
        let config = ProfileConfig::parse(&bytes, &path)?;
        if config.layout == Layout::Classic && config.knock_port == Some(knock_port) {
            return Err(CreateError::PortTaken(knock_port, other));
        }
    }
    Ok(())
}

fn with_fresh_keys(new: &NewProfile<'_>) -> io::Result<Enrolment> {
    let NewProfile { knock_port, bind_source, allow } = *new;
    let layout = if knock_port.is_some() { Layout::Classic } else { Layout::Stealth };
    let fresh = |(_, length): &(&str, usize)| {
        let mut key = Zeroizing::new(vec![0; *length]);
        getrandom::fill(&mut key).map_err(io::Error::from)?;
        Ok(key)
    };
    let keys = layout.key_files().iter().map(fresh).collect::<io::Result<_>>()?;
    Ok(Enrolment { layout, knock_port, bind_source, port: first_port(allow), keys })
}

/// What a client asks for without being told: the first TCP service, which a connection can follow at once; else the first.
fn first_port(allow: &[Service]) -> Option<u16> {
    let tcp = allow.iter().find(|service| service.protocol == Protocol::Tcp);
    tcp.or(allow.first()).map(|service| service.first_port)
}

fn allow_line(allow: &[Service]) -> String {
    match allow {
        [] => String::new(),
        services => format!("allow = {}\n", listed(services, ", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn services(texts: &[&str]) -> Vec<Service> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_new_profile_loads_and_is_its_owner_s_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config_dir = dir.path().join("etc");
        let (made, in_config) = create(&config_dir, "laptop", Some(666), &[]).unwrap();
        assert_eq!(made, config_dir.join("profiles/laptop"));
        let (profile, counter) = Profile::load(&made).unwrap();
        assert_eq!((profile.name.as_str(), profile.config.knock_port), ("laptop", Some(666)));
        assert_eq!(counter.read::<u32>().unwrap(), 0);
        assert_eq!(mode(&made), 0o700);
        for file in ["cipher.key", "mac.key", "counter", "config"] {
            assert_eq!(mode(&made.join(file)), 0o600, "{file}");
        }
        assert_eq!(fs::read(made.join("config")).unwrap(), b"[main]\nknock_port = 666\n\n");
        assert_eq!(names(&config_dir.join("profiles")).unwrap(), ["laptop"]);
        assert_eq!(in_config, InConfig::Kept { allow: None, missing: vec![] });
        assert!(!config_dir.join("config").exists(), "any port: nothing is limited");
    }

    #[test]
    fn without_a_knock_port_it_has_the_stealth_layout() {
        let dir = tempfile::tempdir().unwrap();
        let (made, _) = create(dir.path(), "laptop", None, &services(&["tcp/22"])).unwrap();
        let mut files: Vec<_> =
            fs::read_dir(&made).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        files.sort_unstable();
        assert_eq!(files, ["config", "counter", "secret.key"]);
        assert_eq!(
            fs::read_to_string(made.join("config")).unwrap(),
            "[main]\nlayout = stealth\nallow = tcp/22\n\n"
        );
        let (profile, counter) = Profile::load(&made).unwrap();
        assert_eq!(profile.keys.layout(), Layout::Stealth);
        assert_eq!(profile.config.knock_port, None);
        assert_eq!(counter.read::<u64>().unwrap(), 0);
        // A knock port is the classic layout's alone.
        create(dir.path(), "phone", None, &[]).unwrap();
        create(dir.path(), "old", Some(666), &[]).unwrap();
    }

    #[test]
    fn what_it_may_ask_for_is_in_the_profile_and_in_a_config_that_names_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        let allow = services(&["tcp/22", "udp/51820"]);
        let (made, in_config) = create(dir.path(), "a", Some(1), &allow).unwrap();
        assert_eq!(in_config, InConfig::Written);
        assert_eq!(
            fs::read(made.join("config")).unwrap(),
            b"[main]\nknock_port = 1\nallow = tcp/22, udp/51820\n\n"
        );
        assert_eq!(Profile::load(&made).unwrap().0.config.allow.unwrap(), ["tcp/22", "udp/51820"]);
        assert_eq!(fs::read(&config).unwrap(), b"[main]\nallow = tcp/22, udp/51820\n");
        assert_eq!(mode(&config), 0o600);

        fs::write(&config, "# mine\n[main]\ndelay = 20\n").unwrap();
        fs::set_permissions(&config, Permissions::from_mode(0o644)).unwrap();
        create(dir.path(), "b", Some(2), &services(&["tcp/80-90"])).unwrap();
        let written = "# mine\n[main]\nallow = tcp/80-90\ndelay = 20\n";
        assert_eq!(fs::read_to_string(&config).unwrap(), written);
        assert_eq!(mode(&config), 0o644);

        let (_, in_config) =
            create(dir.path(), "c", Some(3), &services(&["tcp/85", "tcp/443"])).unwrap();
        let allow = Some(services(&["tcp/80-90"]));
        assert_eq!(in_config, InConfig::Kept { allow, missing: services(&["tcp/443"]) });
        assert_eq!(fs::read_to_string(&config).unwrap(), written, "what is there stays");
    }

    #[test]
    fn a_config_that_is_a_link_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::write(&real, "[main]\n").unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("config")).unwrap();
        create(dir.path(), "a", Some(1), &services(&["tcp/22"])).unwrap();
        assert!(dir.path().join("config").is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"[main]\nallow = tcp/22\n");
    }

    #[test]
    fn a_config_that_cannot_be_understood_stops_it() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["[mian]\n", "[main]\nallow = ssh\n", "delay = 3\n"] {
            fs::write(dir.path().join("config"), text).unwrap();
            let error = create(dir.path(), "a", Some(1), &services(&["tcp/22"])).unwrap_err();
            assert!(matches!(&error, CreateError::BadConfig(..)), "{error}");
            assert_eq!(fs::read_to_string(dir.path().join("config")).unwrap(), text);
            let left = fs::read_dir(dir.path()).unwrap().count();
            assert_eq!((left, names(&dir.path().join("profiles")).unwrap().len()), (2, 0));
        }
    }

    #[test]
    fn two_profiles_have_different_keys() {
        let dir = tempfile::tempdir().unwrap();
        let keys = |name, port| {
            let (made, _) = create(dir.path(), name, Some(port), &[]).unwrap();
            ["cipher.key", "mac.key"].map(|file| fs::read(made.join(file)).unwrap())
        };
        let (a, b) = (keys("a", 1), keys("b", 2));
        assert!(a[0] != b[0] && a[1] != b[1] && a[0] != a[1]);
    }

    #[test]
    fn what_is_refused_leaves_everything_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), "taken", Some(666), &[]).unwrap();
        let long = "x".repeat(201);
        for (name, port) in [
            ("taken", 667),
            ("other", 666),
            ("other", 0),
            ("", 667),
            (".", 667),
            ("..", 667),
            (".hidden", 667),
            ("a/b", 667),
            ("-rf", 667),
            ("a b", 667),
            ("a\nb", 667),
            (&long, 667),
        ] {
            assert!(
                create(dir.path(), name, Some(port), &services(&["tcp/22"])).is_err(),
                "{name:?} {port}"
            );
        }
        let left = |path: &Path| -> Vec<_> {
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(left(dir.path()), ["profiles"]);
        assert_eq!(left(&dir.path().join("profiles")), ["taken"]);
    }

    #[test]
    fn what_is_handed_over_is_on_the_disk_and_a_profile_that_nobody_got_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = dir.path().join("profiles");
        let allow = services(&["udp/53", "tcp/8000-8010"]);
        let new = NewProfile { knock_port: None, bind_source: true, allow: &allow };
        let mut line = None;
        let (made, _) = create_and_hand_over(dir.path(), "laptop", &new, |enrolment| {
            assert!(profiles.join("laptop/secret.key").exists(), "what is printed is there");
            line = Some(enrolment.line());
            Ok(())
        })
        .unwrap();
        let client = crate::profile::import::import(
            &dir.path().join("client"),
            "host",
            &Enrolment::parse(line.unwrap().as_bytes()).unwrap(),
            false,
        );
        let client = client.unwrap();
        assert_eq!(client.config.port, Some(8000));
        assert!(client.config.bind_source);
        let secret = |dir: &Path| fs::read(dir.join("secret.key")).unwrap();
        assert_eq!(secret(&client.dir), secret(&made));
        let config =
            "[main]\nlayout = stealth\nbind_source = true\nallow = udp/53, tcp/8000-8010\n\n";
        assert_eq!(fs::read_to_string(made.join("config")).unwrap(), config);

        fs::remove_file(dir.path().join("config")).unwrap();
        let lost = create_and_hand_over(dir.path(), "phone", &new, |_| {
            Err(io::ErrorKind::BrokenPipe.into())
        });
        assert!(matches!(lost, Err(CreateError::NotHandedOver(_))));
        assert_eq!(names(&profiles).unwrap(), ["laptop"]);
        assert_eq!(fs::read_dir(&profiles).unwrap().count(), 1);
        assert!(!dir.path().join("config").exists());
    }

    #[test]
    fn a_client_asks_for_the_first_tcp_port_where_nobody_says_more() {
        for (allow, port) in [
            (&[][..], None),
            (&["tcp/22"], Some(22)),
            (&["udp/51820"], Some(51820)),
            (&["udp/53", "tcp/8000-8010", "tcp/22"], Some(8000)),
        ] {
            assert_eq!(first_port(&services(allow)), port, "{allow:?}");
        }
    }
}
