"""Tables of scores."""

from __future__ import annotations

from minift.tasks.display import score_table


def test_the_columns_of_a_score_table_are_aligned():
    row = {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 12}
    lines = score_table("label", {"positive": row, "negative": row}, "records")
    assert lines[1] == "positive      0.500   1.000  0.667       12"
    assert len({len(line) for line in lines}) == 1
