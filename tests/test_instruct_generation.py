"""Batched generation and likelihoods equal the plain loop over single prompts, for all families."""

import random

import pytest
import torch
import transformers

from common.cli import UserError
from common.device import Device
from Instruct import cache, generation

CPU = Device(torch.device("cpu"), "fp32")
POSITIONS, VOCABULARY, ENDS = 64, 50, {3, 4}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64,
         "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, "initializer_range": 0.5,
         "bos_token_id": 0, "eos_token_id": 3}  # fmt: skip
GROUPED = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2}
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=POSITIONS, vocab_size=VOCABULARY,
        initializer_range=0.5, attn_pdrop=0.5, bos_token_id=0, eos_token_id=3,
    ),
    "biogpt": lambda: transformers.BioGptConfig(num_attention_heads=2, **SMALL),
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "mistral": lambda: transformers.MistralConfig(sliding_window=6, **GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "qwen2 mixed": lambda: transformers.Qwen2Config(  # of two layers one sees six tokens
        use_sliding_window=True, sliding_window=6, max_window_layers=1, **GROUPED
    ),
    "qwen3": lambda: transformers.Qwen3Config(head_dim=16, **GROUPED),
}  # fmt: skip


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param]()).train()


def some_prompts(n=21, longest=40):
    rng = random.Random(0)
    return [[rng.randrange(5, VOCABULARY) for _ in range(rng.randint(1, longest))]
            for _ in range(n)]  # fmt: skip


def next_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def one_by_one(model, prompt, most):
    ids = list(prompt)
    while len(ids) < min(len(prompt) + most, POSITIONS):
        token = next_logits(model, ids)[-1].argmax().item()
        if token in ENDS:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("read", (generation.READ, 50))
def test_generation_equals_one_by_one(model, read, monkeypatch):
    """Whatever the order, the batch, and how long each answer may be; also from training mode.

    And however many prompts are read in a pass: 50 tokens are one or a few.
    """
    monkeypatch.setattr(generation, "READ", read)
    prompts = some_prompts()
    most = [random.Random(i).choice([0, 1, 5, 30]) for i in range(len(prompts))]
    model.train()
    for batch_size in (1, 8):
        found = generation.generate(model, prompts, most, ENDS, batch_size, CPU, "test")
        assert not model.training
        assert found == [one_by_one(model, p, n) for p, n in zip(prompts, most, strict=True)]
    assert len({len(ids) for ids in found}) > 3  # some ended early


def test_prompts_are_read_apart_where_all_layers_see_all(model):
    layers = model.config.num_hidden_layers
    seeing = {"mistral": 0}.get(
        model.config.model_type, layers - bool(model.config.to_dict().get("use_sliding_window"))
    )
    past = cache.Cache(model.config, 2, 9)
    assert sum(isinstance(layer, cache.Layer) for layer in past.layers) == seeing
    assert past.divisible() == (seeing == layers)


def test_generation_stops_at_the_last_position(model):
    prompts = [[5] * n for n in (POSITIONS - 3, POSITIONS - 1, POSITIONS, POSITIONS + 2)]
    found = generation.generate(model, prompts, [99] * 4, set(), 4, CPU, "test")
    assert [len(ids) for ids in found] == [3, 1, 0, 0]


def test_generation_equals_the_library(model):
    prompts = some_prompts(6)
    settings = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=12, eos_token_id=sorted(ENDS), pad_token_id=1
    )
    found = generation.generate(model, prompts, [12] * 6, ENDS, 3, CPU, "test")
    for prompt, ids in zip(prompts, found, strict=True):
        out = model.generate(torch.tensor([prompt]), generation_config=settings)[0].tolist()
        assert [token for token in out[len(prompt) :] if token not in ENDS] == ids


@pytest.mark.parametrize("read", (generation.READ, 50))
def test_likelihoods_equal_brute_force(model, read, monkeypatch):
    monkeypatch.setattr(generation, "READ", read)
    prompts, rng = some_prompts(), random.Random(1)
    answers = [
        [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 6))] for _ in range(2 + i % 2)]
        for i in range(len(prompts))
    ]
    model.train()
    found = generation.log_likelihoods(model, prompts, answers, 8, CPU, "test")
    for prompt, mine, values in zip(prompts, answers, found, strict=True):
        for ids, value in zip(mine, values, strict=True):
            steps = next_logits(model, prompt + ids).log_softmax(-1)
            wanted = sum(steps[len(prompt) + k - 1, token] for k, token in enumerate(ids))
            assert value == pytest.approx(wanted.item(), abs=1e-4)


def test_the_best_answer():
    answers = [[7, 3], [7, 8, 9, 3]]
    assert generation.best([-2.0, -3.0], answers, normalised=False) == 0
    assert generation.best([-2.0, -3.0], answers, normalised=True) == 1
    assert generation.best([-2.0, -2.0], [[1], [2]], normalised=False) == 0


def test_too_little_memory_halves_the_batch(model, monkeypatch):
    prompts = some_prompts(10)
    wanted = generation.generate(model, prompts, [5] * 10, ENDS, 8, CPU, "test")
    sizes, forward = [], type(model).forward

    def scarce(self, input_ids, **options):
        sizes.append(len(input_ids))
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(type(model), "forward", scarce)
    assert generation.generate(model, prompts, [5] * 10, ENDS, 8, CPU, "test") == wanted
    assert sizes[:3] == [10, 5, 3]


def test_as_many_at_a_time_as_half_the_memory_holds(model, monkeypatch):
    """Keys and values in 32 bits, of each layer; but no fewer than in training."""
    with torch.no_grad():
        past = model(torch.tensor([[5] * 10]), use_cache=True).past_key_values
    one = sum(
        10 / layer.keys.shape[-2] * (layer.keys.nbytes + layer.values.nbytes)
        for layer in past.layers
    )  # a layer may keep a window of them alone
    # `one`: the bytes of ten positions
    batches = []
    real = generation._left_padded
    monkeypatch.setattr(
        generation, "_left_padded", lambda rows, _: batches.append(len(rows)) or real(rows, CPU)
    )
    for jobs, fit, wanted in (
        (2, 10, [5, 5, 5, 5]), (1, 1, [4, 4, 4, 4, 4]), (1, 5, [5, 5, 5, 5]), (1, 1000, [16, 4])
    ):  # fmt: skip
        monkeypatch.setattr(cache.memory, "JOBS", jobs)
        monkeypatch.setattr(cache, "free_memory", lambda _, fit=fit: int(2 * fit * one) + 9)
        monkeypatch.setattr(generation, "MORE", 4)
        batches.clear()
        generation.generate(model, [[5] * 8] * 20, [2] * 20, ENDS, 4, CPU, "test")
        assert batches == wanted
    monkeypatch.setattr(cache, "POSITIONS", 70)
    batches.clear()
    generation.generate(model, [[5] * 8] * 20, [2] * 20, ENDS, 4, CPU, "test")
    assert batches == [7, 7, 6]


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(UserError, match=f"{POSITIONS} positions"):
        generation.log_likelihoods(model, [[5] * 60], [[[5] * 6]], 1, CPU, "test")


def test_predictions_that_are_no_numbers(model):
    bias = [p for p in model.parameters() if p.dim() == 1][-1]
    kept = bias.data.clone()
    bias.data.fill_(float("nan"))
    try:
        with pytest.raises(UserError, match="not numbers"):
            generation.generate(model, [[5, 6]], [3], ENDS, 1, CPU, "test")
    finally:
        bias.data.copy_(kept)
