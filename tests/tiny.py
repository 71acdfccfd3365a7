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
    "electra": "google/electra-base-discriminator",
    "electra-small": "google/electra-small-discriminator",
    "albert": "albert/albert-base-v2",
    "biom-albert": "sultan/BioM-ALBERT-xxlarge",
    "roberta": "FacebookAI/roberta-base",
    "distilbert": "distilbert/distilbert-base-cased",
    "llama": "meta-llama/Llama-2-7b-chat-hf",
    "llama3": "meta-llama/Llama-3.2-1B",
    "mistral": "mistralai/Mistral-7B-v0.1",
    "qwen2": "Qwen/Qwen2.5-0.5B",
    "qwen3": "Qwen/Qwen3-0.6B",
    "xlm-roberta": "FacebookAI/xlm-roberta-base",
    "deberta-v2": "microsoft/deberta-v3-base",
    "modernbert": "answerdotai/ModernBERT-base",
    "eurobert": "EuroBERT/EuroBERT-210m",
    "gemma2": "google/gemma-2-2b",
    "gemma3_text": "google/gemma-3-1b-it",
    "gpt_neox": "EleutherAI/pythia-410m",
    "olmo2": "allenai/OLMo-2-0425-1B",
    "phi3": "microsoft/Phi-3-mini-4k-instruct",
}
# The classes of the configuration and of the pre-trained model; else BERT's.
MODELS = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
    "biogpt": ("BioGptConfig", "BioGptForCausalLM"),
    "electra": ("ElectraConfig", "ElectraForPreTraining"),
    "electra-small": ("ElectraConfig", "ElectraForPreTraining"),
    "albert": ("AlbertConfig", "AlbertForPreTraining"),
    "biom-albert": ("AlbertConfig", "AlbertForPreTraining"),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM"),
    "distilbert": ("DistilBertConfig", "DistilBertForMaskedLM"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "llama3": ("LlamaConfig", "LlamaForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForMaskedLM"),
    "deberta-v2": ("DebertaV2Config", "DebertaV2ForMaskedLM"),
    "modernbert": ("ModernBertConfig", "ModernBertForMaskedLM"),
    "eurobert": ("EuroBertConfig", "EuroBertForMaskedLM"),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM"),
    "gemma3_text": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM"),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM"),
    "phi3": ("Phi3Config", "Phi3ForCausalLM"),
}
LEGACY = (
    "biobert", "biobert-vocab-only", "biogpt", "electra", "electra-small", "biom-albert",
    "deberta-v2",
)  # fmt: skip
HALF = ("llama", "deberta-v2", "gpt_neox")  # stored in float16
UNCASED = ("uncased", "electra", "electra-small", "albert", "biom-albert")
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
UNCASED_PRINTABLE = [c for c in PRINTABLE if c == c.lower()]


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
    config_class, model_class = MODELS.get(kind, ("BertConfig", "BertForPreTraining"))
    texts = SENTENCES if words is None else tuple(words)
    specials = TOKENIZERS.get(kind, _bert_tokenizer)(kind, folder, texts, pieces, max_positions)

    config = getattr(transformers, config_class)(
        **sizes(kind, hidden, layers, heads, max_positions),
        initializer_range=0.02 * (768 / hidden) ** 0.5,  # activations as large as in the originals
        architectures=[model_class],
        **specials,
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


def sizes(kind, hidden, layers, heads, max_positions) -> dict:
    """The sizes under the names of the kind's configuration."""
    if kind == "distilbert":
        return {"dim": hidden, "n_layers": layers, "n_heads": heads, "hidden_dim": 4 * hidden,
                "max_position_embeddings": max_positions}  # fmt: skip
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
             "max_position_embeddings": max_positions}  # fmt: skip
    if kind in ("roberta", "xlm-roberta"):  # positions count from 2, past the padding token's
        sizes |= {"max_position_embeddings": max_positions + 2, "type_vocab_size": 1}
    if kind == "electra":
        sizes["embedding_size"] = hidden
    if kind in ("electra-small", "albert", "biom-albert"):
        sizes["embedding_size"] = hidden // 2
    if kind in ("mistral", "llama3", "qwen2", "qwen3", "eurobert", "gemma2", "gemma3_text"):
        sizes["num_key_value_heads"] = heads // 2 or 1  # heads share keys and values
    if kind in ("llama3", "qwen2", "qwen3"):
        sizes["tie_word_embeddings"] = True
    if kind == "qwen3":
        sizes["head_dim"] = hidden // heads
    if kind in ("gemma2", "gemma3_text"):  # heads are wider than the hidden size has room for
        sizes["head_dim"] = 2 * hidden // heads
    sizes |= {
        "deberta-v2": {
            "relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm",
            "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
        },
        "modernbert": {"local_attention": 12, "classifier_pooling": "mean"},
        "gemma2": {"sliding_window": 8, "final_logit_softcapping": 1.0},
        "gemma3_text": {"sliding_window": 8},
        "phi3": {"sliding_window": 8},
    }.get(kind, {})  # fmt: skip
    return sizes if kind == "gpt2" else sizes | {"intermediate_size": 4 * hidden}


