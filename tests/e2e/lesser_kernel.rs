//! Kernels that lack what the daemon would rather use: `lesser_kernel.c` stands between the daemon and this one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::connection::Reach;
use crate::net::{FAMILIES, Net};
use crate::process::Running;
use crate::site::{Log, Site};

const PORT: u16 = 2222;
const NO_TABLES: &str = "this kernel has no nf_tables";
const NO_HELPER: &str = "this kernel has no conntrack helper";

/// The library that makes the kernel a lesser one.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/lesser_kernel.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("lesser_kernel-{}.so", std::process::id()));
        let built = Command::new("cc")
            .args(["-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .output()
            .unwrap();
        assert!(built.status.success(), "{built:?}");
        library
    })
}

/// The daemon's command on a kernel that lacks `what`.
fn daemon(site: &Site, what: &str) -> Command {
    let mut command = site.daemon_command();
    command.env("LD_PRELOAD", library()).env("LACKS", what);
    command
}

/// What `--check` says there, and its exit status.
fn checked(site: &Site, what: &str) -> (Option<i32>, String) {
    let output = daemon(site, what).arg("--check").output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn without_nf_tables_another_firewall_logs_and_a_grant_is_for_one_syn() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, &format!("allow = tcp/{PORT}\n"));
    let (status, said) = checked(&site, "nf_tables");
    assert!(status == Some(0) && said.contains(NO_TABLES), "{status:?} {said}");
    let command = daemon(&site, "nf_tables");
    site.start_as(command);
    site.wait_for(NO_TABLES);
    let tables = site.net.server.run(&["nft", "list", "tables"]);
    assert!(!tables.contains("inet knockknock\n"), "{tables}");
    let _service = site.net.server.echo(PORT);
    for family in FAMILIES {
        assert_eq!(site.reach(family, PORT), Reach::Refused);
        site.knock(family, PORT);
        assert_eq!(site.reach(family, PORT), Reach::Connected);
        site.wait_until_shut(Duration::from_secs(5));
        assert_eq!(site.reach(family, PORT), Reach::Refused);
    }
    site.stop_daemon();
}

#[test]
fn without_a_conntrack_helper_the_set_and_the_mark_do_and_conntrack_alone_is_refused() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, &format!("allow = tcp/{PORT}\n"));
    let (status, said) = checked(&site, "helpers");
    assert!(status == Some(0) && said.contains("must accept our mark"), "{status:?} {said}");

    let mut alone = daemon(&site, "helpers");
    let mut refused = Running::start(alone.args(["--firewall", "conntrack"]));
    refused.wait_for_line(NO_HELPER, |line| line.contains(NO_HELPER));
    refused.wait_for_line("the modules", |line| line.contains("nf_conntrack_netbios_ns"));
    assert!(!refused.wait_for_end().success());

    let command = daemon(&site, "helpers");
    site.start_as(command);
    site.wait_for("uses firewall = \"nftables\"");
    let _service = site.net.server.echo(PORT);
    for family in FAMILIES {
        assert_eq!(site.reach(family, PORT), Reach::Refused);
        site.knock(family, PORT);
        assert_eq!(site.reach(family, PORT), Reach::Connected);
        assert_eq!(site.reach(family, PORT), Reach::Refused);
    }
    site.stop_daemon();
    let left = site.net.server.run(&["nft", "list", "tables"]);
    assert!(!left.contains("inet knockknock\n"), "{left}");
}
