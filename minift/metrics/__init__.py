"""Scores: text and labels in, numbers out.  No torch, nothing else of minift."""

from minift.metrics.classification import (
    accuracy,
    confusion_matrix,
    f1,
    matthews_correlation,
    precision_recall,
)
from minift.metrics.diversity import distinct, novelty, repetition
from minift.metrics.entities import entities, entity_errors, entity_f1, token_accuracy
from minift.metrics.rouge import readable_share, rouge, rouge_pair
from minift.metrics.squad import answer_gains, best_threshold, squad, word_f1

__all__ = [
    "accuracy",
    "answer_gains",
    "best_threshold",
    "confusion_matrix",
    "distinct",
    "entities",
    "entity_errors",
    "entity_f1",
    "f1",
    "matthews_correlation",
    "novelty",
    "precision_recall",
    "readable_share",
    "repetition",
    "rouge",
    "rouge_pair",
    "squad",
    "token_accuracy",
    "word_f1",
]