def _write_weights(kind, folder, weights, max_positions):
    """Write the weights under the names, and in the format, of the real repository."""
    import torch
    from safetensors.torch import save_file

    if kind == "gpt2":
        weights = {name.removeprefix("transformer."): w for name, w in weights.items()}
        mask = torch.ones(max_positions, max_positions).tril()[None, None]
        blocks = {name.split(".")[1] for name in weights if name.startswith("h.")}
        weights |= {f"h.{n}.attn.bias": mask.clone() for n in blocks}
    elif kind not in MODELS:  # BERT
        del weights["cls.predictions.decoder.bias"]
        for new, old in (("Norm.weight", "Norm.gamma"), ("Norm.bias", "Norm.beta")):
            weights = {name.replace(new, old): w for name, w in weights.items()}
    elif kind == "gpt_neox":
        weights["embed_out.weight"] = weights.pop("lm_head.weight")
    elif kind == "deberta-v2":  # the head of masked words has another name there
        weights = {
            n.replace("cls.predictions", "lm_predictions.lm_head"): w for n, w in weights.items()
        }
    elif kind == "roberta":
        weights["roberta.embeddings.position_ids"] = torch.arange(max_positions + 2)[None]
    if kind not in LEGACY:  # safetensors stores a weight that is tied to another one once
        names = sorted(weights, key=lambda name: name.startswith("lm_head"))
        first = {weights[name].data_ptr(): name for name in reversed(names)}
        weights = {name: w for name, w in weights.items() if first[w.data_ptr()] == name}
    if kind in HALF:
        weights = {name: w.half() for name, w in weights.items()}
    if kind in LEGACY:  # BioBERT's file is older than torch's zip format
        path, zipped = folder / "pytorch_model.bin", kind not in ("biobert", "biobert-vocab-only")
        torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _bert_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """WordPiece. Not every repository says whether it is cased."""
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import BertTokenizer

    lower = kind in UNCASED
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
    if kind in ("bert", "uncased", "electra", "electra-small", "distilbert"):
        tokenizer = BertTokenizer(_numbered(vocab), do_lower_case=lower)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return {"vocab_size": len(vocab), "pad_token_id": 0}


