//! How likely what was seen is by chance: p-values. Pure.

use std::f64::consts::PI;

use statrs::function::gamma::{gamma_lr, gamma_ur, ln_gamma};

/// A count as a number to compute with. Exact: no recording has 2^32 of anything.
pub(crate) fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// Whether counts come from cells that are equally likely (Pearson's chi-square). Both too uneven and too even is
/// unlikely. 1 where each cell expects fewer than 5.
pub(crate) fn uniform(counts: &[usize]) -> f64 {
    let expected = number(counts.iter().sum()) / number(counts.len());
    if expected < 5.0 {
        return 1.0;
    }
    let distance = |count: &usize| (number(*count) - expected).powi(2) / expected;
    let (upper, lower) = chi_square(counts.iter().map(distance).sum(), counts.len() - 1);
    (2.0 * upper.min(lower)).min(1.0)
}

/// Whether a coin that fell so often on each side is fair. As even as possible is the likeliest case.
pub(crate) fn fair(heads: usize, tails: usize) -> f64 {
    let all = number(heads + tails);
    if all < 10.0 {
        return 1.0;
    }
    chi_square((number(heads) - number(tails)).powi(2) / all, 1).0
}

/// Whether two rows of counts come from the same cells with the same chances (chi-square of homogeneity). Cells in which
/// few are expected count as one.
pub(crate) fn same_counts(one: &[usize], other: &[usize]) -> f64 {
    let totals = [one, other].map(|row| number(row.iter().sum()));
    let all = totals[0] + totals[1];
    let expects_few = |cell: &[f64; 2]| (cell[0] + cell[1]) * totals[0].min(totals[1]) / all < 5.0;
    let cells = one.iter().zip(other).map(|(one, other)| [number(*one), number(*other)]);
    let (few, mut cells): (Vec<_>, Vec<_>) = cells.partition(expects_few);
    let rest = few.iter().fold([0.0; 2], |sum, cell| [sum[0] + cell[0], sum[1] + cell[1]]);
    if rest[0] + rest[1] > 0.0 {
        cells.push(rest);
    }
    if cells.len() < 2 || totals.contains(&0.0) {
        return 1.0;
    }
    let distance = |cell: &[f64; 2]| -> f64 {
        let expected = totals.map(|total| total * (cell[0] + cell[1]) / all);
        (0..2).map(|row| (cell[row] - expected[row]).powi(2) / expected[row]).sum()
    };
    chi_square(cells.iter().map(distance).sum(), cells.len() - 1).0
}

/// The chances that a chi-square with so many degrees of freedom is at least, and at most, `value`.
fn chi_square(value: f64, freedom: usize) -> (f64, f64) {
    if value <= 0.0 {
        return (1.0, 0.0);
    }
    let (shape, half) = (number(freedom) / 2.0, value / 2.0);
    (gamma_ur(shape, half), gamma_lr(shape, half))
}

/// Whether two samples come from one continuous distribution (Kolmogorov and Smirnov's test, by its limit).
pub(crate) fn same_distribution(one: &[f64], other: &[f64]) -> f64 {
    if one.is_empty() || other.is_empty() {
        return 1.0;
    }
    let mut all: Vec<(f64, bool)> = one.iter().map(|value| (*value, true)).collect();
    all.extend(other.iter().map(|value| (*value, false)));
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut distance) = ([0.0; 2], 0.0_f64);
    for ties in all.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let of_one = ties.iter().filter(|(_, is_of_one)| *is_of_one).count();
        below[0] += number(of_one) / number(one.len());
        below[1] += number(ties.len() - of_one) / number(other.len());
        distance = distance.max((below[0] - below[1]).abs());
    }
    let sizes = [number(one.len()), number(other.len())];
    let size = (sizes[0] * sizes[1] / (sizes[0] + sizes[1])).sqrt();
    kolmogorov((size + 0.12 + 0.11 / size) * distance)
}

