//! What 100,000 certificates on record cost in memory.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::sync::Arc;

use prost_types::Timestamp;
use waxseal_cluster::{
    PlainVault, Restorer, SNAPSHOT_FORMAT,
    objects::{CertificateOrigin, CertificateRecord, NodeRole, RequestSource, StateSnapshot},
};

const RECORDS: u32 = 100_000;
/// The bound for all of them.
const LIMIT_BYTES: usize = 50_000_000;

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn at(seconds: u32) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: i64::from(seconds),
        nanos: 0,
    })
}

/// Each is of a node of its own, which costs most: it brings the node's id.
fn record(number: u32) -> CertificateRecord {
    let mut serial = vec![1; 20];
    // Spread over all serials, as random ones are.
    serial[..4].copy_from_slice(&number.reverse_bits().to_be_bytes());
    serial[0] &= 0x7f;
    serial[16..].copy_from_slice(&number.to_be_bytes());
    CertificateRecord {
        serial,
        node_id: format!("{number:025}"),
        role: NodeRole::Worker.into(),
        origin: CertificateOrigin::Join.into(),
        source: Some(RequestSource {
            address: "192.0.2.77".into(),
            token: "0123456789abcdefghijklmno".into(),
        }),
        public_key_digest: vec![7; 32],
        requested_at: at(1),
        issuer: vec![9; 32],
        not_before: at(1),
        not_after: at(1_000_000 + number),
        used_at: at(2),
        superseded_at: at(3),
        revocation: None,
    }
}

#[test]
fn a_hundred_thousand_records_are_small() {
    let mut restorer = Restorer::new(Arc::new(PlainVault));
    let mut head = StateSnapshot::default();
    head.format = SNAPSHOT_FORMAT;
    restorer.add(&prost::Message::encode_to_vec(&head)).unwrap();
    let before = resident();
    for number in 0..RECORDS {
        let mut piece = StateSnapshot::default();
        piece.certificates.push(record(number));
        restorer
            .add(&prost::Message::encode_to_vec(&piece))
            .unwrap();
    }
    let state = restorer.finish().unwrap();
    let taken = resident().saturating_sub(before);
    assert_eq!(state.certificates().count(), RECORDS as usize);
    let each = taken / RECORDS as usize;
    println!("{RECORDS} records take {taken} bytes, {each} each");
    assert!(taken < LIMIT_BYTES, "{taken}");
    // A snapshot is taken of them without a copy of each.
    let before = resident();
    let frozen = state.freeze();
    let frozen_bytes = resident().saturating_sub(before);
    println!("frozen they take {frozen_bytes} bytes more");
    assert!(frozen_bytes < LIMIT_BYTES / 10, "{frozen_bytes}");
    drop(frozen);
}
