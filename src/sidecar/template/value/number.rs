//! Python's arithmetic on numbers.
//!
//! The invariant: an integer is exact, or its rendering ends: there are none beyond 127 bits.

use super::super::budget::{Error, Kind, Result};
use super::Value;

/// Two numbers as Python's operators take them: floats if one is.
enum Pair {
    Ints(i128, i128),
    Floats(f64, f64),
}

fn pair(a: &Value, b: &Value) -> Option<Pair> {
    Some(match (a, b) {
        (Value::Float(a), Value::Float(b)) => Pair::Floats(*a, *b),
        (Value::Float(a), b) => Pair::Floats(*a, b.integer()? as f64),
        (a, Value::Float(b)) => Pair::Floats(a.integer()? as f64, *b),
        (a, b) => Pair::Ints(a.integer()?, b.integer()?),
    })
}

fn exact(number: Option<i128>) -> Result<Value> {
    number.map(Value::Int).ok_or_else(|| Error::other("an integer beyond 127 bits is not supported"))
}

fn zero() -> Error {
    Error::other("division by zero")
}

/// `a + b` of numbers; `None` if one is none.
pub(in super::super) fn add(a: &Value, b: &Value) -> Option<Result<Value>> {
    Some(match pair(a, b)? {
        Pair::Ints(a, b) => exact(a.checked_add(b)),
        Pair::Floats(a, b) => Ok(Value::Float(a + b)),
    })
}

pub(in super::super) fn subtract(a: &Value, b: &Value) -> Option<Result<Value>> {
    Some(match pair(a, b)? {
        Pair::Ints(a, b) => exact(a.checked_sub(b)),
        Pair::Floats(a, b) => Ok(Value::Float(a - b)),
    })
}

pub(in super::super) fn multiply(a: &Value, b: &Value) -> Option<Result<Value>> {
    Some(match pair(a, b)? {
        Pair::Ints(a, b) => exact(a.checked_mul(b)),
        Pair::Floats(a, b) => Ok(Value::Float(a * b)),
    })
}

pub(in super::super) fn divide(a: &Value, b: &Value) -> Option<Result<Value>> {
    let (a, b) = match pair(a, b)? {
        Pair::Ints(a, b) => (a as f64, b as f64),
        Pair::Floats(a, b) => (a, b),
    };
    Some(if b == 0.0 { Err(zero()) } else { Ok(Value::Float(a / b)) })
}

pub(in super::super) fn floor_divide(a: &Value, b: &Value) -> Option<Result<Value>> {
    Some(match pair(a, b)? {
        Pair::Ints(_, 0) => Err(zero()),
        Pair::Ints(a, b) => exact(a.checked_div_euclid(b).map(|_| floor_division(a, b).0)),
        Pair::Floats(a, b) => float_division(a, b).map(|(quotient, _)| Value::Float(quotient)),
    })
}

pub(in super::super) fn modulo(a: &Value, b: &Value) -> Option<Result<Value>> {
    Some(match pair(a, b)? {
        Pair::Ints(_, 0) => Err(zero()),
        Pair::Ints(a, b) => exact(a.checked_rem_euclid(b).map(|_| floor_division(a, b).1)),
        Pair::Floats(a, b) => float_division(a, b).map(|(_, rest)| Value::Float(rest)),
    })
}

/// Quotient and rest, the rest with the divisor's sign.
fn floor_division(a: i128, b: i128) -> (i128, i128) {
    let (quotient, rest) = (a / b, a % b);
    if rest != 0 && (rest < 0) != (b < 0) { (quotient - 1, rest + b) } else { (quotient, rest) }
}

/// As CPython's `float_divmod`.
fn float_division(a: f64, b: f64) -> Result<(f64, f64)> {
    if b == 0.0 {
        return Err(zero());
    }
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest == 0.0 {
        rest = 0.0_f64.copysign(b);
    } else if (b < 0.0) != (rest < 0.0) {
        rest += b;
        quotient -= 1.0;
    }
    let floored = if quotient == 0.0 {
        0.0_f64.copysign(a / b)
    } else {
        let floored = quotient.floor();
        if quotient - floored > 0.5 { floored + 1.0 } else { floored }
    };
    Ok((floored, rest))
}

pub(in super::super) fn power(a: &Value, b: &Value) -> Option<Result<Value>> {
    Some(match pair(a, b)? {
        Pair::Ints(base, exponent) if exponent >= 0 => exact(integer_power(base, exponent)),
        Pair::Ints(a, b) => float_power(a as f64, b as f64),
        Pair::Floats(a, b) => float_power(a, b),
    })
}

fn integer_power(base: i128, exponent: i128) -> Option<i128> {
    match base {
        0 | 1 => Some(if exponent == 0 { 1 } else { base }),
        -1 => Some(if exponent % 2 == 0 { 1 } else { -1 }),
        _ => base.checked_pow(u32::try_from(exponent).ok()?),
    }
}

fn float_power(a: f64, b: f64) -> Result<Value> {
    if a == 0.0 && b < 0.0 {
        return Err(Error::other("0.0 cannot be raised to a negative power"));
    }
    if a < 0.0 && a.is_finite() && b.is_finite() && b.fract() != 0.0 {
        return Err(Error::other("complex numbers are not supported"));
    }
    #[allow(clippy::disallowed_methods, reason = "the number that Python gives, which asks the C library")]
    let result = a.powf(b);
    if result.is_infinite() && a.is_finite() && b.is_finite() {
        return Err(Error::new(Kind::Overflow, "the result is beyond a float"));
    }
    Ok(Value::Float(result))
}

pub(in super::super) fn negate(value: &Value) -> Result<Value> {
    match value {
        Value::Float(number) => Ok(Value::Float(-number)),
        other => match other.integer() {
            Some(number) => exact(number.checked_neg()),
            None => {
                other.defined()?;
                Err(Error::type_error(format!("bad operand type for unary -: '{}'", other.type_name())))
            }
        },
    }
}
