//! The page that explains each code of a problem: shipped beside the rules, and kept inside the program.

/// Where it stands.
pub const PROBLEMS_PAGE: &str = "rules/PROBLEMS.md";

const TEXT: &str = include_str!("../../rules/PROBLEMS.md");

/// Each code and its section, heading included.
pub fn problems_page() -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    TEXT.split("\n## ").skip(1).filter_map(|section| {
        let section = section.split("\n# PW").next()?.trim_end();
        Some((section.split_whitespace().next()?, section))
    })
}
