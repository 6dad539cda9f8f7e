//! Hears of every guest that begins to execute, from the fake VMMs of this network namespace.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was heard.
#[derive(Debug, Default)]
struct Heard {
    boots: usize,
    memories: BTreeSet<String>,
    wrong: Vec<String>,
}

/// Listens as long as the process lives.
#[derive(Debug, Clone, Default)]
pub struct Witness(Arc<Mutex<Heard>>);

impl Witness {
    /// Begins to listen.
    pub fn listen() -> Self {
        let witness = Self::default();
        let name = SocketAddr::from_abstract_name("mvm-fake").expect("a name");
        let listener = UnixListener::bind_addr(&name).expect("the name is free here");
        let hears = witness.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut line = String::new();
                let mut stream = BufReader::new(stream);
                if stream.read_line(&mut line).is_ok() {
                    hears.hear(line.trim());
                }
                // Nothing goes wrong in a fake here.
                let _ = writeln!(stream.get_mut());
            }
        });
        witness
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, line: &str) {
        let mut heard = self.lock();
        match line.split(' ').collect::<Vec<_>>()[..] {
            [_, "BOOTS"] => heard.boots += 1,
            [_, "EXECUTES", memory] if heard.memories.insert(memory.to_owned()) => {}
            [_, "EXECUTES" | "TORN", ..] => heard.wrong.push(line.to_owned()),
            _ => {}
        }
    }

    /// How many guests were booted so far.
    pub fn boots(&self) -> usize {
        self.lock().boots
    }

    /// Memories that executed twice, or beside a drive they do not belong to.
    pub fn wrong(&self) -> Vec<String> {
        self.lock().wrong.clone()
    }
}
