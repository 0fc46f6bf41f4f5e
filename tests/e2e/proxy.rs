//! `knock-proxy` as an ordinary user: nc, curl and raw SOCKS through it, to a server that is closed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::net::{Family, Net};
use crate::process::{Running, SOON, wait_until};
use crate::site::{HOST, KNOCK_PORT, Log, Site};
use crate::user::{Sshd, User, said, wrote};
use crate::wire::Tap;

const PORT: u16 = 2222;
const PROXY: u16 = 1080;
const WEB: u16 = 8080;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Proxied {
    proxy: Running,
    user: User,
    site: Site,
}

impl Proxied {
    fn start(arguments: &[&str]) -> Self {
        let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
        let user = User::new(&site, Family::V4);
        let proxy = Self::proxy(&site, &user, arguments);
        Self { proxy, user, site }
    }

    fn proxy(site: &Site, user: &User, arguments: &[&str]) -> Running {
        let mut command = user.command(&site.net.client, "knock-proxy");
        let mut proxy = Running::start(command.args(arguments).arg(PROXY.to_string()));
        proxy.wait_for_line("ready", |line| line.contains("ready on 127.0.0.1:1080"));
        proxy
    }

    /// A SOCKS 5 connection without a password; the reply to `request`, which begins at the address type.
    fn socks5(&self, command: u8, request: &[u8]) -> (TcpStream, [u8; 2]) {
        let mut stream = self.site.net.client.connect(LOOPBACK, PROXY, SOON).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(&[5, 1, 0]).unwrap();
        let mut method = [0; 2];
        stream.read_exact(&mut method).unwrap();
        assert_eq!(method, [5, 0]);
        stream.write_all(&[&[5, command, 0], request].concat()).unwrap();
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).unwrap();
        (stream, [reply[0], reply[1]])
    }

    fn curl(&self, arguments: &[&str]) -> String {
        let output =
            self.user.command(&self.site.net.client, "curl").args(arguments).output().unwrap();
        wrote(&output)
    }
}

/// The request for an IPv4 address, for a name.
fn to_address(address: Ipv4Addr, port: u16) -> Vec<u8> {
    [&[1][..], &address.octets(), &port.to_be_bytes()].concat()
}

fn to_name(name: &str, port: u16) -> Vec<u8> {
    let len = u8::try_from(name.len()).unwrap();
    [&[3, len][..], name.as_bytes(), &port.to_be_bytes()].concat()
}

fn web_server(site: &Site, page: &str) -> Running {
    let dir = site.net.path("www");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("page"), page).unwrap();
    let mut command = site.net.server.command("python3");
    command.args(["-u", "-m", "http.server", "--bind", "::", "--directory"]);
    let mut server = Running::start(command.arg(dir).arg(WEB.to_string()));
    server.wait_for_line("Serving", |line| line.starts_with("Serving"));
    server
}

#[test]
fn fifty_pages_at_once_from_a_closed_web_server_take_one_knock_each() {
    let proxied = Proxied::start(&[]);
    let page = "p".repeat(100_000);
    let _web = web_server(&proxied.site, &page);
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let got = proxied.curl(&[
                    "-s",
                    "--socks5-hostname",
                    "127.0.0.1:1080",
                    &format!("http://{HOST}:{WEB}/page"),
                ]);
                assert!(got == page, "{} bytes", got.len());
            });
        }
    });
    assert_eq!(proxied.user.counter(), 50);
}

#[test]
fn those_who_wait_while_the_door_stays_shut_spend_no_counter() {
    let mut proxied = Proxied::start(&[]);
    proxied.site.stop_daemon();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            // 5: connection refused
            scope.spawn(|| assert_eq!(proxied.socks5(1, &to_name(HOST, WEB)).1, [5, 5]));
        }
    });
    assert_eq!(proxied.user.counter(), 2);
    // And who comes later tries again.
    proxied.site.start_daemon();
    let _web = web_server(&proxied.site, "hello");
    let url = format!("http://{HOST}:{WEB}/page");
    assert_eq!(proxied.curl(&["-s", "--socks5-hostname", "127.0.0.1:1080", &url]), "hello");
    assert_eq!(proxied.user.counter(), 3);
}

