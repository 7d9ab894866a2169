"""minift beside `transformers`, on the same data, rates and seeds.

    benchmark.py quality TASK FLAGS    train both with every seed: dev scores, mean and spread
    benchmark.py speed TASK FLAGS      training steps of both in turn: the ratio of their speeds
    benchmark.py head TASK FLAGS       a head-only run beside one evaluation pass over its data
    benchmark.py generation FLAGS      generation of both in turn, with a T5 of random weights
    benchmark.py metrics FLAGS         metrics beside rouge-score, seqeval and torchmetrics' SQuAD

TASK is classification, ner, qa or summarization; FLAGS are those of its training script, and
--seeds.  The only script that needs the `parity` extra, since it runs the reference itself.
"""

import importlib.util
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from minift import hub, metrics
from minift.data.batch import training_batches
from minift.data.squad import as_squad
from minift.errors import InputError
from minift.metrics.rouge import stem
from minift.metrics.squad import plain
from minift.models.t5 import IGNORE, T5Config, T5ForConditionalGeneration
from minift.tasks.base import option
from minift.tasks.names import TASKS
from minift.tasks.ner import NerOptions, NerTask
from minift.tasks.qa import QaOptions, QaTask
from minift.tasks.summarization import SummarizationOptions, SummarizationTask, first_sentence
from minift.train.compare import CompareOptions
from minift.train.loop import pick_device, run
from minift.train.optim import (
    keep_rows_apart,
    new_optimizer,
    normalise_gradients,
    parameter_groups,
    set_rate,
)
from minift.train.options import TrainOptions, command_line, run_script
from minift.train.report import markdown_table, mean_and_spread
from minift.train.schedules import SCHEDULES


class Reference(torch.nn.Module):
    """The reference's model behind our calls, so that a task can score what it says."""

    def __init__(self, auto_class, source, **settings):
        super().__init__()
        import transformers  # here, so that --help works without the reference

        transformers.logging.set_verbosity_error()
        self.model = getattr(transformers, auto_class).from_pretrained(source, **settings)
        self.config = self.model.config

    @property
    def device(self):
        return self.model.device

    def forward(self, ids, mask, types):
        outputs = self.model(ids, mask, types)
        if "start_logits" in outputs:
            return outputs.start_logits, outputs.end_logits
        return outputs.logits

    def target_loss(self, ids, mask, labels, label_smoothing=0.0):
        logits = self.model(ids, mask, labels=labels).logits
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=label_smoothing
        )
        return total, (labels != IGNORE).sum().to(total.dtype)

    @torch.inference_mode()
    def generate(self, ids, mask, generator=None, **settings):
        return self.model.generate(ids, attention_mask=mask, **settings)


def classifier(auto_class):
    """A reference with a head that has as many rows as ours."""
    return lambda task, source: Reference(
        auto_class, source, num_labels=len(getattr(task, "labels", ("start", "end")))
    )


def with_decoder(task, source):
    """A reference whose dropout is what the options say."""
    dropout = task.options.dropout
    settings = {} if dropout is None else {"dropout_rate": dropout}
    return Reference("AutoModelForSeq2SeqLM", source, **settings)


# Task -> the reference for it, and the metrics to show.
REFERENCES = {
    "classification": (
        classifier("AutoModelForSequenceClassification"),
        ("accuracy", "matthews_correlation"),
    ),
    "ner": (classifier("AutoModelForTokenClassification"), ("f1",)),
    "qa": (
        classifier("AutoModelForQuestionAnswering"),
        ("f1", "exact", "f1_at_zero", "exact_at_zero", "answerable_f1", "answerable_exact"),
    ),
    "summarization": (with_decoder, ("rougeL", "rouge1", "rouge2", "words")),
}


