"""Text classification, from record to score: a text or a pair of texts gets one label.

    "An hour I will not get back."   label "negative"                     a record
    [CLS] an hour i will not get back . [SEP]   ->   0                    a feature
    input_ids, attention_mask, token_type_ids (B, T);   labels (B,)       a batch
    logits (B, C)   ->   cross-entropy                                    the loss
    softmax   ->   negative 0.97, positive 0.03                           a prediction
    accuracy, F1, Matthews correlation                                    the score

A text with more tokens than the model accepts is truncated, or split into overlapping windows whose
logits are averaged (`--truncation`, text/windows.py).

Reference: Devlin et al. 2019, "BERT", section 4.1.

Dimensions: B batch, T tokens of the longest text in the batch, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from minift import metrics
from minift.data.inputs import count_unknown_labels, read_texts
from minift.data.read import TextRecord, read_classification
from minift.errors import UserError, escape_fields
from minift.models.encoder import POOLINGS
from minift.models.heads import EncoderForSequenceClassification
from minift.options import check_range, option
from minift.tasks.base import Metric, Task
from minift.tasks.batches import TokenBatch, TokenFeature, head_logits, run_batches, token_batch
from minift.tasks.data_checks import all_truncated, constant_labels, contradictions
from minift.tasks.display import Display, label_line, on_one_line, score_table
from minift.tasks.labels import (
    balanced_weights,
    check_labels,
    doubtful_labels,
    f1_of,
    labels_in,
    positive_label,
)
from minift.tasks.options import TaskOptions
from minift.text.windows import Truncation, truncate_or_window


@dataclass(frozen=True)
class ClassificationOptions(TaskOptions):
    """Classification."""

    column_options = ("text_column", "pair_column", "label_column")
    text_column: str = option("text", "Column of the text: a name, or a number from 0 in a TSV.")
    pair_column: str = option("text_pair", "Column of the second text of a pair, if there is one.")
    label_column: str = option("label", "Column of the label.")
    truncation: Truncation = option(
        "head", "Part of a long text to keep: head, head+tail, or all of it in windows."
    )
    pooling: Literal[POOLINGS] | None = option(
        None, "How a text becomes one vector; default: as the model's config says."
    )
    r_drop: float = option(
        0.0, "Weight of the divergence between two passes with dropout; doubles the time; 0: off."
    )
    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: weight each label's loss inversely to its frequency; none: off."
    )
    positive_label: str | None = option(
        None, "Of two labels, the one whose F1 is f1; default: the second."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "r_drop", 0)


@dataclass(frozen=True)
class TextFeature(TokenFeature):
    """The tokens of a text or of one window of it, and the index of its label.

    truncated: these are not all tokens of the text.
    weight: factor of the loss; the windows of a record share a weight of 1 equally.
    """

    label: int | None
    truncated: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class LabelPrediction:
    """The most probable label, and the probabilities of all in the order of the task's labels."""

    label: str
    probabilities: list[float]


Records: TypeAlias = Sequence[TextRecord]
Features: TypeAlias = Sequence[TextFeature]
Predictions: TypeAlias = Sequence[LabelPrediction]


@dataclass(frozen=True)
class ClassificationDisplay(Display):
    """Texts with their labels; see `Display`."""

    def describe(self, records: Records, features: Features) -> str:
        first, feature = records[0], features[0]
        long = len({f.record for f in features if f.truncated}) / len(records)
        counts = Counter(record.label for record in records)
        positive = positive_label(self.task.labels, self.task.options.positive_label)
        lines = [
            f"first record ({first.where})",
            f"  text    {on_one_line(first.text)}",
            *([f"  pair    {on_one_line(first.text_pair)}"] if first.text_pair is not None else []),
            f"  tokens  {self.tokens(feature.input_ids)}",
            f"  label   {escape_fields(first.label)} -> {feature.label}",
            "labels    " + escape_fields(", ".join(f"{n} {counts[n]}" for n in self.task.labels)),
            f"f1        {f1_of(positive)}",
            f"length    {long:.1%} of the texts have more than {self.task.max_length} tokens "
            f"(--truncation {self.task.options.truncation})",
        ]
        return "\n".join(lines)

    def format_report(
        self, predictions: Predictions, records: Records, score: dict[str, Any]
    ) -> str:
        """Precision, recall and F1 of each label; the most confident hits and errors."""
        width = max(map(len, self.task.labels))
        lines = [
            f"f1 is {f1_of(score['positive_label'])}",
            *score_table("label", score["per_label"], "records"),
        ]
        pairs = list(zip(predictions, records, strict=True))
        pairs.sort(key=lambda pair: -max(pair[0].probabilities))
        for title, correct in (("correct predictions", True), ("errors", False)):
            chosen = [(p, r) for p, r in pairs if (p.label == r.label) is correct][:3]
            lines.append(f"most confident {title}:" + ("" if chosen else " none"))
            for p, r in chosen:
                label = f"{max(p.probabilities):.2f} {escape_fields(p.label):{width}}"
                lines.append(f"  {label}  {on_one_line(r.text):.100}")
        return "\n".join(lines)

    def to_rows(self, predictions: Predictions, records: Records) -> list[dict]:
        return [
            {
                "id": record.id,
                "text": record.text,
                **({} if record.text_pair is None else {"text_pair": record.text_pair}),
                "gold": record.label,
                "predicted": prediction.label,
                "score": max(prediction.probabilities),
                "probabilities": dict(zip(self.task.labels, prediction.probabilities, strict=True)),
            }
            for prediction, record in zip(predictions, records, strict=True)
        ]

    def to_lines(
        self, predictions: Predictions, records: Records, colour: bool = False
    ) -> list[str]:
        """label<TAB>probability of each label<TAB>text"""
        return [label_line(row) for row in self.to_rows(predictions, records)]


