//! Cuts, garbage and a hundred thousand arbitrary streams.

use proptest::prelude::*;

use super::*;
use crate::block::BlockKind;
use crate::frame::{Kind, MAX_PAYLOAD};

fn drain(decoder: &mut Decoder) -> (Vec<Piece>, Option<FrameError>) {
    let mut pieces = Vec::new();
    loop {
        match decoder.next_piece() {
            Ok(Some(piece)) => pieces.push(piece),
            Ok(None) => return (pieces, None),
            Err(error) => return (pieces, Some(error)),
        }
    }
}

fn block(nonce: u8) -> Block {
    Block { kind: BlockKind::Open, version: 1, host: [nonce; 16], guest: [0; 16] }
}

#[test]
fn a_block_is_found_behind_garbage_and_half_blocks() {
    let half = &block(1).encode()[..BLOCK_LEN - 1];
    let zeros = [0; BLOCK_LEN];
    let stream = [&[7; 1000], half, &zeros, b"\0mvm guest ope", &block(2).encode()[..]].concat();
    let mut decoder = Decoder::default();
    decoder.push(&stream);
    let (pieces, _) = drain(&mut decoder);
    assert_eq!(pieces.last(), Some(&Piece::Block(block(2))));
    assert_eq!(decoder.held(), 0);
}

#[test]
fn frames_come_out_whole_whatever_the_cuts() {
    let header = Header { stream: 3, length: 5, kind: Kind::Data, channel: 1 };
    let bytes = [&header.encode()[..], b"12345"].concat().repeat(3);
    for size in 1..=bytes.len() {
        let mut decoder = Decoder::default();
        decoder.read_frames();
        let mut frames = Vec::new();
        for piece in bytes.chunks(size) {
            decoder.push(piece);
            frames.extend(drain(&mut decoder).0);
        }
        let frame = Frame { stream: 3, kind: Kind::Data, channel: 1, payload: b"12345".to_vec() };
        assert_eq!(frames, vec![Piece::Frame(frame); 3]);
    }
}

#[test]
fn zeros_are_never_a_frame() {
    let mut decoder = Decoder::default();
    decoder.read_frames();
    decoder.push(&[0; HEADER_LEN]);
    assert_eq!(decoder.next_piece(), Err(FrameError::Kind(0)));
}

/// Not proptest's own loop: this many cases are to stay quick.
#[test]
fn a_hundred_thousand_streams_of_arbitrary_bytes_do_no_harm() {
    let mut state = 1_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..100_000 {
        let mut bytes = [0; 48];
        for eight in bytes.chunks_mut(8) {
            eight.copy_from_slice(&random().to_le_bytes());
        }
        // Half of them look like frames at first.
        if random() % 2 == 0 {
            bytes[5] = 0;
            bytes[6] = (random() % 10) as u8;
            bytes[7] = (random() % 5) as u8;
        }
        let mut decoder = Decoder::default();
        if random() % 4 != 0 {
            decoder.read_frames();
        }
        decoder.push(&bytes);
        let (_, error) = drain(&mut decoder);
        if error.is_some() {
            decoder.scan();
            assert!(drain(&mut decoder).1.is_none());
        }
        assert!(decoder.held() <= bytes.len());
        let _ = crate::message::Call::from_bytes(&bytes);
        let _ = crate::message::Message::from_bytes(&bytes);
        let _ = crate::message::Failure::from_bytes(&bytes);
    }
}

proptest! {
    #[test]
    fn what_is_held_is_bounded(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4096), 0..40)) {
        let mut decoder = Decoder::default();
        decoder.read_frames();
        for piece in pieces {
            decoder.push(&piece);
            if drain(&mut decoder).1.is_some() {
                decoder.scan();
                drain(&mut decoder);
                prop_assert!(decoder.held() < BLOCK_LEN);
                decoder.read_frames();
            }
            prop_assert!(decoder.held() <= MAX_PAYLOAD + HEADER_LEN);
        }
    }

    #[test]
    fn headers_survive_the_way(stream in 1_u32.., length in 0..=MAX_PAYLOAD, channel in 0_u8..4) {
        let header = Header { stream, length, kind: Kind::Data, channel };
        prop_assert_eq!(Header::decode(header.encode()), Ok(header));
    }
}
