"""The probes: small models that are trained on a frozen encoder's vectors, one per layer.

    examples.py    trains probes of labelled examples (pairs of sentences), layers in threads
      svm.py          `SVC()` with an RBF kernel
    sequences.py   trains probes of sequences (the words of a sentence), layers in lockstep
      bilstm_crf.py   a BiLSTM and a CRF
      pointer.py      where an answer starts and ends
    linear.py      the linear probe of both

A new probe is a module like its siblings and a row of `KINDS`. This file does not import torch, so
that `--help` is quick.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

from common.task import Examples, Sequences

# Gradient descent of the probes of sequences, and the LSTM's size in each direction.
BATCH_SIZE, LEARNING_RATE, HIDDEN_SIZE = 64, 1e-3, 128
# SVC() and LogisticRegression(): the weight of the errors; more steps than it ever takes.
C, GAMMA, MAX_ITER = 1.0, "scale", 10_000
# Of the pointer probe; on 397 dev questions of SQuAD, bits rise to step 400 and then fall.
POINTER = {"batch_size": 32, "learning_rate": LEARNING_RATE, "steps": 400}
DESCENT = {"batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}


# A probe -> its module in this package, and what identifies the method besides the flags.
KINDS = {
    "svc": ("svm", {"C": C, "gamma": GAMMA}),
    "linear": ("linear", DESCENT | {"C": C, "max_iter": MAX_ITER}),
    "pointer": ("pointer", POINTER),
    "bilstm-crf": ("bilstm_crf", DESCENT | {"hidden_size": HIDDEN_SIZE}),
}


class Options(NamedTuple):
    """How probes are trained."""

    n_labels: int
    epochs: int  # of sequences
    standardize: bool  # examples' vectors: mean 0, variance 1 on the training examples
    seed: int  # of sequences
    device: Any  # `common.device.Device` of the probes of sequences


def predict_layers(
    kind: str, features: dict, sets: list[Sequences | Examples], options: Options
) -> Iterator[tuple[int, dict]]:
    """Train a probe per layer, set and target on the train split, and yield its predictions.

    `features`: layer -> `[rows, size]`, see `common.features`. `sets`: all of one form, each with
    a train split.

    Yields (layer, {target: {split: [predictions of each set that has the target]}}) when a layer is
    done, in any order. A set's predictions are an int array `[n]`, or a list with one per sequence.
    All splits with rows are there; of sequences not train, which would cost another pass. Raises
    UserError if memory is short.
    """
    module, _ = KINDS[kind]
    probe = import_module(f"common.probes.{module}")
    form = "examples" if isinstance(sets[0], Examples) else "sequences"
    trainer = import_module(f"common.probes.{form}")
    for layer, by_set in trainer.predict_layers(probe, features, sets, options):
        joined = {}
        for target in dict.fromkeys(target for own in by_set for target in own):
            having = [own[target] for own in by_set if target in own]
            splits = dict.fromkeys(split for own in having for split in own)
            joined[target] = {split: [own.get(split, []) for own in having] for split in splits}
        yield layer, joined
