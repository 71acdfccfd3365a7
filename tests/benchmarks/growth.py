"""How time and memory of each step grow with the data and with the inputs' length.

    python tests/benchmarks/growth.py [--steps fine-tuning,svc] [--unit 128]

1, 2, 4, 8 times the data (of 64 tokens each), and 64 to 512 tokens (as many tokens in all), each in
a process of its own, on a random BERT of 4 layers of 256 (answers: a GPT-2, which writes 16 tokens
to each prompt) and random tokens. Printed are seconds and peak memory, and the exponent of time:
the slope of log time over log size, 1 where time grows as the data do. Beside other work the
exponents of processor time are the ones to read.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import bench

TIMES, LENGTHS = (1, 2, 4, 8), (64, 128, 256, 512)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--unit", type=int, default=128, help="inputs at 1 time")
    parser.add_argument("--size", default="1,64", help="(times, tokens: by the script itself)")
    args = bench.parse(parser, dict.fromkeys(STEPS, measured))
    with bench.watched(args.device):
        for step in args.steps.split(","):
            for what, sizes in (
                ("data", [(n, LENGTHS[0]) for n in TIMES]),
                ("length", [(LENGTHS[-1] // LENGTHS[0] / (n // LENGTHS[0]), n) for n in LENGTHS]),
            ):
                if what == "length" and step in ("svc", "bilstm-crf"):
                    continue  # they see vectors, not tokens
                runs = [bench.side(step, "--size", f"{a:g},{b}") for a, b in sizes]
                x = [a if what == "data" else b for a, b in sizes]
                clock, processor = (
                    slope(x, [run[key] for run in runs]) for key in ("seconds", "processor")
                )
                row = " | ".join(f"{r['seconds']:.3g} s, {r['peak_mib']:.0f} MiB" for r in runs)
                print(f"growth | {step} | {what} | {row} | {clock:.2f} | {processor:.2f}")


def slope(x, y) -> float:
    """Of a line through (log x, log y), by least squares."""
    a, b = [math.log(v) for v in x], [math.log(v) for v in y]
    mean = sum(a) / len(a), sum(b) / len(b)
    above = sum((p - mean[0]) * (q - mean[1]) for p, q in zip(a, b, strict=True))
    return above / sum((p - mean[0]) ** 2 for p in a)


def measured(args) -> dict:
    """Seconds and peak memory of one step at one size; models and data are made before."""
    from common.device import choose_device, peak_memory

    times, tokens = args.size.split(",")
    device = choose_device(args.device, "auto")
    run = STEPS[args.side](device, round(float(times) * args.unit), int(tokens))
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return {"seconds": time.perf_counter() - clock, "processor": time.process_time() - processor,
            "peak_mib": peak_memory(device)["peak_memory_mib"]}  # fmt: skip


def encoder(auto, seed=0, **options):
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=5000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=1024, pad_token_id=0, num_labels=6,
    )  # fmt: skip
    return getattr(transformers, auto).from_config(config, **options)


def inputs(n: int, tokens: int) -> list[dict]:
    import numpy as np

    ids = np.random.default_rng(0).integers(5, 5000, (n, tokens))
    return [{"input_ids": row.tolist(), "labels": (row % 6).tolist()} for row in ids]


def fine_tuning(device, n, tokens):
    from common.training import losses

    model, some = encoder("AutoModelForTokenClassification"), inputs(n, tokens)
    batches = [range(i, min(i + 16, n)) for i in range(0, n, 16)]
    flags = bench.training_flags(16)
    return lambda: bench.train(model, some, batches, flags, device, losses.cross_entropy)


def features(device, n, tokens):
    from common import features

    model, some = encoder("AutoModel").eval(), inputs(n, tokens)
    some = [row | {"units": [(i, i + 1) for i in range(tokens)]} for row in some]

    def run():
        with tempfile.TemporaryDirectory() as folder:
            features.extract(model, some, list(range(5)), device, 32, Path(folder) / "f")

    return run


def attention(device, n, tokens):
    from common import attention_maps

    one, other = (encoder("AutoModel", seed, attn_implementation="eager").eval() for seed in (0, 1))
    some = [
        {"input_ids": row["input_ids"], "special": [False] * tokens} for row in inputs(n, tokens)
    ]
    return lambda: attention_maps.compare(
        one.to(device.torch_device), {"other": other.to(device.torch_device)}, some, device,
        pad_token_id=0, batch_size=16,
    )  # fmt: skip


def svc(device, n, tokens):
    import numpy as np

    from common.task import Examples

    rng, n = np.random.default_rng(0), 8 * n  # a pair is little work
    vectors = rng.normal(size=(2 * n, 256)).astype(np.float16)
    rows = {"train": np.arange(2 * n).reshape(n, 2), "test": np.arange(n // 4 * 2).reshape(-1, 2)}
    return probed("svc", {0: vectors}, Examples(rows, {"task": rng.integers(0, 3, n)}), device)


def bilstm_crf(device, n, tokens):
    import numpy as np

    from common.task import Sequences

    rng, words = np.random.default_rng(0), 26
    vectors = rng.normal(size=(n * words, 256)).astype(np.float16)
    spans = {"train": [(i * words, (i + 1) * words) for i in range(n)]}
    sequences = Sequences(spans, {"task": [rng.integers(0, 6, words) for _ in range(n)]})
    return probed("bilstm-crf", {0: vectors, 1: vectors}, sequences, device)


def probed(kind, features, examples, device):
    from common import probes

    options = probes.Options(6, 1, standardize=False, seed=0, device=device)
    return lambda: list(probes.predict_layers(kind, features, [examples], options))


def answers(device, n, tokens):
    import torch
    import transformers

    from Instruct import generation

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=5000, n_embd=256, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0,
        pad_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    prompts = [row["input_ids"] for row in inputs(n, tokens)]
    return lambda: generation.generate(model, prompts, [16] * n, set(), 16, device, "answers")


STEPS = {"fine-tuning": fine_tuning, "features": features, "attention": attention, "svc": svc,
         "bilstm-crf": bilstm_crf, "answers": answers}  # fmt: skip

if __name__ == "__main__":
    main()
