//! A backup as an object in S3, or in anything that speaks its protocol.
//!
//! What it is: a multipart upload, of which nothing is to be seen until it is complete, and reading
//! by ranges of one version of an object. Both hold a few parts in memory, whatever the backup's
//! size. Credentials, region and endpoint are the usual `AWS_*` variables. What it is not: HTTP,
//! TLS, signatures and repetitions, which are `object_store`'s.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, GetOptions, ObjectStore as _, ObjectStoreExt as _, RetryConfig,
    WriteMultipart,
};
use tokio::task::JoinHandle;

use crate::exit::{self, Failure};

/// A part of an upload, and a range of a download.
const PART_BYTES: u64 = 8 << 20;
/// S3 takes 10 000 parts; larger backups get larger parts.
const PARTS_MAX: u64 = 9_000;
/// Parts on their way at a time.
const PARTS_UNDER_WAY: usize = 3;
/// One request, with its part.
const REQUEST_TIME: Duration = Duration::from_secs(120);
/// A request is repeated this often, and for this long.
const RETRIES: usize = 5;
const RETRY_TIME: Duration = Duration::from_secs(60);

/// The name of an object: `s3://BUCKET/KEY`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Object {
    bucket: String,
    key: Path,
}

impl FromStr for Object {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (bucket, key) = text.split_once('/').ok_or(())?;
        let key = Path::parse(key).map_err(drop)?;
        if bucket.is_empty() || key.as_ref().is_empty() || text.ends_with('/') {
            return Err(());
        }
        Ok(Self { bucket: bucket.to_owned(), key })
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl Object {
    /// May a backup be written there?
    pub(super) async fn check_free(&self, replace: bool) -> Result<(), Failure> {
        match self.store()?.head(&self.key).await {
            Ok(_) if replace => Ok(()),
            Ok(_) => Err(Failure::usage(format!(
                "{self} exists: want another name, or --force to replace it"
            ))),
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Begins to write a backup of this many bytes.
    pub(super) async fn write(&self, bytes: u64) -> Result<ObjectWriter, Failure> {
        let store = self.store()?;
        let upload = store.put_multipart(&self.key).await.map_err(|error| self.failed(&error))?;
        let part_bytes = PART_BYTES.max(bytes.div_ceil(PARTS_MAX));
        let upload = WriteMultipart::new_with_chunk_size(upload, part_bytes as usize);
        Ok(ObjectWriter { object: self.clone(), store, upload, bytes: 0 })
    }

    /// Begins to read a backup.
    pub(super) async fn read(&self) -> Result<ObjectReader, Failure> {
        let store = self.store()?;
        let found = store.head(&self.key).await.map_err(|error| self.failed(&error))?;
        let (object, version) = (self.clone(), found.e_tag);
        let (size, asked, parts) = (found.size, 0, VecDeque::new());
        Ok(ObjectReader { object, store, version, size, asked, parts })
    }

    /// A client for its bucket, as the environment describes it.
    fn store(&self) -> Result<AmazonS3, Failure> {
        // An error says that there is one already.
        _ = rustls::crypto::ring::default_provider().install_default();
        let retry = RetryConfig {
            max_retries: RETRIES,
            retry_timeout: RETRY_TIME,
            ..RetryConfig::default()
        };
        let builder = AmazonS3Builder::from_env()
            .with_bucket_name(&self.bucket)
            .with_client_options(ClientOptions::new().with_timeout(REQUEST_TIME))
            .with_retry(retry);
        let endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
        let endpoint = endpoints.iter().find_map(|key| builder.get_config_value(key));
        let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        builder.with_allow_http(plain).build().map_err(|error| self.failed(&error))
    }

    /// The one line that is said of an error.
    fn failed(&self, error: &Error) -> Failure {
        let why = match error {
            Error::NotFound { .. } => "no such object, or no such bucket".to_owned(),
            error => first_words(&error.to_string()),
        };
        Failure::new(exit::DISK_FAILED, format!("{self}: {why}"))
    }
}

/// An answer may be a page of XML.
fn first_words(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 300;
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(SHOWN_CHARS_MAX).collect()
}

/// An object in the making.
pub(super) struct ObjectWriter {
    object: Object,
    store: AmazonS3,
    upload: WriteMultipart,
    bytes: u64,
}

impl ObjectWriter {
    /// Writes the next bytes, when not too many are on their way.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let room = self.upload.wait_for_capacity(PARTS_UNDER_WAY).await;
        room.map_err(|error| self.object.failed(&error))?;
        self.bytes += bytes.len() as u64;
        self.upload.put(bytes);
        Ok(())
    }

    /// Completes it, and asks whether all of it is there.
    pub(super) async fn finish(self, replace: bool) -> Result<(), Failure> {
        let Self { object, store, upload, bytes } = self;
        if let Err(taken) = object.check_free(replace).await {
            // Nobody sees what is left of an upload that was not completed.
            _ = upload.abort().await;
            return Err(taken);
        }
        upload.finish().await.map_err(|error| object.failed(&error))?;
        let found = store.head(&object.key).await.map_err(|error| object.failed(&error))?;
        if found.size != bytes {
            let text = format!("{object} has {} bytes, {bytes} were written", found.size);
            return Err(Failure::new(exit::DISK_FAILED, text));
        }
        Ok(())
    }

    /// Leaves nothing of it.
    pub(super) async fn abandon(self) {
        // Nobody sees what is left of an upload that was not completed.
        _ = self.upload.abort().await;
    }
}

/// An object being read: ranges of one version of it, the next ones on their way.
pub(crate) struct ObjectReader {
    object: Object,
    store: AmazonS3,
    version: Option<String>,
    size: u64,
    /// Bytes asked for.
    asked: u64,
    parts: VecDeque<JoinHandle<Result<Bytes, Error>>>,
}

impl ObjectReader {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while self.asked < self.size && self.parts.len() < PARTS_UNDER_WAY {
            self.ask();
        }
        let Some(part) = self.parts.pop_front() else { return Ok(None) };
        match part.await {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(error)) => Err(self.object.failed(&error)),
            Err(panic) => Err(Failure::new(exit::DISK_FAILED, format!("{}: {panic}", self.object))),
        }
    }

    fn ask(&mut self) {
        let range = self.asked..self.size.min(self.asked + PART_BYTES);
        self.asked = range.end;
        let options = GetOptions {
            range: Some(range.into()),
            if_match: self.version.clone(),
            ..GetOptions::default()
        };
        let (store, key) = (self.store.clone(), self.object.key.clone());
        let part = async move { store.get_opts(&key, options).await?.bytes().await };
        self.parts.push_back(tokio::spawn(part));
    }
}
