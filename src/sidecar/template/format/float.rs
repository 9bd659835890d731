//! Floats with a number of digits.
//!
//! The invariant: digits are those of the number's exact decimal value, rounded to even where it stands between two.

use super::super::budget::{Error, Result};
use super::super::value::{Out, float};
use super::Spec;

/// Most digits that a float is written with: beyond these all are zeros.
const MAX_PRECISION: usize = 1100;

/// `%f` of a finite number.
pub(in super::super) fn fixed(number: f64, precision: usize) -> String {
    let exact = precision.min(MAX_PRECISION);
    let mut digits = format!("{number:.exact$}");
    if precision > exact {
        digits.push_str(&"0".repeat(precision - exact));
    }
    digits
}

/// `%e` of a finite number.
fn scientific(number: f64, precision: usize) -> String {
    let exact = precision.min(MAX_PRECISION);
    let written = format!("{number:.exact$e}");
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    let zeros = "0".repeat(precision - exact);
    format!("{digits}{zeros}e{sign}{:02}", exponent.abs())
}

/// `%g` of a finite number. `point`: as a float without a format's letter, which has at least one digit behind the point.
fn general(number: f64, precision: usize, alternate: bool, point: bool) -> String {
    let precision = precision.max(1);
    let written = scientific(number, precision - 1);
    let exponent: i64 = written.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let limit = precision as i64 - i64::from(point);
    let is_scientific = exponent < -4 || exponent >= limit.max(i64::from(!point));
    let strip = |digits: &str| -> String {
        if alternate || !digits.contains('.') {
            return digits.to_owned();
        }
        digits.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if is_scientific {
        let (digits, exponent) = written.split_once('e').unwrap_or((&written, "+00"));
        return format!("{}e{exponent}", strip(digits));
    }
    let behind = usize::try_from(precision as i64 - 1 - exponent).unwrap_or(0);
    let digits = strip(&fixed(number, behind));
    if point && !digits.contains('.') { digits + ".0" } else { digits }
}

/// The digits of a number's size for a format's letter.
pub(super) fn digits(number: f64, kind: Option<char>, precision: Option<usize>, alternate: bool) -> Result<String> {
    let size = number.abs();
    if !size.is_finite() {
        let word = if size.is_nan() { "nan" } else { "inf" };
        let word =
            if kind.is_some_and(|kind| kind.is_ascii_uppercase()) { word.to_uppercase() } else { word.to_owned() };
        return Ok(if kind == Some('%') { word + "%" } else { word });
    }
    let usual = precision.unwrap_or(6);
    let mut digits = match kind {
        None => match precision {
            None => float(size),
            Some(precision) => general(size, precision, alternate, true),
        },
        Some('e' | 'E') => scientific(size, usual),
        Some('f' | 'F') => fixed(size, usual),
        Some('g' | 'G' | 'n') => general(size, usual, alternate, false),
        Some('%') => fixed(size * 100.0, usual),
        Some(kind) => {
            return Err(Error::value_error(format!("Unknown format code '{kind}' for object of type 'float'")));
        }
    };
    if alternate && !digits.contains('.') {
        let at = digits.find('e').unwrap_or(digits.len());
        digits.insert(at, '.');
    }
    if matches!(kind, Some('E' | 'G')) {
        digits = digits.to_uppercase();
    }
    Ok(if kind == Some('%') { digits + "%" } else { digits })
}

pub(super) fn write(number: f64, spec: &Spec, out: &mut Out) -> Result<()> {
    let digits = digits(number, spec.kind, spec.precision, spec.alternate)?;
    let negative = number.is_sign_negative() && !number.is_nan();
    spec.number(spec.sign(negative), &digits, out)
}

/// Python's `round(number, places)`.
pub(in super::super) fn round_to(number: f64, places: i128) -> Result<f64> {
    if !number.is_finite() || places > 323 {
        return Ok(number);
    }
    if places < -308 {
        return Ok(0.0_f64.copysign(number));
    }
    if places >= 0 {
        let rounded = fixed(number, usize::try_from(places).unwrap_or(0)).parse();
        return rounded.map_err(|_| Error::other("a float could not be rounded"));
    }
    // Digits before the point: by the exponent form with as many digits as stay.
    let exponent = format!("{:e}", number.abs()).split_once('e').and_then(|(_, e)| e.parse::<i128>().ok()).unwrap_or(0);
    let keep = exponent + places;
    if keep < -1 {
        return Ok(0.0_f64.copysign(number));
    }
    if keep == -1 {
        // Half of the next unit, or less, goes to the even zero.
        let unit = 10_f64.powi(i32::try_from(-places).unwrap_or(308));
        return Ok(if number.abs() > unit / 2.0 { unit.copysign(number) } else { 0.0_f64.copysign(number) });
    }
    let keep = usize::try_from(keep).unwrap_or(0);
    format!("{number:.keep$e}").parse().map_err(|_| Error::other("a float could not be rounded"))
}
