"""verl: a reward manager that is found by its name. Two configuration values are enough:

    reward.reward_manager.name=reward_sidecar +reward.sidecar.server=shm:///run/reward.sock

Invariant: a rollout that cannot be scored fails in verl's hands, which takes it out of its group; it has no mask.
Read against verl 0.9.1. `reward_sidecar.verl:RewardManager` is the entry point of `verl.plugins`.
"""

from __future__ import annotations

from typing import Any

from ._trainer import Scorer, ended, group_of, plain


def _reward_manager() -> Any:
    """The class, made and registered where verl is installed."""
    from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
    from verl.experimental.reward_loop.reward_manager.registry import register

    class RewardManager(RewardManagerBase):
        """Scores the prompt's messages and the decoded response by the reward model's chat template, or the policy's ids."""

        def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, **_: Any) -> None:
            super().__init__(config, tokenizer, compute_score)
            options = plain(config.reward.get("sidecar"))
            if "server" not in options:
                raise ValueError("say where the server is: +reward.sidecar.server=shm:///path, or grpc://host:port")
            self._ids = options.pop("input", "messages") == "ids"
            self._ends = options.pop("eos_token_ids", [tokenizer.eos_token_id])
            self._scorer = Scorer(options.pop("server"), options.pop("on_rejection", "raise"), ("raise",), **options)

        async def run_single(self, data: Any) -> dict[str, Any]:
            """One rollout: `{"reward_score": ..., "reward_extra_info": {attribute: ...}}`."""
            # Of an output of several sequences the last is scored, as verl's own managers do.
            item = data[-1:][0]
            prompt, response = _rows(item)
            request: dict[str, Any] = {"finish_reasons": [ended(response, self._ends)]}
            if self._ids:
                request |= {"prompt_ids": [prompt], "completion_ids": [response]}
            else:
                messages = [dict(message) for message in item.non_tensor_batch["raw_prompt"]]
                # As verl does for its own reward model: the template sets the end of the turn again.
                text = self.tokenizer.decode(response, skip_special_tokens=True)
                request |= {"prompts": [messages], "completions": [text], "groups": [group_of(messages)]}
            scored = await self._scorer.score_async(request)  # type: ignore[arg-type]
            return {"reward_score": scored.reward(), "reward_extra_info": scored.attributes()}

    RewardManager.__qualname__ = "RewardManager"
    register("reward_sidecar")(RewardManager)
    return RewardManager


def _rows(item: Any) -> tuple[list[int], list[int]]:
    """The ids of prompt and response without their padding, which the attention mask says, and never a value."""
    prompts, responses, mask = (item.batch[name] for name in ("prompts", "responses", "attention_mask"))
    kept = mask.bool()
    return prompts[kept[: len(prompts)]].tolist(), responses[kept[len(prompts) :]].tolist()


def __getattr__(name: str) -> Any:
    # verl loads its entry points by name, and nobody else needs verl.
    if name != "RewardManager":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _reward_manager()
    return globals()[name]
