//! Inputs to begin with: the vectors in `tests/vectors`, and what has no vector but a form that chance would not find.

use knockknock::privileged::{Protocol, Reply, Request};
use serde_json::Value;

use crate::boundary::profile::END_OF_FILE;

const TRADITIONAL: &str = include_str!("../vectors/kernel-log/rsyslog-traditional.log");
const ISO: &str = include_str!("../vectors/kernel-log/rsyslog-iso.log");
const KMSG: &str = include_str!("../vectors/kernel-log/kmsg.txt");
const CLASSIC: &str = include_str!("../vectors/classic.json");

/// Everything that the kernel may print and that the vectors have not: a bridge, VLAN and tunnel, IP options, mark.
const MORE_LINES: [&str; 4] = [
    "MESSAGE=REJECT IN=br0 OUT= PHYSIN=eth0 PHYSOUT=eth1 MACSRC=0a:f8:61:10:6d:fe MACDST=ee:15:10:56:d4:d7 \
     VPROTO=8100 VID=7 MACPROTO=0800 SRC=192.0.2.7 DST=198.51.100.1 LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=4660 CE DF \
     OPT (94040000) PROTO=TCP SPT=2743 DPT=666 SEQ=305419896 ACK=0 WINDOW=4321 RES=0x00 SYN URGP=0 OPT (020405B4) \
     UID=1000 GID=1000 MARK=0x20000000 ",
    "Nov  2 09:39:15 host kernel: [  923.993648][    T1] REJECT IN=sit0 OUT= MAC=45:00 TUNNEL=192.0.2.1->192.0.2.2 \
     SRC=2001:0db8:0000:0000:0000:0000:0000:0007 DST=2001:0db8:0000:0000:0000:0000:0000:0001 LEN=60 TC=0 HOPLIMIT=64 \
     FLOWLBL=1048575 OPT ( ) PROTO=TCP SPT=2743 DPT=666 SEQ=1 ACK=0 WINDOW=4321 RES=0x00 SYN URGP=0 ",
    "4,900,923993648,-,caller=T123;REJECT IN= OUT=lo SRC=192.0.2.7 DST=198.51.100.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 \
     ID=1 PROTO=TCP SPT=1 DPT=65535 SEQ=4294967295 ACK=4294967295 WINDOW=65535 RES=0x00 SYN URGP=0 \n SUBSYSTEM=net\n",
    "2026-11-20T09:39:15-05:00 host kernel: REJECT IN=eth0 OUT= MAC= SRC=192.0.2.7 DST=198.51.100.1 LEN=40 TOS=0x00 \
     PREC=0x00 TTL=64 ID=1 MF FRAG:8 PROTO=TCP INCOMPLETE [4 bytes] ",
];

const CHUNKS: [&[u8]; 4] = [
    b"a DPT=22 \n DPT=22 \n DPT=1622 DPT=22 \n",
    b"a DPT=1 DPT=666 \nb DPT=666 DPT=1 x\nc DPT=666\nd DPT=6660 \ne DPT=0666 \nDPT=666 \n\0\0f DPT=666 \n",
    b"x DPT=70000 \ny DPT=65535 \nz DPT=0 \n",
    b"no newline at the end DPT=22 ",
];

const CONFIGS: [&str; 9] = [
    "[main]\n\"\\u001b[2J\" = 1\n",
    "",
    "[main]\ndelay=15\nerror_window=20\n",
    "[main]\ndelay = 43200\nerror_window = 10000\nlog_prefix = \"KNOCK: \"\nlog = \"/var/log/kern.log\"\n\
     firewall = \"iptables\"\nuser = \"knockknock\"\nallow = [\"tcp/22\", \"udp/60000-61000\", 'tcp/1-65535']\n\
     ipv4 = true\nipv6 = false\nmax_open = 65536\nmax_open_per_source = 65536\n",
    "# a comment\n[main]\nlog = 'kmsg' # and another\nlog_prefix = \"é \\\\ \\\" \"\nmax_open = 16\n",
    "[main]\ndelay = fifteen\n",
    "; Python 2\n[DEFAULT]\nDelay: +030 ; s\n[main]\nrem no\nallow = tcp/22,\n  tcp/8000-8010 ; two\nipv4 = yes\n",
    "\u{feff}[main]\r\nallow = [\n\"tcp/22\", # one\n]\r\nlog_prefix =\r\nuser = it's%%\r\n",
    "[main]\nalow = tcp/22\n[mian]\n",
];

const PROFILE_CONFIGS: [&str; 5] = [
    "[main]\n\"\\u001b[2J\" = 1\n",
    "[main]\nknock_port = 1622\n\n",
    "[main]\nknock_port=666\nlayout=\"classic\"\naddress = \"fe80::1%eth0\"\nport = 22\nallow = [\"tcp/22\"]\n",
    "[main]\nknock_port = 0\n",
    "[DEFAULT]\nKNOCK_PORT: 065535 ; it\n[main]\nallow = tcp/22, tcp/80-\n  udp/53\n",
];

const COUNTERS: [&str; 10] = [
    "0\n",
    "9\n",
    "0000000041\n",
    "4294967294\n",
    "4294967295\n",
    "4294967296\n",
    "",
    "1 2\n",
    "0000000000000000000000000000000000000000000000000000000000000000000000009\n",
    "9                                                                       9\n",
];

