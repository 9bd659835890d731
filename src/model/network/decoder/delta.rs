//! The tensors of a layer with the gated delta rule, and the part of them that a rank has.

use super::spec::DeltaSpec;
use super::tensors::{Cut, Kind, LayerTensors, TensorSpec};
use crate::model::network::layers::DeltaTensors;

impl DeltaSpec {
    /// Puts its tensors in the place of attention's.
    pub(super) fn state(&self, layer: &mut LayerTensors, hidden: usize) {
        let (layout, names) = (self.layout, self.names);
        let tensor =
            |kind, name, outputs, inputs, cut| TensorSpec { name, kind, count: 1, outputs, inputs, bias: false, cut };
        let [mixed, gate, beta, time] = names.projections;
        let project = |name, outputs, cut| tensor(Kind::Attention, name, outputs, hidden, cut);
        // Each head's outputs stay together, since ranks divide the heads.
        layer.qkv = vec![
            project(mixed, layout.convolved(), Cut::BlockOutputs(layout.blocks())),
            project(gate, layout.values(), Cut::Outputs),
            project(beta, layout.value_heads, Cut::Outputs),
            project(time, layout.value_heads, Cut::Outputs),
        ];
        layer.head_norms = None;
        let small = |name, outputs, inputs| tensor(Kind::Delta, name, outputs, inputs, Cut::Nowhere);
        layer.delta = vec![
            small(names.convolution, layout.convolved(), layout.kernel),
            small(names.rate, layout.value_heads, 1),
            small(names.rate_bias, layout.value_heads, 1),
            tensor(Kind::Norm, names.norm, layout.value_dim, 1, Cut::Nowhere),
        ];
        layer.output = tensor(Kind::Attention, names.output, hidden, layout.values(), Cut::Inputs);
    }

    /// The small tensors' full names, of their names below the layer.
    pub(super) fn full_names(&self, full: impl Fn(&str) -> String) -> DeltaTensors {
        let names = self.names;
        DeltaTensors {
            convolution: full(names.convolution),
            rate: full(names.rate),
            rate_bias: full(names.rate_bias),
            norm: format!("{}.weight", full(names.norm)),
        }
    }
}
