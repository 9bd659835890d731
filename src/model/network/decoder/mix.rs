//! What a layer makes of the rows together, before its way out: attention, or the gated delta rule.

use candle_core::{Device, Result, Tensor};

use super::Decoder;
use super::layer::Layer;
use super::reads::{Reads, projection_operations};
use crate::model::compute::kernels::Paths;
use crate::model::compute::meter::{Part, time};
use crate::model::network::backbone::Pass;
use crate::model::network::layers::{Attention, Delta, Rotary, RotaryTables};

/// What all layers of a pass need to know of its rows.
pub(super) struct PassRows<'a> {
    pass: &'a Pass<'a>,
    /// The rows that are read.
    pub reads: Reads,
    /// Cosines and sines, for each of the decoder's frequencies.
    tables: Vec<RotaryTables>,
    attention: Attention,
    /// Where layers carry a state along them.
    paths: Option<Paths>,
}

impl<'a> PassRows<'a> {
    pub fn new(decoder: &Decoder, pass: &'a Pass, device: &Device) -> Result<Self> {
        let tables = |rope: &Rotary| time(Part::Rotary, 0, || rope.tables(&pass.batch.positions, device));
        let reads = Reads::new(pass.reads, device)?;
        let (backend, heads) = (decoder.backend, decoder.heads);
        Ok(Self {
            pass,
            tables: decoder.spec.ropes.iter().map(tables).collect::<Result<_>>()?,
            attention: Attention::new(backend, pass.batch, pass.past, heads, &reads.rows, device)?,
            paths: decoder.spec.delta.as_ref().map(|_| Paths::of(pass.batch)),
            reads,
        })
    }
}

impl Decoder {
    /// What layer `i` gives for `input: [rows, hidden]`: for all rows, or where it is the last for those that are read.
    pub(super) fn mix(&self, i: usize, input: &Tensor, is_last: bool, rows: &PassRows) -> Result<Tensor> {
        let layer = &self.layers[i];
        match (&layer.delta, &rows.paths) {
            (Some(delta), Some(paths)) => {
                let mixed = self.recur(layer, delta, input, paths)?;
                if is_last { mixed.index_select(&rows.reads.selected, 0) } else { Ok(mixed) }
            }
            _ => self.attend(i, layer, input, is_last, rows),
        }
    }

    fn recur(&self, layer: &Layer, delta: &Delta, input: &Tensor, paths: &Paths) -> Result<Tensor> {
        let work = layer.qkv.operations(paths.rows());
        let projected = time(Part::Projection, work, || layer.qkv.forward(input))?;
        let mixed = time(Part::Attention, delta.operations(paths.rows()), || delta.forward(&projected, paths))?;
        self.recycle(projected, false)?;
        Ok(mixed)
    }

    fn attend(&self, i: usize, layer: &Layer, input: &Tensor, is_last: bool, rows: &PassRows) -> Result<Tensor> {
        let PassRows { pass, reads, tables, attention, .. } = rows;
        let positions = &pass.batch.positions;
        let work = layer.qkv.operations(positions.len());
        let mut qkv = if is_last {
            let work = projection_operations(work, self.heads, positions.len(), reads.rows.len());
            let queries = self.heads.heads * self.heads.head_dim;
            time(Part::Projection, work, || layer.qkv.forward_of_reads(input, queries, &reads.rows))?
        } else {
            time(Part::Projection, work, || layer.qkv.forward(input))?
        };
        if let Some(norm) = &layer.query_key_norm {
            qkv = norm.forward(qkv, pass.ranks)?;
        }
        if let Some(rope) = layer.rope {
            qkv = time(Part::Rotary, 0, || tables[rope].turn(self.backend, qkv, self.heads))?;
        }
        time(Part::Keep, 0, || self.kept.keep(i, &qkv, pass.keep))?;
        let kept = self.kept.layer(i);
        let (kept, options) = (kept.kept(), layer.attention);
        let mixed = if is_last {
            let work = self.heads.operations(&reads.positions(positions), options.window);
            time(Part::Attention, work, || attention.forward_of_reads(&qkv, &reads.selected, kept, options))?
        } else {
            let work = self.heads.operations(positions, options.window);
            time(Part::Attention, work, || attention.forward(&qkv, kept, options))?
        };
        self.recycle(qkv, false)?;
        let Some(gate) = &layer.output_gate else { return Ok(mixed) };
        let gated = if is_last { input.index_select(&reads.selected, 0)? } else { input.clone() };
        time(Part::Projection, gate.operations(mixed.dim(0)?), || gate.forward(&gated, &mixed))
    }
}