def _bpe(folder, texts, pieces, specials, last=()) -> tuple[dict, list]:
    """Byte-level BPE in GPT-2's two files; returns the vocabulary and the merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    split = ByteLevel(add_prefix_space=False).pre_tokenize_str
    merges = _merges(tuple(tuple(w) for t in texts for w, _ in split(t)), pieces)
    tokens = sorted(ByteLevel.alphabet()) + [a + b for a, b in merges]
    vocab = _numbered(dict.fromkeys([*specials, *tokens, *last]))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    _write_json(folder / "vocab.json", vocab)
    return vocab, merges


def _gpt2_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """The end of text is the last id, and there is no token for padding."""
    from transformers import GPT2Tokenizer

    vocab, merges = _bpe(folder, texts, pieces, [], ["<|endoftext|>"])
    _write_json(folder / "tokenizer_config.json", {"model_max_length": max_positions})
    GPT2Tokenizer(vocab, merges).backend_tokenizer.save(str(folder / "tokenizer.json"))
    end = len(vocab) - 1
    return {"vocab_size": len(vocab), "bos_token_id": end, "eos_token_id": end}


def _roberta_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """GPT-2's pieces between fairseq's special tokens."""
    from transformers import RobertaTokenizer

    vocab, merges = _bpe(folder, texts, pieces, ["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"])
    _write_json(folder / "tokenizer_config.json", {"model_max_length": max_positions})
    RobertaTokenizer(vocab, merges).backend_tokenizer.save(str(folder / "tokenizer.json"))
    return {"vocab_size": len(vocab), "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


def _qwen_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """Byte-level BPE after a pattern of its own; the special tokens come last, bos is none."""
    from transformers import Qwen2Tokenizer

    vocab, merges = _bpe(folder, texts, pieces, [])
    tokenizer = Qwen2Tokenizer(vocab, merges, unk_token=None)
    ends = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": ends})
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(tokenizer.convert_tokens_to_ids(token)): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": True,
        }
        for token in ends
    }  # fmt: skip
    settings = {
        "add_prefix_space": False, "added_tokens_decoder": added, "bos_token": None,
        "additional_special_tokens": ends[1:], "eos_token": "<|endoftext|>", "unk_token": None,
        "pad_token": "<|endoftext|>", "model_max_length": max_positions, "errors": "replace",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer",
    }  # fmt: skip
    _write_json(folder / "tokenizer_config.json", settings)
    end = tokenizer.convert_tokens_to_ids(ends[0])
    return {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end}


def _llama3_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """Byte-level BPE in tokenizer.json alone, of no class of its own; the first token is bos."""
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    special = [begin, end, *(["<|mask|>", "<|pad|>"] if kind == "eurobert" else [])]
    frame = f"{begin} $A", f"{begin} $A {begin}:1 $B:1"
    ids = _byte_level(folder, texts, pieces, special, frame)
    settings = {
        "bos_token": begin, "eos_token": end, "model_max_length": max_positions,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": True, "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    if kind == "eurobert":
        settings |= {"mask_token": "<|mask|>", "pad_token": "<|pad|>"}
    _write_json(folder / "tokenizer_config.json", settings)
    made = {"vocab_size": len(ids), "bos_token_id": ids[begin], "eos_token_id": ids[end]}
    return made | ({"pad_token_id": ids["<|pad|>"]} if kind == "eurobert" else {})


def _byte_level(folder, texts, pieces, special, frame, regex=True, normalizer=None) -> dict:
    """Byte-level BPE in tokenizer.json alone; returns the vocabulary."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    vocab, merges = _bpe(folder, texts, pieces, [])
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    raw = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not regex)
    if regex:
        pattern = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
        level = pre_tokenizers.Sequence([pattern, level])
    raw.pre_tokenizer, raw.decoder = level, decoders.ByteLevel()
    if normalizer:
        raw.normalizer = normalizer
    raw.add_special_tokens(special)
    if frame:
        raw.post_processor = processors.TemplateProcessing(
            single=frame[0], pair=frame[1],
            special_tokens=[(token, raw.token_to_id(token)) for token in special],
        )  # fmt: skip
    raw.save(str(folder / "tokenizer.json"))
    return raw.get_vocab()


