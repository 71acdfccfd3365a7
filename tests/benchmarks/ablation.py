"""Points of an ablation against one plain pass of the library for each point, in alternating runs.

    python tests/benchmarks/ablation.py --data_dir FOLDER_WITH_NLI_JSONL

A BERT-base from its configuration with random weights and three labels; real sentence pairs,
WordPiece trained on them. A point of ours: heads removed by hooks, the logits and the mean loss of
all pairs. The plain pass: batches of 16 in the file's order, padded to their longest, logits alone.
Both in fp32. Last, peak memory for two and for eight points.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import bench
from attention import VOCAB_SIZE, encode


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, help="with train and test.jsonl", required=True)
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--points", type=int, default=2)
    parser.add_argument("--pairs", type=Path, help="(the encoded pairs)")
    args = bench.parse(parser, SIDES)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, bench.watched(args.device):
        json.dump(encode(args.data_dir, args.examples), file)
        file.flush()
        runs = bench.in_turns(SIDES, args.rounds, "--pairs", file.name)
        eight = bench.side("ours", "--points", "8", "--pairs", file.name)["peak_memory_mib"]
    values = (bench.median(runs[side], "points_per_second") for side in SIDES)
    bench.result("ablation, fp32", *values, "points a second", "0.95x", rate=True)
    two = bench.median(runs["ours"], "peak_memory_mib")
    print(f"peak memory: {args.points} points {two:.0f} MiB, 8 points {eight:.0f} MiB")


def prepare(args):
    """(a random BERT-base with a head on the device, the pairs with labels)."""
    import torch
    import transformers

    from common.device import choose_device

    device = choose_device(args.device, "fp32")
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=VOCAB_SIZE, num_labels=3, pad_token_id=0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model = model.to(device.torch_device).eval().requires_grad_(False)
    pairs = json.loads(args.pairs.read_text())
    return model, [pair | {"labels": n % 3} for n, pair in enumerate(pairs)], device


def timed(point, args, device) -> dict:
    from common.device import peak_memory

    point(0)  # warms up
    started = time.perf_counter()
    for n in range(args.points):
        point(n)
    rate = args.points / (time.perf_counter() - started)
    return {"points_per_second": rate} | peak_memory(device)


def ours(args):
    from common import ablating, forward
    from common.training import losses

    model, pairs, device = prepare(args)
    about = (losses.cross_entropy,)

    def point(n):
        gone = [(layer, head) for layer in range(12) for head in range(n + 1)]
        with ablating.removed(model, gone), ablating.remembering(model):
            forward.predict_logits(model, pairs, 16, device, "test")
            forward.mean_loss(model, pairs, 16, device, *about)

    return timed(point, args, device)


def plain(args):
    import torch

    model, pairs, device = prepare(args)

    def point(_):
        for start in range(0, len(pairs), 16):
            some = pairs[start : start + 16]
            longest = max(len(pair["input_ids"]) for pair in some)
            batch = {
                name: torch.tensor(
                    [pair[name] + [0] * (longest - len(pair[name])) for pair in some]
                )
                for name in ("input_ids", "token_type_ids")
            }
            lengths = torch.tensor([len(pair["input_ids"]) for pair in some])
            batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
            with torch.no_grad():
                model(**{k: x.to(device.torch_device) for k, x in batch.items()}).logits.cpu()

    return timed(point, args, device)


SIDES = {"ours": ours, "plain": plain}


if __name__ == "__main__":
    main()
