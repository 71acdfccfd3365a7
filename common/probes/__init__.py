"""The probes: small models that are trained on a frozen encoder's vectors, one a layer.

    sequences.py   labelled sequences (the words of a sentence): all layers trained in lockstep
      bilstm_crf.py   BiLSTM-CRF; its parts: lstm.py, crf.py
    examples.py    labelled examples (a pair of sentences): a layer a core
      svm.py          `SVC()` with an RBF kernel
    linear.py      the linear probe of both

Any task can use any of them: it says which vectors stand for what (`common.task.ProbeInputs`).
This file needs no torch, so that a finished run answers at once.
"""

from collections.abc import Callable
from pathlib import Path

KINDS = ("svc", "linear", "bilstm-crf")
# Gradient descent of the probes of sequences, and the LSTM's size in each direction.
BATCH_SIZE, LEARNING_RATE, HIDDEN_SIZE = 64, 1e-3, 128
# SVC() and LogisticRegression(): the weight of the errors; steps, more than it ever takes.
C, GAMMA, MAX_ITER = 1.0, "scale", 10_000


def constants(kind: str) -> dict:
    """What identifies the method besides the flags, for config.json.

    "linear" has the numbers of both its forms. The number of epochs is the caller's.
    """
    descent = {"batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}
    return {
        "svc": {"C": C, "gamma": GAMMA},
        "linear": descent | {"C": C, "max_iter": MAX_ITER},
        "bilstm-crf": descent | {"hidden_size": HIDDEN_SIZE},
    }[kind]


def predict_layers(
    kind: str,
    features: dict[int, Path],
    inputs,
    *,
    epochs: int,
    standardize: bool,
    seed: int,
    device,
    on_done: Callable[[int, dict], object],
) -> None:
    """Train a probe a layer and target on the train split; hand over what they predict.

    `features`: layer -> .npy file `[rows, size]`, float16; `inputs`: `common.task.ProbeInputs`,
    whose `rows` say whether these are labelled examples ("svc", "linear") or sequences
    ("bilstm-crf", "linear"). `epochs` and `seed` are those of sequences' training, `standardize`
    (mean 0, variance 1 on the training examples) is for examples; the rest has no use for them.

    `on_done(layer, {target: {split: found}})` is called in this thread as soon as a layer is done,
    in any order; `found`: an int array `[n]`, or an int array a sequence, empty for one without
    units. All splits with rows are there; of sequences not train, which would cost a further pass.
    Raises ValueError for a kind that is not for such data, UserError for what has no room.
    """
    from common.probes import examples, sequences

    lists = {isinstance(splits["train"], list) for splits in inputs.rows.values()}
    sequential = lists == {True}
    fitting = ("bilstm-crf", "linear") if sequential else ("svc", "linear")
    if len(lists) != 1 or kind not in fitting:
        what = "sequences" if sequential else "examples"
        raise ValueError(f"kind {kind!r}: of labelled {what} it must be one of {fitting}")
    if sequential:
        sequences.predict_layers(
            kind, features, inputs.rows, inputs.labels, inputs.n_labels,
            epochs=epochs, seed=seed, device=device, on_done=on_done,
        )  # fmt: skip
    else:
        examples.predict_layers(
            kind, features, inputs.rows, inputs.labels,
            standardize=standardize, device=device, on_done=on_done,
        )  # fmt: skip
