"""NeMo-Gym: a resources server whose `/verify` asks a reward model. (The sidecar's own `/verify` needs none of this.)

    # resources_servers/reward_sidecar/app.py
    from reward_sidecar.nemo_gym import RewardServer
    if __name__ == "__main__":
        RewardServer.run_webserver()

Invariant: the components add up to the reward, as NeMo-RL asserts, and every answer has the same ones.
Read against nemo-gym 0.7.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._trainer import Scored, Scorer, group_of


def _classes() -> Any:
    """The server, made where NeMo-Gym is installed."""
    from nemo_gym.base_resources_server import (
        BaseMultiRewardVerifyResponse,
        BaseResourcesServerConfig,
        BaseVerifyRequest,
        SimpleResourcesServer,
    )

    class RewardConfig(BaseResourcesServerConfig):
        """`server`, `on_rejection` and `options`, which are those of `Client.score`."""

        server: str
        on_rejection: str = "raise"
        options: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)

    class RewardResponse(BaseMultiRewardVerifyResponse):
        """`instance_config`: where NeMo-RL looks for the mask."""

        instance_config: dict[str, Any] | None = None

    class RewardServer(SimpleResourcesServer):
        """`mask`: both of Gym's masks are set; what NeMo-RL makes of them is in docs/trainers/nemo_gym.md."""

        config: RewardConfig

        async def verify(self, body: BaseVerifyRequest) -> RewardResponse:
            """The reward of the response's text, with its weighted attributes as components."""
            if not hasattr(self, "_verifier"):
                object.__setattr__(
                    self, "_verifier", Verifier(self.config.server, self.config.on_rejection, self.config.options)
                )
            fields = body.model_dump()
            return RewardResponse(**fields, **await self._verifier.verify(fields))

    # Pydantic and FastAPI look for annotations by name, which a function's locals are not.
    globals().update(RewardConfig=RewardConfig, BaseVerifyRequest=BaseVerifyRequest, RewardResponse=RewardResponse)
    RewardServer.__qualname__ = "RewardServer"
    return RewardServer


class Verifier:
    """What `/verify` answers, apart from the web."""

    def __init__(self, server: str, on_rejection: Any, options: Mapping[str, Any]) -> None:
        """`on_rejection`: `raise`, or `mask`: `Verifier("shm:///run/reward.sock", "raise", {})`."""
        self._scorer = Scorer(server, on_rejection, ("raise", "mask"), **options)
        self._weights: Mapping[str, float] | None = options.get("weights")
        self._weighting: str | None = options.get("weighting")

    async def verify(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Reward, components and masks for the body of a request: `await verifier.verify(body)`."""
        messages, answer = _messages(body["responses_create_params"]["input"]), _answer(body["response"])
        request = {"prompts": [messages], "completions": [answer], "groups": [group_of(messages)]}
        scored = await self._scorer.score_async(request)  # type: ignore[arg-type]
        weights = self._weights if self._weights is not None else self._named_weights()
        if rejection := scored.rejections.get(0):
            # There must be a number; the masks say that it is none.
            placeholder = dict.fromkeys([*weights, "adjustment"], 0.0)
            fault = {"failure_kind": "verifier_error", "failure_reason": str(rejection)}
            masks = {"mask_sample": True, "instance_config": {"mask_sample": True}}
            return {"reward": 0.0, "reward_components": placeholder, **masks, **fault}
        return {"reward": scored.reward(), "reward_components": _components(scored, weights)}

    def _named_weights(self) -> Mapping[str, float]:
        card = self._scorer.client.card()
        return card.weightings[self._weighting or card.default_weighting or ""]


def _components(scored: Scored, weights: Mapping[str, float]) -> dict[str, float]:
    """Weighted attributes; `adjustment` is what offsets, penalties and clips add."""
    attributes = scored.attributes()
    components = {name: weight * attributes[name] for name, weight in weights.items()}
    return components | {"adjustment": scored.reward() - sum(components.values())}


def _messages(input: Any) -> list[dict[str, Any]]:
    """What the policy was asked: a text, or messages whose content may be in parts."""
    if isinstance(input, str):
        return [{"role": "user", "content": input}]
    return [{"role": item["role"], "content": _text(item["content"])} for item in input if item.get("role")]


def _answer(response: Mapping[str, Any]) -> str:
    """The texts of the response's messages; reasoning and calls of tools are none."""
    return "".join(_text(item["content"]) for item in response["output"] if item.get("type") == "message")


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def __getattr__(name: str) -> Any:
    # A resources server imports it, and nobody else needs NeMo-Gym.
    if name != "RewardServer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _classes()
    return globals()[name]
