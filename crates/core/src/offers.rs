//! Which functions there are.

use std::collections::BTreeSet;

/// The names of functions that can be called, or the knowledge that others may offer any.
#[derive(Debug, Clone, Default)]
pub struct Offers(Option<BTreeSet<String>>);

impl Offers {
    /// Whoever runs functions is elsewhere: any name may be offered.
    pub fn anything() -> Self {
        Self(None)
    }

    /// These and no others.
    pub fn only(names: impl IntoIterator<Item = String>) -> Self {
        Self(Some(names.into_iter().collect()))
    }

    /// The names, as far as they are known.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(String::as_str)
    }

    /// The offered name that `name` stands for: itself; for a bare name, the only function of that
    /// name in any module; for `module.name`, a function that was offered without a module.
    pub fn find<'a>(&'a self, name: &str) -> Option<&'a str> {
        let names = self.0.as_ref()?;
        if let Some(same) = names.get(name) {
            return Some(same);
        }
        if let Some((_, last)) = name.rsplit_once('.') {
            return names.get(last).map(String::as_str);
        }
        let mut candidates = names.iter().filter(|offered| offered.rsplit('.').next() == Some(name));
        let first = candidates.next()?;
        candidates.next().is_none().then_some(first.as_str())
    }

    /// Whether `name` is known to be offered.
    pub fn offers(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether `name` is offered, as far as is known.
    pub fn may_offer(&self, name: &str) -> bool {
        self.0.is_none() || self.offers(name)
    }

    /// Offered names that look like `name`, best first.
    pub fn near(&self, name: &str) -> Vec<&str> {
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_lowercase();
        let mut scored: Vec<(f64, &str)> = self
            .0
            .iter()
            .flatten()
            .map(|offered| (strsim::jaro_winkler(&last(offered), &last(name)), offered.as_str()))
            .filter(|(score, _)| *score > 0.75)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().take(3).map(|(_, offered)| offered).collect()
    }

    /// What to say about a name that nobody offers.
    pub fn hint(&self, name: &str) -> String {
        match (self.near(name).as_slice(), &self.0) {
            ([], Some(names)) if names.is_empty() => "no functions are offered: name a file with --functions".into(),
            ([], Some(names)) => {
                let all: Vec<&str> = names.iter().take(20).map(String::as_str).collect();
                format!("the functions offered are {}", all.join(", "))
            }
            ([], None) => "start a worker that offers it".into(),
            (near, _) => format!("did you mean {}?", near.join(" or ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_and_without_their_module() {
        let offers = Offers::only(["tasks.encode", "a.same", "b.same", "add"].map(String::from));
        assert_eq!(offers.find("tasks.encode"), Some("tasks.encode"));
        assert_eq!(offers.find("encode"), Some("tasks.encode"));
        assert_eq!(offers.find("same"), None, "two modules offer it");
        assert_eq!(offers.find("anything.add"), Some("add"));
        assert_eq!(offers.find("other.encode"), None);
    }

    #[test]
    fn a_misspelt_name_is_answered_with_near_ones() {
        let offers = Offers::only(["tasks.encode_video", "tasks.create_playlist"].map(String::from));
        assert_eq!(offers.hint("tasks.encode_vidio"), "did you mean tasks.encode_video?");
        assert!(offers.hint("tasks.zzz").contains("the functions offered are"));
    }
}
