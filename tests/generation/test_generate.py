"""Generation: the tokens of `transformers`; oracles and properties beside it."""

from __future__ import annotations

import copy
import itertools
import math
import random
from functools import partial

import pytest
import torch
from support.tiny_t5 import TINY, random_settings, reference, sources

from minift.generation.cache import DecoderState
from minift.generation.config import RANGES, GenerationConfig
from minift.generation.logits import process_logits, warp_logits
from minift.generation.search import SpecialTokens, search
from minift.models import seq2seq
from minift.models.t5 import T5Config, T5ForConditionalGeneration


def without_padding(rows: torch.Tensor, eos: int = 1) -> list[list[int]]:
    """Up to the end token: the padding after it depends on the batch in `transformers`."""
    found = []
    for row in rows.tolist():
        end = row.index(eos, 1) + 1 if eos in row[1:] else len(row)
        found.append(row[:end])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", range(12))
def test_sequences_equal_those_of_transformers(tmp_path, number):
    """Greedy and beam search, over random models and settings, in double precision."""
    draw = random.Random(number)
    # As many layers on both sides: transformers cannot generate with a deeper decoder.
    changes = {"num_decoder_layers": 2}
    if number % 2:
        changes |= {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    theirs = reference(tmp_path, seed=number, **changes)
    # The end likely enough to be found, at different places.
    with torch.no_grad():
        theirs.shared.weight[1] *= draw.choice([1.0, 3.0, 5.0])
    theirs.save_pretrained(tmp_path)
    ours = T5ForConditionalGeneration.from_pretrained(tmp_path).double()
    theirs = theirs.double()
    for case in range(10):
        ids, mask = sources(10 * number + case)
        settings = random_settings(draw, beams=case % 3 > 0)
        expected = theirs.generate(input_ids=ids, attention_mask=mask, do_sample=False, **settings)
        found = ours.generate(ids, mask, **settings)
        assert without_padding(found) == without_padding(expected), settings
        assert found.shape[1] <= 1 + settings["max_new_tokens"]
        assert (found[:, 0] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_prompts_are_continued_as_by_transformers(tmp_path, number):
    """Targets that begin with several given tokens: lengths and scores count what follows them."""
    draw = random.Random(number)
    theirs = reference(tmp_path, seed=number, num_decoder_layers=2).double()
    ours = T5ForConditionalGeneration.from_pretrained(tmp_path).double()
    for case in range(10):
        ids, mask = sources(10 * number + case)
        generator = torch.Generator().manual_seed(case)
        prompts = torch.randint(2, 61, (len(ids), draw.randint(1, 5)), generator=generator)
        if case % 2:
            prompts[:, 0] = 0  # else the start token is put before them
        settings = random_settings(draw, beams=case % 3 > 0)
        expected = theirs.generate(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=prompts,
            do_sample=False,
            **settings,
        )
        found = ours.generate(ids, mask, decoder_input_ids=prompts, **settings)
        assert without_padding(found) == without_padding(expected), settings
        begin = 1 - case % 2
        returned = settings.get("num_return_sequences", 1)
        kept = found[:, begin : begin + prompts.shape[1]]
        assert torch.equal(kept, prompts.repeat_interleave(returned, 0))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_prompt_is_read_at_once_as_token_by_token(model, beams, static, monkeypatch):
    """What was generated, given as the prompt, is continued in the same way."""
    monkeypatch.setattr(seq2seq, "DecoderState", partial(DecoderState, static=static))
    ids, mask = sources(5)
    whole = model.generate(ids, mask, max_new_tokens=12, min_new_tokens=12, num_beams=beams)
    prompts = whole[:, :5]
    found = model.generate(
        ids, mask, decoder_input_ids=prompts, max_new_tokens=8, min_new_tokens=8, num_beams=beams
    )
    assert torch.equal(found[:, :5], prompts)
    if beams == 1:
        assert torch.equal(found, whole)


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(3)
    model = T5ForConditionalGeneration(T5Config(**TINY, initializer_factor=1.0))
    torch.nn.init.normal_(model.decoder.position.embedding.weight)
    with torch.no_grad():
        model.shared.weight[1] *= 3
    model.save_pretrained(tmp_path)
    return T5ForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 4])
def test_a_batch_gives_what_each_source_gives_alone(model, beams):
    for seed in range(10):
        ids, mask = sources(seed)
        settings = {"max_new_tokens": 15, "num_beams": beams, "no_repeat_ngram_size": 2}
        together = without_padding(model.generate(ids, mask, **settings))
        for i in range(len(ids)):
            alone = model.generate(ids[i][mask[i].bool()][None], **settings)
            assert without_padding(alone)[0] == together[i]


