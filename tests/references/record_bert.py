"""Record outputs of BERT in `transformers`, for tests on machines without `transformers`.

    python tests/references/record_bert.py

writes, beside this file,

    tiny-bert/     a random BertForSequenceClassification of two layers, saved by `transformers`
    bert.json      its hidden states, pooled vectors, logits and gradients for a small batch, the
                   outputs of all-MiniLM-L6-v2 (under weights/) for three sentences, and the
                   versions of the libraries
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

HERE = Path(__file__).parent
MINILM = HERE.parent.parent / "weights" / "all-MiniLM-L6-v2"

IDS = [[2, 11, 7, 5, 23, 3], [2, 30, 3, 0, 0, 0], [2, 9, 8, 41, 3, 0]]
MASK = [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 0]]
TYPES = [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0]]
LABELS = [2, 0, 1]
SENTENCES = [
    "It was not bad at all.",
    "The plot creaks, the cast yawns, and I left before the end!",
    "Naïve café owners in Zürich ordered 3,000 croissants 🥐 by mistake.",
]


def rounded(tensor: torch.Tensor) -> list:
    return json.loads(json.dumps(tensor.tolist()), parse_float=lambda x: round(float(x), 7))


def make_tiny(folder: Path) -> None:
    """Save a random model of `transformers` with biases and norms away from 0 and 1."""
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        initializer_range=0.2,
        num_labels=3,
    )
    model = transformers.BertForSequenceClassification(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float("Norm.weight" in name), std=0.2)
    model.save_pretrained(folder)


def outputs_of_tiny(folder: Path) -> dict:
    """The outputs of `transformers` for the batch above."""
    import transformers

    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    ids, mask, types = map(torch.tensor, (IDS, MASK, TYPES))
    result = model(ids, mask, types, labels=torch.tensor(LABELS), output_hidden_states=True)
    result.loss.backward()
    pooled = model.bert(ids, mask, types).pooler_output
    return {
        "hidden_states": [rounded(state) for state in result.hidden_states],
        "pooled": rounded(pooled),
        "logits": rounded(result.logits),
        "loss": round(result.loss.item(), 7),
        "gradients": {name: rounded(p.grad.norm()) for name, p in model.named_parameters()},
    }


def outputs_of_minilm() -> dict:
    """Ids, the beginning of each last hidden state, and the beginning of each pooled vector."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    model = transformers.BertModel.from_pretrained(MINILM).eval()
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        result = model(**batch)
    return {
        "sentences": SENTENCES,
        "ids": tokenizer(SENTENCES)["input_ids"],
        "hidden": rounded(result.last_hidden_state[:, :3, :8]),
        "pooled": rounded(result.pooler_output[:, :8]),
    }


if __name__ == "__main__":
    import transformers

    make_tiny(HERE / "tiny-bert")
    recorded = {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "tiny": outputs_of_tiny(HERE / "tiny-bert"),
        "minilm": outputs_of_minilm(),
    }
    (HERE / "bert.json").write_text(json.dumps(recorded) + "\n", encoding="utf-8")
