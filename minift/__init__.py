"""minift: fine-tune pretrained Transformers in plain PyTorch that can be read in an evening."""

from minift import metrics
from minift.models.bert import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from minift.text.tokenizer import Tokenizer

__all__ = [
    "BertConfig",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "Tokenizer",
    "metrics",
]
