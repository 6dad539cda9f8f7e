//! How the guest is.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mvm_guest_proto::config::Health;
use mvm_guest_proto::message::{Memory, Status, WorkloadStatus};

use crate::guest::Guest;

/// How long connecting to a workload, and its answer, may each take.
const HEALTH_LIMIT: Duration = Duration::from_millis(1000);

/// Everything there is to say.
pub(super) fn status(guest: &Guest) -> Status {
    let workload = workload(guest);
    let life = guest.life();
    Status {
        boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        uptime_ms: uptime_ms(&read("/proc/uptime")),
        clock_ms: clock_ms(),
        ready: life.ready_after_ms.is_some(),
        problems: life.problems.clone(),
        ready_after_ms: life.ready_after_ms,
        workload,
        secrets_epoch: life.secrets_epoch,
        config_epoch: life.config.as_ref().map_or(0, |config| config.config_epoch),
        prepared_to_sleep: life.prepared_to_sleep,
        memory: memory(&read("/proc/meminfo")),
        agent_kib: kib_of(&read("/proc/self/status"), "VmRSS:"),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The guest's clock, milliseconds since 1970.
pub(super) fn clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn uptime_ms(uptime: &str) -> u64 {
    let seconds = uptime.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    (seconds.unwrap_or(0.0) * 1000.0) as u64
}

fn kib_of(table: &str, name: &str) -> u64 {
    let line = table.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn memory(meminfo: &str) -> Memory {
    Memory {
        total_kib: kib_of(meminfo, "MemTotal:"),
        available_kib: kib_of(meminfo, "MemAvailable:"),
    }
}

fn workload(guest: &Guest) -> WorkloadStatus {
    let mut status = guest.workload.status();
    let wanted = guest.life().config.as_ref().and_then(|config| config.workload.clone());
    let Some(wanted) = wanted else { return status };
    let tables = [read("/proc/net/tcp"), read("/proc/net/tcp6")];
    let listens = |port: &u16| tables.iter().any(|table| is_listening(table, *port));
    status.ready = status.pid.is_some()
        && wanted.ports.iter().all(listens)
        && wanted.health.as_ref().is_none_or(is_well);
    status
}

/// Whether the workload answers the request for its health in time.
fn is_well(health: &Health) -> bool {
    ask(health).is_ok_and(|answer| is_good(&answer))
}

/// The first bytes of the answer.
fn ask(health: &Health) -> io::Result<[u8; 12]> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, health.port));
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_LIMIT)?;
    stream.set_read_timeout(Some(HEALTH_LIMIT))?;
    stream.set_write_timeout(Some(HEALTH_LIMIT))?;
    write!(stream, "GET {} HTTP/1.0\r\nHost: localhost\r\n\r\n", health.path)?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).map(|()| answer)
}

/// `HTTP/1.1 2…` or `3…`.
fn is_good(answer: &[u8; 12]) -> bool {
    answer.starts_with(b"HTTP/1.") && answer[8] == b' ' && matches!(answer[9], b'2' | b'3')
}

/// Whether `/proc/net/tcp` shows a listener on `port`.
fn is_listening(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace();
        fields.nth(1).is_some_and(|local| local.ends_with(&suffix)) && fields.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_in_the_kernel_table() {
        let table = "  sl  local_address rem_address   st tx_queue\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n   \
                     1: 0100007F:0016 0100007F:9999 01 00000000:00000000\n";
        assert!(is_listening(table, 8080));
        assert!(!is_listening(table, 22));
        assert!(!is_listening(table, 80));
    }

    #[test]
    fn health_is_what_the_workload_answers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let health = Health { port: listener.local_addr().unwrap().port(), path: "/health".into() };
        for (answer, good) in [("HTTP/1.0 204 No", true), ("HTTP/1.1 500 In", false), ("hm", false)]
        {
            let well = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut asked = [0; 64];
                    let count = stream.read(&mut asked).unwrap();
                    assert!(asked[..count].starts_with(b"GET /health HTTP/1.0\r\n"));
                    stream.write_all(answer.as_bytes()).unwrap();
                });
                is_well(&health)
            });
            assert_eq!(well, good, "{answer}");
        }
        drop(listener);
        assert!(!is_well(&health));
    }

    #[test]
    fn memory_is_read() {
        let meminfo = "MemTotal:  124000 kB\nMemFree: 5 kB\nMemAvailable:   99000 kB\n";
        assert_eq!(memory(meminfo), Memory { total_kib: 124_000, available_kib: 99_000 });
        assert_eq!(uptime_ms("12.34 56.78\n"), 12_340);
    }
}