#[test]
fn a_client_that_hangs_up_while_it_waits_ends_its_attempt() {
    let mut proxied = Proxied::start(&["-v"]);
    proxied.site.stop_daemon();
    let mut tap = Tap::on(&proxied.site.net.server);
    let ask = || {
        let mut stream = proxied.site.net.client.connect(LOOPBACK, PROXY, SOON).unwrap();
        stream.write_all(&[&[5, 1, 0, 5, 1, 0][..], &to_name(HOST, PORT)].concat()).unwrap();
        // Nothing is left unread, so that it ends by an end and not by a reset.
        stream.read_exact(&mut [0; 2]).unwrap();
        stream
    };
    let knocking = ask();
    tap.wait_for_syn(KNOCK_PORT);
    // Another waits for its turn.
    let waiting = ask();
    std::thread::sleep(Duration::from_millis(100));
    drop(waiting);
    drop(knocking);
    let hung_up = |proxy: &Running| {
        proxy.lines().iter().filter(|line| line.contains("the client hung up")).count()
    };
    wait_until(SOON, "both to be noticed", || hung_up(&proxied.proxy) == 2);
    // The first would have sent its knock again after a second, the other a knock of its own.
    assert!(tap.syns_to(KNOCK_PORT, Duration::from_secs(3)).is_empty());
    assert_eq!(proxied.user.counter(), 1);
}

#[test]
fn a_host_is_known_by_its_name_and_by_its_address_in_each_version_of_socks() {
    let proxied = Proxied::start(&[]);
    let _web = web_server(&proxied.site, "hello");
    let address = proxied.site.net.server.ipv4;
    for (option, host) in [
        ("--socks5-hostname", HOST.to_owned()),
        ("--socks5-hostname", HOST.to_uppercase()),
        ("--socks5", address.to_string()),
        ("--socks4a", HOST.to_owned()),
        ("--socks4", address.to_string()),
    ] {
        let url = format!("http://{host}:{WEB}/page");
        assert_eq!(
            proxied.curl(&["-s", option, "127.0.0.1:1080", &url]),
            "hello",
            "{option} {url}"
        );
    }
    assert_eq!(proxied.user.counter(), 5);
}

#[test]
fn ssh_works_through_nc_and_the_proxy() {
    let proxied = Proxied::start(&[]);
    let sshd = Sshd::start(&proxied.site, &proxied.user, Family::V4);
    for _ in 0..10 {
        let mut ssh = proxied.user.command(&proxied.site.net.client, "ssh");
        let output = ssh
            .arg("-F")
            .arg(&sshd.config)
            .args(["-o", "ProxyCommand=nc -X 5 -x 127.0.0.1:1080 %h %p", HOST, "echo in"])
            .output()
            .unwrap();
        assert_eq!(wrote(&output), "in\n", "{}", said(&output));
    }
    assert_eq!(proxied.user.counter(), 10);
}

#[test]
fn others_are_connected_plainly_and_a_profile_made_later_is_knocked_for() {
    let proxied = Proxied::start(&[]);
    let other = proxied.site.net.other.ipv4;
    let _service = proxied.site.net.other.echo(PORT);
    let (mut stream, reply) = proxied.socks5(1, &to_address(other, PORT));
    assert_eq!(reply, [5, 0]);
    stream.write_all(b"plain").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).unwrap();
    assert_eq!(echoed, "plain");
    assert_eq!(proxied.user.counter(), 0);

    let hidden = proxied.user.profile();
    let profiles = hidden.parent().unwrap();
    let later = profiles.join("later.test");
    fs::rename(&hidden, &later).unwrap();
    let _service = proxied.site.net.server.echo(PORT);
    let (_, reply) = proxied.socks5(1, &to_name("later.test", PORT));
    assert_eq!(reply, [5, 0]);
    assert_eq!(fs::read_to_string(later.join("counter")).unwrap(), "1\n");
}

#[test]
fn a_name_that_resolves_to_the_server_but_is_no_profile_s_is_not_knocked_for() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let user = User::new(&site, Family::V4);
    // An open port, so that the connection itself is no knock's.
    site.minimal_firewall(&["--allow", &format!("tcp/{PORT}")]);
    let service = site.net.server.echo(PORT);
    let address = site.net.server.ipv4;
    let hosts = user.write("hosts", &format!("{address} stranger.test {HOST}\n"));
    let mut command = user.program_with_hosts(&site, &hosts, "knock-proxy");
    let mut proxy = Running::start(command.args(["-v", &PROXY.to_string()]));
    proxy.wait_for_line("ready", |line| line.contains("ready on"));
    let mut proxied = Proxied { proxy, user, site };
    let mut tap = Tap::on(&proxied.site.net.client);
    let (_stranger, reply) = proxied.socks5(1, &to_name("stranger.test", PORT));
    assert_eq!(reply, [5, 0]);
    wait_until(SOON, "a connection", || service.accepted() == 1);
    assert_eq!(proxied.user.counter(), 0);
    assert!(tap.syns_to(KNOCK_PORT, Duration::from_millis(500)).is_empty());
    // By its own name, by its address: knocked for, which the same tap sees.
    let (_own, reply) = proxied.socks5(1, &to_name(HOST, PORT));
    assert_eq!(reply, [5, 0]);
    let first = tap.wait_for_syn(KNOCK_PORT);
    assert_eq!(first.destination, IpAddr::from(address));
    let (_address, reply) = proxied.socks5(1, &to_address(address, PORT));
    assert_eq!(reply, [5, 0]);
    tap.wait_for_syn(KNOCK_PORT);
    assert_eq!(proxied.user.counter(), 2, "and none for the stranger's name");
    proxied.proxy.wait_for_line("the stranger", |line| {
        line.ends_with(&format!("stranger.test port {PORT}: connected"))
    });
}

