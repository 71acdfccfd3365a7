"""A probe's scores by layer: kept as each layer finishes, then tabled, compared, summed up.

Scores are `{target: {split: {metric: value}}}` of a layer; the targets are "task", the labels, and
the controls', labels that only a probe with much capacity of its own can learn.
"""

import csv
from pathlib import Path

from common.cli import UserError
from common.files import read_json, write_csv, write_json
from common.results import Run

TASK, CONTROL, SELECTIVITY, MAJORITY = "task", "control", "selectivity", "majority"


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
    """The scores of finished layers: those of a finished run, and of this one a file each.

    `by_layer`: what there is so far. The files go when the run is complete.
    """

    def __init__(self, folder: Path, targets: list[str] | None = None):
        """`targets`: those to take up; a killed run may have had others."""
        self.folder = folder
        self.by_layer: dict[int, dict] = {}
        self._read_table()
        for file in sorted((folder / "layers").glob("*.json")):
            for target, splits in (read_json(file) or {}).items():
                if targets is None or target in targets:
                    self.by_layer.setdefault(int(file.stem), {})[target] = splits

    def _read_table(self) -> None:
        """Take up layers.csv of a finished run."""
        path = self.folder / "layers.csv"
        if not (path.is_file() and (self.folder / "metrics.json").is_file()):
            return
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["probe"] != MAJORITY and row["target"] != SELECTIVITY:
                    layer = self.by_layer.setdefault(int(row["layer"]), {})
                    splits = layer.setdefault(row["target"], {})
                    text = row["value"]
                    value = float(text) if "." in text or "e" in text else int(text)
                    splits.setdefault(row["split"], {})[row["metric"]] = value

    def targets(self) -> list[str]:
        """The targets probed so far, in order."""
        return list(dict.fromkeys(t for found in self.by_layer.values() for t in found))

    def missing(self, layers: list[int], targets: list[str]) -> dict[tuple[str, ...], list[int]]:
        """What is still to be probed: `{targets: layers}`."""
        found: dict[tuple[str, ...], list[int]] = {}
        for layer in layers:
            lacking = tuple(t for t in targets if t not in self.by_layer.get(layer, {}))
            if lacking:
                found.setdefault(lacking, []).append(layer)
        return found

    def add(self, layer: int, scores: dict) -> None:
        """Keep a layer's scores, of all targets or of some."""
        own = self.folder / "layers" / f"{layer}.json"
        own.parent.mkdir(exist_ok=True)
        write_json(own, (read_json(own) or {}) | scores)
        self.by_layer.setdefault(layer, {}).update(scores)

    def write(self, run: Run, probe: str, majority: dict) -> None:
        """layers.csv: one measurement a row; `majority` (`{split: scores}`) stands at every layer.

        The selectivity of a score is the task's less the control's (Hewitt & Liang 2019).
        """
        rows = []

        def add(layer, probe, target, split, scores):
            where = {"layer": layer, "probe": probe, "target": target, "split": split}
            rows.extend(run.about | where | {"metric": m, "value": v} for m, v in scores.items())

        for layer in sorted(self.by_layer):
            scores = self.by_layer[layer] | {SELECTIVITY: self.selectivity(layer)}
            for target, splits in scores.items():
                for split, values in splits.items():
                    add(layer, probe, target, split, values)
            for split, values in majority.items():
                add(layer, MAJORITY, TASK, split, values)
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

    def summary(self, scores: list[str]) -> dict:
        """The best layer on dev (the first of equals; without a dev split the last), and the last.

        `scores`: names, the main one first. Flat: `<split>_<score>` at the best layer,
        `<split>_<score>_last_layer`, and `<split>_selectivity_<score>` of both where a control was
        run; `<split>_<target>_<score>` of every control.
        """
        layers = sorted(self.by_layer)
        last = best = layers[-1]
        if "dev" in self.by_layer[last][TASK]:
            best = max(layers, key=lambda n: (self.by_layer[n][TASK]["dev"][scores[0]], -n))
        found = {"best_layer": best, "last_layer": last, "layers": len(layers)}
        for layer, suffix in ((best, ""), (last, "_last_layer")):
            parts = {"": TASK} | {f"{t}_": t for t in self.targets() if t != TASK}
            by_prefix = {prefix: self.by_layer[layer].get(t, {}) for prefix, t in parts.items()}
            by_prefix[f"{SELECTIVITY}_"] = self.selectivity(layer)
            for prefix, splits in by_prefix.items():
                for split in ("dev", "test"):
                    values = splits.get(split, {})
                    there = {m: values[m] for m in scores if m in values}
                    found |= {f"{split}_{prefix}{m}{suffix}": v for m, v in there.items()}
        return found
