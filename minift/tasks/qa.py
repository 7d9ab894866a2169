"""Extractive question answering, from record to score: the answer is a span of a context or none.

    "Where is Normandy?"   context "... Normandy, a region in France. ..."     a record
    [CLS] where is normandy ? [SEP] ... a region in france . ... [SEP]         a feature; the answer
      0                                           17                             is token 17
    input_ids, attention_mask, token_type_ids (B, T);   labels (B, 2)          a batch
    start logits, end logits (B, T)  ->  mean of two cross-entropies           the loss
    best spans of all windows, and the score of "no answer"                    a prediction
    exact match, F1 of words                                                   the score

A context longer than the model is split into overlapping windows, each after the whole question:

    [CLS] question [SEP] c0 c1 c2 c3 c4 c5 [SEP]         spans from c0 ... c4
    [CLS] question [SEP] c4 c5 c6 c7 c8 c9 [SEP]                    c5 ... c9, and c4-c6, c4-c7, ...

A span is read in one window only: the one in which its first token has the most context
(text/windows.py), or the next that holds it whole.  So no span is found twice, and each that some
window holds whole is found.  In training, a window without the whole answer is labelled like a
question without an answer: start and end are at [CLS].

A window scores "no answer" by the sum of the two logits of [CLS].  The null score of a question is
the lowest of its windows, because "no answer" must hold in all of them.  The margin is the null
score less the score of the best span.  "No answer" is predicted if the margin is above the null
threshold, which is tuned for the best F1 on dev and saved with the model.

Reference: Devlin et al. 2019, "BERT", sections 4.2 and 4.3 (the null threshold).

Dimensions: B batch, T tokens of the longest text in the batch, C tokens of the context in a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minift.data.lines import read_document, read_lines
from minift.data.rows import begins_json
from minift.data.squad import QuestionRecord, check_ids, squad_records, unanswered, with_own_ids
from minift.data.streams import check_length
from minift.errors import UserError, location
from minift.models.heads import EncoderForQuestionAnswering
from minift.options import check_range, option
from minift.tasks.answers import (
    NULL,
    AnswerDisplay,
    AnswerPrediction,
    Candidate,
    decide,
    score_answers,
)
from minift.tasks.base import Metric, Task, TrainDefaults
from minift.tasks.batches import TokenBatch, TokenFeature, head_logits, run_batches, token_batch
from minift.tasks.options import TaskOptions
from minift.tasks.qa_checks import long_answers, moved_answers, unlike_kinds
from minift.text.spans import best_spans, span_characters, token_span
from minift.text.tokenizer import Encoding
from minift.text.windows import window_cores, windows


@dataclass(frozen=True)
class QaOptions(TaskOptions):
    """Question answering."""

    # Higher than for classification: a sentence encoder was not trained to find spans.
    default_learning_rate: ClassVar[float] = 2e-4

    doc_stride: int | None = option(
        None, "Overlap of neighbouring windows of a long context in tokens; default: a third."
    )
    negative_windows: Literal["null", "drop"] = option(
        "null",
        "Training windows without the answer.  null: label them as without an answer; drop: omit "
        "them.",
    )
    max_answer_length: int = option(30, "Maximum number of tokens of a predicted answer.")
    n_best_size: int = option(20, "Spans to keep for each question, best first.")
    skip_bad_records: bool = option(
        False, "Skip questions that cannot be used, and print their number; else they are an error."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "doc_stride", 0)
        check_range(self, "max_answer_length", 1, 10_000)
        check_range(self, "n_best_size", 1, 1000)


@dataclass(frozen=True)
class WindowFeature(TokenFeature):
    """A question and a window of its context.

    context: the whole text.
    offsets: (C, 2) start and end in it, in characters, of each context token of the window.
    shift: position in `input_ids` of the first context token.
    core: (from, to), `to` excluded: the context tokens, from 0, that have the most context here.
    new_from: the first context token, from 0, that the window before lacks.
    answer: positions in `input_ids` of the answer's first and last token; None in prediction.
    """

    context: str
    offsets: np.ndarray
    shift: int
    core: tuple[int, int]
    new_from: int
    answer: tuple[int, int] | None = None


Records: TypeAlias = Sequence[QuestionRecord]
Features: TypeAlias = Sequence[WindowFeature]
Predictions: TypeAlias = Sequence[AnswerPrediction]


@dataclass(frozen=True)
class QaTask(Task):
    """Extractive question answering; see `Task`.

    no_answer: some training questions have no answer, so "no answer" may be predicted.
    null_threshold: None, which counts as 0, until it is tuned on dev.
    """

    name = "qa"
    model_kind = EncoderForQuestionAnswering
    options_class = QaOptions
    display_class = AnswerDisplay
    metrics = (
        Metric("f1"),
        Metric("exact"),
        # With `no_answer` only:
        *(Metric("f1_at_zero"), Metric("exact_at_zero"), Metric("best_f1"), Metric("best_exact")),
    )
    builtin_files, answers_questions = "qa.{}.json", True
    baseline_name = "no answer"
    saved_options = ("doc_stride", "max_answer_length", "n_best_size")
    saved_fields = ("no_answer", "null_threshold")

    options: QaOptions
    no_answer: bool = True
    null_threshold: float | None = None

    @classmethod
    def train_defaults(cls, options: QaOptions) -> TrainDefaults:
        # A new head needs many steps; small batches make them from few questions.
        return TrainDefaults(epochs=2, batch_size=8)

    @classmethod
    def read(
        cls, source: Path | Iterable[str], options: QaOptions, *, require_labels: bool = True
    ) -> Iterable[QuestionRecord]:
        """A SQuAD file; or, for prediction, lines question<TAB>context, of a file or typed in."""
        if isinstance(source, Path):
            if require_labels or begins_json(source):
                skip_bad = options.skip_bad_records
                return squad_records(source, require_answers=require_labels, skip_bad=skip_bad)
            lines = ((location(source, number), line) for number, line in read_lines(source))
        else:
            lines = ((f"input {i + 1}", line) for i, line in enumerate(source))
        return unanswered(_question_and_context(line, where) for where, line in lines)

    @classmethod
    def read_splits(cls, options: QaOptions) -> dict[str, list[QuestionRecord]]:
        """As for all tasks, but questions keep the ids of their files.

        Training files may share ids.  Predictions on dev and test are stored by id, so their ids
        must differ.
        """
        splits = {}
        for name, paths in options.files(cls.builtin_files).items():
            splits[name] = [record for path in paths for record in cls.read(path, options)]
            if name != "train":
                check_ids(splits[name])
        return {**splits, "train": with_own_ids(splits["train"])}

    def inputs_of(
        self, source: Path | Iterable[str], questions: Sequence[str], columns: Mapping[str, Any]
    ) -> Iterable[QuestionRecord]:
        """As for all tasks; or questions, each asked of a whole text file or of each line."""
        if not questions:
            return map(_checked, super().inputs_of(source, questions, columns))
        for question in questions:
            if not question.strip():
                raise UserError(f"--question is {question!r}; write a question")
        if isinstance(source, Path):
            if begins_json(source):
                raise UserError(
                    f"{source}: holds JSON, not a text to ask {questions[0]!r:.60} of; leave "
                    "--question out to predict the questions in the file"
                )
            source = [read_document(source)]
        pairs = ((q, text.rstrip("\r\n")) for text in source for q in questions)
        return map(_checked, unanswered(pairs))

    @classmethod
    def labels_of(cls, options: QaOptions, splits: Mapping[str, Records]) -> int:
        """Two rows, start and end."""
        if not any(record.answers for record in splits["train"]):
            raise UserError(
                f"{options.training_data}: no question has an answer; give questions with answers"
            )
        return 2

    def fit(self, splits: Mapping[str, Records]) -> QaTask:
        # The shortest question has one token.
        room = self.max_length - self.tokenizer.num_special(pair=True) - 1
        if self.options.doc_stride is not None and self.options.doc_stride >= max(room, 1):
            raise UserError(
                f"--doc-stride is {self.options.doc_stride}, but beside a question, a window of "
                f"{self.max_length} tokens (--max-length) has room for at most {room} of the "
                "context; give a smaller one"
            )
        return replace(self, no_answer=any(not record.answers for record in splits["train"]))

    def input_key(self, record: QuestionRecord) -> tuple[str, str]:
        return record.question, record.context

    def data_checks(
        self, splits: Mapping[str, Records], features: Mapping[str, Features]
    ) -> list[str]:
        return [
            *super().data_checks(splits, features),
            *moved_answers(splits),
            *long_answers(splits, self.tokenizer, self.options.max_answer_length),
            *unlike_kinds(splits),
        ]

    def featurize(self, records: Records, training: bool = False) -> list[WindowFeature]:
        """[CLS] question [SEP] window [SEP], one feature for each window of each context.

        In training, a window that does not hold the whole answer is labelled [CLS].  With
        `--negative-windows drop` it is omitted if the question has an answer.
        """
        questions = self.tokenizer.ids([record.question for record in records])
        contexts = {record.context: None for record in records}
        encodings = dict(zip(contexts, self.tokenizer.tokens(list(contexts)), strict=True))
        offsets = {c: np.array(e.offsets).reshape(-1, 2) for c, e in encodings.items()}
        num_special = self.tokenizer.build([], [-1])[0].index(-1)  # before the context
        features = []
        for i, (record, question) in enumerate(zip(records, questions, strict=True)):
            encoding, characters = encodings[record.context], offsets[record.context]
            bounds = self._windows(record, question, encoding)
            answer = self._answer(record, characters) if training else None
            shift = num_special + len(question)
            before = 0  # the end of the window before
            for (start, end), core in zip(bounds, window_cores(bounds), strict=True):
                new_from, before = before - start, end
                ids, type_ids = self.tokenizer.build(question, encoding.ids[start:end])
                label = None
                if training:
                    label = (NULL, NULL)
                    if answer is not None and start <= answer[0] and answer[1] < end:
                        label = (answer[0] - start + shift, answer[1] - start + shift)
                    elif record.answers and self.options.negative_windows == "drop":
                        continue
                own = (core[0] - start, core[1] - start)
                part = characters[start:end]
                window = WindowFeature(
                    i, ids, type_ids, record.context, part, shift, own, new_from, label
                )
                features.append(window)
        return features

    def _windows(
        self, record: QuestionRecord, question: list[int], encoding: Encoding
    ) -> list[tuple[int, int]]:
        """(start, end) of each window of the context; `UserError` if the question is too long.

        question: its token ids.  encoding: of the context.
        """
        max_tokens = self.max_length - self.tokenizer.num_special(pair=True) - len(question)
        doc_stride = self.options.doc_stride
        if doc_stride is None:
            doc_stride = max(max_tokens, 0) // 3
        if max_tokens < 1:
            raise UserError(
                f"{record.where}: the question has {len(question)} tokens, which leaves no room "
                f"for its context in a window of {self.max_length}; shorten it, or train with "
                "longer windows (train_qa.py --max-length)"
            )
        if doc_stride >= max_tokens and len(encoding) > max_tokens:
            raise UserError(
                f"{record.where}: the question has {len(question)} tokens and leaves room for "
                f"{max_tokens} of the context in a window of {self.max_length}, so an overlap of "
                f"{doc_stride} is impossible; shorten the question, or train with an overlap from "
                f"0 to {max_tokens - 1} (train_qa.py --doc-stride) or longer windows "
                "(train_qa.py --max-length)"
            )
        return windows(len(encoding), max_tokens, min(doc_stride, max_tokens - 1))

    def _answer(self, record: QuestionRecord, offsets: np.ndarray) -> tuple[int, int] | None:
        """First and last token of the answer that most annotators gave, the first of equals.

        offsets: (tokens of the context, 2), start and end in characters.
        """
        if not record.answers:
            return None
        answer = max(record.answers, key=record.answers.count)
        text = answer.text
        start = answer.start + len(text) - len(text.lstrip())
        return token_span(offsets, start, answer.start + len(text.rstrip()))

    def collate(self, features: Features) -> TokenBatch:
        labelled = features[0].answer is not None
        labels = torch.tensor([feature.answer for feature in features]) if labelled else None
        return token_batch(features, self.tokenizer.pad_token_id, labels=labels)

    def loss(self, model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Sum over the windows of the mean of both cross-entropies, and the number of windows.

        The softmax is over the real tokens of a window, the question included.  Padding has
        probability 0 and no share of the smoothed labels.
        """
        logits, mask = head_logits(model, batch), batch.attention_mask  # (B, T, 2), (B, T)
        padding = mask == 0  # (B, T)
        smoothing = self.options.label_smoothing
        total = logits.new_zeros((), dtype=torch.float32)
        sides = zip(logits.unbind(-1), batch.labels.unbind(-1), strict=True)
        for side, labels in sides:  # start, then end: (B, T), (B,)
            log_p = side.float().masked_fill(padding, -math.inf).log_softmax(-1)  # (B, T)
            total = total + (1 - smoothing) / 2 * F.nll_loss(log_p, labels, reduction="sum")
            if smoothing:
                mean = log_p.masked_fill(padding, 0.0).sum(-1) / mask.sum(-1)  # (B,)
                total = total - smoothing / 2 * mean.sum()
        return total, total.new_tensor(float(len(batch.labels)))

    def predict(self, model: Any, features: Features, batch_size: int) -> list[AnswerPrediction]:
        outputs = run_batches(self.collate, model, head_logits, features, batch_size, "predict")
        return self.decode(features, outputs)

    def decode(self, features: Features, outputs: Sequence[Tensor]) -> list[AnswerPrediction]:
        """A prediction for each question.  outputs: (T, 2) start and end logits of each window."""
        longest, count = self.options.max_answer_length, self.options.n_best_size
        found: dict[int, list[Candidate]] = {}  # record -> spans of all its windows
        null_scores: dict[int, float] = {}
        for feature, logits in zip(features, outputs, strict=True):
            starts, ends = logits.double().numpy().T  # (T,) each
            candidates = found.setdefault(feature.record, [])
            inner = slice(feature.shift, feature.shift + len(feature.offsets))
            spans = best_spans(
                starts[inner], ends[inner], feature.core, feature.new_from, longest, count
            )
            for score, first, last in spans:
                start, end = span_characters(feature.context, feature.offsets, first, last)
                candidates.append(Candidate(feature.context[start:end], start, end, score))
            null = float(starts[NULL] + ends[NULL])
            null_scores[feature.record] = min(null, null_scores.get(feature.record, math.inf))
        return [
            decide(found[i], null_scores[i], self.no_answer, count).with_threshold(
                self.null_threshold
            )
            for i in sorted(found)
        ]

    def score(self, predictions: Predictions, records: Records) -> dict[str, Any]:
        return score_answers(predictions, records, self.null_threshold)

    def with_tuned(self, score: dict[str, Any]) -> QaTask:
        return replace(self, null_threshold=score.get("null_threshold"))

    def baseline_score(self, train: Records, dev: Records) -> float:
        return 100 * sum(not record.answers for record in dev) / len(dev)


def _checked(record: QuestionRecord) -> QuestionRecord:
    check_length(len(record.question) + len(record.context), record.where)
    return record


def _question_and_context(line: str, where: str) -> tuple[str, str]:
    question, tab, context = line.rstrip("\r\n").partition("\t")
    if not tab and line.strip():
        raise UserError(
            f"{where}: {line.strip()[:60]!r} is not question<TAB>context; write it so, or give "
            "the question with --question, or a file of SQuAD's JSON with --file"
        )
    return question, context
