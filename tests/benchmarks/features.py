"""Every layer's features of real sentences, against one sentence and one layer at a time.

    python tests/benchmarks/features.py --data_dir FOLDER_OF_BIONLP2004

BERT-base from its configuration with random weights; WordPiece trained on the sentences. The plain
procedure (a pass a layer, a sentence at a time, fp32) runs on fewer sentences. Each side runs in
its own process. Ratios are of the medians.
"""

import argparse
import tempfile
import time
from pathlib import Path

import bench


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--model", help="folder of a BERT-like encoder (default: BERT-base)")
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--plain_sentences", type=int, default=32, help="part for the plain side")
    args = bench.parse(parser, {"fp32": ours, "auto": ours, "plain": plain})
    with bench.watched(args.device):
        sides = bench.in_turns(("fp32", "auto", "plain"), args.rounds)
    slow = bench.median(sides["plain"], "tokens_per_second")
    for name in ("fp32", "auto"):
        fast = bench.median(sides[name], "tokens_per_second")
        precision = sides[name][0]["precision"]
        bench.result(f"features of all layers, {precision}", fast, slow, "tokens/s", "", rate=True)
    print(f"peak memory {bench.median(sides['auto'], 'peak_memory_mib'):.0f} MiB")


def prepare(args, n):
    """(encoder, `n` encoded sentences with their words' units, their tokens)."""
    import random

    import transformers
    from fine_tuning import prepare

    from NER import alignment

    dataset, model, tokenizer = prepare(args)
    encoder = transformers.BertModel(model.config, add_pooling_layer=False).eval()
    chosen = random.Random(0).sample(dataset.splits["train"], n)
    encoded, _ = alignment.encode([example.words for example in chosen], tokenizer, 512)
    for row in encoded:
        row["units"] = alignment.units(row, "mean")
    return encoder, encoded, sum(len(row["input_ids"]) for row in encoded)


def ours(args):
    from common import features
    from common.device import choose_device, peak_memory

    device = choose_device(args.device, args.side)
    encoder, encoded, tokens = prepare(args, args.sentences)
    layers = list(range(encoder.config.num_hidden_layers + 1))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        features.extract(encoder, encoded, layers, device, 32, Path(folder) / "features")
        seconds = time.perf_counter() - started
    return {
        "tokens_per_second": tokens / seconds,
        "precision": device.precision,
        "peak_memory_mib": peak_memory(device)["peak_memory_mib"],
    }


def plain(args):
    import torch

    from common.device import choose_device

    device = choose_device(args.device, "fp32").torch_device
    encoder, encoded, tokens = prepare(args, args.plain_sentences)
    encoder.to(device)
    vectors, started = [], time.perf_counter()
    for layer in range(encoder.config.num_hidden_layers + 1):
        for example in encoded:
            with torch.no_grad():
                ids = torch.tensor([example["input_ids"]], device=device)
                states = encoder(input_ids=ids, output_hidden_states=True).hidden_states
            state = states[layer][0].cpu().numpy()
            vectors.append([state[a:b].mean(0) for a, b in example["units"]])
    return {"tokens_per_second": tokens / (time.perf_counter() - started)}


if __name__ == "__main__":
    main()
