"""Comparing all heads of two encoders against a plain loop, in alternating runs.

    python tests/benchmarks/attention.py --data_dir FOLDER_WITH_NLI_JSONL

Two BERT-bases from their configuration with random weights, real sentence pairs, WordPiece trained
on them. The plain loop: one pair at a time in fp32, then head by head the cosine of the flattened
maps, by numpy or by scikit-learn; ours computes all four measures. Each side runs in its own
process. Ratios are of the medians. Last, peak memory for the pairs once and four times.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import bench

VOCAB_SIZE = 28996


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, help="with train and test.jsonl", required=True)
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--times", type=int, default=1, help="(all pairs so many times)")
    parser.add_argument("--pairs", type=Path, help="(the encoded pairs)")
    args = bench.parse(parser, SIDES)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, bench.watched(args.device):
        pairs = encode(args.data_dir, args.examples)
        json.dump(pairs, file)
        file.flush()
        lengths = [len(pair["input_ids"]) for pair in pairs]
        print(
            f"{len(pairs)} pairs, {statistics.mean(lengths):.0f} sub-words, at most {max(lengths)}"
        )
        runs = bench.in_turns(SIDES, args.rounds, "--pairs", file.name)
        four = bench.side("bf16", "--times", "4", "--pairs", file.name)["peak_memory_mib"]
    for ours in ("bf16", "fp32"):
        for plain in ("numpy", "sklearn"):
            values = (1e3 * bench.median(runs[side], "seconds_per_pair") for side in (ours, plain))
            bench.result(f"attention, {ours}, loop with {plain}", *values, "ms a pair", "")
    once = bench.median(runs["bf16"], "peak_memory_mib")
    print(f"peak memory: {len(pairs)} pairs {once:.0f} MiB, {4 * len(pairs)} pairs {four:.0f} MiB")


def encode(folder, n):
    """`n` pairs of the test split, encoded by a WordPiece of all training sentences."""

    def pairs(name):
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        return [(row["sentence1"], row["sentence2"]) for row in map(json.loads, lines)]

    tokenizer = bench.word_pieces(text for pair in pairs("train.jsonl") for text in pair)
    test = pairs("test.jsonl")
    chosen = random.Random(0).sample(test, min(n, len(test)))
    encoded = (tokenizer(*pair, truncation=True, max_length=512) for pair in chosen)
    names = ("input_ids", "token_type_ids")
    return [
        {key: row[key] for key in names} | {"special": [False] * len(row["input_ids"])}
        for row in encoded
    ]


def prepare(args):
    """(two random BERT-bases on the device, the pairs)."""
    import torch
    import transformers

    from common.device import choose_device

    models, device = [], choose_device(args.device, "fp32")
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = transformers.AutoModel.from_config(
            transformers.BertConfig(vocab_size=VOCAB_SIZE), attn_implementation="eager"
        )
        models.append(model.to(device.torch_device).eval())
    return models, json.loads(args.pairs.read_text()) * args.times, device


def timed(run, n):
    """(its result, seconds a pair by the clock and of the CPU, which others slow less)."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = run()
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    return result, {"seconds_per_pair": clock / n, "cpu_seconds_per_pair": cpu / n}


def ours(args):
    from common import attention_maps
    from common.device import choose_device, peak_memory

    (pretrained, other), pairs, _ = prepare(args)
    device = choose_device(args.device, args.side)

    def compare(pairs):
        return attention_maps.compare(
            pretrained, {"other": other}, pairs, device, pad_token_id=0, batch_size=16
        )["other"]

    longest = sorted(pairs, key=lambda pair: -len(pair["input_ids"]))
    compare(longest[:16])  # warms up; memory grows
    mean, seconds = timed(lambda: compare(pairs).mean, len(pairs))
    return seconds | {
        "peak_memory_mib": peak_memory(device)["peak_memory_mib"],
        "mean": {metric: value.mean() for metric, value in mean.items()},
    }


def plain(args):
    import numpy as np
    import torch
    from sklearn.metrics.pairwise import cosine_similarity

    from common.device import peak_memory

    (pretrained, other), pairs, device = prepare(args)

    def cosine(a, b):
        if args.side == "sklearn":
            return cosine_similarity(a.reshape(1, -1), b.reshape(1, -1))[0, 0]
        a, b = a.ravel(), b.ravel()
        return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))

    def loop(pairs):
        total, names = 0.0, ("input_ids", "token_type_ids")
        for pair in pairs:
            inputs = {k: torch.tensor([pair[k]], device=device.torch_device) for k in names}
            outputs = (model(**inputs, output_attentions=True) for model in (pretrained, other))
            before, after = ([m[0].cpu().numpy() for m in o.attentions] for o in outputs)
            layers = zip(before, after, strict=True)
            total = total + np.array([list(map(cosine, a, b)) for a, b in layers])
        return total / len(pairs)

    with torch.inference_mode():
        loop(sorted(pairs, key=lambda pair: -len(pair["input_ids"]))[:4])  # warms up
        mean, seconds = timed(lambda: loop(pairs), len(pairs))
    return seconds | {
        "peak_memory_mib": peak_memory(device)["peak_memory_mib"],
        "mean": {"cosine": float(mean.mean())},
    }


SIDES = {"bf16": ours, "fp32": ours, "numpy": plain, "sklearn": plain}


if __name__ == "__main__":
    main()
