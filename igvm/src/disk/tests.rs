//! Files made, checked, adopted and refused.

use std::fs;

use stockade_storage::disk::format::History;

use super::*;

#[test]
fn a_new_disk_checks_out_with_and_without_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let key = || DiskKey::new([1; 32]);
    create_sealed(&path, 10_000_000, Some(&key())).unwrap();
    assert!(check(&path, None).unwrap().contains("generation     1"));
    let text = check(&path, Some(&key())).unwrap();
    assert!(
        text.contains("10002432 bytes") && text.contains("0 blocks of data"),
        "{text}"
    );
    let error = check(&path, Some(&DiskKey::new([2; 32]))).unwrap_err();
    assert!(error.to_string().contains("D06"), "{error}");
}

#[test]
fn a_disk_some_store_has_is_adopted_by_its_key_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let key = || DiskKey::new([1; 32]);
    create_sealed(&path, 10_000_000, Some(&key())).unwrap();
    assert!(adopt(&path, &key()).unwrap().contains("no store"));
    let mut first = [0; BLOCK_BYTES];
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.read_exact_at(&mut first, 0).unwrap();
    let (header, _) = Header::read(&first).unwrap();
    let seals = Seals::new(&key(), header.disk(), &[0; 32]);
    let root = Entry::default();
    let anchored = Superblock::with_history(&seals, &header, 2, root, 0, History::Anchored);
    anchored.write(&mut first);
    let place = anchored.place().0 * BLOCK_BYTES as u64;
    file.write_all_at(&first, place).unwrap();
    assert!(adopt(&path, &DiskKey::new([2; 32])).is_err());
    let text = adopt(&path, &key()).unwrap();
    assert!(text.contains("generation 3"), "{text}");
    assert!(adopt(&path, &key()).unwrap().contains("no store"));
    assert!(
        check(&path, Some(&key()))
            .unwrap()
            .contains("generation     3")
    );
}

/// A machine would write over what is adopted, and look damaged to a check.
#[test]
fn a_disk_somebody_writes_is_neither_checked_nor_adopted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let key = DiskKey::new([1; 32]);
    create_sealed(&path, 10_000_000, Some(&key)).unwrap();
    let other = File::open(&path).unwrap();
    let is_in_use = |result| matches!(result, Err(DiskError::InUse { .. }));
    other.lock_shared().unwrap();
    check(&path, Some(&key)).unwrap();
    assert!(is_in_use(adopt(&path, &key)));
    other.lock().unwrap();
    assert!(is_in_use(check(&path, None)));
    assert!(is_in_use(adopt(&path, &key)));
    drop(other);
    adopt(&path, &key).unwrap();
}

#[test]
fn a_disk_made_without_a_key_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    create_sealed(&path, 10_000_000, None).unwrap();
    let text = check(&path, Some(&DiskKey::new([1; 32]))).unwrap();
    assert!(text.contains("never opened"), "{text}");
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::write(&path, "mine").unwrap();
    for result in [
        create_plain(&path, 1),
        create_sealed(&path, 1, None),
        create_store(&path),
    ] {
        assert!(matches!(result, Err(DiskError::Exists { .. })));
    }
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_truncated_or_damaged_disk_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    create_sealed(&path, 10_000_000, None).unwrap();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(
        check(&path, None)
            .unwrap_err()
            .to_string()
            .contains("truncated")
    );
    let mut damaged = whole.clone();
    damaged[30] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert!(check(&path, None).unwrap_err().to_string().contains("D04"));
    damaged[0] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert!(check(&path, None).unwrap().contains("plain disk"));
    assert!(check(&path, Some(&DiskKey::new([1; 32]))).is_err());
}

#[test]
fn a_store_is_told_from_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    create_store(&path).unwrap();
    assert!(check(&path, None).unwrap().contains("sealed store"));
    let blocks = 1 + 2 * u64::from(super::USUAL_AREA_BLOCKS);
    assert_eq!(fs::metadata(&path).unwrap().len(), blocks * 4096);
}

#[test]
fn a_qcow2_file_is_called_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::write(&path, [&b"QFI\xFB"[..], &[0; 4096]].concat()).unwrap();
    let text = check(&path, None).unwrap();
    assert!(text.contains("qcow2") && text.contains("4100"), "{text}");
    assert!(check(&path, Some(&DiskKey::new([1; 32]))).is_err());
}

#[test]
fn keys_are_bytes_or_digits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    fs::write(&path, [7; 32]).unwrap();
    assert!(read_key(&path).is_ok());
    fs::write(&path, format!("{}\n", "0aF9".repeat(16))).unwrap();
    assert!(read_key(&path).is_ok());
    fs::write(&path, "too short").unwrap();
    assert!(matches!(read_key(&path), Err(DiskError::Key { .. })));
    fs::write(&path, [7; 5000]).unwrap();
    assert!(matches!(read_key(&path), Err(DiskError::Key { .. })));
    let endless = read_key(Path::new("/dev/zero")).unwrap_err();
    assert!(endless.to_string().contains("/dev/zero"), "{endless}");
    assert_eq!(from_digits(&[b'g'; 64]), None);
    assert_eq!(
        from_digits("0aF9".repeat(16).as_bytes()).unwrap()[..2],
        [0x0A, 0xF9]
    );
}
