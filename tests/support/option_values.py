"""Every flag of every script: the odd values to try, and those of them that must succeed.

A value that is not among the accepted ones must be refused with status 2.  A script with a flag
that has no row here fails tests/scripts/test_option_values.py.
"""

from __future__ import annotations

from dataclasses import dataclass

DIRECTORY, MISSING, BELOW, LONG = "a-directory", "missing/file", "a-file/below", "x" * 300
HUGE = "99999999999999999999"

# Kind of value -> values that are odd for it.
INTEGER = ("-1", "0", "1", "1.5", "nan", "inf", "", HUGE)
NUMBER = ("-1", "0", "0.5", "1", "nan", "inf", "-inf", "1e300", "")
CHOICE = ("", "nonsense", DIRECTORY)
FILE = ("", DIRECTORY, MISSING, BELOW, LONG)
TEXT = ("", DIRECTORY, LONG)
SWITCH = (None,)  # no value


@dataclass(frozen=True)
class Row:
    """The values of a flag: the odd ones of its kind, and the accepted ones.

    extra: flags that an accepted value needs beside it.
    long: values that are allowed, but that make a run too long to be tried.
    """

    kind: tuple[str | None, ...]
    accepted: tuple[str | None, ...] = ()
    extra: tuple[str, ...] = ()
    long: tuple[str | None, ...] = ()

    @property
    def values(self) -> list[str | None]:
        """All values to try."""
        return [v for v in dict.fromkeys((*self.kind, *self.accepted)) if v not in self.long]


def integer(*accepted: str, extra: tuple[str, ...] = (), long: tuple[str, ...] = ()) -> Row:
    return Row(INTEGER, accepted, extra, long)


def number(*accepted: str, extra: tuple[str, ...] = ()) -> Row:
    return Row(NUMBER, accepted, extra)


def choice(*accepted: str, extra: tuple[str, ...] = ()) -> Row:
    return Row(CHOICE, accepted, extra)


SHARE = number("0", "0.5", "1")
DROPOUT = number("0", "0.5")
COUNT = integer("0", "1", "2147483647")  # of steps, records, ...; 0: off
POSITIVE = integer("1", "2147483647")
SEED = integer("0", "1", "4294967295")
READABLE = Row(FILE)  # the base command gives the file that is accepted
ON, REFUSED = Row(SWITCH, SWITCH), Row(SWITCH)
LORA = ("--lora-rank", "2")

