"""Abstractive summarization, from record to score: a document gets a short text in other words.

    document "Freezing rain coated ..."  summary "An ice storm cut power."        a record
    summarize: freezing rain ... </s>   ->   an ice storm cut power . </s>        a feature
    input_ids, attention_mask (B, T);   labels (B, U)                             a batch
    labels shifted right -> decoder -> logits (B, U, V) -> cross-entropy          the loss
    generation: greedy or beam search                                             a prediction
    ROUGE against the reference summary, or the best of several                   the score

In training the decoder reads the reference summary, one token behind (teacher forcing):

    reads      <pad>  an   ice    storm  cut  ...
    predicts   an     ice  storm  cut    power ...

Long documents and long summaries are truncated at their end, and the counts are printed.  The
length limit of generated summaries is the longest training summary; a warning is printed if many
summaries reach it.

References: Raffel et al. 2020, "Exploring the limits of transfer learning with a unified
text-to-text transformer"; Shazeer and Stern 2018, "Adafactor".

Dimensions: B batch, T tokens of the longest document, U of the longest summary, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from minift import hub, metrics
from minift.data.batching import IGNORE_INDEX, pad, sorted_batches
from minift.data.lines import read_document
from minift.data.read import SummaryRecord, summary_records
from minift.data.rows import begins_json
from minift.errors import UserError
from minift.generation.config import GenerationConfig
from minift.models.base import PretrainedModel
from minift.models.config import CONFIG
from minift.models.seq2seq import Seq2SeqModel
from minift.options import bounded, check_range, flag_of, option, shorten
from minift.tasks.base import Metric, Task, TrainDefaults
from minift.tasks.batches import TokenBatch, TokenFeature, token_batch
from minift.tasks.loading import check_special_tokens, save_generation, saved_settings
from minift.tasks.options import TaskOptions
from minift.tasks.summaries import SummaryDisplay, SummaryPrediction, lead_scores
from minift.tasks.summary_checks import (
    is_unread,
    missing_characters,
    truncated_documents,
    unread_by_rouge,
)
from minift.terminal import progress_bar
from minift.text.line_breaks import decode_lines, encode_lines, newline_token

# Encoder-decoders are fine-tuned with the optimiser that they were pretrained with.
MAX_TARGET_LENGTH = 100_000  # tokens; attention over more fits into no memory

DEFAULTS = TrainDefaults(epochs=3, batch_size=8, optimizer="adafactor")
# On few documents the small default model soon forgets how to copy, so its lower half is frozen and
# the saved weights are averages.
SMALL_MODEL_DEFAULTS = replace(
    DEFAULTS,
    learning_rate=5e-3,
    freeze_layers=2,
    swa_fraction=0.5,
    reason=f"{hub.OWN_MODEL} is small",
)


@dataclass(frozen=True)
class SummarizationOptions(TaskOptions):
    """Summarization."""

    default_learning_rate: ClassVar[float] = 3e-4  # T5 needs a higher one than BERT
    column_options = ("document_column", "summary_column")

    model: str = option(
        hub.OWN_MODEL, "Folder, name under weights/ or hub id of the model.", common=True
    )
    document_column: str = option("document", "Column or key of the documents.", common=True)
    summary_column: str = option("summary", "Column or key of the summaries.", common=True)
    skip_bad_records: bool = option(
        False, "Skip records that cannot be used, and print their number; else they are an error."
    )
    source_prefix: str = option("summarize: ", "Text before each document.")
    targets: Literal["first", "all"] = option(
        "first", "Summaries to train on where a document has several."
    )
    max_target_length: int | None = option(
        None, "Maximum number of tokens of a summary; default: the longest of the training data."
    )
    num_beams: int = option(4, "Beams of beam search; 1: greedy search.", common=True)
    length_penalty: float = option(
        1.0, "Exponent of the length that divides a beam's score; higher: longer summaries; 0: off."
    )
    no_repeat_ngram_size: int = option(
        3, "Length of the token n-grams that may occur only once in a summary; 0: off."
    )
    beam_early_stopping: Literal["true", "false", "never"] = option(
        "false", "When beam search ends: early_stopping of transformers' generate."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "max_target_length", 2, MAX_TARGET_LENGTH)
        self.generation(1)

    def generation(self, max_target_length: int) -> GenerationConfig:
        """The settings of `generate`; `ValueError` names the flag that is out of range."""
        value = self.beam_early_stopping
        early_stopping = {"true": True, "false": False}.get(value, value)
        try:
            return GenerationConfig(
                max_new_tokens=max_target_length,
                num_beams=self.num_beams,
                length_penalty=self.length_penalty,
                no_repeat_ngram_size=self.no_repeat_ngram_size,
                early_stopping=early_stopping,
            )
        except ValueError as error:
            name, rest = str(error).split(" ", 1)
            name = "beam_early_stopping" if name == "early_stopping" else name
            raise ValueError(f"{flag_of(name)} {rest}") from None


@dataclass(frozen=True)
class SummaryFeature(TokenFeature):
    """The tokens of a document and of its summary.

    labels: of the summary, the end token included; None in prediction.
    truncated, target_truncated: these are not all tokens of the document, or of the summary.
    """

    labels: list[int] | None
    truncated: bool
    target_truncated: bool


Records: TypeAlias = Sequence[SummaryRecord]
Features: TypeAlias = Sequence[SummaryFeature]
Predictions: TypeAlias = Sequence[SummaryPrediction]


@dataclass(frozen=True)
class SummarizationTask(Task):
    """Abstractive summarization; see `Task`.

    max_target_length: tokens of a summary, its end token included; None until `fit`.
    newline_token: stands for a line break in summaries; None: they have none, or the tokenizer
        keeps them (text/line_breaks.py).
    """

    name = "summarization"
    model_kind = Seq2SeqModel
    options_class = SummarizationOptions
    display_class = SummaryDisplay
    metrics = (Metric("rougeL"), Metric("rouge1"), Metric("rouge2"), Metric("rougeLsum"))
    builtin_files = "reports.{}.jsonl"
    baseline_name = "the first sentence"
    unsupported_options = MappingProxyType(
        {
            "freeze_encoder": "an encoder-decoder has no head to train; use --freeze-layers",
            "head_lr_multiplier": "an encoder-decoder has no head; leave it out",
        }
    )
    saved_options = (
        *(*SummarizationOptions.column_options, "source_prefix"),
        *("num_beams", "length_penalty", "no_repeat_ngram_size", "beam_early_stopping"),
    )
    saved_fields = ("max_target_length", "newline_token")

    options: SummarizationOptions
    max_target_length: int | None = bounded(None, 1, MAX_TARGET_LENGTH)
    newline_token: str | None = None

    @classmethod
    def train_defaults(cls, options: SummarizationOptions) -> TrainDefaults:
        small = hub.weights_dir() / hub.OWN_MODEL
        is_small = small.is_dir() and hub.find_checkpoint(options.model).samefile(small)
        return SMALL_MODEL_DEFAULTS if is_small else DEFAULTS

    @classmethod
    def read(
        cls,
        source: Path | Iterable[str],
        options: SummarizationOptions,
        *,
        require_labels: bool = True,
    ) -> Iterable[SummaryRecord]:
        """A JSONL or CSV file; or, for prediction, a .txt file with one document, or documents."""
        if isinstance(source, Path):
            is_text = source.name.lower().removesuffix(".gz").endswith(".txt")
            if require_labels or not is_text or begins_json(source):
                return summary_records(
                    source,
                    **options.file_columns,
                    require_summary=require_labels,
                    skip_bad=options.skip_bad_records,
                )
            source = [read_document(source)]
        return _documents(source)

    def fit(self, splits: Mapping[str, Records]) -> SummarizationTask:
        """The task with the maximum length of a summary, and the token for its line breaks.

        The length is the option, or that of the longest summary.
        """
        targets = all_targets(splits["train"], self.options)
        newline = newline_token(self.tokenizer, targets)
        length = self.options.max_target_length
        if length is None:
            length = 1 + max(map(len, encode_lines(self.tokenizer, targets, newline)))
        return replace(self, max_target_length=length, newline_token=newline)

    def save(self, model: PretrainedModel, folder: str | Path) -> None:
        generation = self.options.generation(self.max_target_length)
        save_generation(model, Path(folder), generation, self.options.source_prefix)
        super().save(model, folder)

    @classmethod
    def from_records(
        cls, options: SummarizationOptions, splits: Mapping[str, Records]
    ) -> tuple[SummarizationTask, PretrainedModel]:
        task, model = super().from_records(options, splits)
        check_special_tokens(options.model, model.config, task.tokenizer)
        # A model that was trained for summaries writes line breaks and lengths of its own.
        saved = saved_settings(model.config.other_keys)
        cls.check_saved(Path(options.model) / CONFIG, saved)
        token, length = saved.get("newline_token"), saved.get("max_target_length")
        if task.newline_token is None and token and task.tokenizer.id_of(token):
            task = replace(task, newline_token=token)
        if options.max_target_length is None and length is not None:
            task = replace(task, max_target_length=max(task.max_target_length, length))
        return task, model

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> tuple[SummarizationTask, PretrainedModel]:
        task, model = super().from_pretrained(folder)
        check_special_tokens(folder, model.config, task.tokenizer)
        if task.newline_token and task.tokenizer.id_of(task.newline_token) is None:
            raise UserError(
                f'{folder}: newline_token is {shorten(task.newline_token)} under "minift" in '
                "config.json, which is no token of the tokenizer; use the files of one model"
            )
        if task.max_target_length is None:
            raise UserError(
                f"{folder}: config.json has no length limit for summaries "
                '("minift": {"max_target_length": ...}); add it, or train the model with minift'
            )
        return task, model

    def input_key(self, record: SummaryRecord) -> str:
        return record.document

    def data_checks(
        self, splits: Mapping[str, Records], features: Mapping[str, Features]
    ) -> list[str]:
        targets = all_targets(splits["train"], self.options)
        return [
            *super().data_checks(splits, features),
            *truncated_documents(splits, features, self.max_length),
            *missing_characters(features, targets, self.tokenizer, self.newline_token),
            *unread_by_rouge(splits),
        ]

    def featurize(self, records: Records, training: bool = False) -> list[SummaryFeature]:
        """Prefix, document and </s>, at most `max_length`; in training once for each target."""
        texts = [self.options.source_prefix + record.document for record in records]
        sources = self.tokenizer.ids(texts)
        max_tokens = self.max_length - self.tokenizer.num_special(pair=False)
        eos = self.tokenizer.eos_token_id
        features = []
        for i, (record, source) in enumerate(zip(records, sources, strict=True)):
            ids, type_ids = self.tokenizer.build(source[:max_tokens])
            truncated = len(source) > max_tokens
            if not training:
                features.append(SummaryFeature(i, ids, type_ids, None, truncated, False))
                continue
            targets = targets_of(record, self.options)
            for target in encode_lines(self.tokenizer, targets, self.newline_token):
                labels = [*target[: self.max_target_length - 1], eos]
                long = len(target) >= self.max_target_length
                features.append(SummaryFeature(i, ids, type_ids, labels, truncated, long))
        return features

    def precompute_encoder_outputs(
        self, model: Any, features: Features, batch_size: int
    ) -> list[SummaryFeature]:
        raise UserError(
            "--freeze-encoder trains only a head, and an encoder-decoder has none; leave it out "
            "or give --freeze-layers"
        )

    def collate(self, features: Features) -> TokenBatch:
        labelled = features[0].labels is not None
        labels = pad([feature.labels for feature in features], IGNORE_INDEX) if labelled else None
        return token_batch(features, self.tokenizer.pad_token_id, labels=labels)

    def loss(self, model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the summaries' tokens, and the number of tokens."""
        return model.target_loss(
            batch.input_ids, batch.attention_mask, batch.labels, self.options.label_smoothing
        )

    def predict(self, model: Any, features: Features, batch_size: int) -> list[SummaryPrediction]:
        generation = self.options.generation(self.max_target_length)
        return self.generate(model, features, batch_size, generation)

    def generate(
        self,
        model: Any,
        features: Features,
        batch_size: int,
        generation: GenerationConfig,
        generator: torch.Generator | None = None,
    ) -> list[SummaryPrediction]:
        """One summary for each feature, in their order; computed in batches of similar length.

        generator: makes sampling reproducible.
        """
        model.eval()
        found: dict[int, SummaryPrediction] = {}
        batches = sorted_batches([feature.length for feature in features], batch_size)
        with model.prepacked_for_generation(batch_size * generation.rows_per_source):
            for indices in progress_bar(batches, "generate", len(batches)):
                unlabelled = [replace(features[i], labels=None) for i in indices]
                batch = self.collate(unlabelled).to(model.device)
                rows = model.generate(
                    batch.input_ids, batch.attention_mask, generator=generator, **vars(generation)
                ).tolist()
                for i, row in zip(indices, rows, strict=True):
                    found[i] = self._prediction(row[1:])  # without the decoder start token
        return [found[i] for i in range(len(features))]

    def _prediction(self, ids: list[int]) -> SummaryPrediction:
        eos = self.tokenizer.eos_token_id
        ended = eos in ids
        before_end = ids[: ids.index(eos)] if ended else ids
        text = decode_lines(self.tokenizer, before_end, self.newline_token)
        return SummaryPrediction(text, at_limit=not ended)

    def score(self, predictions: Predictions, records: Records) -> dict[str, Any]:
        """ROUGE, mean number of words, share of summaries at the length limit, lead baseline.

        lead_*: ROUGE of the documents' first sentences, which summaries should exceed.
        """
        references = [list(record.summaries) for record in records]
        texts = [prediction.text for prediction in predictions]
        lead = lead_scores(records)
        return {
            **metrics.rouge(texts, references),
            "words": sum(len(text.split()) for text in texts) / len(texts),
            "at_limit": sum(p.at_limit for p in predictions) / len(predictions),
            **{f"lead_{name}": value for name, value in lead.items()},
        }

    def baseline_score(self, train: Records, dev: Records) -> float | None:
        if 2 * sum(map(is_unread, dev)) > len(dev):  # ROUGE is near 0 whatever is predicted
            return None
        return lead_scores(dev)["rougeL"]


def targets_of(record: SummaryRecord, options: SummarizationOptions) -> tuple[str, ...]:
    """The summaries of a document that serve as targets in training."""
    return record.summaries if options.targets == "all" else record.summaries[:1]


def all_targets(records: Records, options: SummarizationOptions) -> list[str]:
    """The summaries of all documents that serve as targets in training."""
    return [text for record in records for text in targets_of(record, options)]


def _documents(texts: Iterable[str]) -> Iterable[SummaryRecord]:
    for i, text in enumerate(texts):
        yield SummaryRecord(str(i), text.rstrip("\r\n"), (), f"input {i + 1}")
