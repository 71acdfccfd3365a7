"""Training throughput against a plain Hugging Face Trainer with its defaults, in alternating runs.

    pip install accelerate
    python tests/benchmarks/fine_tuning.py --data_dir FOLDER_OF_BIONLP2004

BERT-base from its configuration with random weights, real sentences, WordPiece trained on them.
Each side runs in a process of its own, in turn; ratios are of the medians.
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=25, help="timed batches a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--side", choices=("ours", "plain"), help="(one run, for the rounds)")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(globals()[args.side](args)))
        return
    sides = {"ours": [], "plain": []}
    for number in range(args.rounds):
        for side, found in sides.items():
            command = [sys.executable, __file__, "--side", side, "--data_dir", str(args.data_dir)]
            command += ["--batch_size", str(args.batch_size), "--batches", str(args.batches)]
            output = subprocess.run(
                [*command, "--device", args.device], check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            found.append(json.loads(output.splitlines()[-1]))
            print(number + 1, side, found[-1], flush=True)
    middle = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0] if key != "what"}
        for side, runs in sides.items()
    }
    for side, values in middle.items():
        print(f"{side}: {sides[side][0]['what']}: {values['tokens_per_second']:.0f} tokens/s, "
              f"peak memory {values['peak_memory_mib']:.0f} MiB")  # fmt: skip
    ours, plain = middle["ours"], middle["plain"]
    print(f"ratio {ours['tokens_per_second'] / plain['tokens_per_second']:.2f}")
    print(f"padding {100 * ours['padding']:.1f} % of an epoch's positions")
    print(
        f"{100 * ours['share']:.0f} % of the matrix-product rate, {ours['rate'] / 1e9:.0f} GFLOP/s"
    )


def prepare(args, n):
    """A random BERT-base, its tokenizer, and `n` encoded training sentences of mixed lengths."""
    import random

    import transformers
    from tokenizers import BertWordPieceTokenizer

    from NER import task as data

    load = argparse.Namespace(
        demo=False, data_dir=args.data_dir, dataset_name=None, label_scheme="io"
    )
    dataset = data.load(load)
    with tempfile.TemporaryDirectory() as folder:
        pieces = BertWordPieceTokenizer(lowercase=False)
        texts = (" ".join(example.words) for example in dataset.splits["train"])
        pieces.train_from_iterator(texts, vocab_size=28996, show_progress=False)
        pieces.save_model(folder)
        tokenizer = transformers.BertTokenizer.from_pretrained(folder, do_lower_case=False)
    transformers.set_seed(0)
    config = transformers.BertConfig(vocab_size=28996, num_labels=len(dataset.labels))
    model = transformers.BertForTokenClassification(config)
    examples = random.Random(0).sample(dataset.splits["train"], n)
    return dataset, model, tokenizer, examples


def ours(args):
    from common import batching, training
    from common.device import choose_device, peak_memory
    from NER import task as data

    dataset, model, tokenizer, examples = prepare(args, args.batch_size * args.batches)
    device = choose_device(args.device, "auto")
    flags = {"learning_rate": 2e-5, "num_train_epochs": 1, "warmup_ratio": 0.1, "seed": 0,
             "weight_decay": 0.01, "max_grad_norm": 1.0, "save_minutes": 60}  # fmt: skip
    flags = argparse.Namespace(**flags, batch_size=args.batch_size)
    encoded, _ = data.encode(dataset, examples, tokenizer, 512)
    ended = []
    for part in (encoded[: 3 * args.batch_size], encoded):  # the first part warms up
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            training.fit(
                model, part, flags, device, lambda: ended.append(time.perf_counter()) or {},
                "", Path(folder),
            )  # fmt: skip
    seconds = ended[-1] - started  # without saving the state, once an epoch
    tokens = sum(len(example["input_ids"]) for example in encoded)
    whole, _ = data.encode(dataset, dataset.splits["train"], tokenizer, 512)
    lengths = [len(example["input_ids"]) for example in whole]
    batches = batching.epoch_batches(lengths, args.batch_size, 0, 0)
    positions = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    rate = matrix_rate(device, args.batch_size * sum(lengths) // len(lengths))
    flops = model_flops(model.config, lengths) / sum(lengths) * tokens
    return {
        "what": f"batch {args.batch_size}, {device.precision}, {device.torch_device}",
        "tokens_per_second": tokens / seconds,
        "padding": 1 - sum(lengths) / positions,
        "rate": rate,
        "share": flops / seconds / rate,
        "peak_memory_mib": peak_memory(device)["peak_memory_mib"],
    }


def model_flops(config, lengths):
    """Multiply-adds x 2, forward and backward (3 forwards), of the linear layers and attention."""
    linear = config.num_hidden_layers * (
        4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    )
    attention = 2 * config.num_hidden_layers * config.hidden_size
    return 3 * sum(2 * n * (linear + attention * n) for n in lengths)


def matrix_rate(device, tokens, seconds=2.0):
    """FLOP/s of the model's largest matrix product in the same precision, the best of 20 rounds."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(device.precision, torch.float32)
    x = torch.randn(tokens, 768, device=device.torch_device, dtype=dtype)
    weight = torch.randn(3072, 768, device=device.torch_device, dtype=dtype)

    def wait():
        if device.torch_device.type == "cuda":
            torch.cuda.synchronize()

    best = 0.0
    for _ in range(20):
        wait()
        started, n = time.perf_counter(), 0
        while time.perf_counter() - started < seconds / 20:
            for _ in range(10):
                torch.nn.functional.linear(x, weight)
            wait()
            n += 10
        best = max(best, 2 * tokens * 768 * 3072 * n / (time.perf_counter() - started))
    return best


def plain(args):
    """What the token-classification examples do: Trainer, fp32, batch 8, pads to the longest."""
    import resource

    import torch
    import transformers

    dataset, model, tokenizer, examples = prepare(args, 8 * args.batches)
    number = {label: i for i, label in enumerate(dataset.labels)}
    rows = []
    for example in examples:
        row = tokenizer(example.words, is_split_into_words=True, truncation=True, max_length=512)
        labels, last = [], None
        for word in row.word_ids():
            new = word is not None and word != last
            tag = example.tags[word] if new else None
            labels.append(-100 if not new else number[tag if tag == "O" else tag[2:]])
            last = word
        rows.append({**row, "labels": labels})
    tokens = sum(len(row["input_ids"]) for row in rows)
    seconds = []
    for part in (rows[:24], rows):  # the first part warms up
        with tempfile.TemporaryDirectory() as folder:
            trainer = transformers.Trainer(
                model,
                transformers.TrainingArguments(
                    folder, num_train_epochs=1, save_strategy="no", report_to="none",
                    logging_strategy="no", use_cpu=args.device == "cpu",
                ),
                train_dataset=part,
                data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
            )  # fmt: skip
            started = time.perf_counter()
            trainer.train()
            seconds.append(time.perf_counter() - started)
    on_cuda = next(model.parameters()).is_cuda
    peak = torch.cuda.max_memory_allocated() / 2**10 if on_cuda else None
    peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "what": "Trainer, batch 8, fp32",
        "tokens_per_second": tokens / seconds[-1],
        "peak_memory_mib": peak / 2**10,
    }


if __name__ == "__main__":
    main()