class Ours:
    """One training step of minift, as in train/loop.py."""

    def __init__(self, task, model, options):
        self.task, self.model, self.options = task, model, options
        self.optimizer = new_optimizer(
            options.optimizer, parameter_groups(model, options.weight_decay)
        )
        keep_rows_apart(model, self.optimizer)

    def step(self, features, rate):
        self.model.train()
        set_rate(self.optimizer, rate)
        loss, count = self.task.loss(self.model, self.task.collate(features).to(self.model.device))
        loss.backward()
        normalise_gradients(self.model, count, self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Theirs:
    """The same step with the reference's model, in an ordinary loop around it.

    fused: torch's fused AdamW, the faster of the two that people use.
    """

    def __init__(self, task, model, options, fused=True):
        self.task, self.model, self.options = task, model, options
        groups = [
            {"params": [], "factor": 1.0, "weight_decay": options.weight_decay},
            {"params": [], "factor": 1.0, "weight_decay": 0.0},
        ]
        for parameter in model.parameters():
            groups[parameter.dim() <= 1]["params"].append(parameter)
        if options.optimizer == "adafactor":
            self.optimizer = torch.optim.Adafactor(groups, lr=0.0)
        else:
            self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=fused)

    def step(self, features, rate):
        self.model.train()
        set_rate(self.optimizer, rate)
        loss, count = self.task.loss(self.model, self.task.collate(features).to(self.model.device))
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def train_theirs(task_class, reference, task_options, options):
    """The reference in an ordinary loop, on our batches: its best dev score of all epochs."""
    torch.manual_seed(options.seed)
    task, _, splits = task_class.start(task_options)
    train, dev = (task.featurize(splits[name], name == "train") for name in ("train", "dev"))
    start = reference(task, hub.resolve(task.options.model)).to(pick_device(options.device))
    theirs = Theirs(task, start, options)
    lengths = [feature.length for feature in train]
    by_length = options.batching == "length"
    epochs = [
        training_batches(lengths, options.batch_size, options.seed, epoch, by_length)
        for epoch in range(options.epochs)
    ]
    total = sum(map(len, epochs))
    step, scores, name = 0, [], options.best_metric or task.metric
    for batches in epochs:
        for indices in batches:
            warmup = round(total * options.warmup_ratio)
            theirs.step(
                [train[i] for i in indices],
                options.learning_rate * SCHEDULES[options.schedule](step, total, warmup),
            )
            step += 1
        predictions = task.predict(theirs.model, dev, options.batch_size)
        scores.append(task.score(predictions, splits["dev"]))
        print(f"reference, seed {options.seed}: {name} {scores[-1][name]:.4f}", flush=True)
    return max(scores, key=lambda s: s[name])


