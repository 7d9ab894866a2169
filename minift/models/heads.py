"""The head on an encoder: one linear layer over a vector for each text, or for each token.

How a text becomes one vector is an explicit choice, because it decides what a head on a frozen
encoder can reach:

    pooler   tanh(W h[CLS] + b), W pretrained with the encoder: as `transformers` does
    cls      h[CLS]
    mean     the mean of h over the text's real tokens (Reimers and Gurevych 2019, Sentence-BERT)

Dimensions: B batch, S packed tokens, H hidden, C classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from minift.nn.layers import Dropout

POOLINGS = ("pooler", "cls", "mean")


class Head(nn.Linear):
    """Dropout, then one linear layer: (..., H) -> (..., C)."""

    quantizable = False  # nn/int8.py keeps it in float32

    def __init__(self, hidden_size: int, num_labels: int, dropout: float):
        super().__init__(hidden_size, num_labels)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(self.dropout(hidden))
