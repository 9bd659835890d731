"""Makes tests/fixtures/messages/cases.json: rows of rollout files with tools, parts, reasoning and what else a message may hold,
and the text that transformers makes of each. Beside them, the templates and a tokenizer of bytes.

    pip install transformers==5.23.0 jinja2==3.1.6
    python tools/make_messages.py
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

FILE = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "messages" / "cases.json"

# Shows all that it is given.
EVERYTHING = """{{ bos_token }}{% for m in messages %}
<|{{ m.role }}|>{{ m | tojson }}{% endfor %}
{% if tools is not none %}tools {{ tools | tojson }}
{% endif %}
{% if documents is not none %}documents {{ documents | tojson }}
{% endif %}
{% if enable_thinking is defined %}thinking {{ enable_thinking | tojson }}{% endif %}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""

TOOL_USE = """{% for tool in tools %}[{{ tool.function.name }}({{ tool.function.parameters.properties | join(', ') }})]
{% endfor %}{% for m in messages %}
{% if m.tool_calls %}{% for call in m.tool_calls %}
<call>{{ call.function.name }} {{ call.function.arguments | tojson }}</call>{% endfor %}
{% elif m.role == 'tool' %}<result {{ m.tool_call_id }}>{{ m.content }}</result>
{% else %}<{{ m.role }}>{{ m.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""

# As models do that think: what was thought before the last question is left out.
THINK = """{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.content is string %}{% set text = m.content %}{% else %}{% set text = m.content | map(attribute='text') | join %}{% endif %}
{% if m.reasoning_content and loop.index0 > ns.last and enable_thinking is not false %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ text }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

TEMPLATES = {"default": EVERYTHING, "tool_use": TOOL_USE, "think": THINK}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says what the weather is.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer"}}},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"place": "Ålesund", "days": 2}}}
ASK = {"role": "user", "content": "What is the weather in Ålesund?"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": '{"rain": true}'}
SAY = {"role": "assistant", "content": "It rains."}
PARTS = [{"type": "text", "text": "What is this? "}, {"type": "text", "text": "A <b>?"}]


def rows():
    """Names and rows; a row may be a text where JSON of Python's would not say it."""
    yield "plain", {"prompt": [ASK], "completion": "It rains."}
    yield "plain prompt", {"prompt": "Hello", "completion": " Hello.\n"}
    yield "one message", {"prompt": [ASK], "completion": [SAY]}
    yield "whole conversation", {"messages": [{"role": "system", "content": "Be brief."}, ASK, SAY]}
    yield "tools", {"prompt": [ASK, CALLING, RESULT], "completion": "It rains.", "tools": [WEATHER]}
    yield "tools by the default template", {
        "prompt": [ASK, CALLING, RESULT],
        "completion": [SAY],
        "tools": [WEATHER],
        "chat_template": "default",
    }
    yield "no tools", {"prompt": [ASK], "completion": "It rains.", "tools": [], "chat_template": "default"}
    yield "tools as a text", {"prompt": [ASK], "completion": "It rains.", "tools": json.dumps([WEATHER])}
    yield "a completion of several messages", {
        "prompt": [ASK],
        "completion": [CALLING, RESULT, SAY],
        "tools": [WEATHER],
    }
    yield "messages with tools", {"messages": [ASK, CALLING, RESULT, SAY], "tools": [WEATHER]}
    yield "parts", {"prompt": [{"role": "user", "content": PARTS}], "completion": [{"role": "assistant", "content": PARTS[:1]}]}
    yield "parts, joined", {
        "prompt": [{"role": "user", "content": PARTS}],
        "completion": "A letter.",
        "chat_template": "think",
    }
    thought = {"role": "assistant", "reasoning_content": "I look out.", "content": "It rains."}
    yield "reasoning", {"prompt": [ASK], "completion": [thought]}
    yield "reasoning, shown", {"prompt": [ASK, thought, ASK], "completion": [thought], "chat_template": "think"}
    yield "reasoning, not shown", {
        "prompt": [ASK],
        "completion": [thought],
        "chat_template": "think",
        "chat_template_kwargs": {"enable_thinking": False},
    }
    for name in ["thinking", "reasoning"]:
        yield f"reasoning as {name}", {"prompt": [ASK], "completion": [{**SAY, name: "I look out."}]}
    yield "all names of reasoning", {
        "messages": [ASK, {"role": "assistant", "reasoning": "a", "content": "", "thinking": "b", "reasoning_content": "c"}]
    }
    yield "documents and variables", {
        "prompt": [ASK],
        "completion": "It rains.",
        "documents": [{"title": "Rain", "text": "Water from above.", "score": 0.5}],
        "chat_template_kwargs": {"enable_thinking": None, "bos_token": "<begin>"},
    }
    yield "an order of its own", {"prompt": [{"content": "Hi", "name": "Ada", "role": "user"}], "completion": "Ho"}
    yield "nulls", {"prompt": [{"role": "user", "content": None, "x": None, "y": {"z": None}}], "completion": "Ho"}
    numbers = [0, -1, 2**63 - 1, 2**63, -(2**63) - 1, 2**100, 1.0, 0.1, 1e16, 1e-7, True]
    yield "numbers", {"prompt": [{"role": "user", "content": "x", "n": numbers}], "completion": "Ho"}
    yield "odd texts", {"prompt": [{"role": "user", "content": "\u2028\"\\/\t\x7f😀", "é": ""}], "completion": "Ho"}
    yield "names twice", '{"prompt":[{"role":"user","a":1,"content":"x","a":2,"content":"y"}],"completion":"Ho"}'
    yield "a score", {"prompt": [ASK, {"role": "assistant", "content": PARTS, "score": False}, ASK], "completion": "Ho"}


def conversation(row):
    if "messages" in row:
        return row["messages"]
    prompt, completion = row["prompt"], row["completion"]
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return prompt + ([{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion)


def main():
    alphabet = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    of_bytes = Tokenizer(models.BPE(alphabet, []))
    of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_bytes, bos_token="<s>")
    tokenizer.chat_template = TEMPLATES
    cases = []
    for name, row in rows():
        line = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
        row = json.loads(line)
        # What says that a turn is scored is ours.
        messages = [{k: v for k, v in message.items() if k != "score"} for message in conversation(row)]
        tools = row.get("tools")
        text = tokenizer.apply_chat_template(
            messages,
            tools=json.loads(tools) if isinstance(tools, str) else tools,
            documents=row.get("documents"),
            chat_template=row.get("chat_template"),
            tokenize=False,
            **row.get("chat_template_kwargs", {}),
        )
        cases.append({"name": name, "row": line, "text": text})
    FILE.parent.mkdir(exist_ok=True)
    # Every byte is a token: whatever differs between two texts differs between their tokens.
    tokenizer_json = Tokenizer(models.BPE(alphabet, []))
    tokenizer_json.pre_tokenizer = of_bytes.pre_tokenizer
    fixture = {"tokenizer": json.loads(tokenizer_json.to_str()), "templates": TEMPLATES, "cases": cases}
    FILE.write_text(json.dumps(fixture, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
