"""Sentences end where their script ends them."""

from __future__ import annotations

import pytest

from minift.text.sentences import FULL_STOPS, first_sentence, sentence_starts


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ('He said: "No!" Then he left.', 'He said: "No!"'),
        ("Rain  fell.\nIt was cold.", "Rain fell."),
        ("It cost 2.5 dollars. He paid.", "It cost 2.5 dollars."),
        ("no full stop", "no full stop"),
        ("", ""),
        ("下雨了。很冷！", "下雨了。"),
        ("「どこ？」と言った。", "「どこ？」"),
        ("वह आया। वह गया।", "वह आया।"),
        ("هل جاء؟ نعم.", "هل جاء؟"),
        ("وہ آیا۔ وہ گیا۔", "وہ آیا۔"),
    ],
)
def test_the_first_sentence(text, first):
    assert first_sentence(text) == first


def test_sentences_begin_after_the_full_stop_of_any_script():
    assert sentence_starts("下雨了。很冷！。走") == [0, 4, 8, 9]
    assert sentence_starts("A b. c. D") == [0, 8, 9]  # a small letter continues the sentence
    assert sentence_starts("one\n\ntwo") == [0, 5, 8]
    for stop in FULL_STOPS:
        assert sentence_starts(f"x{stop}y") == [0, 2, 3]
