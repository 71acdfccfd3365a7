"""The loops: what padding, batch order, accumulation and an interruption must not change."""

import argparse
import copy
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch

from common import forward, models
from common.batching import epoch_batches, pad
from common.cli import UserError
from common.device import choose_device, set_seed, to_device
from common.training import events, loop, losses, resume
from tests import tiny

CPU = choose_device("cpu", "fp32")
KINDS = ("bert", "gpt2", "biogpt")
real_logits = models.logits
TASKS = ("SequenceClassification", "TokenClassification")
HEADS = {"SequenceClassification": "sequence", "TokenClassification": "token"}


def arguments(**changes):
    values = {
        "learning_rate": 1e-3, "num_train_epochs": 2, "batch_size": 4, "warmup_ratio": 0.1,
        "weight_decay": 0.01, "max_grad_norm": 1.0, "save_minutes": 10.0, "seed": 1,
    }  # fmt: skip
    return argparse.Namespace(**values | changes)


def load(tmp_path, kind, task, labels=3, seed=0):
    folder = tmp_path / kind
    if not folder.is_dir():
        tiny.make(kind, folder)
    args = argparse.Namespace(model_name=str(folder), demo=False)
    set_seed(seed)
    return models.load_task_model(args, HEADS[task], [f"label-{i}" for i in range(labels)])


def examples(n, task, vocabulary=300, labels=3, seed=0):
    """Random token ids of mixed lengths; labels that follow from the first token."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        ids = rng.integers(5, vocabulary, rng.integers(2, 12)).tolist()
        label = ids[0] % labels
        if task == "TokenClassification":
            label = [i % labels if i % 2 else -100 for i in ids[:-1]] + [ids[-1] % labels]
        found.append({"input_ids": ids, "labels": label})
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_do_not_depend_on_padding_or_order(tmp_path, kind, task):
    model, _ = load(tmp_path, kind, task)
    some = examples(9, task)
    alone = [forward.predict_logits(model, [example], 1, CPU, "")[0] for example in some]
    for batch_size in (2, 9):
        together = forward.predict_logits(model, some[::-1], batch_size, CPU, "")[::-1]
        for one, many in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, many, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_the_librarys(tmp_path, kind):
    """One example at a time, where the library needs no pad token to find the last one."""
    model, _ = load(tmp_path, kind, "SequenceClassification")
    for example in examples(5, "SequenceClassification"):
        ours = forward.predict_logits(model, [example], 1, CPU, "")[0]
        with torch.inference_mode():
            theirs = model(input_ids=torch.tensor([example["input_ids"]])).logits[0].numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_text_that_ends_in_the_pad_token_is_read_to_its_end(tmp_path):
    model, tokenizer = load(tmp_path, "gpt2", "SequenceClassification")
    ids = [20, 21, 22, tokenizer.pad_token_id]
    with torch.inference_mode():
        hidden = model.base_model(torch.tensor([ids])).last_hidden_state
        expected = model.score(hidden[0, -1]).numpy()
    found = forward.predict_logits(
        model, [{"input_ids": ids}, {"input_ids": [7] * 9}], 2, CPU, ""
    )  # fmt: skip
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_one_step_equals_plain_torch(tmp_path, task):
    """`fit` with one step against AdamW and cross-entropy written out, without dropout."""
    model, _ = load(tmp_path, "bert", task)
    no_dropout(model)
    plain = copy.deepcopy(model)
    some = examples(4, task)
    args = arguments(num_train_epochs=1, warmup_ratio=0.0)
    state, _ = loop.fit(model, some, args, CPU, dict, "", tmp_path)
    history = state.history

    batch = pad(some, 0)
    labels = batch.pop("labels").flatten()
    plain.train()
    loss = torch.nn.functional.cross_entropy(plain(**batch).logits.view(len(labels), -1), labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    decay = [p for p in plain.parameters() if p.ndim > 1]
    rest = [p for p in plain.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=1e-3).step()
    assert history[0]["train"]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert_same_weights(model, plain)


def assert_same_weights(ours, theirs):
    """Within a tenth of one step (1e-3), which Adam makes however small a gradient is. A key's bias
    shifts all scores of a query alike: its gradient is rounding noise, and is left out."""
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if "key.bias" not in name:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def no_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("attention_probs_dropout_prob", "attn_pdrop"):
        setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0


@pytest.mark.parametrize("task", TASKS)
def test_two_pieces_of_four_equal_a_batch_of_eight(tmp_path, monkeypatch, task):
    """Out of memory at more than four examples: same weights as if all eight had fitted."""
    whole, _ = load(tmp_path, "bert", task)
    no_dropout(whole)
    split = copy.deepcopy(whole)
    some = examples(24, task)
    args = arguments(batch_size=8)
    state, _ = loop.fit(whole, some, args, CPU, dict, "", fresh(tmp_path / "whole"))

    seen = []

    def short_of_memory(model, batch):
        seen.append(len(batch["input_ids"]))
        if seen[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real_logits(model, batch)

    monkeypatch.setattr(models, "logits", short_of_memory)
    state_again, totals = loop.fit(split, some, args, CPU, dict, "", fresh(tmp_path / "split"))
    assert seen[0] == 8 and set(seen[1:]) == {4} and totals["micro_batch_size"] == 4
    losses = ([epoch["train"]["loss"] for epoch in s.history] for s in (state, state_again))
    assert next(losses) == pytest.approx(next(losses), rel=1e-4)
    assert_same_weights(split, whole)


def test_on_a_cpu_a_piece_is_bounded_in_positions(tmp_path, monkeypatch):
    """Many short inputs at a time, few long ones; the batch's gradients stay those of the whole."""
    model, _ = load(tmp_path, "bert", "SequenceClassification")
    no_dropout(model)
    widths, gradients = [], []

    def logits(model, batch):
        widths.append(tuple(batch["input_ids"].shape))
        return real_logits(model, batch)

    monkeypatch.setattr(models, "logits", logits)
    trainer = loop.Trainer(model, arguments(), CPU, losses.cross_entropy, 1.0)
    some = examples(7, "SequenceClassification")
    longest = max(len(row["input_ids"]) for row in some)
    for positions in (10**6, 3 * longest, 1):
        monkeypatch.setattr(loop, "CPU_POSITIONS", positions)
        trainer._gradients(some, 7, micro=16)
        gradients.append([p.grad.clone() for p in trainer.parameters])
    assert [n for n, _ in widths] == [7, 3, 3, 1, *[1] * 7]
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            assert torch.allclose(one, two, atol=1e-6)


