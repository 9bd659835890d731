"""A model of a published shape with random weights, in bfloat16: speed depends on the shape alone.

    python bench/peers/random_model.py --shape qwen3-0.6b --output /tmp/models/qwen3
    python bench/peers/random_model.py --shape llama-8b --layers 4 --output /tmp/models/llama-8b-4

`--help` names the other shapes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    Qwen3_5TextConfig,
    Qwen3_5TextForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    Qwen3MoeConfig,
    Qwen3MoeForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

QWEN3 = Qwen3Config(
    vocab_size=151936,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)
QWEN3_5 = Qwen3_5TextConfig(
    hidden_size=1024,
    intermediate_size=3584,
    num_hidden_layers=24,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=256,
    linear_num_key_heads=16,
    linear_num_value_heads=16,
)
QWEN3_MOE = Qwen3MoeConfig(
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=6144,
    moe_intermediate_size=768,
    num_experts=128,
    num_experts_per_tok=8,
    norm_topk_prob=True,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
)
# Not a published shape: experts as above, few and narrow enough for twelve layers in float32, twice, in 24 GB.
QWEN3_MOE_SMALL = Qwen3MoeConfig(
    vocab_size=32000,
    hidden_size=1024,
    intermediate_size=3072,
    moe_intermediate_size=512,
    num_experts=64,
    num_experts_per_tok=8,
    norm_topk_prob=True,
    num_hidden_layers=12,
    num_attention_heads=16,
    num_key_value_heads=4,
    head_dim=64,
)
LLAMA = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
)
DEBERTA = DebertaV2Config(
    vocab_size=128100,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    relative_attention=True,
    position_buckets=256,
    norm_rel_ebd="layer_norm",
    share_att_key=True,
    pos_att_type=["p2c", "c2p"],
    position_biased_input=False,
)
XLM_ROBERTA = XLMRobertaConfig(
    vocab_size=250002,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=514,
    type_vocab_size=1,
    pad_token_id=1,
)
SHAPES = {
    "qwen3-0.6b": (Qwen3ForSequenceClassification, QWEN3),
    "qwen3.5-0.8b": (Qwen3_5TextForSequenceClassification, QWEN3_5),
    "qwen3-30b-a3b": (Qwen3MoeForSequenceClassification, QWEN3_MOE),
    "qwen3-moe-small": (Qwen3MoeForSequenceClassification, QWEN3_MOE_SMALL),
    "llama-8b": (LlamaForSequenceClassification, LLAMA),
    # Encoders, as their configurations have the context and the padding.
    "deberta-v3-base": (DebertaV2ForSequenceClassification, DEBERTA),
    "modernbert-base": (ModernBertForSequenceClassification, ModernBertConfig()),
    "xlm-roberta-base": (XLMRobertaForSequenceClassification, XLM_ROBERTA),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()

    architecture, config = SHAPES[options.shape]
    config.num_hidden_layers = options.layers or config.num_hidden_layers
    config.num_labels = 1
    if hasattr(config, "num_key_value_heads"):
        config.max_position_embeddings = 4096
        config.pad_token_id = 0
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    architecture(config).save_pretrained(options.output)


if __name__ == "__main__":
    main()
