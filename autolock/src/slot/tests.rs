use super::*;

fn owner() -> Owner {
    Owner {
        cluster_id: "cluster".into(),
        node_id: "node".into(),
        raft_id: 7,
    }
}

fn ring(byte: u8) -> DekRing {
    DekRing::new(Dek::from_bytes(&[byte; 32]), [])
}

#[test]
fn refuses_every_change() {
    let sealed = seal_slot(ring(1).current(), &owner(), &[6; SALT_LEN], b"a vote");
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(open_slot(&changed, &ring(1), &owner()).is_err(), "{at}");
        assert!(
            open_slot(&sealed[..at], &ring(1), &owner()).is_err(),
            "{at}"
        );
    }
    let dek_id = ring(1).current().id();
    let unknown = open_slot(&sealed, &ring(2), &owner()).unwrap_err();
    assert_eq!(unknown, FormatError::UnknownKey { what: WHAT, dek_id });
    let foreign = Owner {
        node_id: "other".into(),
        ..owner()
    };
    let err = open_slot(&sealed, &ring(1), &foreign).unwrap_err();
    assert_eq!(err, FormatError::Foreign { what: WHAT });
    let mut newer = sealed;
    newer[..16].copy_from_slice(&codec::preamble(MAGIC, 3));
    let too_new = FormatError::TooNew {
        what: WHAT,
        version: 3,
        supported: 1,
    };
    assert_eq!(open_slot(&newer, &ring(1), &owner()).unwrap_err(), too_new);
}

#[test]
fn round_trip_and_golden() {
    let mut sealed = seal_slot(ring(1).current(), &owner(), &[6; SALT_LEN], b"a vote");
    assert_eq!(
        sealed,
        include_bytes!("../../tests/golden/vote-slot-v1.bin")
    );
    assert_eq!(sealed.len(), SLOT_OVERHEAD + 6);
    assert_eq!(slot_dek_id(&sealed), Some(ring(1).current().id()));
    sealed.extend_from_slice(&[0; 100]);
    assert_eq!(*open_slot(&sealed, &ring(1), &owner()).unwrap(), b"a vote");
}
