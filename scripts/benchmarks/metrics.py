"""Speed of the metrics: minift and rouge-score, seqeval and torchmetrics' SQuAD."""

import random
import statistics
from dataclasses import dataclass, replace

from benchmarks.peers import alternate, speed_columns
from minift import metrics
from minift.data.squad import as_squad
from minift.metrics.rouge import porter_stem
from minift.metrics.squad import normalize_answer
from minift.options import check_range, option
from minift.reports.tables import markdown_table
from minift.tasks.ner import NerOptions, NerTask
from minift.tasks.qa import QaOptions, QaTask
from minift.tasks.summarization import SummarizationOptions, SummarizationTask
from minift.terminal import print_line
from minift.text.sentences import first_sentence
from minift.training.options import MAX_SEED


@dataclass(frozen=True)
class MetricsOptions:
    """Size of the input: random draws from the built-in reports, sentences and questions."""

    items: int = option(10_000, "Pairs of texts, tagged sentences and questions to score.")
    rounds: int = option(3, "Rounds in which both sides run, in turn.")
    seed: int = option(1, "Seed of the draws.")

    def __post_init__(self) -> None:
        check_range(self, "items", 1)
        check_range(self, "rounds", 1, 100_000)
        check_range(self, "seed", 0, MAX_SEED)


def metrics_speed(options):
    """Time each metric and its usual package on the same items, and compare their values."""
    rows = []
    for name, (ours, peer) in metric_sides(options).items():
        sides = {"minift": lambda _, ours=ours: ours(), "peer": lambda _, peer=peer: peer()}
        seconds, results = alternate(sides, options.rounds)
        pairs = zip(results["minift"], results["peer"], strict=True)
        median = statistics.median(seconds["minift"])
        rows.append(
            {
                "metric": name,
                f"minift, seconds for {options.items:,}": f"{median:.2f}",
                **speed_columns(*seconds.values()),
                "largest difference": f"{max(abs(a - b) for a, b in pairs):.0e}",
            }
        )
    print_line("\n" + markdown_table(rows))


def metric_sides(options):
    """Metric -> (minift's function, the peer's); both return the same numbers in the same order."""
    from rouge_score.rouge_scorer import RougeScorer
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
    from torchmetrics.functional.text import squad as peer_squad

    draw, count = random.Random(options.seed), options.items
    reports = SummarizationTask.read_splits(SummarizationOptions())["train"]
    truth = [draw.choice(reports).summaries[0] for _ in range(count)]
    texts = [first_sentence(draw.choice(reports).document) for _ in range(count)]
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]

    def peer_rouge():
        scorer = RougeScorer(kinds, use_stemmer=True)
        scores = [scorer.score(gold, text) for gold, text in zip(truth, texts, strict=True)]
        return [sum(score[kind].fmeasure for score in scores) / count for kind in kinds]

    sentences = NerTask.read_splits(NerOptions())["train"]
    tags = [list(draw.choice(sentences).tags) for _ in range(count)]
    # One tag in ten is replaced by a random one.
    all_tags = [tag for sentence in tags for tag in sentence]
    guesses = [[draw.choice(all_tags) if draw.random() < 0.1 else t for t in s] for s in tags]

    def minift_entities():
        score = metrics.entity_f1(guesses, tags)
        return [score["precision"], score["recall"], score["f1"]]

    records = [r for r in QaTask.read_splits(QaOptions())["train"] if r.answers]
    questions = [replace(draw.choice(records), id=str(i)) for i in range(count)]
    predictions = {r.id: draw.choice([r.answers[0].text, r.context[:40]]) for r in questions}
    pairs = [{"id": i, "prediction_text": text} for i, text in predictions.items()]
    gold = [
        {"id": r.id, "answers": {"text": [a.text for a in r.answers], "answer_start": [0]}}
        for r in questions
    ]
    data = as_squad(questions)
    for article in data:  # torchmetrics follows the rules of v1.1
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                qa.pop("is_impossible", None)

    def minift_squad():
        normalize_answer.cache_clear()  # a file that is scored is usually new
        score = metrics.squad(predictions, data)
        return [score["exact"], score["f1"]]

    def minift_rouge():
        porter_stem.cache_clear()
        score = metrics.rouge(texts, truth)
        return [score[kind] for kind in kinds]

    return {
        "ROUGE with stems": (minift_rouge, peer_rouge),
        "entity F1": (
            minift_entities,
            lambda: precision_recall_fscore_support(tags, guesses, average="micro")[:3],
        ),
        "SQuAD": (minift_squad, lambda: [float(x) for x in peer_squad(pairs, gold).values()]),
    }
