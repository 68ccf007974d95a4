"""The boxed errors of tyro, as one line each."""

from __future__ import annotations

import re

_BOX = "╭╮╰╯│─├┤-"


def one_line(boxed: str) -> str:
    """The message of a boxed error of tyro's: its first paragraph, and what it thinks was meant.

    On a terminal of UTF-8 the box's upper edge holds the title; elsewhere the title is a paragraph of its own.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    paragraphs: list[list[str]] = [[]]
    for line in text.splitlines():
        content = line.strip().strip("│").strip()
        if line.lstrip()[:1] in "╭╰" and line.strip():
            continue
        if content and set(content) <= set(_BOX):
            paragraphs.append([])
        elif content:
            paragraphs[-1].append(content)
    if "╭" not in text and len(paragraphs) > 1:
        del paragraphs[0]
    message = " ".join(paragraphs[0])
    message = re.sub(r"^Error parsing [\w-]+: (?=[\w-]+\.\w+)", "", message)
    message = (
        re.sub(r"^Error parsing ((--)?[\w.-]+):", r"\1:", message)
        .split(" Got errors:")[0]
        .rstrip(".")
    )
    for paragraph in paragraphs[1:]:
        if paragraph and paragraph[0].startswith("Perhaps you meant"):
            flag = next(
                (word for line in paragraph for word in line.split() if word.startswith("--")), ""
            )
            message += f"; did you mean {flag}?" if flag else ""
    return message or "the arguments cannot be understood"
