"""Every model family against the library itself: tokenizer, heads, encoder, rates by depth."""

import functools
import itertools
import json
import logging
import re
import shutil

import pytest
import torch
import transformers

from common import models
from common.batching import pad
from common.cli import UserError
from common.models import families, loading
from common.texts import encode_pairs
from NER.alignment import WordTokenizer
from tests import tiny

KINDS = [kind for kind in tiny.HUB_NAMES if not kind.startswith("biobert")]
CAUSAL = (
    "gpt2", "biogpt", "llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text",
    "gpt_neox", "olmo2", "phi3",
)  # fmt: skip
NO_SEPARATOR = ("gpt2", "qwen2", "qwen3", "gpt_neox", "olmo2", "phi3")
TYPED = ("bert", "uncased", "electra", "electra-small", "albert", "biom-albert")
# Positions without a table: distances (deberta-v2) or rotary.
UNBOUNDED = ("deberta-v2", "modernbert", "eurobert", *CAUSAL[2:])
HEADS = ("sequence", "token", "span")
LABELS = ["a", "b", "c"]
WORDS = "IL-2 gene ( U937 cells ) , NF-kappa B site . 140/90".split()
TEXTS = ("NF-kappa B binds to the IL-2 gene .", "It does not , in 30 cells .")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return functools.cache(lambda kind: str(tiny.make(kind, root / kind)))


def load(where, head="token", labels=LABELS, seed=0, **options):
    torch.manual_seed(seed)
    model, tokenizer = models.load_task_model(str(where), head, labels, **options)
    return model.eval(), tokenizer


def tokenizer_of(where):
    return loading.load_tokenizer(where, models.load_config(where))


def inputs(tokenizer) -> list[dict]:
    """Three encoded examples: a pair, a text and a word."""
    found = [tokenizer(*TEXTS), tokenizer(TEXTS[1]), tokenizer("gene")]
    return [{k: v for k, v in row.items() if k != "attention_mask"} for row in found]


@torch.inference_mode()
def run(model, rows, **options):
    """(the model's outputs, the lengths) of one padded batch."""
    batch = pad(rows, model.config.pad_token_id)
    return model(**batch, **options), [len(row["input_ids"]) for row in rows]


