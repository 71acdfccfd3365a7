"""The loops: what padding, batch order, accumulation and an interruption must not change."""

import copy
import os
import signal
import sys

import numpy as np
import pytest
import torch

from common import forward, models
from common.batching import epoch_batches, pad
from common.cli import UserError
from common.device import Device, choose_device, set_seed, to_device
from common.training import loop, losses, resume, sharding
from common.training.loop import learning_rate
from tests import tiny

CPU = Device(torch.device("cpu"), "fp32")
KINDS = ("bert", "gpt2", "biogpt")
real_logits = models.logits
TASKS = ("SequenceClassification", "TokenClassification")
HEADS = {"SequenceClassification": "sequence", "TokenClassification": "token"}


SETTINGS = loop.Settings(
    learning_rate=1e-3,
    num_train_epochs=2,
    batch_size=4,
    warmup_ratio=0.1,
    weight_decay=0.01,
    max_grad_norm=1.0,
    layer_decay=1.0,
    seed=1,
    save_minutes=10.0,
)


@pytest.fixture(autouse=True)
def whole_batches(monkeypatch):
    """A batch is one pass, where memory allows; its pieces have a test of their own."""
    monkeypatch.setattr(loop, "PIECES", {"cpu": 1})


def load(tmp_path, kind, task, labels=3, seed=0):
    folder = tmp_path / kind
    if not folder.is_dir():
        tiny.make(kind, folder)
    set_seed(seed)
    return models.load_task_model(str(folder), HEADS[task], [f"label-{i}" for i in range(labels)])


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
def test_one_step_equals_plain_torch(tmp_path, task):
    """`fit` with one step against AdamW and cross-entropy written out, without dropout."""
    model, _ = load(tmp_path, "bert", task)
    no_dropout(model)
    plain = copy.deepcopy(model)
    some = examples(4, task)
    settings = SETTINGS._replace(num_train_epochs=1, warmup_ratio=0.0)
    state, _ = loop.fit(model, some, settings, CPU, dict, "", tmp_path)
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
    settings = SETTINGS._replace(batch_size=8)
    state, _ = loop.fit(whole, some, settings, CPU, dict, "", fresh(tmp_path / "whole"))

    seen = []

    def short_of_memory(model, batch):
        seen.append(len(batch["input_ids"]))
        if seen[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real_logits(model, batch)

    monkeypatch.setattr(models, "logits", short_of_memory)
    state_again, totals = loop.fit(split, some, settings, CPU, dict, "", fresh(tmp_path / "split"))
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
    trainer = loop.Trainer(model, SETTINGS, CPU, losses.cross_entropy)
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


@pytest.mark.parametrize("kind", KINDS)
def test_eight_sentences_can_be_memorised(tmp_path, kind):
    """The whole chain learns: a miniature reproduces the labels of eight random sentences."""
    model, _ = load(tmp_path, kind, "TokenClassification")
    some = examples(8, "TokenClassification")
    settings = SETTINGS._replace(learning_rate=5e-3, num_train_epochs=60)
    state, _ = loop.fit(model, some, settings, CPU, dict, "", tmp_path)
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
    settings = SETTINGS._replace(save_minutes=0.0)  # the state is saved after every step

    def trained(folder, killed_at=None):
        folder.mkdir(exist_ok=True)
        model, _ = load(tmp_path, "bert", TASKS[1])
        steps = []

        def counting(model, batch):
            steps.append(batch)
            if len(steps) == killed_at:
                raise Killed
            return real_logits(model, batch)

        def dev():  # the first epoch is the best: its weights must survive
            return {"f1": 0.2 if (folder / "epoch-0.pt").is_file() else 0.3}

        monkeypatch.setattr(models, "logits", counting)
        state, totals = loop.fit(model, some, settings, CPU, dev, "f1", folder)
        return model.state_dict(), (state.history, state.steps), totals["best_epoch"]

    whole, history, best = trained(tmp_path / "whole")
    with pytest.raises(Killed):
        trained(tmp_path / "resumed", stop_at)
    torch.manual_seed(999)  # a new process starts from another state
    resumed, history_again, best_again = trained(tmp_path / "resumed")
    assert best == best_again == 1 and history == history_again
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_killed_while_the_dev_split_is_scored(tmp_path):
    """The state was saved after the epoch's last batch: no batch is left, only the scoring."""
    some, settings = examples(8, TASKS[0]), SETTINGS._replace(save_minutes=0.0)

    def killed():
        raise Killed

    histories = []
    for name, ends in (("whole", [dict]), ("resumed", [killed, dict])):
        folder = fresh(tmp_path / name)
        for evaluate in ends:
            model, _ = load(tmp_path, "bert", TASKS[0])
            try:
                histories.append(
                    loop.fit(model, some, settings, CPU, evaluate, "", folder)[0].history
                )
            except Killed:
                continue
    assert histories[0] == histories[1]


def terminated(*_):
    raise Terminated


class Terminated(KeyboardInterrupt):
    """Stands for what common.cli raises at SIGTERM."""


@pytest.mark.parametrize(
    ("number", "handler", "raised"),
    [
        (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
        (signal.SIGTERM, terminated, Terminated),
    ],
)
def test_a_signal_is_obeyed_when_the_step_is_done_and_saved(
    tmp_path, monkeypatch, number, handler, raised
):
    """Then the next call ends as a run that nobody stopped, bit for bit."""
    some, steps = examples(18, TASKS[1]), []

    def signalled(model, batch):
        steps.append(len(batch["input_ids"]))
        if len(steps) == 2:
            os.kill(os.getpid(), number)
        return real_logits(model, batch)

    def trained(folder):
        model, _ = load(tmp_path, "bert", TASKS[1])
        state, _ = loop.fit(model, some, SETTINGS, CPU, dict, "", folder)
        return list(model.parameters()), state.history

    folder, usual = fresh(tmp_path / "run"), signal.signal(number, handler)
    monkeypatch.setattr(models, "logits", signalled)
    try:
        with pytest.raises(raised):
            trained(folder)
        assert signal.getsignal(number) == handler
    finally:
        signal.signal(number, usual)
    assert len(steps) == 2 and (folder / "state.pt").is_file()
    parameters, history = trained(folder)
    expected, all_history = trained(fresh(tmp_path / "whole"))
    assert history == all_history and all(map(torch.equal, parameters, expected))


def test_an_ignored_signal_stays_ignored():
    usual = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with resume.noted_signals() as noted:
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert noted == []


@pytest.mark.parametrize("damage", ("half", "other", "missing"))
def test_a_damaged_state_starts_the_training_anew(tmp_path, caplog, damage):
    """With one warning; what comes out is what a run without any state gives."""
    some, settings = examples(8, TASKS[0]), SETTINGS._replace(save_minutes=0.0)

    def trained(folder, evaluate=dict):
        model, _ = load(tmp_path, "bert", TASKS[0])
        state, _ = loop.fit(model, some, settings, CPU, evaluate, "", folder)
        return list(model.parameters()), state.history, state.steps

    def killed_later():
        if (folder / "epoch-0.pt").is_file():
            raise Killed
        return {"": 0.5}

    folder = fresh(tmp_path / "run")
    with pytest.raises(Killed):
        trained(folder, killed_later)
    path = folder / "state.pt"
    if damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "other":
        torch.save([1, 2], path)
    else:
        path.unlink()
    parameters, *rest = trained(folder)
    expected, *all_rest = trained(fresh(tmp_path / "whole"))
    assert rest == all_rest and all(map(torch.equal, parameters, expected))
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    if damage == "missing":
        assert warnings == []
    else:
        (message,) = warnings
        assert str(path) in message and "starts anew" in message


def test_a_full_disk_is_an_os_error_that_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(resume.Path, "open", lambda *_: open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(OSError, match="No space left") as full:
        resume._save(tmp_path / "state.pt", {"model": torch.zeros(10**6)})
    assert full.value.filename == str(tmp_path / "state.pt")


def test_scoring_in_one_process_imports_nothing_of_fsdp(tmp_path, monkeypatch):
    model, _ = load(tmp_path, "bert", TASKS[0])
    for name in ("fsdp", "tensor", "checkpoint", "device_mesh"):
        monkeypatch.setitem(sys.modules, f"torch.distributed.{name}", None)
    with pytest.raises(ImportError):
        sharding.shard(model, CPU)
    some = examples(8, TASKS[0])
    forward.mean_loss(model, some, 4, CPU, losses.cross_entropy)


def test_frozen_weights_stay_as_they_are(tmp_path):
    """Also with weight decay."""
    model, _ = load(tmp_path, "bert", TASKS[0])
    model.bert.embeddings.requires_grad_(False)
    before = copy.deepcopy(model.bert.embeddings.state_dict())
    settings = SETTINGS._replace(weight_decay=0.5)
    loop.fit(model, examples(8, TASKS[0]), settings, CPU, dict, "", fresh(tmp_path / "run"))
    after = model.bert.embeddings.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    trainer = loop.Trainer(model, settings, CPU, losses.cross_entropy)
    assert all(p.requires_grad for p in trainer.parameters)


def test_the_best_epoch_is_kept(tmp_path):
    """Dev scores 0.1, 0.9, 0.9, 0.5: the weights after the second epoch, the first of the best."""
    model, _ = load(tmp_path, "bert", TASKS[0])
    after, scores = [], iter([0.1, 0.9, 0.9, 0.5])

    def evaluate():
        after.append(copy.deepcopy(model.state_dict()))
        return {"accuracy": next(scores)}

    some, settings = examples(8, TASKS[0]), SETTINGS._replace(num_train_epochs=4)
    _, totals = loop.fit(model, some, settings, CPU, evaluate, "accuracy", tmp_path)
    assert totals["best_epoch"] == 2
    assert all(torch.equal(after[1][name], value) for name, value in model.state_dict().items())


def test_learning_rate_rises_then_falls_to_zero():
    rates = [learning_rate(n, 100, 2.0, 0.1) for n in range(100)]
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

    loop.fit(model, some, SETTINGS, CPU, score, "accuracy", tmp_path)
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
    loop.fit(model, examples(8, TASKS[0]), SETTINGS, device, dict, "", tmp_path)
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
        settings = SETTINGS._replace(max_grad_norm=most)
        trainer = loop.Trainer(model, settings, device, losses.cross_entropy)
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
        return loop.Trainer(model, SETTINGS, device, losses.cross_entropy)

    first = trainer()
    first.train_on(some, 8, 8)
    first.scaler.update(128.0)
    resume.save_state(fresh(tmp_path / "run"), first, resume.State(micro=8, step=1))
    second = trainer()
    assert second.scaler.get_scale() == 2.0**16
    resume.load_state(tmp_path / "run", second)
    assert second.scaler.get_scale() == 128.0


@pytest.mark.parametrize("decay", (0.0, 0.9))
def test_weights_decay_and_biases_and_norms_do_not(tmp_path, decay):
    """By what the optimizer does without gradients."""
    model, _ = load(tmp_path, "bert", TASKS[0])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    settings = SETTINGS._replace(weight_decay=decay, learning_rate=0.1)
    trainer = loop.Trainer(model, settings, CPU, losses.cross_entropy)
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
            rate = set_rate(self, step, steps)
            rates.append(self.optimizer.param_groups[0]["lr"])
            return rate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Trainer", Noting)
        patch.setattr(loop, "LOG_EVERY", 2)
        state, _ = loop.fit(model, some, SETTINGS._replace(seed=5), CPU, dict, "", tmp_path)
    lengths = [len(e["input_ids"]) for e in some]
    assert seen == [b for epoch in (0, 1) for b in epoch_batches(lengths, 4, 5, epoch, 1)]
    assert rates == [learning_rate(n, 6, 1e-3, 0.1) for n in range(6)]
    assert [(row["step"], row["learning_rate"]) for row in state.steps] == [
        (step, rates[step - 1]) for step in (2, 4, 6)
    ]
    assert [e["train"]["learning_rate"] for e in state.history] == [rates[2], rates[5]]


def test_without_tensorboard_the_message_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        loop.event_files(tmp_path, 1)


def test_event_files_hold_the_rows_of_steps_and_the_scores(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model, _ = load(tmp_path, "bert", TASKS[0])
    settings = SETTINGS._replace(tensorboard=True, num_train_epochs=3)
    some = examples(40, TASKS[0])
    state, _ = loop.fit(model, some, settings, CPU, lambda: {"accuracy": 0.5}, "accuracy", tmp_path)
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
            model, _ = models.load_task_model(str(tmp_path / kind), "causal", [])
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
