"""A few hundred changed tokenizer folders of `support/tokenizer_mutations.py`."""

from __future__ import annotations

import os

import pytest
from support.tokenizer_mutations import fuzz


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each case runs in a forked process")
def test_changed_tokenizer_folders_are_read_within_the_vocabulary_or_refused():
    found, failures = fuzz(0, 300)
    assert failures == []
    kinds = ("vocab.txt", "WordPiece", "Unigram", "BPE")
    assert all(found[kind, "accepted"] >= 5 and found[kind, "refused"] >= 30 for kind in kinds)
    assert sum(found.values()) == 300
