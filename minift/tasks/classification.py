"""Text classification, the whole story: a text (or a pair of texts) gets one label.

    "An hour I will not get back."  label "negative"             the record
    [CLS] an hour i will not get back . [SEP]  ->  0              a feature
    (B, T) ids, mask, types; (B,) labels                          a batch
    logits (B, C)  ->  cross-entropy                              the loss
    softmax  ->  negative 0.97, positive 0.03                     the prediction
    accuracy, F1, Matthews correlation                            the score

A text longer than the model is cut, or becomes windows whose logits are averaged, as `--long-text`
says (text/windows.py).

Dimensions: B batch, T width of the batch, H hidden, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from minift import metrics
from minift.data.read import TextRecord, numbered, read_classification, records_of
from minift.errors import InputError, visible
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
from minift.tasks.data_checks import all_cut, rare
from minift.text.tokenizer import Tokenizer
from minift.text.windows import LongText, fitted

COLUMNS = ("text_column", "pair_column", "label_column")


@dataclass(frozen=True)
class ClassificationOptions(TaskOptions):
    """What is particular to classification."""

    text_column: str = option("text", "Column of the text: a name, or a number from 0 in a TSV.")
    pair_column: str = option("text_pair", "Column of the second text of a pair, if there is one.")
    label_column: str = option("label", "Column of the label.")
    long_text: LongText = option("head", "What is kept of a text that is too long.")
    pooling: Literal["pooler", "cls", "mean"] | None = option(
        None, "How a text becomes one vector; the pooler if the model does not say otherwise."
    )
    r_drop: float = option(
        0.0, "Weight of how far two passes with different dropout disagree; twice the time."
    )
    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: rare labels count for more, so that all labels weigh the same."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "r_drop", 0)


@dataclass(frozen=True)
class TextFeature(TokenFeature):
    """A text, or one window of it, as the model sees it.

    cut: the text did not fit whole.
    weight: what its loss counts; the windows of one record share a weight of one.
    """

    label: int | None
    cut: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class LabelPrediction:
    """The most probable label and the probabilities of all, in the order of the task's labels."""

    label: str
    probabilities: list[float]