def test_every_family_has_a_miniature_and_only_families_of_the_table_are_read(folder, tmp_path):
    found = {models.load_config(folder(kind)).model_type for kind in KINDS}
    assert found == set(families.TABLE)
    # The library itself does not know the last one, whose own code we do not run.
    for model_type, wanted in {
        "t5": "bert, roberta.*qwen3.*--model_name.*A model family.*docs/extending.md",
        "longformer": "maps.*cannot be compared.*bioclinical-modernbert-base",
        "big_bird": "maps.*cannot be compared",
        "gemma3": "images.*gemma-3-1b",
        "newest": "bert, roberta.*docs/extending.md",
    }.items():
        config = {"model_type": model_type, "auto_map": {"AutoConfig": "own.Config"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=f"is a '{model_type}' model.*{wanted}"):
            models.load_config(str(tmp_path))


def test_what_a_name_tells_of_the_family():
    for name, wanted in {
        "thomas-sounack/BioClinical-ModernBERT-base": "ModernBERT, which this project reads",
        "microsoft/deberta-v3-large": "DeBERTa-v2, which",
        "microsoft/deberta-base": "'deberta' model.*docs/extending.md",
        "almanach/camembert-base": "'camembert' model",
        "yikuan8/Clinical-Longformer": "'longformer' model.*cannot be compared",
        "EleutherAI/pythia-410m": "GPT-NeoX, which",
        "google/gemma-3-1b-it": "Gemma 3, which",
        "google/gemma-3-4b-it": "'gemma3' model.*images",
        "d4data/biomedical-ner-all": "does not tell.*docs/models.md",
    }.items():
        assert re.search(wanted, families.by_name(name)), name
    for name in models.MODELS.values():
        assert "which this project reads" in families.by_name(name) or "sultan" not in name


# --- tokenizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_words_have_the_same_pieces_alone_together_and_in_a_text(folder, kind):
    tokenizer = tokenizer_of(folder(kind))
    split = WordTokenizer(tokenizer, 200)
    ids, _ = split(WORDS)
    assert ids == tokenizer(WORDS, is_split_into_words=True)["input_ids"]
    if kind != "biogpt":  # Moses reads a text's words otherwise than the same words alone
        assert ids == tokenizer(" ".join(WORDS))["input_ids"]
    once, twice = (tokenizer.tokenize(text) for text in ("gene", "gene gene"))
    assert twice == once + once


@pytest.mark.parametrize("kind", ["llama3", "qwen2", "qwen3", "olmo2", "gemma2", "gemma3_text"])
def test_only_a_text_begins_with_a_blank_not_its_words_or_what_follows_a_special_token(
    folder, kind
):
    plain = transformers.AutoTokenizer.from_pretrained(folder(kind))
    tokenizer = tokenizer_of(folder(kind))
    assert tokenizer.tokenize("U937-B") == plain.tokenize(" U937-B") != plain.tokenize("U937-B")
    chat = f"{plain.eos_token}user\nU937{plain.eos_token}\nB"
    assert tokenizer.tokenize(chat) == plain.tokenize(chat)


@pytest.mark.parametrize("alone", [True, False])
def test_debertas_unicode_rules_are_those_of_its_sentencepiece_file(folder, tmp_path, alone):
    """Also from a tokenizer.json that has them, and as the library alone loads what we save."""
    import sentencepiece

    nasty = ["x²", "ﬁbre", "½ cup", "CO₂", "gene…", "ＩＬ－２", "a\u00a0b", "a\u200bb", " a  b "]
    processor = sentencepiece.SentencePieceProcessor(f"{folder('deberta-v2')}/spm.model")
    where, config = folder("deberta-v2"), models.load_config(folder("deberta-v2"))
    if not alone:
        loading.load_tokenizer(where, config).backend_tokenizer.save(f"{tmp_path}/tokenizer.json")
        shutil.copy(f"{where}/tokenizer_config.json", tmp_path)
        shutil.copy(f"{where}/config.json", tmp_path)
        where = str(tmp_path)
    tokenizer = loading.load_tokenizer(where, config)
    tokenizer.save_pretrained(tmp_path / "saved")
    shutil.copy(f"{where}/config.json", tmp_path / "saved")
    plain = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    again = loading.load_tokenizer(str(tmp_path / "saved"), config)
    for text in nasty:
        for found in (tokenizer, plain, again):
            assert found(text, add_special_tokens=False)["input_ids"] == processor.encode(text)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_framed_as_the_family_has_it(folder, kind):
    tokenizer = tokenizer_of(folder(kind))
    row = encode_pairs([TEXTS], tokenizer, 100)[0][0]
    whole = tokenizer(*TEXTS)
    whole.pop("attention_mask")
    if kind in NO_SEPARATOR:
        first = len(tokenizer(TEXTS[0])["input_ids"])
        assert row["input_ids"].pop(first) == tokenizer.eos_token_id
    assert row == dict(whole)
    assert set(row.get("token_type_ids", ())) == ({0, 1} if kind in TYPED else set())


def test_what_pads_on_the_left_is_made_to_pad_on_the_right(folder, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder("llama"), padding_side="left")
    tokenizer.save_pretrained(tmp_path)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).padding_side == "left"
    found = loading.load_tokenizer(str(tmp_path), models.load_config(folder("llama")))
    assert found.padding_side == "right"