def fresh(folder):
    folder.mkdir()
    return folder


def test_memory_for_not_even_one_example_is_a_user_error(tmp_path, monkeypatch):
    def nothing_fits(model, batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(models, "logits", nothing_fits)
    model, _ = load(tmp_path, "bert", TASKS[0])
    with pytest.raises(UserError, match="too little memory"):
        loop.fit(model, examples(8, TASKS[0]), arguments(), CPU, dict, "", tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_eight_sentences_can_be_memorised(tmp_path, kind):
    """The whole chain learns: a miniature reproduces the labels of eight random sentences."""
    model, _ = load(tmp_path, kind, "TokenClassification")
    some = examples(8, "TokenClassification")
    args = arguments(learning_rate=5e-3, num_train_epochs=60)
    state, _ = loop.fit(model, some, args, CPU, dict, "", tmp_path)
    history = state.history
    for example, scores in zip(some, forward.predict_logits(model, some, 8, CPU, ""), strict=True):
        gold = np.array(example["labels"])
        assert (scores.argmax(-1) == gold)[gold != -100].all()
    assert history[-1]["train"]["loss"] < 0.2 < history[0]["train"]["loss"]


class Killed(BaseException):
    """Stands for a process that stops at a point where nothing is cleaned up."""


@pytest.mark.parametrize("stop_at", (1, 3, 6, 9, 10))
def test_resumed_run_is_bit_identical(tmp_path, monkeypatch, stop_at):
    """Stopped after any step, in the middle of an epoch too; dropout is on."""
    some = examples(18, TASKS[1])
    args = arguments(save_minutes=0.0)  # the state is saved after every step
    scores = iter([0.3, 0.2] * 3)  # the first epoch is the best: its weights must survive

    def run(folder, killed_at=None):
        folder.mkdir(exist_ok=True)
        model, _ = load(tmp_path, "bert", TASKS[1])
        steps = [0]

        def counting(model, batch):
            steps[0] += 1
            if steps[0] == killed_at:
                raise Killed
            return real_logits(model, batch)

        monkeypatch.setattr(models, "logits", counting)
        state, totals = loop.fit(model, some, args, CPU, lambda: {"f1": next(scores)}, "f1", folder)
        return model.state_dict(), (state.history, state.steps), totals["best_epoch"]

    whole, history, best = run(tmp_path / "whole")
    scores = iter([0.3, 0.2] * 3)
    with pytest.raises(Killed):
        run(tmp_path / "resumed", stop_at)
    torch.manual_seed(999)  # a new process starts from another state
    resumed, history_again, best_again = run(tmp_path / "resumed")
    assert best == best_again == 1 and history == history_again
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_killed_while_the_dev_split_is_scored(tmp_path):
    """The state was saved after the epoch's last batch: no batch is left, only the scoring."""
    some, args = examples(8, TASKS[0]), arguments(save_minutes=0.0)

    def killed():
        raise Killed

    histories = []
    for name, ends in (("whole", [dict]), ("resumed", [killed, dict])):
        folder = fresh(tmp_path / name)
        for evaluate in ends:
            model, _ = load(tmp_path, "bert", TASKS[0])
            try:
                histories.append(loop.fit(model, some, args, CPU, evaluate, "", folder)[0].history)
            except Killed:
                continue
    assert histories[0] == histories[1]


def test_ctrl_c_saves_what_is_done(tmp_path, monkeypatch):
    """The batch that it comes in is finished; a second one, later, stops at once."""
    some = examples(18, TASKS[1])
    usual = signal.getsignal(signal.SIGINT)
    for name, pauses, saved in (("1", [0], True), ("2", [0, 0], True), ("3", [0, 1.1], False)):
        folder, steps = fresh(tmp_path / name), []

        def pressing(model, batch, pauses=pauses, steps=steps):
            steps.append(len(batch["input_ids"]))
            if len(steps) == 2:
                for pause in pauses:
                    time.sleep(pause)
                    os.kill(os.getpid(), signal.SIGINT)
            return real_logits(model, batch)

        monkeypatch.setattr(models, "logits", pressing)
        model, _ = load(tmp_path, "bert", TASKS[1])
        with pytest.raises(KeyboardInterrupt):
            loop.fit(model, some, arguments(), CPU, dict, "", folder)
        assert signal.getsignal(signal.SIGINT) is usual
        assert len(steps) == 2 and (folder / "state.pt").is_file() == saved
    model, _ = load(tmp_path, "bert", TASKS[1])
    state, _ = loop.fit(model, some, arguments(), CPU, dict, "", tmp_path / "1")
    whole, _ = load(tmp_path, "bert", TASKS[1])
    monkeypatch.setattr(models, "logits", real_logits)
    wanted, _ = loop.fit(whole, some, arguments(), CPU, dict, "", fresh(tmp_path / "whole"))
    assert state.history == wanted.history
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True)
    )