#[test]
fn a_browser_that_speaks_http_to_it_is_told_what_it_is() {
    let mut proxied = Proxied::start(&["-v"]);
    let url = "http://server.example/";
    for arguments in [
        &["-s", "-i", "http://127.0.0.1:1080/"][..],
        &["-s", "-i", "-x", "http://127.0.0.1:1080", url],
        &["-s", "-i", "-x", "http://127.0.0.1:1080", "-d", &"x".repeat(50_000), url],
    ] {
        let got = proxied.curl(arguments);
        assert!(got.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{arguments:?}: {got}");
        assert!(got.contains("--socks5-hostname 127.0.0.1:1080 "), "{got}");
    }
    let said = proxied.curl(&["-sS", "--stderr", "-", "-p", "-x", "http://127.0.0.1:1080", url]);
    assert!(said.contains("400"), "CONNECT: {said}");
    proxied.proxy.wait_for_line("HTTP", |line| line.contains("HTTP, where SOCKS is spoken"));

    let mut stream = proxied.site.net.client.connect(LOOPBACK, PROXY, SOON).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&[0x16, 3, 1]).unwrap();
    // The end, or a reset where the rest of what it said was not read.
    assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0);
    proxied.proxy.wait_for_line("TLS", |line| line.contains("TLS, where SOCKS is spoken"));
    assert_eq!(proxied.user.counter(), 0);
}

#[test]
fn socks_4_with_bytes_after_the_request_loses_none() {
    let proxied = Proxied::start(&[]);
    let _service = proxied.site.net.other.echo(PORT);
    let mut stream = proxied.site.net.client.connect(LOOPBACK, PROXY, SOON).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let address = proxied.site.net.other.ipv4.octets();
    stream.write_all(&[&[4, 1], &PORT.to_be_bytes()[..], &address, b"me\0early"].concat()).unwrap();
    let mut got = [0; 13];
    stream.read_exact(&mut got).unwrap();
    assert_eq!((got[1], &got[8..]), (90, &b"early"[..]));
}

#[test]
fn what_is_not_served_is_refused_in_socks_own_words() {
    let proxied = Proxied::start(&[]);
    let server = proxied.site.net.server.ipv4;
    for command in [2, 3, 9] {
        let (mut stream, reply) = proxied.socks5(command, &to_address(server, PORT));
        assert_eq!(reply, [5, 7], "command {command} is not supported");
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "and that is the end");
    }
    let (_, reply) = proxied.socks5(1, &to_name("no-such-host.invalid", 80));
    assert_eq!(reply, [5, 4], "host unreachable");
    let (_, reply) = proxied.socks5(1, &to_address(Ipv4Addr::LOCALHOST, 9));
    assert_eq!(reply, [5, 5], "connection refused");
    assert_eq!(proxied.user.counter(), 0);
    let (_, reply) = proxied.socks5(1, &to_name(HOST, PORT));
    assert_eq!(reply, [5, 5], "nobody listens there, after two knocks");
    assert_eq!(proxied.user.counter(), 2);
}

#[test]
fn five_hundred_connections_at_once_each_half_closed_lose_no_byte() {
    let proxied = Proxied::start(&[]);
    let service = proxied.site.net.other.echo(PORT);
    let other = proxied.site.net.other.ipv4;
    let mut streams: Vec<TcpStream> = (0..500)
        .map(|_| {
            let (stream, reply) = proxied.socks5(1, &to_address(other, PORT));
            assert_eq!(reply, [5, 0]);
            stream
        })
        .collect();
    wait_until(SOON, "all of them stand", || service.accepted() == 500);
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(format!("hello {number}").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut echoed = String::new();
        stream.read_to_string(&mut echoed).unwrap();
        assert_eq!(echoed, format!("hello {number}"));
    }
}

