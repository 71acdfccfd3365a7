"""Instruct: generation and training against the plain way, in turns.

    python tests/benchmarks/instruction_tuning.py --data_dir medtuned

GPT-2 small from its configuration with random weights; a random sample of the prompts in a folder
that build.py made, and a byte-level BPE of GPT-2's size trained on them. The plain way to answer:
`generate` one by one, fp32. A random model does not stop: both write as many tokens as the gold
answer has. The plain way to train: fp32, batch 16, each padded to --max_length, the head on all
positions. Each side runs in a process of its own, in turn; ratios are of the medians. On a busy
machine the processor's seconds, with --threads 1, say more than those of the clock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
VOCABULARY = 50257


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=200, help="to answer (default: 200)")
    parser.add_argument("--plain_prompts", type=int, help="one by one the first N alone: its rate "
                        "needs no batch, and it is slow")  # fmt: skip
    parser.add_argument("--examples", type=int, default=96, help="to train on (default: 96)")
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=("ours", "plain"), help="(one run, for the rounds)")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(globals()[args.side](args)))
        return
    sides = {"ours": [], "plain": []}
    for number in range(args.rounds):
        for side, found in sides.items():
            command = [sys.executable, __file__, "--side", side, *sys.argv[1:]]
            environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True,
                                    env=environment).stdout  # fmt: skip
            found.append(json.loads(output.splitlines()[-1]))
            print(number + 1, side, found[-1], flush=True)
    for key in ("generation", "training"):
        for n, seconds in enumerate(("clock", "processor")):
            ours, plain = (
                statistics.median(run[key][n] for run in some) for some in sides.values()
            )
            print(f"{key}, {seconds}: {ours:.1f} against {plain:.1f} tokens a second, "
                  f"{ours / plain:.1f} times")  # fmt: skip


def prepare(args):
    """A random GPT-2 small; encoded test and training examples."""
    import random

    import torch
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    from Instruct import prompts, task

    data = task.load(argparse.Namespace(demo=False, data_dir=args.data_dir, negative_label=None))
    texts = (prompts.text(row) + row["output"] for row in data.splits["train"][::20])
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(texts, VOCABULARY, show_progress=False,
                               special_tokens=["<|endoftext|>"])  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        pieces.save_model(folder)
        tokenizer = transformers.GPT2Tokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=VOCABULARY))
    model.config.pad_token_id = tokenizer.eos_token_id

    def some(split, n):
        drawn = random.Random(0).sample(data.splits[split], n)
        return task.encode(data, drawn, tokenizer, args.max_length)[0]

    return model, some("test", args.prompts), some("train", args.examples)


def lengths(rows, args):
    """Tokens to write: the gold answer's, where the positions suffice."""
    return [min(sum(label >= 0 for label in row["labels"]), args.max_length - len(row["prompt"]))
            for row in rows]  # fmt: skip


def clock():
    """Seconds of the clock and of the processor."""
    return time.perf_counter(), time.process_time()


def rates(most, answering, examples, training):
    """Tokens a second, of (start, end): those of the answers, and those that are no padding."""
    tokens = {"generation": sum(most), "training": sum(len(row["input_ids"]) for row in examples)}
    return {
        key: [n / (end - start) for start, end in zip(*seconds, strict=True)]
        for (key, n), seconds in zip(tokens.items(), (answering, training), strict=True)
    }


def ours(args):
    from common import training
    from common.device import choose_device
    from Instruct import generation, task

    model, asked, examples = prepare(args)
    device = choose_device("auto", "auto")
    settings = {"learning_rate": 2e-5, "num_train_epochs": 1, "warmup_ratio": 0.1, "seed": 0,
                "weight_decay": 0.01, "max_grad_norm": 1.0, "save_minutes": 60}  # fmt: skip
    flags = argparse.Namespace(**settings, batch_size=16)
    prompts = [list(row["prompt"]) for row in asked]
    most = lengths(asked, args)
    generation.generate(model, prompts[:2], [2, 2], set(), 16, device, "warm-up")
    started = clock()
    found = generation.generate(model, prompts, most, set(), 16, device, "test")
    answering = started, clock()
    assert [len(ids) for ids in found] == most
    ended = []
    for part in (examples[:2], examples):  # the first part warms up
        with tempfile.TemporaryDirectory() as folder:
            started = clock()
            training.fit(
                model, part, flags, device, lambda: ended.append(clock()) or {},
                "", Path(folder), loss=task.loss, n_labels=task.n_labels,
            )  # fmt: skip
    return rates(most, answering, examples, (started, ended[-1])) | {"precision": device.precision}


def plain(args):
    import torch
    from transformers import GenerationConfig

    model, asked, examples = prepare(args)
    model.eval()
    asked = asked[: args.plain_prompts]
    prompts = [torch.tensor([list(row["prompt"])]) for row in asked]
    most = lengths(asked, args)

    def answer(ids, n):
        plan = GenerationConfig(do_sample=False, max_new_tokens=n, min_new_tokens=n, pad_token_id=0)
        return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=plan)

    answer(prompts[0], 2)
    started = clock()
    for ids, n in zip(prompts, most, strict=True):
        answer(ids, n)
    answering = started, clock()

    width, pad = args.max_length, 0
    rows = [(list(row["input_ids"]), list(row["labels"])) for row in examples]
    ids = torch.tensor([i + [pad] * (width - len(i)) for i, _ in rows])
    labels = torch.tensor([i + [-100] * (width - len(i)) for _, i in rows])
    mask = torch.tensor([[1] * len(i) + [0] * (width - len(i)) for i, _ in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    model.train()

    def train(at, n=16):
        part = slice(at, at + n)
        loss = model(input_ids=ids[part], attention_mask=mask[part], labels=labels[part]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    train(0, 2)
    started = clock()
    for at in range(0, len(rows), 16):
        train(at)
    return rates(most, answering, examples, (started, clock())) | {"precision": "fp32"}


if __name__ == "__main__":
    main()
