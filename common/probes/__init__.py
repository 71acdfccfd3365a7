"""The probes: small models that are trained on a frozen encoder's vectors, one per layer.

    examples.py    trains probes of labelled examples (pairs of sentences), layers in threads
      svm.py          `SVC()` with an RBF kernel
    sequences.py   trains probes of labelled sequences (the words of a sentence), layers in lockstep
      bilstm_crf.py   a BiLSTM and a CRF (crf.py)
    linear.py      the linear probe of both
    pointer.py     where an answer starts and ends in a sequence, layers in lockstep

A new probe is a module like its siblings and a row of `KINDS`. This file does not import torch, so
that `--help` is quick.
"""

from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from typing import NamedTuple

from common.task import Examples, Pointers, Sequences

# Gradient descent of the probes of sequences, and the LSTM's size in each direction.
BATCH_SIZE, LEARNING_RATE, HIDDEN_SIZE = 64, 1e-3, 128
# SVC() and LogisticRegression(): the weight of the errors; more steps than it ever takes.
C, GAMMA, MAX_ITER = 1.0, "scale", 10_000
# Of the pointer probe; on 397 dev questions of SQuAD, bits rise to step 400 and then fall.
POINTER = {"batch_size": 32, "learning_rate": LEARNING_RATE, "steps": 400}
DESCENT = {"batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}


class Kind(NamedTuple):
    constants: dict  # what identifies the method besides the flags
    modules: dict  # {form of the sets: its module in this package}


KINDS = {
    "svc": Kind({"C": C, "gamma": GAMMA}, {Examples: "svm"}),
    "linear": Kind(
        DESCENT | {"C": C, "max_iter": MAX_ITER}, {Examples: "linear", Sequences: "linear"}
    ),
    "pointer": Kind(POINTER, {Pointers: "pointer"}),
    "bilstm-crf": Kind(DESCENT | {"hidden_size": HIDDEN_SIZE}, {Sequences: "bilstm_crf"}),
}


# What trains the probes of a form.
TRAINERS = {Examples: "examples", Sequences: "sequences", Pointers: "pointer"}


def constants(kind: str) -> dict:
    """The method's constants, for config.json; "linear" has the numbers of both its forms."""
    return KINDS[kind].constants


def predict_layers(
    kind: str,
    features: dict,
    sets: list[Sequences | Examples | Pointers],
    n_labels: int,
    *,
    epochs: int,
    standardize: bool,
    seed: int,
    device,
    on_done: Callable[[int, dict], object],
) -> None:
    """Train a probe per layer, set and target on the train split, and hand over its predictions.

    `features`: layer -> `[rows, size]`, see `common.features`. `sets`: all of one form, each with
    a train split. `epochs`, `seed` and `device` are for sequences; `standardize` (mean 0, variance
    1 on the training examples) is for examples.

    Calls `on_done(layer, {target: {split: [predictions of each set that has the target]}})` when a
    layer is done, in any order. A set's predictions are an int array `[n]`, or a list with one per
    sequence. All splits with rows are there; of sequences not train, which would cost another pass.
    Raises ValueError for a kind that is not for such sets, UserError if memory is short or a loss
    diverges.
    """
    form = type(sets[0])
    module = KINDS[kind].modules.get(form) if kind in KINDS else None
    if module is None or any(type(one) is not form for one in sets):
        raise ValueError(f"there is no probe {kind!r} of these sets; the first is {form.__name__}")
    trainer = import_module(f"common.probes.{TRAINERS[form]}")
    options = {"seed": seed, "device": device}
    if form is Sequences:
        options |= {"n_labels": n_labels, "epochs": epochs}
    elif form is Examples:
        options = {"standardize": standardize}
    probe = import_module(f"common.probes.{module}")
    with closing(trainer.predict_layers(probe, features, sets, **options)) as layers:
        for layer, predictions in layers:
            joined = {}
            for target in dict.fromkeys(target for one in predictions for target in one):
                having = [one[target] for one in predictions if target in one]
                splits = dict.fromkeys(split for one in having for split in one)
                joined[target] = {split: [one.get(split, []) for one in having] for split in splits}
            on_done(layer, joined)
