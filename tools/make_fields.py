#!/usr/bin/env python3
"""Writes which fields transformers' configuration classes declare, by `model_type`, for `src/model/transformers_fields.rs`.

    .venv/bin/python tools/make_fields.py      # with tools/requirements.txt installed

A line for each type: the type, a space, what the names of its classes begin with, a tab, and the fields by spaces.
"""

import inspect
from pathlib import Path

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TYPES = [
    "bert", "cohere", "deberta-v2", "electra", "gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "mixtral", "modernbert",
    "nemotron", "olmo2", "phi3", "qwen2", "qwen3", "qwen3_5_text", "qwen3_moe", "roberta", "xlm-roberta",
]

# Read by the base class, which turns them into the fields of today; and by the generic heads.
OLDER = {
    "num_labels", "pruned_heads", "quantization_config", "rope_scaling", "rope_theta", "rotary_emb_base", "rope_percent",
    "rope_percentage", "partial_rotary_factor", "torch_dtype", "classifier_dropout", "hidden_dropout", "is_causal",
}


def fields(kind: str) -> list[str]:
    """Declared by the class, in its parameters or on what it makes, and the names that stand for others."""
    config = CONFIG_MAPPING[kind]
    made = config()
    declared = set(made.to_dict()) | set(vars(made)) | set(PretrainedConfig().to_dict())
    declared |= set(inspect.signature(config.__init__).parameters) | set(made.attribute_map) | OLDER
    return sorted(name for name in declared if not name.startswith("_") and name not in ("self", "kwargs", "args"))


def main() -> None:
    target = Path(__file__).parent.parent / "src/model/transformers_fields.tsv"
    lines = []
    for kind in TYPES:
        family = CONFIG_MAPPING[kind].__name__.removesuffix("Config").removesuffix("Text")
        lines.append(f"{kind} {family}\t{' '.join(fields(kind))}\n")
    target.write_text("".join(lines))


if __name__ == "__main__":
    main()
