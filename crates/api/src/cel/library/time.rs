//! Functions on times and durations.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use super::super::value::Val;
use super::{Answer, overload};

pub(super) fn time<'a>(name: &str, t: Timestamp, args: &[Val<'a>]) -> Answer<'a> {
    let zone = match args {
        [] => TimeZone::UTC,
        [Val::Text(name)] => match zone(name) {
            Some(zone) => zone,
            None => return Err(format!("unknown time zone {name}")),
        },
        _ => return overload(name),
    };
    let z = t.to_zoned(zone);
    Ok(Val::Int(match name {
        "getFullYear" => z.year().into(),
        "getMonth" => i64::from(z.month()) - 1,
        "getDate" => z.day().into(),
        "getDayOfMonth" => i64::from(z.day()) - 1,
        "getDayOfWeek" => z.weekday().to_sunday_zero_offset().into(),
        "getDayOfYear" => i64::from(z.day_of_year()) - 1,
        "getHours" => z.hour().into(),
        "getMinutes" => z.minute().into(),
        "getSeconds" => z.second().into(),
        "getMilliseconds" => z.millisecond().into(),
        _ => return overload(name),
    }))
}

/// A fixed offset, UTC, or the time of a place; places are those that the binary brings, whatever the machine knows.
pub(super) fn zone(name: &str) -> Option<TimeZone> {
    if matches!(name, "UTC" | "Z" | "") {
        return Some(TimeZone::UTC);
    }
    let (sign, rest) = match name.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, name.strip_prefix('+').unwrap_or(name)),
    };
    let Some((hours, minutes)) = rest.split_once(':') else {
        return TimeZoneDatabase::bundled().get(name).ok();
    };
    // More hours than that are no offset either.
    let seconds = i32::from(hours.parse::<i16>().ok()?) * 3600 + i32::from(minutes.parse::<i16>().ok()?) * 60;
    jiff::tz::Offset::from_seconds(sign * seconds).ok().map(TimeZone::fixed)
}

pub(super) fn span<'a>(name: &str, d: SignedDuration) -> Answer<'a> {
    Ok(Val::Int(match name {
        "getHours" => d.as_hours(),
        "getMinutes" => d.as_mins(),
        "getSeconds" => d.as_secs(),
        "getMilliseconds" => i64::try_from(d.as_millis()).unwrap_or(i64::MAX),
        _ => return overload(name),
    }))
}
