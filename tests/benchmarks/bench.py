"""What the benchmarks share: sides in turns, each in a process of its own, and the machine's rate.

A side is a function of the benchmark's module, called with the parsed arguments; what it returns
is written as JSON. `main` prints how fast the machine multiplied matrices before and after, and how
much of the processors others took meanwhile: where the one differs by more than a tenth, or the
other is more than a twentieth, something else was running.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def parse(parser: argparse.ArgumentParser, sides: dict) -> argparse.Namespace:
    """The arguments; in a side's own process runs it, prints what it found, and ends."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--side", choices=sides, help="(one run, by the script itself)")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(sides[args.side](args)))
        sys.exit()
    return args


def side(name: str, *more: str) -> dict:
    """What one side finds, run in a fresh process with this one's arguments, and `more`."""
    command = [sys.executable, *sys.argv, "--side", name, *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(name, *more, {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()},
          flush=True)  # fmt: skip
    return found


def in_turns(names, rounds: int, *more: str) -> dict[str, list[dict]]:
    """`{side: what it found in each round}`."""
    found = {name: [] for name in names}
    for _ in range(rounds):
        for name, runs in found.items():
            runs.append(side(name, *more))
    return found


def median(runs: list[dict], key: str) -> float:
    """Of the rounds of a side."""
    return statistics.median(run[key] for run in runs)


def result(what: str, ours: float, plain: float, unit: str, goal: str, *, rate=False) -> None:
    """Print a row of the table that all.py writes: figures, and how many times better ours is."""
    ratio = ours / plain if rate else plain / ours
    print(f"result | {what} | {ours:.3g} {unit} | {plain:.3g} {unit} | {ratio:.2f}x | {goal}")


@contextmanager
def watched(device: str = "auto"):
    """Print the machine's rate before and after, what others took, and whether it was quiet."""
    from common.device import choose_device

    chosen = choose_device(device, "auto")
    before, started, taken = matrix_rate(chosen), time.perf_counter(), others_seconds()
    yield
    taken = (others_seconds() - taken) / (time.perf_counter() - started) / os.cpu_count()
    after = matrix_rate(chosen)
    quiet = max(before, after) < 1.1 * min(before, after) and taken < 0.05
    print(
        f"machine: {before / 1e9:.0f} GFLOP/s before, {after / 1e9:.0f} after, others took "
        f"{100 * taken:.0f} % ({chosen.precision}, {chosen.torch_device}): "
        + ("quiet" if quiet else "WARNING: not quiet, measure again")
    )


def others_seconds() -> float:
    """Processor time so far that is neither this process's nor its children's (Linux; else 0)."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return 0.0
    busy = sum(map(int, fields)) - int(fields[3]) - int(fields[4])  # less idle, less waiting
    own = sum(os.times()[:4])
    return busy / os.sysconf("SC_CLK_TCK") - own


def matrix_rate(device, tokens: int = 2048, seconds: float = 2.0) -> float:
    """FLOP/s of BERT-base's largest matrix product in the device's precision: the best of 20."""
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


def word_pieces(texts, vocab_size: int = 28996):
    """A cased WordPiece tokenizer of BERT's size, trained on `texts`."""
    import tempfile

    import transformers
    from tokenizers import BertWordPieceTokenizer

    pieces = BertWordPieceTokenizer(lowercase=False)
    pieces.train_from_iterator(texts, vocab_size=vocab_size, show_progress=False)
    with tempfile.TemporaryDirectory() as folder:
        pieces.save_model(folder)
        return transformers.BertTokenizer.from_pretrained(folder, do_lower_case=False)


def train(model, encoded, batches, settings, device, loss) -> float:
    """Seconds of our training steps on `batches` of `encoded`.

    After one on the largest, which makes the memory grow: in a whole epoch that is no time.
    """
    from common.training import losses
    from common.training.loop import Trainer

    trainer = Trainer(model, settings, device, loss)

    def step(number):
        batch = [encoded[i] for i in batches[number]]
        trainer.set_rate(number, len(batches))
        found, _ = trainer.train_on(batch, sum(map(losses.labels_in, batch)), settings.batch_size)
        return found

    sizes = [len(b) * max(len(encoded[i]["input_ids"]) for i in b) for b in batches]
    step(sizes.index(max(sizes))).item()
    started = time.perf_counter()
    for number in range(len(batches)):
        found = step(number)
    found.item()  # waits for the device
    return time.perf_counter() - started


def training_flags(batch_size: int):
    """The defaults of fine-tuning, as `loop.Settings`."""
    from common.training.loop import Settings

    return Settings(
        learning_rate=2e-5,
        num_train_epochs=1,
        batch_size=batch_size,
        warmup_ratio=0.1,
        weight_decay=0.01,
        max_grad_norm=1.0,
        layer_decay=1.0,
        seed=0,
        save_minutes=60.0,
    )


def padding(lengths, batches) -> float:
    """The share of positions that hold no token."""
    tokens = sum(lengths[i] for batch in batches for i in batch)
    return 1 - tokens / sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
