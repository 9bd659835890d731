"""The README's code."""

from __future__ import annotations

import re

from support import REPOSITORY

README = REPOSITORY / "integration/python/README.md"


def blocks(language: str) -> list[tuple[int, str]]:
    """The code blocks of a language, each with the number of lines before it."""
    text = README.read_text()
    fences = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, fence.start(1)), fence[1]) for fence in fences]
