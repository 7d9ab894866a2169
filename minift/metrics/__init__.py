"""Scores: text and labels in, numbers out.  No torch, nothing else of minift."""

from minift.metrics.classification import (
    accuracy,
    confusion_matrix,
    f1,
    matthews_correlation,
    precision_recall,
)
from minift.metrics.entities import entities, entity_errors, entity_f1, token_accuracy

__all__ = [
    "accuracy",
    "confusion_matrix",
    "entities",
    "entity_errors",
    "entity_f1",
    "f1",
    "matthews_correlation",
    "precision_recall",
    "token_accuracy",
]
