"""An adapter that training saved names its base, so that peft opens both."""

from __future__ import annotations

import json

import pytest
import torch

from minift import BertConfig, BertForSequenceClassification, hub
from minift.tasks.classification import ClassificationOptions, ClassificationTask
from minift.training.options import TrainOptions
from minift.training.run import run


def trained_with_lora(tiny_bert, reviews, folder, **task):
    task = ClassificationOptions(
        model=str(tiny_bert), train_file=reviews["train"], dev_file=reviews["dev"], **task
    )
    run(ClassificationTask, task, TrainOptions(output_dir=folder, epochs=1, lora_rank=2))
    return json.loads((folder / "adapter" / "adapter_config.json").read_text())


@pytest.mark.slow
def test_peft_opens_an_adapter_with_its_base(tiny_bert, reviews, tmp_path, capsys):
    saved = trained_with_lora(tiny_bert, reviews, tmp_path / "out")
    assert saved["base_model_name_or_path"] == str(tiny_bert)
    peft = pytest.importorskip("peft", reason="opens an adapter in peft, not here")
    theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out/adapter")
    ours = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    ids = torch.tensor([[2, 7, 9, 11, 3], [2, 8, 10, 12, 3]])
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, ours(ids), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_peft_refuses_an_adapter_whose_model_transformers_lacks(
    tiny_bert, reviews, tmp_path, capsys
):
    saved = trained_with_lora(tiny_bert, reviews, tmp_path / "out", pooling="mean")
    assert saved["base_model_name_or_path"] is None
    assert "transformers cannot load it: it has only the pooling 'pooler', not 'mean'" in (
        capsys.readouterr().out
    )
    peft = pytest.importorskip("peft", reason="opens an adapter in peft, not here")
    with pytest.raises((ValueError, TypeError, OSError)):
        peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out" / "adapter")


def test_a_base_is_named_as_other_programs_find_it(tmp_path, monkeypatch):
    bert = BertForSequenceClassification(BertConfig(vocab_size=9, hidden_size=12))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIFT_WEIGHTS", str(tmp_path / "weights"))
    mine = tmp_path / "weights" / "mine"
    mine.mkdir(parents=True)

    def base(model: str, **options):
        task = ClassificationTask(ClassificationOptions(model=model, **options), None, 9, ())
        return task.adapter_base(bert)

    assert base("weights/mine") == base("mine") == base(str(mine)) == (str(mine), None)
    assert base("owner/name") == ("owner/name", None)
    assert base("owner/name@v1") == ("owner/name", "v1")
    assert base(hub.DEFAULT_MODEL) == (hub.DEFAULT_ID, None)  # not fetched yet
    (tmp_path / "weights" / hub.DEFAULT_MODEL).mkdir()
    default = (str(tmp_path / "weights" / hub.DEFAULT_MODEL), None)
    assert base(hub.DEFAULT_MODEL) == base(hub.DEFAULT_ID) == default
    assert base("mine", from_scratch=True) == (None, None)