@pytest.mark.parametrize("number", range(8))
def test_static_steps_as_on_a_gpu_give_the_same(number, monkeypatch):
    draw = random.Random(100 + number)
    torch.manual_seed(number)
    model = T5ForConditionalGeneration(T5Config(**TINY)).double().eval()
    settings = random_settings(draw, beams=number % 2 == 1)
    ids, mask = sources(number)
    expected = model.generate(ids, mask, **settings)
    monkeypatch.setattr(seq2seq, "DecoderState", partial(DecoderState, static=True))
    assert torch.equal(model.generate(ids, mask, **settings), expected)


def test_batches_can_share_the_prepared_weights(model, monkeypatch):
    monkeypatch.setattr("minift.nn.kernels.ENABLED", True)
    model = copy.deepcopy(model).float()  # in double precision nothing is prepared
    ids, mask = sources(seed=3)
    alone = model.generate(ids, mask, max_new_tokens=8, num_beams=2)
    with model.prepacked_for_generation(num_rows=8):
        prepared = model.shared.prepacked
        for _ in range(2):
            assert torch.equal(model.generate(ids, mask, max_new_tokens=8, num_beams=2), alone)
            assert model.shared.prepacked is prepared
    assert model.shared.prepacked is None
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch has no oneDNN here, so nothing is prepared")
    assert prepared is not None


@pytest.mark.parametrize("beams", [1, 3])
def test_mixed_precision(model, beams):
    """As training with --precision bf16 generates on dev, on any processor."""
    model = copy.deepcopy(model).float()
    ids, mask = sources(seed=3)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.generate(ids, mask, max_new_tokens=6, num_beams=beams)
    assert (found[:, 0] == 0).all()
    assert 2 <= found.shape[1] <= 7


def test_the_cache_changes_nothing(model):
    """Each greedy token is the best by the whole decoder run again from the start."""
    ids, mask = sources(1)
    found = model.generate(ids, mask, max_new_tokens=12)
    logits = model(ids, mask, decoder_input_ids=found)
    for row, scores in zip(found.tolist(), logits, strict=True):
        for place, token in enumerate(row[1:]):
            assert scores[place].argmax() == token
            if token == 1:
                break


START, SPECIAL = torch.tensor([[0]]), SpecialTokens(eos=1, pad=0)


class Chain:
    """A decoder whose scores depend on the last token only: small enough to try everything."""

    def __init__(self, table: torch.Tensor, width: int):
        self.table, self.rows_per_source, self.history = table, width, None

    def step(self, tokens):
        self.history = tokens
        return self.table[tokens[:, -1]]

    def reorder(self, rows):
        assert torch.equal(
            rows // self.rows_per_source, torch.arange(len(rows)) // self.rows_per_source
        )

    def select(self, sources):
        pass


def exhaustive(table: torch.Tensor, longest: int, penalty: float) -> list[tuple[float, list[int]]]:
    """Every sequence that ends, or is as long as allowed, with its score; best first."""
    log_probs = table.double().log_softmax(-1)
    found = []
    for length in range(1, longest + 1):
        for tokens in itertools.product(range(len(table)), repeat=length):
            ended = tokens[-1] == 1
            if 1 in tokens[:-1] or (not ended and length < longest):
                continue
            path = [0, *tokens]
            score = sum(float(log_probs[a, b]) for a, b in itertools.pairwise(path))
            found.append((score / length**penalty, path))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_a_beam_of_full_width_equals_exhaustive_search(penalty):
    vocabulary, longest = 4, 4
    for seed in range(20):
        table = torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed))
        beams = vocabulary**longest
        settings = GenerationConfig(
            max_new_tokens=longest,
            num_beams=beams,
            length_penalty=penalty,
            early_stopping="never",
            num_return_sequences=3,
        )
        found = search(Chain(table, beams), START, SPECIAL, settings)
        scores = {tuple(path): score for score, path in exhaustive(table, longest, penalty)}
        # By their scores: a sequence has the score of any other that takes the same steps.
        ours = [scores[tuple(row)] for row in without_padding(found)]
        assert len({tuple(row) for row in without_padding(found)}) == 3
        assert ours == pytest.approx(sorted(scores.values(), reverse=True)[:3], abs=1e-5)


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_p": 0.6},
        {"temperature": 2.0, "top_k": 5, "top_p": 0.8},
    ],
)
def test_sampled_tokens_have_the_filtered_distribution(rules):
    """Chi-squared: 20,000 samples against the probabilities computed by hand."""
    scores = torch.tensor([[-1.0, 2.0, 0.5, 1.0, -0.3, 0.9, -4.0, 0.0]])
    probabilities = (scores[0].double() / rules.get("temperature", 1.0)).softmax(-1)
    order = sorted(range(8), key=lambda i: -probabilities[i])[: rules.get("top_k", 8)]
    kept, mass = [], 0.0
    total = sum(float(probabilities[i]) for i in order)
    for i in order:
        if kept and mass / total >= rules.get("top_p", 1.0):
            break
        kept.append(i)
        mass += float(probabilities[i])
    expected = {i: float(probabilities[i]) / mass for i in kept}
    count = 20_000
    settings = GenerationConfig(
        max_new_tokens=1, do_sample=True, num_return_sequences=count, **rules
    )
    table = scores.expand(8, 8)
    drawn = search(Chain(table, count), START, SPECIAL, settings, torch.Generator().manual_seed(0))[
        :, 1
    ]
    counts = drawn.bincount(minlength=8).tolist()
    assert {i for i, n in enumerate(counts) if n} <= set(expected)
    squares = sum((counts[i] - count * p) ** 2 / (count * p) for i, p in expected.items())
    freedom = max(1, len(expected) - 1)
    assert squares < freedom + 5 * math.sqrt(2 * freedom)


