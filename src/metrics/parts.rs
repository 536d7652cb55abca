//! Measures of parts of a collection.

use std::collections::HashMap;

use crate::{Error, Result};

/// The mean of the queries of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The group's name.
    pub name: String,
    /// How many queries it has.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// `2 (mean - rest) / (mean + rest)`, rest being the mean of all other queries, as in studies of bias to a source (Xu et al.,
    /// arXiv:2311.14084); 0 where both are 0 or there are no others.
    pub difference: f64,
}

/// A measure's values by group: by source, by concept, head and tail. Groups are in the order of their first query.
///
/// # Errors
/// [`Error::Shape`] if there is not one group for each value.
pub fn by_group<S: AsRef<str>>(values: &[f64], groups: &[S]) -> Result<Vec<Group>> {
    if values.len() != groups.len() {
        let expected = format!("{} groups of as many values", values.len());
        return Err(Error::shape("by_group", expected, groups.len().to_string()));
    }
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut sums: Vec<(&str, f64, usize)> = Vec::new();
    for (&value, group) in values.iter().zip(groups) {
        let group = group.as_ref();
        let number = *numbers.entry(group).or_insert(sums.len());
        if number == sums.len() {
            sums.push((group, 0.0, 0));
        }
        sums[number].1 += value;
        sums[number].2 += 1;
    }
    let all: f64 = values.iter().sum();
    let group = |&(name, sum, count): &(&str, f64, usize)| {
        let (mean, others) = (sum / count as f64, values.len() - count);
        let rest = (all - sum) / others.max(1) as f64;
        let is_defined = others > 0 && mean + rest != 0.0;
        let difference = if is_defined { 2.0 * (mean - rest) / (mean + rest) } else { 0.0 };
        Group { name: name.into(), count, mean, difference }
    };
    Ok(sums.iter().map(group).collect())
}

/// Shares of Winoground's examples (Thrush et al., arXiv:2204.03162).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Winoground {
    /// For each image the right caption scores higher.
    pub text: f64,
    /// For each caption the right image scores higher.
    pub image: f64,
    /// Both.
    pub group: f64,
}

/// Winoground's scores: of each example the scores `[[c0 i0, c0 i1], [c1 i0, c1 i1]]` of captions by images. `c0 i0` and
/// `c1 i1` belong together. What is right must be greater, not equal; NaN never is. All are 0 without examples.
pub fn winoground(examples: &[[[f32; 2]; 2]]) -> Winoground {
    let share = |holds: &dyn Fn(&[[f32; 2]; 2]) -> bool| {
        examples.iter().filter(|e| holds(e)).count() as f64 / examples.len().max(1) as f64
    };
    let text = |[a, b]: &[[f32; 2]; 2]| a[0] > b[0] && b[1] > a[1];
    let image = |[a, b]: &[[f32; 2]; 2]| a[0] > a[1] && b[1] > b[0];
    Winoground { text: share(&text), image: share(&image), group: share(&|e| text(e) && image(e)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_their_means() {
        let got = by_group(&[1.0, 0.0, 0.5, 1.0], &["real", "made", "made", "real"]).unwrap();
        let of =
            |name: &str, mean, difference| Group { name: name.into(), count: 2, mean, difference };
        assert_eq!(got, [of("real", 1.0, 1.2), of("made", 0.25, -1.2)]);
        assert_eq!(by_group(&[0.5], &["one"]).unwrap()[0].difference, 0.0);
        assert_eq!(by_group(&[0.0, 0.0], &["a", "b"]).unwrap()[1].difference, 0.0);
        assert!(by_group::<&str>(&[], &[]).unwrap().is_empty());
        assert!(matches!(by_group(&[1.0], &["a", "b"]), Err(Error::Shape { .. })));
    }

    #[test]
    fn winoground_wants_what_is_greater() {
        let right = [[0.9, 0.1], [0.2, 0.8]];
        let text_alone = [[0.5, 0.6], [0.4, 0.7]];
        let image_alone = [[0.5, 0.4], [0.6, 0.7]];
        let tied = [[0.5, 0.5], [0.5, 0.5]];
        let nan = [[f32::NAN, 0.0], [0.0, 1.0]];
        let got = winoground(&[right, text_alone, image_alone, tied, nan]);
        assert_eq!(got, Winoground { text: 0.4, image: 0.4, group: 0.2 });
        assert_eq!(winoground(&[]).group, 0.0);
    }
}
