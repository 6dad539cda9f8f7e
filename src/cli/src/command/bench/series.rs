//! Several measurements of one thing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Minimum, median and maximum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The smallest.
    pub min: f64,
    /// The one in the middle; of an even number the mean of both.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Series {
    /// Sums measurements up; all zero when there are none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => 0.0,
            len if len % 2 == 1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        Self {
            min: values.first().copied().unwrap_or(0.0),
            median,
            max: values.last().copied().unwrap_or(0.0),
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} (min {:.2}, max {:.2})", self.median, self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Series::of(vec![3.0, 1.0, 2.0]), Series { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Series::of(vec![4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Series::of(vec![]).max, 0.0);
    }
}
