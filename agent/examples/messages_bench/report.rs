//! The table of what was measured.

use crate::load::Sample;

/// Prints the medians of the rounds, and of the ratios within the rounds.
pub fn report(in_flight: usize, rounds: &[Vec<Sample>]) {
    println!("{in_flight} in flight");
    println!(
        "  {:<9} {:>10} {:>10} {:>10} {:>9} {:>10} {:>10} {:>10} {:>10}",
        "way", "msgs/s", "p50 us", "p99 us", "cpu us", "x raw", "x loop", "x nats", "p50 x raw"
    );
    let ways = rounds.first().map_or(0, Vec::len);
    for way in 0..ways {
        let of = |value: &dyn Fn(&Sample) -> f64| median(rounds.iter().map(|round| value(&round[way])).collect());
        let beside = |other: &str, value: &dyn Fn(&Sample) -> f64| {
            let ratios = rounds.iter().filter_map(|round| {
                let other = round.iter().find(|sample| sample.name == other)?;
                Some(value(&round[way]) / value(other))
            });
            median(ratios.collect())
        };
        println!(
            "  {:<9} {:>10.0} {:>10.0} {:>10.0} {:>9.1} {:>10.2} {:>10.2} {:>10.2} {:>10.2}",
            rounds[0][way].name,
            of(&Sample::rate),
            of(&|sample| sample.percentile(50)),
            of(&|sample| sample.percentile(99)),
            of(&Sample::cpu_per_message),
            beside("raw", &Sample::rate),
            beside("raw-loop", &Sample::rate),
            beside("nats", &Sample::rate),
            beside("raw", &|sample| sample.percentile(50)),
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
