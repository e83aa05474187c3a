use super::*;

const PKCS8: &str = "-----BEGIN PRIVATE KEY-----
bm90IGEga2V5LCBidXQgdGhlIGZpbGUgZG9lcyBub3QgbG9vayBpbnNpZGUgb2Yg
aXQ=
-----END PRIVATE KEY-----
";

fn dek(byte: u8) -> Dek {
    Dek::from_bytes(&[byte; 32])
}

fn unlock_key(byte: u8) -> UnlockKey {
    UnlockKey::from_slice(&[byte; 32]).unwrap()
}

fn header() -> KeyFileHeader {
    KeyFileHeader {
        cluster_id: "cluster".into(),
        node_id: "node".into(),
        kek_epoch: 3,
    }
}

fn manager() -> KeyFile {
    let raft = RaftKeys {
        raft_id: 99,
        current: dek(1),
        retired: vec![dek(2), dek(3)],
    };
    KeyFile::new(header(), PKCS8, Some(raft)).unwrap()
}

fn assert_same(a: &KeyFile, b: &KeyFile) {
    assert_eq!(a.header, b.header);
    assert_eq!(a.node_key, b.node_key);
    let ids = |file: &KeyFile| {
        file.raft.as_ref().map(|raft| {
            let retired: Vec<_> = raft.retired.iter().map(Dek::id).collect();
            (raft.raft_id, raft.current.id(), retired)
        })
    };
    assert_eq!(ids(a), ids(b));
}

#[test]
fn a_sealed_file_needs_the_right_key() {
    let text = manager().encode_sealed(&unlock_key(7), &[9; SALT_LEN]);
    assert_eq!(
        KeyFile::open(&text, None).unwrap_err(),
        OpenError::Locked(header())
    );
    let wrong = KeyFile::open(&text, Some(&unlock_key(8))).unwrap_err();
    assert_eq!(wrong, OpenError::WrongKey(header()));
    assert!(wrong.to_string().contains("epoch 3"));
}

#[test]
fn an_open_file_is_refused_when_a_key_is_given() {
    let text = manager().encode_open();
    let err = KeyFile::open(&text, Some(&unlock_key(7))).unwrap_err();
    assert_eq!(err, OpenError::NotSealed(header()));
}

