"""Training throughput against a plain Hugging Face Trainer with its defaults, in turns.

    pip install accelerate
    python tests/benchmarks/fine_tuning.py --data_dir FOLDER_OF_BIONLP2004 [--model FOLDER]

Real sentences, and an encoder: BERT-base from its configuration with random weights (WordPiece
trained on the sentences), or `--model`. Ours, in fp32 and in the precision that "auto" takes: the
first batches of a true epoch. The Trainer: as many batches of 8 random sentences, fp32, padded to
the longest. Each side runs in a process of its own; ratios are of the medians.
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
    parser.add_argument("--batch_size", type=int, default=16, help="of ours")
    parser.add_argument("--batches", type=int, default=40, help="timed batches a run")
    parts = {"fp32": lambda args: ours(args, "fp32"), "auto": lambda args: ours(args, "auto")}
    args = bench.parse(parser, parts | {"plain": plain})
    with bench.watched(args.device):
        sides = bench.in_turns((*parts, "plain"), args.rounds)
    name = Path(args.model).parent.name if args.model else "BERT-base"
    speeds = {side: bench.median(runs, "tokens_per_second") for side, runs in sides.items()}
    peaks = {side: bench.median(runs, "peak_memory_mib") for side, runs in sides.items()}
    for side in parts:
        what = f"fine-tuning {name}, {sides[side][0]['what']} (Trainer: batch 8, fp32)"
        goal = "1.5x" if side == "fp32" else "no slower than fp32"
        bench.result(what, speeds[side], speeds["plain"], "tokens/s", goal, rate=True)
        bench.result(f"its memory, {side}", peaks[side], peaks["plain"], "MiB", "at most 1.1x")
        padding, share = (bench.median(sides[side], key) for key in ("padding", "share"))
        print(
            f"{side}: padding {100 * padding:.1f} % of the positions, {100 * share:.0f} % of the "
            "machine's better matrix rate (goal: 55 %)"
        )


def prepare(args):
    """(data set, a model with a new head, its tokenizer)."""
    import transformers

    from NER import task

    dataset = task.load(False, args.data_dir)
    transformers.set_seed(0)
    labels, auto = len(dataset.labels), transformers.AutoModelForTokenClassification
    if args.model:
        model = auto.from_pretrained(args.model, num_labels=labels)
        return dataset, model, transformers.AutoTokenizer.from_pretrained(args.model)
    tokenizer = bench.word_pieces(" ".join(e.words) for e in dataset.splits["train"])
    config = transformers.BertConfig(vocab_size=28996, num_labels=labels)
    return dataset, auto.from_config(config), tokenizer


def ours(args, precision):
    from common import batching
    from common.device import choose_device, peak_memory
    from common.training import losses
    from NER import task

    dataset, model, tokenizer = prepare(args)
    device = choose_device(args.device, precision)
    encoded, _ = task.encode(dataset, dataset.splits["train"], tokenizer, 512)
    lengths = [len(row["input_ids"]) for row in encoded]
    batches = batching.epoch_batches(lengths, args.batch_size, 0, 0)
    batches = [b for b in batches if len(b) == args.batch_size][: args.batches]
    settings = bench.training_flags(args.batch_size)
    seconds = bench.train(model, encoded, batches, settings, device, losses.cross_entropy)
    timed = [lengths[i] for batch in batches for i in batch]
    rate = max(bench.matrix_rate(device._replace(precision=p)) for p in ("fp32", "bf16"))
    return {
        "what": f"batch {args.batch_size}, {device.precision}, {device.torch_device}",
        "tokens_per_second": sum(timed) / seconds,
        "padding": bench.padding(lengths, batches),
        "share": model_flops(model.config, timed) / seconds / rate,
        "peak_memory_mib": peak_memory(device)["peak_memory_mib"],
    }


def model_flops(config, lengths):
    """Multiply-adds x 2, forward and backward (3 forwards), of the linear layers and attention."""
    linear = config.num_hidden_layers * (
        4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    )
    attention = 2 * config.num_hidden_layers * config.hidden_size
    return 3 * sum(2 * n * (linear + attention * n) for n in lengths)


def plain(args):
    """What the token-classification examples do: Trainer, fp32, batch 8, pads to the longest."""
    import random

    import transformers

    from common.device import choose_device, peak_memory

    dataset, model, tokenizer = prepare(args)
    number = {label: i for i, label in enumerate(dataset.labels)}
    rows = []
    for example in random.Random(0).sample(dataset.splits["train"], 8 * args.batches):
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
    longest = sorted(rows, key=lambda row: -len(row["input_ids"]))[:8]
    for part in (longest, rows):  # the first part warms up
        with tempfile.TemporaryDirectory() as folder:
            trainer = transformers.Trainer(
                model,
                transformers.TrainingArguments(
                    folder, num_train_epochs=1, save_strategy="no", report_to="none",
                    logging_strategy="no", disable_tqdm=True, use_cpu=args.device == "cpu",
                ),
                train_dataset=part,
                data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
            )  # fmt: skip
            started = time.perf_counter()
            trainer.train()
            seconds.append(time.perf_counter() - started)
    device = choose_device(str(next(model.parameters()).device), "fp32")
    return {
        "what": "Trainer, batch 8, fp32",
        "tokens_per_second": tokens / seconds[-1],
        "peak_memory_mib": peak_memory(device)["peak_memory_mib"],
    }


if __name__ == "__main__":
    main()
