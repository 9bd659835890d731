"""Where completions stand in the templates of tools/templates: how many tokens of what apply_chat_template writes are the
completion's.

The reference marks a completion with private characters, which no template looks at: one at either end of each of its parts, which
are what it thinks and what it answers, without the blanks around them. What comes out between the first and the last of them is the
completion, and so are the marks of thinking beside it where the template has written them anew.
"""

import json
import random

import conversations

COUNT = 200
OPEN, CLOSE = "\ue000", "\ue001"
BLANKS = ["", "", " ", "\n", "\n\n", "  \n"]
THINK = "<think>", "</think>"


def words(rng):
    return " ".join(rng.choice(["the", "sky", "4.", "answer", "caf\u00e9", "\u4eca\u5929", "don't", "x1y22"]) for _ in range(rng.choice([1, 2, 3, 5])))


def completions():
    """Parts of each: what stands before, between and behind them is blanks, or the marks of thinking."""
    rng = random.Random(21)
    for _ in range(COUNT):
        kind = rng.choice(["plain", "plain", "blanks", "empty", "thinking", "thinking", "closed"])
        if kind == "plain":
            yield ["", words(rng), ""]
        elif kind == "blanks":
            yield [rng.choice(BLANKS), words(rng), rng.choice(BLANKS)]
        elif kind == "empty":
            yield [rng.choice(BLANKS)]
        elif kind == "thinking":
            yield [THINK[0] + rng.choice(BLANKS), words(rng), rng.choice(BLANKS) + THINK[1] + rng.choice(BLANKS), words(rng), ""]
        else:
            yield ["", words(rng), rng.choice(BLANKS) + THINK[1] + rng.choice(BLANKS), words(rng), rng.choice(BLANKS)]


def marked(parts):
    return "".join(OPEN + part + CLOSE if at % 2 else part for at, part in enumerate(parts))


def rendered(tokenizer, source, prompt, completion):
    turns = [*prompt, {"role": "assistant", "content": completion}]
    return tokenizer.apply_chat_template(turns, chat_template=source, tokenize=False)


def count(tokenizer, source, prompt, parts):
    """The number of tokens that begin within the completion; -1 where the marks do not tell, -2 where the template refuses."""
    completion = "".join(parts)
    try:
        plain, text = rendered(tokenizer, source, prompt, completion), rendered(tokenizer, source, prompt, marked(parts))
    except Exception:  # noqa: BLE001 - whatever Jinja2 says
        return -2
    if len(parts) == 1:
        return 0
    if text.replace(OPEN, "").replace(CLOSE, "") != plain or max(text.count(OPEN), text.count(CLOSE)) > len(parts) // 2:
        return -1
    if OPEN not in text or CLOSE not in text:
        return -1
    start = text.index(OPEN)
    end = text.rindex(CLOSE) - text[: text.rindex(CLOSE)].count(OPEN) - text[: text.rindex(CLOSE)].count(CLOSE)
    # Marks of thinking at either end, which the policy has written, too.
    for mark in THINK:
        before = plain[:start].rstrip()
        survives = text[text.index(OPEN) + 1 :].startswith(parts[1])
        if survives and parts[0].strip() == mark and before.endswith(mark):
            start = len(before) - len(mark)
    offsets = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return sum(start <= begin < end for begin, _ in offsets)


def write(folder, load):
    prompt = [{"role": "user", "content": "What is 2+2?"}]
    every = list(completions())
    name, tokenizer = next(iter(conversations.tokenizers(load)))
    rows = 0
    with open(folder / "places.jsonl", "w", encoding="utf-8", newline="\n") as file:
        def line(value):
            print(json.dumps(value, separators=(",", ":")), file=file)

        line(["".join(parts) for parts in every])
        for family, sources in conversations.corpus.FAMILIES.items():
            for source in [source for source in sources if "strftime_now" not in source]:
                line([family, source, [count(tokenizer, source, prompt, parts) for parts in every]])
                rows += 1
    print(f"places: {len(every)} completions in {rows} templates, tokenizer {name}")
