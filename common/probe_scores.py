"""A probe's scores by layer: kept as each layer finishes, then tabled, compared, summed up.

Scores are `{target: {split: {metric: value}}}` of a layer; the targets are "task", the labels, and
"control", labels that only a probe with much capacity of its own can learn.
"""

import shutil
from pathlib import Path

from common.cli import UserError
from common.files import read_json, write_csv, write_json
from common.results import Run

TASK, CONTROL, SELECTIVITY = "task", "control", "selectivity"


def choose(text: str, n_layers: int) -> list[int]:
    """The layers that `--layers` names (all, last, or numbers), of 0 (embeddings) .. `n_layers`.

    Raises UserError for a layer that the model does not have.
    """
    if text == "all":
        return list(range(n_layers + 1))
    if text == "last":
        return [n_layers]
    layers = sorted({int(number) for number in text.split(",")})
    if layers[-1] > n_layers:
        raise UserError(f"--layers {text}: the model has layers 0 (embeddings) to {n_layers}.")
    return layers


class Scores:
    """The scores of finished layers, a file each in the run folder until the run is complete."""

    def __init__(self, folder: Path, layers: list[int]):
        self.folder, self.layers = folder / "layers", layers
        self.folder.mkdir(exist_ok=True)
        found = {layer: read_json(self._file(layer)) for layer in layers}
        self.by_layer: dict[int, dict] = {k: v for k, v in found.items() if v is not None}

    def _file(self, layer: int) -> Path:
        return self.folder / f"{layer}.json"

    def missing(self) -> list[int]:
        """The layers that are still to be probed."""
        return [layer for layer in self.layers if layer not in self.by_layer]

    def add(self, layer: int, scores: dict) -> None:
        """Keep a layer's scores."""
        write_json(self._file(layer), scores)
        self.by_layer[layer] = scores

    def write(self, run: Run, probe: str, majority: dict) -> None:
        """layers.csv: one measurement a row; `majority` (`{split: scores}`) stands at every layer.

        The selectivity of a score is the task's less the control's (Hewitt & Liang 2019).
        """
        rows = []

        def add(layer, probe, target, split, scores):
            where = {"layer": layer, "probe": probe, "target": target, "split": split}
            rows.extend(run.about | where | {"metric": m, "value": v} for m, v in scores.items())

        for layer in self.layers:
            scores = self.by_layer[layer] | {SELECTIVITY: self.selectivity(layer)}
            for target, splits in scores.items():
                for split, values in splits.items():
                    add(layer, probe, target, split, values)
            for split, values in majority.items():
                add(layer, "majority", TASK, split, values)
        write_csv(run.folder / "layers.csv", rows)

    def selectivity(self, layer: int) -> dict:
        """`{split: {metric: task less control}}` of the scores that both have."""
        task, control = (self.by_layer[layer].get(target, {}) for target in (TASK, CONTROL))
        return {
            split: {
                m: task[split][m] - v
                for m, v in values.items()
                if m in task[split] and "confusion" not in m  # counts, no scores
            }
            for split, values in control.items()
        }

    def summary(self, main_metric: str, metrics: tuple[str, ...]) -> dict:
        """The best layer on dev (the first of equals; without a dev split the last), and the last.

        Flat: `<split>_<metric>` at the best layer, `<split>_<metric>_last_layer`, and
        `<split>_selectivity_<metric>` of both where a control was run.
        """
        last = self.layers[-1]
        best = last
        if "dev" in self.by_layer[last][TASK]:
            best = max(self.layers, key=lambda n: (self.by_layer[n][TASK]["dev"][main_metric], -n))
        found = {"best_layer": best, "last_layer": last, "layers": len(self.layers)}
        for layer, suffix in ((best, ""), (last, "_last_layer")):
            for split in ("dev", "test"):
                scores = self.by_layer[layer][TASK].get(split, {})
                found |= {f"{split}_{m}{suffix}": scores[m] for m in metrics if m in scores}
                over = self.selectivity(layer).get(split, {})
                found |= {f"{split}_selectivity_{m}{suffix}": over[m] for m in metrics if m in over}
        return found


def finish(run: Run, scores: Scores, data, examples: dict, totals: dict, device) -> dict:
    """Write layers.csv, the figures and metrics.json of a run whose layers are all probed."""
    from common import figures
    from common.device import peak_memory

    majority = {
        split: data.score(examples[split], data.majority(examples["train"], examples[split]))
        for split in examples
    }
    scores.write(run, run.args.probe, majority)
    model_folder, seed = run.folder.parents[2], run.args.seed
    random_init = model_folder / "random" / f"seed-{seed}" / "probing" / "layers.csv"
    figures.probing_layers(run.folder, data.PROBE_METRICS, random_init)
    metrics = scores.summary(data.MAIN_METRIC, data.SUMMARY) | totals
    for split in (split for split in ("dev", "test") if split in majority):
        metrics |= {f"{split}_majority_{m}": majority[split][m] for m in data.SUMMARY}
    metrics["train_examples"] = len(examples["train"])
    figures.probing_sizes(model_folder, run.folder, data.PROBE_METRICS)
    if not run.args.keep_features:
        shutil.rmtree(run.folder / "features", ignore_errors=True)
    return run.finish(metrics | peak_memory(device))
