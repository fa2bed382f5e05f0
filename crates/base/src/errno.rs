//! The kernel's errors in the words that clients of Docker and Kubernetes know and compare: Go's.

/// `no such file or directory` instead of `No such file or directory (os error 2)`, wherever the text has it.
pub fn words(mut text: String) -> String {
    const MARK: &str = " (os error ";
    while let Some(mark) = text.find(MARK) {
        let Some(close) = text[mark..].find(')') else { break };
        text.replace_range(mark..=mark + close, "");
        let begin = text[..mark].rfind(": ").map_or(0, |at| at + 2);
        if let Some(first) = text[begin..].chars().next() {
            text.replace_range(begin..begin + first.len_utf8(), &first.to_lowercase().to_string());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn as_go_says_it() {
        let missing = std::io::Error::from_raw_os_error(2).to_string();
        assert_eq!(words(missing), "no such file or directory");
        let two = "a: Permission denied (os error 13); b: Invalid argument (os error 22)";
        assert_eq!(words(two.into()), "a: permission denied; b: invalid argument");
        assert_eq!(words(std::io::Error::from_raw_os_error(121).to_string()), "remote I/O error");
        assert_eq!(words("nothing: Here".into()), "nothing: Here");
        assert_eq!(words("x (os error 2".into()), "x (os error 2", "an end that is missing");
    }
}