/// The published profile, in the order in which `boundary::profile` takes the files.
const EXAMPLE: [&str; 4] = [
    include_str!("../../profiles/example/config"),
    include_str!("../../profiles/example/counter"),
    include_str!("../../profiles/example/cipher.key"),
    include_str!("../../profiles/example/mac.key"),
];

/// The seeds of a boundary.
pub(crate) fn of(boundary: &str) -> Vec<Vec<u8>> {
    match boundary {
        "line" => lines(),
        "chunk" => chunks(),
        "config" => CONFIGS.map(Into::into).to_vec(),
        "profile" => profiles(),
        "classic" => knocks(),
        "message" => messages(),
        other => panic!("no seeds for {other:?}"),
    }
}

fn lines() -> Vec<Vec<u8>> {
    let exported = KMSG.lines().filter_map(|record| record.split_once(';'));
    let exported: Vec<String> = exported.map(|(_, text)| format!("MESSAGE={text}")).collect();
    let kernels = TRADITIONAL.lines().chain(ISO.lines()).chain(KMSG.lines());
    let lines = kernels.chain(exported.iter().map(String::as_str)).chain(MORE_LINES);
    lines.map(|line| line.as_bytes().to_vec()).collect()
}

fn chunks() -> Vec<Vec<u8>> {
    let lines: Vec<&str> =
        TRADITIONAL.split_inclusive('\n').chain(ISO.split_inclusive('\n')).collect();
    let pieces = lines.chunks(3).map(|lines| lines.concat().into_bytes());
    pieces.chain(CHUNKS.map(<[u8]>::to_vec)).collect()
}

fn profiles() -> Vec<Vec<u8>> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of_files = |files: [&str; 4]| files.map(str::as_bytes).join(&END_OF_FILE);
    let mut profiles = Vec::new();
    for (vector, counter) in vectors().iter().zip(COUNTERS.iter().cycle()) {
        let files = &vector["profile_files"];
        let (cipher, mac) = (text(&files["cipher.key"]), text(&files["mac.key"]));
        profiles.push(of_files([&text(&files["config"]), counter, &cipher, &mac]));
        for config in PROFILE_CONFIGS.iter().take(profiles.len()) {
            profiles.push(of_files([config, counter, &cipher, &mac]));
        }
    }
    profiles.push(of_files(EXAMPLE));
    profiles
}

/// As `boundary::classic` reads them.
fn knocks() -> Vec<Vec<u8>> {
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let short = |value: &Value| u16::try_from(value.as_u64().unwrap()).unwrap();
    let knock = |vector: &Value, window: u8, behind: u32| {
        let packet = &vector["packet"];
        let counter = number(&vector["counter"]).saturating_sub(behind);
        [
            hex(&vector["cipher_key_hex"]).as_slice(),
            &hex(&vector["mac_key_hex"]),
            &counter.to_be_bytes(),
            &short(&packet["ip_id"]).to_be_bytes(),
            &number(&packet["tcp_seq"]).to_be_bytes(),
            &number(&packet["tcp_ack"]).to_be_bytes(),
            &short(&packet["tcp_window"]).to_be_bytes(),
            &[window],
            &short(&vector["port"]).to_be_bytes(),
            &[3, 90],
        ]
        .concat()
    };
    let vectors = vectors();
    let each = vectors.iter().zip([0, 1, 2, 7].into_iter().cycle());
    each.flat_map(|(vector, behind)| [knock(vector, 8, behind), knock(vector, 200, 0)]).collect()
}

/// As `boundary::message` reads them.
fn messages() -> Vec<Vec<u8>> {
    let any_tcp = [&[1, 7, 3, 0, 0, 60][..], &[192, 0, 2, 1], &[0x20; 16]].concat();
    let listed = [
        &[0, 2, 1, 2, 0, 15][..],
        &[0, 0, 22, 0, 22, 1, 0xea, 0x60, 0xee, 0x48],
        &[192, 0, 2, 1],
        &[0x20; 16],
    ]
    .concat();
    let mut messages = vec![any_tcp.clone(), listed.clone()];
    let addresses = [
        "192.0.2.7",
        "192.0.2.1",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "2001:db8::7",
        "::",
        "::1",
        "ff02::1",
        "::ffff:192.0.2.7",
        "fe80::7",
        "2020:2020:2020:2020:2020:2020:2020:2020",
    ];
    for address in addresses {
        for (protocol, port) in [(Protocol::Tcp, 22), (Protocol::Udp, 60_000)] {
            let address = address.parse().unwrap();
            let request = Request { address, protocol, port, seconds: 15 }.encode();
            messages.push([&any_tcp[..], &[1], &request].concat());
            messages.push([&listed[..], &[1], &request, &[9], &request, &[20], &request].concat());
        }
    }
    let hosts = (1..=9_u8).map(|host| Request {
        address: [192, 0, 2, host].into(),
        protocol: Protocol::Tcp,
        port: 22 + u16::from(host % 4),
        seconds: 60,
    });
    let many = hosts.flat_map(|request| [&[1], &request.encode()[..]].concat());
    messages.push([any_tcp.clone(), many.collect()].concat());
    let replies = [Reply::Ready, Reply::Full, Reply::Failed(-7)].map(Reply::encode).concat();
    messages.push([&any_tcp[..], &[1], &replies].concat());
    messages
}

fn vectors() -> Vec<Value> {
    serde_json::from_str(CLASSIC).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}
