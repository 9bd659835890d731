"""vLLM on CPUs: its pooling runner, task `classify` without an activation, prefix caching on.

All rollouts are given in one call; vLLM schedules them. Its prefix cache is emptied before every run.
"""

from __future__ import annotations

import os
import time

from peer import Ids, Run, Scores, Setup, serve

# Of keys and values, in GiB: some 150,000 tokens of the demo model in float32.
CACHE_GIB = 4


class Vllm:
    def load(self, setup: Setup) -> str:
        # All cores that it was given: by itself it would keep one back for its scheduler.
        cores = sorted(os.sched_getaffinity(0))[: setup.threads]
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(CACHE_GIB)
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        # What it compiles is kept beside the model.
        os.environ.setdefault("VLLM_CACHE_ROOT", str(setup.model.parent / "vllm-cache"))

        import torch
        import vllm

        self.setup = setup
        self.parameters = vllm.PoolingParams(use_activation=False)
        self.model = vllm.LLM(
            str(setup.model),
            runner="pooling",
            # It wants one, for ids too.
            tokenizer=str(setup.tokenizer),
            dtype=setup.options["dtype"],
            enable_prefix_caching=True,
            block_size=setup.options["block_size"],
            pooler_config=vllm.config.PoolerConfig(task="classify"),
        )
        versions = f"vllm {vllm.__version__}, torch {torch.__version__}"
        block = self.model.llm_engine.vllm_config.cache_config.block_size
        preloaded = [os.path.basename(path) for path in os.environ.get("LD_PRELOAD", "").split(":") if path]
        return (
            f"{versions}, {setup.options['dtype']}, pooling runner, prefix caching in blocks of {block} tokens, cores {cores}, "
            f"preloaded {', '.join(preloaded) or 'nothing'}"
        )

    def run(self) -> Run:
        self.computed = 0
        self.score(self.setup.warm_up)
        if not self.model.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be emptied")
        self.computed = 0
        began = time.perf_counter()
        scores = [row for call in self.setup.in_calls(self.setup.rollouts) for row in self.score(call)]
        return Run(time.perf_counter() - began, scores, self.computed)

    def score(self, rollouts: list[Ids]) -> Scores:
        prompts = [{"prompt_token_ids": ids} for ids in rollouts]
        outputs = self.model.classify(prompts, pooling_params=self.parameters, use_tqdm=False)
        self.computed += sum(len(output.prompt_token_ids) - output.num_cached_tokens for output in outputs)
        return [list(output.outputs.probs) for output in outputs]


if __name__ == "__main__":
    serve(Vllm())
