use std::{ffi::OsString, path::PathBuf};

use bytes::Bytes;
use object_store::path::Path;
use tempfile::TempDir;

use crate::{
    BlobError, BlobRef, BlobStore, MAX_BLOB_BYTES, directory_url,
    error::{MAX_REASON_BYTES, reason},
    location::{Location, OWN_VARIABLES, own},
};

/// A store in a directory, and the file of an object in it.
fn directory() -> (TempDir, BlobStore, impl Fn(&BlobRef) -> PathBuf) {
    let folder = TempDir::new().expect("a directory");
    let root = folder.path().join("objects");
    std::fs::create_dir(&root).expect("it is made");
    let store = BlobStore::open(&format!("file://{}", root.display())).expect("it can be opened");
    (folder, store, move |blob: &BlobRef| root.join(blob.to_string()))
}

fn content(length: usize) -> Bytes {
    (0..length).map(|n| (n * 7 / 3) as u8).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn what_is_stored_is_fetched_and_is_stored_once() {
    let (_folder, store, file) = directory();
    for length in [0, 1, (1 << 20) - 1, 1 << 20, (5 << 20) + 1] {
        let stored = content(length);
        let blob = store.put(stored.clone()).await.expect("it is stored");
        assert_eq!(blob, BlobRef::of(&stored));
        assert_eq!(store.put(stored.clone()).await.expect("it is stored again"), blob);
        assert_eq!(store.get(blob).await.expect("it is fetched"), stored);
        assert_eq!(std::fs::read(file(&blob)).expect("it is a file"), stored);
    }
    let files = std::fs::read_dir(file(&BlobRef::of(b"")).parent().expect("a folder")).expect("there is one");
    assert_eq!(files.count(), 5, "and nothing is left of what was written aside");
}

#[test]
fn a_directory_that_is_missing_is_not_made() {
    let folder = TempDir::new().expect("a directory");
    let (missing, file) = (folder.path().join("missing"), folder.path().join("file"));
    std::fs::write(&file, "").expect("it is written");
    for path in [&missing, &file] {
        let refused = BlobStore::open(&format!("file://{}", path.display())).expect_err("it is no directory");
        assert!(matches!(refused, BlobError::Directory { .. }), "{refused}");
    }
    assert!(!missing.exists());
}

#[tokio::test]
async fn what_was_changed_cut_or_lengthened_is_refused() {
    let (_folder, store, file) = directory();
    let blob = store.put(content(100_000)).await.expect("it is stored");
    let mut bytes = content(100_000).to_vec();
    bytes[77_777] ^= 1;
    std::fs::write(file(&blob), &bytes).expect("it is written");
    let refused = store.get(blob).await.expect_err("one bit is wrong");
    assert!(matches!(refused, BlobError::Hash { .. }) && refused.is_retryable(), "{refused}");
    for length in [0, 99_999, 100_001] {
        std::fs::write(file(&blob), content(length)).expect("it is written");
        let refused = store.get(blob).await.expect_err("it has another length");
        assert!(matches!(refused, BlobError::Length { found, .. } if found == length as u64), "{refused}");
    }
    std::fs::remove_file(file(&blob)).expect("it is removed");
    let refused = store.get(blob).await.expect_err("it is gone");
    assert!(matches!(refused, BlobError::Missing { .. }), "{refused}");
}

#[tokio::test]
async fn the_largest_object_is_stored_and_a_larger_one_is_not() {
    let (_folder, store, _) = directory();
    let most = usize::try_from(MAX_BLOB_BYTES).expect("it fits");
    let zeros = Bytes::from(vec![0; most + 1]);
    let blob = store.put(zeros.slice(..most)).await.expect("it is stored");
    assert_eq!(store.get(blob).await.expect("it is fetched").len(), most);
    let refused = store.put(zeros).await.expect_err("it is too large");
    assert!(matches!(refused, BlobError::TooLarge { .. }) && !refused.is_retryable(), "{refused}");
    let refused = store.get(BlobRef { bytes: MAX_BLOB_BYTES + 1, ..blob }).await.expect_err("it would be too large");
    assert!(matches!(refused, BlobError::TooLarge { .. }), "{refused}");
}

#[test]
fn a_reference_is_called_by_its_hash() {
    let blob = BlobRef::of(b"abc");
    let name = "sha256/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((blob.to_string().as_str(), blob.bytes), (name, 3));
    assert_eq!(BlobRef::from_parts(&blob.sha256, 3), Some(blob));
    assert_eq!(BlobRef::from_parts(&blob.sha256[1..], 3), None);
}

#[test]
fn stores_are_directories_and_prefixes_of_buckets() {
    let read = |url: &str| Location::parse(url).ok();
    assert_eq!(read("file:///var/objects"), Some(Location::Directory("/var/objects".into())));
    assert_eq!(read("s3://b"), Some(Location::S3("b".into(), Path::default())));
    assert_eq!(read("s3://b/fleet/one/"), Some(Location::S3("b".into(), Path::from("fleet/one"))));
    assert_eq!(read("gs://b/x"), Some(Location::Gcs("b".into(), Path::from("x"))));
    for wrong in [
        "",
        "/var/objects",
        "file:objects",
        "file:/var/objects",
        "file:",
        "file://var/objects",
        "file://localhost/objects",
        "file://server/objects",
        "s3:///x",
        "https://b/x",
        "s3://key:secret@b/x",
        "s3://b:80/x",
        "s3://b/x?y",
        "gs://b/x#y",
    ] {
        let refused = Location::parse(wrong).expect_err(wrong).to_string();
        assert!(refused.contains("is no object store") && !refused.contains("secret"), "{refused}");
    }
}

#[test]
fn variables_that_are_for_the_store_alone_are_read_by_the_kind_of_store() {
    let all = || {
        [
            ("ROBEING_STORE_AWS_SECRET_ACCESS_KEY", "s3cret\n"),
            ("ROBEING_STORE_GOOGLE_SERVICE_ACCOUNT_KEY", "{}"),
            ("AWS_REGION", "elsewhere"),
        ]
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .into_iter()
    };
    assert_eq!(OWN_VARIABLES, "ROBEING_STORE_");
    assert_eq!(own("AWS_", all()), [("AWS_SECRET_ACCESS_KEY".to_owned(), "s3cret".to_owned())]);
    assert_eq!(own("GOOGLE_", all()), [("GOOGLE_SERVICE_ACCOUNT_KEY".to_owned(), "{}".to_owned())]);
}

#[test]
fn any_directory_has_a_url() {
    for path in ["/var/objects", "/a b/%41#?/ü"] {
        let url = directory_url(path.as_ref()).expect("it is absolute");
        assert_eq!(Location::parse(&url).ok(), Some(Location::Directory(path.into())), "{url}");
    }
    assert_eq!(directory_url("var/objects".as_ref()), None);
}

#[test]
fn no_prefix_leads_out_of_its_bucket() {
    for url in ["s3://b/../x", "s3://b/a/../../x", "s3://b/%2e%2e/x", "s3://b/a/%2E%2E/%2e%2e/x"] {
        let Ok(Location::S3(bucket, prefix)) = Location::parse(url) else { continue };
        assert_eq!(bucket, "b");
        assert!(prefix.parts().all(|part| ![".", ".."].contains(&part.as_ref())), "{url}: {prefix}");
    }
}

#[test]
fn what_a_store_answers_is_told_without_the_credentials_in_it() {
    let generic = |text: &str| object_store::Error::Generic { store: "S3", source: text.to_owned().into() };
    let answered = reason(&generic(
        "Server returned non-2xx status code: 400 Bad Request: <?xml version=\"1.0\"?><Error><Code>ExpiredToken</Code>\
         <Message>The provided token has expired.</Message><Token-0>s3cret</Token-0></Error>",
    ));
    assert!(!answered.contains("s3cret"), "{answered}");
    assert!(answered.ends_with("400 Bad Request: ExpiredToken: The provided token has expired."), "{answered}");
    let refused = reason(&generic("connection refused"));
    assert!(refused.ends_with("connection refused"), "{refused}");
    let long = reason(&generic(&"ü".repeat(MAX_REASON_BYTES)));
    assert!(long.len() <= MAX_REASON_BYTES && long.len() > MAX_REASON_BYTES - 2, "{}", long.len());
}
