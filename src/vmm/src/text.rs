//! Text that came from a guest or a VMM, made safe for terminals, logs and JSON.

/// The text with control characters replaced and cut to `max` characters.
pub(crate) fn printable(text: &str, max: usize) -> String {
    text.trim().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(max).collect()
}

/// The last `count` non-empty lines, each printable and cut to 300 characters.
pub(crate) fn last_lines(bytes: &[u8], count: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines: Vec<String> = text
        .rsplit(['\n', '\r'])
        .filter(|line| !line.trim().is_empty())
        .take(count)
        .map(|line| printable(line, 300))
        .collect();
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_from_a_guest_do_not_reach_a_terminal() {
        assert_eq!(printable("\x1b]0;owned\x07 hi ", 20), "\u{fffd}]0;owned\u{fffd} hi");
        assert_eq!(last_lines(b"one\r\n\ntwo\nthr\xffee\n", 2), ["two", "thr\u{fffd}ee"]);
    }
}