#[test]
fn a_stripped_or_mixed_file_is_damaged() {
    let damaged = |text: &str| match KeyFile::open(text, None).unwrap_err() {
        OpenError::Damaged { what } => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(damaged(""), "no block of ours");
    assert_eq!(damaged(PKCS8), "no block of ours");
    let sealed = manager().encode_sealed(&unlock_key(7), &[9; SALT_LEN]);
    assert_eq!(
        damaged(&format!("{PKCS8}{}", &*sealed)),
        "its label and its content disagree"
    );
    assert_eq!(
        damaged(&format!("{}{}", &*sealed, &*sealed)),
        "two blocks of one kind"
    );
    let open = manager().encode_open();
    assert_eq!(
        damaged(open.strip_prefix(PKCS8).unwrap()),
        "its label and its content disagree"
    );
    let foreign = open.replace("WAXSEAL KEY CHAIN", "EC PRIVATE KEY");
    assert_eq!(damaged(&foreign), "a block of an unknown kind");
    assert_eq!(
        damaged(&"x".repeat(MAX_KEY_FILE_BYTES + 1)),
        "longer than any key file"
    );
    // The chain of another TLS key.
    let other = PKCS8.replace("aXQ=", "aXU=");
    assert_eq!(
        damaged(&open.replace(PKCS8, &other)),
        "its digest does not fit"
    );
}

/// Changes one byte of our block, keeping the PEM around it valid.
fn flipped(text: &str, label: &str, at: usize) -> Option<String> {
    let mut out = Zeroizing::new(String::new());
    for mut block in pem::parse(text).unwrap() {
        if block.label == label {
            *block.bytes.get_mut(at)? ^= 0x20;
        }
        pem::encode(&mut out, &block.label, &block.bytes);
    }
    Some(out.to_string())
}

#[test]
fn every_flipped_byte_is_found() {
    let key = unlock_key(7);
    let sealed = manager().encode_sealed(&key, &[9; SALT_LEN]);
    let open = manager().encode_open();
    for (text, label, key) in [
        (&sealed, LABEL_SEALED, Some(&key)),
        (&open, LABEL_OPEN, None),
    ] {
        let mut at = 0;
        while let Some(changed) = flipped(text, label, at) {
            let err = KeyFile::open(&changed, key).unwrap_err();
            assert!(
                matches!(err, OpenError::Damaged { .. }),
                "{label} {at}: {err:?}"
            );
            at += 1;
        }
        assert!(at > 150);
    }
}

/// Whoever changes a sealed file and its checksum gets no keys either.
#[test]
fn every_forged_byte_is_found() {
    let key = unlock_key(7);
    let sealed = manager().encode_sealed(&key, &[9; SALT_LEN]);
    let block = pem::parse(&sealed).unwrap().remove(0).bytes;
    for at in 0..block.len() - 4 {
        let mut forged = block[..block.len() - 4].to_vec();
        forged[at] ^= 0x20;
        let crc = crc32fast::hash(&forged);
        forged.extend_from_slice(&crc.to_be_bytes());
        let mut text = Zeroizing::new(String::new());
        pem::encode(&mut text, LABEL_SEALED, &forged);
        let err = KeyFile::open(&text, Some(&key)).unwrap_err();
        assert!(
            matches!(err, OpenError::Damaged { .. } | OpenError::WrongKey(_)),
            "{at}"
        );
    }
}

#[test]
fn every_cut_is_found() {
    let key = unlock_key(7);
    let sealed = manager().encode_sealed(&key, &[9; SALT_LEN]);
    let block = pem::parse(&sealed).unwrap().remove(0);
    for len in 0..block.bytes.len() {
        let mut text = Zeroizing::new(String::new());
        pem::encode(&mut text, LABEL_SEALED, &block.bytes[..len]);
        let err = KeyFile::open(&text, Some(&key)).unwrap_err();
        assert!(matches!(err, OpenError::Damaged { .. }), "{len}: {err:?}");
    }
}

#[test]
fn a_newer_format_names_its_version() {
    let text = manager().encode_open();
    let mut blocks = pem::parse(&text).unwrap();
    blocks[1].bytes[..PREAMBLE_LEN].copy_from_slice(&codec::preamble(MAGIC, 2));
    let mut newer = Zeroizing::new(String::new());
    for block in &blocks {
        pem::encode(&mut newer, &block.label, &block.bytes);
    }
    let err = KeyFile::open(&newer, None).unwrap_err();
    assert_eq!(
        err,
        OpenError::TooNew {
            version: 2,
            supported: 1
        }
    );
    assert!(err.to_string().contains("format 2"));
}

#[test]
fn only_a_pkcs8_block_is_a_node_key() {
    let ec = PKCS8.replace("PRIVATE", "EC PRIVATE");
    for text in ["", "no pem", &ec, &format!("{PKCS8}{PKCS8}")] {
        assert!(matches!(
            KeyFile::new(header(), text, None),
            Err(OpenError::Damaged { .. })
        ));
    }
}

#[test]
fn round_trips() {
    let key = unlock_key(7);
    let worker = KeyFile::new(header(), PKCS8, None).unwrap();
    for file in [manager(), worker] {
        let open = file.encode_open();
        assert_same(&KeyFile::open(&open, None).unwrap(), &file);
        assert!(open.starts_with(PKCS8), "openssl reads the first block");
        assert_eq!(KeyFile::peek(&open).unwrap(), (header(), Sealing::Open));
        let sealed = file.encode_sealed(&key, &[9; SALT_LEN]);
        assert_same(&KeyFile::open(&sealed, Some(&key)).unwrap(), &file);
        assert!(!sealed.contains("PRIVATE KEY"));
        assert_eq!(KeyFile::peek(&sealed).unwrap(), (header(), Sealing::Sealed));
        assert_eq!(&*file.node_key_pkcs8_pem(), PKCS8);
    }
}

#[test]
fn two_writes_share_no_key() {
    let key = unlock_key(7);
    let a = manager().encode_sealed(&key, &[1; SALT_LEN]);
    let b = manager().encode_sealed(&key, &[2; SALT_LEN]);
    let tail = |text: &str| pem::parse(text).unwrap()[0].bytes[80..].to_vec();
    assert_ne!(tail(&a)[..64], tail(&b)[..64]);
}

#[test]
fn rotation_keeps_what_files_still_need() {
    let mut file = manager();
    file.rotate_dek(dek(1)).unwrap();
    assert_eq!(
        file.raft.as_ref().unwrap().retired.len(),
        2,
        "the current key again"
    );
    file.rotate_dek(dek(4)).unwrap();
    let raft = file.raft.as_ref().unwrap();
    assert_eq!(raft.current.id(), dek(4).id());
    let retired: Vec<_> = raft.retired.iter().map(Dek::id).collect();
    assert_eq!(retired, [dek(1).id(), dek(2).id(), dek(3).id()]);
    for byte in 5..18 {
        file.rotate_dek(dek(byte)).unwrap();
    }
    assert_eq!(file.rotate_dek(dek(99)), Err(TooManyRetiredDeks));
    let again = KeyFile::open(&file.encode_open(), None).unwrap();
    assert_same(&again, &file);
}

#[test]
fn nothing_secret_is_printed() {
    let shown = format!("{:?} {:?}", manager(), unlock_key(7));
    assert!(!shown.contains("[1, 1") && !shown.contains("[7, 7"));
    assert!(
        !format!("{:?}", manager()).contains("110, 111, 116"),
        "the TLS key's bytes"
    );
}

/// Files of format 1 as they were first written; this program must read them for good.
#[test]
fn reads_the_golden_files() {
    let open = include_str!("../../tests/golden/key-file-v1-open.pem");
    let sealed = include_str!("../../tests/golden/key-file-v1-sealed.pem");
    assert_same(&KeyFile::open(open, None).unwrap(), &manager());
    assert_same(
        &KeyFile::open(sealed, Some(&unlock_key(7))).unwrap(),
        &manager(),
    );
    assert_eq!(&*manager().encode_open(), open);
    assert_eq!(
        &*manager().encode_sealed(&unlock_key(7), &[9; SALT_LEN]),
        sealed
    );
}
