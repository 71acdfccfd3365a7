"""Probes of frozen features: any task may use any of them; one call for all layers.

"svc" and "linear" classify examples (`[u; v]` of a pair, say); "bilstm-crf" and "linear" label
sequences. Which of the two it is follows from the rows of `common.task.ProbeInputs`.
"""

from collections.abc import Callable
from pathlib import Path

LAYERS_AT_ONCE = 4  # on a CPU, of sequence probes; a killed run keeps the groups that were done


def constants(kind: str) -> dict:
    """What identifies the method of a probe besides the flags."""
    if kind == "bilstm-crf":
        return {"probe_hidden": 128, "probe_learning_rate": 1e-3, "probe_batch": 64}
    return {}


def predict_layers(
    kind: str, features: dict[int, Path], inputs, *, epochs: int, standardize: bool, seed: int,
    device, on_done: Callable[[int, dict], None],
) -> None:  # fmt: skip
    """Train a probe a layer and target; `on_done(layer, {target: {split: predictions}})`."""
    import numpy as np
    from tqdm import tqdm

    first = next(iter(inputs.rows.values()))["train"]
    if isinstance(first, np.ndarray):
        from common.probes import svm

        target = next(iter(inputs.rows))
        svm.probe_layers(features, inputs.rows[target], inputs.labels, kind=kind,
                         standardize=standardize, device=device, on_done=on_done)  # fmt: skip
        return
    from common.probes import bilstm_crf

    layers = list(features)
    n = LAYERS_AT_ONCE if device.torch_device.type == "cpu" else len(layers)
    for group in (layers[i : i + n] for i in range(0, len(layers), n)):
        arrays = [np.load(features[layer], mmap_mode="r") for layer in group]
        found = [{} for _ in group]
        for target, rows in inputs.rows.items():
            pairs = zip(rows["train"], inputs.labels[target], strict=True)
            sentences, labels = zip(*((r, y) for r, y in pairs if r[0] < r[1]), strict=True)
            with tqdm(total=epochs * len(sentences), desc=f"{target} labels, {len(group)} layers",
                      unit=" sentences") as progress:  # fmt: skip
                probes = bilstm_crf.fit(
                    arrays, list(sentences), list(labels), inputs.n_labels, kind=kind,
                    epochs=epochs, seeds=[seed] * len(group), batch_seed=seed, device=device,
                    progress=progress.update,
                )  # fmt: skip
            for split in (s for s in rows if s != "train"):
                filled = [row for row in rows[split] if row[0] < row[1]]
                for i, predicted in enumerate(probes.predict(arrays, filled)):
                    left = iter(predicted)
                    found[i].setdefault(target, {})[split] = [
                        next(left) if a < b else np.empty(0, np.int64) for a, b in rows[split]
                    ]
        for layer, of in zip(group, found, strict=True):
            on_done(layer, of)
