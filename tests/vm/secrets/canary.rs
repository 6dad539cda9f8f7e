//! A random secret, and finding it: in files, arguments, environments and output, in clear, in
//! hexadecimal and in base64.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::World;

/// How much of a canary is enough to have found it, bytes.
const PART: usize = 16;

/// A secret nobody else has.
pub struct Canary {
    /// Its value.
    pub value: String,
    /// What its parts look like, in every form, one a line.
    forms: String,
}

impl Canary {
    /// Draws one.
    pub fn new() -> Self {
        let mut bytes = [0; 32];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes))
            .expect("random bytes");
        let value = hex(&bytes);
        let mut forms = Vec::new();
        // Parts of it, so that one cut in two is found as well.
        for part in value.as_bytes().chunks(PART) {
            forms.push(String::from_utf8_lossy(part).into_owned());
            forms.extend([hex(part), hex(part).to_uppercase()]);
            forms.extend((0..3).map(|shift| base64(part, shift)));
        }
        Self { value, forms: forms.join("\n") }
    }

    /// Whether it is in there.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        let text = String::from_utf8_lossy(bytes);
        self.forms.lines().any(|form| text.contains(form))
    }

    /// The files below `dir` that have it; `except` is not looked into.
    pub fn files(&self, dir: &Path, except: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for some in files(dir, except).chunks(100) {
            let mut grep = Command::new("grep")
                .args(["-l", "-s", "-a", "-F", "-f", "-", "--"])
                .args(some)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("grep starts");
            // Not as arguments, which it would find.
            let mut stdin = grep.stdin.take().expect("stdin is piped");
            stdin.write_all(self.forms.as_bytes()).expect("grep reads");
            drop(stdin);
            let output = grep.wait_with_output().expect("grep ends");
            found.extend(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from));
        }
        found
    }

    /// Where it is in clear although it should not be: files of the world but for its tmpfs,
    /// arguments and environments of its processes.
    pub fn strays(&self, world: &World) -> Vec<String> {
        let files = self.files(&world.path(""), &world.path("run/secrets"));
        let mut strays: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
        for (pid, line) in world.processes() {
            for name in ["cmdline", "environ"] {
                let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
                if self.is_in(&bytes) {
                    strays.push(format!("{name} of {line}"));
                }
            }
        }
        strays
    }
}

fn files(dir: &Path, except: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
        match kind {
            _ if path == except => {}
            _ if kind.is_dir() => found.extend(files(&path, except)),
            _ if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Base64 as it looks after `shift` other bytes: only the letters that depend on nothing but
/// `bytes`.
fn base64(bytes: &[u8], shift: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let shifted = [&vec![0; shift][..], bytes].concat();
    let bit = |bit: usize| usize::from(shifted[bit / 8] >> (7 - bit % 8) & 1);
    let letter = |at: usize| LETTERS[(0..6).fold(0, |sum, n| sum << 1 | bit(at * 6 + n))];
    let letters = (shift * 8).div_ceil(6)..shifted.len() * 8 / 6;
    letters.map(letter).map(char::from).collect()
}