def test_a_pad_token_without_an_embedding_is_replaced(folder, tmp_path):
    """As in many a fine-tuned Llama; any other token without one is refused."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder("llama"))
    config = models.load_config(folder("llama"))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.pad_token_id == config.vocab_size
    assert loading.load_tokenizer(str(tmp_path), config).pad_token == "</s>"
    tokenizer.add_tokens(["<instruction>"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="601 tokens for 600 embeddings"):
        loading.load_tokenizer(str(tmp_path), config)


# --- task models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "kind"), [*itertools.product(HEADS, KINDS), *(("causal", kind) for kind in CAUSAL)]
)
def test_a_saved_task_model_is_the_librarys_own(folder, tmp_path, kind, head):
    """Its logits, from the library alone, are ours; so are the encoder's weights."""
    model, tokenizer = load(folder(kind), head)
    before = model.base_model.state_dict()
    plain = transformers.AutoModel.from_pretrained(folder(kind)).state_dict()
    for name in before.keys() & plain.keys():
        assert torch.equal(before[name], plain[name]), name
    assert len(before.keys() & plain.keys()) >= len(plain) - 2  # all but a pooler
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    auto = getattr(transformers, loading.AUTO_CLASSES[head])
    saved, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for row in inputs(tokenizer):
        wanted = run(saved.eval(), [row])[0]
        if head == "span":
            found = run(model, [row])[0]
            torch.testing.assert_close(found.start_logits, wanted.start_logits)
            torch.testing.assert_close(found.end_logits, wanted.end_logits)
            assert not torch.allclose(found.start_logits, found.end_logits)
        else:
            with torch.inference_mode():
                found = models.logits(model, pad([row], model.config.pad_token_id))
            torch.testing.assert_close(found, wanted.logits)
    kept, again = load(tmp_path, head, seed=1, keep_head=True)
    for name, weight in model.state_dict().items():
        assert torch.equal(kept.state_dict()[name], weight), name
    assert again(*TEXTS) == tokenizer(*TEXTS)
    encoder, _ = models.load_encoder(str(tmp_path))
    for name, weight in encoder.state_dict().items():
        assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
def test_a_batch_equals_one_by_one(folder, kind, head):
    model, tokenizer = load(folder(kind), head)
    rows = inputs(tokenizer)

    @torch.inference_mode()
    def scores(some):
        batch = pad(some, model.config.pad_token_id)
        if head == "span":
            found = model(**batch, use_cache=False)
            return torch.stack([found.start_logits, found.end_logits], -1)
        return models.logits(model, batch)

    for row, together in zip(rows, scores(rows), strict=True):
        alone = scores([row])[0]
        together = together if head == "sequence" else together[: len(row["input_ids"])]
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_causal_model_is_read_at_its_last_token_also_where_that_is_the_pad_token(folder, kind):
    model, tokenizer = load(folder(kind), "sequence")
    row = {"input_ids": [*tokenizer("gene cells")["input_ids"], model.config.pad_token_id]}
    with torch.inference_mode():
        hidden = run(model.base_model, [row])[0].last_hidden_state
        found = models.logits(model, pad([row], model.config.pad_token_id))
        torch.testing.assert_close(found, model.score(hidden[:, -1]))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "electra"])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_an_adapted_model_is_read_like_the_merged_one(folder, kind, head):
    peft = pytest.importorskip("peft")
    plain, tokenizer = load(folder(kind), head)
    config = peft.LoraConfig(
        r=2, target_modules="all-linear", init_lora_weights=False,
        task_type={"sequence": "SEQ_CLS", "token": "TOKEN_CLS"}[head],
        exclude_modules=r"(classifier|score).*",  # trained as a whole
    )  # fmt: skip
    model = peft.get_peft_model(load(folder(kind), head)[0], config).eval()
    batch = pad(inputs(tokenizer), plain.config.pad_token_id)
    with torch.inference_mode():
        found, before = models.logits(model, batch), models.logits(plain, batch)
        wanted = models.logits(model.merge_and_unload(), batch)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, before, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
