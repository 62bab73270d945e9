//! What a function writes, kept within bounds: the beginning and the end.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use durable_core::{
    model::{LogLine, Stream},
    store::calls::AttemptOf,
    time::Timestamp,
};

/// How much of the beginning of an attempt's output is kept, and how much of its end, in bytes.
const KEPT: usize = 512 << 10;

/// The end is kept in pieces of about this size, which go one by one.
const PIECE: usize = 16 << 10;

type Piece = (Stream, Vec<u8>);

/// Collects what a function writes; kept even when its attempt is cut short. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct CallLog(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    beginning: Vec<Piece>,
    begun: usize,
    end: VecDeque<Piece>,
    ended: usize,
    cut: u64,
}

impl CallLog {
    /// Adds to the log.
    pub fn write(&self, stream: Stream, text: &str) {
        self.write_bytes(stream, text.as_bytes());
    }

    /// Adds bytes that are shown as text.
    pub fn write_bytes(&self, stream: Stream, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, rest) = bytes.split_at(bytes.len().min(KEPT - kept.begun));
        if !first.is_empty() {
            kept.begun += first.len();
            match kept.beginning.last_mut() {
                Some((last, piece)) if *last == stream => piece.extend_from_slice(first),
                _ => kept.beginning.push((stream, first.to_vec())),
            }
        }
        kept.add_to_end(stream, rest);
    }

    /// What was written, to any stream.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.pieces().into_iter().flat_map(|(_, text)| text).collect::<Vec<u8>>()).into_owned()
    }

    /// What was written, as lines of the execution's log.
    pub fn lines(&self, of: &AttemptOf, at: Timestamp) -> Vec<LogLine> {
        let line = |stream, text| LogLine { call_id: Some(of.call), attempt: Some(of.number), stream, text, at };
        let pieces = self.pieces().into_iter();
        pieces.map(|(stream, piece)| line(stream, String::from_utf8_lossy(&piece).into_owned())).collect()
    }

    fn pieces(&self) -> Vec<Piece> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pieces = kept.beginning.clone();
        let (mut end, mut cut): (VecDeque<Piece>, u64) = (kept.end.clone(), kept.cut);
        if cut > 0 {
            cut += to_whole_lines(&mut end) as u64;
            let note = format!("\n[{cut} bytes of this attempt's output were cut out here]\n");
            pieces.push((Stream::Stderr, note.into_bytes()));
        }
        for (stream, piece) in end {
            match pieces.last_mut() {
                Some((last, text)) if *last == stream => text.extend(piece),
                _ => pieces.push((stream, piece)),
            }
        }
        pieces
    }
}

impl Kept {
    fn add_to_end(&mut self, stream: Stream, bytes: &[u8]) {
        let fits = bytes.len().min(KEPT);
        let (gone, bytes) = bytes.split_at(bytes.len() - fits);
        self.cut += gone.len() as u64;
        for bytes in bytes.chunks(PIECE) {
            match self.end.back_mut() {
                Some((last, piece)) if *last == stream && piece.len() < PIECE => piece.extend_from_slice(bytes),
                _ => self.end.push_back((stream, bytes.to_vec())),
            }
            self.ended += bytes.len();
        }
        while let Some((_, oldest)) = self.end.front()
            && self.ended - oldest.len() >= KEPT
        {
            (self.ended, self.cut) = (self.ended - oldest.len(), self.cut + oldest.len() as u64);
            self.end.pop_front();
        }
    }
}

/// The end begins with a line's beginning, if one is near; answers what went for it.
fn to_whole_lines(end: &mut VecDeque<Piece>) -> usize {
    let Some((_, first)) = end.front_mut() else { return 0 };
    let near = first.iter().take(PIECE).position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    first.drain(..near);
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(log: &CallLog) -> String {
        let of = AttemptOf {
            execution: durable_core::id::ExecutionId::generate(),
            call: durable_core::id::CallId(1),
            number: 1,
        };
        log.lines(&of, Timestamp(0)).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn a_short_output_is_kept_as_it_is() {
        let log = CallLog::default();
        log.write(Stream::Stdout, "one\n");
        log.write_bytes(Stream::Stdout, "tw\u{f6}".as_bytes());
        assert_eq!(text(&log), "one\ntw\u{f6}");
    }

    #[test]
    fn of_a_long_output_the_beginning_and_the_end_are_kept_and_what_was_cut_is_said() {
        let log = CallLog::default();
        let total: usize = (0..400_000)
            .map(|n| {
                let line = format!("line {n}\n");
                log.write([Stream::Stdout, Stream::Stderr][usize::from(n % 1000 == 0)], &line);
                line.len()
            })
            .sum();
        let text = text(&log);
        assert!(text.starts_with("line 0\nline 1\n") && text.ends_with("line 399998\nline 399999\n"));
        let (before, after) = text.split_once("\n[").unwrap();
        let (count, after) = after.split_once(" bytes of this attempt's output were cut out here]\n").unwrap();
        assert!(after.starts_with("line "), "{}", &after[..40]);
        assert_eq!(before.len() + count.parse::<usize>().unwrap() + after.len(), total);
        assert!(text.len() < 2 * KEPT + 2 * PIECE + 100, "{}", text.len());
    }

    #[test]
    fn one_write_of_any_size_is_bounded_too() {
        let log = CallLog::default();
        log.write_bytes(Stream::Stdout, &vec![b'x'; 8 << 20]);
        log.write(Stream::Stdout, "\nthe end");
        let text = text(&log);
        assert!(text.len() < 2 * KEPT + 2 * PIECE + 100 && text.ends_with("the end"), "{}", text.len());
    }
}
