"""Tokenizer folders changed at random: each must be read within the vocabulary, or refused.

    python tests/support/tokenizer_mutations.py --count 5000     by hand; prints outcomes by kind

Every case has its own seed, which reproduces it: `--first SEED --count 1`, and runs in a process of
its own, because some values would make the library hang, or end the process.  A case fails if

    anything but `UserError` is raised, or the error does not name a file of the folder in one line,
    an id is beyond the vocabulary, or a saved copy tokenizes otherwise,
    it takes more than two seconds of CPU time or 500 MB, or its process is killed.

"panicked" are those that are refused after Rust has written lines of its own to stderr.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import tokenizers

from minift import Tokenizer
from minift.errors import UserError
from minift.text.fields import PARTS, SEQUENCES, SETTINGS
from support.fuzzes import Outcomes, command_line, run_apart, tally
from support.vocabulary import LETTERS, bert_folder, unigram_folder

TEXTS = [
    "The Council met, on Monday: 70 !",
    "",
    "a" * 3000,
    "ab " * 300,
    "É e\u0301\u0327 👩\u200d👩\u200d👧 ﷺ 日本 \u202e\x00 ﬁ",
    "[SEP] </s> <extra_id_1> [E1]",
]
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "config.json"),
)
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 1.5, 0.5, -0.0, 1e-300, 1e308, 100, 101, 1000, 1001),
    *(2**31, 2**32 - 1, 2**32, 2**63, 2**64, 10**9, 10**30, 10**200),
    *(float("nan"), float("inf"), "", "a", "ab", "▁", "##", "[PAD]", "[SEP]", "<pad>", "\x00", "A"),
    *(
        "日本",
        "\ud800",
        "\U0010ffff",
        "é" * 50,
        "a" * 1001,
        "a" * 100_000,
        "(",
        "(a+)+$",
        "a*",
        "\\",
    ),
    *([], [[]], [0], [None], ["a"], ["a", "b"], [["a", 0]], [["a", "b"]], {}, {"": 0}, {"a": 0}),
    *({"String": ""}, {"Regex": ""}, {"Regex": "(?<=a)"}, {"String": "a", "Regex": "a"}, {"a": {}}),
    *({"content": "a"}, {"content": "[E1]", "special": True}, {"id": 5, "content": "ab"}),
]
PATTERNS = [{"String": "a"}, {"Regex": "a+"}, {"Regex": "[^x]"}, {"Regex": "\\s+|a*"}]


def byte_pairs(folder: Path) -> Path:
    """A tokenizer.json of RoBERTa's kind, with one token that a user added."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ("Ġ", "a"), ("a", "a"), ("aa", "aa"), ("t", "h"), ("th", "e")]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, *(a + b for a, b in merges), "<mask>"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges)
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    backend.add_tokens(["[E1]"])
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    names = {"pad": "<pad>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    config = {f"{name}_token": token for name, token in names.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def charsmap(replacements: dict[str, str]) -> str:
    """A `precompiled_charsmap`: each node of its trie has a block of 256 units."""
    units, texts = [0] * 512, b""
    blocks: dict[bytes, int] = {b"": 256}
    units[0] = 256 << 10  # the root; its node has a block of its own

    def link(key: bytes) -> int:
        """The unit that leads to a key, whose node is made if it is missing."""
        parent = blocks[key[:-1]]
        if key not in blocks:
            blocks[key] = len(units)
            units.extend([0] * 256)
            unit = parent ^ key[-1]
            units[unit] = (unit ^ blocks[key]) << 10 | key[-1]
        return parent ^ key[-1]

    for text, replacement in replacements.items():
        key = text.encode()
        for end in range(1, len(key) + 1):
            unit = link(key[:end])
        units[unit] |= 1 << 8
        units[blocks[key]] = 1 << 31 | len(texts)
        texts += replacement.encode() + b"\0"
    trie = struct.pack(f"<{len(units)}I", *units)
    return base64.b64encode(struct.pack("<I", len(trie)) + trie + texts).decode()


def make_valid(place: Path) -> list[Path]:
    """Folders of four kinds."""
    tokens = [*LETTERS, "the", "[", "]", "1", "日"]
    vocab = bert_folder(place / "vocab.txt", tokens, do_lower_case=True, model_max_length=512)
    count = len((vocab / "vocab.txt").read_text().split())
    (vocab / "added_tokens.json").write_text(json.dumps({"[E1]": count, "Foo": count + 1}))
    (vocab / "special_tokens_map.json").write_text('{"additional_special_tokens": ["[E1]"]}')
    wordpiece = place / "WordPiece"
    Tokenizer.from_pretrained(vocab).save_pretrained(wordpiece)
    (wordpiece / "config.json").write_text('{"model_type": "bert"}')
    unigram = unigram_folder(place / "Unigram", eos_token="</s>", model_max_length=10**30)
    state = json.loads((unigram / "tokenizer.json").read_text())
    precompiled = {"type": "Precompiled", "precompiled_charsmap": charsmap({"ﬁ": "fi", "É": "e"})}
    replace = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
    state["normalizer"] = {"type": "Sequence", "normalizers": [precompiled, replace]}
    (unigram / "tokenizer.json").write_text(json.dumps(state))
    return [vocab, wordpiece, unigram, byte_pairs(place / "BPE")]


# ---- mutations ---------------------------------------------------------------------------------


def random_part(draw: random.Random, part: str) -> Any:
    """A part of a pipeline with the fields that its kind has, some of them odd."""
    kinds = [*PARTS[part], *(["Sequence"] * 3 if part in SEQUENCES else [])]
    kind = draw.choice(kinds)
    if kind == "Sequence":
        inner = random_part(draw, part)
        nested = inner["type"] == kind
        inner = [inner] * draw.choice([1, 2] if nested else [0, 1, 2, 12, 60, 200])
        return {"type": kind, SEQUENCES[part]: inner}
    return {"type": kind, **{name: random_field(draw, name) for name in PARTS[part][kind]}}


def random_field(draw: random.Random, name: str) -> Any:
    affixes, template = ["▁", "##", "a", "[UNK]"], [[{"Sequence": {"id": "A", "type_id": 0}}]]
    special, count = [["</s>", 2], ["[SEP]", 3], ["a", 10**6]], [1, 2, 5, 100]
    characters = ["▁", "a", "日"]
    usual = {
        "pattern": PATTERNS,
        "content": ["", "a", "aa", "▁", "ﷺ"],
        "merges": [[], ["a b"]],
        "behavior": ["Removed", "Isolated"],
        "prepend_scheme": ["always", "first"],
        "vocab": [{"a": 0, "[UNK]": 1}, [["<unk>", 0.0], ["a", -1.0]]],
        "unk_token": affixes,
        "prepend": affixes,
        "suffix": affixes,
        "prefix": affixes,
        "single": template,
        "pair": template,
        "sep": special,
        "cls": special,
        "length": count,
        "start": count,
        "stop": count,
        "replacement": characters,
        "delimiter": characters,
        "special_tokens": [{}, {"[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}],
        "precompiled_charsmap": ["AAAA", charsmap({"a": "a" * 50}), charsmap({"a": "b"})[:-400]],
    }.get(name, [True, False])
    return draw.choice(usual if draw.random() < 0.85 else VALUES)


def change_value(value: Any, draw: random.Random) -> Any:
    """One node of a JSON value replaced, removed or repeated."""
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        changed = dict(value) if isinstance(value, dict) else list(value)
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        fate = draw.random()
        if fate < 0.15:
            del changed[key]
        elif fate < 0.25:
            more = change_value(value[key], draw)
            if isinstance(changed, list):
                changed.append(more)
            else:
                changed[draw.choice([*SETTINGS, "a", "", "type"])] = more
        else:
            changed[key] = change_value(value[key], draw)
        return changed
    return draw.choice(VALUES)


def change_json(path: Path, draw: random.Random) -> None:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # broken before
        return
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        part = draw.choice([*PARTS, "vocab", "settings", "any", "any"])
        if part in PARTS and path.name == "tokenizer.json" and isinstance(value, dict):
            value[part] = random_part(draw, part)
        elif part == "vocab" and path.name == "tokenizer.json" and isinstance(value, dict):
            value["model"] = change_value(value.get("model"), draw)
        elif part == "settings" and path.name != "tokenizer.json" and isinstance(value, dict):
            value[draw.choice(list(SETTINGS))] = draw.choice(VALUES)
        else:
            value = change_value(value, draw)
    text = json.dumps(value)
    if draw.random() < 0.1:  # numbers of 5,000 digits, doubled keys, deep nesting, broken syntax
        at = draw.randrange(len(text) + 1)
        odd = draw.choice(['"', "9" * 5000, "[" * 5000, ",", '{"model": 1, "model": 2}', "\\ud800"])
        text = text[:at] + odd + text[at + draw.choice([0, 1, 5]) :]
    path.write_bytes(text.encode(errors="surrogatepass"))


def change_lines(path: Path, draw: random.Random) -> None:
    lines = path.read_bytes().split(b"\n")
    odd = [
        b"",
        b"[PAD]",
        b"a",
        b"a" * 100_000,
        b"\xff",
        b"\xe2\x96\x81 ",
        b"\x00",
        b"\r",
        b"a\r\nb",
    ]
    for _ in range(draw.choice([1, 1, 3])):
        at = draw.randrange(len(lines))
        lines[at : at + draw.choice([0, 1, 5, 100])] = [draw.choice(odd)] * draw.choice([0, 1, 2])
        lines = lines or [b""]
    path.write_bytes(b"\n".join(lines))


def replace_file(path: Path, draw: random.Random, valid: list[Path]) -> None:
    """By a link to nowhere, a FIFO, a folder, a device, other contents, or by nothing."""
    if path.is_dir():  # replaced before
        return
    path.unlink(missing_ok=True)
    kind = draw.randrange(8)
    if kind == 0:
        path.symlink_to("nowhere")
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.symlink_to("/dev/zero")
    elif kind == 4:
        path.symlink_to(path.name)  # a loop
    elif kind == 5:
        path.write_bytes(draw.choice([b"", b"{}", b"[]", b"null", b"\xff", b"0" * 10**6]))
    elif kind == 6 and (other := draw.choice(valid) / draw.choice(FILES)).exists():
        shutil.copyfile(other, path)


def mutate(folder: Path, draw: random.Random, valid: list[Path]) -> None:
    for _ in range(draw.choice([1, 1, 1, 2])):
        if draw.random() < 0.12:
            replace_file(folder / draw.choice(FILES), draw, valid)
            continue
        there = [name for name in FILES if (folder / name).is_file()]
        if not there:
            return
        path = folder / draw.choice(there + ["tokenizer.json"] * (2 * ("tokenizer.json" in there)))
        (change_lines if path.suffix == ".txt" else change_json)(path, draw)


# ---- cases -------------------------------------------------------------------------------------


def use(folder: Path) -> None:
    """Load and use a tokenizer in each way; `AssertionError` if it contradicts itself."""
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder / "saved")
    saved = Tokenizer.from_pretrained(folder / "saved")
    special = Tokenizer.from_pretrained(folder, split_special_tokens=False)
    for each in (tokenizer, special):
        words = [text.split() for text in TEXTS]
        encodings = each.encode(words, is_split_into_words=True)
        encodings += each.encode(TEXTS, TEXTS[::-1], max_length=100)
        for encoding in encodings:
            assert all(0 <= i < each.vocab_size for i in encoding.ids), "an id has no row"
            assert set(encoding.type_ids) <= {0, 1}, "token types"
            each.decode(encoding.ids)
            each.convert_ids_to_tokens(encoding.ids)
    state = json.loads((folder / "saved" / "tokenizer.json").read_text())
    if not state["model"].get("dropout"):  # which is random
        assert saved.encode(TEXTS) == tokenizer.encode(TEXTS), "saved"
    names = ("pad", "unk", "cls", "sep", "mask", "eos")
    ids = [getattr(tokenizer, f"{name}_token_id") for name in names]
    assert ids[0] is not None, "no padding"
    assert all(i is None or i < tokenizer.vocab_size for i in ids), "a special id has no row"
    tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))


def outcome_of(folder: Path) -> tuple[str, str]:
    try:
        use(folder)
    except UserError as error:
        if "\n" in str(error) or str(folder) not in str(error):
            return "failed", f"does not name the file in one line: {error}"
        return "refused", str(error)
    except BaseException:
        return "failed", traceback.format_exc()
    return "accepted", ""


def try_case(seed: int, valid: list[Path], place: Path) -> tuple[str, str, str]:
    """(kind, "accepted" | "refused" | "panicked" | "failed", message) of one changed folder."""
    draw = random.Random(seed)
    source, folder = draw.choice(valid), place / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    mutate(folder, draw, valid)
    return source.name, *run_apart(lambda: outcome_of(folder), place / "errors")


def fuzz(first: int, count: int) -> Outcomes:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        valid = make_valid(place)
        for folder in valid:
            assert run_apart(lambda: outcome_of(folder), place / "errors")[0] == "accepted", folder  # noqa: B023
            shutil.rmtree(folder / "saved")
        return tally(range(first, first + count), lambda seed: try_case(seed, valid, place))


if __name__ == "__main__":
    command_line(__doc__, fuzz, 5_000, ("accepted", "refused", "panicked", "failed"))
