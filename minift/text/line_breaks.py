"""Line breaks in targets, for tokenizers that read every line break as a space.

T5's normaliser does.  A summary of several lines would lose them, so a token that no text holds
stands for a line break: T5's last sentinel.

    "Council met.\\nBridge repaired."   ->   ▁Council ▁met . <extra_id_99> ▁Bridge ▁repaired .
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from minift.text.special_tokens import SENTINEL
from minift.text.tokenizer import Tokenizer

LINE_BREAK = re.compile(r"\r\n|\r|\n")


def newline_token(tokenizer: Tokenizer, texts: Sequence[str]) -> str | None:
    """The token that stands for a line break in texts like these; None: none is needed, or found.

    Not needed: no text has a line break between words, or the tokenizer keeps line breaks.
    """
    if not any(LINE_BREAK.search(text.strip()) for text in texts) or keeps_line_breaks(tokenizer):
        return None
    sentinels = [token for token in tokenizer.control_tokens if SENTINEL.fullmatch(token)]
    return max(sentinels, key=lambda token: int(SENTINEL.fullmatch(token)[1]), default=None)


def keeps_line_breaks(tokenizer: Tokenizer) -> bool:
    """Whether a line break survives encoding and decoding."""
    return "\n" in tokenizer.decode(tokenizer.ids(["a\na"])[0])


def encode_lines(
    tokenizer: Tokenizer, texts: Sequence[str], newline: str | None
) -> list[list[int]]:
    """The ids of each text without special tokens, with the token `newline` for each line break."""
    if newline is None:
        return tokenizer.ids(texts)
    split = [LINE_BREAK.split(text.strip()) for text in texts]
    ids = iter(tokenizer.ids([line for lines in split for line in lines]))
    newline_id = tokenizer.id_of(newline)
    return [
        [i for n, _ in enumerate(lines) for i in ([newline_id] * (n > 0) + next(ids))]
        for lines in split
    ]


def decode_lines(tokenizer: Tokenizer, ids: Sequence[int], newline: str | None) -> str:
    """The text of ids, with a line break for each token `newline`; without blanks at its ends."""
    if newline is None:
        return tokenizer.decode(ids).strip()
    newline_id, lines = tokenizer.id_of(newline), [[]]
    for i in ids:
        if i == newline_id:
            lines.append([])
        else:
            lines[-1].append(i)
    return "\n".join(tokenizer.decode(line).strip() for line in lines).strip()
