"""The demo's miniature models: the real architectures and tokenizers, pre-trained on the spot.

BERT, GPT-2, ELECTRA and Llama read general text, BioBERT, BioGPT and BioM-ELECTRA biomedical text
(`common.demo.language`). A miniature takes well under a minute and is cached; it is a real, if
tiny, pre-trained model. But for one thing: ELECTRA's fill in masked words, as BERT's
do; no generator trains them as discriminators.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import random
import shutil
import string
import tempfile
import time
from pathlib import Path

from common.cli import RANK
from common.demo import language

ELECTRA, LLAMA = ("electra-base", "biom-electra-base"), "llama2-7b"
DOMAINS = dict.fromkeys(("bert", "gpt2", "electra-base", LLAMA), "general")
DOMAINS |= dict.fromkeys(("biobert", "biogpt", "biom-electra-base"), "biomedical")
WORDPIECE = ("bert", "biobert", *ELECTRA)
LINES, VOCABULARY = 28_000, 1200  # of the text; of a tokenizer
HIDDEN, LAYERS, HEADS, POSITIONS = 128, 2, 8, 256
BATCH, PEAK_RATE, SEED = 32, 1e-3, 0
MASKED, MASKED_IN_PAIRS = 0.25, 0.03  # shares; a pair's last word is masked besides
LAST_WEIGHT = 3.0  # of the last word, the note whether a remark is right, in the loss


def folder_of(name: str, cache: Path) -> Path:
    """Where the miniature `name` lies, made or not.

    The folder's name holds a hash of the code and of the libraries' versions.
    """
    versions = [importlib.metadata.version(p) for p in ("torch", "transformers", "tokenizers")]
    source = Path(__file__).read_bytes() + Path(language.__file__).read_bytes()
    source += repr([name, versions]).encode()
    return cache / f"{name}-{hashlib.sha256(source).hexdigest()[:10]}"


def miniature(name: str, cache: Path) -> Path:
    """The folder of the pre-trained miniature `name` under `cache`, made on first use.

    It appears by a rename when the model is complete, so that a killed or a second process does no
    harm.
    """
    folder = folder_of(name, cache)
    while RANK and not folder.is_dir():  # under torchrun only the first process can save a model
        time.sleep(0.5)
    if folder.is_dir():
        return folder
    import torch

    cache.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the result, then, does not depend on the number of cores
    work = Path(tempfile.mkdtemp(dir=cache, prefix=f".{folder.name}-"))
    try:
        lines = language.text(DOMAINS[name], LINES, SEED)
        tokenizer = train_tokenizer(name, lines, work)
        pretrain(name, tokenizer, lines).save_pretrained(work)
        tokenizer.save_pretrained(work)
        work.chmod(0o755)  # mkdtemp's are closed to others
        try:
            os.rename(work, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same model
                raise
    finally:
        torch.set_num_threads(threads)
        shutil.rmtree(work, ignore_errors=True)
    return folder


def train_tokenizer(name: str, lines: list[str], work: Path):
    """Train the kind of tokenizer that `name` really has; each ASCII character has a piece.

    ELECTRA's lower-cases its text, the others keep the case.
    Characters that end a word, or stand within one, are given as special tokens: so their numbers,
    and the outcome of ties, do not depend on hashing.
    """
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    lower = name in ELECTRA
    letters = string.ascii_lowercase if lower else string.ascii_letters
    characters = letters + string.digits + string.punctuation
    extra = {"initial_alphabet": list(characters)}
    trainer = trainers.BpeTrainer
    if name in WORDPIECE:
        lines = [line.lower() for line in lines] if lower else lines
        raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"##{c}" for c in characters)]
        trainer = trainers.WordPieceTrainer
    elif name == "gpt2":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        specials = ["<|endoftext|>"]
        extra = {"initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet())}
    elif name == LLAMA:
        raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        raw.pre_tokenizer = pre_tokenizers.Metaspace()
        specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    else:
        from sacremoses import MosesTokenizer

        moses = functools.cache(functools.partial(
            MosesTokenizer("en").tokenize, aggressive_dash_splits=True, return_str=True
        ))  # fmt: skip
        lines = [" ".join(map(moses, line.split())) for line in lines]
        raw = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        specials = ["<s>", "<pad>", "</s>", "<unk>", *(f"{c}</w>" for c in characters)]
        extra["end_of_word_suffix"] = "</w>"
    options = {"vocab_size": VOCABULARY, "special_tokens": specials, "show_progress": False}
    raw.train_from_iterator(lines, trainer(**options, **extra))
    model = json.loads(raw.to_str())["model"]
    limit = {"model_max_length": POSITIONS}
    if name in WORDPIECE:
        return transformers.BertTokenizer(vocab=model["vocab"], do_lower_case=lower, **limit)
    merges = [tuple(merge) for merge in model["merges"]]
    if name == "gpt2":
        return transformers.GPT2Tokenizer(vocab=model["vocab"], merges=merges, **limit)
    if name == LLAMA:
        return transformers.LlamaTokenizer(vocab=model["vocab"], merges=merges, **limit)
    (work / "vocab.json").write_text(json.dumps(model["vocab"]))
    (work / "merges.txt").write_text("".join(f"{a} {b}\n" for a, b in merges))
    return transformers.BioGptTokenizer(str(work / "vocab.json"), str(work / "merges.txt"), **limit)


def build(name: str, tokenizer):
    """A new miniature with its language-model head."""
    import transformers

    # Wide weights and no dropout: so little text and time need a quick start.
    options = {"vocab_size": len(tokenizer), "initializer_range": 0.1}
    if name == "gpt2":
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(
            n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS, n_inner=2 * HIDDEN,
            attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0, **ends, **options,
        ))  # fmt: skip
    options |= {
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": 2 * HIDDEN, "max_position_embeddings": POSITIONS,
    }  # fmt: skip
    if name == LLAMA:  # pairs of its heads share keys and values, as those of the larger ones do
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(num_key_value_heads=HEADS // 2, **options)
        )
    options |= {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    if name == "biogpt":
        return transformers.BioGptForCausalLM(transformers.BioGptConfig(**options))
    if name in ELECTRA:
        config = transformers.ElectraConfig(embedding_size=HIDDEN, **options)
        return transformers.ElectraForMaskedLM(config)
    return transformers.BertForMaskedLM(transformers.BertConfig(**options))


def encode(name: str, tokenizer, lines: list[str]) -> list[tuple[list[int], int]]:
    """(`input_ids`, where the second part begins) of each line, framed as NLI pairs will be."""
    pieces = functools.cache(lambda word: tokenizer.encode(" " + word, add_special_tokens=False))
    found = []
    for line in lines:
        first, stop, rest = line.partition(" . ")
        a, b = ([i for word in part.split() for i in pieces(word)] for part in (first + stop, rest))
        if name == "gpt2":
            ids = a + [tokenizer.eos_token_id] * bool(b) + b
        elif name == "biogpt":
            ids = [tokenizer.sep_token_id, *a] + [tokenizer.sep_token_id] * bool(b) + b
        elif name == LLAMA:
            ids = [tokenizer.bos_token_id, *a] + [tokenizer.bos_token_id] * bool(b) + b
        else:
            ids = [tokenizer.cls_token_id, *a, tokenizer.sep_token_id]
            if b:
                found.append((ids + b + [tokenizer.sep_token_id], len(ids)))
                continue
        found.append((ids, len(ids)))
    return found


def pretrain(name: str, tokenizer, lines: list[str]):
    """Pre-train a miniature: masked words for BERT and ELECTRA, else the next word."""
    import torch
    from torch.nn import functional as F
    from tqdm import tqdm

    examples = encode(name, tokenizer, lines)
    batches = []
    for i in range(0, len(examples), 8 * BATCH):  # eight batches at a time, so that lengths match
        some = sorted(examples[i : i + 8 * BATCH], key=lambda x: len(x[0]))
        some = [some[j : j + BATCH] for j in range(0, len(some), BATCH)]
        batches += random.Random(i).sample(some, len(some))
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = build(name, tokenizer).train()
        # Small at first: what a word is matters before where it stands. Without this, BERT takes
        # three times as much text to begin to compare two sentences, or never does.
        for key, weight in model.named_parameters():
            if any(part in key for part in ("position", "wpe", "token_type")):
                weight.data *= 0.2
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), fused=True
        )
        for step, batch in enumerate(tqdm(
            batches, desc=f"demo: pre-training a miniature {name}", unit=" batches"
        )):  # fmt: skip
            left = len(batches) - step
            rate = PEAK_RATE * min(
                1, (step + 1) / (0.1 * len(batches)), left / (0.4 * len(batches))
            )
            optimizer.param_groups[0]["lr"] = rate
            inputs, labels = (masked if name in WORDPIECE else shifted)(tokenizer, batch)
            logits = model(**inputs).logits[:, : labels.shape[1]]
            rows = torch.arange(len(batch))
            last = torch.tensor([len(ids) for ids, _ in batch]) - 2
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
            loss = loss + LAST_WEIGHT * F.cross_entropy(logits[rows, last], labels[rows, last])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def padded(batch, pad: int):
    """(ids, mask), both `[batch, tokens]`, of (`input_ids`, ...) pairs."""
    import torch

    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in batch])
    sizes = torch.tensor([len(ids) for ids, _ in batch])
    return ids, torch.arange(width) < sizes[:, None]


def masked(tokenizer, batch) -> tuple:
    """Inputs and labels (-100: not asked for) of the masked language model."""
    import torch

    ids, mask = padded(batch, tokenizer.pad_token_id)
    second = torch.tensor([begin for _, begin in batch])[:, None]
    types = (mask & (torch.arange(ids.shape[1]) >= second)).long()
    share = torch.where(types.sum(1, keepdim=True) > 0, MASKED_IN_PAIRS, MASKED)
    chosen = (torch.rand(ids.shape) < share) & mask & (ids > tokenizer.sep_token_id)
    chosen[torch.arange(len(ids)), mask.sum(1) - 2] = True
    inputs = {"input_ids": ids.masked_fill(chosen, tokenizer.mask_token_id)}
    inputs |= {"attention_mask": mask.long(), "token_type_ids": types}
    return inputs, ids.masked_fill(~chosen, -100)


def shifted(tokenizer, batch) -> tuple:
    """Inputs and labels (the next token; -100: none) of the causal language model."""
    ids, mask = padded(batch, tokenizer.pad_token_id or 0)
    return {"input_ids": ids, "attention_mask": mask.long()}, ids.masked_fill(~mask, -100)[:, 1:]
