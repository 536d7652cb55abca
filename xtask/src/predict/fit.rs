//! Calibration: the parameters with which the model comes nearest to what was measured.

use super::load::Load;
use super::model::{Gpu, Model, PARAMETERS};
use super::survey::{Case, Survey};

/// A case with its time on a GPU.
#[derive(Clone, Copy)]
pub struct Measured<'a> {
    pub gpu: &'static Gpu,
    pub survey: &'a Survey,
    pub case: &'a Case,
    /// Microseconds.
    pub took: f64,
}

impl Measured<'_> {
    /// What the case launches.
    pub fn loads(&self) -> impl Iterator<Item = &Load> {
        self.case.launches.iter().map(|&(number, _)| &self.survey.loads[number])
    }

    /// Microseconds that the model predicts.
    pub fn predicted(&self, model: &Model) -> f64 {
        model.case(self.case, self.survey, self.gpu)
    }

    /// The predicted time divided by the measured one.
    pub fn ratio(&self, model: &Model) -> f64 {
        self.predicted(model) / self.took
    }
}

/// How far the model is from measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Error {
    /// Of the factors between predicted and measured, whichever is the larger, less 1: the middle one, and the one that nine
    /// of ten are below.
    pub median: f64,
    pub nine_of_ten: f64,
    /// The share of cases within 35 %.
    pub near: f64,
}

impl Error {
    pub fn of(model: &Model, measured: &[Measured<'_>]) -> Error {
        let apart = |one: &Measured<'_>| one.ratio(model).ln().abs().exp() - 1.0;
        let mut all: Vec<f64> = measured.iter().map(apart).collect();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all.get((all.len() as f64 * share) as usize).copied().unwrap_or(0.0);
        let near = all.iter().filter(|&&apart| apart <= 0.35).count();
        let near = near as f64 / all.len().max(1) as f64;
        Error { median: at(0.5), nine_of_ten: at(0.9), near }
    }
}

/// What is made small: the mean distance of logarithms, rounded off near 0 so that small ones count little; and a pull to where
/// the search began, for what no case tells.
fn loss(model: &Model, measured: &[Measured<'_>]) -> f64 {
    let apart = |one: &Measured<'_>| (one.ratio(model).ln().powi(2) + 0.01).sqrt();
    let sum: f64 = measured.iter().map(apart).sum();
    let drift = |(value, parameter): (&f64, &super::model::Parameter)| {
        (value / parameter.start).ln().powi(2)
    };
    let drifts: f64 = model.values.iter().zip(&PARAMETERS).map(drift).sum();
    sum / measured.len().max(1) as f64 + 0.003 * drifts
}

/// Goes from parameter to parameter, in smaller and smaller steps, as long as that brings the model nearer.
pub fn calibrate(measured: &[Measured<'_>]) -> Model {
    let mut model = Model::start();
    let mut best = loss(&model, measured);
    for step in [1.4, 1.15, 1.05, 1.4, 1.15, 1.05, 1.02] {
        loop {
            let before = best;
            for (at, parameter) in PARAMETERS.iter().enumerate() {
                for factor in [step, 1.0 / step] {
                    loop {
                        let mut tried = model.clone();
                        let value = &mut tried.values[at];
                        *value = (*value * factor).clamp(parameter.least, parameter.most);
                        let found = loss(&tried, measured);
                        if found >= best {
                            break;
                        }
                        (model, best) = (tried, found);
                    }
                }
            }
            if before - best < 1e-5 {
                break;
            }
        }
    }
    // As many digits as they are worth.
    for value in &mut model.values {
        *value = format!("{value:.2e}").parse().unwrap_or(*value);
    }
    model
}
