"""Generation speed of a T5 with random weights: minift, `transformers` and, where it is installed,
CTranslate2; in float32, and with 8-bit integers."""

import importlib.util
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmarks.peers import PeerModel, alternate, speed_columns
from minift.device import check_device, check_precision, pick_device
from minift.models.registry import families_with, family_model
from minift.models.seq2seq import Seq2SeqModel
from minift.nn.int8 import quantize_int8
from minift.options import check_range, option
from minift.reports.tables import markdown_table
from minift.terminal import print_line
from minift.training.options import MAX_SEED

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SPECIAL = {"<pad>": 0, "</s>": 1, "<unk>": 2}  # CTranslate2 needs these by name


@dataclass(frozen=True)
class GenerationOptions:
    """Size of the generation; the model has the family's default size, that of t5-small."""

    family: Literal[tuple(families_with(Seq2SeqModel))] = option("t5", "Family of the model.")
    sources: int = option(8, "Source texts in a batch.")
    source_length: int = option(256, "Tokens of a source.")
    new_tokens: int = option(48, "Tokens to generate for each source.")
    device: str = option("cpu", "cpu or cuda.")
    precision: str = option("fp32", "fp32, or bf16: the dtype of all weights.")
    rounds: int = option(7, "Rounds in which the sides run, in turn.")
    seed: int = option(1, "Seed of the random weights and sources.")

    def __post_init__(self) -> None:
        for name in ("sources", "source_length", "new_tokens"):
            check_range(self, name, 1, 100_000)
        check_range(self, "rounds", 1, 100_000)
        check_range(self, "seed", 0, MAX_SEED)
        check_device(self.device)
        check_precision(self.precision)


def generation(options):
    """Time greedy and beam search of all sides with the same weights; compare their outputs."""
    torch.manual_seed(options.seed)
    model_class = family_model(options.family, Seq2SeqModel)
    config = model_class.config_class()
    device, dtype = pick_device(options.device), DTYPES[options.precision]
    ours = model_class(config).eval()
    ids = torch.randint(100, config.vocab_size - 100, (options.sources, options.source_length))
    ids = ids.to(device)
    mask = torch.ones_like(ids)
    length = {"max_new_tokens": options.new_tokens, "min_new_tokens": options.new_tokens}
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        peer = PeerModel("AutoModelForSeq2SeqLM", folder).eval()
        torch_models = {"minift": ours.to(device, dtype), "transformers": peer.to(device, dtype)}
        others = {}
        if device.type == "cpu" and dtype is torch.float32:
            torch_models["minift, int8"] = quantize_int8(ours)
        if len(torch_models) == 3 and importlib.util.find_spec("ctranslate2") is not None:
            others = {
                "CTranslate2": translator(Path(folder), config, "float32"),
                "CTranslate2, int8": translator(Path(folder), config, "int8"),
            }
    rows = []
    for name, beams in {"greedy": 1, "4 beams": 4}.items():

        def with_torch(model, beams=beams):
            return lambda _: model.generate(ids, mask, num_beams=beams, **length)[:, 1:]

        def with_ctranslate2(model, beams=beams):
            return lambda _: translate(model, ids, beams, options.new_tokens)

        sides = {side: with_torch(model) for side, model in torch_models.items()}
        sides |= {side: with_ctranslate2(model) for side, model in others.items()}
        # As when many batches are predicted; the other sides, too, have prepared their weights.
        with ours.prepacked_for_generation(options.sources * beams):
            seconds, results = alternate(sides, options.rounds)
        for side, times in seconds.items():
            same = (results[side] == results["minift"]).all(1).sum()
            rows.append(
                {
                    "generation": f"{name}, {side}",
                    "seconds": f"{statistics.median(times):.2f}",
                    **speed_columns(seconds["minift"], times),
                    "same sequences": f"{same} of {options.sources}",
                }
            )
    print_line("\n" + markdown_table(rows))


def translator(folder, config, compute_type):
    """CTranslate2's model of the checkpoint in `folder`; compute_type: float32 or int8."""
    import ctranslate2
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    # The converter needs a tokenizer; here a token's name is its id.
    words = SPECIAL | {str(i): i for i in range(len(SPECIAL), config.vocab_size)}
    bare = Tokenizer(WordLevel(words, unk_token="<unk>"))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=bare, **names).save_pretrained(folder)
    out = folder / compute_type
    converter = ctranslate2.converters.TransformersConverter(str(folder))
    converter.convert(str(out), quantization=None if compute_type == "float32" else compute_type)
    threads = {"inter_threads": 1, "intra_threads": torch.get_num_threads()}
    return ctranslate2.Translator(str(out), compute_type=compute_type, **threads)


def translate(model, ids, beams, new_tokens):
    """The token ids (B, U) that CTranslate2 generates for sources (B, T)."""
    results = model.translate_batch(
        [[str(i) for i in row] for row in ids.tolist()],
        beam_size=beams,
        max_decoding_length=new_tokens,
        min_decoding_length=new_tokens,
        max_input_length=0,
    )
    rows = [[int(SPECIAL.get(token, token)) for token in r.hypotheses[0]] for r in results]
    return torch.tensor([row[:new_tokens] + [0] * (new_tokens - len(row)) for row in rows])
