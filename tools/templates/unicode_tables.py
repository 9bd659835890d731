"""Writes src/sidecar/template/entities.txt, the entities of HTML 5, and unicode.txt: the classes of characters that Python's text methods go by, and its case
mappings where they are not those of Rust. Run with the CPython that reference.py names."""

import html.entities
import pathlib
import sys
import unicodedata

CLASSES = {
    "unprintable": lambda c: not c.isprintable(),
    "alpha": str.isalpha,
    "decimal": str.isdecimal,
    "digit": str.isdigit,
    "numeric": str.isnumeric,
    "lower": str.islower,
    "upper": str.isupper,
    "title": lambda c: unicodedata.category(c) == "Lt",
    "identifier": lambda c: ("a" + c).isidentifier(),
    "identifier_start": str.isidentifier,
}


def ranges(holds):
    found, start = [], None
    for code in range(0x110000 + 1):
        inside = code < 0x110000 and not 0xD800 <= code <= 0xDFFF and holds(chr(code))
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            found.append((start, code - 1))
            start = None
    return found


def mappings(of, usual):
    return [(code, of(chr(code))) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF and of(chr(code)) != usual(chr(code))]


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[2] / "src/sidecar/template"
    lines = []
    for name, holds in CLASSES.items():
        lines.append(name + " " + " ".join(f"{a:x}" if a == b else f"{a:x}-{b:x}" for a, b in ranges(holds)))
    for name, pairs in {"title_of": mappings(str.title, str.upper), "fold_of": mappings(str.casefold, str.lower)}.items():
        lines.append(name + " " + " ".join(f"{code:x}=" + "+".join(f"{ord(c):x}" for c in text) for code, text in pairs))
    entities = [f"{name} " + "+".join(f"{ord(c):x}" for c in text) for name, text in html.entities.html5.items()]
    (folder / "entities.txt").write_text("\n".join(entities) + "\n", encoding="ascii")
    (folder / "unicode.txt").write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
