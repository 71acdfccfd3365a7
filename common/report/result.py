"""One result: what its files say, and whether they are whole."""

from pathlib import Path

from common import results
from common.files import read_csv, read_json
from common.flags import LORA
from common.results import TUNING


def main_score(task, measured, of_probes: bool = False):
    """The score that comes first, of those that are `measured` (keys of metrics.json) on test; of
    probes rather one that only they have."""
    scores = sorted(task.SCORES, key=lambda score: of_probes and not score.of_probes)
    return next((s for s in scores if f"test_{s.name}" in measured), task.SCORES[0])


class Result:
    """What the files of a result say; its folder may be unfinished (`.partial`)."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config, self.metrics = (read_json(folder / f"{n}.json") for n in ("config", "metrics"))
        config = self.config if isinstance(self.config, dict) else {}
        about = map(config.get, (*results.ABOUT, "step", "variant"))
        self.cell = results.Cell(folder.parents[4], *about)
        self.size, self.seed, self.step = self.cell.size, self.cell.seed, self.cell.step
        parts = [self.step, *(self.cell.variant or "").split("-")]
        self.tuned = LORA if LORA in parts else ""
        self.name = "-".join(part for part in parts if part not in (None, "", LORA))
        self.model = f"{self.cell.model}{'+LoRA' * bool(self.tuned)}"  # a model of its own
        self.title = f"{self.model} on {self.cell.dataset}, seed {self.seed}"  # of its figures
        # What predictions.jsonl says: (metrics' key, counts, score) each; an id an example.
        self.systems, self.groups = [], []
        self.resampled = {}  # by metrics' key: see `statistics.resample`

    def check(self) -> "Result":
        """Raises ValueError, with the reason, if the result is damaged, misplaced or stale."""
        if self.folder.name.endswith(results.PARTIAL):
            raise ValueError("not finished")
        if name := results.damaged(self.config, self.metrics):
            raise ValueError(f"{name} is missing or damaged")
        if self.cell.folder != self.folder:
            raise ValueError(f"config.json is of {self.cell.title()}")
        tuned = "-".join(filter(None, (TUNING, self.tuned)))
        there = read_json(self.folder.parent / tuned / "metrics.json")
        sha256 = there.get("checkpoint_sha256") if isinstance(there, dict) else None
        if sha256 and self.config["inputs"].get("checkpoint") not in (None, sha256):
            raise ValueError("made from another fine-tuned model than lies there now")
        for file in self.folder.glob("*.csv"):
            self.table(file.name)
        return self

    def remedy(self) -> str:
        """How to make again what `check` refuses; "" if that is not the remedy, or nothing says."""
        here = self.folder == self.cell.folder and "command" in self.config
        return results.again(self.folder, self.config) if here else ""

    def unlike(self, other: "Result") -> list[str]:
        """Why two results of a step cannot stand in one table, in words; empty if they can."""
        configs = [self.config, other.config]
        # Models may be trained as suits them; what is measured inside is measured alike in all.
        if self.step == TUNING and self.model != other.model:
            configs = [config | {"settings": {}} for config in configs]
        same = not (self.groups and other.groups) or self.groups == other.groups
        return results.differences(*configs) + ([] if same else ["other test examples"])

    def table(self, file: str):
        """A CSV of the result, a DataFrame. Raises ValueError if it is missing or damaged."""
        try:
            table = read_csv(self.folder / file)
            if table[[n for n in table.columns[:-1] if n != "draw"]].isna().any(axis=None):
                raise ValueError  # a line that was cut; but a value may be missing
            places = dict.fromkeys({"layer", "head", "removed"} & {*table}, int)
            return table.astype(places | {table.columns[-1]: float})
        except (OSError, ValueError, IndexError):
            raise ValueError(f"{file} is missing or damaged") from None
