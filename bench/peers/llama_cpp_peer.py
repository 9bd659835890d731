"""llama.cpp by its C interface: one rollout after the other, each continuing where the one before is the same.

That is what its server does with `cache_prompt` (the default) in one slot: keys and values of the prefix that a rollout
shares with the one before are kept, so a group in a row pays for its prompt once. Keys and values are float32, as
everywhere here; its flash attention on CPUs is left out unless asked for (`"flash": true`), since it rounds to half
precision inside. How the head got into the model: `model_gguf.py`.
"""

from __future__ import annotations

import ctypes
import os
import time

import llama_cpp

from peer import Ids, Run, Scores, Setup, serve

F32 = 0  # ggml's number of the type.
FLASH_ATTENTION = {False: 0, True: 1}  # As `enum llama_flash_attn_type` has it.
SEQUENCE = 0


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def quiet(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    """Its log is long, and a callback that is collected is a crash: hence a function of the module."""


class LlamaCpp:
    def load(self, setup: Setup) -> str:
        self.setup = setup
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        path = setup.model / "model-f32.gguf"
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        longest = max(map(len, setup.rollouts + setup.warm_up))
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = longest
        parameters.n_batch = longest
        parameters.n_threads = parameters.n_threads_batch = setup.threads
        parameters.type_k = parameters.type_v = F32
        parameters.flash_attn_type = FLASH_ATTENTION[setup.options["flash"]]
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context of this size")
        self.memory = llama_cpp.llama_get_memory(self.context)
        return (
            f"llama-cpp-python {llama_cpp.__version__}, float32 weights, keys and values, "
            f"flash attention {'on' if setup.options['flash'] else 'off'}, physical batch {llama_cpp.llama_n_ubatch(self.context)}, "
            f"one rollout at a time, prefix of the one before kept"
        )

    def run(self) -> Run:
        self.score(self.setup.warm_up)
        began = time.perf_counter()
        scores = self.score(self.setup.rollouts)
        return Run(time.perf_counter() - began, scores)

    def score(self, rollouts: list[Ids]) -> Scores:
        llama_cpp.llama_memory_clear(self.memory, True)
        kept: Ids = []
        scores = []
        for ids in rollouts:
            # The last token is always computed: its logits are wanted.
            shared = min(common(kept, ids), len(ids) - 1)
            if not llama_cpp.llama_memory_seq_rm(self.memory, SEQUENCE, shared, -1):
                raise RuntimeError("llama.cpp cannot go back to the shared prefix")
            new = (llama_cpp.llama_token * (len(ids) - shared))(*ids[shared:])
            status = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(new, len(new)))
            if status != 0:
                raise RuntimeError(f"llama_decode returned {status}")
            kept = ids
            scores.append(llama_cpp.llama_get_logits_ith(self.context, -1)[: self.setup.options["outputs"]])
        return scores


def common(left: Ids, right: Ids) -> int:
    """How many tokens at their beginnings are the same."""
    for index, (one, other) in enumerate(zip(left, right)):
        if one != other:
            return index
    return min(len(left), len(right))


if __name__ == "__main__":
    serve(LlamaCpp())
