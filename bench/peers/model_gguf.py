"""The reward model as a float32 GGUF that llama.cpp scores with, by its ordinary way of reading a prompt.

llama.cpp has no reward head for Llama. Its output matrix is one linear map of the last token's hidden state, though,
and so is the head: the head's rows stand first in it, the rest of it is zero. The scores are then the first logits of
the last token, which are computed for that token alone. The rows of zeros cost each rollout less than half a token.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from transformers import LlamaForSequenceClassification


def write_gguf(path: Path, model: LlamaForSequenceClassification, layer_names: dict[str, str]) -> None:
    config = model.config
    file = gguf.GGUFWriter(path, "llama")
    file.add_vocab_size(config.vocab_size)
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_rope_dimension_count(config.head_dim)
    file.add_rope_freq_base(config.rope_parameters["rope_theta"])
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_file_type(gguf.LlamaFileType.ALL_F32)
    # Everyone gets token ids.
    file.add_tokenizer_model("none")

    state = model.state_dict()
    head = state["score.weight"]
    output = torch.zeros(config.vocab_size, config.hidden_size)
    output[: len(head)] = head
    file.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    file.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    file.add_tensor("output.weight", output.numpy())
    for layer in range(config.num_hidden_layers):
        for ours, theirs in layer_names.items():
            value = state[f"model.layers.{layer}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                halves = value.view(-1, 2, config.head_dim // 2, config.hidden_size)
                value = halves.transpose(1, 2).reshape(value.shape)
            file.add_tensor(f"blk.{layer}.{theirs}.weight", value.contiguous().numpy())

    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
