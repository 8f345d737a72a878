//! Sockets: what both ports need.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::config::{ConfigError, HostPort};
use crate::error::ServerError;
use crate::log::Log;

/// Bytes read and thrown away from a connection that is being closed, at most.
const LINGER_BYTES_MAX: usize = 16 << 20;
/// After an error of `accept` (no file descriptors left, for one) it is tried again this late.
pub(crate) const ACCEPT_RETRY_TIME: Duration = Duration::from_millis(50);

/// Takes an address to listen at.
pub(crate) fn bind(setting: &str, address: &HostPort) -> Result<StdListener, ServerError> {
    StdListener::bind(address.as_pair()).map_err(|error| {
        if error.kind() == ErrorKind::AddrInUse {
            return ServerError::PortInUse(address.to_string());
        }
        let expected = format!("want an address of this machine ({error})");
        ServerError::Config(ConfigError::new(setting, address, expected))
    })
}

/// Hands a bound listener to the event loop.
pub(crate) fn adopt(listener: StdListener, backlog: u16) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, backlog.into())?;
    TcpListener::from_std(listener)
}

/// Accepts connections of `whom`, for ever. Of errors in a row the first is logged.
pub(crate) async fn accept_each(
    listener: TcpListener,
    log: &Log,
    whom: &str,
    mut admit: impl FnMut(TcpStream, SocketAddr),
) {
    let mut has_warned = false;
    loop {
        match listener.accept().await {
            Ok((socket, remote)) => {
                has_warned = false;
                admit(socket, remote);
            }
            Err(error) => {
                if !std::mem::replace(&mut has_warned, true) {
                    log.warn(format_args!("accepting {whom}: {error}"));
                }
                tokio::time::sleep(ACCEPT_RETRY_TIME).await;
            }
        }
    }
}

/// Settings of a client's connection. None of them is worth losing the connection over.
pub(crate) fn tune_client(stream: &TcpStream, keepalive: Duration) {
    _ = stream.set_nodelay(true);
    _ = sockopt::set_socket_keepalive(stream, true);
    _ = sockopt::set_tcp_keepidle(stream, keepalive.max(Duration::from_secs(1)));
}

/// Settings of a peer's connection: what is not acknowledged in time ends it, for the kernel alone
/// would go on trying for minutes and then leave long silences after a partition has healed.
pub(crate) fn tune_peer(stream: &TcpStream, ack_time: Duration) {
    _ = stream.set_nodelay(true);
    _ = sockopt::set_tcp_user_timeout(stream, user_timeout_ms(ack_time));
    _ = sockopt::set_socket_keepalive(stream, true);
    _ = sockopt::set_tcp_keepidle(stream, ack_time.max(Duration::from_secs(1)));
    _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1));
    _ = sockopt::set_tcp_keepcnt(stream, 3);
}

/// What a socket takes as this time, which is no longer than the kernel's own type holds.
fn user_timeout_ms(ack_time: Duration) -> u32 {
    const MAX_MS: u32 = i32::MAX as u32;
    u32::try_from(ack_time.as_millis()).unwrap_or(MAX_MS).min(MAX_MS)
}

/// Says one last thing on a connection and closes it so that the other side can read it.
pub(crate) async fn say_and_close(mut stream: TcpStream, text: &[u8], linger: Duration) {
    let last_words = async {
        stream.write_all(text).await?;
        drain(&mut stream).await
    };
    // The other side may be gone; nobody minds.
    _ = tokio::time::timeout(linger, last_words).await;
}

/// Ends the sending side, and reads until the other side has ended as well: closing a socket with
/// unread bytes would take back what was sent and not yet read (RFC 9293, 3.10.4).
async fn drain(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    read_dry(stream).await
}

/// Reads and throws away, up to a limit.
pub(crate) async fn read_dry<R: tokio::io::AsyncRead + Unpin>(from: &mut R) -> io::Result<()> {
    let mut scratch = vec![0; 16 << 10];
    let mut read_bytes = 0;
    while read_bytes < LINGER_BYTES_MAX {
        match from.read(&mut scratch).await? {
            0 => break,
            count => read_bytes += count,
        }
    }
    Ok(())
}

/// Ends the sending side of a connection whose halves are owned apart.
pub(crate) fn end_sending(stream: &TcpStream) {
    // It may be closed already.
    _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Write);
}
