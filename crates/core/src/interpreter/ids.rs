//! The numbers of calls: the interpreter counts each run from 0, and the record knows every call of an execution's whole
//! life by a number of its own. They differ by a constant, until the workflow's code is mended: the new code may ask the
//! host for more, or for less, than the former did, and its calls keep the numbers that are on record.

use std::collections::{BTreeMap, VecDeque};

use crate::id::CallId;

/// How one is told from the other.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// What is added to the interpreter's number. Wraps: the new code may count further than the record.
    base: u32,
    /// Pending calls whose numbers differ otherwise.
    renumbered: BTreeMap<u32, u32>,
    /// When a turn is taken again: the numbers on record of the calls that it makes, in order.
    recorded: Option<VecDeque<CallId>>,
    /// What `base` became with the first call of a turn that is taken again.
    first_base: Option<u32>,
}

impl Ids {
    /// As a state keeps them.
    pub(super) fn new(base: u32, renumbered: &[(u32, u32)]) -> Self {
        Self { base, renumbered: renumbered.iter().copied().collect(), ..Self::default() }
    }

    /// The same in a turn that is taken again, from its very beginning with this base, if one is given: what it draws at
    /// random depends on the numbers.
    pub(super) fn taken_again(self, recorded: &[CallId], base: Option<u32>) -> Self {
        let base = base.unwrap_or(self.base);
        Self { base, recorded: Some(recorded.iter().copied().collect()), ..self }
    }

    /// A call as it is known outside.
    pub(super) fn outside(&self, call: u32) -> CallId {
        CallId(self.renumbered.get(&call).copied().unwrap_or_else(|| self.base.wrapping_add(call)))
    }

    /// A call as the interpreter knows it, if it is one of this run's.
    pub(super) fn inside(&self, id: CallId) -> Option<u32> {
        if let Some((call, _)) = self.renumbered.iter().find(|(_, outside)| **outside == id.0) {
            return Some(*call);
        }
        Some(id.0.wrapping_sub(self.base)).filter(|call| !self.renumbered.contains_key(call))
    }

    /// The number of a call that is made now.
    pub(super) fn make(&mut self, call: u32) -> CallId {
        if let Some(id) = self.recorded.as_mut().and_then(VecDeque::pop_front) {
            self.base = id.0.wrapping_sub(call);
            self.first_base.get_or_insert(self.base);
            self.renumbered.insert(call, id.0);
        }
        self.outside(call)
    }

    /// What the base would have had to be from the beginning of a turn that was taken again, if it was another.
    pub(super) fn other_base(&self, before: u32) -> Option<u32> {
        self.first_base.filter(|base| *base != before)
    }

    /// What is added to the interpreter's numbers from here on.
    pub(super) fn base(&self) -> u32 {
        self.base
    }

    /// What a state keeps: the calls that are pending and not told by the base alone.
    pub(super) fn kept(&self, pending: &[u32]) -> Vec<(u32, u32)> {
        // While turns are taken again, the base may still change.
        let differs = |call: u32, id: u32| self.recorded.is_some() || self.base.wrapping_add(call) != id;
        let kept = self.renumbered.iter().filter(|(call, id)| pending.contains(call) && differs(**call, **id));
        kept.map(|(call, id)| (*call, *id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_turn_that_is_taken_again_keep_the_numbers_on_record() {
        let mut ids = Ids::new(0, &[]).taken_again(&[CallId(1), CallId(2)], None);
        assert_eq!((ids.make(3), ids.make(5), ids.make(6)), (CallId(1), CallId(2), CallId(3)));
        assert_eq!(ids.other_base(0), Some(0_u32.wrapping_sub(2)));
        assert_eq!((ids.outside(3), ids.inside(CallId(2)), ids.inside(CallId(3))), (CallId(1), Some(5), Some(6)));
        let kept = Ids::new(ids.base(), &ids.kept(&[3, 6]));
        assert_eq!((kept.outside(3), kept.outside(6), kept.outside(7)), (CallId(1), CallId(3), CallId(4)));
        assert_eq!(kept.kept(&[3, 6]), [(3, 1)], "what the base tells is not kept");
    }

    #[test]
    fn what_is_no_call_of_this_run_has_no_number_in_it() {
        let ids = Ids::new(u32::MAX, &[(1, 7)]);
        assert_eq!(ids.inside(CallId(7)), Some(1));
        assert_eq!(ids.inside(CallId(0)), None, "its place is taken");
    }
}
