"""Generation in turn, with a T5 of random weights: minift and transformers, and, where it is
installed, CTranslate2; in float32, and in whole numbers of 8 bits."""

import importlib.util
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.peers import Reference, alternate, times_as_fast
from minift.models.t5 import T5Config, T5ForConditionalGeneration
from minift.nn.int8 import in_int8
from minift.tasks.base import option
from minift.training.log import markdown_table
from minift.training.run import pick_device

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SPECIAL = {"<pad>": 0, "</s>": 1, "<unk>": 2}  # tokens that CTranslate2 must know


@dataclass(frozen=True)
class GenerationOptions:
    """What is generated; the defaults are the size of t5-small."""

    sources: int = option(8, "Texts in a batch.")
    source_length: int = option(256, "Tokens of each.")
    new_tokens: int = option(48, "Tokens generated for each.")
    device: str = option("cpu", "cpu or cuda.")
    precision: str = option("fp32", "fp32, or bf16: all weights.")
    rounds: int = option(7, "Rounds in which the sides take turns.")
    seed: int = option(1, "Seed of weights and texts.")


def generation(options):
    """Greedy and beam search, from the same weights and in turns; outputs compared."""
    torch.manual_seed(options.seed)
    config = T5Config()
    device, kind = pick_device(options.device), KINDS[options.precision]
    ours = T5ForConditionalGeneration(config).eval()
    ids = torch.randint(100, config.vocab_size - 100, (options.sources, options.source_length))
    ids = ids.to(device)
    mask = torch.ones_like(ids)
    length = {"max_new_tokens": options.new_tokens, "min_new_tokens": options.new_tokens}
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        theirs = Reference("AutoModelForSeq2SeqLM", folder).eval()
        torch_models = {"minift": ours.to(device, kind), "transformers": theirs.to(device, kind)}
        others = {}
        if device.type == "cpu" and kind is torch.float32:
            torch_models["minift, int8"] = in_int8(ours)
        if len(torch_models) == 3 and importlib.util.find_spec("ctranslate2") is not None:
            others = {
                "CTranslate2": translator(Path(folder), config, "float32"),
                "CTranslate2, int8": translator(Path(folder), config, "int8"),
            }
    rows = []
    for name, beams in {"greedy": 1, "4 beams": 4}.items():

        def with_torch(model, beams=beams):
            return lambda _: model.generate(ids, mask, num_beams=beams, **length)[:, 1:]

        def with_other(model, beams=beams):
            return lambda _: translated(model, ids, beams, options.new_tokens)

        sides = {side: with_torch(model) for side, model in torch_models.items()}
        sides |= {side: with_other(model) for side, model in others.items()}
        # As in a prediction of many batches; the others have loaded their weights before, too.
        with ours.ready_for(options.sources * beams):
            seconds, found = alternate(sides, options.rounds)
        for side, times in seconds.items():
            faster, spread = times_as_fast(seconds["minift"], times)
            same = (found[side] == found["minift"]).all(1).sum()
            rows.append(
                {
                    "generation": f"{name}, {side}",
                    "seconds": f"{statistics.median(times):.2f}",
                    "relative": faster,
                    "from ... to": spread,
                    "same sequences": f"{same} of {options.sources}",
                }
            )
    print("\n" + markdown_table(rows))


def translator(folder, config, numbers):
    """CTranslate2's model of the same weights; `numbers`: float32 or int8."""
    import ctranslate2
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    # It wants a tokenizer; a token's name is its number here.
    words = SPECIAL | {str(i): i for i in range(len(SPECIAL), config.vocab_size)}
    bare = Tokenizer(WordLevel(words, unk_token="<unk>"))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=bare, **names).save_pretrained(folder)
    out = folder / numbers
    converter = ctranslate2.converters.TransformersConverter(str(folder))
    converter.convert(str(out), quantization=None if numbers == "float32" else numbers)
    threads = {"inter_threads": 1, "intra_threads": torch.get_num_threads()}
    return ctranslate2.Translator(str(out), compute_type=numbers, **threads)


def translated(model, ids, beams, new_tokens):
    """What CTranslate2 generates, as token ids (B, U)."""
    results = model.translate_batch(
        [[str(i) for i in row] for row in ids.tolist()],
        beam_size=beams,
        max_decoding_length=new_tokens,
        min_decoding_length=new_tokens,
        max_input_length=0,
    )
    rows = [[int(SPECIAL.get(token, token)) for token in r.hypotheses[0]] for r in results]
    return torch.tensor([row[:new_tokens] + [0] * (new_tokens - len(row)) for row in rows])