/// The chance that Kolmogorov's distribution is at least `value`. Below 0.5 it is 1 for every purpose here.
fn kolmogorov(value: f64) -> f64 {
    if value < 0.5 {
        return 1.0;
    }
    if value < 1.18 {
        let term =
            |k: i32| (-f64::from(2 * k - 1).powi(2) * PI.powi(2) / (8.0 * value.powi(2))).exp();
        return 1.0 - (2.0 * PI).sqrt() / value * (1..=4).map(term).sum::<f64>();
    }
    let term = |k: i32| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        sign * (-2.0 * f64::from(k * k) * value.powi(2)).exp()
    };
    (1..=6).map(term).sum::<f64>()
}

/// Whether two groups have something equally often (Fisher's exact test, two-sided): `[with it, without it]` of each.
pub(crate) fn same_share(one: [usize; 2], other: [usize; 2]) -> f64 {
    // That of the crate fails for some tables ("attempt to subtract with overflow", statrs 0.19.1).
    let (size, others) = (one[0] + one[1], other[0] + other[1]);
    let with_it = one[0] + other[0];
    let ln_choose = |of: usize, some: usize| {
        [of - some, some].iter().fold(ln_factorial(of), |ln, part| ln - ln_factorial(*part))
    };
    let ln_chance = |of_one: usize| {
        ln_choose(size, of_one) + ln_choose(others, with_it - of_one)
            - ln_choose(size + others, with_it)
    };
    // Tables that are as likely are so but for rounding.
    let limit = ln_chance(one[0]) + 1e-7;
    let tables = with_it.saturating_sub(others)..=with_it.min(size);
    tables.map(ln_chance).filter(|ln| *ln <= limit).map(f64::exp).sum::<f64>().min(1.0)
}

fn ln_factorial(of: usize) -> f64 {
    ln_gamma(number(of) + 1.0)
}

/// The chance that something that is expected `expected` times happens at least `count` times (Poisson).
pub(crate) fn at_least(count: usize, expected: f64) -> f64 {
    if count == 0 { 1.0 } else { gamma_lr(number(count), expected) }
}

/// The least of some p-values, corrected for how many there are (Bonferroni).
pub(crate) fn least(values: &[f64]) -> f64 {
    let least = values.iter().copied().fold(1.0, f64::min);
    (least * number(values.len())).min(1.0)
}

