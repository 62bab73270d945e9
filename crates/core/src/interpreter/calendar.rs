//! Dates and times ⇄ JSON: ISO 8601 as `isoformat()` writes it.

use chrono::{Datelike, NaiveDate, NaiveTime, Timelike};
use monty_types::{MontyDate, MontyDateTime, MontyTime, MontyTimeDelta, MontyTimeZone};
use serde_json::{Value, json};

use super::{incoming::Tagged, refusal::Refusal};
use crate::time::Timestamp;

/// What `datetime.now(zone)` answers at `now`.
pub(super) fn datetime_at(now: Timestamp, zone: Option<&MontyTimeZone>) -> MontyDateTime {
    let offset = zone.map_or(0, |zone| zone.offset_seconds);
    let local = now.to_utc().naive_utc() + chrono::TimeDelta::seconds(i64::from(offset));
    MontyDateTime {
        year: local.year(),
        month: small(local.month()),
        day: small(local.day()),
        hour: small(local.hour()),
        minute: small(local.minute()),
        second: small(local.second()),
        microsecond: local.nanosecond() / 1000,
        offset_seconds: zone.map(|zone| zone.offset_seconds),
        timezone_name: zone.and_then(|zone| zone.name.clone()),
    }
}

/// What `date.today()` answers at `now`.
pub(super) fn date_at(now: Timestamp) -> MontyDate {
    let utc = now.to_utc();
    MontyDate { year: utc.year(), month: small(utc.month()), day: small(utc.day()) }
}

fn small(part: u32) -> u8 {
    u8::try_from(part).unwrap_or(u8::MAX)
}

pub(super) fn date_to_iso(date: &MontyDate) -> String {
    format!("{:04}-{:02}-{:02}", date.year, date.month, date.day)
}

fn clock_to_iso(hour: u8, minute: u8, second: u8, microsecond: u32, offset: Option<i32>) -> String {
    let fraction = if microsecond == 0 { String::new() } else { format!(".{microsecond:06}") };
    let offset = offset.map_or_else(String::new, offset_to_iso);
    format!("{hour:02}:{minute:02}:{second:02}{fraction}{offset}")
}

fn offset_to_iso(offset: i32) -> String {
    let sign = if offset < 0 { '-' } else { '+' };
    let (hours, minutes, seconds) = (offset.abs() / 3600, offset.abs() / 60 % 60, offset.abs() % 60);
    let seconds = if seconds == 0 { String::new() } else { format!(":{seconds:02}") };
    format!("{sign}{hours:02}:{minutes:02}{seconds}")
}

fn with_extras(mut json: Value, zone: Option<&String>, fold: u8) -> Value {
    if let Some(zone) = zone {
        json["zone"] = Value::from(zone.as_str());
    }
    if fold != 0 {
        json["fold"] = Value::from(fold);
    }
    json
}

pub(super) fn time_to_json(time: &MontyTime) -> Value {
    let iso = clock_to_iso(time.hour, time.minute, time.second, time.microsecond, time.offset_seconds);
    with_extras(json!({"$py": "time", "value": iso}), time.timezone_name.as_ref(), time.fold)
}

pub(super) fn datetime_to_json(at: &MontyDateTime) -> Value {
    let date = date_to_iso(&MontyDate { year: at.year, month: at.month, day: at.day });
    let clock = clock_to_iso(at.hour, at.minute, at.second, at.microsecond, at.offset_seconds);
    with_extras(json!({"$py": "datetime", "value": format!("{date}T{clock}")}), at.timezone_name.as_ref(), 0)
}

pub(super) fn timezone_to_json(zone: &MontyTimeZone) -> Value {
    with_extras(json!({"$py": "timezone", "seconds": zone.offset_seconds}), zone.name.as_ref(), 0)
}

pub(super) fn timezone_from_json(tagged: &Tagged<'_>) -> Result<MontyTimeZone, Refusal> {
    let offset_seconds = tagged.int("seconds")?;
    if offset_seconds.abs() >= 86_400 {
        return Err(tagged.malformed("seconds", "an offset below 24 hours"));
    }
    Ok(MontyTimeZone { offset_seconds, name: tagged.optional_text("zone") })
}

pub(super) fn timedelta_from_json(tagged: &Tagged<'_>) -> Result<MontyTimeDelta, Refusal> {
    let delta = MontyTimeDelta {
        days: tagged.int("days")?,
        seconds: tagged.int("seconds")?,
        microseconds: tagged.int("microseconds")?,
    };
    let normal = (-999_999_999..=999_999_999).contains(&delta.days)
        && (0..86_400).contains(&delta.seconds)
        && (0..1_000_000).contains(&delta.microseconds);
    if normal { Ok(delta) } else { Err(tagged.malformed("days", "a normalised duration of at most 999999999 days")) }
}

pub(super) fn date_from_json(tagged: &Tagged<'_>) -> Result<MontyDate, Refusal> {
    parse_date(tagged.text("value")?).ok_or_else(|| tagged.malformed("value", "a date like 2026-01-31"))
}

pub(super) fn time_from_json(tagged: &Tagged<'_>) -> Result<MontyTime, Refusal> {
    let (time, offset_seconds) = parse_clock(tagged.text("value")?)
        .ok_or_else(|| tagged.malformed("value", "a time like 12:30:00.000001+01:00"))?;
    Ok(MontyTime {
        hour: small(time.hour()),
        minute: small(time.minute()),
        second: small(time.second()),
        microsecond: time.nanosecond() / 1000,
        offset_seconds,
        timezone_name: offset_seconds.and_then(|_| tagged.optional_text("zone")),
        fold: u8::from(tagged.int("fold").is_ok_and(|fold| fold == 1)),
    })
}

pub(super) fn datetime_from_json(tagged: &Tagged<'_>) -> Result<MontyDateTime, Refusal> {
    let malformed = || tagged.malformed("value", "an instant like 2026-01-31T12:30:00+01:00");
    let (date, clock) = tagged.text("value")?.split_once(['T', ' ']).ok_or_else(malformed)?;
    let date = parse_date(date).ok_or_else(malformed)?;
    let (time, offset_seconds) = parse_clock(clock).ok_or_else(malformed)?;
    Ok(MontyDateTime {
        year: date.year,
        month: date.month,
        day: date.day,
        hour: small(time.hour()),
        minute: small(time.minute()),
        second: small(time.second()),
        microsecond: time.nanosecond() / 1000,
        offset_seconds,
        timezone_name: offset_seconds.and_then(|_| tagged.optional_text("zone")),
    })
}

fn parse_date(text: &str) -> Option<MontyDate> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    let year = (1..=9999).contains(&date.year()).then(|| date.year())?;
    Some(MontyDate { year, month: small(date.month()), day: small(date.day()) })
}

fn parse_clock(text: &str) -> Option<(NaiveTime, Option<i32>)> {
    let (clock, offset) = match text.find(['+', '-', 'Z']) {
        Some(at) => (&text[..at], Some(parse_offset(&text[at..])?)),
        None => (text, None),
    };
    let time = NaiveTime::parse_from_str(clock, "%H:%M:%S%.f").ok()?;
    // A leap second has no place in Python's clock.
    (time.nanosecond() < 1_000_000_000).then_some((time, offset))
}

fn parse_offset(text: &str) -> Option<i32> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, rest) = (text.get(..1)?, text.get(1..)?);
    let mut seconds = 0;
    for (part, weight) in rest.split(':').zip([3600, 60, 1]) {
        seconds += part.parse::<u16>().ok().map(i32::from)? * weight;
    }
    (seconds < 86_400).then_some(if sign == "-" { -seconds } else { seconds })
}
