"""Miniature checkpoints with random weights, in the file layouts of the real Hub repositories.

`make("biobert", folder)` takes tens of milliseconds (plus the first import of transformers) and no
network; the same arguments give the same weights and vocabulary. The kinds differ as the originals
do: in the names of files and weights, in the serialisation, and in what says that they are cased.
"""

import collections
import functools
import json
import pathlib
import string

HUB_NAMES = {
    "bert": "bert-base-cased",
    "biobert": "dmis-lab/biobert-v1.1",
    "biobert-vocab-only": "dmis-lab/biobert-base-cased-v1.1",
    "gpt2": "gpt2-medium",
    "biogpt": "microsoft/biogpt",
    "uncased": "bert-base-uncased",
}
SENTENCES = (
    "IL-2 gene expression and NF-kappa B activation through CD28 require reactive oxygen .",
    "The NF-kappa B binding site of the human IL-2 promoter was mutated in Jurkat T cells .",
    "Stimulation of T lymphocytes with TNF-alpha induced c-fos mRNA and GATA-1 mRNA in 30 min .",
    "Human monocytes and HeLa cells express the glucocorticoid receptor protein .",
    "U937 cells were treated with interferon-gamma ; transcription of the HIV-1 LTR increased .",
    "The patient was admitted to the hospital with chest pain and shortness of breath .",
    "She denies fever , chills , nausea or vomiting . The patient has no history of diabetes .",
    "Blood pressure was 140/90 mmHg , heart rate 72 , and the patient was given aspirin 81 mg .",
    "He has a normal heart . The patient is healthy . The patient has an infection .",
    "In the morning the old man walked along the river and Mary read a book about London .",
)
PRINTABLE = sorted(string.digits + string.ascii_letters + string.punctuation)


def make(
    kind, folder, *, layers=2, hidden=32, heads=2, seed=0, words=None, max_positions=128, pieces=250
) -> pathlib.Path:
    """Write a checkpoint of `kind` (a key of HUB_NAMES) into `folder` and return the folder.

    The sub-words come from `words` (words or sentences; default SENTENCES): every printable ASCII
    character and at most `pieces` merged ones. len(tokenizer) == config.vocab_size for every kind.
    """
    import torch
    import transformers

    if kind not in HUB_NAMES:
        raise ValueError(f"{kind!r} is none of {', '.join(HUB_NAMES)}")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer, config_class, model_class = {
        "gpt2": (_gpt2_tokenizer, "GPT2Config", "GPT2LMHeadModel"),
        "biogpt": (_biogpt_tokenizer, "BioGptConfig", "BioGptForCausalLM"),
    }.get(kind, (_bert_tokenizer, "BertConfig", "BertForPreTraining"))
    texts = SENTENCES if words is None else tuple(words)
    specials = write_tokenizer(kind, folder, texts, pieces, max_positions)

    config = getattr(transformers, config_class)(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=max_positions,
        initializer_range=0.02 * (768 / hidden) ** 0.5,  # activations as large as in the originals
        architectures=[model_class],
        **specials,
        **({} if kind == "gpt2" else {"intermediate_size": 4 * hidden}),
    )
    config.to_json_file(folder / "config.json")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = getattr(transformers, model_class)(config)
        for parameter in model.parameters():  # so that a norm or a bias left unloaded is noticed
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    _write_weights(kind, folder, model.state_dict(), max_positions)
    return folder


def _write_weights(kind, folder, weights, max_positions):
    """Write the weights under the names, and in the format, of the real repository."""
    import torch
    from safetensors.torch import save_file

    if kind == "gpt2":
        del weights["lm_head.weight"]
        weights = {name.removeprefix("transformer."): w for name, w in weights.items()}
        mask = torch.ones(max_positions, max_positions).tril()[None, None]
        blocks = {name.split(".")[1] for name in weights if name.startswith("h.")}
        weights |= {f"h.{n}.attn.bias": mask.clone() for n in blocks}
    elif kind != "biogpt":
        del weights["cls.predictions.decoder.bias"]
        for new, old in (("Norm.weight", "Norm.gamma"), ("Norm.bias", "Norm.beta")):
            weights = {name.replace(new, old): w for name, w in weights.items()}
    if kind in ("bert", "uncased", "gpt2"):
        weights.pop("cls.predictions.decoder.weight", None)  # tied: safetensors stores it once
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:  # BioBERT's file is older than torch's zip format
        path, zipped = folder / "pytorch_model.bin", kind == "biogpt"
        torch.save(dict(weights), path, _use_new_zipfile_serialization=zipped)


