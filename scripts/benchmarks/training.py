"""Training steps of both sides in turn: speed, memory, and how near the machine's limit it is.

The limit: the floating-point operations of our step, over the rate at which the same machine, in
the same run, multiplies two large matrices.  `--profile` says where the rest of the time goes.
"""

import multiprocessing
import statistics
import tempfile
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers import REFERENCES, Ours, Theirs, alternate, times_as_fast
from minift import hub
from minift.data.batching import training_batches
from minift.errors import InputError
from minift.tasks.base import option
from minift.tasks.registry import TASKS
from minift.training.log import markdown_table, peak_memory_mb
from minift.training.memory import compile_layers, recompute_layers
from minift.training.run import pick_device

OURS = "minift"
BEST = "transformers, length-grouped, fused AdamW"
DEFAULT = "transformers, random batches, AdamW"
PRODUCT = "a large matrix product"
SIZES = {"cpu": 2048, "cuda": 8192}  # rows and columns of its matrices

# What an operation of torch is for, by the beginning of its name.
PURPOSES = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "attention kernels": ("_scaled_dot_product", "_efficient_attention", "_flash_attention"),
    "optimiser": ("_fused_adamw_", "_foreach_", "lerp_", "linalg_vector_norm"),
    "activations": ("gelu", "relu", "threshold", "silu"),  # before "ge", which begins "gelu" too
    "dropout": ("random_", "ge", "bernoulli_"),
    "norms and softmax": ("native_layer_norm", "_softmax", "_log_softmax", "mean", "rsqrt", "pow"),
    "sums and products": ("add", "mul", "sum", "div", "sub", "neg", "where", "masked_fill"),
    "copies and fills": ("copy_", "cat", "fill_", "zero_", "clone", "index", "embedding", "_to_"),
}


@dataclass(frozen=True)
class TrainingOptions:
    """How long it is measured."""

    rounds: int = option(15, "Rounds in which the sides take turns.")
    steps: int = option(4, "Steps of each side in a round.")
    profile: bool = option(False, "Say what the time of our step goes into.")


def training(task, task_options, options, measured):
    task_class = TASKS[task][0]
    device = pick_device(options.device)
    features, batches = prepared(task_class, task_options, options)
    wanted = (measured.rounds + 1) * measured.steps
    if len(batches[OURS]) < wanted:
        raise InputError(
            f"--train-file makes {len(batches[OURS])} batches, but --rounds and --steps want "
            f"{wanted}, warm-up included; lower one of the three"
        )
    ours = side_of(OURS, task, task_options, options)
    best, default = (side_of(name, task, task_options, options) for name in (BEST, DEFAULT))
    print(f"losses of single texts differ by at most {same_losses(task, ours, features):.2g}")

    def steps(side, name):
        def take(i):
            start = (i + 1) * measured.steps
            for indices in batches[name][start : start + measured.steps]:
                side.step([features[j] for j in indices], 1e-5)

        return take

    size = SIZES[device.type]
    kind = torch.bfloat16 if options.precision == "bf16" else torch.float32
    a, b = torch.randn(2, size, size, device=device, dtype=kind)
    sides = {
        OURS: steps(ours, OURS),
        BEST: steps(best, BEST),
        DEFAULT: steps(default, DEFAULT),
        PRODUCT: lambda i: a @ b,
    }
    seconds, _ = alternate(sides, measured.rounds)
    per_token = {}
    for name in (OURS, BEST, DEFAULT):
        real = [
            sum(features[j].length for indices in part for j in indices)
            for part in in_rounds(batches[name], measured)
        ]
        per_token[name] = [s / n for s, n in zip(seconds[name], real, strict=True)]
    memory = peak_memories(list(per_token), task, task_options, options)
    rows = [
        {
            "training step": name,
            "real tokens per second": round(1 / statistics.median(times)),
            "seconds, relative": times_as_fast(per_token[OURS], times)[0],
            "from ... to": times_as_fast(per_token[OURS], times)[1],
            "memory, MB": round(memory[name]),
        }
        for name, times in per_token.items()
    ]
    print("\n" + markdown_table(rows))

    rate = 2 * size**3 / statistics.median(seconds[PRODUCT])
    part = batches[OURS][: measured.steps]
    flops = [operations(ours, [features[j] for j in indices]) for indices in part]
    tokens = sum(features[j].length for indices in part for j in indices)
    limit = sum(flops) / tokens / rate
    share = limit / statistics.median(per_token[OURS])
    each = sum(flops) / tokens / 1e6
    print(
        f"\n{PRODUCT}: {rate / 1e9:.0f} GFLOP/s; a step of {OURS} does {each:.0f} MFLOP for a "
        f"token, at {share:.0%} of that rate"
    )
    if measured.profile:
        print("\n" + markdown_table(purposes(ours, [[features[j] for j in i] for i in part])))


