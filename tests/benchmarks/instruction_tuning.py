"""Instruct: generation and training against the plain way, in turns.

    python tests/benchmarks/instruction_tuning.py --data_dir medtuned
    python tests/benchmarks/instruction_tuning.py --data_dir medtuned --model llama2-7b

GPT-2 small from its configuration with random weights; a random sample of the prompts in a folder
that build.py made, and a byte-level BPE of GPT-2's size trained on them. The plain way to answer:
`generate` one by one, fp32, the same prompts. A random model does not stop: both write as many
tokens as the gold answer has. Training, ours: the first batches of a true epoch. The plain way:
fp32, each example padded to --max_length, the head on all positions, on fewer examples. Each side
runs in a process of its own; ratios are of the medians.

llama2-7b is trained with adapters, and is not measured the plain way: what is told is the share of
the matrix rate, and the peak memory. --layers makes it smaller, to see that it runs.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import bench

VOCABULARY = {"gpt2": 50257, "llama2-7b": 32000}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=200, help="to answer (default: 200)")
    parser.add_argument("--batches", type=int, default=8, help="of 16, to train on, ours")
    parser.add_argument("--plain_examples", type=int, default=8, help="to train on, the plain way")
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--model", choices=VOCABULARY, default="gpt2")
    parser.add_argument("--precision", default="auto", help="of ours; the plain way is fp32")
    parser.add_argument("--layers", type=int, help="(of llama2-7b; default: its 32)")
    args = bench.parse(parser, {"ours": ours, "plain": plain})
    names = ("ours", "plain") if args.model == "gpt2" else ("ours",)
    with bench.watched(args.device):
        sides = bench.in_turns(names, args.rounds)
    own = {key: bench.median(sides["ours"], key) for key in sides["ours"][0] if key != "precision"}
    for key, goal in (("generation", "8x"), ("training", "3x")):
        if "plain" in sides:
            values = own[key], bench.median(sides["plain"], key)
            bench.result(f"Instruct {key}, GPT-2 small", *values, "tokens/s", goal, rate=True)
        else:
            print(f"result | Instruct {key}, {args.model} | {own[key]:.3g} tokens/s | | |")
    print(f"padding {100 * own['padding']:.1f} % of the timed positions")
    print(
        f"training: {100 * own['share']:.0f} % of the matrix-product rate (adapters' goal: 40), "
        f"peak memory {own['peak_memory_mib']:.0f} MiB"
    )


def prepare(args):
    """A random model; encoded test and training examples."""
    import torch
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    from common.device import choose_device
    from common.models import adapters
    from common.training import losses
    from Instruct import prompts, task

    data = task.load(False, args.data_dir)
    form = prompts.FORMS["alpaca"]
    texts = (form.format_map(row) + row["output"] for row in data.splits["train"][::20])
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(texts, VOCABULARY[args.model], show_progress=False,
                               special_tokens=["<|endoftext|>"])  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        pieces.save_model(folder)
        tokenizer = transformers.GPT2Tokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    if args.model == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    else:  # the library's defaults are Llama-2-7b's
        config = transformers.LlamaConfig(num_hidden_layers=args.layers or 32)
        with choose_device(
            args.device, args.precision
        ).torch_device:  # on a CPU it would take minutes
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model = adapters.add(model, 16)
    model.config.pad_token_id = tokenizer.eos_token_id

    def some(split, n):
        drawn = random.Random(0).sample(data.splits[split], n)
        return task.encode(data, drawn, tokenizer, args.max_length)[0]

    examples = some("train", min(8000, len(data.splits["train"])))
    return model, some("test", args.prompts), [e for e in examples if losses.labels_in(e)]


def lengths(rows, args):
    """Tokens to write: the gold answer's, where the positions suffice."""
    return [min(sum(label >= 0 for label in row["labels"]), args.max_length - len(row["prompt"]))
            for row in rows]  # fmt: skip


def ours(args):
    from common import batching
    from common.device import choose_device, peak_memory
    from Instruct import generation, task

    model, asked, examples = prepare(args)
    device = choose_device(args.device, args.precision)
    prompts, most = [list(row["prompt"]) for row in asked], lengths(asked, args)
    generation.generate(model, prompts[:2], [2, 2], set(), 16, device, "warm-up")
    started = time.perf_counter()
    found = generation.generate(model, prompts, most, set(), 16, device, "test")
    answering = time.perf_counter() - started
    assert [len(ids) for ids in found] == most
    sizes = [len(row["input_ids"]) for row in examples]
    batches = batching.epoch_batches(sizes, 16, 0, 0)[: args.batches]
    flags = bench.training_flags(16)
    training = bench.train(model, examples, batches, flags, device, task.loss)
    read = sum(sizes[i] for batch in batches for i in batch)
    return {
        "generation": sum(most) / answering,
        "training": read / training,
        "padding": bench.padding(sizes, batches),
        "share": read * flops(model) / training / bench.matrix_rate(device),
        "peak_memory_mib": peak_memory(device)["peak_memory_mib"],
        "precision": device.precision,
    }


def flops(model) -> float:
    """Of the layers' products, by token: 2 a weight forward, 2 for the inputs' gradients and, where
    the weight is trained, 2 for its own. Without attention, the head and the embeddings."""
    products = {
        id(module.weight): module.weight  # an adapted layer shows that of the layer within
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and "lm_head" not in name
    }.values()
    return sum((6 if w.requires_grad else 4) * w.numel() for w in products)


def plain(args):
    import torch
    from transformers import GenerationConfig

    from common.device import choose_device

    model, asked, examples = prepare(args)
    where = choose_device(args.device, "fp32").torch_device
    model.to(where).eval()
    prompts = [torch.tensor([list(row["prompt"])], device=where) for row in asked]
    most = lengths(asked, args)

    def answer(ids, n):
        plan = GenerationConfig(do_sample=False, max_new_tokens=n, min_new_tokens=n, pad_token_id=0)
        return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=plan)

    answer(prompts[0], 2)
    started = time.perf_counter()
    for ids, n in zip(prompts, most, strict=True):
        answer(ids, n)
    answering = time.perf_counter() - started

    width = args.max_length
    rows = [(list(e["input_ids"]), list(e["labels"])) for e in examples[: args.plain_examples]]
    ids = torch.tensor([i + [0] * (width - len(i)) for i, _ in rows], device=where)
    labels = torch.tensor([i + [-100] * (width - len(i)) for _, i in rows], device=where)
    mask = torch.tensor([[1] * len(i) + [0] * (width - len(i)) for i, _ in rows], device=where)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    model.train()

    def train(at, n=4):
        part = slice(at, at + n)
        loss = model(input_ids=ids[part], attention_mask=mask[part], labels=labels[part]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    train(0, 1)
    started = time.perf_counter()
    for at in range(0, len(rows), 4):
        train(at)
    training = time.perf_counter() - started
    tokens = sum(len(i) for i, _ in rows)
    return {"generation": sum(most) / answering, "training": tokens / training}


if __name__ == "__main__":
    main()
