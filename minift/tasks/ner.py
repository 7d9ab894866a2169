"""Named-entity recognition, the whole story: every word of a text gets one tag.

    EU B-ORG   rejects O   Schleswig-Holstein B-LOC              the record: words and tags
    [CLS] eu rejects sc ##hles ##wig - hol ##stein [SEP]         a feature: pieces, and which
     -    3  0       1  -      -     - -   -        -              words they belong to
    (B, T) ids, mask, types, labels                              a batch
    logits (B, T, C)  ->  cross-entropy of the labelled pieces   the loss
    pieces -> words -> the best legal path of tags               the prediction
    entity-level precision, recall, F1                           the score

Which pieces are labelled (`--label-strategy`) and how pieces answer for their word (`--way-back`)
is told in text/alignment.py.  A text longer than the model becomes windows that overlap
(text/windows.py); each word is labelled in, and answered from, the window that sees most around it:

    words     a b c d e f g h i j
    window 0  [a b c d e f]            answers a b c d e
    window 1          [e f g h i j]    answers f g h i j

Tags are IOB2 inside, whatever the file has.  An I- may only follow a B- or I- of its type; with
`--decoding viterbi` the prediction is the likeliest sequence of tags that keeps to it.

Dimensions: B batch, T width of the batch, H hidden, C tags, W words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from minift import metrics
from minift.data.batching import pad
from minift.data.columns import TagRecord, read_tagged, untagged
from minift.data.read import numbered, read_lines
from minift.data.tags import legal_steps, tag_names
from minift.errors import InputError
from minift.models.base import PretrainedModel
from minift.tasks.base import (
    Task,
    TaskOptions,
    TokenBatch,
    TokenFeature,
    check_range,
    freeze_features,
    load_start,
    load_task,
    option,
    refuse_questions,
    run_batches,
    save_task,
    score_table,
    token_batch,
)
from minift.tasks.data_checks import rare
from minift.tasks.entities import found_entities, listed, marked_text
from minift.text.alignment import (
    IGNORE,
    WAYS_BACK,
    best_path,
    label_pieces,
    label_words,
    piece_spans,
    split_words,
)
from minift.text.tokenizer import Tokenizer
from minift.text.windows import owners, windows


@dataclass(frozen=True)
class NerOptions(TaskOptions):
    """What is particular to named entities."""

    usual_rate: ClassVar[float] = 1e-4  # tags of words are further from what the encoder knows

    token_column: int = option(0, "Column of the word, from 0; negative ones count from the right.")
    tag_column: int = option(-1, "Column of the tag; -1: the last.")
    scheme: Literal["auto", "iob1", "iob2", "bioes", "brackets"] = option(
        "auto", "How the tags mark entities; auto: recognised, for each file."
    )
    label_strategy: Literal["first", "all", "last"] = option(
        "first", "Which pieces of a split word are labelled in training."
    )
    way_back: Literal["first", "last", "majority", "mean"] | None = option(
        None, "How pieces answer for their word; as labelled, and mean for all, if not given."
    )
    decoding: Literal["viterbi", "argmax"] = option(
        "viterbi", "viterbi: the best sequence of tags that can follow each other."
    )
    overlap: int | None = option(
        None, "Tokens that neighbouring windows of a long text share; a quarter if not given."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "overlap", 0)

    @property
    def way(self) -> str:
        return self.way_back or ("mean" if self.label_strategy == "all" else self.label_strategy)


@dataclass(frozen=True)
class TagFeature(TokenFeature):
    """A text, or one window of it, as the model sees it.

    words, spans: the words that this window answers for, and the (start, end) of each in `ids`.
    labels: of each token, `IGNORE` where it has none; None in prediction.
    """

    words: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    labels: list[int] | None


@dataclass(frozen=True)
class TagPrediction:
    """A tag for each word of the record, and how probable it is."""

    tags: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class NerTask(Task):
    """See the module's docstring; the methods stand in the order of the story."""

    options: NerOptions
    tokenizer: Tokenizer
    labels: tuple[str, ...]  # tags of IOB2
    max_length: int
    schemes: tuple[str, ...] = ()  # of the files read

    name = "ner"
    metric = "f1"
    trivial_answer = "no entity"

    @classmethod
    def start(
        cls, options: NerOptions
    ) -> tuple[NerTask, PretrainedModel, dict[str, list[TagRecord]]]:
        splits, schemes = read_splits(options)
        types = {tag[2:] for record in splits["train"] for tag in record.tags if tag != "O"}
        if not types:
            where = options.training_data
            raise InputError(f"{where}: every tag is O; give sentences with entities")
        for records in splits.values():
            _check_types(records, types)
        model, tokenizer, max_length = load_start(options, cls.name, tag_names(types))
        task = cls(options, tokenizer, model.config.labels, max_length, tuple(schemes.values()))
        if task.room <= (options.overlap or 0):
            raise InputError(
                f"--overlap is {options.overlap}, but a window of {max_length} tokens holds "
                f"{task.room} of the text; give a smaller one"
            )
        return task, model, splits

    @classmethod
    def from_pretrained(cls, folder: Path) -> tuple[NerTask, PretrainedModel]:
        model, tokenizer, saved = load_task(folder, cls.name)
        names = ("label_strategy", "way_back", "decoding", "overlap")
        options = NerOptions(**{name: saved[name] for name in names if name in saved})
        labels = model.config.labels
        if "O" not in labels or not all(
            label == "O" or label[:2] in ("B-", "I-") for label in labels
        ):
            raise InputError(
                f"{folder}: the labels {', '.join(labels)[:80]} are no tags of IOB2; give a model "
                "that tags entities"
            )
        limit = model.config.max_position_embeddings
        return cls(options, tokenizer, labels, saved.get("max_length", limit)), model

    def read_inputs(
        self, inputs: Iterable[str] | Path, questions: Sequence[str] = ()
    ) -> Iterable[TagRecord]:
        """Raw text, a line each (also of a .txt file), or sentences of words."""
        refuse_questions(questions, self.name)
        if isinstance(inputs, Path):
            if inputs.name.lower().removesuffix(".gz").endswith(".txt"):
                inputs = (line for _, line in read_lines(inputs))
            else:
                return read_tagged(inputs, require_tags=False)[0]
        lines = (line.rstrip("\r\n") for line in inputs)
        return untagged((line, split_words(line)) for line in lines)

    @property
    def room(self) -> int:
        """Tokens of the text in one window."""
        return self.max_length - self.tokenizer.num_special(pair=False)

    @property
    def inside(self) -> list[int]:
        """Label -> the label that continues it: B-PER -> I-PER, all others themselves."""
        number = {label: i for i, label in enumerate(self.labels)}
        return [number.get("I" + label[1:], i) for i, label in enumerate(self.labels)]

    def describe(self, records: Sequence[TagRecord], features: Sequence[TagFeature]) -> str:
        first, feature = records[0], features[0]
        pieces = self.tokenizer.convert_ids_to_tokens(feature.ids)
        names = [
            "-" if label == IGNORE else self.labels[label]
            for label in feature.labels or [IGNORE] * feature.length
        ]
        split = Counter(end - start for f in features for start, end in f.spans)
        long = [n for n in Counter(feature.record for feature in features).values() if n > 1]
        kinds = Counter(tag[2:] for r in records for tag in r.tags or () if tag.startswith("B-"))
        lines = [
            f"first record ({first.where})",
            f"  words   {' '.join(first.words)}",
            f"  tags    {' '.join(first.tags or ())}",
            f"  tokens  {' '.join(pieces)}",
            f"  labels  {' '.join(names)}  (--label-strategy {self.options.label_strategy})",
            f"schemes   {', '.join(self.schemes)} -> iob2",
            "entities  " + ", ".join(f"{kind} {kinds[kind]}" for kind in sorted(kinds)),
            f"words     {split.total()}, of which {split.total() - split[0] - split[1]} are split "
            f"and {split[0]} have no token",
            f"length    {len(long)} of {len(records)} texts have more than {self.max_length} "
            f"tokens; they are read in {sum(long)} windows, nothing is cut",
        ]
        return "\n".join(lines)

    def asked(self, record: TagRecord) -> tuple[str, ...]:
        return record.words

    def doubts(
        self,
        splits: Mapping[str, Sequence[TagRecord]],
        features: Mapping[str, Sequence[TagFeature]],
    ) -> list[str]:
        tags = [tag for record in splits["train"] for tag in record.tags]
        kinds = [tag.removeprefix("B-") for tag in tags if tag.startswith("B-")]
        return [*super().doubts(splits, features), *rare(kinds)]

    def featurize(self, records: Sequence[TagRecord], training: bool = False) -> list[TagFeature]:
        """Pieces between [CLS] and [SEP]; one feature a text, or one a window."""
        number, inside = {label: i for i, label in enumerate(self.labels)}, self.inside
        texts = [list(record.words) for record in records]
        overlap = self.room // 4 if self.options.overlap is None else self.options.overlap
        shift = self.tokenizer.build([-1])[0].index(-1)  # special tokens before the text
        features = []
        encodings = self.tokenizer.tokens(texts, is_split_into_words=True)
        for i, (record, encoding) in enumerate(zip(records, encodings, strict=True)):
            spans = piece_spans(encoding.word_ids, len(record.words))
            parts = windows(len(encoding), self.room, overlap)
            owned: list[list[int]] = [[] for _ in parts]
            for word, part in enumerate(owners(spans, parts)):
                owned[part].append(word)
            for (start, end), words in zip(parts, owned, strict=True):
                ids, types = self.tokenizer.build(encoding.ids[start:end])
                # Of a word longer than the window, the part that is in it.
                inner = tuple(
                    (spans[w][0] - start + shift, min(spans[w][1], end) - start + shift)
                    for w in words
                )
                labels = None
                if record.tags is not None:
                    tags = [number[record.tags[w]] for w in words]
                    strategy = self.options.label_strategy
                    labels = label_pieces(inner, tags, inside, strategy, len(ids))
                features.append(TagFeature(i, ids, types, tuple(words), inner, labels))
        return features

    def freeze(
        self, model: Any, features: Sequence[TagFeature], batch_size: int
    ) -> list[TagFeature]:
        return freeze_features(self, model, features, batch_size)

    def collate(self, features: Sequence[TagFeature]) -> TokenBatch:
        labelled = features[0].labels is not None
        labels = pad([feature.labels for feature in features], IGNORE) if labelled else None
        return token_batch(features, self.tokenizer.pad_token_id, labels=labels)

    def loss(self, model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Sum of the labelled pieces' cross-entropies and their number."""
        if batch.vectors is not None:
            logits = model.classifier(batch.vectors)  # (B, T, C)
        else:
            logits = model(batch.ids, batch.mask, batch.types)  # (B, T, C)
        labels = batch.labels.flatten()  # (B * T,)
        total = F.cross_entropy(
            logits.float().flatten(0, 1),
            labels,
            ignore_index=IGNORE,
            reduction="sum",
            label_smoothing=self.options.label_smoothing,
        )
        return total, (labels != IGNORE).sum().to(total.dtype)

    def predict(
        self, model: Any, features: Sequence[TagFeature], batch_size: int
    ) -> list[TagPrediction]:
        return self.decode(
            features, run_batches(self, model, model, features, batch_size, "predict")
        )

    def decode(
        self, features: Sequence[TagFeature], outputs: Sequence[Tensor]
    ) -> list[TagPrediction]:
        """Logits of the features, (T, C) each -> a tag for every word of every record."""
        inside = self.inside
        words: dict[int, list[tuple[int, np.ndarray]]] = {}
        for feature, logits in zip(features, outputs, strict=True):
            scores = logits[: feature.length].log_softmax(-1).numpy()  # (T, C)
            rows = label_words(
                scores, feature.spans, inside, self.options.way, self.options.label_strategy
            )
            words.setdefault(feature.record, []).extend(zip(feature.words, rows, strict=True))
        start, step = legal_steps(self.labels)
        predictions = []
        for record in sorted(words):
            found = dict(words[record])
            scores = np.array([found[i] for i in range(len(found))])  # (W, C)
            scores = scores.reshape(len(found), len(self.labels))
            viterbi = self.options.decoding == "viterbi"
            path = best_path(scores, start, step) if viterbi else scores.argmax(-1)
            certain = np.exp(scores[np.arange(len(path)), path])
            tags = tuple(self.labels[i] for i in path)
            predictions.append(TagPrediction(tags, tuple(certain.tolist())))
        return predictions

    def score(
        self, predictions: Sequence[TagPrediction], records: Sequence[TagRecord]
    ) -> dict[str, Any]:
        predicted = [prediction.tags for prediction in predictions]
        gold = [record.tags for record in records]
        return {
            **metrics.entity_f1(predicted, gold),
            "f1_strict": metrics.entity_f1(predicted, gold, strict=True)["f1"],
            "token_accuracy": metrics.token_accuracy(predicted, gold),
            "errors": metrics.entity_errors(predicted, gold),
        }

    def trivial_score(self, train: Sequence[TagRecord], dev: Sequence[TagRecord]) -> float:
        return 0.0

    def explain(
        self,
        predictions: Sequence[TagPrediction],
        records: Sequence[TagRecord],
        score: dict[str, Any],
    ) -> str:
        """Scores of each type, what went wrong how often, and the first sentences where it did."""
        lines = score_table("type", score["per_type"], "entities")
        lines.append(
            "entities  "
            + ", ".join(f"{k.replace('_', ' ')} {n}" for k, n in score["errors"].items())
        )
        shown = 0
        for prediction, record in zip(predictions, records, strict=True):
            if prediction.tags != record.tags and shown < 3:
                shown += 1
                lines.append(f"  {record.text:.200}")
                lines.append(f"    true       {listed(record.words, record.tags)}")
                lines.append(f"    predicted  {listed(record.words, prediction.tags)}")
        return "\n".join(lines)

    def rows(
        self, predictions: Sequence[TagPrediction], records: Sequence[TagRecord]
    ) -> list[dict]:
        return [
            {
                "id": record.id,
                "text": record.text,
                "tokens": record.words,
                "gold": record.tags,
                "predicted": prediction.tags,
                "score": min(prediction.scores, default=1.0),
                "entities": found_entities(prediction.tags, prediction.scores, record),
            }
            for prediction, record in zip(predictions, records, strict=True)
        ]

    def lines(
        self,
        predictions: Sequence[TagPrediction],
        records: Sequence[TagRecord],
        colour: bool = False,
    ) -> list[str]:
        """The text with its entities in brackets, or in colours, and a line below for each."""
        types = sorted({label[2:] for label in self.labels if label != "O"})
        return [
            marked_text(record.text, found_entities(p.tags, p.scores, record), types, colour)
            for p, record in zip(predictions, records, strict=True)
        ]

    def save(self, model: PretrainedModel, folder: Path) -> None:
        """Model, tokenizer, and in config.json how pieces and words were matched."""
        settings = {
            "label_strategy": self.options.label_strategy,
            "way_back": self.options.way,
            "decoding": self.options.decoding,
            "overlap": self.options.overlap,
            "max_length": self.max_length,
        }
        save_task(model, self.tokenizer, folder, **settings)


def score_ways_back(folder: Path, options: NerOptions, batch_size: int = 32) -> dict[str, float]:
    """Dev F1 of a finished run for each way back, and for its own way without legal decoding.

    options: those of the run, which say where the dev data is.
    """
    task, model = NerTask.from_pretrained(folder)
    records = read_splits(options)[0]["dev"]
    features = task.featurize(records)
    outputs = run_batches(task, model, model, features, batch_size, "predict")

    def f1(**changes: Any) -> float:
        changed = replace(task, options=replace(task.options, **changes))
        predictions = changed.decode(features, outputs)
        return metrics.entity_f1([p.tags for p in predictions], [r.tags for r in records])["f1"]

    ways = {f"by {way}": f1(way_back=way) for way in WAYS_BACK}
    return {**ways, "own, argmax": f1(decoding="argmax")}


def read_splits(options: NerOptions) -> tuple[dict[str, list[TagRecord]], dict[str, str]]:
    """Split name -> records, and -> scheme, from the files given or the built-in sentences."""
    splits, schemes = {}, {}
    for name, paths in options.files("ner.{}.conll").items():
        parts = [
            read_tagged(
                path,
                token_column=options.token_column,
                tag_column=options.tag_column,
                scheme=options.scheme,
            )
            for path in paths
        ]
        splits[name] = numbered(record for records, _ in parts for record in records)
        schemes[name] = ", ".join(dict.fromkeys(scheme for _, scheme in parts))
    return splits, schemes


def _check_types(records: Sequence[TagRecord], types: set[str]) -> None:
    for record in records:
        for word, tag in zip(record.words, record.tags, strict=True):
            if tag != "O" and tag[2:] not in types:
                raise InputError(
                    f"{record.where}: the sentence tags {word!r} as {tag!r}, a type that does not "
                    f"occur in the training data ({', '.join(sorted(types))}); correct it or add "
                    "examples of it"
                )
