"""Scores: text and labels in, numbers out.  No torch, nothing else of minift."""

from minift.metrics.classification import (
    accuracy,
    confusion_matrix,
    f1,
    matthews_correlation,
    precision_recall,
)

__all__ = ["accuracy", "confusion_matrix", "f1", "matthews_correlation", "precision_recall"]
