"""Extractive question answering, the whole story: the answer is cut out of a context, or there is
none.

    "Where is Normandy?"   context "... Normandy, a region in France. ..."     the record
    [CLS] where is normandy ? [SEP] ... a region in france . ... [SEP]         a feature, and where
      0                                           17                           the answer stands
    (B, T) ids, mask, types; (B, 2) first and last token                       a batch
    start logits, end logits (B, T)  ->  mean of two cross-entropies           the loss
    best spans of all windows, and the score of no answer                      the prediction
    exact match, F1 of words                                                   the score

A context longer than the model becomes windows that overlap, each beside the whole question:

    [CLS] question [SEP] c0 c1 c2 c3 c4 c5 [SEP]         answers may begin at c0 ... c4
    [CLS] question [SEP] c4 c5 c6 c7 c8 c9 [SEP]                              c5 ... c9

An answer may begin only where its window sees more around it than any other window does
(text/windows.py), so no span is found twice.  A window that does not hold the whole answer is
taught to say "not here", which is the same as "no answer": both begin and end at [CLS].

What "no answer" scores for a question is the least of what its windows give [CLS], since each must
say so; the margin is that less the best span's score, and "no answer" wins where the margin is
above a threshold.  The threshold that gives the best F1 on dev is kept with the model.

Devlin et al. 2019, section 4.3, describe the margin and its threshold.

Dimensions: B batch, T width of the batch, H hidden, C tokens of the context in a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minift.data.read import read_lines
from minift.data.squad import QuestionRecord, check_ids, read_squad, unanswered
from minift.errors import InputError
from minift.models.base import PretrainedModel
from minift.tasks.answers import (
    AnswerPrediction,
    Candidate,
    answer_lines,
    answer_row,
    decide,
    explain_answers,
    official_formats,
    score_answers,
)
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
    run_batches,
    save_task,
    token_batch,
)
from minift.text.spans import best_spans, span_characters, token_span
from minift.text.tokenizer import Encoding, Tokenizer
from minift.text.windows import own_ranges, windows

NULL = 0  # the token that stands for "no answer": [CLS]


@dataclass(frozen=True)
class QaOptions(TaskOptions):
    """What is particular to question answering."""

    usual_rate: ClassVar[float] = 2e-4  # spans are far from what the default encoder knows

    overlap: int | None = option(
        None, "Tokens that neighbouring windows of a long context share; a third if not given."
    )
    other_windows: Literal["null", "drop"] = option(
        "null",
        "Training windows without the answer that the question has: null teaches them to say "
        "'not here', drop leaves them out.",
    )
    max_answer_length: int = option(30, "Most tokens in an answer that is predicted.")
    n_best: int = option(20, "Answers kept of each question, the best first.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "overlap", 0)
        check_range(self, "max_answer_length", 1, 10_000)
        check_range(self, "n_best", 1, 1000)


@dataclass(frozen=True)
class WindowFeature(TokenFeature):
    """A question and a window of its context.

    context: the whole text.  offsets: (C, 2) characters in it of each token in the window.
    shift: where the first of these tokens stands in `ids`.
    begin: (from, to) the tokens of the window, counted from 0, at which an answer may begin.
    answer: first and last token of the answer, places in `ids`; None in prediction.
    """

    context: str
    offsets: np.ndarray
    shift: int
    begin: tuple[int, int]
    answer: tuple[int, int] | None = None


@dataclass(frozen=True)
class QaTask(Task):
    """See the module's docstring; the methods stand in the order of the story.

    no_answer: some questions of the training data have none, so the model may say so.
    threshold: of the margin; None as long as dev has not decided it, which counts as 0.
    """

    options: QaOptions
    tokenizer: Tokenizer
    max_length: int
    no_answer: bool
    threshold: float | None = None

    name = "qa"
    metric = "f1"
    trivial_answer = "no answer"

    @classmethod
    def start(
        cls, options: QaOptions
    ) -> tuple[QaTask, PretrainedModel, dict[str, list[QuestionRecord]]]:
        splits = cls.read_splits(options)
        if not any(record.answers for record in splits["train"]):
            raise InputError(
                f"{options.training_data}: no question has an answer; give some that have"
            )
        model, tokenizer, max_length = load_start(options, cls.name, labels=2)
        no_answer = any(not record.answers for record in splits["train"])
        return cls(options, tokenizer, max_length, no_answer), model, splits

    @staticmethod
    def read_splits(options: QaOptions) -> dict[str, list[QuestionRecord]]:
        """Split name -> questions, from the files given or else from the built-in passages."""
        splits = {}
        for name, paths in options.files("qa.{}.json").items():
            splits[name] = [record for path in paths for record in read_squad(path)]
            check_ids(splits[name])
        return splits

    @classmethod
    def from_pretrained(cls, folder: Path) -> tuple[QaTask, PretrainedModel]:
        model, tokenizer, saved = load_task(folder, cls.name)
        names = ("overlap", "max_answer_length", "n_best")
        options = QaOptions(**{name: saved[name] for name in names if name in saved})
        limit = saved.get("max_length", model.config.max_position_embeddings)
        no_answer, threshold = saved.get("no_answer", True), saved.get("null_threshold")
        return cls(options, tokenizer, limit, no_answer, threshold), model

    def read_inputs(
        self, inputs: Iterable[str] | Path, questions: Sequence[str] = ()
    ) -> Iterable[QuestionRecord]:
        """A SQuAD file; or questions, to be asked of a whole text file or of each line given; or
        lines that hold question<TAB>context."""
        if isinstance(inputs, Path):
            if not questions:
                return read_squad(inputs, require_answers=False)
            inputs = ["\n".join(line for _, line in read_lines(inputs))]
        if questions:
            return unanswered((q, text.rstrip("\r\n")) for text in inputs for q in questions)
        return unanswered(map(_question_and_context, inputs))

    def describe(self, records: Sequence[QuestionRecord], features: Sequence[WindowFeature]) -> str:
        first, feature = records[0], features[0]
        pieces = self.tokenizer.convert_ids_to_tokens(feature.ids)
        counts = np.bincount([f.record for f in features], minlength=len(records))
        held = {f.record for f in features if f.answer not in (None, (NULL, NULL))}
        answerable = [i for i, record in enumerate(records) if record.answers]
        lost = len(set(answerable) - held)
        null = sum(f.answer == (NULL, NULL) for f in features)
        long = int((counts > 1).sum())
        place = "no answer"
        if feature.answer not in (None, (NULL, NULL)):
            shown = " ".join(pieces[feature.answer[0] : feature.answer[1] + 1])
            place = f"tokens {feature.answer[0]} to {feature.answer[1]}: {shown}"
        lines = [
            f"first record ({first.where})",
            f"  question  {first.question}",
            f"  context   {' '.join(first.context.split()):.200}",
            f"  answers   {' | '.join(dict.fromkeys(a.text for a in first.answers or ())) or '-'}",
            f"  tokens    {' '.join(pieces):.400}",
            f"  label     {place}",
            f"questions   {len(records)}, of which {len(records) - len(answerable)} have no answer",
            f"answers     {sum(r.moved for r in records)} were not where the file says and were "
            f"found nearby; those of {lost} questions are in no window whole",
            f"windows     {len(features)} of at most {self.max_length} tokens; {null} say 'no "
            f"answer' (--other-windows {self.options.other_windows})",
            f"length      {long} questions have several windows, nothing is cut",
        ]
        return "\n".join(lines)

    def asked(self, record: QuestionRecord) -> tuple[str, str]:
        return record.question, record.context

    def featurize(
        self, records: Sequence[QuestionRecord], training: bool = False
    ) -> list[WindowFeature]:
        """[CLS] question [SEP] window [SEP], one feature for each window of each context.

        In training, a window that does not hold the whole answer is labelled [CLS] or, with
        `other_windows` "drop" and where the question has an answer, left out.
        """
        questions = self.tokenizer.ids([record.question for record in records])
        contexts = {record.context: None for record in records}
        encodings = dict(zip(contexts, self.tokenizer.tokens(list(contexts)), strict=True))
        offsets = {c: np.array(e.offsets).reshape(-1, 2) for c, e in encodings.items()}
        special = self.tokenizer.build([], [-1])[0].index(-1)  # tokens before the context
        features = []
        for i, (record, question) in enumerate(zip(records, questions, strict=True)):
            encoding, characters = encodings[record.context], offsets[record.context]
            parts = self._windows(record, question, encoding)
            answer = self._answer(record, characters) if training else None
            shift = special + len(question)
            for (start, end), own in zip(parts, own_ranges(parts), strict=True):
                ids, types = self.tokenizer.build(question, encoding.ids[start:end])
                label = None
                if training:
                    label = (NULL, NULL)
                    if answer is not None and start <= answer[0] and answer[1] < end:
                        label = (answer[0] - start + shift, answer[1] - start + shift)
                    elif record.answers and self.options.other_windows == "drop":
                        continue
                begin = (own[0] - start, own[1] - start)
                part = characters[start:end]
                features.append(
                    WindowFeature(i, ids, types, record.context, part, shift, begin, label)
                )
        return features

    def _windows(
        self, record: QuestionRecord, question: list[int], encoding: Encoding
    ) -> list[tuple[int, int]]:
        """The windows of a context beside its question; `InputError` if they cannot be."""
        room = self.max_length - self.tokenizer.num_special(pair=True) - len(question)
        overlap = max(room, 0) // 3 if self.options.overlap is None else self.options.overlap
        if room < 1:
            raise InputError(
                f"{record.where}: the question has {len(question)} tokens, which leaves no room "
                f"for its context in a window of {self.max_length}; shorten it, or give a larger "
                "--max-length"
            )
        if overlap >= room and len(encoding) > room:
            raise InputError(
                f"{record.where}: the question has {len(question)} tokens and leaves room for "
                f"{room} of the context in a window of {self.max_length}, so --overlap {overlap} "
                f"is impossible; give one from 0 to {room - 1}, or a larger --max-length"
            )
        return windows(len(encoding), room, min(overlap, room - 1))

    def _answer(self, record: QuestionRecord, offsets: np.ndarray) -> tuple[int, int] | None:
        """The tokens of the answer that most annotators gave, the first of equals."""
        if not record.answers:
            return None
        answer = max(record.answers, key=record.answers.count)
        text = answer.text
        start = answer.start + len(text) - len(text.lstrip())
        return token_span(offsets, start, answer.start + len(text.rstrip()))

    def freeze(
        self, model: Any, features: Sequence[WindowFeature], batch_size: int
    ) -> list[WindowFeature]:
        return freeze_features(self, model, features, batch_size)

    def collate(self, features: Sequence[WindowFeature]) -> TokenBatch:
        labelled = features[0].answer is not None
        labels = torch.tensor([feature.answer for feature in features]) if labelled else None
        return token_batch(features, self.tokenizer.pad_token_id, labels=labels)

    def loss(self, model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Sum over the windows of the mean of both cross-entropies, and the number of windows.

        The choice is among the real tokens of a window; padding takes no part, nor does it get a
        share of smoothed labels.
        """
        if batch.vectors is not None:
            logits = model.qa_outputs(batch.vectors).unbind(-1)  # (B, T) each
        else:
            logits = model(batch.ids, batch.mask, batch.types)  # (B, T) each
        padding = batch.mask == 0  # (B, T)
        smoothing = self.options.label_smoothing
        total = logits[0].new_zeros((), dtype=torch.float32)
        for side, places in zip(logits, batch.labels.unbind(-1), strict=True):
            log_p = side.float().masked_fill(padding, -math.inf).log_softmax(-1)  # (B, T)
            total = total + (1 - smoothing) / 2 * F.nll_loss(log_p, places, reduction="sum")
            if smoothing:
                mean = log_p.masked_fill(padding, 0.0).sum(-1) / batch.mask.sum(-1)  # (B,)
                total = total - smoothing / 2 * mean.sum()
        return total, total.new_tensor(float(len(batch.labels)))

    def predict(
        self, model: Any, features: Sequence[WindowFeature], batch_size: int
    ) -> list[AnswerPrediction]:
        def both(*batch: Tensor) -> Tensor:
            return torch.stack(model(*batch), -1)  # (B, T, 2)

        return self.decode(
            features, run_batches(self, model, both, features, batch_size, "predict")
        )

    def decode(
        self, features: Sequence[WindowFeature], outputs: Sequence[Tensor]
    ) -> list[AnswerPrediction]:
        """Start and end logits of the windows, (T, 2) each -> a prediction for each question."""
        found: dict[int, list[Candidate]] = {}
        nulls: dict[int, float] = {}
        for feature, logits in zip(features, outputs, strict=True):
            starts, ends = logits.double().numpy().T  # (T,) each
            candidates = found.setdefault(feature.record, [])
            inner = slice(feature.shift, feature.shift + len(feature.offsets))
            options = self.options
            for score, first, last in best_spans(
                starts[inner], ends[inner], feature.begin, options.max_answer_length, options.n_best
            ):
                start, end = span_characters(feature.context, feature.offsets, first, last)
                text = feature.context[start:end]
                candidates.append(Candidate(text, start, end, score))
            null = float(starts[NULL] + ends[NULL])
            nulls[feature.record] = min(null, nulls.get(feature.record, math.inf))
        return [
            decide(found[i], nulls[i], self.no_answer, self.options.n_best).at(self.threshold)
            for i in sorted(found)
        ]

    def score(
        self, predictions: Sequence[AnswerPrediction], records: Sequence[QuestionRecord]
    ) -> dict[str, Any]:
        return score_answers(predictions, records, self.threshold)

    def tuned(self, score: dict[str, Any]) -> QaTask:
        return replace(self, threshold=score.get("null_threshold"))

    def trivial_score(
        self, train: Sequence[QuestionRecord], dev: Sequence[QuestionRecord]
    ) -> float:
        return 100 * sum(not record.answers for record in dev) / len(dev)

    def explain(
        self,
        predictions: Sequence[AnswerPrediction],
        records: Sequence[QuestionRecord],
        score: dict[str, Any],
    ) -> str:
        return explain_answers(predictions, records, score)

    def rows(
        self, predictions: Sequence[AnswerPrediction], records: Sequence[QuestionRecord]
    ) -> list[dict]:
        decided = [prediction.at(self.threshold) for prediction in predictions]
        return [answer_row(p, record) for p, record in zip(decided, records, strict=True)]

    def exports(
        self, predictions: Sequence[AnswerPrediction], records: Sequence[QuestionRecord]
    ) -> dict[str, Any]:
        decided = [prediction.at(self.threshold) for prediction in predictions]
        return official_formats(decided, records)

    def lines(
        self,
        predictions: Sequence[AnswerPrediction],
        records: Sequence[QuestionRecord],
        colour: bool = False,
    ) -> list[str]:
        return [answer_lines(row, colour) for row in self.rows(predictions, records)]

    def save(self, model: PretrainedModel, folder: Path) -> None:
        """Model, tokenizer, and in config.json how windows and "no answer" are treated."""
        settings = {
            "max_length": self.max_length,
            "overlap": self.options.overlap,
            "max_answer_length": self.options.max_answer_length,
            "n_best": self.options.n_best,
            "no_answer": self.no_answer,
            "null_threshold": self.threshold,
        }
        save_task(model, self.tokenizer, folder, **settings)


def _question_and_context(line: str) -> tuple[str, str]:
    question, tab, context = line.rstrip("\r\n").partition("\t")
    if not tab:
        raise InputError(
            f"the input {line.strip()[:60]!r} is not question<TAB>context; write it so, or give "
            "the question with --question"
        )
    return question, context