def prepared(task_class, task_options, options):
    """The training features, and the batches of each side."""
    story, _, splits = task_class.start(task_options)
    features = story.featurize(splits["train"], training=True)
    lengths = [feature.length for feature in features]
    grouped, random = (
        training_batches(lengths, options.batch_size, options.seed, 0, by_length=by_length)
        for by_length in (True, False)
    )
    return features, {OURS: grouped, BEST: grouped, DEFAULT: random}


def side_of(name, task, task_options, options):
    """A side, ready to take a step."""
    device = pick_device(options.device)
    story, model, _ = TASKS[task][0].start(task_options)
    if name == OURS:
        if options.recompute:
            recompute_layers(model)
        if options.compile:
            compile_layers(model)
        return Ours(story, model.to(device), options)
    reference = REFERENCES[task](story, hub.resolve(task_options.model)).to(device)
    return Theirs(story, reference, options, fused=name == BEST)


def same_losses(task, ours, features):
    """Our weights go to disk and are read by the reference: how far single losses are apart."""
    with tempfile.TemporaryDirectory() as folder:
        ours.model.save_pretrained(folder)
        theirs = REFERENCES[task](ours.task, folder).to(ours.model.device)
    gaps = []
    with torch.inference_mode():
        for feature in features[:8]:
            one = ours.task.collate([feature]).to(ours.model.device)
            a, b = (ours.task.loss(m.eval(), one)[0] for m in (ours.model, theirs))
            gaps.append(abs(a - b).item())
    return max(gaps)


def in_rounds(batches, measured):
    """The batches of each round that counts."""
    for i in range(1, measured.rounds + 1):
        yield batches[i * measured.steps : (i + 1) * measured.steps]


def operations(side, features):
    """Floating-point operations of a step, forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        side.step(features, 1e-5)
    return counter.get_total_flops()


def peak_memories(names, task, task_options, options):
    """MB that a process of its own needs for some steps, beyond those before it has a model."""
    calls = [(name, task, task_options, options) for name in names]
    # Side by side where that disturbs nothing: memory of a GPU is counted for each process.
    jobs = len(calls) if pick_device(options.device).type == "cuda" else 1
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        return dict(zip(names, pool.starmap(_peak_memory, calls, chunksize=1), strict=True))


def _peak_memory(name, task, task_options, options):
    features, batches = prepared(TASKS[task][0], task_options, options)
    import transformers  # noqa: F401  (for each side: what is imported is not what is compared)

    device = pick_device(options.device)
    before = peak_memory_mb(device)
    side = side_of(name, task, task_options, options)
    for indices in batches[name][:8]:
        side.step([features[j] for j in indices], 1e-5)
    return peak_memory_mb(device) - before


def purposes(side, batches):
    """What the time of our steps goes into, as rows of a table."""
    on_gpu = side.model.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as profiled:
        for features in batches:
            side.step(features, 1e-5)
    sums = dict.fromkeys([*PURPOSES, "all else"], 0.0)
    for event in profiled.key_averages():
        if on_gpu and not event.key.startswith("aten::"):
            continue  # a kernel, whose time is also that of the operation that began it
        name = event.key.removeprefix("aten::")
        own = (purpose for purpose, starts in PURPOSES.items() if name.startswith(starts))
        time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        sums[next(own, "all else")] += time
    total = sum(sums.values())
    return [{"purpose": name, "share": f"{part / total:.1%}"} for name, part in sums.items()]