#[test]
fn sigterm_ends_listening_at_once_and_running_connections_after_they_are_done() {
    let mut proxied = Proxied::start(&[]);
    let _service = proxied.site.net.other.echo(PORT);
    let (mut stream, reply) = proxied.socks5(1, &to_address(proxied.site.net.other.ipv4, PORT));
    assert_eq!(reply, [5, 0]);
    proxied.proxy.signal(Signal::SIGTERM);
    proxied.proxy.wait_for_line("no new connections", |line| line.contains("no new connections"));
    assert!(proxied.site.net.client.connect(LOOPBACK, PROXY, SOON).is_err());
    stream.write_all(b"still here").unwrap();
    let mut echoed = [0; 10];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"still here");
    assert!(proxied.proxy.is_running());
    drop(stream);
    assert!(proxied.proxy.wait_for_end().success());
}

#[test]
fn a_connection_that_breaks_does_not_look_like_one_that_ended() {
    let proxied = Proxied::start(&[]);
    let other = &proxied.site.net.other;
    let listener = other.bind(|| std::net::TcpListener::bind((other.ipv4, PORT)));
    let (mut stream, reply) = proxied.socks5(1, &to_address(other.ipv4, PORT));
    assert_eq!(reply, [5, 0]);
    let (server, _) = listener.accept().unwrap();
    let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&server, nix::sys::socket::sockopt::Linger, &now).unwrap();
    drop(server);
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn with_a_password_nobody_gets_in_without_it() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let user = User::new(&site, Family::V4);
    let auth = user.write("auth", "me:secret\n");
    let proxy = Proxied::proxy(&site, &user, &["--auth", auth.to_str().unwrap()]);
    let proxied = Proxied { proxy, user, site };
    let _web = web_server(&proxied.site, "hello");
    let url = format!("http://{HOST}:{WEB}/page");
    for (proxy, expected) in [
        ("socks5h://me:secret@127.0.0.1:1080", "hello"),
        ("socks5h://me:wrong@127.0.0.1:1080", ""),
        ("socks5h://127.0.0.1:1080", ""),
        ("socks4a://127.0.0.1:1080", ""),
    ] {
        assert_eq!(proxied.curl(&["-s", "-x", proxy, &url]), expected, "{proxy}");
    }
    assert_eq!(proxied.user.counter(), 1);
}

#[test]
fn it_holds_no_capability_and_warns_when_others_can_reach_it() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let user = User::new(&site, Family::V4);
    let mut command = user.command(&site.net.client, "knock-proxy");
    let mut proxy = Running::start(command.args(["--listen", "0.0.0.0", "1080"]));
    proxy.wait_for_line("ready", |line| line.contains("ready on 0.0.0.0:1080"));
    let warned = proxy.lines().iter().any(|line| {
        line.contains("warning") && line.contains("everyone who can reach 0.0.0.0:1080")
    });
    assert!(warned, "{:#?}", proxy.lines());
    let tasks = Path::new("/proc").join(proxy.pid().to_string()).join("task");
    for task in tasks.read_dir().unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    }
}

#[test]
fn it_takes_the_socket_that_systemd_hands_over() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let user = User::new(&site, Family::V4);
    let _service = site.net.server.echo(PORT);
    // What systemd does: a listening socket as descriptor 3, and two variables.
    let line = "exec python3 -c 'import os,socket
s=socket.socket(); s.bind((\"127.0.0.1\",1080)); s.listen(); os.dup2(s.fileno(),3); os.set_inheritable(3,True)
os.environ[\"LISTEN_FDS\"]=\"1\"; os.environ[\"LISTEN_PID\"]=str(os.getpid())
os.execvp(\"knock-proxy\",[\"knock-proxy\"])'";
    let mut command = user.command(&site.net.client, "sh");
    let mut proxy = Running::start(command.args(["-c", line]));
    proxy.wait_for_line("ready", |line| line.contains("ready on 127.0.0.1:1080"));
    let proxied = Proxied { proxy, user, site };
    let (_, reply) = proxied.socks5(1, &to_name(HOST, PORT));
    assert_eq!(reply, [5, 0]);
}

/// Kept apart so that a failure to install curl or nc is told as such.
#[test]
fn the_tools_of_these_tests_are_there() {
    for tool in ["curl", "nc", "ssh", "python3", "setpriv", "setcap"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        assert!(found.unwrap().status.success(), "{tool} is not installed");
    }
    // Long enough for the slowest of them.
    assert!(SOON >= Duration::from_secs(10));
}
