"""Batched generation and likelihoods equal the plain loop over single prompts, for all families."""

import random

import pytest
import torch
import transformers

from common.cli import UserError
from common.device import Device
from Instruct import generation

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
    "gemma2": lambda: transformers.Gemma2Config(head_dim=16, sliding_window=6, **GROUPED),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(num_attention_heads=2, **SMALL),
    "phi3": lambda: transformers.Phi3Config(sliding_window=6, pad_token_id=None, **GROUPED),
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


def test_generation_equals_one_by_one(model):
    """Whatever the order, the batch, and how long each answer may be; also from training mode."""
    prompts = some_prompts()
    most = [random.Random(i).choice([0, 1, 5, 30]) for i in range(len(prompts))]
    model.train()
    for batch_size in (1, 8):
        found = generation.generate(model, prompts, most, ENDS, batch_size, CPU, "test")
        assert not model.training
        assert found == [one_by_one(model, p, n) for p, n in zip(prompts, most, strict=True)]
    assert len({len(ids) for ids in found}) > 3  # some ended early


def test_generation_stops_at_the_last_position(model):
    prompts = [[5] * n for n in (POSITIONS - 3, POSITIONS - 1, POSITIONS, POSITIONS + 2)]
    found = generation.generate(model, prompts, [99] * 4, set(), 4, CPU, "test")
    assert [len(ids) for ids in found] == [3, 1, 0, 0]


def test_likelihoods_equal_a_slow_loop(model):
    prompts, rng = some_prompts(), random.Random(1)
    answers = [[rng.randrange(VOCABULARY) for _ in range(n)] for n in (1, 4, 2, 7, 1, 3)]
    model.train()
    values = generation.log_likelihoods(model, prompts, answers, 8, CPU, "test")
    assert not model.training
    for prompt, row in zip(prompts, values, strict=True):
        for ids, value in zip(answers, row, strict=True):
            steps = next_logits(model, prompt + ids).log_softmax(-1)
            wanted = sum(steps[len(prompt) + k - 1, token] for k, token in enumerate(ids))
            assert value == pytest.approx(wanted.item(), abs=1e-4)


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
    assert sizes[:3] == [8, 4, 2]


def test_predictions_that_are_no_numbers(model):
    bias = [p for p in model.parameters() if p.dim() == 1][-1]
    kept = bias.data.clone()
    bias.data.fill_(float("nan"))
    try:
        with pytest.raises(UserError, match="not numbers"):
            generation.generate(model, [[5, 6]], [3], ENDS, 1, CPU, "test")
    finally:
        bias.data.copy_(kept)