def test_a_damaged_state_is_named(tmp_path):
    """Half a file: a message that says what to type, not a traceback; the file stays."""
    model, _ = load(tmp_path, "bert", TASKS[0])
    state = fresh(tmp_path / "run") / "state.pt"
    state.write_bytes(b"PK half a file")
    with pytest.raises(UserError, match="state.pt is damaged.*--overwrite"):
        loop.fit(model, examples(8, TASKS[0]), arguments(), CPU, dict, "", state.parent)
    assert state.read_bytes() == b"PK half a file"


def test_frozen_weights_stay_as_they_are(tmp_path):
    """Also with weight decay, and where gradients are summed over processes."""
    model, _ = load(tmp_path, "bert", TASKS[0])
    model.bert.embeddings.requires_grad_(False)
    before = copy.deepcopy(model.bert.embeddings.state_dict())
    args = arguments(weight_decay=0.5)
    loop.fit(model, examples(8, TASKS[0]), args, CPU, dict, "", fresh(tmp_path / "run"))
    after = model.bert.embeddings.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    trainer = loop.Trainer(model, args, CPU, losses.cross_entropy, 1.0)
    assert all(p.requires_grad for p in trainer.parameters)


def test_the_best_epoch_is_kept(tmp_path):
    """Dev scores 0.1, 0.9, 0.9, 0.5: the weights after the second epoch, the first of the best."""
    model, _ = load(tmp_path, "bert", TASKS[0])
    after, scores = [], iter([0.1, 0.9, 0.9, 0.5])

    def evaluate():
        after.append(copy.deepcopy(model.state_dict()))
        return {"accuracy": next(scores)}

    some, args = examples(8, TASKS[0]), arguments(num_train_epochs=4)
    _, totals = loop.fit(model, some, args, CPU, evaluate, "accuracy", tmp_path)
    assert totals["best_epoch"] == 2
    assert all(torch.equal(after[1][name], value) for name, value in model.state_dict().items())