def _modernbert_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """Byte-level BPE between BERT's special tokens, of no class of its own."""
    from tokenizers.normalizers import NFC

    names = ("unk", "cls", "sep", "pad", "mask")
    special = {f"{name}_token": f"[{name.upper()}]" for name in names}
    frame = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"
    ids = _byte_level(folder, texts, pieces, [*special.values()], frame, False, NFC())
    settings = {
        "clean_up_tokenization_spaces": True, "model_max_length": max_positions,
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    _write_json(folder / "tokenizer_config.json", settings | special)
    of = {f"{name}_token_id": ids[f"[{name.upper()}]"] for name in ("cls", "sep", "pad")}
    of |= {"bos_token_id": ids["[CLS]"], "eos_token_id": ids["[SEP]"]}
    return {"vocab_size": len(ids), **of}


def _neox_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """Byte-level BPE whose first token is the end of text, and whose second one is for padding."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    end, padding = "<|endoftext|>", "<|padding|>"
    vocab, merges = _bpe(folder, texts, pieces, [end, padding])
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    raw = Tokenizer(models.BPE(vocab, merges))
    raw.normalizer, raw.decoder = normalizers.NFC(), decoders.ByteLevel()
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.add_special_tokens([end, padding])
    raw.save(str(folder / "tokenizer.json"))
    settings = {"unk_token": end, "bos_token": end, "eos_token": end, "add_prefix_space": False,
                "tokenizer_class": "GPTNeoXTokenizer"}  # fmt: skip
    _write_json(folder / "tokenizer_config.json", settings)
    # As in Pythia, not every embedding has an entry.
    return {"vocab_size": len(vocab) + 7, "bos_token_id": 0, "eos_token_id": 0}


def _olmo_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """Byte-level BPE that names GPT-2's class, which the library does not use for it."""
    end, padding = "<|endoftext|>", "<|pad|>"
    ids = _byte_level(folder, texts, pieces, [end, padding], None)
    settings = {"unk_token": end, "bos_token": None, "eos_token": end, "pad_token": padding,
                "add_prefix_space": False, "model_max_length": max_positions,
                "tokenizer_class": "GPT2Tokenizer"}  # fmt: skip
    _write_json(folder / "tokenizer_config.json", settings)
    return {"vocab_size": len(ids), "bos_token_id": None, "eos_token_id": ids[end],
            "pad_token_id": ids[padding]}  # fmt: skip


def _sentencepiece(path, texts, characters, pieces, **options) -> int:
    """Train a SentencePiece model on the spot; returns its number of pieces."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(path.with_suffix("")), num_threads=1,
        vocab_size=len(characters) + pieces, required_chars="".join(characters),
        character_coverage=1.0, minloglevel=2, **options,
    )  # fmt: skip
    path.with_suffix(".vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()


def _albert_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """A SentencePiece unigram model of lower-cased text; not every repository converts it."""
    from transformers import AlbertTokenizer

    size = _sentencepiece(
        folder / "spiece.model", [t.lower() for t in texts], UNCASED_PRINTABLE, pieces,
        model_type="unigram", pad_id=0, pad_piece="<pad>", unk_id=1, bos_id=-1, eos_id=-1,
        control_symbols=["[CLS]", "[SEP]"], user_defined_symbols=["[MASK]"],
        hard_vocab_limit=False,
    )  # fmt: skip
    _write_json(folder / "tokenizer_config.json", {"model_max_length": max_positions})
    if kind == "albert":
        tokenizer = AlbertTokenizer.from_pretrained(folder)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return {"vocab_size": size, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def _llama_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """SentencePiece BPE that falls back to bytes; `<s>` in front, and no token for padding."""
    from transformers import LlamaTokenizer

    size = _sentencepiece(
        folder / "tokenizer.model", texts, PRINTABLE, 256 + pieces, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    settings = {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "pad_token": None, "legacy": kind == "mistral",
        "padding_side": "right", "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656, "tokenizer_class": "LlamaTokenizer",
    }  # fmt: skip
    _write_json(folder / "tokenizer_config.json", settings)
    backend = LlamaTokenizer.from_pretrained(folder).backend_tokenizer
    content = json.loads(backend.to_str())  # the real file marks blanks in its normalizer
    steps = [{"type": "Prepend", "prepend": "\u2581"},
             {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]  # fmt: skip
    content |= {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
    _write_json(folder / "tokenizer.json", content)
    return {"vocab_size": size, "bos_token_id": 1, "eos_token_id": 2}


def _gemma_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """SentencePiece BPE that falls back to bytes; blanks are replaced, and none is put in front."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    path = folder / "tokenizer.model"
    size = _sentencepiece(
        path, texts, PRINTABLE, 256 + pieces, model_type="bpe", byte_fallback=True, pad_id=0,
        eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>", eos_piece="<eos>", pad_piece="<pad>",
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
        user_defined_symbols=["<mask>"],
    )  # fmt: skip
    made = SentencePieceExtractor(str(path)).extract(models.BPE)
    model = {"fuse_unk": True, "unk_token": "<unk>", "byte_fallback": True}
    raw = Tokenizer(models.BPE(made["vocab"], made["merges"], **model))
    raw.normalizer = normalizers.Replace(" ", "\u2581")
    raw.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence(steps)
    raw.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    settings = {f"{token[1:-1]}_token": token for token in special} | {
        "add_bos_token": True, "add_eos_token": False, "tokenizer_class": "GemmaTokenizer",
        "clean_up_tokenization_spaces": False, "spaces_between_special_tokens": False,
        "model_max_length": 1000000000000000019884624838656,
    }  # fmt: skip
    if kind == "gemma3_text":  # a token without an embedding, for models that read images
        special.append("<image_soft_token>")
        _write_json(folder / "added_tokens.json", {special[-1]: size})
        settings |= {"image_token": special[-1], "processor_class": "Gemma3Processor"}
    raw.add_special_tokens(special)
    raw.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", settings)
    return {"vocab_size": size, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}


def _phi_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """Llama 2's with another end of text, which also pads, on the left; no token in front."""
    ids = _llama_tokenizer("llama", folder, texts, pieces, max_positions)
    end = "<|endoftext|>"
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    token = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["post_processor"] = None
    content["added_tokens"] += [token | {"id": ids["vocab_size"], "content": end, "special": True}]
    _write_json(folder / "tokenizer.json", content)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"add_bos_token": False, "eos_token": end, "pad_token": end, "padding_side": "left"}
    _write_json(folder / "tokenizer_config.json", settings)
    size = ids["vocab_size"] + 1
    return {"vocab_size": size, "bos_token_id": 1, "eos_token_id": size - 1,
            "pad_token_id": size - 1}  # fmt: skip


