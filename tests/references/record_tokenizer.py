"""Record the output of the BERT tokenizer of `transformers` for difficult texts: tokenizer.json.

    python tests/references/record_tokenizer.py

The tests compare with the recorded output.  Where `transformers` is installed, they also check
that it still gives this output.
"""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path
from typing import Any

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    "un ##believ ##able ##s the quick Quick fox é É ß 日 本 語 日本語 👩 💥 don ' t , . ! - ##1 42"
)
LETTERS = [*string.ascii_letters, *(f"##{letter}" for letter in string.ascii_letters)]
VOCAB = list(dict.fromkeys([*SPECIAL, *WORDS.split(), *LETTERS]))

SETTINGS: dict[str, dict[str, Any]] = {
    "lower-cased": {"do_lower_case": True},
    "cased": {"do_lower_case": False},
    "with accents": {
        "do_lower_case": True,
        "strip_accents": False,
        "tokenize_chinese_chars": False,
    },
}
TEXTS = [
    "",
    "   \t\n ",
    "The Quick fox, unbelievable!",
    "don't-Stop 42.1",
    "control\x00\x07\x1b char\u200bs, a\ufeff mark, \ufffd and \x85 too",
    "no-break\xa0space and\u3000wide\u2028line",
    "日本語 and日本語",
    "family 👩\u200d👩\u200d👧 boom 💥💥",
    "cafe\u0301 É Ünïcode ß İstanbul ﬁne",
    "a" * 100,
    "b " + "a" * 101 + " c",
    "a [SEP] b[MASK]c [CLS] [sep] [PAD][UNK]",
    "##s un##s ##",
    "Ω≈ç√ кириллица العربية हिन्दी 한국어",
]
LONG = ("the quick fox, unbelievable!", "don't stop the 42 foxes")
SPLIT = [["The", "Quickest", "don't", "", "日本語", "[SEP]", "a b"], [], ["x" * 101, "\x00", "t"]]


def record() -> dict[str, Any]:
    import tokenizers
    import transformers

    def answer(name: str, tokenizer: Any, text: Any, pair: Any = None, **options: Any) -> dict:
        limit = options.get("max_length")
        strategy = False if limit is None else "longest_first"
        # As lists of one, because a lone call takes an empty second text for none at all.
        pairs = None if pair is None else [pair]
        found = tokenizer(
            [text], pairs, truncation=strategy, return_offsets_mapping=True, **options
        )
        return {
            "settings": name,
            "text": text,
            "pair": pair,
            "max_length": limit,
            "ids": found["input_ids"][0],
            "type_ids": found["token_type_ids"][0],
            "offsets": [list(span) for span in found["offset_mapping"][0]],
            "word_ids": found.word_ids(0),
        }

    answers = []
    for name, settings in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_tokenizer(Path(folder), settings)
            tokenizer = transformers.BertTokenizer.from_pretrained(folder)
        answers += [answer(name, tokenizer, text) for text in TEXTS]
        answers += [
            answer(name, tokenizer, text, pair)
            for text, pair in zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True)
        ]
        answers += [answer(name, tokenizer, ws, is_split_into_words=True) for ws in SPLIT]
    for limit in range(3, 32):
        answers.append(answer(name, tokenizer, LONG[0], max_length=limit))
        answers.append(answer(name, tokenizer, *LONG, max_length=limit))
        answers.append(answer(name, tokenizer, *LONG[::-1], max_length=limit))
    versions = {module.__name__: module.__version__ for module in (transformers, tokenizers)}
    return {"versions": versions, "answers": answers}


def write_tokenizer(folder: Path, settings: dict[str, Any]) -> Path:
    """A small vocab.txt and the settings, for both tokenizers."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


if __name__ == "__main__":
    recorded = record()
    lines = ",\n".join(json.dumps(answer) for answer in recorded["answers"])
    text = f'{{"versions": {json.dumps(recorded["versions"])},\n"answers": [\n{lines}\n]}}\n'
    Path(__file__).with_name("tokenizer.json").write_text(text)
