"""The demo's miniature models: the real architectures and tokenizers, pre-trained on the spot.

BERT, GPT-2, ELECTRA and Llama read general text, BioBERT, BioGPT and BioM-ELECTRA biomedical text
(`common.demo.language`). A miniature takes well under a minute and is cached. One thing differs
from the real ones: ELECTRA learns to fill in masked words, as BERT does, without a generator.
"""

import functools
import hashlib
import importlib.metadata
import json
import random
import string
import tempfile
from pathlib import Path

from common.demo import language
from common.files import replacing

LLAMA = "llama2-7b"
DOMAINS = dict.fromkeys(("bert", "gpt2", "electra-base", LLAMA), "general")
DOMAINS |= dict.fromkeys(("biobert", "biogpt", "biom-electra-base"), "biomedical")
TYPES = {"biobert": "bert", "electra-base": "electra", "biom-electra-base": "electra"}
TYPES |= {LLAMA: "llama"}  # the architecture where it differs from the name
LINES, VOCABULARY = 28_000, 1200  # of the text; of a tokenizer
HIDDEN, LAYERS, HEADS, POSITIONS = 128, 2, 8, 256
BATCH, PEAK_RATE, SEED = 32, 1e-3, 0
MASKED, MASKED_IN_PAIRS = 0.25, 0.03  # shares; a pair's last word is masked besides
LAST_WEIGHT = 3.0  # of the last word, the note whether a remark is right, in the loss


def folder_of(name: str, cache: Path) -> Path:
    """Where the miniature `name` lies, made or not.

    The folder's name holds a hash of the code, the words, and the libraries' versions.
    """
    versions = [importlib.metadata.version(p) for p in ("torch", "transformers", "tokenizers")]
    files = __file__, language.__file__, language.WORDS
    source = b"".join(Path(file).read_bytes() for file in files) + repr([name, versions]).encode()
    return cache / f"{name}-{hashlib.sha256(source).hexdigest()[:10]}"


def miniature(name: str, cache: Path) -> Path:
    """The folder of the pre-trained miniature `name` under `cache`, made on first use.

    Processes that need it at the same time wait for the first of them, which makes it.
    """
    import torch
    from filelock import FileLock

    folder = folder_of(name, cache)
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{folder.name}.lock"):
        if not folder.is_dir():
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # the result, then, does not depend on the number of cores
            lines = language.text(DOMAINS[name], LINES, SEED)
            with tempfile.TemporaryDirectory() as work, replacing(folder) as made:
                tokenizer = _train_tokenizer(TYPES.get(name, name), lines, Path(work))
                _pretrain(name, tokenizer, lines).save_pretrained(made)
                tokenizer.save_pretrained(made)
            torch.set_num_threads(threads)
    return folder


