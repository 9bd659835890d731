"""ms-swift's own scoring and its own advantages, with our file as its external plugin."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from material import QUESTIONS, TOO_LONG, needs
from reward_sidecar import Client, ms_swift

pytestmark = needs("swift", "modelscope", "torch")

ANSWERS = ("With water.", "Tea.", "Pour boiling water over the leaves.", "No.")


def scored(
    monkeypatch: pytest.MonkeyPatch, address: str, options: str, answers: tuple[str, ...]
) -> tuple[Any, list[str]]:
    """Rewards per function, and the functions' names, as ms-swift's GRPO gets them."""
    import torch
    from swift.rewards import orms
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import compute_rewards_per_func
    from swift.utils.utils import import_external_file

    monkeypatch.setenv("REWARD_CLIENT_ADDRESS", address)
    monkeypatch.setenv("REWARD_CLIENT_OPTIONS", options)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(orms)
    import_external_file(ms_swift.__file__)
    ours = [name for name in orms if name not in before]
    # As its trainer makes them, and names their columns.
    functions = [orms[name](args=None) for name in ours]
    names = [type(function).__name__ for function in functions]
    samples = [
        GRPOSample(
            messages=[{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": answer}],
            prompt_id="p",
            request_id=str(row),
            finish_reason="stop",
        )
        for row, answer in enumerate(answers)
    ]
    try:
        return compute_rewards_per_func(samples, functions, [None] * len(functions), torch.device("cpu")), names
    finally:
        for name in ours:
            del orms[name]
        for name in [name for name in sys.modules if name.startswith("_swift_external_")]:
            del sys.modules[name]


def test_its_scoring_gets_what_score_says(
    monkeypatch: pytest.MonkeyPatch, sidecar: reward_sidecar.Server, client: Client
) -> None:
    rewards, names = scored(monkeypatch, sidecar.address, "{}", ANSWERS)
    assert names == ["reward_sidecar"]
    expected = client.score(prompts=[QUESTIONS[0]] * 4, completions=ANSWERS)
    np.testing.assert_array_equal(rewards[:, 0].numpy(), expected.rewards)


def test_attributes_as_columns(monkeypatch: pytest.MonkeyPatch, sidecar: reward_sidecar.Server, client: Client) -> None:
    options = '{"attributes": ["helpfulness", "verbosity"]}'
    rewards, names = scored(monkeypatch, sidecar.address, options, ANSWERS)
    assert names == ["reward_sidecar_helpfulness", "reward_sidecar_verbosity"]
    expected = client.score(prompts=[QUESTIONS[0]] * 4, completions=ANSWERS)
    np.testing.assert_array_equal(rewards.numpy(), expected.attributes[:, [0, 4]])


def test_a_groups_mean_moves_no_other(monkeypatch: pytest.MonkeyPatch, sidecar: reward_sidecar.Server) -> None:
    import torch
    from swift.rl_core.advantage import compute_advantages

    answers = (*ANSWERS[:2], TOO_LONG, ANSWERS[3])
    rewards, _ = scored(monkeypatch, sidecar.address, '{"on_rejection": "group-mean"}', answers)
    kept = rewards[[0, 1, 3], 0]
    assert rewards[2, 0].item() == pytest.approx(kept.mean().item(), rel=1e-6)
    advantages, _ = compute_advantages(rewards, torch.ones(1), 4, scale_rewards="none")
    torch.testing.assert_close(advantages[[0, 1, 3]], kept - kept.mean())
    assert advantages[2].abs() < 1e-6


def test_without_it_training_stops(monkeypatch: pytest.MonkeyPatch, sidecar: reward_sidecar.Server) -> None:
    with pytest.raises(reward_sidecar.Rejected, match="TOO_LONG"):
        scored(monkeypatch, sidecar.address, "{}", (TOO_LONG, "Tea."))


def test_its_folder_hides_no_trainer() -> None:
    # ms-swift puts the plugin's folder before all others on the path.
    from pathlib import Path

    files = {path.name for path in Path(ms_swift.__file__).parent.iterdir()} - {"__pycache__"}
    assert files == {"__init__.py"}
