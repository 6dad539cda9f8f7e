//! What the requests do. The rules are Firecracker's: boot settings before the start, one start, a
//! load into a process where nothing was set up, a snapshot of what is paused.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::witness::{self, Begun};
use crate::{drive, guest, kernel};

/// Where a snapshot's memory begins with the guest's word.
const MARK: &[u8] = b"mvm-fake-memory\n";
/// How long a probe's guest lives.
const PROBE: Duration = Duration::from_millis(400);

/// What a request came to.
#[derive(Debug)]
pub enum Done {
    /// Nothing to say.
    Nothing,
    /// This.
    Told(Value),
}

/// Why a request was refused.
#[derive(Debug)]
pub struct Refusal {
    /// Its words.
    pub words: String,
    /// Whether the process ends.
    pub ends: bool,
}

impl Refusal {
    /// A refusal after which the process goes on.
    pub fn stays(words: impl Into<String>) -> Self {
        Self { words: words.into(), ends: false }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::stays(error.to_string())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    NotStarted,
    Running,
    Paused,
}

/// What a snapshot's first file holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Setup {
    mem_mib: u64,
    boot_args: String,
    kernel: String,
    drives: Vec<(String, String, bool)>,
    tap: Option<String>,
    vsock: Option<String>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    setup: Setup,
    /// Whether anything but a logger was set up.
    touched: bool,
    /// The guest's socket, once it is named.
    listener: Option<UnixListener>,
    memory: GuestMemory,
    /// The name of the memory that was loaded, until it executes.
    loaded: Option<String>,
    drives: Vec<(String, File)>,
    _tap: Option<OwnedFd>,
    connections: BTreeMap<u64, UnixStream>,
    /// How many connections there ever were.
    connected: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct GuestMemory {
    boot_id: String,
    word: String,
    secrets_epoch: u64,
    /// Another one each time it is saved.
    name: String,
    /// How often its guest began to execute; also on the data drive.
    begun: u64,
}

/// A machine without a processor.
#[derive(Debug)]
pub struct Machine {
    id: String,
    state: Mutex<State>,
    changed: Condvar,
}

impl Machine {
    /// Nothing is set up yet.
    pub fn new(id: String) -> Self {
        let state = State {
            phase: Phase::NotStarted,
            setup: Setup { mem_mib: 128, ..Setup::default() },
            touched: false,
            listener: None,
            memory: GuestMemory::default(),
            loaded: None,
            drives: Vec::new(),
            _tap: None,
            connections: BTreeMap::new(),
            connected: 0,
        };
        Self { id, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a request asks.
    pub fn carry_out(
        self: &Arc<Self>,
        method: &str,
        path: &str,
        body: &[u8],
        fault: &Fault,
    ) -> Result<Done, Refusal> {
        let body: Value = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(body)
                .map_err(|error| Refusal::stays(format!("Invalid JSON: {error}")))?,
        };
        match (method, path) {
            ("GET", "/") => Ok(Done::Told(self.info())),
            ("PUT", "/logger" | "/metrics") => Ok(Done::Nothing),
            ("PUT", "/actions") => self.start(),
            ("PATCH", "/vm") => self.change(&body),
            ("PUT", "/snapshot/create") => self.save(&body, fault),
            ("PUT", "/snapshot/load") => self.load(&body),
            ("PATCH", _) if path.starts_with("/drives/") => Ok(Done::Nothing),
            ("PUT", _) => self.set_up(path, &body),
            _ => {
                Err(Refusal::stays(format!("Invalid request method and/or path: {method} {path}")))
            }
        }
    }

    fn info(&self) -> Value {
        let phase = self.lock().phase;
        let state = match phase {
            Phase::NotStarted => "Not started",
            Phase::Running => "Running",
            Phase::Paused => "Paused",
        };
        json!({ "app_name": "Firecracker", "id": self.id, "state": state,
                "vmm_version": crate::VERSION })
    }

    fn set_up(&self, path: &str, body: &Value) -> Result<Done, Refusal> {
        let mut state = self.lock();
        if state.phase != Phase::NotStarted {
            let words = "The requested operation is not supported after starting the microVM.";
            return Err(Refusal::stays(words));
        }
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let setup = &mut state.setup;
        match path.split('/').nth(1).unwrap_or_default() {
            "machine-config" => setup.mem_mib = body["mem_size_mib"].as_u64().unwrap_or(128),
            "boot-source" => {
                (setup.kernel, setup.boot_args) = (text("kernel_image_path"), text("boot_args"));
                File::open(&setup.kernel)?;
            }
            "drives" => {
                let read_only = body["is_read_only"].as_bool().unwrap_or(false);
                let path = text("path_on_host");
                open(&path, read_only)?;
                setup.drives.push((text("drive_id"), path, read_only));
            }
            "network-interfaces" => setup.tap = Some(text("host_dev_name")),
            "vsock" => {
                state.listener = Some(UnixListener::bind(text("uds_path"))?);
                state.setup.vsock = Some(text("uds_path"));
            }
            "entropy" | "serial" | "balloon" => {}
            other => return Err(Refusal::stays(format!("Invalid request path: {other}"))),
        }
        state.touched = true;
        Ok(Done::Nothing)
    }

    fn start(self: &Arc<Self>) -> Result<Done, Refusal> {
        let mut state = self.lock();
        if state.phase != Phase::NotStarted {
            return Err(Refusal::stays("The microVM is already running."));
        }
        if !is_elf(&state.setup.kernel)? {
            return Err(Refusal::stays("Cannot load kernel: invalid ELF magic number"));
        }
        state.memory.boot_id = fresh_word();
        let probe = state.setup.boot_args.contains("mvm.probe");
        self.assemble(&mut state)?;
        state.phase = Phase::Running;
        state.begin(&self.id, None);
        drop(state);
        if probe {
            println!("MVM-PROBE-OK");
            std::thread::spawn(|| {
                std::thread::sleep(PROBE);
                std::process::exit(0);
            });
        }
        Ok(Done::Nothing)
    }

    /// Opens what the setup names and confines this process, as the real one does at this point.
    fn assemble(self: &Arc<Self>, state: &mut State) -> Result<(), Refusal> {
        let drives = state.setup.drives.iter();
        let drives =
            drives.map(|(name, path, read_only)| Ok((name.clone(), open(path, *read_only)?)));
        state.drives = drives.collect::<io::Result<_>>()?;
        state._tap = state.setup.tap.as_deref().map(kernel::open_tap).transpose()?;
        if let Some(vsock) = &state.setup.vsock {
            // A loaded one has none yet.
            let listener = state.listener.take();
            let listener = listener.map_or_else(|| UnixListener::bind(vsock), Ok)?;
            let machine = Arc::clone(self);
            std::thread::spawn(move || guest::serve(listener, machine));
        }
        kernel::filter_system_calls()?;
        Ok(())
    }

    fn change(&self, body: &Value) -> Result<Done, Refusal> {
        let mut state = self.lock();
        if state.phase == Phase::NotStarted {
            let words = "The requested operation is not supported before starting the microVM.";
            return Err(Refusal::stays(words));
        }
        state.phase = match body["state"].as_str() {
            Some("Paused") => Phase::Paused,
            Some("Resumed") => Phase::Running,
            _ => return Err(Refusal::stays("unknown state")),
        };
        state.begin_if_loaded(&self.id);
        self.changed.notify_all();
        Ok(Done::Nothing)
    }

    /// The devices first, in place, then the memory; both synced. Also an attempt that fails ends
    /// the guest's connections.
    fn save(&self, body: &Value, fault: &Fault) -> Result<Done, Refusal> {
        let mut state = self.lock();
        if state.phase != Phase::Paused {
            return Err(Refusal::stays("Cannot save a microVM that is not paused."));
        }
        for connection in std::mem::take(&mut state.connections).values() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        let path = |name: &str| body[name].as_str().unwrap_or_default();
        let mut devices = File::create(path("snapshot_path"))?;
        devices.write_all(&serde_json::to_vec(&state.setup).map_err(io::Error::from)?)?;
        devices.sync_all()?;
        let memory = path("mem_file_path");
        let mut memory =
            OpenOptions::new().write(true).create(true).truncate(false).open(memory)?;
        if let Fault::Short(bytes) = fault {
            memory.set_len(*bytes)?;
            std::process::abort();
        }
        memory.set_len(state.setup.mem_mib << 20)?;
        state.memory.name = fresh_word();
        memory.write_all(MARK)?;
        memory.write_all(&serde_json::to_vec(&state.memory).map_err(io::Error::from)?)?;
        memory.write_all(b"\n")?;
        memory.sync_all()?;
        Ok(Done::Nothing)
    }

    /// Anything that is not as it was saved ends the process.
    fn load(self: &Arc<Self>, body: &Value) -> Result<Done, Refusal> {
        let mut state = self.lock();
        if state.touched || state.phase != Phase::NotStarted {
            return Err(Refusal::stays(
                "Loading a snapshot is only allowed into an empty process.",
            ));
        }
        self.load_into(&mut state, body).map_err(|refusal| Refusal { ends: true, ..refusal })?;
        state.phase = match body["resume_vm"].as_bool() {
            Some(true) => Phase::Running,
            _ => Phase::Paused,
        };
        state.begin_if_loaded(&self.id);
        Ok(Done::Nothing)
    }

    fn load_into(self: &Arc<Self>, state: &mut State, body: &Value) -> Result<(), Refusal> {
        let devices = fs::read(body["snapshot_path"].as_str().unwrap_or_default())?;
        state.setup = serde_json::from_slice(&devices).map_err(io::Error::from)?;
        let memory = body["mem_backend"]["backend_path"].as_str().unwrap_or_default();
        let memory = File::open(memory)?;
        if memory.metadata()?.len() < state.setup.mem_mib << 20 {
            return Err(Refusal::stays("the memory file is too small"));
        }
        let mut head = Vec::new();
        memory.take(4096).read_to_end(&mut head)?;
        let head = head.strip_prefix(MARK).ok_or_else(|| Refusal::stays("no memory in it"))?;
        let end = head.iter().position(|byte| *byte == b'\n').unwrap_or(head.len());
        state.memory = serde_json::from_slice(&head[..end]).map_err(io::Error::from)?;
        state.loaded = Some(state.memory.name.clone());
        self.assemble(state)
    }

    /// Whether somebody would accept a connection.
    pub fn guest_listens(&self) -> bool {
        self.lock().phase != Phase::NotStarted
    }

    /// Remembers a connection, for when it has to end; its number.
    pub fn connected(&self, stream: UnixStream) -> u64 {
        let mut state = self.lock();
        state.connected += 1;
        let number = state.connected;
        state.connections.insert(number, stream);
        number
    }

    /// Forgets a connection that ended.
    pub fn disconnected(&self, number: u64) {
        self.lock().connections.remove(&number);
    }

    /// Blocks while the machine is paused.
    pub fn wait_until_running(&self) {
        let mut state = self.lock();
        while state.phase != Phase::Running {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What the guest was told to keep in memory.
    pub fn recall(&self) -> String {
        self.lock().memory.word.clone()
    }

    /// Keeps a word in the guest's memory.
    pub fn remember(&self, word: &str) {
        self.lock().memory.word = word.to_owned();
    }

    /// The guest's own id of its boot.
    pub fn boot_id(&self) -> String {
        self.lock().memory.boot_id.clone()
    }

    /// The secrets the guest was told of.
    pub fn secrets_epoch(&self) -> u64 {
        self.lock().memory.secrets_epoch
    }

    /// The guest is told of other secrets.
    pub fn set_secrets_epoch(&self, epoch: u64) {
        self.lock().memory.secrets_epoch = epoch;
    }

    /// Writes a line to the data drive; it is on disk when this returns.
    pub fn write_data(&self, word: &str) -> io::Result<()> {
        drive::write_line(self.lock().drive("data")?, drive::WORD, word)
    }

    /// The data drive's line.
    pub fn read_data(&self) -> io::Result<String> {
        drive::read_line(self.lock().drive("data")?, drive::WORD)
    }

    /// The id of what is on the secrets drive now.
    pub fn secrets_uuid(&self) -> Option<String> {
        self.lock().drive("secrets").ok().and_then(drive::uuid)
    }
}

impl State {
    fn drive(&self, name: &str) -> io::Result<&File> {
        let drive = self.drives.iter().find(|(known, _)| known == name);
        drive.map(|(_, file)| file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn begin_if_loaded(&mut self, id: &str) {
        if self.phase == Phase::Running
            && let Some(loaded) = self.loaded.take()
        {
            self.begin(id, Some(loaded));
        }
    }

    /// The guest begins to execute: booted, or with this memory. It counts that in memory and on
    /// its drive, which shows whether they belong together.
    fn begin(&mut self, id: &str, memory: Option<String>) {
        let Ok(data) = self.drive("data") else { return };
        let on_drive = drive::read_line(data, drive::COUNT).unwrap_or_default();
        let on_drive = on_drive.parse().unwrap_or(0);
        witness::tell(id, &Begun { memory, in_memory: self.memory.begun, on_drive });
        let count = on_drive + 1;
        // A drive that is only a placeholder keeps nothing.
        let kept = drive::write_line(data, drive::COUNT, &count.to_string());
        self.memory.begun = kept.map_or(0, |()| count);
    }
}

fn open(path: &str, read_only: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(!read_only).open(path)
}

fn is_elf(path: &str) -> io::Result<bool> {
    let mut magic = [0; 4];
    File::open(path)?.read_exact(&mut magic)?;
    Ok(&magic == b"\x7fELF")
}

fn fresh_word() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").map_or_else(
        |_| {
            let mut bytes = [0_u8; 8];
            // SAFETY: the buffer is as long as it is said to be.
            unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
            format!("{:016x}", u64::from_ne_bytes(bytes))
        },
        |text| text.trim().to_owned(),
    )
}
