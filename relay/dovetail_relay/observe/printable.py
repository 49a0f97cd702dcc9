"""Text from outside as a terminal may safely show it.

Keys, types, payloads and application names are written by others; an escape sequence in one of them could rewrite the
screen, or hide a line. In plain text such characters become visible escapes, in JSON the escapes that JSON has.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

# C0 and C1 controls, DEL, what turns or hides text, line separators, and lone surrogates, which cannot be printed.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_ONE_BYTE: Final = 0x100


def printable(text: object) -> str:
    """One line without anything that a terminal acts upon: `\\x1b` instead of an escape."""
    return _UNSAFE.sub(_visible, str(text))


def json_line(value: Any) -> str:
    """`value` as JSON in one line; unsafe characters as `\\u` and four hex digits, which a parser turns back."""
    return _UNSAFE.sub(_escaped, json.dumps(value, ensure_ascii=False, allow_nan=False))


def json_block(value: Any) -> str:
    """The same on several lines, for a person."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2)
    return "\n".join(_UNSAFE.sub(_escaped, line) for line in text.split("\n"))


def shortened(text: str, most: int) -> str:
    """At most `most` characters, and how many were left out."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more)"


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < _ONE_BYTE else f"\\u{code:04x}"


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
