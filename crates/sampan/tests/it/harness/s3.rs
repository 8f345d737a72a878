//! As much of S3 as a backup needs, in this process: multipart uploads, heads and ranges. An object
//! is there when its upload is complete and not before, as with the real one.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// The server. Its threads end with the process.
pub(crate) struct S3 {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    /// Uploads that are neither complete nor aborted, with their parts.
    uploads: BTreeMap<String, BTreeMap<u64, Vec<u8>>>,
    begun: u64,
    parts: u64,
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl S3 {
    /// Starts one that has a bucket named `bucket`.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<Mutex<State>>::default();
        let of_thread = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = of_thread.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { port, state }
    }

    /// What makes `sampan` find it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ACCESS_KEY_ID", "somebody".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// An object of the bucket.
    pub(crate) fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.state().objects.get(&format!("/bucket/{key}")).cloned()
    }

    /// Changes an object behind everybody's back.
    pub(crate) fn put(&self, key: &str, bytes: Vec<u8>) {
        self.state().objects.insert(format!("/bucket/{key}"), bytes);
    }

    /// Uploads that were begun, and neither completed nor aborted.
    pub(crate) fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    /// Parts received.
    pub(crate) fn parts(&self) -> u64 {
        self.state().parts
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(request) = read_request(&mut reader) {
        let (status, headers, body) = answer(&request, &mut state.lock().unwrap());
        let mut answer = format!("HTTP/1.1 {status}\r\n").into_bytes();
        for (name, value) in headers {
            write!(answer, "{name}: {value}\r\n").unwrap();
        }
        if request.method != "HEAD" {
            write!(answer, "content-length: {}\r\n", body.len()).unwrap();
        }
        answer.extend_from_slice(b"\r\n");
        answer.extend_from_slice(&body);
        if writer.write_all(&answer).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&count| count > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let count = headers.get("content-length").map_or(0, |count| count.parse().unwrap());
    let mut body = vec![0; count];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path: path.to_owned(), query, headers, body })
}

type Answer = (&'static str, Vec<(&'static str, String)>, Vec<u8>);

fn answer(request: &Request, state: &mut State) -> Answer {
    let signed = request.headers.get("authorization");
    if !signed.is_some_and(|text| text.starts_with("AWS4-HMAC-SHA256 Credential=somebody/")) {
        return ("403 Forbidden", vec![], vec![]);
    }
    let not_found = ("404 Not Found", vec![], vec![]);
    if !request.path.starts_with("/bucket/") {
        return not_found;
    }
    let upload = request.query.get("uploadId");
    match (request.method.as_str(), upload) {
        ("POST", None) => {
            state.begun += 1;
            let id = format!("upload-{}", state.begun);
            state.uploads.insert(id.clone(), BTreeMap::new());
            xml("InitiateMultipartUploadResult", &format!("<UploadId>{id}</UploadId>"))
        }
        ("PUT", Some(upload)) => {
            let number: u64 = request.query["partNumber"].parse().unwrap();
            state.parts += 1;
            let Some(parts) = state.uploads.get_mut(upload) else { return not_found };
            parts.insert(number, request.body.clone());
            ("200 OK", vec![("etag", format!("\"part-{number}\""))], vec![])
        }
        ("POST", Some(upload)) => {
            let Some(parts) = state.uploads.remove(upload) else { return not_found };
            let bytes = parts.into_values().flatten().collect();
            state.objects.insert(request.path.clone(), bytes);
            xml("CompleteMultipartUploadResult", "<ETag>\"whole\"</ETag>")
        }
        ("DELETE", Some(upload)) => {
            state.uploads.remove(upload);
            ("204 No Content", vec![], vec![])
        }
        ("HEAD" | "GET", None) => {
            let object = state.objects.get(&request.path);
            object.map_or(not_found, |bytes| show(request, bytes))
        }
        _ => ("400 Bad Request", vec![], vec![]),
    }
}

fn xml(name: &str, content: &str) -> Answer {
    ("200 OK", vec![], format!("<{name}>{content}</{name}>").into_bytes())
}

fn show(request: &Request, bytes: &[u8]) -> Answer {
    let mut headers = vec![
        ("last-modified", "Fri, 27 Nov 2026 22:00:00 GMT".to_owned()),
        ("etag", "\"whole\"".to_owned()),
    ];
    if request.method == "HEAD" {
        headers.push(("content-length", bytes.len().to_string()));
        return ("200 OK", headers, vec![]);
    }
    let range = request.headers.get("range").and_then(|text| text.strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return ("200 OK", headers, bytes.to_vec());
    };
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let last = last.min(bytes.len() - 1);
    headers.push(("content-range", format!("bytes {first}-{last}/{}", bytes.len())));
    ("206 Partial Content", headers, bytes[first..=last].to_vec())
}
