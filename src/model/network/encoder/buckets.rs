//! The keys and queries of buckets of distances, which a layer's weights determine: made once, while it is loaded.

use candle_core::{Result, Tensor};

use super::spec::{BUCKETS, BUCKETS_NORM, EncoderSpec, LayerTensors};
use crate::model::collective::Solo;
use crate::model::compute::kernels::{PackedMatrix, Relative};
use crate::model::error::ModelError;
use crate::model::network::backbone::RankContext;
use crate::model::network::decoder::TensorSpec;
use crate::model::network::layers::{Embedding, Linear, Norm};
use crate::model::shapes::HeadLayout;

/// The embeddings of all buckets, `[2 * span, hidden]`; `None` where attention looks at no distances.
pub(super) fn embeddings(spec: &EncoderSpec, context: &RankContext) -> std::result::Result<Option<Tensor>, ModelError> {
    let Some(relative) = &spec.relative else { return Ok(None) };
    let rows = 2 * relative.shape.span;
    let table = Embedding::load(context, &format!("{}.weight", spec.name(BUCKETS)), rows, spec.hidden, None)?;
    let all: Vec<u32> = (0..rows as u32).collect();
    let all = table.forward(&all, &Solo)?;
    Ok(Some(if relative.normed {
        Norm::load(context, spec.norm, &spec.name(BUCKETS_NORM), spec.hidden, spec.eps)?.forward(&all)?
    } else {
        all
    }))
}

/// What distances add in one layer, of the embeddings of all buckets; `qkv` makes queries, keys and values of tokens.
pub(super) fn of_layer(
    spec: &EncoderSpec,
    tensors: &LayerTensors,
    context: &RankContext,
    index: usize,
    qkv: &Linear,
    buckets: Option<&Tensor>,
) -> std::result::Result<Option<Relative>, ModelError> {
    let (Some(relative), Some(buckets)) = (&spec.relative, buckets) else { return Ok(None) };
    let HeadLayout { heads, head_dim, .. } = spec.heads;
    let width = heads * head_dim;
    let of_tokens = if relative.shared { Some(qkv.forward(buckets)?) } else { None };
    // Where tokens have queries and keys.
    let made = |own: &Option<TensorSpec>, first: usize| -> std::result::Result<Vec<PackedMatrix>, ModelError> {
        let rows = match (&of_tokens, own) {
            (Some(all), _) => all.narrow(1, first, width)?,
            (None, Some(own)) => {
                let matrix = own.matrix(spec.layer_name(index, own.name), spec.heads, context.shard);
                Linear::load(context, &[matrix], own.bias)?.forward(buckets)?
            }
            (None, None) => return Ok(Vec::new()),
        };
        Ok(packed(&rows, heads, head_dim)?)
    };
    let [key, query] = &tensors.buckets;
    let keys = if relative.of_queries { made(key, width)? } else { Vec::new() };
    let queries = if relative.of_keys { made(query, 0)? } else { Vec::new() };
    Ok(Some(Relative::new(relative.shape, keys, queries)))
}

/// Each head's columns as a matrix.
fn packed(rows: &Tensor, heads: usize, head_dim: usize) -> Result<Vec<PackedMatrix>> {
    let head = |head: usize| {
        let values = rows.narrow(1, head * head_dim, head_dim)?.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
        Ok(PackedMatrix::pack(rows.dim(0)?, head_dim, &values))
    };
    (0..heads).map(head).collect()
}
