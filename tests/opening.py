"""Open models that minift saved in `transformers`, and compare with minift's predictions.

    python tests/opening.py CASES.json

Runs in any environment with `transformers` and without minift, so that several versions can be
tried; tests/tasks/test_opening.py writes CASES.json and runs it.  CASES.json is a list of objects:

    name, folder   of the saved model
    task           classification, ner, qa or summarization
    refused        true: `transformers` must refuse to load the model
    tokens         [{"texts": one text or two, "ids": ...}, ...], truncated at the tokenizer's limit
    inputs         of the pipeline
    expected       minift's prediction for each of them, see the functions below

Where the installed version has a pipeline for the task, its answers are compared, else the model's
outputs.  Prints a line for each difference; the exit status is 1 if there are any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, pipeline

TOLERANCE = 1e-5
MODELS = {
    "classification": transformers.AutoModelForSequenceClassification,
    "ner": transformers.AutoModelForTokenClassification,
    "qa": transformers.AutoModelForQuestionAnswering,
    "summarization": transformers.AutoModelForSeq2SeqLM,
}
PIPELINES = {"qa": "question-answering", "summarization": "summarization"}


def differences(case: dict[str, Any]) -> Iterator[str]:
    """What `transformers` does otherwise than minift, one line each."""
    folder, task = case["folder"], case["task"]
    if case.get("refused"):
        try:
            MODELS[task].from_pretrained(folder)
        except ValueError:
            return
        yield "it is loaded, and must be refused"
        return
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row in case["tokens"]:
        found = tokenizer(*row["texts"], truncation=True)["input_ids"]
        if found != row["ids"]:
            yield f"the tokens of {row['texts']} are {found}, not {row['ids']}"
    model, report = MODELS[task].from_pretrained(folder, output_loading_info=True)
    if any(report.values()):
        yield f"the tensors on disk do not fit: {report}"
    compare = {
        "classification": compare_labels,
        "ner": compare_tags,
        "qa": compare_answers,
        "summarization": compare_summaries,
    }[task]
    yield from compare(case, model.eval(), tokenizer)


def far(found: list[float], expected: list[float]) -> bool:
    return bool((torch.tensor(found) - torch.tensor(expected)).abs().max() > TOLERANCE)


def compare_labels(case: dict[str, Any], model: Any, tokenizer: Any) -> Iterator[str]:
    """inputs: one text or two.  expected: {label: probability}."""
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    for texts, expected in zip(case["inputs"], case["expected"], strict=True):
        inputs = dict(zip(("text", "text_pair"), texts, strict=False))
        rows = classify(inputs, truncation=True)
        found = {row["label"]: row["score"] for row in rows}
        if set(found) != set(expected) or far(
            [found[label] for label in expected], list(expected.values())
        ):
            yield f"{texts}: {found}, not {expected}"


def compare_tags(case: dict[str, Any], model: Any, tokenizer: Any) -> Iterator[str]:
    """inputs: a text.  expected: [tag, probability, start, end] of each token."""
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, ignore_labels=[])
    for text, expected in zip(case["inputs"], case["expected"], strict=True):
        found = [[row["entity"], row["start"], row["end"]] for row in tag(text)]
        scores = [float(row["score"]) for row in tag(text)]
        if found != [[t, start, end] for t, _, start, end in expected] or far(
            scores, [row[1] for row in expected]
        ):
            yield f"{text}: {found} {scores}, not {expected}"


def compare_answers(case: dict[str, Any], model: Any, tokenizer: Any) -> Iterator[str]:
    """inputs: question and context.  expected: answer, and logits start and end of all tokens."""
    answer = None
    if transformers.__version__.startswith("4."):
        answer = pipeline("question-answering", model=model, tokenizer=tokenizer)
    for (question, context), expected in zip(case["inputs"], case["expected"], strict=True):
        with torch.no_grad():
            outputs = model(**tokenizer(question, context, return_tensors="pt"))
        for name in ("start", "end"):
            if far(outputs[f"{name}_logits"][0].tolist(), expected[name]):
                yield f"{question}: other {name} logits"
        if answer is not None:
            limit = {"max_answer_len": expected["max_answer_length"], "align_to_words": False}
            found = answer(question=question, context=context, **limit)["answer"]
            if found != expected["answer"]:
                yield f"{question} {context}: {found!r}, not {expected['answer']!r}"


def compare_summaries(case: dict[str, Any], model: Any, tokenizer: Any) -> Iterator[str]:
    """inputs: a document.  expected: the prefix, and the text of the summary."""
    summarize = None
    if transformers.__version__.startswith("4."):
        summarize = pipeline("summarization", model=model, tokenizer=tokenizer)
    for document, expected in zip(case["inputs"], case["expected"], strict=True):
        batch = tokenizer(expected["prefix"] + document, truncation=True, return_tensors="pt")
        (ids,) = model.generate(**batch)
        found = [tokenizer.decode(ids, skip_special_tokens=True).strip()]
        if summarize is not None:
            found.append(summarize(document, truncation=True)[0]["summary_text"].strip())
        if set(found) != {expected["text"]}:
            yield f"{document}: {found}, not {expected['text']!r}"


def main(path: str) -> int:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    failed = 0
    for case in cases:
        try:
            lines = list(differences(case))
        except Exception as error:
            lines = [f"{type(error).__name__}: {error}"]
        failed += bool(lines)
        for line in lines:
            print(f"{case['name']}: {line}")
    print(f"transformers {transformers.__version__}: {len(cases) - failed} of {len(cases)} agree")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
