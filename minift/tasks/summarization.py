"""Abstractive summarization, the whole story: a document goes in, a short text in other words out.

    document "Freezing rain coated ..."  summary "An ice storm cut power."        the record
    summarize: freezing rain ... </s>   ->   an ice storm cut power . </s>        a feature
    (B, T) ids, mask; (B, U) labels                                               a batch
    labels moved right -> decoder -> logits (B, U, V) -> cross-entropy            the loss
    generate                                                                      the prediction
    ROUGE against the true summary, or the best of several                        the score

In training the decoder reads the true summary, one token behind (teacher forcing):

    reads      <pad>  an   ice    storm  cut  ...
    predicts   an     ice  storm  cut    power ...

Long documents lose their end, long summaries too, and the counts are printed.  How long a generated
summary may be is taken from the training summaries, printed, and when many summaries reach that
length, said.

Dimensions: B batch, T width of the documents, U width of the summaries, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from minift import metrics
from minift.data.batching import pad, progress, sorted_batches
from minift.data.read import SummaryRecord, numbered, read_lines, read_summaries
from minift.errors import InputError, visible
from minift.generation.config import Generation
from minift.models.base import PretrainedModel
from minift.models.t5 import IGNORE
from minift.tasks.base import (
    Task,
    TaskOptions,
    TokenBatch,
    TokenFeature,
    check_range,
    load_start,
    load_task,
    option,
    refuse_questions,
    save_task,
    token_batch,
)
from minift.tasks.data_checks import all_cut
from minift.text.tokenizer import Tokenizer

# Options that suit the default model.  Few documents soon make a small model forget what it can,
# which is to copy; so its lower half stays as it is, and the weights that are saved are averages.
# T5 was made with Adafactor, whose rate is in proportion to what it changes.
USUAL = {
    "optimizer": "adafactor",
    "learning_rate": 5e-3,
    "epochs": 3,
    "batch_size": 8,
    "freeze_below": 3,
    "average_last": 0.5,
    "num_beams": 4,
    "no_repeat_ngram_size": 3,
}
MANY = 0.05  # share of summaries as long as allowed, above which people are told


@dataclass(frozen=True)
class SummarizationOptions(TaskOptions):
    """What is particular to summaries."""

    usual_rate: ClassVar[float] = 3e-4  # T5 bears, and wants, more than BERT

    model: str = option("minift-t5-mini", "Folder, name under weights/ or hub id to start from.")
    prefix: str = option("summarize: ", "What is written before each document.")
    targets: Literal["first", "all"] = option(
        "first", "Which summaries of a document are learned, where it has several."
    )
    max_target_length: int | None = option(
        None, "Longest summary in tokens; the longest of the training data if not given."
    )
    num_beams: int = option(1, "Beams in generation; 1: the best token at each step.")
    length_penalty: float = option(1.0, "With beams: above 1 for longer summaries, below shorter.")
    no_repeat_ngram_size: int = option(0, "Tokens in a row that a summary never repeats; 0: any.")
    beam_stopping: Literal["true", "false", "never"] = option(
        "false", "With beams: when a search is over, see generation/search.py."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "max_target_length", 2)
        self.generation(1)

    def generation(self, longest: int) -> Generation:
        early = {"true": True, "false": False}.get(self.beam_stopping, self.beam_stopping)
        try:
            return Generation(
                max_new_tokens=longest,
                num_beams=self.num_beams,
                length_penalty=self.length_penalty,
                no_repeat_ngram_size=self.no_repeat_ngram_size,
                early_stopping=early,
            )
        except ValueError as error:
            name, rest = str(error).split(" ", 1)
            raise ValueError(f"--{name.replace('_', '-')} {rest}") from None


@dataclass(frozen=True)
class SummaryFeature(TokenFeature):
    """A document as the model reads it.

    labels: tokens of the summary, its end included; None in prediction.
    cut, target_cut: the document, or the summary, did not fit whole.
    """

    labels: list[int] | None
    cut: bool
    target_cut: bool


@dataclass(frozen=True)
class SummaryPrediction:
    """The generated text, and whether it is as long as was allowed."""

    text: str
    at_limit: bool


@dataclass(frozen=True)
class SummarizationTask(Task):
    """See the module's docstring; the methods stand in the order of the story."""

    options: SummarizationOptions
    tokenizer: Tokenizer
    max_length: int
    max_target_length: int

    name = "summarization"
    metric = "rougeL"
    trivial_answer = "the first sentence"

    @classmethod
    def start(
        cls, options: SummarizationOptions
    ) -> tuple[SummarizationTask, PretrainedModel, dict[str, list[SummaryRecord]]]:
        splits = cls.read_splits(options)
        model, tokenizer, max_length = load_start(options, cls.name, labels=None)
        longest = options.max_target_length
        if longest is None:
            learned = [text for record in splits["train"] for text in learnt(record, options)]
            longest = 1 + max(map(len, tokenizer.ids(learned)))
        return cls(options, tokenizer, max_length, longest), model, splits

    @staticmethod
    def read_splits(options: SummarizationOptions) -> dict[str, list[SummaryRecord]]:
        """Split name -> documents, from the files given or else the built-in reports."""
        return {
            name: numbered(record for path in paths for record in read_summaries(path))
            for name, paths in options.files("reports.{}.jsonl").items()
        }

    @classmethod
    def from_pretrained(cls, folder: Path) -> tuple[SummarizationTask, PretrainedModel]:
        model, tokenizer, saved = load_task(folder, cls.name)
        names = ("prefix", "num_beams", "length_penalty", "no_repeat_ngram_size", "beam_stopping")
        options = SummarizationOptions(**{name: saved[name] for name in names if name in saved})
        longest = saved.get("max_target_length")
        if longest is None:
            raise InputError(
                f"{folder}: config.json does not say how long its summaries may be "
                '("minift": {"max_target_length": ...}); add it, or train the model with minift'
            )
        limit = saved.get("max_length", model.config.max_position_embeddings)
        return cls(options, tokenizer, limit, longest), model

    def read_inputs(
        self, inputs: Iterable[str] | Path, questions: Sequence[str] = ()
    ) -> Iterable[SummaryRecord]:
        """A file as those of the training data, or a whole text file; else a document each."""
        refuse_questions(questions, self.name)
        if isinstance(inputs, Path):
            if not inputs.name.lower().removesuffix(".gz").endswith(".txt"):
                return read_summaries(inputs, require_summary=False)
            inputs = ["\n".join(line for _, line in read_lines(inputs))]
        return _documents(inputs)

    def describe(self, records: Sequence[SummaryRecord], features: Sequence[SummaryFeature]) -> str:
        first, feature = records[0], features[0]
        pieces = self.tokenizer.convert_ids_to_tokens(feature.ids)
        wanted = [token for token in feature.labels or () if token != IGNORE]
        cut = len({feature.record for feature in features if feature.cut})
        target_cut = sum(feature.target_cut for feature in features)
        lines = [
            f"first record ({first.where})",
            f"  document  {' '.join(first.document.split()):.200}",
            f"  summary   {' '.join(first.summaries[0].split()):.200}",
            f"  tokens    {' '.join(pieces):.200}",
            f"  labels    {' '.join(self.tokenizer.convert_ids_to_tokens(wanted)):.200}",
            f"documents   {cut} of {len(records)} have more than {self.max_length} tokens and lose "
            "their end",
            f"summaries   {target_cut} have more than {self.max_target_length} tokens and lose "
            f"their end; generated ones have at most {self.max_target_length}",
        ]
        return "\n".join(lines)

    def asked(self, record: SummaryRecord) -> str:
        return record.document

    def doubts(
        self,
        splits: Mapping[str, Sequence[SummaryRecord]],
        features: Mapping[str, Sequence[SummaryFeature]],
    ) -> list[str]:
        return [*super().doubts(splits, features), *all_cut(features["train"], self.max_length)]

    def featurize(
        self, records: Sequence[SummaryRecord], training: bool = False
    ) -> list[SummaryFeature]:
        """Prefix, document, </s>, cut to `max_length`; in training once for each target."""
        texts = [self.options.prefix + record.document for record in records]
        sources = self.tokenizer.ids(texts)
        room = self.max_length - self.tokenizer.num_special(pair=False)
        eos = self.tokenizer.eos_token_id
        features = []
        for i, (record, source) in enumerate(zip(records, sources, strict=True)):
            ids, types = self.tokenizer.build(source[:room])
            cut = len(source) > room
            if not training:
                features.append(SummaryFeature(i, ids, types, None, cut, False))
                continue
            for target in self.tokenizer.ids(learnt(record, self.options)):
                labels = [*target[: self.max_target_length - 1], eos]
                target_cut = len(target) >= self.max_target_length
                features.append(SummaryFeature(i, ids, types, labels, cut, target_cut))
        return features

    def freeze(
        self, model: Any, features: Sequence[SummaryFeature], batch_size: int
    ) -> list[SummaryFeature]:
        raise InputError(
            "--freeze-encoder: a decoder reads the encoder at every step, so there is no head to "
            "train alone; leave it out"
        )

    def collate(self, features: Sequence[SummaryFeature]) -> TokenBatch:
        labelled = features[0].labels is not None
        labels = pad([feature.labels for feature in features], IGNORE) if labelled else None
        return token_batch(features, self.tokenizer.pad_token_id, labels=labels)

    def loss(self, model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the summaries' tokens, and their number."""
        return model.target_loss(batch.ids, batch.mask, batch.labels, self.options.label_smoothing)

    def predict(
        self, model: Any, features: Sequence[SummaryFeature], batch_size: int
    ) -> list[SummaryPrediction]:
        generation = self.options.generation(self.max_target_length)
        return self.generate(model, features, batch_size, generation)

    def generate(
        self,
        model: Any,
        features: Sequence[SummaryFeature],
        batch_size: int,
        generation: Generation,
        generator: torch.Generator | None = None,
    ) -> list[SummaryPrediction]:
        """Generated in batches of similar length, given back in the records' order."""
        model.eval()
        found: dict[int, SummaryPrediction] = {}
        batches = sorted_batches([feature.length for feature in features], batch_size)
        with model.ready_for(batch_size * generation.width):
            for indices in progress(batches, "generate", len(batches)):
                bare = [replace(features[i], labels=None) for i in indices]
                batch = self.collate(bare).to(model.device)
                rows = model.generate(
                    batch.ids, batch.mask, generator=generator, **vars(generation)
                ).tolist()
                for i, row in zip(indices, rows, strict=True):
                    found[i] = self._prediction(row[1:])
        return [found[i] for i in range(len(features))]

    def _prediction(self, ids: list[int]) -> SummaryPrediction:
        eos = self.tokenizer.eos_token_id
        ended = eos in ids
        own = ids[: ids.index(eos)] if ended else ids
        text = self.tokenizer.decode(own).strip()
        return SummaryPrediction(text, at_limit=not ended)

    def score(
        self, predictions: Sequence[SummaryPrediction], records: Sequence[SummaryRecord]
    ) -> dict[str, Any]:
        """ROUGE, the mean number of words, the share of summaries that were cut by the limit, and
        ROUGE of the documents' first sentences, which a summary should beat."""
        truth = [list(record.summaries) for record in records]
        texts = [prediction.text for prediction in predictions]
        lead = lead_scores(records)
        return {
            **metrics.rouge(texts, truth),
            "words": sum(len(text.split()) for text in texts) / len(texts),
            "at_limit": sum(p.at_limit for p in predictions) / len(predictions),
            **{f"lead_{name}": value for name, value in lead.items()},
        }

    def trivial_score(self, train: Sequence[SummaryRecord], dev: Sequence[SummaryRecord]) -> float:
        return lead_scores(dev)["rougeL"]

    def explain(
        self,
        predictions: Sequence[SummaryPrediction],
        records: Sequence[SummaryRecord],
        score: dict[str, Any],
    ) -> str:
        """Beside the lead baseline, and the first summaries."""
        lines = [
            f"{'':14}  rouge1  rouge2  rougeL  rougeLsum",
            *(
                f"{title:14}  "
                + "  ".join(f"{score[p + n]:6.4f}" for n in ("rouge1", "rouge2", "rougeL"))
                + f"  {score[p + 'rougeLsum']:9.4f}"
                for title, p in (("summaries", ""), ("first sentence", "lead_"))
            ),
        ]
        if score["at_limit"] > MANY:
            lines.append(
                f"warning: {score['at_limit']:.0%} of the summaries reach {self.max_target_length} "
                "tokens and stop there; --max-target-length allows more"
            )
        for prediction, record in list(zip(predictions, records, strict=True))[:3]:
            lines += [
                f"  document   {' '.join(record.document.split()):.160}",
                f"    true       {' '.join(record.summaries[0].split()):.160}",
                f"    predicted  {' '.join(prediction.text.split()):.160}",
            ]
        return "\n".join(lines)

    def rows(
        self, predictions: Sequence[SummaryPrediction], records: Sequence[SummaryRecord]
    ) -> list[dict]:
        rows = []
        for prediction, record in zip(predictions, records, strict=True):
            score = None
            if record.summaries:
                score = metrics.rouge([prediction.text], [list(record.summaries)])["rougeL"]
            rows.append(
                {
                    "id": record.id,
                    "document": record.document,
                    "gold": list(record.summaries) or None,
                    "predicted": prediction.text,
                    "score": score,
                }
            )
        return rows

    def lines(
        self,
        predictions: Sequence[SummaryPrediction],
        records: Sequence[SummaryRecord],
        colour: bool = False,
    ) -> list[str]:
        return [visible(" ".join(prediction.text.split())) for prediction in predictions]

    def save(self, model: PretrainedModel, folder: Path) -> None:
        """Model, tokenizer, and in config.json how summaries are generated."""
        settings = {
            "prefix": self.options.prefix,
            "max_length": self.max_length,
            "max_target_length": self.max_target_length,
            "num_beams": self.options.num_beams,
            "length_penalty": self.options.length_penalty,
            "no_repeat_ngram_size": self.options.no_repeat_ngram_size,
            "beam_stopping": self.options.beam_stopping,
        }
        save_task(model, self.tokenizer, folder, **settings)


def learnt(record: SummaryRecord, options: SummarizationOptions) -> tuple[str, ...]:
    """Those of a document's summaries that the model is to give."""
    return record.summaries if options.targets == "all" else record.summaries[:1]


def lead_scores(records: Sequence[SummaryRecord]) -> dict[str, float]:
    """ROUGE of the documents' first sentences."""
    truth = [list(record.summaries) for record in records]
    return metrics.rouge([first_sentence(record.document) for record in records], truth)


def first_sentence(text: str) -> str:
    """The lead baseline: what stands before the first full stop.

    >>> first_sentence("Rain fell. It was cold.")
    'Rain fell.'
    """
    words = []
    for word in text.split():
        words.append(word)
        if word.rstrip("\"'”’)").endswith((".", "!", "?")):
            break
    return " ".join(words)


def _documents(texts: Iterable[str]) -> Iterable[SummaryRecord]:
    for i, text in enumerate(texts):
        if not text.strip():
            raise InputError(f"input {i + 1}: the document is empty; give some text")
        yield SummaryRecord(str(i), text.rstrip("\r\n"), (), f"input {i + 1}")
