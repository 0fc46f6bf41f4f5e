//! Numbers and tables: samples of one figure, and how they are shown. Knows nothing of what is measured.
//!
//! Alternatives that are to be compared are measured in turns, round after round, so that whatever else the machine does
//! meets all of them alike. No criterion: what it adds, a comparison with earlier runs, means little on a shared machine.

use std::time::{Duration, Instant};

/// Several measurements of one figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64());
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The smallest value that at least `percent` of all are not above; 0 and 100 are the least and the greatest.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let at = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    /// Median, and the least and the greatest in brackets.
    pub(crate) fn show(&self, unit: impl Fn(f64) -> String) -> String {
        let [least, most] = [0, 100].map(|percent| unit(self.percentile(percent)));
        format!("{} ({least} to {most})", unit(self.median()))
    }
}

/// How long `work` takes.
pub(crate) fn time<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// Seconds, in a unit that suits them.
pub(crate) fn seconds(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v < 1e-6 => (v * 1e9, "ns"),
        v if v < 1e-3 => (v * 1e6, "µs"),
        v if v < 1.0 => (v * 1e3, "ms"),
        v => (v, "s"),
    };
    let digits = if scaled < 10.0 { 2 } else { usize::from(scaled < 100.0) };
    format!("{scaled:.digits$} {unit}")
}

/// A rate, with thousands, millions or thousand millions in front of `unit`.
pub(crate) fn rate(value: f64, unit: &str) -> String {
    let (scaled, prefix) = match value {
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let digits = if scaled < 10.0 { 2 } else { usize::from(scaled < 100.0) };
    format!("{scaled:.digits$} {prefix}{unit}/s")
}

/// Rows of text, printed below each other as a table that Markdown reads too.
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self(vec![head.map(str::to_owned).to_vec()])
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.into());
    }

    pub(crate) fn print(&self, title: &str) {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        println!("\n### {title}\n");
        for (nth, row) in self.0.iter().enumerate() {
            for (cell, &width) in row.iter().zip(&widths) {
                print!("| {cell:<width$} ");
            }
            println!("|");
            if nth == 0 {
                for width in &widths {
                    print!("|{:-<1$}", "", width + 2);
                }
                println!("|");
            }
        }
    }
}
