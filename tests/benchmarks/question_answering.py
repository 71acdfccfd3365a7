"""QA: training and prediction against the settings of transformers' own example, in turns.

    python tests/benchmarks/question_answering.py --data FILE_OF_SQUAD_FORM

BERT-base from its configuration with random weights, a file's real questions, WordPiece trained on
its passages. The plain way: windows padded to 384, fp32, batch 8, and the example's
post-processing (the 20 best starts and ends of each window, in Python). Prediction includes
post-processing. Each side runs in a process of its own, in turn; ratios are of the medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
MAX_LENGTH, STRIDE, N_BEST, MAX_ANSWER = 384, 128, 20, 30


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=64, help="to train on, and to predict")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "plain"), help="(one run, for the rounds)")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(globals()[args.side](args)))
        return
    sides = {"ours": [], "plain": []}
    for number in range(args.rounds):
        for side, found in sides.items():
            command = [sys.executable, __file__, "--side", side, "--data", str(args.data)]
            command += ["--questions", str(args.questions)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found.append(json.loads(output.splitlines()[-1]))
            print(number + 1, side, found[-1], flush=True)
    for key in ("train", "predict"):
        ours, plain = (statistics.median(run[key] for run in sides[s]) for s in ("ours", "plain"))
        print(f"{key}: {args.questions / ours:.2f} against {args.questions / plain:.2f} questions "
              f"a second, {plain / ours:.1f} times")  # fmt: skip
    post, predict = (
        statistics.median(run[k] for run in sides["ours"]) for k in ("post", "predict")
    )
    print(f"post-processing: {100 * post / predict:.1f} % of prediction")


def prepare(args):
    """A random BERT-base, its tokenizer, and some of the file's questions."""
    import random

    import torch
    import transformers
    from tokenizers import BertWordPieceTokenizer

    from common.data_files import json_file
    from QA import squad

    examples, _ = squad.parse(json_file(args.data), str(args.data))
    pieces = BertWordPieceTokenizer(lowercase=False)
    texts = sorted({e.context for e in examples} | {e.question for e in examples})
    pieces.train_from_iterator(texts, vocab_size=28996, show_progress=False)
    with tempfile.TemporaryDirectory() as folder:
        pieces.save_model(folder)
        tokenizer = transformers.BertTokenizer.from_pretrained(folder, do_lower_case=False)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=28996, pad_token_id=0)
    model = transformers.BertForQuestionAnswering(config)
    return model, tokenizer, random.Random(0).sample(examples, args.questions)


def ours(args):
    import numpy as np

    from common import training
    from common.device import choose_device
    from QA import data, task, windows

    model, tokenizer, examples = prepare(args)
    device = choose_device("auto", "auto")
    settings = {"learning_rate": 2e-5, "num_train_epochs": 1, "warmup_ratio": 0.1, "seed": 0,
                "weight_decay": 0.01, "max_grad_norm": 1.0, "save_minutes": 60}  # fmt: skip
    flags = argparse.Namespace(**settings, batch_size=16)
    held = data.Data({}, [], True, True, None, {}, STRIDE, None)
    encoded, _ = task.encode(held, examples, tokenizer, MAX_LENGTH)
    ended = []
    for part in (encoded[:16], encoded):  # the first part warms up
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            training.fit(
                model, part, flags, device, lambda: ended.append(time.perf_counter()) or {},
                "", Path(folder), loss=task.loss, n_labels=task.n_labels,
            )  # fmt: skip
    seconds = ended[-1] - started  # without saving the state, once an epoch
    started = time.perf_counter()
    again, _ = task.encode(held, examples, tokenizer, MAX_LENGTH)
    task.predict(model, tokenizer, held, examples, again, flags, device, "test")
    predicted = time.perf_counter() - started
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=(len(row["input_ids"]), 2)).astype(np.float32) for row in encoded]
    started = time.perf_counter()
    kept = {}
    for row, logits in zip(encoded, outputs, strict=True):
        context = examples[row["example"]].context
        kept.setdefault(row["example"], []).append(windows.reduce(logits, row, context))
    for number, found in kept.items():
        windows.merge(found, examples[number].context, True)
    post = time.perf_counter() - started
    return {"train": seconds, "predict": predicted, "post": post, "precision": device.precision}


def plain(args):
    import torch

    model, tokenizer, examples = prepare(args)

    def batches(features, keys):
        for start in range(0, len(features["input_ids"]), 8):
            yield {key: torch.tensor(features[key][start : start + 8]) for key in keys}

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
    train(placed[:2])
    started = time.perf_counter()
    train(placed)
    seconds = time.perf_counter() - started
    model.eval()
    started = time.perf_counter()
    features = encode(tokenizer, examples)
    starts, ends = [], []
    with torch.no_grad():
        for batch in batches(features, keys):
            out = model(**batch)
            starts += out.start_logits.numpy().tolist()
            ends += out.end_logits.numpy().tolist()
    post_process(examples, features, starts, ends)
    return {"train": seconds, "predict": time.perf_counter() - started, "precision": "fp32"}


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
