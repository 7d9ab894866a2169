"""Metrics beside rouge-score, seqeval and torchmetrics' SQuAD."""

import random
import statistics
from dataclasses import dataclass, replace

from benchmarks.peers import alternate, times_as_fast
from minift import metrics
from minift.data.squad import as_squad
from minift.metrics.rouge import stem
from minift.metrics.squad import plain
from minift.tasks.base import option
from minift.tasks.ner import NerOptions, NerTask
from minift.tasks.qa import QaOptions, QaTask
from minift.tasks.summarization import SummarizationOptions, SummarizationTask, first_sentence
from minift.training.log import markdown_table


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
        sides = {"ours": lambda _, ours=ours: ours(), "theirs": lambda _, theirs=theirs: theirs()}
        seconds, found = alternate(sides, options.rounds)
        times, spread = times_as_fast(*seconds.values())
        pairs = zip(found["ours"], found["theirs"], strict=True)
        ours_take = statistics.median(seconds["ours"])
        rows.append(
            {
                "metric": name,
                f"minift, seconds for {options.items:,}": f"{ours_take:.2f}",
                "times as fast": times,
                "from ... to": spread,
                "largest difference": f"{max(abs(a - b) for a, b in pairs):.0e}",
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
