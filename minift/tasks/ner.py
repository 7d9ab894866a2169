"""Named-entity recognition, from record to score: every word of a text gets one tag.

    EU B-ORG   rejects O   Schleswig-Holstein B-LOC              a record: words and tags
    [CLS] eu rejects sc ##hles ##wig - hol ##stein [SEP]         a feature: subword tokens, and
     -    3  0       1  -      -     - -   -        -              the labels of some
    input_ids, attention_mask, token_type_ids, labels (B, T)     a batch
    logits (B, T, C)  ->  cross-entropy of the labelled tokens   the loss
    subword tokens  ->  words  ->  the best valid tag sequence   a prediction
    precision, recall and F1 of whole entities                   the score

text/alignment.py explains which subword tokens are labelled (`--label-strategy`) and how the scores
of a word's subword tokens are aggregated (`--aggregation-strategy`).

A text longer than the model is split into overlapping windows (text/windows.py).  Each word is
labelled in, and predicted from, the window in which it has the most context:

    words     a b c d e f g h i j
    window 0  [a b c d e f]            labels and predicts a b c d e
    window 1          [e f g h i j]    labels and predicts f g h i j

Tags are converted to IOB2, in which an I- tag must follow a B- or I- tag of its type.  With
`--decoding viterbi` the prediction is the most probable tag sequence that obeys this rule.

Reference: Devlin et al. 2019, "BERT", section 5.3.

Dimensions: B batch, T tokens of the longest text in the batch, C tags, W words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from minift.data.batching import IGNORE_INDEX, pad
from minift.data.columns import TagRecord, read_tagged, read_words, untagged
from minift.data.streams import check_length, preview
from minift.data.tags import allowed_transitions, tag_names, to_iob2
from minift.errors import UserError
from minift.models.base import PretrainedModel
from minift.models.config import CONFIG
from minift.models.heads import EncoderForTokenClassification
from minift.options import check_range, option, shorten
from minift.tasks.base import Metric, Task, TrainDefaults
from minift.tasks.batches import TokenBatch, TokenFeature, head_logits, run_batches, token_batch
from minift.tasks.data_checks import contradictions, rare_labels, similar_labels
from minift.tasks.entities import EntityDisplay, TagPrediction, score_entities
from minift.tasks.loading import saved_settings
from minift.tasks.options import TaskOptions
from minift.text.alignment import (
    AGGREGATION_STRATEGIES,
    LABEL_STRATEGIES,
    aggregate_subwords,
    align_labels,
    split_words,
    subword_spans,
    viterbi_decode,
)
from minift.text.windows import best_window, windows


@dataclass(frozen=True)
class NerOptions(TaskOptions):
    """Named-entity recognition."""

    # Higher than for classification: a sentence encoder was not trained to describe single words.
    default_learning_rate: ClassVar[float] = 1e-4
    column_options = ("token_column", "tag_column")

    token_column: int = option(0, "Column of the word, from 0; negative ones count from the right.")
    tag_column: int = option(-1, "Column of the tag; -1: the last.")
    scheme: Literal["auto", "iob1", "iob2", "bioes", "brackets"] = option(
        "auto", "Tagging scheme of the files; auto: detected for each file."
    )
    label_strategy: Literal[LABEL_STRATEGIES] = option(
        "first", "The subword tokens of a word that are labelled in training."
    )
    aggregation_strategy: Literal[AGGREGATION_STRATEGIES] | None = option(
        None,
        "How the scores of a word's subword tokens are aggregated; default: as --label-strategy, "
        "average for all.",
    )
    decoding: Literal["viterbi", "argmax"] = option(
        "viterbi",
        "viterbi: the best valid tag sequence; argmax: the best tag of each word, valid or not.",
    )
    doc_stride: int | None = option(
        None, "Overlap of neighbouring windows of a long text in tokens; default: a quarter."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "doc_stride", 0)

    @property
    def aggregation(self) -> str:
        """The aggregation strategy in use: the one given or the default."""
        default = "average" if self.label_strategy == "all" else self.label_strategy
        return self.aggregation_strategy or default


@dataclass(frozen=True)
class TagFeature(TokenFeature):
    """The tokens of a text or of one window of it.

    words, spans: the words predicted from this window, and (start, end) of each in `input_ids`.
    labels: of each token, `IGNORE_INDEX` where it has none; None in prediction.
    """

    words: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    labels: list[int] | None


Records: TypeAlias = Sequence[TagRecord]
Features: TypeAlias = Sequence[TagFeature]
Predictions: TypeAlias = Sequence[TagPrediction]


@dataclass(frozen=True)
class NerTask(Task):
    """Named-entity recognition; see `Task`.

    labels: the C tags of IOB2.
    schemes: the tagging schemes of the files, a text for each split; printed before training.
    is_iob2: I- continues an entity and never begins one.  Not so for a checkpoint that minift did
        not save: many on the hub learned IOB1, and some have no B- at all.  Its tags are decoded
        as `transformers`' pipeline does, one by one, and an I- that continues nothing begins.
    """

    name = "ner"
    model_kind = EncoderForTokenClassification
    options_class = NerOptions
    display_class = EntityDisplay
    metrics = (
        Metric("f1"),
        Metric("precision"),
        Metric("recall"),
        Metric("macro_f1"),
        Metric("f1_strict"),
        Metric("token_accuracy"),
    )
    builtin_files = "ner.{}.conll"
    baseline_name = "no entity"
    saved_options = (
        *(*NerOptions.column_options, "scheme", "doc_stride"),
        *("label_strategy", "aggregation_strategy", "decoding"),
    )

    options: NerOptions
    schemes: tuple[str, ...] = ()
    is_iob2: bool = True

    @classmethod
    def train_defaults(cls, options: NerOptions) -> TrainDefaults:
        return TrainDefaults(epochs=5)  # the built-in set has few sentences

    def _check_stride(self, name: str) -> None:
        if self.max_tokens <= (self.options.doc_stride or 0):
            raise UserError(
                f"{name} is {self.options.doc_stride}, but a window of {self.max_length} tokens "
                f"holds {self.max_tokens} of the text; give a smaller value"
            )

    @classmethod
    def read(
        cls, source: Path | Iterable[str], options: NerOptions, *, require_labels: bool = True
    ) -> Iterable[TagRecord]:
        """A file of words and tags; or, for prediction, lines of raw text."""
        if not isinstance(source, Path):
            return untagged((line.rstrip("\r\n") for line in source), split_words)
        columns = {**options.file_columns, "scheme": options.scheme}
        return read_tagged(source, **columns)

    def inputs_of(
        self, source: Path | Iterable[str], questions: Sequence[str], columns: Mapping[str, Any]
    ) -> Iterable[TagRecord]:
        """As for all tasks; a file whose columns are given has columns, unless it holds JSON."""
        if not isinstance(source, Path):
            return super().inputs_of(source, questions, columns)
        # Tags are not needed, so another layout than the saved one may lack their column.
        default = {"tag_column": -1} if columns else {}
        given, columns = bool(columns), {**self.options.file_columns, **default, **columns}
        settings = {**columns, "scheme": self.options.scheme, "has_columns": given}
        first, records = preview(read_words(source, split_words, **settings))
        _check_words([r for r in first if r.original is None], columns["token_column"])
        return map(_checked, records)

    @classmethod
    def labels_of(cls, options: NerOptions, splits: Mapping[str, Records]) -> tuple[str, ...]:
        _check_words(splits["train"], options.token_column)
        types = {tag[2:] for record in splits["train"] for tag in record.tags if tag != "O"}
        if not types:
            where = options.training_data
            raise UserError(f"{where}: every tag is O; give sentences with entities")
        return tag_names(types)

    def fit(self, splits: Mapping[str, Records]) -> NerTask:
        """The task with the schemes; an entity type that training lacks is an error."""
        self._check_stride("--doc-stride")
        for records in splits.values():
            _check_types(records, {label[2:] for label in self.labels if label != "O"})
        schemes = (dict.fromkeys(r.scheme for r in records) for records in splits.values())
        return replace(self, schemes=tuple(map(", ".join, schemes)))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> tuple[NerTask, PretrainedModel]:
        task, model = super().from_pretrained(folder)
        if "O" not in task.labels or not all(
            label == "O" or label[:2] in ("B-", "I-") for label in task.labels
        ):
            raise UserError(
                f"{folder}: the labels {shorten(', '.join(task.labels))} are not IOB2 tags; give a "
                "model trained to tag entities"
            )
        task._check_stride(f"{Path(folder) / CONFIG}: doc_stride")
        is_own = "task" in saved_settings(model.config.other_keys)
        return replace(task, is_iob2=is_own), model

    @property
    def max_tokens(self) -> int:
        """Maximum number of tokens of one window, special tokens not included."""
        return self.max_length - self.tokenizer.num_special(pair=False)

    @property
    def inside(self) -> list[int]:
        """Label -> the label that continues it: B-PER -> I-PER, I-PER -> I-PER, O -> O."""
        number = {label: i for i, label in enumerate(self.labels)}
        return [number.get("I" + label[1:], i) for i, label in enumerate(self.labels)]

    def input_key(self, record: TagRecord) -> tuple[str, ...]:
        return record.words

    def data_checks(
        self, splits: Mapping[str, Records], features: Mapping[str, Features]
    ) -> list[str]:
        tags = [tag for record in splits["train"] for tag in record.tags]
        kinds = [tag.removeprefix("B-") for tag in tags if tag.startswith("B-")]
        return [
            *super().data_checks(splits, features),
            *contradictions(self.input_key, lambda record: record.tags, splits),
            *rare_labels(kinds),
            *similar_labels(kinds),
        ]

    def featurize(self, records: Records, training: bool = False) -> list[TagFeature]:
        """[CLS] subword tokens [SEP]: one feature for each text, or one for each window of it."""
        number, inside = {label: i for i, label in enumerate(self.labels)}, self.inside
        texts = [list(record.words) for record in records]
        doc_stride = self.options.doc_stride
        if doc_stride is None:
            doc_stride = self.max_tokens // 4
        shift = self.tokenizer.build([-1])[0].index(-1)  # special tokens before the text
        features = []
        encodings = self.tokenizer.tokens(texts, is_split_into_words=True)
        for i, (record, encoding) in enumerate(zip(records, encodings, strict=True)):
            spans = subword_spans(encoding.word_ids, len(record.words))
            bounds = windows(len(encoding), self.max_tokens, doc_stride)
            words_of: list[list[int]] = [[] for _ in bounds]  # window -> its words
            for word, window in enumerate(best_window(spans, bounds)):
                words_of[window].append(word)
            for (start, end), words in zip(bounds, words_of, strict=True):
                ids, type_ids = self.tokenizer.build(encoding.ids[start:end])
                # A word longer than the window keeps only the part that is inside.
                spans_in_window = tuple(
                    (spans[w][0] - start + shift, min(spans[w][1], end) - start + shift)
                    for w in words
                )
                labels = None
                if training:
                    tags = [number[record.tags[w]] for w in words]
                    strategy = self.options.label_strategy
                    labels = align_labels(spans_in_window, tags, inside, strategy, len(ids))
                features.append(TagFeature(i, ids, type_ids, tuple(words), spans_in_window, labels))
        return features

    def collate(self, features: Features) -> TokenBatch:
        labelled = features[0].labels is not None
        labels = pad([feature.labels for feature in features], IGNORE_INDEX) if labelled else None
        return token_batch(features, self.tokenizer.pad_token_id, labels=labels)

    def loss(self, model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the labelled tokens, and their number."""
        logits = head_logits(model, batch)  # (B, T, C)
        labels = batch.labels.flatten()  # (B * T,)
        total = F.cross_entropy(
            logits.float().flatten(0, 1),  # (B * T, C)
            labels,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.options.label_smoothing,
        )
        return total, (labels != IGNORE_INDEX).sum().to(total.dtype)

    def predict(self, model: Any, features: Features, batch_size: int) -> list[TagPrediction]:
        outputs = run_batches(self.collate, model, head_logits, features, batch_size, "predict")
        return self.decode(features, outputs)

    def decode(self, features: Features, outputs: Sequence[Tensor]) -> list[TagPrediction]:
        """A tag for every word of every record.  outputs: logits (T, C) of each feature."""
        options, inside = self.options, self.inside
        found: dict[int, dict[int, np.ndarray]] = {}  # record -> word -> log-probabilities (C,)
        for feature, logits in zip(features, outputs, strict=True):
            scores = logits[: feature.length].log_softmax(-1).numpy()  # (T, C)
            rows = aggregate_subwords(
                scores, feature.spans, inside, options.aggregation, options.label_strategy
            )
            found.setdefault(feature.record, {}).update(zip(feature.words, rows, strict=True))
        may_start, may_follow = allowed_transitions(self.labels)
        predictions = []
        for _, words in sorted(found.items()):
            scores = np.array([words[i] for i in range(len(words))])
            scores = scores.reshape(len(words), len(self.labels))  # (W, C), also for no word
            if options.decoding == "viterbi" and self.is_iob2:
                path = viterbi_decode(scores, may_start, may_follow)  # (W,)
            else:
                path = scores.argmax(-1)  # (W,)
            probabilities = np.exp(scores[np.arange(len(path)), path])  # (W,)
            tags = [self.labels[i] for i in path]
            tags = tags if self.is_iob2 else to_iob2(tags, "iob1")
            predictions.append(TagPrediction(tuple(tags), tuple(probabilities.tolist())))
        return predictions

    def score(self, predictions: Predictions, records: Records) -> dict[str, Any]:
        return score_entities(predictions, records)

    def baseline_score(self, train: Records, dev: Records) -> float:
        return 0.0


def _check_words(records: Records, column: int) -> None:
    """`UserError` if the words number those of each sentence, or are one in each, such as an id."""
    sentences = [record.words for record in records if len(record.words) > 1]
    counted = [tuple(map(str, range(1, len(words) + 1))) for words in sentences]
    if len(sentences) > 1 and (sentences == counted or all(len(set(w)) == 1 for w in sentences)):
        raise UserError(
            f"{records[0].where}: {' '.join(sentences[0]):.40} and so on are not words; column "
            f"{column} does not hold them, so choose theirs with --token-column"
        )


def _checked(record: TagRecord) -> TagRecord:
    check_length(sum(map(len, record.words)) + len(record.words), record.where)
    return record


def _check_types(records: Records, types: set[str]) -> None:
    """`UserError` for a tag whose entity type is not among `types`."""
    for record in records:
        for word, tag in zip(record.words, record.tags, strict=True):
            if tag != "O" and tag[2:] not in types:
                raise UserError(
                    f"{record.where}: {word!r} has the tag {tag!r}, whose type does not occur in "
                    f"the training data ({', '.join(sorted(types))}); correct it or add "
                    "examples of it"
                )
