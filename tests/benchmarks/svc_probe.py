"""The probe of pairs against `SVC()`: one layer, then all layers in parallel and one after another.

    python tests/benchmarks/svc_probe.py --data_dir FOLDER [--model FOLDER]

Real pairs; mean-pooled sentence vectors of a BERT-like encoder (default: BERT-base from its
configuration with random weights). Each side runs in a process of its own, which reports its peak
memory.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import bench
import numpy as np

from common import probes
from common.task import Examples

SPLITS = ("train", "dev", "test")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--n", type=int, default=7573, help="training pairs")
    parser.add_argument("--model", help="folder of a BERT-like encoder")
    parser.add_argument("--layer", type=int, default=-1, help="the one compared with SVC()")
    parser.add_argument("--folder", type=Path, help="(of the features)")
    args = bench.parse(parser, {f.__name__: f for f in (extract, ours, plain, single, parallel)})
    with tempfile.TemporaryDirectory() as folder, bench.watched(args.device):
        more = "--folder", folder
        bench.side("extract", *more)
        sides = bench.in_turns(("ours", "plain"), args.rounds, *more)
        found, wanted = (np.load(f"{folder}/{side}.npz") for side in sides)
        differ = {split: int((found[split] != wanted[split]).sum()) for split in ("dev", "test")}
        single_, parallel_ = (bench.side(name, *more)["seconds"] for name in ("single", "parallel"))
    name = Path(args.model).parent.name if args.model else "BERT-base"
    values = (bench.median(runs, "seconds") for runs in sides.values())
    bench.result(f"SVC of {args.n} pairs, {name}: fit, predict dev and test", *values, "s", "8x")
    values = (bench.median(runs, "processor") for runs in sides.values())
    bench.result("the same, processor time", *values, "s", "")
    print(f"predictions that differ: {differ} of {[len(wanted[s]) for s in differ]}")
    bench.result("SVC of all layers, in parallel and one by one", parallel_, single_, "s", "")


def report(seconds: float, processor: float, **more) -> dict:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": seconds, "processor": processor, "peak_memory_mib": peak} | more


def extract(args) -> dict:
    """Write every layer's features, the pairs and the labels into `args.folder`."""
    import torch
    import transformers
    from tokenizers import BertWordPieceTokenizer

    started = time.perf_counter()
    rows = {
        split: [json.loads(line) for line in (args.data_dir / f"{split}.jsonl").open()]
        for split in SPLITS
    }
    rows["train"] = rows["train"][: args.n]
    texts = [r[key] for s in SPLITS for r in rows[s] for key in ("sentence1", "sentence2")]
    numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    texts = list(numbers)
    if args.model:
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        model = transformers.AutoModel.from_pretrained(args.model)
    else:
        pieces = BertWordPieceTokenizer(lowercase=False)
        pieces.train_from_iterator(texts, vocab_size=28996, show_progress=False)
        pieces.save_model(str(args.folder))
        tokenizer = transformers.BertTokenizer.from_pretrained(args.folder, do_lower_case=False)
        transformers.set_seed(0)
        model = transformers.BertModel(transformers.BertConfig(vocab_size=28996))
    model.eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    layers = model.config.num_hidden_layers + 1
    found = np.zeros((layers, len(texts), model.config.hidden_size), np.float16)
    for start in range(0, len(order), 32):
        some = order[start : start + 32]
        batch = tokenizer([texts[i] for i in some], return_tensors="pt", padding=True,
                          truncation=True, max_length=128)  # fmt: skip
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            states = model(**batch, output_hidden_states=True).hidden_states
        mask = batch["attention_mask"][..., None]
        for layer, state in enumerate(states):
            found[layer, some] = ((state.float() * mask).sum(1) / mask.sum(1)).numpy()
    for layer, array in enumerate(found):
        np.save(args.folder / f"layer-{layer:02d}.npy", array)
    labels = sorted({row["gold_label"] for row in rows["train"]})
    y = {f"labels-{s}": [labels.index(row["gold_label"]) for row in rows[s]] for s in SPLITS}
    pairs = {s: [(numbers[r["sentence1"]], numbers[r["sentence2"]]) for r in rows[s]] for s in rows}
    np.savez(args.folder / "pairs.npz", **pairs, **y)
    return report(
        time.perf_counter() - started, time.process_time(), sentences=len(texts), layers=layers
    )


def load(args):
    """`{layer: vectors of sentences}`, pairs, training labels."""
    saved = np.load(args.folder / "pairs.npz")
    files = sorted(args.folder.glob("layer-*.npy"))
    layers = dict(enumerate(np.load(file, mmap_mode="r") for file in files))
    return layers, {split: saved[split] for split in SPLITS}, saved["labels-train"]


def compare(name: str, args, predictions) -> dict:
    """Time `predictions(sentences, pairs, labels)` and save what it returns."""
    import sklearn.svm  # noqa: F401  (not what is to be timed)

    layers, pairs, labels = load(args)
    sentences = list(layers.values())[args.layer]
    started, processor = time.perf_counter(), time.process_time()
    found = predictions(sentences, pairs, labels)
    told = report(time.perf_counter() - started, time.process_time() - processor)
    np.savez(args.folder / f"{name}.npz", **found)
    return told


def predict(layers, pairs, labels) -> dict:
    """{layer: {split: predicted labels}}."""
    options = probes.Options(len(set(labels)), 0, standardize=False, seed=0, device=None)
    sets = [Examples(pairs, {"task": labels})]
    found = dict(probes.predict_layers("svc", layers, sets, options))
    return {n: {s: own for s, (own,) in of["task"].items()} for n, of in found.items()}


def ours(args) -> dict:
    def predictions(sentences, pairs, labels):
        return predict({0: sentences}, pairs, labels)[0]

    return compare("ours", args, predictions)


def plain(args) -> dict:
    from sklearn.svm import SVC

    def predictions(sentences, pairs, labels):
        x = {s: sentences[rows].reshape(len(rows), -1).astype(float) for s, rows in pairs.items()}
        model = SVC().fit(x["train"], labels)
        return {split: model.predict(x[split]) for split in ("dev", "test")}

    return compare("plain", args, predictions)


def all_layers(args, cores: int | None = None) -> dict:
    import joblib
    import sklearn.svm  # noqa: F401

    layers, pairs, labels = load(args)
    if cores:
        joblib.cpu_count = lambda: cores
    started, processor = time.perf_counter(), time.process_time()
    predict(layers, pairs, labels)
    return report(time.perf_counter() - started, time.process_time() - processor,
                  layers=len(layers), cores=os.cpu_count())  # fmt: skip


def single(args) -> dict:
    return all_layers(args, cores=1)


def parallel(args) -> dict:
    return all_layers(args)


if __name__ == "__main__":
    main()
