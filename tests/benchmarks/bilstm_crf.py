"""BiLSTM-CRF probes of all layers against one layer after another, in alternating runs.

    python tests/benchmarks/bilstm_crf.py --sentences 512 --hidden 768 --layers 13
    pip install pytorch-crf     (for the third side, left out where it is missing)

`plain`: nn.LSTM on packed sequences, and a CRF that loops in Python over sentences and words.
`pytorch-crf`: the same nn.LSTM, its CRF. Both in float32. Vectors are noise around a direction for
each label; labels follow a random chain. A fifth of the sentences is held out for the accuracy.
Each side runs in a process of its own, in turn; ratios are of the medians, of wall time and of
processor time (with OMP_NUM_THREADS=1 the one to read where others use the device too).
"""

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
SIDES = ("ours", "plain", "pytorch-crf")
N_LABELS = 11


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--group", type=int, default=4, help="layers in lockstep, ours")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--noise", type=float, default=3.0, help="of the vectors, per dimension")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="auto", help="ours")
    parser.add_argument("--precision", default="auto", help="ours")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--side", choices=SIDES, help="(one run, for the rounds)")
    parser.add_argument("--folder", type=Path, help="(of the vectors, for the rounds)")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(run(args)))
        return
    found = {side: [] for side in args.sides.split(",")}
    if importlib.util.find_spec("torchcrf") is None:
        found.pop("pytorch-crf", None)
    with tempfile.TemporaryDirectory() as folder:
        write_features(args, Path(folder))
        for number in range(args.rounds):
            for side, runs in found.items():
                command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
                output = subprocess.run(
                    [*command, "--folder", folder], check=True, stdout=subprocess.PIPE, text=True
                ).stdout
                runs.append(json.loads(output.splitlines()[-1]))
                print(number + 1, side, runs[-1], flush=True)
    for key, unit in (("fit_seconds", "s"), ("fit_cpu_seconds", "s of processor time")):
        middle = {side: statistics.median(r[key] for r in runs) for side, runs in found.items()}
        for side, value in middle.items():
            ratio = (
                f"; ours is {value / middle['ours']:.2f} times as fast" if "ours" in middle else ""
            )
            print(f"{side}: {value:.1f} {unit} for {args.layers} layers{ratio}")


