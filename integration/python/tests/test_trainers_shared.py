"""What the trainers' adapters share. No trainer is needed: what runs in their own code is in `trainers/`."""

from __future__ import annotations

import pickle
import pkgutil
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from reward_sidecar import Client, Rejected, _trainer
from reward_sidecar._trainer import Once, Scorer, conversation, ended, finish_reason, from_environment, group_of

ALL = ("raise", "mask", "group-mean", "group-out")
# The second of them has no token.
ROWS: Any = [[1, 2, 3], [], [4], [5, 6], [7, 8]]
GROUPS = ["a", "a", "a", "b", "b"]

ADAPTERS = (
    "areal",
    "ms_swift",
    "nemo_gym",
    "nemo_rl",
    "openrlhf",
    "skyrl",
    "slime",
    "trl",
    "tunix",
    "verifiers",
    "verl",
)


def scored(client: Client, on_rejection: Any, rows: Any = ROWS) -> _trainer.Scored:
    return Scorer(client, on_rejection, ALL).score({"input_ids": rows})


def test_a_mask_says_nothing_of_the_row(client: Client) -> None:
    answer = scored(client, "mask")
    assert answer.column() == answer.column("length") == [3.0, None, 1.0, 2.0, 2.0]
    assert answer.rejections[1].code == "EMPTY"
    assert np.isnan(answer.attributes(1)["length"])


def test_the_mean_of_its_group_leaves_the_groups_mean(client: Client) -> None:
    answer = scored(client, "group-mean")
    assert answer.column(groups=GROUPS) == [3.0, 2.0, 1.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="needs the group of each rollout"):
        answer.column()
    # Nobody in its group has a number.
    with pytest.raises(Rejected, match="EMPTY"):
        answer.column(groups=["a", "alone", "a", "b", "b"])


def test_its_group_goes_with_it(client: Client) -> None:
    assert scored(client, "group-out").column(groups=GROUPS) == [None, None, None, 2.0, 2.0]


def test_the_reward_of_one_raises_for_one(client: Client) -> None:
    assert scored(client, "mask", [[1, 2]]).reward() == 2.0
    with pytest.raises(Rejected, match="EMPTY"):
        scored(client, "mask", [ROWS[1]]).reward()
    with pytest.raises(Rejected, match="EMPTY"):
        scored(client, "raise")


def test_what_is_no_rollouts_fault_is_never_masked(client: Client) -> None:
    with pytest.raises(Rejected, match="UNKNOWN_ATTRIBUTE"):
        Scorer(client, "mask", ALL, weights={"beauty": 1.0}).score({"input_ids": [[1]]})
    with pytest.raises(TimeoutError):
        Scorer(client, "mask", ALL, timeout=0.0).score({"input_ids": [[1]]})
    with pytest.raises(reward_sidecar.ConnectionFailed):
        nobody = Client("unix:///nowhere", connect_timeout_s=0.0)
        Scorer(nobody, "mask", ALL).score({"input_ids": [[1]]})


def test_nothing_is_no_completion(client: Client) -> None:
    answer = Scorer(client, "mask", ALL).score({"prompt_ids": [[1], [2]], "completion_ids": [[], [3]]})
    assert answer.column() == [None, 2.0] and answer.rejections[0].code == "EMPTY_COMPLETION"


def test_nothing_is_scored_where_that_is_asked_for(client: Client) -> None:
    scorer = Scorer(client, "raise", ALL, require_completion=False)
    assert scorer.score({"prompt_ids": [[1], [2]], "completion_ids": [[], [3]]}).column() == [1.0, 2.0]
    # Of a row that is one piece nobody knows where the completion is, and nothing is asked of it.
    assert scorer.score({"input_ids": [[1, 2]]}).column() == [2.0]


def test_all_takers_get_one_answer() -> None:
    once, asked, batch = Once(3), [], ["a"]

    def ask() -> Any:
        asked.append(1)
        return SimpleNamespace(number=len(asked))

    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(once.of(batch, ask))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.number for answer in answers] == [1, 1, 1]
    # All have it: the same list is another question, and an equal one is, too.
    assert once.of(batch, ask).number == 2
    assert once.of(["a"], ask).number == 3
    assert pickle.loads(pickle.dumps(once)).of(batch, ask).number == 4


def test_a_failure_reaches_all_takers() -> None:
    once, batch = Once(2), ["a"]

    def fail() -> Any:
        raise RuntimeError("no")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            once.of(batch, fail)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", "stop"),
        ("tool_calls", "stop"),
        ("length", "length"),
        ({"type": "length", "length": 256}, "length"),
        (SimpleNamespace(value="truncated"), "length"),
        (SimpleNamespace(value="completed"), "stop"),
        ("abort", None),
        ("content_filter", None),
        (None, None),
        (3, None),
    ],
)
def test_reasons(said: object, meant: str | None) -> None:
    assert finish_reason(said) == meant


def test_the_last_token_says_whether_it_ended() -> None:
    assert [ended(ids, [2, 9]) for ids in ([1, 2], [1, 9], [2, 1], [])] == ["stop", "stop", "length", "length"]
    assert ended([1, 2], []) is None


def test_groups_and_conversations() -> None:
    prompt = [{"role": "user", "content": "ä \ud800"}]
    assert group_of(prompt) == group_of([dict(prompt[0])]) != group_of("ä")
    call = [
        {"role": "assistant", "content": "a"},
        {"role": "tool", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    assert conversation(prompt, call) == ([*prompt, *call[:2]], "c")
    assert conversation(prompt, []) == (prompt, "")


def test_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWARD_CLIENT_ADDRESS", raising=False)
    with pytest.raises(ValueError, match="set REWARD_CLIENT_ADDRESS"):
        from_environment()
    monkeypatch.setenv("REWARD_CLIENT_ADDRESS", "unix:///there")
    monkeypatch.setenv("REWARD_CLIENT_OPTIONS", '{"weights": {"length": 1}}')
    assert from_environment() == {"server": "unix:///there", "weights": {"length": 1}}


def test_a_scorer_travels(address: str) -> None:
    scorer = pickle.loads(pickle.dumps(Scorer(address, "mask", ALL, weights={"length": 2.0})))
    assert scorer.score({"input_ids": [[1, 2]]}).column() == [4.0]


def test_adapters_need_no_trainer_to_be_imported() -> None:
    found = {module.name for module in pkgutil.iter_modules(reward_sidecar.__path__) if not module.name.startswith("_")}
    assert found == set(ADAPTERS)
    trainers = (
        "torch",
        "trl",
        "verl",
        "openrlhf",
        "slime",
        "areal",
        "swift",
        "skyrl_gym",
        "verifiers",
        "tunix",
        "nemo_gym",
        "ray",
    )
    code = "import sys\n" + "".join(f"import reward_sidecar.{name}\n" for name in ADAPTERS)
    code += f"print([name for name in {trainers!r} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout == "[]\n", output.stderr


def test_verl_finds_its_entry_point() -> None:
    from importlib.metadata import entry_points

    (found,) = entry_points(group="verl.plugins", name="reward_sidecar")
    assert found.value == "reward_sidecar.verl:RewardManager"
