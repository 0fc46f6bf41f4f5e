//! Inputs to begin with: the vectors in `tests/vectors`, and what has no vector but a form that chance would not find.

use std::net::IpAddr;

use knockknock::grant::{Grant, Protocol, Spend};
use knockknock::privileged::message::{Message, Reply};
use serde_json::Value;

use crate::boundary::profile::END_OF_FILE;

const TRADITIONAL: &str = include_str!("../vectors/kernel-log/rsyslog-traditional.log");
const ISO: &str = include_str!("../vectors/kernel-log/rsyslog-iso.log");
const KMSG: &str = include_str!("../vectors/kernel-log/kmsg.txt");
const CLASSIC: &str = include_str!("../vectors/classic.json");

/// Everything that the kernel may print and that the vectors have not: a bridge, VLAN and tunnel, IP options, mark.
const MORE_LINES: [&str; 10] = [
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
    "Nov 20 09:39:15 host kern.debug kernel: [  923.993648] REJECT IN=eth0 OUT= SRC=192.0.2.7 DST=198.51.100.1 LEN=40 \
     TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=TCP SPT=1 DPT=666 SEQ=1 ACK=2 WINDOW=3 RES=0x00 SYN URGP=0 ",
    "Thu Nov 20 09:39:15 2026 kern.warn kernel: [  923.993648] REJECT IN=eth0 OUT= SRC=192.0.2.7 DST=198.51.100.1 \
     LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=TCP SPT=1 DPT=666 SEQ=1 ACK=2 WINDOW=3 RES=0x00 SYN URGP=0 ",
    "<7>1 2026-11-20T09:39:15.430921+00:00 host kernel - - [a@1 b=\"]\"][c] REJECT IN=eth0 OUT= SRC=192.0.2.7 \
     DST=198.51.100.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=TCP SPT=1 DPT=666 SEQ=1 ACK=2 WINDOW=3 RES=0x00 SYN \
     URGP=0 ",
    "Nov 20 09:39:15 [kernel] REJECT IN=eth0 OUT= SRC=192.0.2.7 DST=198.51.100.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=1 \
     PROTO=TCP SPT=1 DPT=666 SEQ=1 ACK=2 WINDOW=3 RES=0x00 SYN URGP=0 ",
    "<6>Nov 20 09:39:15 host kernel:[  923.993648] REJECT IN=eth0 OUT= SRC=192.0.2.7 DST=198.51.100.1 LEN=40 TOS=0x00 \
     PREC=0x00 TTL=64 ID=1 PROTO=TCP SPT=1 DPT=666 SEQ=1 ACK=2 WINDOW=3 RES=0x00 SYN URGP=0 ",
    "Nov 20 09:39:15 host kernel[0]: REJECT IN=eth0 OUT= SRC=192.0.2.7 DST=198.51.100.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 \
     ID=1 PROTO=TCP SPT=1 DPT=666 SEQ=1 ACK=2 WINDOW=3 RES=0x00 SYN URGP=0 ",
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
     firewall = \"conntrack\"\nuser = \"knockknock\"\nallow = [\"tcp/22\", \"udp/60000-61000\", 'tcp/1-65535']\n\
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

/// Pairs of a knock and what becomes of its counter, after the byte that chooses the start: in order; two far ahead, in
/// order and not; the same again; one that the window reaches later; the last counters that there are.
const SEQUENCES: [&[u8]; 5] = [
    &[200, 8, 0, 9, 0, 11, 0, 11, 0, 9, 0, 15, 0],
    &[200, 60, 0, 61, 0, 60, 0, 61, 0, 62, 0, 63, 0],
    &[200, 61, 0, 60, 0, 61, 0, 80, 0, 80, 0, 62, 255, 62, 0],
    &[200, 14, 0, 10, 0, 14, 0, 13, 0, 14, 0, 15, 0],
    &[0, 130, 0, 134, 0, 135, 0, 135, 0, 254, 0, 255, 0],
];

/// Lines that `knock-genprofile --print` once printed, with keys of zeros and ones, and one of a later version.
const LINES: [&str; 4] = [
    "knockknock-profile-1,layout=stealth,port=22,secret=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc,\
     check=7bdbe7ba671187ea",
    "knockknock-profile-1,layout=classic,knock_port=666,port=22,cipher=AQEBAQEBAQEBAQEBAQEBAQ,mac=_____________________w,\
     check=93f244a7a4340b03",
    "Welcome!\r\nknockknock-profile-1,layout=stealth,port=22,secret=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc,\
     check=7bdbe7ba671187ea\r\nmade the profile laptop\r\n",
    "knockknock-profile-2,layout=next,key=AAAA",
];

/// The fields of others: `boundary::import` adds the checksum.
const FIELDS: [&str; 7] = [
    "layout=stealth,secret=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc",
    "layout=stealth,bind_source=true,port=65535,secret=-_-_AwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc",
    "layout=stealth,knock_port=1,bind_source=true,port=1,secret=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc",
    "layout=classic,knock_port=1622,cipher=AQEBAQEBAQEBAQEBAQEBAQ,mac=AgICAgICAgICAgICAgICAg",
    "layout=classic,knock_port=65535,port=443,cipher=AQEBAQEBAQEBAQEBAQEBAQ,mac=AgICAgICAgICAgICAgICAg",
    "layout=classic,knock_port=666,cipher=ZXhhbXBsZSwgZG8gbm90IA,mac=dXNlIHRoZXNlIGtleXMhIQ",
    "layout=stealth,secret=ZXhhbXBsZSwgZG8gbm90IHVzZSB0aGlzIHNlY3JldCE",
];

/// Numbers about the clock's, with all of them at hand and with few; knocks that arrive, and clocks that are set.
const STEPS: [&[u8]; 3] = [
    b"\x02\x80\x00\x03\x01\x00\x04\xaf\x00\x00\x32\x1e\x02\x80\x00\x03\x02\x03\x00\x03\x01\x0a\x03\x01\x03\x01\xc0\x03\x00\x03\x00\x00\x03",
    b"\x00\x00\x07\x03\x01\x00\x00\x64\xff\x80\x01\x05\x00\x00\x07\x03\x03\x03\x00\x00\x00\x00\x03\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff\x03",
    b"\x01\x00\x02\x01\x00\x00\x04\x4a\x00\x00\x00\x3c\x01\x00\x05\x03\x03\x03\x03",
];

/// Changes to the map; a knock with all that says which it is; the options of a kernel's SYN.
const TAGS: [&[u8]; 2] = [
    b"\x06\x00\x00\x00\x04\x02\x00\x00\x08\x01\x04\x00\x1b\x00\x00\x00\x0a\xab\x3d\x80\x01\x00\x03\x00\x03\x00\x05\x01\x01\xff020405B40402080A89ABCDEF0000000001030307",
    b"\x0a\x00\x03\x02\x03\x02\x03\x02\x03\x02\x03\x02\x03\x02\x03\x02\x03\x02\x03\x01\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01\x00\x02\x0e\x0e\xff0101080AFFFFFFFF00000000",
];

/// The published profile, in the order in which `boundary::profile` takes the files.
const EXAMPLE: [&str; 4] = [
    include_str!("../../profiles/example/config"),
    include_str!("../../profiles/example/counter"),
    include_str!("../../profiles/example/cipher.key"),
    include_str!("../../profiles/example/mac.key"),
];

const EXAMPLE_STEALTH: [&str; 5] = [
    include_str!("../../profiles/example-stealth/config"),
    include_str!("../../profiles/example-stealth/counter"),
    "",
    "",
    include_str!("../../profiles/example-stealth/secret.key"),
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
        "steps" => STEPS.map(Into::into).to_vec(),
        "tags" => TAGS.map(Into::into).to_vec(),
        "sequence" => SEQUENCES.map(Into::into).to_vec(),
        "socks" => socks(),
        "auth" => auth(),
        "answers" => answers(),
        "import" => LINES.iter().chain(&FIELDS).map(|text| text.as_bytes().to_vec()).collect(),
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
    profiles.push(EXAMPLE_STEALTH.map(str::as_bytes).join(&END_OF_FILE));
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
    let any_tcp = vec![1, 7, 3, 0, 0, 60];
    let listed = [&[0, 2, 1, 2, 0, 15][..], &[0, 0, 22, 0, 22, 1, 0xea, 0x60, 0xee, 0x48]].concat();
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
            let address: IpAddr = address.parse().unwrap();
            let own = if address.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
            let destination = own.parse().unwrap();
            let spend = Spend::Any;
            let request = Grant { address, destination, protocol, port, seconds: 15, spend };
            let [open, close] =
                [Message::Open(request), Message::Close(request)].map(|m| m.encode());
            messages.push([&any_tcp[..], &[1], &open].concat());
            messages.push([&listed[..], &[1], &open, &[9], &close, &[20], &open].concat());
        }
    }
    let hosts = (1..=9_u8).map(|host| Grant {
        address: [192, 0, 2, host].into(),
        destination: [198, 51, 100, 1].into(),
        protocol: Protocol::Tcp,
        port: 22 + u16::from(host % 4),
        seconds: 60,
        spend: Spend::One,
    });
    let many = hosts.flat_map(|request| [&[1], &Message::Open(request).encode()[..]].concat());
    messages.push([any_tcp.clone(), many.collect()].concat());
    let numbers = [Message::Expect((0..127).collect()), Message::Forget(vec![7]), Message::Unguard];
    for message in numbers.into_iter().chain([Message::KnockPorts(vec![666, 65_535]), Message::End])
    {
        messages.push([&any_tcp[..], &[1], &message.encode()].concat());
    }
    let replies = [Reply::Ready, Reply::Full, Reply::Failed(-7)].map(Reply::encode).concat();
    messages.push([&any_tcp[..], &[1], &replies].concat());
    messages
}