def test_same_seed_same_weights_other_seed_others(tmp_path):
    def run(seed):
        folder = fresh(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        model, _ = load(tmp_path, "bert", TASKS[0], seed=seed)
        loop.fit(model, examples(8, TASKS[0]), arguments(seed=seed), CPU, dict, "", folder)
        return model.classifier.weight

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_learning_rate_rises_then_falls_to_zero():
    rates = [loop.learning_rate(step, 100, 2.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == 2.0 and rates[10] == 2.0
    assert rates[99] == pytest.approx(2.0 / 90) and np.all(np.diff(rates[10:]) < 0)


def test_an_example_without_tokens_has_no_prediction(tmp_path):
    model, _ = load(tmp_path, "gpt2", TASKS[1])
    found = forward.predict_logits(model, [{"input_ids": []}, {"input_ids": [5, 6]}], 2, CPU, "")
    assert found[0].shape == (0, 3) and found[1].shape == (2, 3)


def test_prediction_has_no_dropout_and_training_has_it_after_each_scoring(tmp_path):
    """Modes, as each forward pass sees them."""
    model, _ = load(tmp_path, "bert", TASKS[0])
    some, modes = examples(8, TASKS[0]), []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))

    def score():
        forward.predict_logits(model, some, 8, CPU, "")
        return {"accuracy": 0.5}

    loop.fit(model, some, arguments(), CPU, score, "accuracy", tmp_path)
    assert modes == [True, True, False, True, True, False]
    model.train()  # whatever mode it is given
    forward.predict_logits(model, some, 8, CPU, "")
    assert modes[-1] is False


def dtypes_of(model):
    """The dtypes of what the classifier gives, noted at each pass."""
    found = []
    model.classifier.register_forward_hook(lambda module, _, out: found.append(out.dtype))
    return found


@pytest.mark.parametrize(
    ("precision", "dtype"),
    (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)),
)
def test_passes_run_in_the_precision_and_weights_stay_in_float32(tmp_path, precision, dtype):
    model, _ = load(tmp_path, "bert", TASKS[0])
    found, device = dtypes_of(model), choose_device("cpu", precision)
    loop.fit(model, examples(8, TASKS[0]), arguments(), device, dict, "", tmp_path)
    assert set(found) == {dtype} and len(found) == 4
    (scores, *_) = forward.predict_logits(model, examples(8, TASKS[0]), 8, device, "")
    assert found[-1] == dtype and scores.dtype == np.float32
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("most", (0.01, 1e6))
def test_fp16_gradients_are_clipped_at_their_own_scale(tmp_path, most):
    """What the optimizer sees: float32's gradient, cut to the norm, not 2^16 times that."""
    norms = {}
    for precision in ("fp32", "fp16"):
        model, _ = load(tmp_path, "bert", TASKS[0])
        no_dropout(model)
        device, batch = choose_device("cpu", precision), examples(4, TASKS[0])
        args = arguments(max_grad_norm=most)
        trainer = loop.Trainer(model, args, device, losses.cross_entropy, 1.0)
        assert trainer.scaler.is_enabled() == (precision == "fp16")
        seen = []

        def note(optimizer, args, kwargs, seen=seen, some=trainer.parameters):
            seen.extend(p.grad.clone() for p in some)

        trainer.optimizer.register_step_pre_hook(note)
        trainer.train_on(batch, 4, 4)
        norms[precision] = torch.stack([grad.norm() for grad in seen]).norm().item()
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=0.02)
    if most == 0.01:
        assert norms["fp32"] == pytest.approx(most, rel=1e-3)
    else:
        assert 0.02 < norms["fp32"] < 1e4


def test_the_scale_of_fp16_is_taken_up_again(tmp_path):
    """Each of the steps that overflow halves it; a resumed run does not begin at 2^16 again."""
    device, some = choose_device("cpu", "fp16"), examples(8, TASKS[0])

    def trainer():
        model, _ = load(tmp_path, "bert", TASKS[0])
        return loop.Trainer(model, arguments(), device, losses.cross_entropy, 1.0)

    first = trainer()
    first.train_on(some, 8, 8)
    first.scaler.update(128.0)
    resume.save_state(fresh(tmp_path / "run"), first, {"best": None, "epoch": 0, "step": 1})
    second = trainer()
    assert second.scaler.get_scale() == 2.0**16
    resume.load_state(tmp_path / "run", second)
    assert second.scaler.get_scale() == 128.0


