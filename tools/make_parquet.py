"""Makes tests/fixtures/parquet: small tables of rollouts and of preference pairs, as pyarrow writes them.

    pip install pyarrow==26.0.1
    python tools/make_parquet.py
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "parquet"
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def message(role, content):
    return {"role": role, "content": content}


def rollouts():
    """One row for each input form; columns of a data set's own beside them."""
    question = [message("user", "What is 2+2?")]
    columns = {
        "id": pa.array([7, 8, None, 9007199254740993, None], pa.int64()),
        "prompt": pa.array([question, None, None, None, None], MESSAGES),
        "completion": pa.array(["4.", None, None, None, None]),
        "messages": pa.array(
            [None, [*question, message("assistant", "Vier, übrigens.")], None, None, None], MESSAGES
        ),
        "input_ids": pa.array([None, None, [1, 2, 3], None, None], pa.list_(pa.int32())),
        "prompt_ids": pa.array([None, None, None, [1, 2], None], pa.large_list(pa.int64())),
        "completion_ids": pa.array([None, None, None, [], None], pa.list_(pa.uint32())),
        "text": pa.array([None, None, None, None, "t"], pa.large_string()),
        "weights": pa.array([None, None, None, None, {"attribute-1": 0.5}], pa.struct([("attribute-1", pa.float64())])),
        "subset": pa.array(["math", "math", "chat", None, "chat"]).dictionary_encode(),
        "scores": pa.array([[0.1, None], None, [], [1.5], [2.0]], pa.list_(pa.float32())),
        "big": pa.array([2**64 - 1, 0, 1, 2, 3], pa.uint64()),
    }
    return pa.table(columns)


def pairs():
    """Preference rows as data sets have them: the prompt as text, and both whole conversations."""
    prompts = ["What is 2+2?", "And 3+3?", "And 4+4?"]

    def conversations(answers):
        both = zip(prompts, answers, strict=True)
        return pa.array([[message("user", q), message("assistant", a)] for q, a in both], MESSAGES)

    columns = {
        "prompt": pa.array(prompts),
        "chosen": conversations(["4.", "6.", "8."]),
        "rejected": conversations(["5.", "7.", "9."]),
        "messages": conversations(["4.", "6.", "8."]),
        "score_chosen": pa.array([8.5, 7.0, 9.0]),
    }
    return pa.table(columns)


def conversations():
    """Messages with parts and with calls of tools, as data sets have them: every struct has the fields of all."""
    part = pa.struct([("text", pa.string()), ("type", pa.string())])
    parts = pa.list_(pa.struct([("content", pa.list_(part)), ("role", pa.string())]))
    arguments = pa.struct([("days", pa.int64()), ("place", pa.string())])
    call = pa.struct([("function", pa.struct([("arguments", arguments), ("name", pa.string())])), ("id", pa.string())])
    turns = pa.list_(
        pa.struct(
            [("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.list_(call)), ("tool_call_id", pa.string())]
        )
    )
    tool = pa.struct([("type", pa.string()), ("function", pa.struct([("name", pa.string())]))])
    question = [{"role": "user", "content": [{"type": "text", "text": "What is 2+2?"}]}]
    calls = [{"id": "c1", "function": {"name": "add", "arguments": {"days": 2}}}]
    answer = [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        message("assistant", "4."),
    ]
    columns = {
        "prompt": pa.array([question, question], parts),
        "completion": pa.array([answer, [message("assistant", "4.")]], turns),
        "tools": pa.array([[{"type": "function", "function": {"name": "add"}}], None], pa.list_(tool)),
        "documents": pa.array([None, '[{"title": "Sums"}]']),
        "chat_template_kwargs": pa.array([{"enable_thinking": False}, None], pa.struct([("enable_thinking", pa.bool_())])),
        "chat_template": pa.array([None, "rag"]),
    }
    return pa.table(columns)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    pq.write_table(rollouts(), FOLDER / "rollouts.parquet", row_group_size=3)
    pq.write_table(pairs(), FOLDER / "pairs.parquet")
    pq.write_table(conversations(), FOLDER / "conversations.parquet")
