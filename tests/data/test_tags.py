"""Tagging schemes are detected and converted, and invalid tags are refused at their place."""

from __future__ import annotations

import random

import pytest

from minift.data.tags import SCHEMES, TagError, detect_scheme, parse, tag_names, to_iob2
from minift.metrics import entities

EXAMPLE = {
    "iob1": "I-PER O I-PER I-PER B-PER",
    "iob2": "B-PER O B-PER I-PER B-PER",
    "bioes": "S-PER O B-PER E-PER S-PER",
    "brackets": "(PER) * (PER* *) (PER)",
}


def written(iob2: list[str], scheme: str) -> list[str]:
    """An independent writer of each scheme, from the entities."""
    spans = entities(iob2, strict=True)
    out = ["*" if scheme == "brackets" else "O"] * len(iob2)
    for kind, start, end in spans:
        touches = any(e == start and k == kind for k, _, e in spans)
        if scheme == "brackets":
            out[start] = f"({kind}*"
            out[end - 1] = f"({kind})" if end - start == 1 else "*)"
            continue
        out[start:end] = [f"I-{kind}"] * (end - start)
        if scheme == "bioes":
            out[end - 1] = f"E-{kind}"
            out[start] = f"{'S' if end - start == 1 else 'B'}-{kind}"
        elif scheme == "iob2" or touches:
            out[start] = f"B-{kind}"
    return out


def random_iob2(draw: random.Random) -> list[str]:
    tags: list[str] = []
    while len(tags) < draw.randint(1, 12):
        kind = draw.choice(["PER", "LOC"])
        tags += ["O"] if draw.random() < 0.5 else [f"B-{kind}", *[f"I-{kind}"] * draw.randint(0, 3)]
    return tags


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_becomes_iob2(scheme):
    assert to_iob2(EXAMPLE[scheme].split(), scheme) == EXAMPLE["iob2"].split()
    draw = random.Random(0)
    for _ in range(500):
        tags = random_iob2(draw)
        assert to_iob2(written(tags, scheme), scheme) == tags


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_are_detected(scheme):
    draw = random.Random(1)
    sentences = [written(random_iob2(draw), scheme) for _ in range(50)]
    assert detect_scheme(sentences) == scheme
    assert detect_scheme([["O", "O"]]) == "iob2"


def test_bilou_is_bioes_with_other_letters():
    assert detect_scheme([["U-PER"]]) == "bioes"
    assert to_iob2(["B-PER", "L-PER", "U-LOC"], "bioes") == ["B-PER", "I-PER", "B-LOC"]


def test_stray_tags_do_not_change_the_scheme():
    """As in CoNLL-2003: iob1 with a B- where none is needed."""
    sentences = [["I-PER", "O", "I-LOC"], ["B-PER", "I-PER"]]
    assert detect_scheme(sentences) == "iob1"
    assert to_iob2(sentences[1], "iob1") == ["B-PER", "I-PER"]


@pytest.mark.parametrize(
    ("scheme", "tags", "index", "words"),
    [
        ("iob2", "O I-PER", 1, "'I-PER' continues no entity"),
        ("iob2", "B-LOC I-PER", 1, "B-PER"),
        ("iob2", "S-PER", 0, "not in iob2"),
        ("bioes", "B-PER O", 1, "I-PER or E-PER"),
        ("bioes", "O I-PER", 1, "B- or S-"),
        ("bioes", "B-PER E-LOC", 1, "'E-LOC' is not allowed here"),
        ("bioes", "O B-PER", 1, "ends inside PER"),
        ("brackets", "(PER* (LOC*", 1, "nested"),
        ("brackets", "* *)", 1, "never opened"),
        ("brackets", "* (PER*", 1, "ends inside PER"),
        ("brackets", "(PER* O", 1, "'O' is not a tag in brackets"),
        ("iob1", "O X-PER", 1, "'X-PER'"),
    ],
)
def test_invalid_tags_are_refused(scheme, tags, index, words):
    with pytest.raises(TagError, match=words.replace("(", r"\(").replace("*", r"\*")) as error:
        to_iob2(tags.split(), scheme)
    assert error.value.index == index


@pytest.mark.parametrize("tag", ["", "PER", "B-", "B", "X-PER", "o", "BPER", "-PER"])
def test_tags_of_no_scheme_are_refused(tag):
    with pytest.raises(ValueError, match="no scheme"):
        parse(tag)
    with pytest.raises(TagError) as error:
        detect_scheme([["O"], ["O", tag]])
    assert (error.value.sentence, error.value.index) == (1, 1)


def test_types_may_hold_dashes():
    assert parse("B-creative-work") == ("B", "creative-work")
    assert tag_names(["x-y"]) == ("O", "B-x-y", "I-x-y")
