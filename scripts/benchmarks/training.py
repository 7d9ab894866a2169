"""Training speed and memory of both sides, and the share of the machine's peak that minift reaches.

The peak is the rate, in floating-point operations per second, at which the same machine multiplies
two large matrices in the same run.  `--profile` shows the time of minift's step by purpose.
"""

import multiprocessing
import statistics
import tempfile
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers import PEERS, MiniftStep, PeerStep, alternate, speed_columns
from minift import hub
from minift.data.batching import training_batches
from minift.device import pick_device
from minift.errors import UserError
from minift.options import check_range, option
from minift.reports.tables import markdown_table
from minift.tasks.registry import TASKS
from minift.terminal import print_line
from minift.training.log import peak_memory_mb
from minift.training.memory import compile_layers, enable_gradient_checkpointing

OURS = "minift"
BEST = "transformers, length-grouped, fused AdamW"
DEFAULT = "transformers, random batches, AdamW"
MATRIX_PRODUCT = "a large matrix product"
MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}  # rows and columns

# Purpose of an operation of torch -> the beginnings of its name.
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
    """Measurement."""

    rounds: int = option(15, "Rounds in which the sides run, in turn.")
    steps: int = option(4, "Training steps of each side in a round.")
    profile: bool = option(False, "Show the time of minift's step by purpose.")

    def __post_init__(self) -> None:
        for name in ("rounds", "steps"):
            check_range(self, name, 1, 100_000)


def training(task_name, task_options, options, measurement):
    """Time steps of all sides, measure their memory, and compare losses with the same weights."""
    task_class = TASKS[task_name]
    device = pick_device(options.device)
    features, batches = make_batches(task_class, task_options, options)
    wanted = (measurement.rounds + 1) * measurement.steps
    if len(batches[OURS]) < wanted:
        raise UserError(
            f"--train-file makes {len(batches[OURS])} batches, but --rounds and --steps need "
            f"{wanted}, warmup included; lower --rounds, --steps or --batch-size"
        )
    ours = side_of(OURS, task_name, task_options, options)
    best, default = (side_of(name, task_name, task_options, options) for name in (BEST, DEFAULT))
    gap = largest_loss_difference(task_name, ours, features)
    print_line(f"losses of single texts differ by at most {gap:.2g}")

    def steps(side, name):
        def take(i):
            start = (i + 1) * measurement.steps
            for indices in batches[name][start : start + measurement.steps]:
                side.step([features[j] for j in indices], 1e-5)

        return take

    size = MATRIX_SIZES[device.type]
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    sides = {
        OURS: steps(ours, OURS),
        BEST: steps(best, BEST),
        DEFAULT: steps(default, DEFAULT),
        MATRIX_PRODUCT: lambda i: a @ b,
    }
    seconds, _ = alternate(sides, measurement.rounds)
    per_token = {}
    for name in (OURS, BEST, DEFAULT):
        real = [
            sum(features[j].length for indices in part for j in indices)
            for part in in_rounds(batches[name], measurement)
        ]
        per_token[name] = [s / n for s, n in zip(seconds[name], real, strict=True)]
    memory = peak_memories(list(per_token), task_name, task_options, options)
    rows = [
        {
            "training step": name,
            "real tokens per second": round(1 / statistics.median(times)),
            **speed_columns(per_token[OURS], times),
            "memory, MB": round(memory[name]),
        }
        for name, times in per_token.items()
    ]
    print_line("\n" + markdown_table(rows))

    peak = 2 * size**3 / statistics.median(seconds[MATRIX_PRODUCT])  # operations per second
    first = batches[OURS][: measurement.steps]
    flops = [count_flops(ours, [features[j] for j in indices]) for indices in first]
    tokens = sum(features[j].length for indices in first for j in indices)
    least_seconds = sum(flops) / tokens / peak  # for a token, at the peak
    share = least_seconds / statistics.median(per_token[OURS])
    each = sum(flops) / tokens / 1e6
    print_line(
        f"\n{MATRIX_PRODUCT}: {peak / 1e9:.0f} GFLOP/s; a step of {OURS} does {each:.0f} MFLOP for "
        f"a token, at {share:.0%} of that rate"
    )
    if measurement.profile:
        rows = time_by_purpose(ours, [[features[j] for j in indices] for indices in first])
        print_line("\n" + markdown_table(rows))


