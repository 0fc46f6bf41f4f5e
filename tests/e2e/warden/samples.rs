//! SYNs and answers for the warden's own tests.

use std::time::Duration;

use super::recording::Recorded;
use super::segment::{Ip, Segment};

/// A segment at a time, in milliseconds.
#[derive(Clone)]
pub(super) struct Sample {
    at: u64,
    pub(super) segment: Segment,
}

impl Sample {
    /// A SYN of 10.66.1.2 without options to a port of 10.66.1.1.
    pub(super) fn syn(at: u64, from: u16, to: u16) -> Self {
        let ip = Ip::V4 {
            header_length: 5,
            tos: 0,
            total_length: 40,
            id: 1,
            fragment: 0x4000,
            ttl: 64,
            has_right_checksum: true,
        };
        let segment = Segment {
            ip,
            source: ([10, 66, 1, 2], from).into(),
            destination: ([10, 66, 1, 1], to).into(),
            sequence: 1000 + u32::from(from),
            acknowledgement: 0,
            data_offset: 5,
            flags: 2,
            window: 64240,
            has_right_checksum: true,
            urgent: 0,
            options: Vec::new(),
        };
        Self { at, segment }
    }

    /// A later segment from the same side.
    pub(super) fn reply(&self, at: u64, flags: u16) -> Self {
        let segment = Segment { flags, ..self.segment.clone() };
        Self { at, segment }
    }

    /// A later segment from the other side.
    pub(super) fn answer(&self, at: u64, flags: u16) -> Self {
        let (source, destination) = (self.segment.destination, self.segment.source);
        let segment = Segment { source, destination, flags, ..self.segment.clone() };
        Self { at, segment }
    }
}

/// As they would be recorded.
pub(super) fn recorded(samples: &[Sample]) -> Vec<Recorded> {
    let record = |Sample { at, segment }: &Sample| Recorded {
        at: Duration::from_millis(*at),
        frame: [&[0; 12][..], &[8, 0], &segment.to_packet()].concat(),
    };
    samples.iter().map(record).collect()
}
