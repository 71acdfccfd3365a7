"""Every layer's features of real sentences, against one sentence and one layer at a time.

    python tests/benchmarks/features.py --data_dir FOLDER_OF_BIONLP2004

BERT-base from its configuration with random weights; WordPiece trained on the sentences. The plain
procedure (a pass a layer, a sentence at a time, fp32) is timed on a part of the sentences, in turns
with ours on all of them; seconds are for all.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--plain_sentences", type=int, default=32, help="part for the plain side")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    import transformers
    from fine_tuning import prepare

    from common.device import choose_device
    from NER import alignment

    _, task_model, tokenizer, examples = prepare(args, args.sentences)
    encoder = transformers.BertModel(task_model.config, add_pooling_layer=False).eval()
    encoded, _ = alignment.encode([example.words for example in examples], tokenizer, 512)
    for row in encoded:
        row["units"] = alignment.units(row, "mean")
    devices = {name: choose_device(args.device, name) for name in ("fp32", "bf16")}
    seconds = {"plain": [], "fp32": [], "bf16": []}
    for _ in range(args.rounds):
        part = encoded[: args.plain_sentences]
        tokens = [sum(len(e["input_ids"]) for e in some) for some in (part, encoded)]
        started = time.perf_counter()
        plain(encoder, part, devices["fp32"].torch_device)
        seconds["plain"].append((time.perf_counter() - started) * tokens[1] / tokens[0])
        for name, device in devices.items():
            seconds[name].append(ours(encoder, encoded, device, args.batch_size))
        print({name: round(values[-1], 2) for name, values in seconds.items()}, flush=True)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in middle.items():
        ratio = middle["plain"] / value
        print(f"{name}: {value:.2f} s for {args.sentences} sentences, {ratio:.1f} x plain")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"peak memory of the process {peak:.0f} MiB")


def ours(encoder, encoded, device, batch_size):
    from common import representations

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        layers = list(range(encoder.config.num_hidden_layers + 1))
        representations.extract(
            encoder, encoded, layers, device, batch_size, Path(folder) / "features"
        )
        return time.perf_counter() - started


def plain(encoder, encoded, device):
    import torch

    encoder.to(device)
    found = []
    for layer in range(encoder.config.num_hidden_layers + 1):
        for example in encoded:
            with torch.no_grad():
                ids = torch.tensor([example["input_ids"]], device=device)
                states = encoder(input_ids=ids, output_hidden_states=True).hidden_states
            state = states[layer][0].cpu().numpy()
            found.append([state[a:b].mean(0) for a, b in example["units"]])
    return found


if __name__ == "__main__":
    main()
