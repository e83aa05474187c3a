use super::*;

fn owner(cluster: &str, node: &str, raft_id: u64) -> Owner {
    Owner {
        cluster_id: cluster.into(),
        node_id: node.into(),
        raft_id,
    }
}

#[test]
fn a_dek_opens_nothing_of_another_owner() {
    let dek = Dek::from_bytes(&[1; 32]);
    let seal = |owner: &Owner, purpose: &str, id: &[u8]| {
        let mut body = *b"sixteen bytes ..";
        let tag = dek.sealer(purpose, owner, id).seal([0; 12], b"", &mut body);
        (body, tag)
    };
    let base = seal(&owner("c", "n", 1), "p", b"id");
    assert_eq!(base, seal(&owner("c", "n", 1), "p", b"id"));
    for other in [
        seal(&owner("d", "n", 1), "p", b"id"),
        seal(&owner("c", "m", 1), "p", b"id"),
        seal(&owner("c", "n", 2), "p", b"id"),
        seal(&owner("c", "n", 1), "q", b"id"),
        seal(&owner("c", "n", 1), "p", b"ie"),
        // The parts are length-prefixed: moving a byte between them is another key.
        seal(&owner("cn", "", 1), "p", b"id"),
        seal(&owner("", "cn", 1), "p", b"id"),
    ] {
        assert_ne!(base.0, other.0);
        assert_ne!(base.1, other.1);
    }
    assert_ne!(owner("cn", "", 1).digest(), owner("c", "n", 1).digest());
}

#[test]
fn a_ring_seals_with_one_and_opens_with_all() {
    let id = |byte| Dek::from_bytes(&[byte; 32]).id();
    let mut ring = DekRing::new(Dek::from_bytes(&[1; 32]), [Dek::from_bytes(&[2; 32])]);
    ring.rotate(Dek::from_bytes(&[1; 32]));
    assert_eq!(
        ring.retired().collect::<Vec<_>>(),
        [id(2)],
        "the current key again"
    );
    ring.rotate(Dek::from_bytes(&[3; 32]));
    assert_eq!(ring.current().id(), id(3));
    assert_eq!(ring.retired().collect::<Vec<_>>(), [id(1), id(2)]);
    assert!(ring.find(id(1)).is_some() && ring.find(id(2)).is_some() && ring.find(id(3)).is_some());
    assert!(ring.find(id(9)).is_none());
    ring.forget_retired_except(&[id(2)]);
    assert_eq!(ring.retired().collect::<Vec<_>>(), [id(2)]);
}

#[test]
fn key_checks_differ_by_key_salt_and_context() {
    let key = |byte| UnlockKey::from_slice(&[byte; 32]).unwrap();
    let check = |key: &UnlockKey, salt: u8, context: &[&[u8]]| {
        Kek::derive(key, &[salt; SALT_LEN], context).check()
    };
    let base = check(&key(1), 1, &[b"a"]);
    assert_eq!(base, check(&key(1), 1, &[b"a"]));
    assert_ne!(base, check(&key(2), 1, &[b"a"]));
    assert_ne!(base, check(&key(1), 2, &[b"a"]));
    assert_ne!(base, check(&key(1), 1, &[b"b"]));
}

#[test]
fn debug_shows_ids_only() {
    let dek = Dek::from_bytes(&[0xab; 32]);
    assert_eq!(format!("{dek:?}"), format!("Dek({})", dek.id()));
    assert!(!format!("{dek:?}").contains("abab"));
    let kek = Kek::derive(
        &UnlockKey::from_slice(&[1; 32]).unwrap(),
        &[0; SALT_LEN],
        &[],
    );
    assert_eq!(format!("{kek:?}"), "Kek([REDACTED])");
}
