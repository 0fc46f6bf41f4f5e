//! From a packet to the number that it has: the TCP options of a log line, the map of live tags, and the MAC.

use knockknock::daemon::live_tags::{LiveTag, LiveTags};
use knockknock::layout::Request;
use knockknock::layout::stealth::StealthKeys;
use knockknock::syn::{LoggedSyn, SynFields};

use super::input::Input;

/// The bytes as a knock that a bit may be changed in, as changes to the map, and the rest as the options of a packet.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    the_map(&mut input);
    let opens = the_mac(&mut input);
    the_options(input.0);
    opens
}

/// Beside a list.
fn the_map(input: &mut Input<'_>) {
    let (mut map, mut list) = (LiveTags::default(), Vec::<(LiveTag, u32)>::new());
    for _ in 0..input.u8() % 32 {
        let [what, which] = input.array();
        // Few of each, so that they meet.
        let tag = [0, 1, 7, u32::MAX][usize::from(which & 3)];
        let profile = [0, u32::MAX][usize::from(which >> 2 & 1)];
        let n = [0, 5, u64::MAX][usize::from(which >> 3) % 3];
        let live = LiveTag { tag, profile, n };
        let place = list.iter().position(|(one, _)| *one == live);
        match (what % 4, place) {
            (0, None) => {
                map.insert(live);
                list.push((live, 0));
            }
            (0, Some(_)) => {}
            (1, place) => {
                assert_eq!(map.remove(live), place.is_some());
                place.map(|place| list.remove(place));
            }
            (_, place) => {
                map.count_wrong(live);
                if let Some(place) = place {
                    list[place].1 += 1;
                }
            }
        }
        let mut found: Vec<LiveTag> = map.at(tag).collect();
        assert!(found.is_sorted());
        for (live, times) in list.iter().filter(|(live, _)| live.tag == tag) {
            assert_eq!(map.is_burnt(*live), *times >= 8, "{times}");
            found.retain(|one| one != live);
        }
        assert!(found.is_empty(), "{found:?}");
    }
    let mut all: Vec<u32> = list.iter().map(|(live, _)| live.tag).collect();
    all.sort_unstable();
    assert_eq!(map.all().collect::<Vec<_>>(), all);
}

/// Exactly the knock that was sealed opens, and for what it asks for.
fn the_mac(input: &mut Input<'_>) -> bool {
    let keys = StealthKeys::new(&[9; 32]);
    let n = u64::from_be_bytes(input.array());
    let [asked, port, listed] = [input.u16(), input.u16(), input.u16()].map(|n| Request(n % 8));
    let source = |byte: u8| (byte & 1 == 0).then(|| [192, 0, 2, byte >> 1].into());
    let [made_for, seen_from] = [source(input.u8()), source(input.u8())];
    let sealed = keys.seal(n, asked, made_for);
    assert_eq!(sealed.tag, keys.tag(n));
    let flipped = u32::from(input.u8());
    let mac = if flipped < 32 { sealed.mac ^ (1 << flipped) } else { sealed.mac };
    let tried = [port, Request(0), listed];
    let found = keys.open(n, tried, seen_from, mac);
    // Of 2^32 MACs one is another's, which no run here meets; a changed bit is never the MAC that was changed.
    let expected =
        (flipped >= 32 && made_for == seen_from && tried.contains(&asked)).then_some(asked);
    assert_eq!(found, expected);
    found.is_some()
}

/// Read again by pulling the options apart first.
fn the_options(hex: &[u8]) {
    let syn = LoggedSyn {
        source: [192, 0, 2, 7].into(),
        destination: [192, 0, 2, 1].into(),
        source_port: 2000,
        destination_port: 22,
        fields: SynFields { id: 0, seq: 0, ack: 0, window: 0 },
        asks_for_ecn: false,
        options_hex: hex,
    };
    let digits = |pair: &[u8]| {
        let text = str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
        let is_hex = |c: char| c.is_ascii_digit() || ('A'..='F').contains(&c);
        text.chars().all(is_hex).then(|| u8::from_str_radix(text, 16).unwrap())
    };
    let bytes: Vec<Option<u8>> = hex.chunks(2).map(digits).collect();
    assert_eq!(syn.timestamp(), first_timestamp(&bytes));
}

fn first_timestamp(bytes: &[Option<u8>]) -> Option<u32> {
    match bytes {
        [Some(1), rest @ ..] => first_timestamp(rest),
        [Some(8), Some(10), rest @ ..] => {
            let value: Option<Vec<u8>> = rest.get(..8)?.iter().copied().collect();
            value.map(|value| u32::from_be_bytes([value[0], value[1], value[2], value[3]]))
        }
        [Some(kind), Some(len @ 2..), ..] if *kind != 0 && *kind != 8 => {
            let (option, rest) = bytes.split_at_checked(usize::from(*len))?;
            option.iter().all(Option::is_some).then(|| first_timestamp(rest))?
        }
        _ => None,
    }
}