ROWS: dict[str, Row] = {
    # The model and the data
    "--model": Row(TEXT),
    "--train-file": READABLE,
    "--dev-file": READABLE,
    "--test-file": READABLE,
    "--first-train-file": READABLE,
    "--first-dev-file": READABLE,
    "--probe-file": READABLE,
    "--max-length": integer("16"),
    "--dropout": DROPOUT,
    "--label-smoothing": DROPOUT,
    "--from-scratch": ON,
    "--text-column": Row(TEXT, ("0",), ("--label-column", "1")),
    "--pair-column": Row(TEXT, ("0",), ("--text-column", "0", "--label-column", "1")),
    "--label-column": Row(TEXT, ("1",), ("--text-column", "0")),
    "--truncation": choice("head", "head+tail", "windows"),
    "--pooling": choice("cls", "mean", "pooler"),
    "--r-drop": number("0", "0.5", "1"),
    "--class-weights": choice("none", "balanced"),
    "--positive-label": Row(TEXT, ("pos", "neg")),
    "--token-column": integer("-1", "0", "1"),
    "--tag-column": integer("-1", "1"),
    "--scheme": choice("auto", "iob1", "iob2"),
    "--label-strategy": choice("first", "all", "last"),
    "--aggregation-strategy": choice("first", "average", "max", "majority", "last"),
    "--decoding": choice("viterbi", "argmax"),
    "--doc-stride": integer("0", "1"),
    "--negative-windows": choice("null", "drop"),
    "--max-answer-length": integer("1", "10000"),
    "--n-best-size": integer("1", "1000"),
    "--skip-bad-records": ON,
    "--document-column": Row(TEXT, ("document",)),
    "--summary-column": Row(TEXT, ("summary",)),
    "--source-prefix": Row(TEXT, ("", DIRECTORY, LONG)),
    "--targets": choice("first", "all"),
    "--max-target-length": integer("2"),
    "--num-beams": integer("1", "2"),
    "--length-penalty": number("-1", "0", "0.5", "1", "-10", "10"),
    "--no-repeat-ngram-size": integer("0", "1", HUGE),
    "--beam-early-stopping": choice("true", "false", "never"),
    # The run
    "--output-dir": Row(("", "a-file", BELOW, LONG), (DIRECTORY, MISSING)),
    "--resume": REFUSED,
    "--overwrite": ON,
    "--accept-changes": REFUSED,
    "--epochs": integer("1", long=("1000000",)),
    "--batch-size": integer("1", "65536"),
    "--gradient-accumulation-steps": POSITIVE,
    "--learning-rate": number("0.5", "1", "1e-12"),
    "--lr-scheduler-type": choice(
        "linear", "cosine", "constant", "inverse-sqrt", "one-cycle", "exponential"
    ),
    "--warmup-ratio": SHARE,
    "--layerwise-lr-decay": number("0.5", "1", "1e-6"),
    "--head-lr-multiplier": number("0.5", "1", "1e-12"),
    "--optimizer": choice("adamw", "adafactor"),
    "--weight-decay": number("0", "0.5", "1"),
    "--max-grad-norm": number("0.5", "1", "1e300", "1e-12"),
    "--l2-sp": number("0", "0.5", "1"),
    "--freeze-encoder": ON,
    "--freeze-embeddings": ON,
    "--freeze-layers": integer("0", "1"),
    "--gradual-unfreezing": COUNT,
    "--reinit-layers": integer("0", "1"),
    "--lora-rank": integer("0", "1", "1024"),
    "--lora-alpha": number("0.5", "1", "1e-6", "1e6", extra=LORA),
    "--lora-dropout": Row(NUMBER, ("0", "0.5"), LORA),
    "--lora-target-modules": Row(TEXT, ("query", "value"), LORA),
    "--bitfit": ON,
    "--swa-fraction": SHARE,
    "--wise-ft-alpha": SHARE,
    "--min-steps": integer("0", "1", long=("2147483647",)),
    "--group-by-length": ON,
    "--no-group-by-length": ON,
    "--eval-steps": COUNT,
    "--train-eval-samples": COUNT,
    "--early-stopping-patience": COUNT,
    "--metric-for-best-model": choice(),
    "--logging-steps": POSITIVE,
    "--save-steps": COUNT,
    "--gradient-checkpointing": ON,
    "--compile": Row(SWITCH, long=SWITCH),  # it compiles for a minute
    "--auto-micro-batch": ON,
    "--max-skipped-steps": COUNT,
    "--seed": SEED,
    "--device": Row((*CHOICE, "cuda:", "cuda:-1", f"cuda:{HUGE}", "cuda:٣"), ("auto", "cpu")),
    "--precision": Row((*CHOICE, "fp16"), ("fp32", "bf16")),
    "--seeds": integer("1", "2", long=("1000",)),
    # Experiments
    "--learning-rates": number("0.5", "1", "1e-12"),
    "--epochs-list": integer("1", long=("1000000",)),
    "--batch-sizes": integer("1", "65536"),
    "--trials": integer("0", "1"),
    "--jobs": integer("1", "1024"),
    "--num-samples": integer("1", long=("1000",)),
    "--limit": COUNT,
    "--examples": POSITIVE,
    "--first-text-column": Row(TEXT, ("0",), ("--first-label-column", "1")),
    "--first-label-column": Row(TEXT, ("1",), ("--first-text-column", "0")),
    "--replay-ratio": number("0", "0.5", "1", "1e300"),
    "--probe-steps": integer("1", long=("2147483647",)),
    "--join": POSITIVE,
    "--max-lengths": integer("32", "64"),
    "--doc-strides": integer("0", "1"),
    # Pre-training
    "--family": choice("t5", "bert", "distilbert"),
    "--vocab-size": integer("170"),
    "--d-model": integer("8", "16"),
    "--d-ff": integer("1", "16"),
    "--num-layers": integer("1", "2"),
    "--num-heads": integer("1", "2"),
    "--gap-sentence-ratio": SHARE,
    "--lead-ratio": SHARE,
    "--full-text-ratio": SHARE,
    "--tokenizer-documents": POSITIVE,
    "--max-steps": integer("1", long=("2147483647",)),
    "--block-size": integer("16"),
    "--eval-blocks": integer("1", "2"),
    "--workers": integer("0"),
    # Prediction and the rest
    "--file": READABLE,
    "--question": Row(()),
    "--json": ON,
    "--csv": ON,
    "--int8": ON,
    "--revision": Row(()),
    "--to": Row(()),
    "--rounds": integer("1", long=("100000",)),
    "--steps": integer("1", long=("100000",)),
    "--profile": ON,
    "--records": POSITIVE,
    "--sources": integer("1"),
    "--source-length": integer("1"),
    "--new-tokens": integer("1"),
    "--items": integer("1", "10"),
    "--pairs": Row(INTEGER[:2]),
    "--only": Row(CHOICE),
    "--encoder": Row(()),
    "--seq2seq": Row(()),
    "--calls": Row(INTEGER[:2]),
}
# Where a script takes other values for a flag than the rest.
EXCEPTIONS: dict[tuple[str, str], Row] = {
    ("find_lr classification", "--min-steps"): integer("0", "20", long=("2147483647",)),
    ("benchmark regression .", "--records"): Row(INTEGER[:2]),
    **{
        (script, flag): row
        for script in ("train_summarization", "compare_decoding")
        for flag, row in {
            "--head-lr-multiplier": Row(NUMBER),
            "--bitfit": REFUSED,  # T5 has no biases
            "--lora-target-modules": Row(TEXT, ("q", "wi"), LORA),
        }.items()
    },
    # The model reads single texts from a TSV without a header.
    ("predict", "--text-column"): Row(TEXT, ("0",)),
    ("predict", "--pair-column"): Row((*TEXT, "0")),
    ("predict", "--label-column"): Row(TEXT, ("1",), ("--text-column", "0")),
    ("predict", "--token-column"): Row(INTEGER),
    ("predict", "--tag-column"): Row(INTEGER),
    ("predict", "--document-column"): Row(TEXT),
    ("predict", "--summary-column"): Row(TEXT),
    ("benchmark generation", "--family"): choice("t5"),
    ("compare_forgetting", "--probe-steps"): Row(INTEGER),  # without a --probe-file
    # Adafactor takes no larger step than 1 / sqrt(step).
    ("pretrain", "--learning-rate"): number("0.5", "1", "1e-12", "1e300"),
    ("pretrain", "--freeze-encoder"): REFUSED,  # the base command has no head
    ("pretrain", "--batch-size"): integer("1", "8", long=("65536",)),
    ("pretrain", "--eval-steps"): POSITIVE,
    ("pretrain", "--workers"): integer("0", long=("1",)),  # it starts a process
    **{
        (script, "--resume"): ON  # a comparison continues what it finds, or begins
        for script in (
            *("sweep classification", "compare_decoding", "compare_forgetting"),
            *("compare_freezing", "compare_label_strategies", "compare_long_contexts"),
        )
    },
    ("train_classification", "--metric-for-best-model"): choice("accuracy", "loss"),
    ("train_ner", "--metric-for-best-model"): choice("f1", "token_accuracy"),
    ("train_qa", "--metric-for-best-model"): choice("f1", "exact"),
    ("train_summarization", "--metric-for-best-model"): choice("rougeL"),
}


def row_of(script: str, flag: str) -> Row:
    """The row of a script's flag."""
    return EXCEPTIONS.get((script, flag), ROWS[flag])
