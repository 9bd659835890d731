"""TRL's own trainers, with our reward functions: GRPO, RLOO, OnlineDPO."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from material import QUESTIONS, TOO_LONG, Watched, needs
from reward_sidecar import Client, Rejected
from reward_sidecar.trl import RewardFunction, reward_funcs

pytestmark = needs("trl", "torch")

# Of one call of TRL's: four completions of two prompts, of which the third is longer than the demo model's context.
PROMPTS = ["How do I make tea?"] * 2 + ["Name a colour."] * 2
COMPLETIONS = ["With water.", "Tea.", TOO_LONG, "Red."]


def dataset(conversational: bool) -> Any:
    from datasets import Dataset

    prompts: list[Any] = (
        [[{"role": "user", "content": text}] for text in QUESTIONS] if conversational else list(QUESTIONS)
    )
    return Dataset.from_list([{"prompt": prompt, "topic": "tea"} for prompt in prompts])


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 1,
        **more,
    }


def grpo(
    kind: str, funcs: list[Any], policy: Any, tokenizer: Any, folder: Path, conversational: bool = True, **more: Any
) -> Any:
    import trl

    group = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 8, "beta": 0.0}
    return getattr(trl, f"{kind}Trainer")(
        model=policy,
        reward_funcs=funcs,
        args=getattr(trl, f"{kind}Config")(**settings(folder, **group, **more)),
        train_dataset=dataset(conversational),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
@pytest.mark.parametrize("conversational", [True, False])
def test_it_trains_and_logs_what_score_says(
    kind: str, conversational: bool, policy: Any, tokenizer: Any, tmp_path: Path, watched: Watched, client: Client
) -> None:
    columns = ["helpfulness", "verbosity"]
    funcs = reward_funcs(watched, columns)
    trainer = grpo(kind, funcs, policy, tokenizer, tmp_path, conversational, reward_weights=[0.7, -0.3])
    trainer.train()
    asked = watched.asked
    # One request for both columns, at each of two steps.
    assert len(asked) == 2
    for (request, batch), line in zip(asked, trainer.state.log_history):
        form = ("prompts", "completions") if conversational else ("texts",)
        again = client.score(**{name: request[name] for name in form})
        np.testing.assert_array_equal(again.attributes, batch.attributes)
        for name in columns:
            assert line[f"rewards/{name}/mean"] == pytest.approx(float(batch[name].mean()), rel=1e-6)
        assert line["attributes/coherence"] == pytest.approx(float(batch["coherence"].mean()), rel=1e-6)
        assert line["rejected"] == 0.0
        # A random policy does not end its completions, and says so.
        assert set(request["finish_reasons"]) <= {"stop", "length"}
        share = request["finish_reasons"].count("length") / 8
        assert line["completions/clipped_ratio"] == pytest.approx(share)


def test_text_is_read_as_trl_gives_it_to_a_reward_model(client: Client) -> None:
    (reward,) = reward_funcs(client)
    (value,) = reward(prompts=["What is 2+2?"], completions=["4."], completion_ids=[[1]])
    assert value == float(client.score(texts=["What is 2+2?4."]).rewards[0])
    chat = {
        "prompts": [[{"role": "user", "content": "What is 2+2?"}]],
        "completions": [[{"role": "assistant", "content": "4."}]],
    }
    (value,) = reward(**chat, completion_ids=[[1]])
    assert value == float(client.score(prompts=["What is 2+2?"], completions=["4."]).rewards[0])


def test_what_cannot_be_scored_is_left_out_of_its_groups_baseline(
    policy: Any, tokenizer: Any, tmp_path: Path, client: Client
) -> None:
    def rule(completions: list[Any], **_: Any) -> list[float]:
        return [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]

    funcs = reward_funcs(Spoiling(client.address), also=[rule])
    trainer = grpo("GRPO", funcs, policy, tokenizer, tmp_path, max_steps=1)
    seen: dict[str, Any] = {}
    calculate, generate = trainer._calculate_rewards, trainer._generate_and_score_completions

    def calculated(*arguments: Any) -> Any:
        seen["columns"] = calculate(*arguments).clone()
        return seen["columns"]

    def generated(inputs: Any) -> Any:
        output = generate(inputs)
        seen["advantages"] = output["advantages"].clone()
        return output

    trainer._calculate_rewards, trainer._generate_and_score_completions = calculated, generated
    trainer.train()
    columns, advantages = seen["columns"].numpy(), seen["advantages"].numpy()
    # The first of the second group is too long: neither function has a number for it.
    np.testing.assert_array_equal(np.isnan(columns).all(axis=1), np.arange(8) == 4)
    assert not np.isnan(columns[np.arange(8) != 4]).any()
    assert advantages[4] == 0.0
    rewards = columns[5:].sum(axis=1)
    expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(advantages[5:], expected, rtol=1e-4)
    assert trainer.state.log_history[0]["rejected"] == 0.125


class Spoiling(Client):
    """Sends a fifth completion that is longer than the context."""

    def score(self, **request: Any) -> Any:
        request["completions"] = [*request["completions"][:4], TOO_LONG, *request["completions"][5:]]
        return super().score(**request)


class Killing(Watched):
    """Kills its server before the second batch."""

    victim: int | None = None

    def score(self, **request: Any) -> Any:
        if len(self.asked) == 1 and self.victim is not None:
            victim, self.__dict__["victim"] = self.victim, None
            os.kill(victim, signal.SIGKILL)
        return super().score(**request)


def test_a_server_that_is_killed_and_started_again_costs_nothing(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    with reward_sidecar.launch("demo", restart=True) as server, Killing(server.address) as client:
        client.__dict__["victim"] = killed = server.pid
        trainer = grpo("GRPO", reward_funcs(client), policy, tokenizer, tmp_path, max_steps=3)
        trainer.train()
        assert server.pid != killed
        rewards = [batch.rewards for _, batch in client.asked]
        versions = {batch.model_version for _, batch in client.asked}
    assert len(rewards) == 3 and len(versions) == 1
    assert all(np.isfinite(batch).all() and (batch != 0).all() for batch in rewards)
    log = [line for line in trainer.state.log_history if "reward" in line]
    assert [line["rejected"] for line in log] == [0.0, 0.0, 0.0]


def test_a_function_beside_ours_is_refused_where_a_mask_would_be_0(
    policy: Any, tokenizer: Any, tmp_path: Path, client: Client
) -> None:
    def rule(completions: list[Any], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    trainer = grpo("GRPO", [*reward_funcs(client), rule], policy, tokenizer, tmp_path, max_steps=1)
    with pytest.raises(ValueError, match=r"for 0 beside rule: reward_funcs\(\.\.\., also=\[rule\]\)"):
        trainer.train()
    # Nor may those of two calls stand side by side: each masks rows of its own.
    trainer = grpo("GRPO", reward_funcs(client) + reward_funcs(client), policy, tokenizer, tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="for 0 beside reward"):
        trainer.train()
    # Nothing is masked here, so nothing becomes 0.
    funcs = [*reward_funcs(client, on_rejection="raise"), rule]
    grpo("GRPO", funcs, policy, tokenizer, tmp_path, max_steps=1).train()


def online_dpo(funcs: list[Any], policy: Any, tokenizer: Any, folder: Path) -> Any:
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    arguments = OnlineDPOConfig(**settings(folder, per_device_train_batch_size=4, max_new_tokens=8))
    return OnlineDPOTrainer(
        model=policy, reward_funcs=funcs, args=arguments, train_dataset=dataset(True), processing_class=tokenizer
    )


def test_online_dpo_trains_on_what_score_says(
    policy: Any, tokenizer: Any, tmp_path: Path, watched: Watched, client: Client
) -> None:
    funcs = reward_funcs(watched, on_rejection="raise", eos_token_ids=[tokenizer.eos_token_id])
    trainer = online_dpo(funcs, policy, tokenizer, tmp_path)
    trainer.train()
    asked = watched.asked
    assert len(asked) == 2
    for (request, batch), line in zip(asked, trainer.state.log_history):
        again = client.score(prompts=request["prompts"], completions=request["completions"])
        np.testing.assert_array_equal(again.rewards, batch.rewards)
        assert len(batch) == 8 and line["objective/scores"] == pytest.approx(float(batch.rewards.mean()), rel=1e-5)
        stopped = request["finish_reasons"].count("stop") / 8
        assert line["val/contain_eos_token"] == pytest.approx(stopped)


def test_online_dpo_has_no_mask(policy: Any, tokenizer: Any, tmp_path: Path, client: Client) -> None:
    with pytest.raises(ValueError, match="OnlineDPOTrainer has no mask"):
        online_dpo(reward_funcs(client), policy, tokenizer, tmp_path).train()


def test_columns_mask_together_and_ask_once(watched: Watched) -> None:
    funcs = reward_funcs(watched, ["helpfulness", "coherence"])
    completions = list(COMPLETIONS)
    call = {"prompts": PROMPTS, "completions": completions, "completion_ids": [[1]] * 4}
    first, second = (function(**call) for function in funcs)
    assert [value is None for value in first] == [value is None for value in second] == [False, False, True, False]
    ((request, batch),) = watched.asked
    assert first[0] == float(batch["helpfulness"][0]) and second[3] == float(batch["coherence"][3])
    assert len(set(request["groups"])) == 2
    # Equal completions of another call are another question.
    funcs[0](**{**call, "completions": list(COMPLETIONS)})
    assert len(watched.asked) == 2


def test_an_asynchronous_function_beside_is_masked_alike(client: Client) -> None:
    from trl.trainer.utils import is_async_callable

    async def judge(completions: list[Any], **_: Any) -> list[float]:
        return [1.0] * len(completions)

    reward, beside = reward_funcs(client, also=[judge])
    assert is_async_callable(beside) and not is_async_callable(reward) and beside.__name__ == "judge"
    call = {"prompts": PROMPTS, "completions": list(COMPLETIONS), "completion_ids": [[1]] * 4}
    assert asyncio.run(beside(**call)) == [1.0, 1.0, None, 1.0]
    assert reward(**call)[2] is None


def test_raise_stops_with_the_reason(client: Client) -> None:
    (reward,) = reward_funcs(client, on_rejection="raise")
    with pytest.raises(Rejected, match="TOO_LONG"):
        reward(prompts=PROMPTS, completions=list(COMPLETIONS), completion_ids=[[1]] * 4)


def test_a_wrong_option_is_never_masked(client: Client) -> None:
    with pytest.raises(Rejected, match="UNKNOWN_ATTRIBUTE"):
        reward_funcs(client, ["beauty"])[0](prompts=["a"], completions=["b"], completion_ids=[[1]])
    with pytest.raises(ValueError, match="this trainer has a way for 'mask', 'raise'"):
        reward_funcs(client, on_rejection="group-mean")


def test_functions_travel_together(sidecar: reward_sidecar.Server) -> None:
    # AsyncGRPO sends them to a process of its own.
    funcs: list[RewardFunction] = pickle.loads(
        pickle.dumps(reward_funcs(sidecar.address, ["helpfulness", "coherence"]))
    )
    assert [function.__name__ for function in funcs] == ["helpfulness", "coherence"]
    assert funcs[0]._batches is funcs[1]._batches
    (value,) = funcs[0](prompts=["Tea?"], completions=["Yes."], completion_ids=[[1]])
    assert value is not None and np.isfinite(value)
