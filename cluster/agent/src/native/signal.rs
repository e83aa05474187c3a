//! Signals by name, as a service's stop signal is given.

/// Names by number for 1–31, without `SIG`.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first real-time signal for programs (signal(7); the C library keeps 32 and 33).
const RT_MIN: i32 = 34;

/// The last signal.
const RT_MAX: i32 = 64;

/// The number of a signal given by name (`SIGTERM`, `term`, `RTMIN+3`) or number.
pub(super) fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RT_MAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(position) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(position + 1).ok();
    }
    match name {
        "IOT" => Some(6),
        "CLD" => Some(17),
        "POLL" => Some(29),
        _ => real_time(name),
    }
}

fn real_time(name: &str) -> Option<i32> {
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        RT_MIN
            + if offset.is_empty() {
                0
            } else {
                offset.strip_prefix('+')?.parse().ok()?
            }
    } else {
        let offset = name.strip_prefix("RTMAX")?;
        RT_MAX
            - if offset.is_empty() {
                0
            } else {
                offset.strip_prefix('-')?.parse::<u8>().ok()? as i32
            }
    };
    (RT_MIN..=RT_MAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn other_words_are_refused() {
        for text in [
            "", "0", "65", "-1", "SIG", "SIGFOO", "RTMIN+31", "RTMIN3", "RTMAX-31",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_and_numbers_are_understood() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGSYS", 31),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
    }
}
