"""Writes tests/fixtures/templates: each line is one case, [family, source, variables or their number, result]."""

import json
import pathlib
import re

import corpus
import methods
import random_pairs
import reference

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/templates"
RANDOM = 4000


def write(name, cases):
    lines, variables, kept = [], [], 0
    for family, source, given in cases:
        result = reference.render(source, given)
        # What names an address in memory is another text each time.
        if re.search(r" at 0x[0-9a-f]+", result.get("text", "")):
            continue
        if given not in variables[-20:]:
            variables.append(given)
        at = len(variables) - 1 - variables[::-1].index(given)
        lines.append(json.dumps([family, source, at, result.get("text", {k: v for k, v in result.items()})], ensure_ascii=False))
        kept += 1
    with open(FOLDER / f"{name}.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for line in [json.dumps(variables, ensure_ascii=False), *lines]:
            file.write(line.replace("\u2028", "\\u2028").replace("\x85", "\\u0085") + "\n")
    print(f"{name}: {kept} cases")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    write("corpus", corpus.cases())
    write("methods", methods.cases())
    write("random", random_pairs.cases(RANDOM))