def quality(task_class, reference, columns, task_options, options, seeds):
    rows = {"minift": [], "transformers": []}
    for seed in range(options.seed, options.seed + seeds):
        seeded = replace(options, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            ours = run(task_class, task_options, replace(seeded, output_dir=Path(folder)))
        rows["minift"].append(ours["dev"])
        rows["transformers"].append(train_theirs(task_class, reference, task_options, seeded))
        print({name: [run[columns[0]] for run in runs] for name, runs in rows.items()}, flush=True)
    table = [
        {"library": name, **{c: mean_and_spread([run[c] for run in runs]) for c in columns}}
        for name, runs in rows.items()
    ]
    print("\n" + markdown_table(table))


def speed(task_class, reference, columns, task_options, options, seeds, rounds=15, steps=4):
    """Alternating rounds of a few steps; the same batches for ours and the reference's best."""
    device = pick_device(options.device)
    task, model, splits = task_class.start(task_options)
    features = task.featurize(splits["train"], training=True)
    lengths = [feature.length for feature in features]
    grouped = training_batches(lengths, options.batch_size, options.seed, 0)
    random = training_batches(lengths, options.batch_size, options.seed, 0, by_length=False)
    ours = Ours(task, model.to(device), options)
    start = hub.resolve(task_options.model)
    best = Theirs(task, reference(task, start).to(device), options, fused=True)
    default = Theirs(task, reference(task, start).to(device), options, fused=False)

    # Same weights, same losses: ours go to disk and are read by the reference.
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = reference(task, folder).to(device)
    gaps = []
    with torch.inference_mode():
        for i in grouped[1]:
            one = task.collate([features[i]]).to(device)
            a, b = (task.loss(m.eval(), one)[0] for m in (model, theirs))
            gaps.append(abs(a - b).item())
    print(f"losses of single texts differ by at most {max(gaps):.2g}")

    sides = {
        "minift": (ours, grouped),
        "transformers, length-grouped, fused AdamW": (best, grouped),
        "transformers, random batches, AdamW": (default, random),
    }
    seconds = {name: [] for name in sides}
    for i in range(-1, rounds):  # round -1 warms up
        for name, (side, batches) in sides.items():
            part = batches[(i + 1) * steps : (i + 2) * steps]
            began = time.perf_counter()
            for indices in part:
                side.step([features[j] for j in indices], 1e-5)
            if device.type == "cuda":
                torch.cuda.synchronize()
            tokens = sum(lengths[j] for indices in part for j in indices)
            if i >= 0:
                seconds[name].append((time.perf_counter() - began) / tokens)
    base = seconds["minift"]
    table = [
        {
            "training step": name,
            "real tokens per second": round(1 / statistics.median(times)),
            "seconds, relative": "1.00"
            if times is base
            else f"{statistics.median(t / b for t, b in zip(times, base, strict=True)):.2f}",
        }
        for name, times in seconds.items()
    ]
    print("\n" + markdown_table(table))


def head(task_class, reference, columns, task_options, options, seeds, rounds=3):
    """Head-only runs and evaluation passes over the training set in turn, as whole jobs."""
    ratios = []
    for i in range(rounds):
        began = time.perf_counter()
        task, model, splits = task_class.start(task_options)
        task.predict(model, task.featurize(splits["train"]), options.batch_size)
        passed = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            frozen = replace(options, freeze_encoder=True, output_dir=Path(folder))
            run(task_class, task_options, frozen)
            ran = time.perf_counter() - began
        ratios.append(ran / passed)
        print(f"\nround {i + 1}: evaluation pass {passed:.1f} s, head-only run {ran:.1f} s\n")
    print(f"a head-only run takes {statistics.median(ratios):.2f} times one evaluation pass")


@dataclass(frozen=True)
class GenerationOptions:
    """What is generated; the defaults are the size of t5-small."""

    sources: int = option(8, "Texts in a batch.")
    source_length: int = option(256, "Tokens of each.")
    new_tokens: int = option(48, "Tokens generated for each.")
    rounds: int = option(7, "Rounds in which both sides take turns.")
    seed: int = option(1, "Seed of weights and texts.")


def generation(options):
    """Greedy and beam search of both sides in turn, from the same weights; outputs compared."""
    torch.manual_seed(options.seed)
    ours = T5ForConditionalGeneration(T5Config()).eval()
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        theirs = Reference("AutoModelForSeq2SeqLM", folder).eval()
    ids = torch.randint(2, ours.config.vocab_size, (options.sources, options.source_length))
    mask = torch.ones_like(ids)
    length = {"max_new_tokens": options.new_tokens, "min_new_tokens": options.new_tokens}
    rows = []
    for name, beams in {"greedy": 1, "4 beams": 4}.items():
        seconds = {"minift": [], "transformers": []}
        for i in range(-1, options.rounds):  # round -1 warms up
            found = {}
            for side, model in zip(seconds, (ours, theirs), strict=True):
                began = time.perf_counter()
                found[side] = model.generate(ids, mask, num_beams=beams, **length)
                if i >= 0:
                    seconds[side].append(time.perf_counter() - began)
            same = (found["minift"] == found["transformers"]).all(1).sum().item()
        ratios = sorted(b / a for a, b in zip(*seconds.values(), strict=True))
        rows.append(
            {
                "generation": name,
                "minift, seconds": f"{statistics.median(seconds['minift']):.2f}",
                "transformers, relative": f"{statistics.median(ratios):.2f}",
                "from ... to": f"{ratios[0]:.2f} ... {ratios[-1]:.2f}",
                "same sequences": f"{same} of {options.sources}",
            }
        )
    print("\n" + markdown_table(rows))


@dataclass(frozen=True)
class MetricsOptions:
    """What is scored: built-in reports, sentences and questions, drawn again and again."""

    items: int = option(10_000, "Pairs of texts, tagged sentences, questions.")
    rounds: int = option(3, "Rounds in which both sides take turns.")
    seed: int = option(1, "Seed of what is drawn.")


def metrics_speed(options):
    """Each metric and the usual package in turn, on the same items; values compared."""
    rows = []
    for name, (ours, theirs) in metric_sides(options).items():
        ratios = []
        for _ in range(options.rounds):
            began = time.perf_counter()
            found = ours()
            between = time.perf_counter()
            expected = theirs()
            ended = time.perf_counter()
            ratios.append((ended - between) / (between - began))
        difference = max(abs(a - b) for a, b in zip(found, expected, strict=True))
        rows.append(
            {
                "metric": name,
                f"minift, seconds for {options.items:,}": f"{between - began:.2f}",
                "times as fast": f"{statistics.median(ratios):.1f}",
                "from ... to": f"{min(ratios):.1f} ... {max(ratios):.1f}",
                "largest difference": f"{difference:.0e}",
            }
        )
    print("\n" + markdown_table(rows))


def metric_sides(options):
    """Name -> what computes it here and there; both return the same numbers in the same order."""
    from rouge_score.rouge_scorer import RougeScorer
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
    from torchmetrics.functional.text import squad as their_squad

    draw, count = random.Random(options.seed), options.items
    reports = SummarizationTask.read_splits(SummarizationOptions())["train"]
    truth = [draw.choice(reports).summaries[0] for _ in range(count)]
    texts = [first_sentence(draw.choice(reports).document) for _ in range(count)]
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]

    def their_rouge():
        scorer = RougeScorer(kinds, use_stemmer=True)
        scores = [scorer.score(gold, text) for gold, text in zip(truth, texts, strict=True)]
        return [sum(score[kind].fmeasure for score in scores) / count for kind in kinds]

    sentences = NerTask.start(NerOptions())[2]["train"]
    tags = [list(draw.choice(sentences).tags) for _ in range(count)]
    # One tag in ten is another one's.
    every = [tag for sentence in tags for tag in sentence]
    guesses = [[draw.choice(every) if draw.random() < 0.1 else t for t in s] for s in tags]

    def our_entities():
        score = metrics.entity_f1(guesses, tags)
        return [score["precision"], score["recall"], score["f1"]]

    records = [r for r in QaTask.read_splits(QaOptions())["train"] if r.answers]
    asked = [replace(draw.choice(records), id=str(i)) for i in range(count)]
    said = {r.id: draw.choice([r.answers[0].text, r.context[:40]]) for r in asked}
    pairs = [{"id": i, "prediction_text": text} for i, text in said.items()]
    gold = [
        {"id": r.id, "answers": {"text": [a.text for a in r.answers], "answer_start": [0]}}
        for r in asked
    ]
    data = as_squad(asked)
    for article in data:  # by the rules of v1.1, which torchmetrics follows
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                qa.pop("is_impossible", None)

    def our_squad():
        plain.cache_clear()  # each file is new to whoever scores it
        score = metrics.squad(said, data)
        return [score["exact"], score["f1"]]

    def our_rouge():
        stem.cache_clear()
        score = metrics.rouge(texts, truth)
        return [score[kind] for kind in kinds]

    return {
        "ROUGE with stems": (our_rouge, their_rouge),
        "entity F1": (
            our_entities,
            lambda: precision_recall_fscore_support(tags, guesses, average="micro")[:3],
        ),
        "SQuAD": (our_squad, lambda: [float(x) for x in their_squad(pairs, gold).values()]),
    }