@dataclass(frozen=True)
class ClassificationTask(Task):
    """Text classification; see `Task`.

    class_weight: factor of each label's loss; None: all 1.
    pairs: the inputs are pairs of texts; None: the checkpoint does not say.
    """

    name = "classification"
    model_kind = EncoderForSequenceClassification
    options_class = ClassificationOptions
    display_class = ClassificationDisplay
    metrics = (
        Metric("accuracy"),
        Metric("f1"),
        Metric("f1_macro"),
        Metric("matthews_correlation"),
        Metric("loss", higher_is_better=False),
    )
    builtin_files = "reviews.{}.tsv"
    baseline_name, few_records = "the most frequent label", 800
    saved_options = (*ClassificationOptions.column_options, "truncation", "positive_label")
    saved_fields = ("pairs",)

    options: ClassificationOptions
    class_weight: tuple[float, ...] | None = None
    pairs: bool | None = None

    @classmethod
    def read(
        cls, source: Path, options: ClassificationOptions, *, require_labels: bool = True
    ) -> Iterable[TextRecord]:
        return read_classification(source, **options.file_columns, require_label=require_labels)

    def inputs_of(
        self, source: Path | Iterable[str], questions: Sequence[str], columns: Mapping[str, Any]
    ) -> Iterable[TextRecord]:
        return read_texts(source, self.options.file_columns, columns, self.pairs, self.labels)

    def check_inputs(self, records: Iterable[TextRecord], warn: Any) -> Iterable[TextRecord]:
        return count_unknown_labels(records, self.labels, warn)

    @classmethod
    def labels_of(
        cls, options: ClassificationOptions, splits: Mapping[str, Records]
    ) -> tuple[str, ...]:
        return labels_in(splits, options.training_data)

    @classmethod
    def config_changes(cls, options: ClassificationOptions) -> dict[str, Any]:
        return {} if options.pooling is None else {"pooling": options.pooling}

    def fit(self, splits: Mapping[str, Records]) -> ClassificationTask:
        """The task with the weights of the labels; a label that training lacks is an error."""
        for records in splits.values():
            check_labels(records, self.labels)
        positive_label(self.labels, self.options.positive_label)  # a wrong name is an error
        pairs, weights = splits["train"][0].text_pair is not None, None
        if self.options.class_weights == "balanced":
            weights = balanced_weights(self.labels, splits["train"])
        return replace(self, pairs=pairs, class_weight=weights)

    def input_key(self, record: TextRecord) -> tuple[str, str | None]:
        return record.text, record.text_pair

    def data_checks(
        self, splits: Mapping[str, Records], features: Mapping[str, Features]
    ) -> list[str]:
        return [
            *super().data_checks(splits, features),
            *contradictions(self.input_key, lambda record: record.label, splits),
            *doubtful_labels([record.label for record in splits["train"]]),
            *all_truncated(features["train"], self.max_length),
            *constant_labels(splits),
        ]

    def featurize(self, records: Records, training: bool = False) -> list[TextFeature]:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP], of at most `max_length` tokens.

        A record gives one feature, or one for each window if the text is long.
        """
        texts = self.tokenizer.ids([record.text for record in records])
        pairs = self.tokenizer.ids([record.text_pair or "" for record in records])
        number = {label: i for i, label in enumerate(self.labels)}
        features = []
        for i, record in enumerate(records):
            text, pair = texts[i], None if record.text_pair is None else pairs[i]
            max_tokens = self.max_length - self.tokenizer.num_special(pair=pair is not None)
            parts = truncate_or_window(text, pair, max_tokens, self.options.truncation)
            label = number.get(record.label)  # None too for an unknown one, in prediction
            for a, b in parts:
                ids, type_ids = self.tokenizer.build(a, b)
                truncated = len(a) + len(b or []) < len(text) + len(pair or [])
                features.append(TextFeature(i, ids, type_ids, label, truncated, 1 / len(parts)))
        return features

    def precompute_encoder_outputs(
        self, model: Any, features: Features, batch_size: int
    ) -> list[TextFeature]:
        head = dict(model.head_parameters())
        if new := [name for name in model.new_parameters if name not in head]:
            (tensor, *_) = model.weight_map().checkpoint_names(new[0])
            others = [name for name in model.config.poolings if name != model.config.pooling]
            raise UserError(
                f"{self.options.model}: the checkpoint has no {tensor}, and a new one cannot be "
                f"trained while the encoder is frozen; use --pooling {' or '.join(others)}"
            )
        return super().precompute_encoder_outputs(model, features, batch_size)

    def collate(self, features: Features) -> TokenBatch:
        labelled = all(feature.label is not None for feature in features)
        return token_batch(
            features,
            self.tokenizer.pad_token_id,
            labels=torch.tensor([feature.label for feature in features]) if labelled else None,
            weights=torch.tensor([feature.weight for feature in features]),
        )

    def loss(self, model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Weighted sum of the cross-entropies, and the sum of the weights.

        With `--r-drop A` each text passes through the model twice.  Dropout makes the predicted
        distributions p and q differ, and the loss also penalises their divergence:

            (CE(p) + CE(q)) / 2  +  A / 4 * (KL(p | q) + KL(q | p))

        This is half the loss of Liang et al. 2021, "R-Drop: Regularized dropout for neural
        networks", which does not divide by the two passes.
        """
        logits = head_logits(model, batch)  # (B, C)
        losses = self._cross_entropies(logits, batch.labels)  # (B,)
        if self.options.r_drop:
            second = head_logits(model, batch)  # (B, C)
            losses = (losses + self._cross_entropies(second, batch.labels)) / 2  # (B,)
            log_p, log_q = logits.float().log_softmax(-1), second.float().log_softmax(-1)  # (B, C)
            # KL(p | q) + KL(q | p) is the sum of (p - q) * (log p - log q) over the classes.
            divergences = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)  # (B,)
            losses = losses + self.options.r_drop / 4 * divergences
        # A feature's own weight is less than 1 if it is one of several windows.
        weights = batch.weights  # (B,)
        if self.class_weight is not None:
            weights = weights * logits.new_tensor(self.class_weight)[batch.labels]  # (B,)
        return (losses * weights).sum(), weights.sum()

    def _cross_entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.options.label_smoothing
        return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)

    def predict(self, model: Any, features: Features, batch_size: int) -> list[LabelPrediction]:
        """Average the logits over the windows of each record, then apply softmax."""
        outputs = run_batches(self.collate, model, head_logits, features, batch_size, "predict")
        sums: dict[int, Tensor] = {}  # record -> weighted sum of its logits, (C,)
        for feature, logits in zip(features, outputs, strict=True):
            part = logits * feature.weight
            sums[feature.record] = sums[feature.record] + part if feature.record in sums else part
        predictions = []
        for record in sorted(sums):
            probabilities = sums[record].softmax(-1)  # (C,)
            label = self.labels[int(probabilities.argmax())]
            predictions.append(LabelPrediction(label, probabilities.tolist()))
        return predictions

    def score(self, predictions: Predictions, records: Records) -> dict[str, Any]:
        """f1 is that of the positive label if there are two labels, else the macro average."""
        predicted = [prediction.label for prediction in predictions]
        gold = [record.label for record in records]
        gold_probabilities = torch.tensor(
            [p.probabilities[self.labels.index(g)] for p, g in zip(predictions, gold, strict=True)]
        )
        macro = {"average": "macro"}
        positive = positive_label(self.labels, self.options.positive_label)
        binary = {"average": "binary", "positive": positive}
        return {
            "accuracy": metrics.accuracy(predicted, gold),
            "f1": metrics.f1(predicted, gold, **(macro if positive is None else binary)),
            "positive_label": positive,
            "f1_macro": metrics.f1(predicted, gold, **macro),
            "matthews_correlation": metrics.matthews_correlation(predicted, gold),
            "loss": float(-gold_probabilities.clamp_min(1e-12).log().mean()),
            "per_label": metrics.precision_recall(predicted, gold),
            "confusion_matrix": metrics.confusion_matrix(predicted, gold, self.labels),
        }

    def baseline_score(self, train: Records, dev: Records) -> float:
        [(label, _)] = Counter(record.label for record in train).most_common(1)
        return metrics.accuracy([label] * len(dev), [record.label for record in dev])