/// Corrects p-values for how many there are (Holm): those that are at most a level after it are all wrong by chance, in
/// one case or more, with that probability at most.
pub(crate) fn holm(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let (mut corrected, mut highest) = (vec![1.0; values.len()], 0.0_f64);
    for (rank, index) in order.into_iter().enumerate() {
        highest = highest.max(values[index] * number(values.len() - rank)).min(1.0);
        corrected[index] = highest;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_near(found: f64, known: f64) {
        assert!((found / known - 1.0).abs() < 1e-3, "{found:e} is not {known:e}");
    }

    /// Known values: mpmath's incomplete gamma function, with 30 digits.
    #[test]
    fn chi_square_has_its_known_values() {
        for (value, freedom, known) in [
            (3.841_458_820_694_124, 1, 0.05),
            (310.457_388_219_907, 255, 0.01),
            (18.0, 9, 0.035_173_539),
            (500.0, 255, 4.384_961_9e-18),
            (2000.0, 255, 6.879_590_2e-268),
        ] {
            let (upper, lower) = chi_square(value, freedom);
            assert_near(upper, known);
            assert_near(lower, 1.0 - known);
        }
    }

    #[test]
    fn kolmogorov_has_its_known_values() {
        for (value, known) in [
            (0.5, 0.963_945_24),
            (0.8, 0.544_142_41),
            (1.0, 0.269_999_67),
            (1.18, 0.123_453_81),
            (1.6276, 0.010_001_537),
            (3.0, 3.045_995_9e-8),
        ] {
            assert_near(kolmogorov(value), known);
        }
    }

    /// The tea of R. A. Fisher, and two tables of textbooks.
    #[test]
    fn shares_have_their_known_chances() {
        assert_near(same_share([3, 1], [1, 3]), 0.485_714_3);
        assert_near(same_share([1, 9], [11, 3]), 0.002_759_456);
        assert!(same_share([0, 3000], [3000, 0]) < 1e-300);
        assert_near(same_share([0, 3000], [0, 3000]), 1.0);
        assert_near(same_share([1, 2999], [0, 3000]), 1.0);
    }

    #[test]
    fn rare_events_have_poissons_chances() {
        assert_near(at_least(0, 0.001), 1.0);
        assert_near(at_least(1, 0.001), 9.995_001_7e-4);
        assert_near(at_least(2, 0.001), 4.996_667_9e-7);
    }

    #[test]
    fn several_values_are_corrected_for_their_number() {
        assert_eq!(holm(&[0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]);
        assert_eq!(holm(&[0.6, 0.5]), [1.0, 1.0]);
        assert_near(least(&[0.5, 0.001, 0.2]), 0.003);
        assert_near(least(&[0.9, 0.8]), 1.0);
    }

    /// Numbers that look random and are the same in each run (Marsaglia's xorshift).
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> usize {
            for (left, amount) in [(true, 13), (false, 7), (true, 17)] {
                self.0 ^= if left { self.0 << amount } else { self.0 >> amount };
            }
            usize::try_from((self.0 >> 16) % end).unwrap()
        }
    }

    #[test]
    fn counts_that_are_too_uneven_and_too_even_are_unlikely() {
        let even = [1000; 256];
        assert!(uniform(&even) < 1e-100);
        let mut uneven = even;
        uneven[7] = 1500;
        uneven[8] = 500;
        assert!(uniform(&uneven) < 1e-6);
        assert_near(uniform(&[4; 256]), 1.0);
        assert_near(fair(50, 50), 1.0);
        assert_near(fair(60, 40), 0.045_500_26);
        assert!(fair(0, 300) < 1e-60);
    }

    #[test]
    fn two_samples_are_told_apart_only_where_they_differ() {
        let line = |from: u32, to: u32| -> Vec<f64> { (from..to).map(f64::from).collect() };
        assert!(same_distribution(&line(0, 1000), &line(0, 1000)) > 0.99);
        assert!(same_distribution(&line(0, 1000), &line(300, 1300)) < 1e-30);
        assert!(same_distribution(&[1.0; 1000], &[1.0; 500]) > 0.99, "ties");
        assert_near(same_distribution(&[], &line(0, 9)), 1.0);
        assert_near(same_counts(&[100, 200, 300], &[50, 100, 150]), 1.0);
        assert!(same_counts(&[100, 200, 300], &[300, 200, 100]) < 1e-30);
        assert_near(same_counts(&[3, 0, 2], &[0, 4, 1]), 1.0);
        assert_near(same_counts(&[0, 0], &[9, 9]), 1.0);
    }

    /// What the tests of the warden rest on: of samples from one distribution, a p-value is below a level about as often as
    /// the level says. 2,000 samples each; the chance of a tenth or more of what is allowed here is below 1e-9.
    #[test]
    fn p_values_are_as_small_as_they_say() {
        let mut random = Random(7);
        let mut below = [0_usize; 3];
        for _ in 0..2000 {
            let mut draw = |count: usize| -> Vec<usize> {
                let mut cells = vec![0; 64];
                (0..count).for_each(|_| cells[random.below(64)] += 1);
                cells
            };
            let (one, other) = (draw(1000), draw(500));
            let values: Vec<f64> = (0..300).map(|_| number(random.below(1 << 30))).collect();
            let (few, many) = values.split_at(100);
            let found = [uniform(&one), same_counts(&one, &other), same_distribution(few, many)];
            for (count, p) in below.iter_mut().zip(found) {
                *count += usize::from(p < 0.01);
            }
        }
        assert!(below.iter().all(|count| (2..60).contains(count)), "{below:?} of 2,000 below 1%");
    }
}
