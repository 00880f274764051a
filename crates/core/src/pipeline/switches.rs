//! Deliberate breaks of the rules. They exist to prove that tests, the simulator and the demo notice; a server accepts them
//! only in a build for development. Each stands where the rule is decided, so that what is proven is the check and not the
//! break.

use serde::{Deserialize, Serialize};

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Break {
    /// Nothing is taken back (rule 5).
    NoRollback,
    /// Every commit counts as reviewed (rule 4).
    NoReview,
    /// Nobody is rejected, whatever is held against a release (rule 5).
    NoRejection,
    /// Nothing is taken back while the team's window is closed (rule 5).
    RollbackAsksWindow,
    /// Half of a target's boxes are out at once (rule 2).
    HalfBatches,
    /// What an engine told before it was given its newest command counts (rule 3).
    OldGenerations,
    /// A bake counts time in which monitoring had no data (rule 3).
    BlindTimeCounts,
    /// A release may enter the next step as soon as it is deployed in this one (rule 3).
    StepNotPassed,
    /// Tainted changes are let in again (rule 6).
    TaintLetIn,
    /// A release enters without asking for the lease, and without taking it (rule 1).
    NoLease,
    /// Holds stop nobody (rule 7).
    HoldsIgnored,
    /// A deployment that makes no progress is waited for without end (rule 8).
    NoDeadlines,
}

impl Break {
    /// All of them.
    pub const ALL: [Break; 12] = [
        Break::NoRollback,
        Break::NoReview,
        Break::NoRejection,
        Break::RollbackAsksWindow,
        Break::HalfBatches,
        Break::OldGenerations,
        Break::BlindTimeCounts,
        Break::StepNotPassed,
        Break::TaintLetIn,
        Break::NoLease,
        Break::HoldsIgnored,
        Break::NoDeadlines,
    ];
}

/// A set of breaks; empty unless a test asks for some.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches(u16);

impl Switches {
    /// Whether this rule is broken.
    #[must_use]
    pub fn has(self, wanted: Break) -> bool {
        self.0 & bit(wanted) != 0
    }
}

impl FromIterator<Break> for Switches {
    fn from_iter<I: IntoIterator<Item = Break>>(breaks: I) -> Switches {
        Switches(breaks.into_iter().fold(0, |set, one| set | bit(one)))
    }
}

impl From<Break> for Switches {
    fn from(one: Break) -> Switches {
        Switches(bit(one))
    }
}

fn bit(one: Break) -> u16 {
    1 << one as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_it_was_made_of_and_nothing_else() {
        assert!(Break::ALL.into_iter().all(|one| !Switches::default().has(one)));
        for one in Break::ALL {
            let set = Switches::from(one);
            assert_eq!(Break::ALL.into_iter().filter(|other| set.has(*other)).collect::<Vec<_>>(), [one]);
        }
        let two: Switches = [Break::NoLease, Break::NoReview].into_iter().collect();
        assert!(two.has(Break::NoLease) && two.has(Break::NoReview) && !two.has(Break::TaintLetIn));
    }
}
