//! The client's own stealth knocks before the warden. docs/stealth.md has what it says of them.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use knockknock::client::knock::kernel_syn::KernelSyn;
use knockknock::client::knock::raw_socket::RawSockets;
use knockknock::client::knock::route::Route;
use knockknock::layout::Request;
use knockknock::layout::stealth::StealthKeys;

use crate::net::FAMILIES;
use crate::stealth_attempts::{Act, KnockProgram, Knocker, REFUSED, fresh_port, make, mix};
use crate::stealth_warden::{
    CHANCE, N, PAUSE, assert_p0f_says_the_same, assert_told_by_a_second_use_alone, by_act, by_port,
    net,
};
use crate::warden::compare;

/// What `knock` does, without the start of a program, so that nothing but chance decides when a SYN leaves.
struct Client {
    route: Route,
    raw: RawSockets,
    keys: StealthKeys,
    number: AtomicU64,
    port: u16,
}

impl Knocker for Client {
    fn prepare(&self) -> Box<dyn FnOnce() -> Box<dyn Any> + '_> {
        let syn = KernelSyn::for_route(&self.route, self.port).unwrap();
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let fields = self.keys.seal(number, Request(self.port), None);
        let (packet, source_port) = syn.carrying(fields);
        Box::new(move || {
            self.raw.send(&packet, 0).unwrap();
            Box::new(source_port)
        })
    }
}

/// As they are used, knocks and connections to the same port, 3,000 of each.
#[test]
fn a_4_tuple_used_twice_tells_the_clients_knocks_and_nothing_else_does() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        let target = SocketAddr::new(net.server.address(family), 0);
        let client = net.client.inside(|| Client {
            route: Route::find(target, None).unwrap(),
            raw: RawSockets::open().unwrap(),
            keys: StealthKeys::new(b"32 bytes that nobody else knows."),
            number: AtomicU64::new(256 * 179_000_000),
            port: fresh_port(),
        });
        let rows = [(N, Act::Knock(client.port, &client)), (N, Act::Connect(client.port))];
        let acts = mix(&mut pattern, &rows);
        let made = make(&net, &mut pattern, family, &acts, Duration::from_millis(2), REFUSED);
        assert_told_by_a_second_use_alone(&by_act(&made.attempts, &acts));
    }
}

/// The whole program, from the profile on.
#[test]
fn the_programs_knocks_are_not_told_from_real_attempts() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        let [knocks, real] = [fresh_port(), fresh_port()];
        let program = KnockProgram::stealth(&net, family, knocks);
        let rows = [(300, Act::Knock(knocks, &program)), (300, Act::Connect(real))];
        let acts = mix(&mut pattern, &rows);
        let made = make(&net, &mut pattern, family, &acts, PAUSE, REFUSED);
        let report = compare(&by_port(&made.attempts, knocks, real).first_uses());
        eprintln!("{report}");
        // When a SYN leaves is up to whoever starts the program, which takes its time.
        let is_time = |name: &&str| *name == "time to the next SYN";
        assert!(report.telling(CHANCE).iter().all(is_time), "{report}");
        assert_p0f_says_the_same(&net, &made, knocks, real);
    }
}
