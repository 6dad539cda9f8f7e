//! Passes bytes between a stream and a TCP port on the guest's loopback.

use std::io::{ErrorKind as Io, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use mvm_guest_proto::frame::DATA_CHUNK;
use mvm_guest_proto::message::{Done, ErrorKind, FROM_GUEST, Failure, Message, OpenPort, TO_GUEST};
use mvm_guest_proto::mux::Inbound;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Stop;
use crate::session::{Gone, Stream};

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// One direction of the connection.
#[derive(PartialEq)]
enum Flow {
    Open,
    Ended,
}

/// Both directions, with the piece that is on its way in each.
struct Splice<'a> {
    stream: &'a Stream,
    socket: TcpStream,
    to_port: Vec<u8>,
    to_host: Vec<u8>,
    from_host: Flow,
    from_port: Flow,
}

/// Connects and passes bytes until both directions ended.
pub(super) fn open(stream: &Stream, open: &OpenPort) -> Result<Done, Stop> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, open.port));
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            Io::ConnectionRefused => ErrorKind::Refused,
            Io::TimedOut | Io::WouldBlock => ErrorKind::Timeout,
            _ => ErrorKind::Failed,
        };
        let why = crate::sys::describe(&error);
        Failure::new(kind, format!("cannot connect to port {}: {why}", open.port))
    };
    let socket = TcpStream::connect_timeout(&address, CONNECT_DEADLINE).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let _ = socket.set_nodelay(true);
    stream.message(&Message::Connected)?;
    let mut splice = Splice {
        stream,
        socket,
        to_port: Vec::new(),
        to_host: Vec::new(),
        from_host: Flow::Open,
        from_port: Flow::Open,
    };
    while splice.is_open() {
        splice.host_to_port()?;
        splice.port_to_host()?;
        if splice.is_open() {
            splice.wait();
        }
    }
    Ok(Done {})
}

impl Splice<'_> {
    fn is_open(&self) -> bool {
        let flows = [&self.from_host, &self.from_port];
        flows.contains(&&Flow::Open) || !self.to_port.is_empty() || !self.to_host.is_empty()
    }

    fn host_to_port(&mut self) -> Result<(), Stop> {
        loop {
            while !self.to_port.is_empty() {
                match self.socket.write(&self.to_port) {
                    Ok(n) => drop(self.to_port.drain(..n)),
                    Err(error) if error.kind() == Io::WouldBlock => return self.still_wanted(),
                    Err(error) if error.kind() == Io::Interrupted => {}
                    Err(error) => return Err(broken(&error).into()),
                }
            }
            match self.stream.try_recv() {
                None => return Ok(()),
                Some(Inbound::Data(TO_GUEST, bytes)) => self.to_port = bytes,
                Some(Inbound::Eof(TO_GUEST)) => {
                    self.from_host = Flow::Ended;
                    let _ = self.socket.shutdown(Shutdown::Write);
                }
                Some(inbound) if inbound.is_end() => return Err(Stop::Gone),
                Some(_) => {}
            }
        }
    }

    fn port_to_host(&mut self) -> Result<(), Stop> {
        loop {
            let sent = self.stream.try_send(FROM_GUEST, &self.to_host);
            self.to_host.drain(..sent);
            if !self.to_host.is_empty() {
                return self.still_wanted();
            }
            if self.from_port == Flow::Ended {
                return Ok(());
            }
            self.to_host.resize(DATA_CHUNK, 0);
            let outcome = self.socket.read(&mut self.to_host);
            self.to_host.truncate(*outcome.as_ref().unwrap_or(&0));
            match outcome {
                Ok(0) => {
                    self.from_port = Flow::Ended;
                    self.stream.eof(FROM_GUEST);
                }
                Ok(_) => {}
                Err(error) if error.kind() == Io::WouldBlock => return Ok(()),
                Err(error) if error.kind() == Io::Interrupted => {}
                Err(error) => return Err(broken(&error).into()),
            }
        }
    }

    fn still_wanted(&self) -> Result<(), Stop> {
        if self.stream.is_live() { Ok(()) } else { Err(Gone.into()) }
    }

    fn wait(&self) {
        let mut interest = PollFlags::empty();
        if self.from_port == Flow::Open && self.to_host.is_empty() {
            interest |= PollFlags::POLLIN;
        }
        if !self.to_port.is_empty() {
            interest |= PollFlags::POLLOUT;
        }
        let mut fds = vec![PollFd::new(self.stream.fd(), PollFlags::POLLIN)];
        // Without interest poll would still report, and repeat, a hang-up.
        if !interest.is_empty() {
            fds.push(PollFd::new(self.socket.as_fd(), interest));
        }
        let _ = poll(&mut fds, PollTimeout::NONE);
        self.stream.clear();
    }
}

fn broken(error: &std::io::Error) -> Failure {
    Failure::new(
        ErrorKind::Failed,
        format!("the connection broke: {}", crate::sys::describe(error)),
    )
}
