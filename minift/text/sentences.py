"""Where sentences end, in any script.

It cost 2.5 dollars. He paid.         ".", "!" and "?" end a sentence before a space
他来了。他赢了！                       the full stops of other scripts end one anywhere
"""

from __future__ import annotations

import re

# Full stops, question and exclamation marks with no other use, so that no space need follow:
# Chinese and Japanese, Indic scripts, Arabic and Urdu, Armenian, Ethiopic, Burmese, Khmer, Tibetan.
FULL_STOPS = "。！？｡।॥؟۔։።፧။។།"
CLOSING = "'\"”’)»」』）】》"  # may follow the full stop, and belong to the sentence
SENTENCE_END = re.compile(rf"[.!?][{CLOSING}]*\s+(?=[^\sa-z])|[{FULL_STOPS}]+[{CLOSING}]*\s*|\n+")
FIRST_END = re.compile(rf"[.!?][{CLOSING}]*(?=\s|$)|[{FULL_STOPS}]+[{CLOSING}]*")


def sentence_starts(text: str) -> list[int]:
    """The characters at which sentences begin, and the length of the text.

    >>> sentence_starts("It rained. Rollo came.")
    [0, 11, 22]
    """
    return sorted({0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)})


def first_sentence(text: str) -> str:
    """The text up to the first full stop, "!" or "?", without line ends and extra blanks.

    >>> first_sentence("Rain fell.  It was cold."), first_sentence("下雨了。很冷。")
    ('Rain fell.', '下雨了。')
    """
    text = " ".join(text.split())
    end = FIRST_END.search(text)
    return text[: end.end()] if end else text
