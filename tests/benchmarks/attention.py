"""Comparing all heads of two encoders against a plain loop, in alternating runs.

    python tests/benchmarks/attention.py --data_dir FOLDER_WITH_NLI_JSONL

Two BERT-bases from their configuration with random weights, real sentence pairs, WordPiece trained
on them. The plain loop: one pair at a time in fp32, then head by head the cosine of the flattened
maps, by numpy or by scikit-learn. Each side runs in a process of its own, in turn; ratios are of
the medians. Last, peak memory for the pairs once and four times.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
VOCAB_SIZE = 28996


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data_dir", type=Path, help="with train.jsonl and test.jsonl", required=True
    )
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--metrics", default="cosine", help="of ours; comma-separated")
    parser.add_argument("--side", help="(one run, for the rounds)")
    parser.add_argument("--times", type=int, default=1, help="(all pairs so many times)")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(SIDES[args.side](args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        pairs = encode(args.data_dir, args.examples)
        (Path(folder) / "pairs.json").write_text(json.dumps(pairs))
        lengths = [len(pair["input_ids"]) for pair in pairs]
        print(
            f"{len(pairs)} pairs, {statistics.mean(lengths):.0f} sub-words, at most {max(lengths)}"
        )

        def run(side, times=1):
            command = [sys.executable, __file__, "--side", side, "--times", str(times)]
            for flag in ("examples", "batch_size", "device", "metrics"):
                command += [f"--{flag}", str(getattr(args, flag))]
            command += ["--data_dir", folder]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(output.splitlines()[-1])
            print(f"{side} x {times}", found, flush=True)
            return found

        runs = {side: [] for side in SIDES}
        for _ in range(args.rounds):
            for side, found in runs.items():
                found.append(run(side))
        for plain in ("numpy", "sklearn"):
            for ours in ("bf16", "fp32"):
                clock, cpu = (
                    statistics.median(found[key] for found in runs[plain])
                    / statistics.median(found[key] for found in runs[ours])
                    for key in ("seconds_per_pair", "cpu_seconds_per_pair")
                )
                print(f"{ours} against the loop with {plain}: {clock:.2f} times faster "
                      f"({cpu:.2f} by CPU time)")  # fmt: skip
        once, four = (run("bf16", times)["peak_memory_mib"] for times in (1, 4))
        print(
            f"peak memory: {len(pairs)} pairs {once:.0f} MiB, {4 * len(pairs)} pairs {four:.0f} MiB"
        )


def encode(folder, n):
    """`n` pairs of the test split, encoded by a WordPiece of all training sentences."""
    import transformers
    from tokenizers import BertWordPieceTokenizer

    def pairs(name):
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        return [(row["sentence1"], row["sentence2"]) for row in map(json.loads, lines)]

    with tempfile.TemporaryDirectory() as vocabulary:
        pieces = BertWordPieceTokenizer(lowercase=False)
        texts = (text for pair in pairs("train.jsonl") for text in pair)
        pieces.train_from_iterator(texts, vocab_size=VOCAB_SIZE, show_progress=False)
        pieces.save_model(vocabulary)
        tokenizer = transformers.BertTokenizer.from_pretrained(vocabulary, do_lower_case=False)
    test = pairs("test.jsonl")
    chosen = random.Random(0).sample(test, min(n, len(test)))
    encoded = (tokenizer(*pair, truncation=True, max_length=512) for pair in chosen)
    return [{key: row[key] for key in ("input_ids", "token_type_ids")} for row in encoded]


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
    return models, json.loads((args.data_dir / "pairs.json").read_text()) * args.times, device


def timed(run, n):
    """(its result, seconds a pair by the clock and of the CPU, which others slow less)."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = run()
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    return result, {"seconds_per_pair": clock / n, "cpu_seconds_per_pair": cpu / n}


def ours(args):
    from common import attention_similarity
    from common.device import choose_device, peak_memory

    (pretrained, other), pairs, _ = prepare(args)
    device = choose_device(args.device, args.side)

    def compare(pairs):
        return attention_similarity.compare(
            pretrained, {"other": other}, pairs, device, metrics=args.metrics.split(","),
            pad_token_id=0, batch_size=args.batch_size,
        )["other"]  # fmt: skip

    compare(pairs[:4])  # warms up
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
        total = 0.0
        for pair in pairs:
            inputs = {k: torch.tensor([v], device=device.torch_device) for k, v in pair.items()}
            before, after = (
                [
                    maps[0].cpu().numpy()
                    for maps in model(**inputs, output_attentions=True).attentions
                ]
                for model in (pretrained, other)
            )
            total = total + np.array(
                [[cosine(*heads) for heads in zip(a, b, strict=True)]
                 for a, b in zip(before, after, strict=True)]
            )  # fmt: skip
        return total / len(pairs)

    with torch.inference_mode():
        loop(pairs[:4])  # warms up
        mean, seconds = timed(lambda: loop(pairs), len(pairs))
    return seconds | {
        "peak_memory_mib": peak_memory(device)["peak_memory_mib"],
        "mean": {"cosine": float(mean.mean())},
    }


SIDES = {"bf16": ours, "fp32": ours, "numpy": plain, "sklearn": plain}


if __name__ == "__main__":
    main()
