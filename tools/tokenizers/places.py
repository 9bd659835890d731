"""Where completions stand in the templates of tools/templates: how many tokens of what apply_chat_template writes are the
completion's.

The reference marks a completion with private characters, which no template looks at: one at either end of each of its parts, which
are what it thinks and what it answers. Blanks beside them are within the marks if the template leaves the text then as it is
without them, else outside. What comes out between the first and the last of them is the
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
    """All ways of marking, those with the blanks beside a part first."""
    blanks = [at for at in range(0, len(parts), 2) if parts[at][-1:].isspace() and (at == 0 or at + 1 < len(parts) or parts[at].isspace())]
    for chosen in sorted(range(1 << len(blanks)), key=lambda bits: -bits.bit_count()):
        text = [OPEN + part + CLOSE if at % 2 else part for at, part in enumerate(parts)]
        for bit, at in enumerate(blanks):
            if not chosen >> bit & 1:
                continue
            mark = parts[at].rstrip()
            space = parts[at][len(mark) :]
            if at + 1 < len(parts):
                text[at], text[at + 1] = mark, OPEN + space + text[at + 1].removeprefix(OPEN)
            else:
                text[at - 1], text[at] = text[at - 1].removesuffix(CLOSE), space + CLOSE
        yield "".join(text)


def rendered(tokenizer, source, prompt, completion):
    turns = [*prompt, {"role": "assistant", "content": completion}]
    return tokenizer.apply_chat_template(turns, chat_template=source, tokenize=False)


def count(tokenizer, source, prompt, parts):
    """The number of tokens that begin within the completion; -1 where the marks do not tell, -2 where the template refuses."""
    try:
        plain = rendered(tokenizer, source, prompt, "".join(parts))
        ways = marked(parts) if len(parts) > 1 else [OPEN + parts[0] + CLOSE]
        texts = [rendered(tokenizer, source, prompt, text) for text in ways]
    except Exception:  # noqa: BLE001 - whatever Jinja2 says
        return -2
    text = next((text for text in texts if text.replace(OPEN, "").replace(CLOSE, "") == plain), "")
    if OPEN not in text or CLOSE not in text:
        # Blanks that the template takes off are no tokens.
        return 0 if len(parts) == 1 else -1
    if max(text.count(OPEN), text.count(CLOSE)) > max(len(parts) // 2, 1):
        return -1
    start = text.index(OPEN)
    end = text.rindex(CLOSE) - text[: text.rindex(CLOSE)].count(OPEN) - text[: text.rindex(CLOSE)].count(CLOSE)
    # Marks of thinking at either end, which the policy has written, too.
    for mark in THINK:
        before = plain[:start].rstrip()
        survives = len(parts) > 1 and text[text.index(OPEN) + 1 :].lstrip().startswith(parts[1])
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