@dataclass(frozen=True)
class ClassificationTask(Task):
    """See the module's docstring; the methods stand in the order of the story."""

    options: ClassificationOptions
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    max_length: int
    class_weight: tuple[float, ...]  # one for each label

    name = "classification"
    metric = "accuracy"
    trivial_answer = "the commonest label"

    @classmethod
    def start(
        cls, options: ClassificationOptions
    ) -> tuple[ClassificationTask, PretrainedModel, dict[str, list[TextRecord]]]:
        splits = read_splits(options)
        labels = sort_labels({record.label for record in splits["train"]})
        return *cls.start_with(options, splits, labels), splits

    @classmethod
    def start_with(
        cls,
        options: ClassificationOptions,
        splits: Mapping[str, Sequence[TextRecord]],
        labels: tuple[str, ...],
    ) -> tuple[ClassificationTask, PretrainedModel]:
        """Task and model for records that have been read."""
        if len(labels) < 2:
            where = options.training_data
            raise InputError(f"{where}: every label is {labels[0]!r}; give examples of two or more")
        changes = {} if options.pooling is None else {"pooling": options.pooling}
        model, tokenizer, max_length = load_start(options, cls.name, labels, **changes)
        labels = model.config.labels
        for split, records in splits.items():
            _check_labels(split, records, labels)
        task = cls(
            options=options,
            tokenizer=tokenizer,
            labels=labels,
            max_length=max_length,
            class_weight=_class_weight(options, labels, splits["train"]),
        )
        return task, model

    @classmethod
    def from_pretrained(cls, folder: Path) -> tuple[ClassificationTask, PretrainedModel]:
        model, tokenizer, saved = load_task(folder, cls.name)
        task = cls(
            options=ClassificationOptions(long_text=saved.get("long_text", "head")),
            tokenizer=tokenizer,
            labels=model.config.labels,
            max_length=saved.get("max_length", model.config.max_position_embeddings),
            class_weight=(1.0,) * len(model.config.labels),
        )
        return task, model

    def read_inputs(
        self, inputs: Iterable[str] | Path, questions: Sequence[str] = ()
    ) -> Iterable[TextRecord]:
        refuse_questions(questions, self.name)
        if isinstance(inputs, Path):
            return read_classification(inputs, require_label=False)
        return records_of(inputs)

    def describe(self, records: Sequence[TextRecord], features: Sequence[TextFeature]) -> str:
        first, feature = records[0], features[0]
        cut = len({feature.record for feature in features if feature.cut}) / len(records)
        pieces = self.tokenizer.convert_ids_to_tokens(feature.ids)
        counts = Counter(record.label for record in records)
        lines = [
            f"first record ({first.where})",
            f"  text    {first.text}",
            *([f"  pair    {first.text_pair}"] if first.text_pair is not None else []),
            f"  tokens  {' '.join(pieces)}",
            f"  label   {first.label} -> {feature.label}",
            "labels    " + ", ".join(f"{label} {counts[label]}" for label in self.labels),
            f"length    {cut:.1%} of the texts have more than {self.max_length} tokens "
            f"(--long-text {self.options.long_text})",
        ]
        return "\n".join(lines)

    def asked(self, record: TextRecord) -> tuple[str, str | None]:
        return record.text, record.text_pair

    def doubts(
        self,
        splits: Mapping[str, Sequence[TextRecord]],
        features: Mapping[str, Sequence[TextFeature]],
    ) -> list[str]:
        doubts = [
            *super().doubts(splits, features),
            *rare(record.label for record in splits["train"]),
            *all_cut(features["train"], self.max_length),
        ]
        for split in ("dev", "test"):
            found = {record.label for record in splits.get(split, ())}
            if len(found) == 1 and len(splits[split]) > 1:
                doubts.append(
                    f"every {split} record is {found.pop()!r}: f1 and matthews_correlation say "
                    "nothing there"
                )
        return doubts

    def featurize(self, records: Sequence[TextRecord], training: bool = False) -> list[TextFeature]:
        """Tokens with [CLS] and [SEP], cut as `long_text` says; one feature, or one a window."""
        firsts = self.tokenizer.ids([record.text for record in records])
        pairs = [record.text_pair for record in records]
        seconds = self.tokenizer.ids([pair or "" for pair in pairs])
        number = {label: i for i, label in enumerate(self.labels)}
        features = []
        for i, record in enumerate(records):
            second = None if pairs[i] is None else seconds[i]
            room = self.max_length - self.tokenizer.num_special(pair=second is not None)
            parts = fitted(firsts[i], second, room, self.options.long_text)
            for a, b in parts:
                ids, types = self.tokenizer.build(a, b)
                label = None if record.label is None else number[record.label]
                whole = len(firsts[i]) + len(second or []) == sum(map(len, filter(None, (a, b))))
                features.append(
                    TextFeature(i, ids, types, label, cut=not whole, weight=1 / len(parts))
                )
        return features

    def freeze(
        self, model: Any, features: Sequence[TextFeature], batch_size: int
    ) -> list[TextFeature]:
        if any("pooler" in name for name in model.report.new):
            raise InputError(
                f"{self.options.model}: has no pooler, and a new one cannot learn while the "
                "encoder is frozen; use --pooling mean or cls"
            )
        return freeze_features(self, model, features, batch_size)

    def collate(self, features: Sequence[TextFeature]) -> TokenBatch:
        labelled = features[0].label is not None
        return token_batch(
            features,
            self.tokenizer.pad_token_id,
            labels=torch.tensor([feature.label for feature in features]) if labelled else None,
            weights=torch.tensor([feature.weight for feature in features]),
        )

    def loss(self, model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Sum of the weighted losses and the sum of the weights.

        A record weighs as much as its label does (`class_weights`), a window its share of that.
        With `r_drop` each text passes twice, and its loss is the mean of both cross-entropies and
        r_drop / 2 times the mean of the two divergences between what the passes say (Liang et al.
        2021, "R-Drop: Regularized dropout for neural networks", there for the sum of both passes).
        """
        logits = self._logits(model, batch)  # (B, C)
        losses = self._cross_entropies(logits, batch.labels)  # (B,)
        if self.options.r_drop:
            others = self._logits(model, batch)  # (B, C)
            losses = (losses + self._cross_entropies(others, batch.labels)) / 2
            p, q = logits.float().log_softmax(-1), others.float().log_softmax(-1)  # (B, C)
            # KL(p | q) + KL(q | p)
            apart = ((p.exp() - q.exp()) * (p - q)).sum(-1)  # (B,)
            losses = losses + self.options.r_drop / 4 * apart
        weights = batch.weights * logits.new_tensor(self.class_weight)[batch.labels]  # (B,)
        return (losses * weights).sum(), weights.sum()

    def _logits(self, model: Any, batch: TokenBatch) -> Tensor:
        if batch.vectors is not None:
            return model.classifier(batch.vectors)  # (B, C)
        return model(batch.ids, batch.mask, batch.types)  # (B, C)

    def _cross_entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.options.label_smoothing
        return F.cross_entropy(
            logits.float(), labels, reduction="none", label_smoothing=smoothing
        )  # (B,)

    def predict(
        self, model: Any, features: Sequence[TextFeature], batch_size: int
    ) -> list[LabelPrediction]:
        """Logits averaged over the windows of a record, then softmax."""
        outputs = run_batches(self, model, model, features, batch_size, "predict")
        sums: dict[int, Tensor] = {}
        for feature, logits in zip(features, outputs, strict=True):
            part = logits * feature.weight
            sums[feature.record] = sums[feature.record] + part if feature.record in sums else part
        predictions = []
        for record in sorted(sums):
            probabilities = sums[record].softmax(-1)
            label = self.labels[int(probabilities.argmax())]
            predictions.append(LabelPrediction(label, probabilities.tolist()))
        return predictions

    def score(
        self, predictions: Sequence[LabelPrediction], records: Sequence[TextRecord]
    ) -> dict[str, Any]:
        predicted = [prediction.label for prediction in predictions]
        gold = [record.label for record in records]
        binary = {"average": "binary", "positive": self.labels[1]}
        gold_probability = torch.tensor(
            [p.probabilities[self.labels.index(g)] for p, g in zip(predictions, gold, strict=True)]
        )
        return {
            "accuracy": metrics.accuracy(predicted, gold),
            "f1": metrics.f1(
                predicted, gold, **(binary if len(self.labels) == 2 else {"average": "macro"})
            ),
            "f1_macro": metrics.f1(predicted, gold, average="macro"),
            "matthews_correlation": metrics.matthews_correlation(predicted, gold),
            "loss": float(-gold_probability.clamp_min(1e-12).log().mean()),
            "per_label": metrics.precision_recall(predicted, gold),
            "confusion_matrix": metrics.confusion_matrix(predicted, gold, self.labels),
        }

    def trivial_score(self, train: Sequence[TextRecord], dev: Sequence[TextRecord]) -> float:
        commonest, _ = Counter(record.label for record in train).most_common(1)[0]
        return metrics.accuracy([commonest] * len(dev), [record.label for record in dev])

    def explain(
        self,
        predictions: Sequence[LabelPrediction],
        records: Sequence[TextRecord],
        score: dict[str, Any],
    ) -> str:
        """Precision, recall and F1 of each label, then the surest hits and the surest errors."""
        width = max(map(len, self.labels))
        lines = score_table("label", score["per_label"], "records")
        pairs = sorted(
            zip(predictions, records, strict=True), key=lambda p: -max(p[0].probabilities)
        )
        for title, right in (("surest hits", True), ("surest errors", False)):
            chosen = [(p, r) for p, r in pairs if (p.label == r.label) is right][:3]
            lines.append(f"{title}:" if chosen else f"{title}: none")
            for p, r in chosen:
                lines.append(f"  {max(p.probabilities):.2f} {p.label:{width}}  {r.text:.100}")
        return "\n".join(lines)

    def rows(
        self, predictions: Sequence[LabelPrediction], records: Sequence[TextRecord]
    ) -> list[dict]:
        rows = []
        for prediction, record in zip(predictions, records, strict=True):
            pair = {} if record.text_pair is None else {"text_pair": record.text_pair}
            probabilities = dict(zip(self.labels, prediction.probabilities, strict=True))
            rows.append(
                {
                    "id": record.id,
                    "text": record.text,
                    **pair,
                    "gold": record.label,
                    "predicted": prediction.label,
                    "score": max(prediction.probabilities),
                    "probabilities": probabilities,
                }
            )
        return rows

    def lines(
        self,
        predictions: Sequence[LabelPrediction],
        records: Sequence[TextRecord],
        colour: bool = False,
    ) -> list[str]:
        """label<TAB>probability of each label<TAB>text, for reading and for `cut`."""
        lines = []
        for prediction, record in zip(predictions, records, strict=True):
            probabilities = zip(self.labels, prediction.probabilities, strict=True)
            shown = " ".join(f"{label}={p:.4f}" for label, p in probabilities)
            line = f"{prediction.label}\t{shown}\t{' '.join(record.text.split())}"
            lines.append(visible(line))
        return lines

    def save(self, model: PretrainedModel, folder: Path) -> None:
        """Model, tokenizer, and in config.json how long texts were treated."""
        settings = {"long_text": self.options.long_text, "max_length": self.max_length}
        save_task(model, self.tokenizer, folder, **settings)


def sort_labels(labels: set[str]) -> tuple[str, ...]:
    """A stable order: by value if all are integers, else by the alphabet.

    >>> sort_labels({"10", "9"}), sort_labels({"pos", "neg"})
    (('9', '10'), ('neg', 'pos'))
    """
    try:
        return tuple(sorted(labels, key=int))
    except ValueError:
        return tuple(sorted(labels))


def read_splits(options: ClassificationOptions) -> dict[str, list[TextRecord]]:
    """Split name -> records, from the files given or else from the built-in reviews."""
    columns = {}
    if options.train_file:
        columns = {name: getattr(options, name) for name in COLUMNS}
    return {
        name: numbered(record for path in paths for record in read_classification(path, **columns))
        for name, paths in options.files("reviews.{}.tsv").items()
    }


def _check_labels(split: str, records: Sequence[TextRecord], labels: Sequence[str]) -> None:
    known = set(labels)
    for record in records:
        if record.label not in known:
            raise InputError(
                f"{record.where}: the label {record.label!r} does not occur in the training data "
                f"({', '.join(labels)}); correct it or add examples of it"
            )


def _class_weight(
    options: ClassificationOptions, labels: Sequence[str], records: Sequence[TextRecord]
) -> tuple[float, ...]:
    """N / (C * n_c) for each label if balanced, so that the mean over the records is one."""
    if options.class_weights == "none":
        return (1.0,) * len(labels)
    counts = Counter(record.label for record in records)
    # A label that only the checkpoint knows has no record that its weight could touch.
    return tuple(len(records) / (len(labels) * max(1, counts[label])) for label in labels)
