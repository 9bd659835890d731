"""OpenRLHF's own `openrlhf/cli/serve_rm.py`, on a processor without a GPU.

    python serve_rm.py SOURCE MODEL PORT

SOURCE has OpenRLHF's package as its wheel has it. What its modules import of deepspeed, flash-attn and peft is for training and for
GPUs: it stands here as empty modules, and a use of it would fail.
"""

from __future__ import annotations

import importlib.machinery
import runpy
import sys
import types

import torch
import transformers.integrations.deepspeed  # noqa: F401  Looks for deepspeed itself, before it stands here empty.

source, model, port = sys.argv[1:]
UNUSED = {
    "deepspeed": [],
    "flash_attn": [],
    "flash_attn.bert_padding": ["index_first_axis", "pad_input", "rearrange", "unpad_input"],
    "flash_attn.utils": [],
    "flash_attn.utils.distributed": ["all_gather"],
    "peft": ["LoraConfig", "TaskType", "get_peft_model"],
    "peft.tuners": [],
    "peft.tuners.lora": ["LoraLayer"],
}
for name, members in UNUSED.items():
    sys.modules[name] = types.ModuleType(name)
    # Whoever looks for such a package asks for this.
    sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules[name].__dict__.update(dict.fromkeys(members))
# It is asked for layers of experts under ZeRO-3, of which there are none.
sys.modules["deepspeed"].utils = types.SimpleNamespace(set_z3_leaf_modules=lambda model, layers: None)

torch.set_grad_enabled(False)
sys.path.insert(0, source)
sys.argv = [
    "serve_rm.py", "--reward.model_name_or_path", model, "--port", port, "--host", "127.0.0.1",
    "--ds.attn_implementation", "sdpa",
]  # fmt: skip
runpy.run_module("openrlhf.cli.serve_rm", run_name="__main__")
