//! The fields of a stranger's packet, as a knock in the classic layout.

use std::sync::LazyLock;

use knockknock::layout::Request;
use knockknock::layout::classic::{KEY_LEN, Keys, OpenError, SPENT, SealError, open, seal};
use knockknock::syn::SynFields;

use super::input::Input;

/// The longest window that is searched; a longer one differs in cost only.
const LONGEST: u32 = 8;

/// Keys as they are made, and the same keys prepared. One pair for all inputs: to prepare keys takes 65,536 MACs.
static UNPREPARED_AND_PREPARED: LazyLock<(Keys, Keys)> = LazyLock::new(|| {
    let unprepared = Keys::new([7; KEY_LEN], [9; KEY_LEN]);
    let mut prepared = unprepared.clone();
    prepared.prepare();
    (unprepared, prepared)
});

/// The bytes as two keys, a counter, the fields of a packet, a window, a request, and what to do to its knock.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let (cipher, mac) = (input.array::<KEY_LEN>(), input.array::<KEY_LEN>());
    let keys = Keys::new(cipher, mac);
    let counter = input.u32();
    let (id, seq, ack, window) = (input.u16(), input.u32(), input.u32(), input.u16());
    let fields = SynFields { id, seq, ack, window };
    // At the end of the range a window of any length costs no more than a short one.
    let window = match input.u8() {
        wide @ 128.. if counter >= SPENT - LONGEST => u32::MAX - u32::from(wide - 128),
        any => u32::from(any) % (LONGEST + 1),
    };
    let opened = opens_only_what_would_be_sealed(&keys, counter, window, &fields);

    let (request, ahead, bit) = (Request(input.u16()), u32::from(input.u8()) % 10, input.u8());
    let sealed_with = counter.saturating_add(ahead);
    prepared_keys_open_the_same(counter, window, &fields);
    if let Ok(sealed) = seal(&UNPREPARED_AND_PREPARED.0, request, sealed_with) {
        prepared_keys_open_the_same(counter, window, &sealed);
        prepared_keys_open_the_same(counter, window, &flipped(&sealed, bit));
    }
    match seal(&keys, request, sealed_with) {
        Ok(sealed) => {
            // A window of 4 is enough to have counters in it and beyond it.
            let wanted =
                if ahead < 4 { Ok((request, sealed_with)) } else { Err(OpenError::NoMatch) };
            assert_eq!(open(&keys, counter, 4, &sealed), wanted);
            // Used is used, and a counter that was passed over too.
            assert!(open(&keys, sealed_with + 1, 2, &sealed).is_err());
            let other = flipped(&sealed, bit);
            assert!(open(&keys, sealed_with, 1, &other).is_err(), "bit {bit}");
            let others_keys = Keys::new(cipher.map(|byte| !byte), mac);
            assert!(open(&others_keys, sealed_with, 1, &sealed).is_err());
        }
        Err(SealError::Spent) => assert_eq!(sealed_with, SPENT),
        Err(SealError::ZeroId) => assert_ne!(sealed_with, SPENT),
    }
    opened
}

fn prepared_keys_open_the_same(counter: u32, window: u32, fields: &SynFields) {
    let (unprepared, prepared) = &*UNPREPARED_AND_PREPARED;
    assert_eq!(open(prepared, counter, window, fields), open(unprepared, counter, window, fields));
}

/// No 96 bits open but the ones that somebody with these keys would send. Says whether these did.
fn opens_only_what_would_be_sealed(
    keys: &Keys,
    counter: u32,
    window: u32,
    fields: &SynFields,
) -> bool {
    match open(keys, counter, window, fields) {
        Ok((request, used)) => {
            assert!(used >= counter && used - counter < window && used != SPENT);
            match seal(keys, request, used) {
                Ok(sealed) => assert_eq!(sealed, *fields),
                Err(SealError::ZeroId) => assert_eq!(fields.id, 0),
                Err(SealError::Spent) => panic!("a spent counter opened"),
            }
            true
        }
        Err(why) => {
            assert_eq!(why == OpenError::Spent, counter == SPENT);
            false
        }
    }
}

fn flipped(fields: &SynFields, bit: u8) -> SynFields {
    let SynFields { mut id, mut seq, mut ack, mut window } = *fields;
    match bit % 96 {
        bit @ 0..16 => id ^= 1 << bit,
        bit @ 16..48 => seq ^= 1 << (bit - 16),
        bit @ 48..80 => ack ^= 1 << (bit - 48),
        bit => window ^= 1 << (bit - 80),
    }
    SynFields { id, seq, ack, window }
}
