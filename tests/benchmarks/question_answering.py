"""QA: training and prediction against the settings of transformers' own example, in turns.

    python tests/benchmarks/question_answering.py --data FILE_OF_SQUAD_FORM

BERT-base from its configuration with random weights, a file's real questions, WordPiece trained on
its passages. Ours: the first batches of a true epoch, bucketed over all windows of the file. The
plain way: windows padded to 384, fp32, batch 8, and the example's post-processing (the 20 best
starts and ends of each window, in Python), on fewer windows: all have one shape. Prediction
includes post-processing. Each side runs in a process of its own; ratios are of the medians.
"""

import argparse
import random
import time
from pathlib import Path

import bench

MAX_LENGTH, STRIDE, N_BEST, MAX_ANSWER = 384, 128, 20, 30
BATCH = 16  # windows, ours


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=10, help="of 16 windows, ours")
    parser.add_argument("--plain_batches", type=int, default=3, help="of 8 windows, the plain way")
    args = bench.parse(parser, {"ours": ours, "plain": plain})
    with bench.watched(args.device):
        sides = bench.in_turns(("ours", "plain"), args.rounds)
    for key, what in (("train", "training"), ("predict", "prediction")):
        ours_, plain_ = (bench.median(sides[side], key) for side in ("ours", "plain"))
        bench.result(f"QA {what}, BERT-base", ours_, plain_, "windows/s", "4x", rate=True)
    padding, share = (bench.median(sides["ours"], key) for key in ("padding", "post_share"))
    print(f"padding {100 * padding:.1f} % of the timed positions")
    print(f"post-processing: {100 * share:.1f} % of prediction (goal: under 5)")


def prepare(args):
    """A random BERT-base, its tokenizer, and the file's questions in random order."""
    import torch
    import transformers

    from common.data_files import json_file
    from QA import squad

    examples, _ = squad.parse({str(args.data): json_file(args.data)})
    tokenizer = bench.word_pieces(
        sorted({e.context for e in examples} | {e.question for e in examples})
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=28996, pad_token_id=0)
    model = transformers.BertForQuestionAnswering(config)
    return model, tokenizer, random.Random(0).sample(examples, len(examples))


def ours(args):
    import numpy as np

    from common import batching
    from common.device import choose_device
    from QA import data, task, windows

    model, tokenizer, examples = prepare(args)
    device = choose_device(args.device, "auto")
    flags = bench.training_flags(BATCH)
    held = data.Data({}, [], True, doc_stride=STRIDE)
    encoded, _ = task.encode(held, examples, tokenizer, MAX_LENGTH)
    lengths = [len(row["input_ids"]) for row in encoded]
    batches = batching.epoch_batches(lengths, BATCH, 0, 0)[: args.batches]
    seconds = bench.train(model, encoded, batches, flags, device, task.loss)
    trained = sum(map(len, batches))

    some = examples[: BATCH * args.batches]
    first, _ = task.encode(held, some[:8], tokenizer, MAX_LENGTH)
    task.predict(model, tokenizer, held, some[:8], first, BATCH, device, "test")
    started = time.perf_counter()
    again, _ = task.encode(held, some, tokenizer, MAX_LENGTH)
    task.predict(model, tokenizer, held, some, again, BATCH, device, "test")
    predicted = time.perf_counter() - started
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=(len(row["input_ids"]), 2)).astype(np.float32) for row in again]
    started = time.perf_counter()
    for number, example in enumerate(some):
        own = [i for i, row in enumerate(again) if row["example"] == number]
        windows.answers([again[i] for i in own], [outputs[i] for i in own], example.context, True)
    return {
        "train": trained / seconds,
        "predict": len(again) / predicted,
        "post_share": (time.perf_counter() - started) / predicted,
        "padding": bench.padding(lengths, batches),
        "precision": device.precision,
    }


def plain(args):
    import torch

    from common.device import choose_device

    model, tokenizer, examples = prepare(args)
    where = choose_device(args.device, "fp32").torch_device
    model.to(where)
    examples = examples[: 8 * args.plain_batches]

    def batches(features, keys):
        for start in range(0, len(features["input_ids"]), 8):
            yield {key: torch.tensor(features[key][start : start + 8]).to(where) for key in keys}

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    keys = ("input_ids", "attention_mask", "token_type_ids")
    features = encode(tokenizer, examples)

    def train(some):
        model.train()
        for batch in some:
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    placed = list(batches(features, (*keys, "start_positions", "end_positions")))
    train(placed[:1])
    started = time.perf_counter()
    train(placed)
    seconds, n = time.perf_counter() - started, len(features["input_ids"])
    model.eval()
    started = time.perf_counter()
    features = encode(tokenizer, examples)
    starts, ends = [], []
    with torch.no_grad():
        for batch in batches(features, keys):
            out = model(**batch)
            starts += out.start_logits.tolist()
            ends += out.end_logits.tolist()
    post_process(examples, features, starts, ends)
    return {"train": n / seconds, "predict": n / (time.perf_counter() - started)}


def encode(tokenizer, examples):
    """The example's features: padded windows, positions of the answer, offsets of the passage."""
    features = tokenizer(
        [e.question.strip() for e in examples], [e.context for e in examples],
        truncation="only_second", max_length=MAX_LENGTH, stride=STRIDE, padding="max_length",
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    features["start_positions"], features["end_positions"] = [], []
    for i, number in enumerate(features["overflow_to_sample_mapping"]):
        passage, answers = features.sequence_ids(i), examples[number].answers
        offsets = features["offset_mapping"][i]
        offsets = [o if s == 1 else None for o, s in zip(offsets, passage, strict=True)]
        features["offset_mapping"][i] = offsets
        start = end = 0
        if answers:
            a, b = answers[0]
            inside = [t for t, o in enumerate(offsets) if o and o[0] < b and o[1] > a]
            first, *_, last = (o for o in offsets if o)
            if inside and first[0] <= a and last[1] >= b:
                start, end = inside[0], inside[-1]
        features["start_positions"].append(start)
        features["end_positions"].append(end)
    return features


def post_process(examples, features, starts, ends):
    """The answers' texts, as the example's `postprocess_qa_predictions` has it."""
    import numpy as np

    of_example = [[] for _ in examples]
    for i, number in enumerate(features["overflow_to_sample_mapping"]):
        of_example[number].append(i)
    answers = []
    for example, own in zip(examples, of_example, strict=True):
        found, null = [], None
        for i in own:
            start, end, offsets = starts[i], ends[i], features["offset_mapping"][i]
            score = start[0] + end[0]
            null = score if null is None else min(null, score)
            for a in np.argsort(start)[-1 : -N_BEST - 1 : -1].tolist():
                for b in np.argsort(end)[-1 : -N_BEST - 1 : -1].tolist():
                    if offsets[a] and offsets[b] and a <= b < a + MAX_ANSWER:
                        place = offsets[a][0], offsets[b][1]
                        found.append({"place": place, "score": start[a] + end[b]})
        found = sorted(found, key=lambda entry: -entry["score"])[:N_BEST]
        found.append({"place": (0, 0), "score": null})
        scores = np.array([entry["score"] for entry in found])
        weights = np.exp(scores - scores.max())
        for entry, weight in zip(found, weights / weights.sum(), strict=True):
            entry["text"] = example.context[slice(*entry["place"])]
            entry["probability"] = weight
        answers.append(found)
    return answers


if __name__ == "__main__":
    main()
