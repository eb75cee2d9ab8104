use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::Pieces;
use crate::virtio::net::Header;
use crate::virtio::net::tests::tcp::{self, V4, V6};

fn pieces(header: Header, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut pieces = Pieces::try_new(header, frame)?;
    let longest = pieces.longest(frame);
    let mut all = Vec::new();
    let mut piece = vec![0; longest];
    while let Some(len) = pieces.next(frame, &mut piece) {
        all.push(piece[..len].to_vec());
    }
    Some(all)
}

/// The slow way, word by word, from where a receiver begins: all ones if the checksum is right.
fn receivers_sum(words: &[u8]) -> u32 {
    let mut sum = 0;
    for word in words.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum
}

/// A receiver of the packet finds every length and every checksum right.
fn assert_right(frame: &[u8], network: usize) {
    let packet = &frame[network..];
    let (transport, addresses) = if packet[0] >> 4 == 4 {
        let header = &packet[..usize::from(packet[0] & 0xF) * 4];
        assert_eq!(
            usize::from(packet[2]) << 8 | usize::from(packet[3]),
            packet.len()
        );
        assert_eq!(
            receivers_sum(header),
            0xFFFF,
            "the Internet header's checksum"
        );
        (header.len(), &packet[12..20])
    } else {
        assert_eq!(
            usize::from(packet[4]) << 8 | usize::from(packet[5]),
            packet.len() - 40
        );
        (40, &packet[8..40])
    };
    let segment = &packet[transport..];
    let len = u32::try_from(segment.len()).unwrap();
    let pseudo = [addresses, &[0, 0, 0, 6], &len.to_be_bytes()].concat();
    assert_eq!(
        receivers_sum(&[&pseudo, segment].concat()),
        0xFFFF,
        "the segment's checksum"
    );
}

#[test]
fn a_large_packet_becomes_the_packets_it_stands_for() {
    for (shape, network) in [(V4, 14), (V6, 14), (V4.tagged(), 18)] {
        let (header, frame) = shape.large(3000, 1448);
        let all = pieces(header, &frame).unwrap();
        let heads = shape.data();
        let lens: Vec<usize> = all.iter().map(|piece| piece.len() - heads).collect();
        assert_eq!(lens, [1448, 1448, 104]);
        for (index, piece) in (0_u8..).zip(&all) {
            assert_right(piece, network);
            let segment = &piece[shape.transport()..];
            let sequence = u32::from_be_bytes(segment[4..8].try_into().unwrap());
            assert_eq!(sequence, tcp::SEQUENCE + 1448 * u32::from(index));
            if shape == V4 {
                assert_eq!(piece[18..20], [0x12, 0x34 + index]);
            }
        }
        let flags = all.iter().map(|piece| piece[shape.transport() + 13]);
        // First: congestion window reduced; last: push and end; all: acknowledgement.
        assert!(flags.eq([0x90, 0x10, 0x19]));
    }
}

#[test]
fn a_checksum_is_filled_in_where_it_is_to_be() {
    let (header, frame) = V6.large(600, 1448);
    let header = Header {
        gso_type: 0,
        gso_size: 0,
        ..header
    };
    let all = pieces(header, &frame).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0][..70], frame[..70]);
    assert_right(&all[0], 14);
    let finished = pieces(Header::default(), &frame);
    assert_eq!(finished, Some(vec![frame]));
}

/// Headers that say one thing and frames that are another.
#[test]
fn what_is_no_tcp_packet_is_not_split() {
    let (header, frame) = V4.large(3000, 1448);
    let wrong_headers = [
        Header {
            gso_type: 4,
            ..header
        },
        Header {
            csum_start: 30,
            ..header
        },
        Header {
            csum_start: 0xFFFF,
            ..header
        },
        Header {
            csum_offset: 6,
            ..header
        },
        Header {
            gso_size: 0,
            ..header
        },
        Header {
            gso_type: 3,
            ..header
        },
    ];
    for wrong in wrong_headers {
        assert_eq!(pieces(wrong, &frame), None, "{wrong:?}");
    }
    // Type, version, length of the header, fragment, protocol, length of TCP's header.
    for (at, byte) in [
        (12, 9),
        (14, 0x65),
        (14, 0x46),
        (20, 0x20),
        (21, 1),
        (23, 17),
        (46, 0x40),
        (46, 0xFF),
    ] {
        let mut wrong = frame.clone();
        wrong[at] = byte;
        let outcome = pieces(header, &wrong);
        // 60 bytes of TCP's header are possible as long as the frame has them.
        assert_eq!(
            outcome.is_some(),
            at == 46 && byte == 0xFF,
            "{at} {byte:#x}"
        );
    }
    for len in [0, 13, 20, 33, 46, 53] {
        assert_eq!(pieces(header, &frame[..len]), None, "{len}");
    }
}

#[test]
fn a_piece_there_is_no_room_for_is_not_made() {
    let (header, frame) = V6.large(3000, 1448);
    let mut pieces = Pieces::try_new(header, &frame).unwrap();
    assert_eq!(pieces.next(&frame, &mut [0; 1000]), None);
    assert_eq!(pieces.longest(&frame), V6.data() + 1448);
}

proptest! {
    /// Nothing is lost, nothing doubled, and no piece is larger than it may be.
    #[test]
    fn pieces_have_all_of_the_data_in_order(len in 1..20_000_usize, size in 1..2000_u16, is_new: bool) {
        let shape = if is_new { V6 } else { V4 };
        let (header, frame) = shape.large(len, size);
        let all = pieces(header, &frame).unwrap();
        let heads = shape.data();
        let data: Vec<u8> = all.iter().flat_map(|piece| piece[heads..].to_vec()).collect();
        prop_assert_eq!(&data[..], &frame[heads..]);
        prop_assert_eq!(all.len(), len.div_ceil(size.into()));
        prop_assert!(all.iter().all(|piece| piece.len() <= heads + usize::from(size)));
        assert_right(all.last().unwrap(), 14);
    }

    /// Any header on any frame ends.
    #[test]
    fn nothing_is_made_of_nonsense(bytes: [u8; 12], frame in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = pieces(Header::from_bytes(bytes), &frame);
    }
}
