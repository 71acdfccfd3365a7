"""Tokenizers: each one is complete, keeps words apart and pads on the right."""

import string

from tokenizers import normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import SentencePieceExtractor

from common.models import families

# Without its vocabulary file, a tokenizer loads silently with a few special tokens. A whole one has
# an entry for almost each row of the embeddings; the rest is padding.
MIN_COVERAGE = 0.9


def load(where: str, config, words: bool, **options):
    """See `loading.load_tokenizer`; `options` are the library's. Raises ValueError."""
    row, size = families.of(config), config.vocab_size
    if words and row.prefix_space:
        options["add_prefix_space"] = True
    tokenizer = AutoTokenizer.from_pretrained(where, **options)
    if _loses_case(tokenizer):  # a repository with a vocabulary alone
        tokenizer = AutoTokenizer.from_pretrained(where, do_lower_case=False, **options)
    if row.charsmap:
        tokenizer = _with_charsmap(tokenizer, where, options)
    if words and tokenizer.tokenize("a a") != 2 * tokenizer.tokenize("a"):
        _put_blank_first(tokenizer)
    # Some models have special tokens without an embedding: a pad token, or one for images.
    added, pad = tokenizer.added_tokens_decoder, tokenizer.pad_token_id
    beyond = {i for i, token in added.items() if i >= size and (token.special or i == pad)}
    entries = len(tokenizer) - len(beyond)
    if not MIN_COVERAGE * size <= entries <= size:
        counts = f"{entries} tokens for {size} embeddings"
        raise ValueError(f"{counts}: a file is missing or damaged, or it mixes two models")
    if _loses_case(tokenizer):
        remedy = 'its tokenizer_config.json needs "do_lower_case": false'
        raise ValueError(f"it lower-cases a cased vocabulary: {remedy}")
    if pad is None or pad in beyond:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"  # left padding shifts positions: BERT, GPT-2 and BioGPT
    # Tokenizers are wrong about this: ALBERT's gives no types, one without a class always does.
    types = getattr(config, "type_vocab_size", 0) > 1
    tokenizer.model_input_names = ["input_ids", *["token_type_ids"] * types, "attention_mask"]
    return tokenizer


def _put_blank_first(tokenizer) -> None:
    """Put a blank before each text, or each of given words, but not before words within a text."""
    backend = tokenizer.backend_tokenizer
    # Gemma's normalizer has replaced the blanks before this step.
    blank = backend.normalizer.normalize_str("a b")[1:-1] if backend.normalizer else " "
    own = [backend.pre_tokenizer] if backend.pre_tokenizer else []
    first = pre_tokenizers.Metaspace(replacement=blank, prepend_scheme="first", split=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([first, *own])
    tokenizer.__class__ = PreTrainedTokenizerFast  # some families' classes would forget the step


def _with_charsmap(tokenizer, where: str, options: dict):
    """The tokenizer with the Unicode rules (such as NFKC) of its SentencePiece file.

    The library's class makes all steps anew and leaves these rules out, so "CO₂" is unknown to it.
    """
    if not getattr(tokenizer, "vocab_file", None):  # tokenizer.json alone, which has them
        return PreTrainedTokenizerFast.from_pretrained(where, **options)
    proto = SentencePieceExtractor(tokenizer.vocab_file).proto
    if rules := proto.normalizer_spec.precompiled_charsmap:
        backend = tokenizer.backend_tokenizer
        steps = [normalizers.Precompiled(rules), backend.normalizer]
        backend.normalizer = normalizers.Sequence(steps)
        tokenizer.__class__ = PreTrainedTokenizerFast  # else they are lost again when it is saved
    return tokenizer


def _loses_case(tokenizer) -> bool:
    """Whether it lower-cases its input, although more than 1 % of its entries are cased."""
    entries = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    pieces = entries.intersection(tokenizer.tokenize(" ".join(string.ascii_uppercase)))
    cased = sum(entry != entry.lower() for entry in entries)
    return cased > 0.01 * len(entries) and "".join(pieces).islower()
