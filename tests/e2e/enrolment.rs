//! A profile comes to a client as one line, and another takes its place, while the server is closed to everybody else.

use std::fs;
use std::process::Command;

use crate::connection::Reach;
use crate::net::{Family, Net};
use crate::process::{SOON, wait_until};
use crate::site::{HOST, Log, Site};
use crate::user::{User, said, wrote};

const PORT: u16 = 2222;

/// Knocks with `arguments`, gets in once, and no second time.
fn gets_in(site: &mut Site, user: &User, arguments: &[&str]) {
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
    let (opened, came_in) = (site.opened(), site.came_in());
    let output = user.knock(&site.net.client, arguments, "");
    assert!(output.status.success(), "{}", said(&output));
    wait_until(SOON, "a grant", || site.opened() == opened + 1);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
    wait_until(SOON, "the door shut", || site.came_in() == came_in + 1);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
}

#[test]
fn a_profile_takes_the_place_of_another_and_access_is_never_lost() {
    replace_by(&["client-2", "668"]);
}

#[test]
fn a_stealth_profile_takes_the_place_of_a_classic_one_and_access_is_never_lost() {
    replace_by(&["client-2"]);
}

/// The client's profile is replaced by what `knock-genprofile` makes with `arguments`.
fn replace_by(arguments: &[&str]) {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 600\n");
    let _service = site.net.server.echo(PORT);
    let user = User::new(&site, Family::V4);
    let old = ["-p", "2222", HOST];
    gets_in(&mut site, &user, &old);

    let made = Command::new(env!("CARGO_BIN_EXE_knock-genprofile"))
        .args(["--config-dir".as_ref(), site.config_dir().as_os_str()])
        .args(["--print", "--allow", "tcp/2222"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", said(&made));
    gets_in(&mut site, &user, &old);
    site.stop_daemon();
    site.start_daemon();
    gets_in(&mut site, &user, &old);

    let import = ["--import", HOST, "--replace"];
    let imported = user.knock(&site.net.client, &import, &wrote(&made));
    assert!(imported.status.success(), "{}", said(&imported));
    // The line says what is asked for; the address is the old one's.
    gets_in(&mut site, &user, &[HOST]);

    // The way back is there until the old one is removed at both ends.
    let kept = user.profile().with_file_name(format!(".old-{HOST}"));
    let aside = user.profile().with_file_name(".aside");
    fs::rename(user.profile(), &aside).unwrap();
    fs::rename(&kept, user.profile()).unwrap();
    gets_in(&mut site, &user, &old);
    fs::rename(user.profile(), &kept).unwrap();
    fs::rename(&aside, user.profile()).unwrap();
    fs::remove_dir_all(site.profile("client")).unwrap();
    fs::remove_dir_all(&kept).unwrap();
    gets_in(&mut site, &user, &[HOST]);
}
