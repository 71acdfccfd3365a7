"""BiLSTM-CRF probes of all layers with our recurrence against the same with nn.LSTM, in turns.

    python tests/benchmarks/bilstm_crf.py --precision fp32 --rounds 3
    python tests/benchmarks/bilstm_crf.py --precision bf16 --rounds 3

`nn.LSTM`: `fit` as it is, but each layer's recurrence is a bidirectional nn.LSTM on a packed batch;
everything else is shared, so the ratio says what common/probes/lstm.py is worth. `pytorch-crf`
(left out where `pip install pytorch-crf` was not run): nn.LSTM and that package's CRF, layer by
layer in float32, as a user would write the probe. Vectors are noise around a direction for each
label; labels follow a random chain. A fifth of the sentences is held out for the accuracy. Each
side runs in a process of its own; ratios are of the medians, of wall time and of processor time
(with OMP_NUM_THREADS=1 the one to read where other work uses the machine too).
"""

import argparse
import resource
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import bench
import numpy as np

SIDES = ("ours", "nn.LSTM", "pytorch-crf")
N_LABELS = 11


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--group", type=int, default=4, help="layers in lockstep, ours")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--noise", type=float, default=3.0, help="of the vectors, per dimension")
    parser.add_argument("--precision", default="auto", help="ours")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--folder", type=Path, help="(of the vectors)")
    args = bench.parse(parser, dict.fromkeys(SIDES, run))
    sides = [s for s in args.sides.split(",") if s != "pytorch-crf" or find_spec("torchcrf")]
    with tempfile.TemporaryDirectory() as folder, bench.watched(args.device):
        write_features(args, Path(folder))
        found = bench.in_turns(sides, args.rounds, "--folder", folder)
    for key, what in (("fit_seconds", "clock"), ("fit_cpu_seconds", "processor")):
        for side in sides[1:]:
            values = (bench.median(found[name], key) for name in (sides[0], side))
            what_ = f"BiLSTM-CRF, {args.layers} layers, {side}, {what}"
            bench.result(what_, *values, "s", "")


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
    """Fit and predict all layers of one side: times, accuracies, memory."""
    import torch

    from common.device import choose_device
    from common.probes import bilstm_crf, sequences

    features = [np.load(args.folder / f"{i}.npy", mmap_mode="r") for i in range(args.layers)]
    sentences, labels = sizes(args)
    cut = args.sentences * 4 // 5
    train, test = (sentences[:cut], labels[:cut]), (sentences[cut:], labels[cut:])
    device = choose_device(args.device, args.precision)  # also lets memory be reused
    if args.side == "nn.LSTM":
        bilstm_crf.bilstm = library_bilstm
    alone = args.side == "pytorch-crf"
    group = 1 if alone else args.group
    scores, fit_seconds, cpu_seconds, predict_seconds = [], 0.0, 0.0, 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    for start in range(0, args.layers, group):
        some = features[start : start + group]
        clock, processor = time.perf_counter(), time.process_time()
        if alone:
            torch.manual_seed(start)
            model = one_layer(args)
            fit_one(model, some[0], *train, args)
        else:
            seeds = range(start, start + len(some))
            probes = sequences.fit(
                some, *train, N_LABELS, epochs=args.epochs, seeds=seeds, device=device
            )
        fit_seconds += time.perf_counter() - clock
        cpu_seconds += time.process_time() - processor
        clock = time.perf_counter()
        if alone:
            predicted = [predict_one(model, some[0], test[0])]
        else:
            predicted = probes.predict(some, test[0])
        predict_seconds += time.perf_counter() - clock
        gold = np.concatenate(test[1])
        scores += [float(np.mean(np.concatenate(layer) == gold)) for layer in predicted]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    found = {"fit_seconds": fit_seconds, "fit_cpu_seconds": cpu_seconds,
             "predict_seconds": predict_seconds,
             "accuracy": statistics.mean(scores), "lowest": min(scores), "highest": max(scores),
             "peak_memory_mib": peak, "of_it_before": before}  # fmt: skip
    found = {key: round(value, 3) for key, value in found.items()}
    return found | {"machine": device.describe()}


def library_bilstm(x, lengths, weight, bias, recurrent):
    """`bilstm` with one nn.LSTM a layer, whose order of gates is i, f, g, o."""
    import torch
    from torch.func import functional_call
    from torch.nn.utils.rnn import PackedSequence

    def gates(w):  # [8n, ...] of both directions -> [2][4n, ...] in nn.LSTM's order
        i, f, o, g = w.unflatten(0, (2, 4, -1)).unbind(1)
        return torch.cat([i, f, g, o], 1).to(x.dtype)

    size = recurrent.shape[2]
    lstm = torch.nn.LSTM(x.shape[-1], size, bidirectional=True, device="meta")
    counts = torch.tensor([int((lengths > t).sum()) for t in range(lengths[0])])
    zero = torch.zeros(4 * size, dtype=x.dtype, device=x.device)
    found = []
    for i, vectors in enumerate(x):
        parts = gates(weight[i].mT), gates(recurrent[i].mT.flatten(0, 1)), gates(bias[i, 0])
        names = {}
        for side, *given in zip(("", "_reverse"), *parts, strict=True):
            kinds = zip(
                ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), (*given, zero), strict=True
            )
            names |= {f"{kind}_l0{side}": w for kind, w in kinds}
        found.append(functional_call(lstm, names, (PackedSequence(vectors, counts),))[0].data)
    return torch.stack(found)


def one_layer(args):
    """nn.LSTM, a linear layer and pytorch-crf's CRF."""
    from torch import nn
    from torchcrf import CRF

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


if __name__ == "__main__":
    main()
