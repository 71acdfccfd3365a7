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
    features: dict,
    inputs,
    *,
    epochs: int,
    standardize: bool,
    seed: int,
    device,
    on_done: Callable[[int, dict], object],
) -> None:
    """Train a probe a layer and target on the train split; hand over what they predict.

    `features`: layer -> `[rows, size]`, see `common.features`; `inputs`:
    `common.task.ProbeInputs`, whose `rows` say whether these are labelled examples ("svc",
    "linear") or sequences ("bilstm-crf", "linear"). `epochs` and `seed` are those of sequences'
    training, `standardize` (mean 0, variance 1 on the training examples) is for examples; the rest
    has no use for them.

    `on_done(layer, {target: {split: found}})` is called in this thread as soon as a layer is done,
    in any order; `found`: an int array `[n]`, or an int array a sequence, empty for one without
    units. All splits with rows are there; of sequences not train, which would cost a further pass.
    Raises ValueError for a kind that is not for such data, UserError for what has no room.
    """
    from common.probes import examples, sequences

    if inputs.groups is not None:
        inputs, on_done = grouped(inputs, on_done)
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


def grouped(inputs, on_done: Callable) -> tuple:
    """`inputs` with a target for each target and group; and what puts their predictions together.

    Targets are (target, group); a group has the rows and labels of its own examples.
    """
    import numpy as np

    groups = {split: np.asarray(numbers) for split, numbers in inputs.groups.items()}
    rows, labels = {}, {}
    for group in np.unique(groups["train"]):
        own = {split: numbers == group for split, numbers in groups.items()}
        for target, splits in inputs.rows.items():
            rows[target, group] = {split: some[own[split]] for split, some in splits.items()}
            labels[target, group] = inputs.labels[target][own["train"]]

    def together(layer: int, found: dict) -> None:
        whole: dict = {target: {} for target in inputs.rows}
        for (target, group), splits in found.items():
            for split, values in splits.items():
                empty = np.zeros(len(groups[split]), values.dtype)
                whole[target].setdefault(split, empty)[groups[split] == group] = values
        on_done(layer, whole)

    return inputs._replace(rows=rows, labels=labels, groups=None), together
