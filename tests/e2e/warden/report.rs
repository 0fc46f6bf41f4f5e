//! What the warden says: each statistic with its verdict, and which of them tell knocks from real attempts.

use std::fmt;

use super::chance::holm;

/// One statistic.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    /// What was counted, in words.
    pub(crate) detail: String,
}

/// Whether a statistic differs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The knocks have what no real attempt has: no chance is in it.
    Differs,
    /// The chance of a difference of this size or a larger one, had both been made in one way (p-value).
    Chance(f64),
    /// There is nothing to compare, for the reason that the detail gives.
    Nothing,
}

/// All that was found.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) knocks: usize,
    pub(crate) real: usize,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    /// The statistics that tell the two apart. The probability that there is one of them by chance is at most `level`,
    /// however many were looked at (Holm's correction).
    pub(crate) fn telling(&self, level: f64) -> Vec<&str> {
        let corrected = self.corrected();
        let tells = |(finding, corrected): (&Finding, &Option<f64>)| {
            finding.verdict == Verdict::Differs || corrected.is_some_and(|p| p <= level)
        };
        let all = self.findings.iter().zip(&corrected);
        all.filter(|one| tells(*one)).map(|(finding, _)| finding.name.as_str()).collect()
    }

    /// The p-values after the correction, where there are any.
    fn corrected(&self) -> Vec<Option<f64>> {
        let p_value = |finding: &Finding| match finding.verdict {
            Verdict::Chance(p) => Some(p),
            Verdict::Differs | Verdict::Nothing => None,
        };
        let p_values: Vec<Option<f64>> = self.findings.iter().map(p_value).collect();
        let mut corrected =
            holm(&p_values.iter().copied().flatten().collect::<Vec<_>>()).into_iter();
        p_values.into_iter().map(|p| p.and_then(|_| corrected.next())).collect()
    }
}

/// A table in Markdown.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} knocks, {} real attempts\n", self.knocks, self.real)?;
        writeln!(f, "| statistic | p | corrected | what was seen |\n|---|---|---|---|")?;
        for (Finding { name, verdict, detail }, corrected) in
            self.findings.iter().zip(self.corrected())
        {
            match (verdict, corrected) {
                (Verdict::Chance(p), Some(corrected)) => {
                    writeln!(f, "| {name} | {} | {} | {detail} |", Short(*p), Short(corrected))?;
                }
                (Verdict::Differs, _) => writeln!(f, "| **{name}** | differs | | {detail} |")?,
                _ => writeln!(f, "| {name} | – | | {detail} |")?,
            }
        }
        Ok(())
    }
}

/// A p-value in few characters.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 0.001 { write!(f, "{:.3}", self.0) } else { write!(f, "{:.0e}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_is_exact_or_unlikely_after_the_correction() {
        let finding =
            |name: &str, verdict| Finding { name: name.into(), verdict, detail: "d".into() };
        let report = Report {
            knocks: 1,
            real: 2,
            findings: vec![
                finding("a", Verdict::Chance(4e-7)),
                finding("b", Verdict::Chance(2e-7)),
                finding("c", Verdict::Nothing),
                finding("d", Verdict::Differs),
                finding("e", Verdict::Chance(0.9)),
            ],
        };
        assert_eq!(report.telling(1e-6), ["a", "b", "d"]);
        assert_eq!(report.telling(7e-7), ["b", "d"]);
        assert_eq!(report.telling(1e-7), ["d"]);
        let text = report.to_string();
        assert!(text.contains("| a | 4e-7 | 8e-7 | d |"), "{text}");
        assert!(text.contains("| **d** | differs | | d |") && text.contains("| c | – | | d |"));
    }
}
