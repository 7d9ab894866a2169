"""What stands on an encoder: one linear layer over a vector for each text, or for each token.

How a text becomes one vector is explicit, because it decides what a head alone can reach:

    pooler   tanh(W h[CLS] + b), W pretrained with the encoder: what `transformers` does
    cls      h[CLS] as it is
    mean     the mean of h over the text's real tokens (Reimers and Gurevych 2019)

Dimensions: B batch, S packed tokens, H hidden, C classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from minift.nn.layers import Dropout

POOLINGS = ("pooler", "cls", "mean")


class Head(nn.Linear):
    """Dropout, then one linear layer: (..., H) -> (..., C)."""

    def __init__(self, hidden_size: int, num_labels: int, dropout: float):
        super().__init__(hidden_size, num_labels)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(self.dropout(hidden))
