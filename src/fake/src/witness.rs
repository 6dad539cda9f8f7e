//! Tells the test that listens whenever a guest begins to execute: booted, or with a memory that
//! was saved. A memory that executes twice, or beside a drive that went on without it, is what
//! must never be; the test hears of both.

use std::fmt;

use crate::faults;

/// A guest begins to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The name of the memory it goes on with; none when it boots.
    pub memory: Option<String>,
    /// How often it began before, as its memory has it.
    pub in_memory: u64,
    /// The same as its drive has it.
    pub on_drive: u64,
}

impl fmt::Display for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.memory {
            None => f.write_str("BOOTS"),
            Some(name) if self.in_memory == self.on_drive => write!(f, "EXECUTES {name}"),
            Some(name) => write!(
                f,
                "TORN {name}: memory {} and drive {} do not belong together",
                self.in_memory, self.on_drive
            ),
        }
    }
}

/// Tells it; nobody may be listening.
pub fn tell(id: &str, begun: &Begun) {
    let _ = faults::say(&format!("{id} {begun}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beside_another_drive_is_torn() {
        let begun = |in_memory| Begun { memory: Some("m".into()), in_memory, on_drive: 3 };
        assert_eq!(begun(3).to_string(), "EXECUTES m");
        assert!(begun(2).to_string().starts_with("TORN m"));
        assert_eq!(Begun { memory: None, ..begun(0) }.to_string(), "BOOTS");
    }
}