def sizes(args):
    """Sentences' rows and labels; lengths with a mean of 26, like JNLPBA's."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma(4, 6.5, args.sentences).astype(int), 1, 200)
    chain = rng.dirichlet(np.full(N_LABELS, 0.3), N_LABELS)
    labels = []
    for length in lengths:
        row = [rng.integers(N_LABELS)]
        while len(row) < length:
            row.append(rng.choice(N_LABELS, p=chain[row[-1]]))
        labels.append(np.array(row))
    ends = np.cumsum(lengths)
    return list(zip((ends - lengths).tolist(), ends.tolist(), strict=True)), labels


def write_features(args, folder: Path):
    _, labels = sizes(args)
    flat = np.concatenate(labels)
    for layer in range(args.layers):
        rng = np.random.default_rng(layer)
        vectors = rng.normal(size=(N_LABELS, args.hidden))[flat]
        vectors += args.noise * rng.normal(size=vectors.shape)
        np.save(folder / f"{layer}.npy", vectors.astype(np.float16))


def run(args) -> dict:
    import torch

    from common.device import choose_device

    features = [np.load(args.folder / f"{i}.npy", mmap_mode="r") for i in range(args.layers)]
    sentences, labels = sizes(args)
    cut = args.sentences * 4 // 5
    train, test = (sentences[:cut], labels[:cut]), (sentences[cut:], labels[cut:])
    device = choose_device(args.device, args.precision)  # also lets memory be reused
    group = args.group if args.side == "ours" else 1
    scores, fit_seconds, cpu_seconds, predict_seconds = [], 0.0, 0.0, 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    for start in range(0, args.layers, group):
        some = features[start : start + group]
        clock, processor = time.perf_counter(), time.process_time()
        if args.side == "ours":
            from common.probes import bilstm_crf

            seeds = range(start, start + len(some))
            probes = bilstm_crf.fit(
                some, *train, N_LABELS, epochs=args.epochs, seeds=seeds, device=device
            )
            parameters = sum(w[0].numel() for w in probes.weights.values())
        else:
            torch.manual_seed(start)
            model = one_layer(args)
            fit_one(model, some[0], *train, args)
            parameters = sum(p.numel() for p in model.parameters())
        fit_seconds += time.perf_counter() - clock
        cpu_seconds += time.process_time() - processor
        clock = time.perf_counter()
        if args.side == "ours":
            predicted = probes.predict(some, test[0])
        else:
            predicted = [predict_one(model, some[0], test[0])]
        predict_seconds += time.perf_counter() - clock
        gold = np.concatenate(test[1])
        scores += [float(np.mean(np.concatenate(layer) == gold)) for layer in predicted]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    found = {"fit_seconds": fit_seconds, "fit_cpu_seconds": cpu_seconds,
             "predict_seconds": predict_seconds,
             "accuracy": statistics.mean(scores), "lowest": min(scores), "highest": max(scores),
             "peak_memory_mib": peak, "of_it_before": before}  # fmt: skip
    found = {key: round(value, 3) for key, value in found.items()}
    return found | {"parameters": parameters, "machine": device.describe()}


def one_layer(args):
    """The plain probe: nn.LSTM, a linear layer and a CRF."""
    from torch import nn

    if args.side == "pytorch-crf":
        from torchcrf import CRF
    else:
        CRF = loop_crf()
    model = nn.Module()
    model.lstm = nn.LSTM(args.hidden, 128, bidirectional=True, batch_first=True)
    model.output, model.crf = nn.Linear(256, N_LABELS), CRF(N_LABELS, batch_first=True)
    return model


def emissions_of(model, features, chosen):
    """Padded scores `[batch, words, labels]` and the mask."""
    import torch
    from torch.nn.utils import rnn

    vectors = [torch.from_numpy(features[a:b].astype(np.float32)) for a, b in chosen]
    hidden, _ = model.lstm(rnn.pack_sequence(vectors, enforce_sorted=False))
    hidden, lengths = rnn.pad_packed_sequence(hidden, batch_first=True)
    return model.output(hidden), torch.arange(hidden.shape[1]) < lengths[:, None]


def fit_one(model, features, sentences, labels, args):
    import torch
    from torch.nn.utils import rnn

    from common.batching import epoch_batches

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    lengths = [end - start for start, end in sentences]
    for epoch in range(args.epochs):
        for batch in epoch_batches(lengths, 64, 0, epoch):
            scores, mask = emissions_of(model, features, [sentences[i] for i in batch])
            tags = [torch.from_numpy(labels[i]) for i in batch]
            tags = rnn.pad_sequence(tags, batch_first=True)
            loss = -model.crf(scores, tags, mask=mask) / mask.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def predict_one(model, features, sentences):
    import torch

    found = []
    with torch.no_grad():
        for start in range(0, len(sentences), 64):
            found += model.crf.decode(*emissions_of(model, features, sentences[start : start + 64]))
    return found


def loop_crf():
    """A CRF with pytorch-crf's interface, as first written by anyone: sentence by sentence."""
    import torch
    from torch import nn

    class LoopCRF(nn.Module):
        def __init__(self, n_labels, batch_first):
            super().__init__()
            self.start = nn.Parameter(torch.empty(n_labels).uniform_(-0.1, 0.1))
            self.end = nn.Parameter(torch.empty(n_labels).uniform_(-0.1, 0.1))
            self.moves = nn.Parameter(torch.empty(n_labels, n_labels).uniform_(-0.1, 0.1))

        def forward(self, emissions, tags, mask):
            total = 0
            for scores, path, length in zip(emissions, tags, mask.sum(1), strict=True):
                gold = self.start[path[0]] + scores[0, path[0]]
                alpha = self.start + scores[0]
                for t in range(1, length):
                    gold = gold + self.moves[path[t - 1], path[t]] + scores[t, path[t]]
                    alpha = (alpha[:, None] + self.moves).logsumexp(0) + scores[t]
                total = total + gold + self.end[path[length - 1]] - (alpha + self.end).logsumexp(0)
            return total

        def decode(self, emissions, mask):
            found = []
            for scores, length in zip(emissions, mask.sum(1), strict=True):
                best, origins = self.start + scores[0], []
                for t in range(1, length):
                    best, origin = (best[:, None] + self.moves).max(0)
                    best = best + scores[t]
                    origins.append(origin)
                path = [int((best + self.end).argmax())]
                for origin in reversed(origins):
                    path.append(int(origin[path[-1]]))
                found.append(path[::-1])
            return found

    return LoopCRF


if __name__ == "__main__":
    main()