def _bert_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """WordPiece. Not every repository says whether it is cased."""
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import BertTokenizer

    lower = kind == "uncased"
    split = BertPreTokenizer().pre_tokenize_str
    words = [tuple(w) for t in texts for w, _ in split(t.lower() if lower else t)]
    merges = _merges(tuple(words), pieces)
    plain = [c for c in _characters(words) if c == c.lower() or not lower]
    plain += [a + b for a, b in merges]
    vocab = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = list(dict.fromkeys(vocab + plain + ["##" + piece for piece in plain]))
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    if kind != "biobert-vocab-only":
        settings = {"do_lower_case": lower, "model_max_length": max_positions}
        _write_json(folder / "tokenizer_config.json", settings)
    if kind == "biobert":
        special = {f"{n}_token": f"[{n.upper()}]" for n in ("unk", "sep", "pad", "cls", "mask")}
        _write_json(folder / "special_tokens_map.json", special)
    if kind in ("bert", "uncased"):
        tokenizer = BertTokenizer(_numbered(vocab), do_lower_case=lower)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return {"vocab_size": len(vocab), "pad_token_id": 0}


def _gpt2_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """Byte-level BPE; the end of text is the last id, and there is no token for padding."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import GPT2Tokenizer

    split = ByteLevel(add_prefix_space=False).pre_tokenize_str
    merges = _merges(tuple(tuple(w) for t in texts for w, _ in split(t)), pieces)
    tokens = sorted(ByteLevel.alphabet()) + [a + b for a, b in merges]
    vocab = _numbered([*dict.fromkeys(tokens), "<|endoftext|>"])
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    _write_json(folder / "vocab.json", vocab)
    _write_json(folder / "tokenizer_config.json", {"model_max_length": max_positions})
    GPT2Tokenizer(vocab, merges).backend_tokenizer.save(str(folder / "tokenizer.json"))
    end = len(vocab) - 1
    return {"vocab_size": len(vocab), "bos_token_id": end, "eos_token_id": end}


def _biogpt_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """Words end in `</w>`; merges in fastBPE's `first second count` lines; no tokenizer_config."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    words = [w for t in texts for w, _ in BertPreTokenizer().pre_tokenize_str(t)]
    merges = _merges(tuple((*w[:-1], w[-1] + "</w>") for w in words), pieces)
    tokens = ["<s>", "<pad>", "</s>", "<unk>"]
    tokens += [piece for c in _characters(words) for piece in (c, c + "</w>")]
    vocab = _numbered(dict.fromkeys(tokens + [a + b for a, b in merges]))
    lines = [f"{a} {b} {len(merges) - i}\n" for i, (a, b) in enumerate(merges)]
    (folder / "merges.txt").write_text("".join(lines), encoding="utf-8")
    _write_json(folder / "vocab.json", vocab)
    return {"vocab_size": len(vocab), "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


def _characters(words) -> list[str]:
    return PRINTABLE + sorted({c for word in words for c in word} - set(PRINTABLE))


def _numbered(tokens) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}


def _write_json(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


@functools.cache
def _merges(words, most) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016); a tie goes to the smaller pair: repeatable."""
    words = collections.Counter(words)
    merges = []
    while len(merges) < most:
        pairs = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_joined(word, best): n for word, n in words.items()}
    return merges


def _joined(word, pair) -> tuple[str, ...]:
    if pair not in zip(word, word[1:], strict=False):
        return word
    out = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)
