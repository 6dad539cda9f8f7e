//! The host's secret key: what every tenant's secrets at rest are opened with.
//!
//! It comes from the systemd credential `mvm-secret-key` when there is one, else from
//! `<config dir>/secret.key`, which is made once, by whoever first needs it. It is never replaced:
//! a key that is missing while something is encrypted with it is an error, not an occasion for a
//! new one. Keys for single purposes are derived from it; it encrypts nothing itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use libsystemd::credentials::CredentialsLoader;
use zeroize::Zeroizing;

use crate::file::{self, Context, FileError};

/// Name of the systemd credential.
pub const CREDENTIAL: &str = "mvm-secret-key";
/// Bytes of a key.
const SIZE: usize = 32;
/// The longest file that is read: the key in hexadecimal and a line end.
const LONGEST: u64 = 2 * SIZE as u64 + 2;

/// A key for one purpose.
pub(crate) type Derived = Zeroizing<[u8; SIZE]>;

/// Tells keys apart; says nothing about the key.
pub type KeyId = [u8; 8];

/// The host's secret key.
pub struct HostKey {
    key: hmac::Key,
    id: KeyId,
}

/// Why there is no key to work with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error("there is no secret key {}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Others than its owner could read or change it, or its owner is somebody else.
    #[error("the secret key {} {problem}", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// In which way.
        problem: String,
    },
    /// It is no key.
    #[error("{whence} is no secret key: it should be 32 bytes, or 64 hexadecimal digits")]
    Malformed {
        /// Where it came from.
        whence: String,
    },
    /// It cannot be read or made.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes")]
    NoRandomness,
}

impl HostKey {
    /// The key that is there.
    ///
    /// # Errors
    /// [`KeyError::Missing`] when there is none; when it is exposed or no key.
    pub fn load(config_dir: &Path) -> Result<Self, KeyError> {
        if let Some(credential) = credential()? {
            return Ok(credential);
        }
        let path = path(config_dir);
        let file = match File::open(&path).doing("open", &path) {
            Err(error) if error.is_missing() => return Err(KeyError::Missing { path }),
            other => other?,
        };
        check_owner(&file, &path)?;
        Self::read(file, &path.display().to_string())
    }

    /// The key that is there, or a new one. Only for who knows that nothing is encrypted yet.
    ///
    /// # Errors
    /// Those of [`Self::load`], but for a missing one; when it cannot be made.
    pub fn load_or_create(config_dir: &Path) -> Result<Self, KeyError> {
        match Self::load(config_dir) {
            Err(KeyError::Missing { path }) => {
                create(&path)?;
                // Not what was just made: another process may have been first.
                Self::load(config_dir)
            }
            other => other,
        }
    }

    fn read(file: File, whence: &str) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
        file.take(LONGEST + 1).read_to_end(&mut bytes).doing("read", Path::new(whence))?;
        let malformed = || KeyError::Malformed { whence: whence.to_owned() };
        Ok(Self::from_bytes(&*decode(&bytes).ok_or_else(malformed)?))
    }

    /// The key of these bytes.
    pub(crate) fn from_bytes(bytes: &[u8; SIZE]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let mut id = KeyId::default();
        id.copy_from_slice(&hmac::sign(&key, b"mvm secrets: key id").as_ref()[..8]);
        Self { key, id }
    }

    /// Which key it is.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key for a purpose. Purposes are distinct texts.
    pub(crate) fn derive(&self, purpose: &str) -> Derived {
        let mut derived = Derived::default();
        derived.copy_from_slice(hmac::sign(&self.key, purpose.as_bytes()).as_ref());
        derived
    }

    /// A digest of parts that nobody without the key can compute or guess the parts from.
    pub(crate) fn digest<'a>(
        &self,
        purpose: &str,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> [u8; SIZE] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.derive(purpose).as_slice());
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            // With its length, so that no two lists of parts read the same.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; SIZE];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

/// Where the key is when no credential holds it.
pub fn path(config_dir: &Path) -> PathBuf {
    config_dir.join("secret.key")
}

/// The key systemd passed, if it passed one.
fn credential() -> Result<Option<HostKey>, KeyError> {
    let Some(dir) = CredentialsLoader::path_from_env() else { return Ok(None) };
    if !dir.join(CREDENTIAL).exists() {
        return Ok(None);
    }
    let failed = |error: libsystemd::errors::SdError| {
        FileError::new("read credential", &dir.join(CREDENTIAL), io::Error::other(error))
    };
    let file = CredentialsLoader::open().and_then(|loader| loader.get(CREDENTIAL));
    HostKey::read(file.map_err(failed)?, &format!("the systemd credential {CREDENTIAL}")).map(Some)
}

fn check_owner(file: &File, path: &Path) -> Result<(), KeyError> {
    let meta = file.metadata().doing("examine", path)?;
    let exposed = |problem: String| KeyError::Exposed { path: path.to_owned(), problem };
    let me = nix::unistd::geteuid().as_raw();
    match meta.mode() & 0o777 {
        _ if !meta.is_file() => Err(exposed("is no regular file".into())),
        _ if ![0, me].contains(&meta.uid()) => {
            Err(exposed(format!("belongs to uid {}, not to root", meta.uid())))
        }
        0o400 => Ok(()),
        mode => Err(exposed(format!("has mode {mode:04o}, it must be 0400"))),
    }
}

/// Raw, or in hexadecimal with an optional line end.
fn decode(bytes: &[u8]) -> Option<Derived> {
    if let Ok(raw) = <[u8; SIZE]>::try_from(bytes) {
        return Some(Zeroizing::new(raw));
    }
    let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    let mut key = Derived::default();
    if digits.len() != 2 * SIZE {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.as_chunks::<2>().0) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(key)
}

/// Makes a key. It has its name only once it is whole and on disk, and takes nobody's place: of
/// two who do this at once, the first wins.
fn create(path: &Path) -> Result<(), KeyError> {
    path.parent().map_or(Ok(()), file::create_dir)?;
    let mut raw = Derived::default();
    getrandom::fill(raw.as_mut_slice()).map_err(|_| KeyError::NoRandomness)?;
    let mut text = Zeroizing::new(String::with_capacity(LONGEST as usize));
    for byte in raw.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    text.push('\n');
    let beside = path.with_extension(format!("key.{}.{:x}", std::process::id(), nonce()?));
    let made = write(&beside, text.as_bytes()).and_then(|()| name(&beside, path));
    let removed = file::remove_file(&beside);
    made?;
    Ok(removed.and_then(|()| path.parent().map_or(Ok(()), file::sync_dir))?)
}

/// Keeps two threads of one process apart.
fn nonce() -> Result<u32, KeyError> {
    getrandom::u32().map_err(|_| KeyError::NoRandomness)
}

fn write(beside: &Path, text: &[u8]) -> Result<(), FileError> {
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o400).open(beside).doing("create", beside)?;
    file.write_all(text).and_then(|()| file.sync_all()).doing("write", beside)
}

/// Like a rename that never replaces.
fn name(beside: &Path, path: &Path) -> Result<(), FileError> {
    match fs::hard_link(beside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.doing("create", path),
    }
}
