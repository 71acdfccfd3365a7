"""BiLSTM-CRF probes of all layers against an nn.LSTM with the same CRF, layer by layer, in turns.

    python tests/benchmarks/bilstm_crf.py --precision fp32 --rounds 3

The plain side is what a user would write: nn.LSTM on packed sentences, nn.Linear and a CRF, one
layer after another, in float32. Vectors are noise around a direction for each label; labels follow
a random chain. A fifth of the sentences is held out for the accuracy. Each side runs in a process
of its own; ratios are of the medians, of wall time and of processor time (with OMP_NUM_THREADS=1
the one to read where other work uses the machine too).
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import bench
import numpy as np

N_LABELS = 11


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--noise", type=float, default=3.0, help="of the vectors, per dimension")
    parser.add_argument("--precision", default="auto", help="ours")
    parser.add_argument("--folder", type=Path, help="(of the vectors)")
    args = bench.parse(parser, {"ours": ours, "plain": plain})
    with tempfile.TemporaryDirectory() as folder, bench.watched(args.device):
        write_features(args, Path(folder))
        sides = bench.in_turns(("ours", "plain"), args.rounds, "--folder", folder)
    for key in ("seconds", "processor"):
        values = (bench.median(runs, key) for runs in sides.values())
        bench.result(f"BiLSTM-CRF, {args.layers} layers, {key}", *values, "s", "")


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


def measure(args, predictions) -> dict:
    """Time `predictions(features, train, test)`, which fits and predicts all layers."""
    features = [np.load(args.folder / f"{i}.npy", mmap_mode="r") for i in range(args.layers)]
    spans, labels = sizes(args)
    cut = args.sentences * 4 // 5
    clock, processor = time.perf_counter(), time.process_time()
    predicted = predictions(features, (spans[:cut], labels[:cut]), spans[cut:])
    seconds, processor = time.perf_counter() - clock, time.process_time() - processor
    gold = np.concatenate(labels[cut:])
    scores = [float(np.mean(np.concatenate(layer) == gold)) for layer in predicted]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": seconds, "processor": processor, "accuracy": statistics.mean(scores),
            "lowest": min(scores), "peak_memory_mib": peak}  # fmt: skip


def ours(args) -> dict:
    from common import probes
    from common.device import choose_device
    from common.task import Sequences

    device = choose_device(args.device, args.precision)

    def predictions(features, train, test):
        some = Sequences({"train": train[0], "test": test}, {"task": train[1]})
        options = probes.Options(N_LABELS, args.epochs, standardize=False, seed=0, device=device)
        layers = dict(enumerate(features))
        done = dict(probes.predict_layers("bilstm-crf", layers, [some], options))
        return [done[layer]["task"]["test"][0] for layer in range(args.layers)]

    return measure(args, predictions)


def plain(args) -> dict:
    def predictions(features, train, test):
        return [one_layer(args, vectors, train, test) for vectors in features]

    return measure(args, predictions)


def one_layer(args, vectors, train, test) -> list:
    """Fit a probe of one layer, and predict."""
    import torch
    from torch import nn
    from torch.nn.utils import rnn

    from common.batching import epoch_batches
    from common.probes.bilstm_crf import log_partition, path_score, viterbi

    torch.manual_seed(0)
    lstm, linear = nn.LSTM(args.hidden, 128, bidirectional=True), nn.Linear(256, N_LABELS)
    crf = [nn.Parameter(torch.randn(shape) / 10) for shape in ((N_LABELS,) * 2, N_LABELS, N_LABELS)]
    optimizer = torch.optim.Adam([*lstm.parameters(), *linear.parameters(), *crf], lr=1e-3)

    def scores(spans):
        x = [torch.from_numpy(vectors[a:b].astype(np.float32)) for a, b in spans]
        hidden, _ = lstm(rnn.pack_sequence(x, enforce_sorted=False))
        hidden, lengths = rnn.pad_packed_sequence(hidden, batch_first=True)
        return linear(hidden), torch.arange(hidden.shape[1]) < lengths[:, None]

    spans, labels = train
    for epoch in range(args.epochs):
        for batch in epoch_batches([b - a for a, b in spans], 64, 0, epoch):
            emissions, mask = scores([spans[i] for i in batch])
            tags = [torch.from_numpy(labels[i]) for i in batch]
            tags = rnn.pad_sequence(tags, batch_first=True)
            gold = path_score(emissions, tags, *crf, mask)
            loss = (log_partition(emissions, *crf, mask) - gold).sum() / mask.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    predicted = []
    with torch.no_grad():
        for start in range(0, len(test), 64):
            emissions, mask = scores(test[start : start + 64])
            best = viterbi(emissions, *crf, mask)
            predicted += [row[some].numpy() for row, some in zip(best, mask, strict=True)]
    return predicted


if __name__ == "__main__":
    main()