def needs_the_reference():
    if importlib.util.find_spec("transformers") is None:
        raise InputError("transformers is not installed; pip install -e '.[parity]'")


def main():
    if sys.argv[1:2] == ["generation"]:
        (options,) = command_line(GenerationOptions, argv=sys.argv[2:])
        needs_the_reference()
        return generation(options)
    if sys.argv[1:2] == ["metrics"]:
        (options,) = command_line(MetricsOptions, argv=sys.argv[2:])
        return metrics_speed(options)
    modes = {"quality": quality, "speed": speed, "head": head}
    mode, task, *flags = [*sys.argv[1:3], "", ""][:2] + sys.argv[3:]
    if "--help" in sys.argv:
        print(__doc__)
        task, flags = task if task in TASKS else "classification", ["--help"]
    elif mode not in modes or task not in TASKS:
        usage = f"{{{','.join(modes)}}} {{{','.join(TASKS)}}} FLAGS"
        raise InputError(f"benchmark.py: give it {usage}, not {f'{mode} {task}'.strip()!r}")
    (task_class, options_class), (reference, columns) = TASKS[task], REFERENCES[task]
    task_options, options, compare = command_line(
        options_class, TrainOptions, CompareOptions, argv=flags
    )
    options = options.with_rate(task_options.usual_rate)
    needs_the_reference()
    modes[mode](task_class, reference, columns, task_options, options, compare.seeds)


if __name__ == "__main__":
    run_script(main)