def _train_tokenizer(kind: str, lines: list[str], work: Path):
    """Train the kind of tokenizer that the architecture has; each ASCII character has a piece.

    Characters that end a word, or stand within one, are given as special tokens: so their numbers,
    and the outcome of ties, do not depend on hashing.
    """
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    lower = kind == "electra"
    letters = string.ascii_lowercase if lower else string.ascii_letters
    characters = letters + string.digits + string.punctuation
    extra = {"initial_alphabet": list(characters)}
    trainer = trainers.BpeTrainer
    if kind in ("bert", "electra"):
        lines = [line.lower() for line in lines] if lower else lines
        raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"##{c}" for c in characters)]
        trainer = trainers.WordPieceTrainer
        wrap = functools.partial(transformers.BertTokenizer, do_lower_case=lower)
    elif kind == "gpt2":
        raw, wrap = Tokenizer(models.BPE()), transformers.GPT2Tokenizer
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        specials = ["<|endoftext|>"]
        extra = {"initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet())}
    elif kind == "llama":
        raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        raw.pre_tokenizer, wrap = pre_tokenizers.Metaspace(), transformers.LlamaTokenizer
        specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    else:
        from sacremoses import MosesTokenizer

        options = {"aggressive_dash_splits": True, "return_str": True}
        moses = functools.cache(functools.partial(MosesTokenizer("en").tokenize, **options))
        lines = [" ".join(map(moses, line.split())) for line in lines]
        raw = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        raw.pre_tokenizer, wrap = pre_tokenizers.WhitespaceSplit(), transformers.BioGptTokenizer
        specials = ["<s>", "<pad>", "</s>", "<unk>", *(f"{c}</w>" for c in characters)]
        extra["end_of_word_suffix"] = "</w>"
    options = {"vocab_size": VOCABULARY, "special_tokens": specials, "show_progress": False}
    raw.train_from_iterator(lines, trainer(**options, **extra))
    parts = json.loads(raw.to_str())["model"]
    if kind == "biogpt":  # its tokenizer reads files
        files = work / "vocab.json", work / "merges.txt"
        files[0].write_text(json.dumps(parts["vocab"]))
        files[1].write_text("".join(f"{a} {b}\n" for a, b in parts["merges"]))
        return wrap(*map(str, files), model_max_length=POSITIONS)
    merges = {"merges": [tuple(pair) for pair in parts["merges"]]} if "merges" in parts else {}
    return wrap(vocab=parts["vocab"], **merges, model_max_length=POSITIONS)


def _build(kind: str, tokenizer):
    """A new miniature with its language-model head."""
    import transformers

    # Wide weights and no dropout: so little text and time need a quick start.
    inner = {"intermediate_size": 2 * HIDDEN}
    plain = inner | {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    ends = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id")}
    own = {
        "bert": plain,
        "biogpt": plain,
        "electra": plain | {"embedding_size": HIDDEN},
        # Pairs of its heads share keys and values, as those of the larger ones do.
        "llama": inner | {"num_key_value_heads": HEADS // 2},
        "gpt2": dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop"), 0.0)
        | ends
        | {"n_inner": 2 * HIDDEN},
    }
    options = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    options |= {"vocab_size": len(tokenizer), "max_position_embeddings": POSITIONS}
    options |= own[kind] | {"initializer_range": 0.1}
    masked = kind in ("bert", "electra")
    head = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    return head.from_config(transformers.AutoConfig.for_model(kind, **options))


def _encode(kind: str, tokenizer, lines: list[str]) -> list[tuple[list[int], int]]:
    """(`input_ids`, where the second part begins) of each line, framed as NLI pairs will be."""
    bos, eos, sep = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id
    head, middle, tail = {
        "gpt2": ([], [eos], []),
        "biogpt": ([sep], [sep], []),
        "llama": ([bos], [bos], []),
    }.get(kind, ([tokenizer.cls_token_id], [sep], [sep]))
    pieces = functools.cache(lambda word: tokenizer.encode(" " + word, add_special_tokens=False))
    examples = []
    for line in lines:
        first, stop, rest = line.partition(" . ")
        a, b = ([i for word in part.split() for i in pieces(word)] for part in (first + stop, rest))
        ids = [*head, *a, *(middle if b else []), *b, *tail]
        examples.append((ids, len(head) + len(a) + len(middle)))
    return examples


def _pretrain(name: str, tokenizer, lines: list[str]):
    """Pre-train a miniature: masked words for BERT and ELECTRA, else the next word."""
    import torch
    from torch.nn import functional as F
    from tqdm import tqdm

    kind = TYPES.get(name, name)
    examples = _encode(kind, tokenizer, lines)
    batches = []
    for i in range(0, len(examples), 8 * BATCH):  # eight batches at a time, so that lengths match
        near = sorted(examples[i : i + 8 * BATCH], key=lambda x: len(x[0]))
        near = [near[j : j + BATCH] for j in range(0, len(near), BATCH)]
        batches += random.Random(i).sample(near, len(near))
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = _build(kind, tokenizer).train()
        # Small at first: what a word is matters before where it stands. Without this, BERT takes
        # three times as much text to begin to compare two sentences, or never does.
        for key, weight in model.named_parameters():
            if any(part in key for part in ("position", "wpe", "token_type")):
                weight.data *= 0.2
        adam = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)
        n = len(batches)
        title = f"demo: pre-training a miniature {name}"
        for step, batch in enumerate(tqdm(batches, desc=title, unit=" batches")):
            share = min(1, (step + 1) / (0.1 * n), (n - step) / (0.4 * n))
            adam.param_groups[0]["lr"] = PEAK_RATE * share
            inputs, labels = _inputs(tokenizer, batch)
            logits = model(**inputs).logits[:, : labels.shape[1]]
            rows = torch.arange(len(batch))
            last = torch.tensor([len(ids) for ids, _ in batch]) - 2
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
            loss = loss + LAST_WEIGHT * F.cross_entropy(logits[rows, last], labels[rows, last])
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
    return model.eval()


def _inputs(tokenizer, batch) -> tuple:
    """A model's inputs, and what it shall say (-100: nothing): masked tokens, or the next ones."""
    import torch

    from common.batching import pad

    inputs = pad([{"input_ids": ids} for ids, _ in batch], tokenizer.pad_token_id or 0)
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    if tokenizer.mask_token_id is None:
        return inputs, ids.masked_fill(~mask, -100)[:, 1:]
    second = torch.tensor([begin for _, begin in batch])[:, None]
    types = (mask & (torch.arange(ids.shape[1]) >= second)).long()
    share = torch.where(types.sum(1, keepdim=True) > 0, MASKED_IN_PAIRS, MASKED)
    chosen = (torch.rand(ids.shape) < share) & mask & (ids > tokenizer.sep_token_id)
    chosen[torch.arange(len(ids)), mask.sum(1) - 2] = True
    inputs |= {"input_ids": ids.masked_fill(chosen, tokenizer.mask_token_id)}
    return inputs | {"token_type_ids": types}, ids.masked_fill(~chosen, -100)
