//! `strftime_now`: the day that the operator has set, never the clock's, since a reward must not depend on the day.

use std::fmt::Write as _;

/// A day of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    year: i64,
    month: usize,
    day: i64,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Date {
    /// A day as `YYYY-MM-DD`; `None` if it is not one of the years 1 to 9999.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |part: &str, n: usize| {
            (part.len() == n && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse::<i64>().ok()).flatten()
        };
        let (year, rest) = text.split_once('-')?;
        let (month, day) = rest.split_once('-')?;
        let (year, month, day) = (digits(year, 4)?, digits(month, 2)?, digits(day, 2)?);
        let month = usize::try_from(month).ok()?;
        let exists = year >= 1 && (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day);
        exists.then_some(Self { year, month, day })
    }

    /// Python's `datetime.strftime` at midnight in the C locale. The error names what is not known.
    pub(super) fn format(self, format: &str) -> Result<String, String> {
        let (day_of_year, weekday) = (self.day_of_year(), self.weekday());
        let (month, day_name) = (MONTHS[self.month - 1], DAYS[weekday]);
        let mut out = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let sign = rest.next();
            // glibc's flag: no leading zeros.
            let (plain, sign) = if sign == Some('-') { (true, rest.next()) } else { (false, sign) };
            let mut number = |n: i64, width: usize| {
                let width = if plain { 0 } else { width };
                _ = write!(out, "{n:0width$}");
            };
            match sign {
                Some('Y') => number(self.year, 0),
                Some('y') => number(self.year % 100, 2),
                Some('m') => number(self.month as i64, 2),
                Some('d') => number(self.day, 2),
                Some('j') => number(day_of_year, 3),
                Some('H' | 'M' | 'S') => number(0, 2),
                Some('I') => number(12, 2),
                Some('w') => number(weekday as i64, 0),
                Some('B') => out.push_str(month),
                Some('b' | 'h') => out.push_str(&month[..3]),
                Some('A') => out.push_str(day_name),
                Some('a') => out.push_str(&day_name[..3]),
                Some('p') => out.push_str("AM"),
                Some('f') => out.push_str("000000"),
                Some('F') => _ = write!(out, "{}-{:02}-{:02}", self.year, self.month, self.day),
                Some('D' | 'x') => _ = write!(out, "{:02}/{:02}/{:02}", self.month, self.day, self.year % 100),
                Some('T' | 'X') => out.push_str("00:00:00"),
                Some('R') => out.push_str("00:00"),
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('%') => out.push('%'),
                // A naive time has no zone.
                Some('z' | 'Z') => {}
                Some(other) => return Err(format!("strftime_now: %{other} is not supported")),
                None => return Err("strftime_now: the format ends with %".into()),
            }
        }
        Ok(out)
    }

    fn day_of_year(self) -> i64 {
        (1..self.month).map(|month| days_of(self.year, month)).sum::<i64>() + self.day
    }

    /// Sunday is 0.
    fn weekday(self) -> usize {
        let before = self.year - 1;
        let days = before * 365 + before / 4 - before / 100 + before / 400 + self.day_of_year();
        // The first of January of the year 1 was a Monday.
        usize::try_from(days % 7).unwrap_or(0)
    }
}

fn days_of(year: i64, month: usize) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_written_as_python_writes_it() {
        let date = Date::parse("2024-07-06").unwrap();
        assert_eq!(
            date.format("%d %b %Y|%A %-d %B|%Y-%m-%d %j %H:%M%%").unwrap(),
            "06 Jul 2024|Saturday 6 July|2024-07-06 188 00:00%"
        );
        assert!(date.format("%Q").is_err() && date.format("%").is_err());
        for wrong in ["2024-7-6", "2023-02-29", "2024-13-01", "24-01-01", "2024-01-01x", ""] {
            assert_eq!(Date::parse(wrong), None, "{wrong}");
        }
    }
}
