//! What is found, as names and values in an order that makes sense: printed for people, one a line,
//! or as JSON.

use std::fmt::Write as _;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// A value.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Fact {
    Number(u64),
    Text(String),
    Flag(bool),
    /// None: there is no such thing, which is worth saying.
    Nothing,
    Facts(Facts),
    List(Vec<Facts>),
}

/// Names and values.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Facts(Vec<(&'static str, Fact)>);

/// Something is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Damage<'a> {
    /// The file or directory.
    of: Option<&'a str>,
    /// How it shows.
    pub(super) why: &'a str,
}

impl Damage<'_> {
    /// One line that names what is damaged, or what was looked at, and says once that it is.
    pub(super) fn line(self, looked_at: &str) -> String {
        let Self { of, why } = self;
        let of = of.unwrap_or(looked_at);
        // Some name the part that is damaged, and a later version's file is not.
        if why.contains("damaged") || why.contains("format version") {
            return format!("{of}: {why}");
        }
        format!("{of}: damaged: {why}")
    }
}

/// The name of the fact that something is damaged.
const DAMAGE: &str = "damage";

impl Facts {
    /// Of a thing of this kind.
    pub(super) fn of(kind: &str) -> Self {
        Self::default().with("kind", kind)
    }

    /// With another fact.
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, fact: impl Into<Fact>) -> Self {
        self.0.push((name, fact.into()));
        self
    }

    /// With a fact if there is one.
    #[must_use]
    pub(super) fn with_any(self, name: &'static str, fact: Option<impl Into<Fact>>) -> Self {
        match fact {
            Some(fact) => self.with(name, fact),
            None => self,
        }
    }

    /// It is damaged, and this is how that shows.
    #[must_use]
    pub(super) fn with_damage(self, why: impl std::fmt::Display) -> Self {
        self.with(DAMAGE, why.to_string())
    }

    /// It counts for nothing: damage is no fault of anybody's.
    pub(super) fn leftover(mut self) -> Self {
        for (name, _) in self.0.iter_mut().filter(|(name, _)| *name == DAMAGE) {
            *name = "not_whole";
        }
        self
    }

    /// The first damage in it.
    pub(super) fn damage(&self) -> Option<Damage<'_>> {
        if let Some(why) = self.said(DAMAGE) {
            return Some(Damage { of: self.said("file").or_else(|| self.said("directory")), why });
        }
        self.0.iter().find_map(|(_, fact)| match fact {
            Fact::Facts(facts) => facts.damage(),
            Fact::List(list) => list.iter().find_map(Self::damage),
            _ => None,
        })
    }

    fn said(&self, wanted: &str) -> Option<&str> {
        self.0.iter().find_map(|(name, fact)| match fact {
            Fact::Text(text) if *name == wanted => Some(text.as_str()),
            _ => None,
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write(0, &mut text);
        text.truncate(text.trim_end().len());
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and values are JSON")
    }

    fn write(&self, depth: usize, text: &mut String) {
        let widest = self.0.iter().filter(|(_, fact)| fact.is_plain()).map(|(name, _)| name.len());
        let widest = widest.max().unwrap_or(0);
        for (name, fact) in &self.0 {
            let name = name.replace('_', " ");
            let indent = "  ".repeat(depth);
            // Writing to a string does not fail.
            _ = match fact {
                Fact::Facts(_) | Fact::List(_) => writeln!(text, "{indent}{name}:"),
                plain => writeln!(text, "{indent}{name:<widest$}  {}", plain.shown()),
            };
            match fact {
                Fact::Facts(facts) => facts.write(depth + 1, text),
                Fact::List(list) => {
                    for facts in list {
                        facts.write(depth + 1, text);
                        if !text.ends_with("\n\n") {
                            text.push('\n');
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

impl Fact {
    const fn is_plain(&self) -> bool {
        !matches!(self, Self::Facts(_) | Self::List(_))
    }

    fn shown(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            _ => "none".to_owned(),
        }
    }
}

impl Serialize for Facts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, fact) in &self.0 {
            map.serialize_entry(name, fact)?;
        }
        map.end()
    }
}

impl Serialize for Fact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
            Self::Flag(flag) => flag.serialize(serializer),
            Self::Nothing => serializer.serialize_none(),
            Self::Facts(facts) => facts.serialize(serializer),
            Self::List(list) => list.serialize(serializer),
        }
    }
}

impl From<u64> for Fact {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Fact {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

impl From<bool> for Fact {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<String> for Fact {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Fact {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Facts> for Fact {
    fn from(facts: Facts) -> Self {
        Self::Facts(facts)
    }
}

impl From<Vec<Facts>> for Fact {
    fn from(list: Vec<Facts>) -> Self {
        Self::List(list)
    }
}

impl<T: Into<Self>> From<Option<T>> for Fact {
    fn from(fact: Option<T>) -> Self {
        fact.map_or(Self::Nothing, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let inner = Facts::of("inner").with("vote", None::<u64>).with("sound", true);
        let other = Facts::of("other").with_damage("it is \"broken\"");
        Facts::of("outer").with("first_index", 7_u64).with("files", vec![inner, other])
    }

    #[test]
    fn people_and_programs_are_told_the_same() {
        assert_eq!(
            facts().text(),
            "kind         outer\nfirst index  7\nfiles:\n  kind   inner\n  vote   none\n  sound  yes\n\n  \
             kind    other\n  damage  it is \"broken\""
        );
        let json: serde_json::Value = serde_json::from_str(&facts().json()).unwrap();
        assert_eq!(json["first_index"], 7);
        assert_eq!(json["files"][0]["vote"], serde_json::Value::Null);
        assert_eq!(json["files"][0]["sound"], true);
        assert_eq!(json["files"][1]["damage"], "it is \"broken\"");
    }

    #[test]
    fn damage_is_found_however_deep() {
        assert_eq!(facts().damage(), Some(Damage { of: None, why: "it is \"broken\"" }));
        assert_eq!(Facts::of("sound").with("files", vec![Facts::of("a")]).damage(), None);
    }

    #[test]
    fn damage_is_named_with_its_file_and_once() {
        let file = |why: &str| Facts::of("file").with("file", "dir/file").with_damage(why);
        let directory = |why| {
            let facts = Facts::of("directory").with("directory", "dir");
            facts.with("files", vec![Facts::of("sound"), file(why)])
        };
        let line = |facts: &Facts| facts.damage().unwrap().line("looked at");
        assert_eq!(line(&file("at offset 7")), "dir/file: damaged: at offset 7");
        assert_eq!(line(&directory("at offset 7")), "dir/file: damaged: at offset 7");
        assert_eq!(line(&file("the log is damaged: 7")), "dir/file: the log is damaged: 7");
        assert_eq!(line(&file("format version 9")), "dir/file: format version 9");
        assert_eq!(line(&facts()), "looked at: damaged: it is \"broken\"");
    }
}