def test_a_new_head_is_drawn_anew_and_all_of_it(folder, tmp_path, kind, head):
    """Also the head of a checkpoint that has one; the seed alone decides."""
    model, tokenizer = load(folder(kind), head)
    transform = tuple(families.of(model.config).transform)  # ModernBERT's is pre-trained
    outside = {name: w for name, w in model.named_parameters()
               if not name.startswith((f"{model.base_model_prefix}.", *transform))}  # fmt: skip
    assert outside
    for name, weight in outside.items():
        if name.endswith("bias"):
            assert not weight.any(), name
        else:
            spread = weight.std().item() / model.config.initializer_range
            assert 0.7 < spread < 1.3, (name, spread)
    with torch.no_grad():
        for weight in outside.values():
            weight.fill_(7.0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    one, two, three = (load(tmp_path, head, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    for name in outside:
        assert not (one[name] == 7).any() and torch.equal(one[name], two[name])
        if not name.endswith("bias"):
            assert not torch.equal(one[name], three[name])


@pytest.mark.parametrize("head", HEADS)
def test_modernberts_transform_is_the_checkpoints_also_for_another_head(folder, tmp_path, head):
    """Without one, as in a bare encoder's file, it is new."""
    from safetensors.torch import load_file

    stored = load_file(f"{folder('modernbert')}/model.safetensors")
    model, tokenizer = load(folder("modernbert"), head)
    for name in ("head.dense.weight", "head.norm.weight"):
        assert torch.equal(model.state_dict()[name], stored[name])
    model.base_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    new = load(tmp_path, head)[0].state_dict()
    assert (new["head.norm.weight"] == 1).all() and new["head.dense.weight"].std() > 0
    assert not torch.equal(new["head.dense.weight"], stored["head.dense.weight"])


def test_a_head_is_kept_only_where_there_is_one_for_these_labels(folder, tmp_path):
    with pytest.raises(UserError, match="no token head of its own.*keep_head"):
        load(folder("electra"), "token", keep_head=True)
    model, tokenizer = load(folder("electra"), "token")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path, keep_head=True)[0].classifier.weight, model.classifier.weight)
    for labels in (["a", "b"], ["b", "a", "c"]):
        with pytest.raises(UserError, match="no token head of its own for the labels"):
            load(tmp_path, labels=labels, keep_head=True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_labels": 3}))
    with pytest.raises(UserError, match="no token head of its own"):
        load(tmp_path, labels=["a", "b"], keep_head=True)
    with pytest.raises(UserError, match="no span head"):
        load(tmp_path, "span", keep_head=True)
    with pytest.raises(UserError, match="ELECTRA models cannot write.*: GPT-2, BioGPT, Llama"):
        load(tmp_path, "causal")


@pytest.mark.parametrize(
    "kind", ["llama", "qwen2", "qwen3", "mistral", "biogpt", "eurobert", "olmo2", "gpt_neox"]
)
def test_a_span_model_is_the_start_of_another_head(folder, tmp_path, kind):
    """SQuAD first, another task then: the encoder is the fine-tuned one, whatever it is called."""
    model, tokenizer = load(folder(kind), "span")
    with torch.no_grad():
        for weight in model.base_model.parameters():
            weight.mul_(1.1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for head in HEADS:
        found = load(tmp_path, head)[0].base_model.state_dict()
        for name, weight in model.base_model.state_dict().items():
            assert torch.equal(found[name], weight), name


@pytest.mark.parametrize(
    "kind", ["bert", "electra", "gpt2", "biogpt", "qwen3", "deberta-v2", "modernbert", "gpt_neox"]
)
def test_a_weight_that_is_missing_is_named_for_every_head(folder, tmp_path, kind):
    from safetensors.torch import load_file, save_file

    where = tmp_path / "model"
    shutil.copytree(folder(kind), where)
    file = next(f for f in sorted(where.iterdir()) if f.suffix in (".bin", ".safetensors"))
    legacy = file.suffix == ".bin"
    weights = torch.load(file, weights_only=True) if legacy else load_file(file)
    del weights[next(name for name in weights if ".0." in name and name.endswith("weight"))]
    torch.save(weights, file) if legacy else save_file(weights, file, metadata={"format": "pt"})
    for start in (*(functools.partial(load, where, head) for head in HEADS),
                  functools.partial(models.load_encoder, str(where))):  # fmt: skip
        with pytest.raises(UserError, match=r"1 weights are missing"):
            start()


# --- the bare encoder ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoders_states_and_maps_are_the_librarys_and_batches_change_nothing(folder, kind):
    encoder, tokenizer = models.load_encoder(folder(kind), "eager")
    assert encoder.dtype == torch.float32 and not encoder.training
    assert not any("pooler" in name for name, _ in encoder.named_parameters())
    plain = transformers.AutoModel.from_pretrained(
        folder(kind), attn_implementation="eager", dtype=torch.float32
    ).eval()
    quick, _ = models.load_encoder(folder(kind))
    rows = inputs(tokenizer)
    asked = {"output_hidden_states": True, "output_attentions": True}
    together, lengths = run(encoder, rows, **asked, use_cache=False)
    layers, heads = encoder.config.num_hidden_layers, encoder.config.num_attention_heads
    assert len(together.hidden_states) == layers + 1 and len(together.attentions) == layers
    for i, (row, n) in enumerate(zip(rows, lengths, strict=True)):
        alone = run(plain, [row], **asked)[0]
        sdpa = run(quick, [row], output_hidden_states=True)[0]
        for many, one, other in zip(
            together.hidden_states, alone.hidden_states, sdpa.hidden_states, strict=True
        ):
            assert one.shape == (1, n, encoder.config.hidden_size)
            torch.testing.assert_close(many[i, :n], one[0], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(other, one, atol=2e-5, rtol=1e-4)
        for many, one in zip(together.attentions, alone.attentions, strict=True):
            assert one.shape == (1, heads, n, n)
            torch.testing.assert_close(many[i, :, :n, :n], one[0], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_each_slice_of_the_projections_input_comes_from_one_heads_map(folder, kind):
    """In the heads' order, by the gradient of a slice with respect to the maps."""
    encoder, tokenizer = models.load_encoder(folder(kind), "eager")
    encoder.requires_grad_(True)
    row, heads = families.of(encoder.config), encoder.config.num_attention_heads
    projection = encoder.get_submodule(row.layers)[0].get_submodule(row.projection)
    seen = []
    projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = pad(inputs(tokenizer)[1:2], encoder.config.pad_token_id)
    maps = encoder(**batch, output_attentions=True, use_cache=False).attentions[0]
    for head, part in enumerate(seen[0].unflatten(-1, (heads, -1)).unbind(-2)):
        (gradient,) = torch.autograd.grad(part.square().sum(), maps, retain_graph=True)
        assert [bool(own.any()) for own in gradient[0]] == [i == head for i in range(heads)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_encoder_has_other_weights_by_the_seed(folder, kind):
    pretrained, _ = models.load_encoder(folder(kind))
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(models.load_encoder(folder(kind), random_init=True)[0].state_dict())
    names = [name for name, w in pretrained.state_dict().items() if w.ndim > 1]
    assert names and found[0].keys() == pretrained.state_dict().keys()
    name = max(names, key=lambda name: found[0][name].numel())
    assert torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[0][name], found[2][name])
    assert not torch.equal(found[0][name], pretrained.state_dict()[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_input_is_read_and_one_token_more_is_not(folder, kind):
    encoder, tokenizer = models.load_encoder(folder(kind))
    longest = families.positions(encoder.config)
    assert longest == 128  # what tiny.make was asked for
    token = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    run(encoder, [{"input_ids": token * longest}])
    if kind not in UNBOUNDED:
        with pytest.raises((RuntimeError, IndexError)):
            run(encoder, [{"input_ids": token * (longest + 1)}])


# --- learning rates ------------------------------------------------------------------------------


def config_of(kind, layers):
    auto = transformers.AutoConfig.for_model(kind, **tiny.sizes(kind, 16, layers, 2, 32))
    auto.vocab_size, auto.pad_token_id = 20, 0
    return auto


def model_of(kind, head):
    """A model of three layers with new weights."""
    config = config_of(kind, 3)
    return loading._auto_class(head, config).from_config(config)


# A part of a parameter's name -> how often the decay of a 3-layer model multiplies its rate; the
# first that fits counts. Written from ELECTRA's optimization.py: n_layers + 2 - depth.
BERT_LIKE = {".layer.2.": 2, ".layer.1.": 3, ".layer.0.": 4, ".embeddings": 5, "pooler": 1,
             "classifier": 0, "qa_outputs": 0}  # fmt: skip
RATES = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "distilbert", "electra"), BERT_LIKE),
    # What all layers read counts as embeddings; the pooler belongs to the head.
    "deberta-v2": {"rel_embeddings": 5, "encoder.LayerNorm": 5, "encoder.conv": 5}
    | BERT_LIKE | {"pooler": 0},
    "modernbert": {".layers.2.": 2, ".layers.1.": 3, ".layers.0.": 4, ".embeddings": 5,
                   "final_norm": 1, "head": 0, "classifier": 0},
    "gpt_neox": {".layers.2.": 2, ".layers.1.": 3, ".layers.0.": 4, ".embed_in": 5,
                 "final_layer_norm": 1, "score": 0, "classifier": 0, "qa_outputs": 0},
    "gpt2": {".h.2.": 2, ".h.1.": 3, ".h.0.": 4, ".wte": 5, ".wpe": 5, ".ln_f": 1, "score": 0,
             "classifier": 0, "qa_outputs": 0},
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "biogpt", "eurobert", "gemma2", "gemma3_text",
         "olmo2", "phi3"),
        {".layers.2.": 2, ".layers.1.": 3, ".layers.0.": 4, ".embed_": 5, "model.norm.": 1,
         "transformer.norm.": 1, "biogpt.layer_norm": 1, "score": 0, "classifier": 0,
         "qa_outputs": 0, "dense": 0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize("head", HEADS)
def test_learning_rates_by_depth(kind, head):
    """Of each part of every family whose layers have weights of their own."""
    assert RATES.keys() == {kind for kind, row in families.TABLE.items() if not row.shared_layers}
    model = model_of(kind, head)
    groups = families.parameter_groups(model, 1e-3, 0.01, 0.5)
    found = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)
    assert len(found) == len(list(model.parameters())) and all(g["params"] for g in groups)
    for name, p in model.named_parameters():
        depth = next(depth for part, depth in RATES[kind].items() if part in name)
        group = found[id(p)]
        assert group["lr"] == group["base_lr"] == pytest.approx(1e-3 * 0.5**depth), name
        assert group["weight_decay"] == (0.01 if p.ndim > 1 else 0.0), name
    torch.optim.AdamW(groups)


@pytest.mark.parametrize("kind", [*RATES, "albert"])
def test_without_decay_there_are_two_groups_in_the_models_order(kind):
    model = model_of(kind, "token")
    parameters = list(model.parameters())
    weights, vectors = families.parameter_groups(model, 2e-5, 0.01, 1.0)
    for group, wanted, decay in (
        (weights, [p for p in parameters if p.ndim > 1], 0.01),
        (vectors, [p for p in parameters if p.ndim < 2], 0.0),
    ):
        assert len(wanted) == len(group["params"])
        assert all(a is b for a, b in zip(group["params"], wanted, strict=True))
        assert (group["weight_decay"], group["lr"], group["base_lr"]) == (decay, 2e-5, 2e-5)


def test_adapters_have_the_learning_rate_of_what_they_adapt():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        model_of("llama", "sequence"),
        peft.LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS"),
    )
    groups = families.parameter_groups(model, 1.0, 0.0, 0.5)
    found = {id(p): group["lr"] for group in groups for p in group["params"]}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(found) == len(trained) and any("lora_A" in name for name in trained)
    for name, p in trained.items():
        depth = next(depth for part, depth in RATES["llama"].items() if part in name)
        assert found[id(p)] == 0.5**depth, name


def test_published_decay_is_electras_and_shared_layers_have_none():
    for kind, layers, given, wanted in (
        ("electra", 2, None, 0.8), ("electra", 12, None, 0.8), ("electra", 24, None, 0.9),
        ("electra", 12, 1.0, 1.0), ("bert", 24, None, 1.0), ("bert", 12, 0.9, 0.9),
        ("gpt2", 24, None, 1.0), ("albert", 12, None, 1.0), ("albert", 12, 1.0, 1.0),
    ):  # fmt: skip
        config = config_of(kind, layers)
        assert families.layer_decay(config, given) == wanted
    with pytest.raises(UserError, match="ALBERT share their weights"):
        families.layer_decay(config, 0.9)


# --- what is printed -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_loading_and_saving_print_nothing(folder, tmp_path, capfd, caplog, kind):
    transformers.utils.logging.enable_progress_bar()
    with caplog.at_level(logging.INFO):
        for head in HEADS:
            model, tokenizer = load(folder(kind), head)
            model.save_pretrained(tmp_path / head)
            tokenizer.save_pretrained(tmp_path / head)
        models.load_encoder(folder(kind))
        load(tmp_path / "token", "sequence")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
