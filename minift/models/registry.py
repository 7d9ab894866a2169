"""The families by model_type of config.json.  A new family adds one entry."""

from __future__ import annotations

from pathlib import Path

from minift.errors import UserError
from minift.models.base import ModelType, PretrainedModel
from minift.models.bert import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from minift.models.config import CONFIG, family_name, read_config
from minift.models.distilbert import (
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
)
from minift.models.t5 import T5ForConditionalGeneration
from minift.options import shorten

# model_type -> the models with a head or an output layer.  A task finds its own by the base class,
# such as `EncoderForTokenClassification` or `Seq2SeqModel`.
FAMILIES: dict[str, tuple[type[PretrainedModel], ...]] = {
    "bert": (
        BertForSequenceClassification,
        BertForTokenClassification,
        BertForQuestionAnswering,
        BertForMaskedLM,
    ),
    "distilbert": (
        DistilBertForSequenceClassification,
        DistilBertForTokenClassification,
        DistilBertForQuestionAnswering,
        DistilBertForMaskedLM,
    ),
    "t5": (T5ForConditionalGeneration,),
}


def family_model(model_type: object, kind: type[ModelType]) -> type[ModelType] | None:
    """The family's model that derives from `kind`; None if it has none, or is not known."""
    models = FAMILIES.get(model_type, ()) if isinstance(model_type, str) else ()
    return next((model for model in models if issubclass(model, kind)), None)


def families_with(kind: type[PretrainedModel]) -> list[str]:
    """The model_type of each family that has a model of this kind."""
    return [name for name in FAMILIES if family_model(name, kind)]


def model_class(folder: Path, kind: type[ModelType], use: str) -> type[ModelType]:
    """The model class of this kind for a checkpoint's folder; `UserError` if there is none.

    use: what the model is for, in the message, such as "classification".
    """
    found = read_model_type(folder)
    model = family_model(found, kind)
    if model is None:
        raise UserError(
            f"{folder / CONFIG}: model_type is {shorten(found)}; minift's {use} reads "
            f"{', '.join(sorted(families_with(kind)))}"
        )
    return model


def read_model_type(folder: Path) -> object:
    """The family that a checkpoint's config.json names; None if it names none."""
    return family_name(read_config(folder).get("model_type"))
