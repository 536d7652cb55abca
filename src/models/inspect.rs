//! What an encoder computes on the way: the hidden states of its layers, and how tokens attend to each other.

use super::layers::{Pass, Stack};
use crate::{Error, Offsets, Result, Tensor};

/// What to give of a forward pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inspect<'a> {
    /// Hidden states by number, as in transformers' `hidden_states`: 0 is what the first layer gets, l what layer l gives (counted
    /// from 1); the last comes after the norm behind the layers, where the model has one for all tokens.
    pub states: &'a [usize],
    /// Layers, counted from 0 as in transformers' `attentions`, whose attention weights are given, averaged over heads.
    pub attention: &'a [usize],
}

/// What [`Inspect`] asked for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Inspection {
    /// For each number asked for the states of all tokens: \[total, dim\], sequence after sequence.
    pub states: Vec<Vec<f32>>,
    /// For each layer asked for the weights of each sequence of n tokens, \[n, n\], one after the other: row i says what token i
    /// gathers from each token, and sums to 1.
    pub attention: Vec<Vec<f32>>,
    /// \[sequences + 1\]: sequence `i` has the tokens `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<i64>,
    /// Columns of a state.
    pub dim: usize,
}

impl Inspection {
    /// Room for what sequences of these lengths give.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such state or layer.
    pub(super) fn new(
        stack: &Stack,
        what: Inspect<'_>,
        lengths: impl Iterator<Item = usize>,
    ) -> Result<Inspection> {
        let (layers, dim) = (stack.shape.layers, stack.shape.hidden);
        let check = |name, numbers: &[usize], end: usize| match numbers.iter().find(|n| **n >= end)
        {
            Some(n) => Err(Error::argument(name, format!("numbers below {end}"), n.to_string())),
            None => Ok(()),
        };
        check("states", what.states, layers + 1)?;
        check("attention", what.attention, layers)?;
        let (mut offsets, mut squares) = (vec![0], 0);
        for length in lengths {
            offsets.push(offsets[offsets.len() - 1] + length as i64);
            squares += length * length;
        }
        let total = offsets[offsets.len() - 1] as usize;
        Ok(Inspection {
            states: vec![vec![0.0; total * dim]; what.states.len()],
            attention: vec![vec![0.0; squares]; what.attention.len()],
            offsets,
            dim,
        })
    }

    /// Runs a batch and keeps what is asked for of its members, which come in the batch's order. `last` is the norm behind the
    /// layers.
    pub(super) fn fill(
        &mut self,
        stack: &Stack,
        what: Inspect<'_>,
        x: Tensor,
        pass: Pass<'_>,
        members: &[usize],
        last: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        let dim = self.dim;
        let rows = |i: usize| self.offsets[i] as usize..self.offsets[i + 1] as usize;
        // Where a sequence's squares start.
        let starts: Vec<usize> = (0..self.offsets.len() - 1)
            .scan(0, |at, i| {
                let start = *at;
                *at += rows(i).len().pow(2);
                Some(start)
            })
            .collect();
        let (states, attention) = (&mut self.states, &mut self.attention);
        let offsets: &Offsets = pass.offsets;
        stack.walk(x, pass, |i, x| {
            for (states, _) in
                states.iter_mut().zip(what.states).filter(|(_, wanted)| **wanted == i)
            {
                let x = if i == stack.shape.layers { last(x)? } else { x.clone() };
                let values = x.to_vec::<f32>()?;
                for (at, &member) in members.iter().enumerate() {
                    let (from, to) = (offsets.range(at), rows(member));
                    states[to.start * dim..to.end * dim]
                        .copy_from_slice(&values[from.start * dim..from.end * dim]);
                }
            }
            for (weights, _) in
                attention.iter_mut().zip(what.attention).filter(|(_, wanted)| **wanted == i)
            {
                let values = stack.weights(i, x, pass)?;
                let mut rest = values.as_slice();
                for &member in members {
                    let (of, behind) = rest.split_at(rows(member).len().pow(2));
                    weights[starts[member]..][..of.len()].copy_from_slice(of);
                    rest = behind;
                }
            }
            Ok(())
        })
    }
}