/// As `boundary::socks` reads them: whether a password is asked for, then what a client sends.
fn socks() -> Vec<Vec<u8>> {
    let mut requests: Vec<Vec<u8>> = Vec::new();
    let name = |name: &str| [&[3, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
    for target in [
        vec![1, 192, 0, 2, 7],
        [&[4, 0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[7]].concat(),
        [&[4][..], &[0; 10], &[0xff, 0xff, 192, 0, 2, 7]].concat(),
        name("server.example"),
        name("[2001:db8::7]"),
        name("192.0.2.7"),
        name("b\u{fc}cher.example"),
        name(""),
        name(&"x".repeat(255)),
    ] {
        for port in [[0, 22], [0, 0], [1, 187]] {
            requests.push([&[0, 5, 1, 0, 5, 1, 0], &target[..], &port].concat());
        }
        let password = [&[1, 5, 2, 0, 2, 1, 2][..], b"me", &[6], b"secret"].concat();
        requests.push([&password[..], &[5, 1, 0], &target[..], &[0, 22]].concat());
        requests.push([&password[..], &[5, 2, 0], &target[..], &[0, 22]].concat());
        requests
            .push([&[0, 5, 1, 0, 5, 1, 0], &target[..], &[0, 22], b"SSH-2.0-OpenSSH_9.2"].concat());
    }
    let wrong =
        [&[1, 5, 1, 2, 1, 2][..], b"me", &[5], b"wrong", &[5, 1, 0, 1, 192, 0, 2, 7, 0, 22]];
    requests.push(wrong.concat());
    let long = "u".repeat(511);
    for (user, address, name) in [
        ("", [192, 0, 2, 7], ""),
        ("me", [0, 0, 0, 1], "server.example\0"),
        ("me", [0, 0, 0, 0], ""),
        ("me", [0, 0, 0, 9], "\0"),
        (&long, [0, 0, 0, 1], "[::1]\0SSH-2.0"),
    ] {
        let head = [&[0, 4, 1, 0, 22][..], &address].concat();
        requests.push([&head, user.as_bytes(), &[0], name.as_bytes()].concat());
    }
    requests.push(b"\0GET / HTTP/1.1\r\nHost: 127.0.0.1:1080\r\n\r\n".to_vec());
    requests.push(b"\0\x16\x03\x01\x02\x00\x01".to_vec());
    requests
}

fn auth() -> Vec<Vec<u8>> {
    let longest = format!("{}:{}\n", "u".repeat(255), "p".repeat(255));
    let lines = ["me:secret\n", "me:a:b", "b\u{fc}cher:\u{1f511}\n", &longest];
    let others = ["", "\n", "me\n", ":x\n", "me:\n", "me:x\r\n", "me:x\nyou:y\n", "me:x\n\n"];
    let lines = lines.into_iter().chain(others).map(|text| text.as_bytes().to_vec());
    lines
        .chain([b"me:\xff\n".to_vec(), [longest.as_bytes(), longest.as_bytes()].concat()])
        .collect()
}

/// As `boundary::answers` reads them: what the kernel sends to a batch of three, and the ends of lists.
fn answers() -> Vec<Vec<u8>> {
    let asked = |count: u8| vec![7, 0, count, 0];
    let message = |kind: u16, sequence: u32, payload: &[u8]| {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    // An error repeats the header of the message that it is about.
    let error = |sequence: u32, code: i32| {
        let payload = [&code.to_ne_bytes()[..], &message(0x0a0c, sequence, &[])].concat();
        message(2, sequence, &payload)
    };
    let done = message(3, 7, &[0; 4]);
    let table = [&[1, 0, 0, 0][..], &[8, 0, 1, 0], b"tab\0"].concat();
    vec![
        asked(0),
        [asked(3), error(7, 0), error(8, 0), error(9, 0)].concat(),
        [asked(3), error(7, 0), error(8, -2), error(9, -17)].concat(),
        [asked(3), error(7, 0), error(8, 0)].concat(),
        [asked(1), error(6, -1)].concat(),
        [asked(1), error(7, i32::MIN)].concat(),
        [asked(1), message(0x0a00, 7, &table), done.clone(), error(7, 0)].concat(),
        [asked(1), message(2, 7, &[0; 4]), done].concat(),
        [asked(1), error(7, 0)[..30].to_vec()].concat(),
        [asked(1), vec![15, 0, 0, 0], vec![0; 12]].concat(),
    ]
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