def _deberta_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """A SentencePiece unigram model alone, with NFKC; there are more embeddings than tokens."""
    size = _sentencepiece(
        folder / "spm.model", texts, PRINTABLE, pieces, model_type="unigram",
        hard_vocab_limit=False, pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]",
        bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
        normalization_rule_name="nmt_nfkc",
    )  # fmt: skip
    _write_json(folder / "tokenizer_config.json", {"do_lower_case": False, "vocab_type": "spm"})
    return {"vocab_size": size + 1 + 9, "pad_token_id": 0}  # [MASK] comes last


def _xlm_roberta_tokenizer(kind, folder, texts, pieces, max_positions) -> dict:
    """A SentencePiece unigram model after fairseq's special tokens."""
    from transformers import XLMRobertaTokenizer

    size = _sentencepiece(
        folder / "sentencepiece.bpe.model", texts, PRINTABLE, pieces, model_type="unigram",
        hard_vocab_limit=False, normalization_rule_name="nmt_nfkc",
    )  # fmt: skip
    _write_json(folder / "tokenizer_config.json", {"model_max_length": max_positions})
    tokenizer = XLMRobertaTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return {"vocab_size": size + 2, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


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


TOKENIZERS = {
    "gpt2": _gpt2_tokenizer,
    "biogpt": _biogpt_tokenizer,
    "albert": _albert_tokenizer,
    "biom-albert": _albert_tokenizer,
    "roberta": _roberta_tokenizer,
    "llama": _llama_tokenizer,
    "mistral": _llama_tokenizer,
    "llama3": _llama3_tokenizer,
    "qwen2": _qwen_tokenizer,
    "qwen3": _qwen_tokenizer,
    "xlm-roberta": _xlm_roberta_tokenizer,
    "deberta-v2": _deberta_tokenizer,
    "modernbert": _modernbert_tokenizer,
    "eurobert": _llama3_tokenizer,
    "gemma2": _gemma_tokenizer,
    "gemma3_text": _gemma_tokenizer,
    "gpt_neox": _neox_tokenizer,
    "olmo2": _olmo_tokenizer,
    "phi3": _phi_tokenizer,
}  # else BERT's


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