def test_processors_and_warpers_equal_transformers():
    process = pytest.importorskip(
        "transformers.generation.logits_process", reason="compares with transformers, not here"
    )
    generator = torch.Generator().manual_seed(0)
    for case in range(100):
        draw = random.Random(case)
        scores = torch.randn(3, 20, generator=generator)
        scores[:, 5] = scores[:, 6]  # equals
        tokens = torch.randint(0, 20, (3, draw.randint(1, 14)), generator=generator)
        n, penalty = draw.randint(1, 4), draw.choice([0.5, 1.2])
        rules = GenerationConfig(
            max_new_tokens=9,
            repetition_penalty=penalty,
            no_repeat_ngram_size=n,
            min_new_tokens=draw.randint(0, 9),
            temperature=draw.choice([0.7, 1.5]),
            top_k=draw.randint(1, 25),
            top_p=draw.choice([0.1, 0.5, 0.9, 0.999]),
        )
        expected = scores.clone()
        for processor in (
            process.RepetitionPenaltyLogitsProcessor(penalty),
            process.NoRepeatNGramLogitsProcessor(n),
            process.MinNewTokensLengthLogitsProcessor(1, rules.min_new_tokens, 1, device="cpu"),
        ):
            expected = processor(tokens, expected)
        found = process_logits(scores, tokens, rules, eos=1)
        assert torch.equal(found, expected)
        for at_least in (1, 2):
            wanted = found
            for processor in (
                process.TemperatureLogitsWarper(rules.temperature),
                process.TopKLogitsWarper(rules.top_k, min_tokens_to_keep=at_least),
                process.TopPLogitsWarper(rules.top_p, min_tokens_to_keep=at_least),
            ):
                wanted = processor(tokens, wanted)
            assert torch.equal(warp_logits(found, rules, at_least), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_sampled_tokens_equal_those_of_transformers(tmp_path, number):
    """From the same random numbers, for a single source, so that no row leaves the batch early."""
    draw = random.Random(number)
    theirs = reference(tmp_path, seed=number, num_decoder_layers=2).double()
    ours = T5ForConditionalGeneration.from_pretrained(tmp_path).double()
    for case in range(5):
        ids, _ = sources(10 * number + case, batch=3)
        settings = random_settings(draw, beams=case % 2 > 0, sampling=True)
        torch.manual_seed(case)
        expected = theirs.generate(input_ids=ids[:1], **settings)
        torch.manual_seed(case)
        found = ours.generate(ids[:1], **settings)
        assert without_padding(found) == without_padding(expected), settings


@pytest.mark.parametrize("beams", [1, 3])
def test_sampling_is_reproducible(model, beams):
    ids, mask = sources(0)
    settings = {
        "max_new_tokens": 10,
        "do_sample": True,
        "num_beams": beams,
        "num_return_sequences": 3,
        "top_k": 20,
    }
    rows = [
        model.generate(ids, mask, generator=torch.Generator().manual_seed(seed), **settings)
        for seed in (7, 7, 8)
    ]
    assert torch.equal(rows[0], rows[1])
    assert rows[0].shape != rows[2].shape or not torch.equal(rows[0], rows[2])
    assert len(rows[0]) == 12


def test_returned_beams_differ_and_the_best_comes_first(model):
    ids, mask = sources(2)
    one = model.generate(ids, mask, max_new_tokens=8, num_beams=4)
    four = model.generate(ids, mask, max_new_tokens=8, num_beams=4, num_return_sequences=4)
    assert without_padding(four[::4]) == without_padding(one)
    for i in range(len(ids)):
        assert len({tuple(row) for row in without_padding(four[4 * i : 4 * i + 4])}) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_return_sequences": 2}, "num_return_sequences is 2"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences is 3"),
        ({"early_stopping": "always"}, "early_stopping is 'always'"),
        ({"early_stopping": 1}, "early_stopping is 1"),
        ({"do_sample": "yes"}, "do_sample is 'yes'"),
        ({"do_sample": 1}, "do_sample is 1"),
    ],
)
def test_settings_that_contradict_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        GenerationConfig(**{"max_new_tokens": 5, **settings})