def make_batches(task_class, task_options, options):
    """The training features, and the batches of each side."""
    task, _, splits = task_class.from_options(task_options)
    features = task.featurize(splits["train"], training=True)
    lengths = [feature.length for feature in features]
    grouped, random = (
        training_batches(lengths, options.batch_size, options.seed, 0, by_length=by_length)
        for by_length in (True, False)
    )
    return features, {OURS: grouped, BEST: grouped, DEFAULT: random}


def side_of(name, task_name, task_options, options):
    """A side with its own model, ready to train."""
    device = pick_device(options.device)
    task, model, _ = TASKS[task_name].from_options(task_options)
    if name == OURS:
        if options.gradient_checkpointing:
            enable_gradient_checkpointing(model)
        if options.compile:
            compile_layers(model)
        return MiniftStep(task, model.to(device), options)
    peer = PEERS[task_name](task, hub.find_checkpoint(task_options.model)).to(device)
    return PeerStep(task, peer, options, fused=name == BEST)


def largest_loss_difference(task_name, ours, features):
    """Load minift's weights into the peer; the largest difference of the losses of single texts."""
    with tempfile.TemporaryDirectory() as folder:
        ours.model.save_pretrained(folder)
        peer = PEERS[task_name](ours.task, folder).to(ours.model.device)
    gaps = []
    with torch.inference_mode():
        for feature in features[:8]:
            one = ours.task.collate([feature]).to(ours.model.device)
            a, b = (ours.task.loss(m.eval(), one)[0] for m in (ours.model, peer))
            gaps.append(abs(a - b).item())
    return max(gaps)


def in_rounds(batches, measurement):
    """Yield the batches of each round that is counted."""
    for i in range(1, measurement.rounds + 1):
        yield batches[i * measurement.steps : (i + 1) * measurement.steps]


def count_flops(side, features):
    """Floating-point operations of a step, forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        side.step(features, 1e-5)
    return counter.get_total_flops()


def peak_memories(names, task_name, task_options, options):
    """Side -> the MB that a few steps need in a process of their own, model included."""
    calls = [(name, task_name, task_options, options) for name in names]
    # At the same time on a GPU, whose memory is counted for each process.
    jobs = len(calls) if pick_device(options.device).type == "cuda" else 1
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        return dict(zip(names, pool.starmap(_peak_memory, calls, chunksize=1), strict=True))


def _peak_memory(name, task_name, task_options, options):
    features, batches = make_batches(TASKS[task_name], task_options, options)
    import transformers  # noqa: F401  (in each side, so that the import does not count)

    device = pick_device(options.device)
    before = peak_memory_mb(device)
    side = side_of(name, task_name, task_options, options)
    for indices in batches[name][:8]:
        side.step([features[j] for j in indices], 1e-5)
    return peak_memory_mb(device) - before


def time_by_purpose(side, batches):
    """The share of each purpose in the time of a side's steps, as rows of a table."""
    on_gpu = side.model.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as profiled:
        for features in batches:
            side.step(features, 1e-5)
    sums = dict.fromkeys([*PURPOSES, "all else"], 0.0)
    for event in profiled.key_averages():
        if on_gpu and not event.key.startswith("aten::"):
            continue  # a kernel: its time is counted with the operation that launched it
        name = event.key.removeprefix("aten::")
        matching = (purpose for purpose, starts in PURPOSES.items() if name.startswith(starts))
        time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        sums[next(matching, "all else")] += time
    total = sum(sums.values())
    return [{"purpose": name, "share": f"{part / total:.1%}"} for name, part in sums.items()]