@pytest.mark.parametrize("decay", (0.0, 0.9))
def test_weights_decay_and_biases_and_norms_do_not(tmp_path, decay):
    """By what the optimizer does without gradients."""
    model, _ = load(tmp_path, "bert", TASKS[0])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    args = arguments(weight_decay=decay, learning_rate=0.1)
    trainer = loop.Trainer(model, args, CPU, losses.cross_entropy, 1.0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    trainer.optimizer.step()
    for name, p in model.named_parameters():
        kept = 1.0 if "bias" in name or "Norm" in name else 1 - 0.1 * decay
        torch.testing.assert_close(p.detach(), before[name] * kept, msg=lambda m, n=name: n + m)


def test_batches_are_those_of_the_seed_and_the_epoch(tmp_path):
    """And the rows of steps.csv and of the history say the rate that was used."""
    model, _ = load(tmp_path, "bert", TASKS[0])
    some, seen, rates = examples(10, TASKS[0]), [], []
    numbers = {tuple(e["input_ids"]): i for i, e in enumerate(some)}
    train_on, set_rate = loop.Trainer.train_on, loop.Trainer.set_rate

    class Noting(loop.Trainer):
        def train_on(self, batch, n_labels, micro):
            seen.append([numbers[tuple(e["input_ids"])] for e in batch])
            return train_on(self, batch, n_labels, micro)

        def set_rate(self, step, steps):
            set_rate(self, step, steps)
            rates.append(self.optimizer.param_groups[0]["lr"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Trainer", Noting)
        patch.setattr(loop, "CHECK_EVERY", 2)
        state, _ = loop.fit(model, some, arguments(seed=5), CPU, dict, "", tmp_path)
    lengths = [len(e["input_ids"]) for e in some]
    assert seen == [b for epoch in (0, 1) for b in epoch_batches(lengths, 4, 5, epoch)]
    assert rates == [loop.learning_rate(step, 6, 1e-3, 0.1) for step in range(6)]
    assert [(row["step"], row["learning_rate"]) for row in state.steps] == [
        (step, rates[step - 1]) for step in (2, 4, 6)
    ]
    assert [e["train"]["learning_rate"] for e in state.history] == [rates[2], rates[5]]


def test_tensorboard_is_asked_for_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        events.check()


def test_event_files_hold_the_rows_of_steps_and_the_scores(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model, _ = load(tmp_path, "bert", TASKS[0])
    args = arguments(tensorboard=True, num_train_epochs=3)
    events.writer(tmp_path, 0)(100, {"train/loss": 7.0})  # by a process that was killed
    some = examples(40, TASKS[0])
    state, _ = loop.fit(model, some, args, CPU, lambda: {"accuracy": 0.5}, "accuracy", tmp_path)
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    written = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert written == [(row["step"], pytest.approx(row["loss"])) for row in state.steps]
    assert [event.step for event in found.Scalars("dev/accuracy")] == [10, 20, 30]


@pytest.mark.parametrize("kind", (*KINDS, "llama", "qwen3", "albert", "electra", "distilbert"))
def test_frozen_weights_in_bf16_compute_the_same(tmp_path, kind):
    """Linear layers are held in 16 bits; the outputs are those of autocast, bit for bit."""
    bf16 = choose_device("cpu", "bf16")
    for head, own in HEADS.items():
        model, tokenizer = load(tmp_path, kind, head)
        held_in_16_bits(model.eval(), models.logits, bf16, tokenizer)
        if kind in ("gpt2", "biogpt") and own == "token":  # their text heads share the embeddings
            args = argparse.Namespace(model_name=str(tmp_path / kind), demo=False)
            model, _ = models.load_task_model(args, "causal", [])
            held_in_16_bits(model.eval(), lambda m, batch: m(**batch).logits, bf16, tokenizer)
            assert model.get_output_embeddings().weight.dtype == torch.bfloat16


def held_in_16_bits(model, logits, device, tokenizer):
    some = examples(6, TASKS[0], vocabulary=60)
    batch = pad([{"input_ids": e["input_ids"]} for e in some], tokenizer.pad_token_id)
    found = []
    for frozen in (False, True):
        to_device(model.requires_grad_(not frozen), device)
        with torch.no_grad(), device.autocast():
            found.append(logits(model, batch))
    assert torch.equal(*found)
    small = [p for p in model.parameters() if p.dtype == torch.bfloat16]
    assert len(small) >= 6 and all(p.ndim == 2 for p in small)
    assert model.get_input_embeddings().weight.dtype == torch.float32


def test_a_device_without_room_for_the_model(tmp_path, monkeypatch):
    model, _ = load(tmp_path, "bert", TASKS[0])

    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(model, "to", full)
    with pytest.raises(UserError, match="cpu has no room for the model's 0.0 GB .*--device cpu"):
        to_device(model, CPU)
    monkeypatch.setattr(model, "to", lambda *args: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        to_device(model, CPU)
