"""Text from a sandbox, made harmless for reports, terminals and CI logs."""

from __future__ import annotations

import re

# C0 without newline and tab, DEL, C1, bidirectional controls and marks, line and paragraph separators, lone
# surrogates, byte order mark: what moves a cursor, reorders a line, or cannot be encoded.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable(text: str) -> str:
    r"""`text` with every character that a terminal would obey written as an escape such as `\x1b`.

    Newlines and tabs stay. The result encodes as UTF-8.
    """
    return _UNSAFE.sub(_escape, text)


def one_line(text: str, limit: int = 200) -> str:
    """`text` on a single safe line of at most `limit` characters, the cut shown by an ellipsis."""
    line = printable(text).replace("\n", "\\n").replace("\t", "\\t")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def tail(text: str, *, lines: int = 15, characters: int = 2000) -> str:
    """The last `lines` lines of `text`, at most `characters` long, each behind `| `.

    The prefix keeps a line that looks like a CI workflow command (`::add-mask::`) from being one.
    """
    kept = text[-characters:]
    split = kept.splitlines()
    cut = len(kept) < len(text) or len(split) > lines
    shown = [f"| {printable(line)}" for line in split[-lines:]]
    if cut:
        shown.insert(0, "| …")
    return "\n".join(shown)
