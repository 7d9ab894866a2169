"""minift: fine-tune pretrained Transformers in plain PyTorch that can be read in an evening."""

from minift import metrics
from minift.generation.config import GenerationConfig
from minift.models.adapters import add_lora, bitfit, load_adapter, save_adapter
from minift.models.bert import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from minift.models.distilbert import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
)
from minift.models.t5 import T5ForConditionalGeneration
from minift.models.t5_layers import T5Config
from minift.nn.lora import LoraConfig, merge_lora
from minift.text.tokenizer import Tokenizer

__all__ = [
    "BertConfig",
    "BertForMaskedLM",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "DistilBertConfig",
    "DistilBertForMaskedLM",
    "DistilBertForQuestionAnswering",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "DistilBertModel",
    "GenerationConfig",
    "LoraConfig",
    "T5Config",
    "T5ForConditionalGeneration",
    "Tokenizer",
    "add_lora",
    "bitfit",
    "load_adapter",
    "merge_lora",
    "metrics",
    "save_adapter",
]
