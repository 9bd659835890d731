"""Writes tests/fixtures/templates: each line is one case, [family, source, number of the variables, result]. A source that stood before is
the number of its case. A result is the text that Jinja2 writes, or a longer one's hash (FNV-1a of 64 bits), or what kind of error there was."""

import copy
import json
import pathlib
import re
import resource
import warnings

import corpus
import methods
import random_pairs
import random_programs
import reference

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/templates"
PAIRS = 5000
PROGRAMS = 15500
# Longest text of a random template that is stored as it is.
SHORT = 40


def render(source, given):
    # Some filters change a list that they are given.
    return reference.render(source, copy.deepcopy(given))


def fnv(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def write(name, cases, hashed=False):
    lines, variables, numbers, sources = [], [], {}, {}
    for family, source, given in cases:
        result = render(source, given)
        # What names an address in memory is another text each time.
        if re.search(r" at 0x[0-9a-f]+", result.get("text", "")):
            continue
        key = json.dumps(given)
        if key not in numbers:
            numbers[key] = len(variables)
            variables.append(given)
        stored = result.get("text", result)
        if hashed and isinstance(stored, str) and len(stored) > SHORT:
            stored = {"hash": fnv(stored)}
        # A source that stood before is the number of its case.
        lines.append(json.dumps([family, sources.get(source, source), numbers[key], stored], ensure_ascii=False))
        sources.setdefault(source, len(lines) - 1)
    with open(FOLDER / f"{name}.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for line in [json.dumps(variables, ensure_ascii=False), *lines]:
            file.write(line.replace("\u2028", "\\u2028").replace("\x85", "\\u0085") + "\n")
    print(f"{name}: {len(lines)} cases")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    # What a random template asks for may be larger than the machine.
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    FOLDER.mkdir(parents=True, exist_ok=True)
    write("corpus", corpus.cases(), hashed=True)
    write("methods", methods.cases())
    write("random", random_pairs.cases(PAIRS), hashed=True)
    write("programs", random_programs.cases(PROGRAMS, render), hashed=True)