ODD = [math.nan, math.inf, -math.inf, -1, 0, 1e-300, 1e300, 10**30, True, None, "3", 2.5, [1]]
# Which of these are allowed; every other is refused.
ALLOWED = {
    "max_new_tokens": [],
    "min_new_tokens": [0, 10**30],
    "num_beams": [],
    "length_penalty": [-1, 0, 1e-300, 2.5],
    "no_repeat_ngram_size": [0, 10**30],
    "repetition_penalty": [2.5],
    "temperature": [2.5],
    "top_k": [0, 10**30],
    "top_p": [],
    "num_return_sequences": [],
}


@pytest.mark.parametrize("name", RANGES)
def test_odd_settings_are_refused_by_name(name):
    for value in ODD:
        settings = {"max_new_tokens": 5, "do_sample": True, name: value}
        if (type(value), value) in [(type(allowed), allowed) for allowed in ALLOWED[name]]:
            assert getattr(GenerationConfig(**settings), name) == value
        else:
            with pytest.raises(ValueError, match=rf"^{name} is .*; it must be (an integer|a num)"):
                GenerationConfig(**settings)
    assert RANGES.keys() == ALLOWED.keys()


@pytest.mark.parametrize(
    "settings",
    [
        *({"length_penalty": p, "num_beams": 3} for p in (-10, 10)),
        *({"repetition_penalty": p} for p in (1e-6, 1e6)),
        *(
            {"temperature": p, "do_sample": True, "num_beams": n}
            for p in (1e-6, 1e6)
            for n in (1, 2)
        ),
        {"top_p": 1e-9, "do_sample": True},
        {"top_k": 10**30, "do_sample": True},
        {"no_repeat_ngram_size": 10**30},
        {"min_new_tokens": 10**30},
        {"num_beams": 70},
    ],
)
def test_settings_at_their_bounds_generate(model, settings):
    found = model.generate(*sources(0), max_new_tokens=6, **settings)
    assert found.shape[0] == 4
    assert 2 <= found.shape[1] <= 7


@pytest.mark.parametrize("shape", [(1, 3), (8, 3), (4, 0), (4,)])
def test_prompts_that_do_not_fit_the_sources_are_refused(model, shape):
    ids, mask = sources(0)
    prompts = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"decoder_input_ids must be \(4, at least 1\)"):
        model.generate(ids, mask, decoder_input_ids=prompts, max_new_tokens=3)
    with pytest.raises(ValueError, match=r"float32, not integers"):
        model.generate(ids, mask, decoder_input_ids=torch.ones(4, 3), max_new_tokens=3)


def test_there_is_no_default_length(model):
    with pytest.raises(TypeError, match="max_new_tokens"):
        model.generate(*sources(0))


def test_generation_config_is_written_without_settings_that_are_not_used():
    greedy = GenerationConfig(max_new_tokens=9, no_repeat_ngram_size=2).to_dict()
    assert greedy == {
        "max_new_tokens": 9,
        "min_new_tokens": 0,
        "num_beams": 1,
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.0,
        "do_sample": False,
        "num_return_sequences": 1,
    }
    beams = GenerationConfig(max_new_tokens=9, num_beams=2, early_stopping="never").to_dict()
    assert beams.keys() - greedy.keys() == {"length_penalty", "early_stopping"}
    sampling = GenerationConfig(max_new_tokens=9, do_sample=True).to_dict()
    assert sampling.keys() - greedy.keys() == {"temperature", "top_k", "top_p"}
