"""The report's tables: the numbers, and the same table as Markdown, CSV and LaTeX (booktabs)."""

import re
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from common.cli import TRAINING_SIZES, UNTRAINED
from common.report import statistics
from common.report.cells import Results, Score

MISSING = "–"
TRAINED = tuple(size for size in TRAINING_SIZES if size)
_PARTS = ("low", "high", "std", "n")  # of a Score, columns of their own in CSV
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          "–": "--", "±": r"$\pm$"} | {c: f"\\{c}" for c in "&%$#_{}"}  # fmt: skip


class Table(NamedTuple):
    """Rows of text, numbers, Scores and None (missing), under a header; `name` is its file's."""

    name: str
    caption: str
    header: list[str]
    rows: list[list]

    def markdown(self) -> str:
        """The table in Markdown; scores with three digits."""
        lines = [
            self.header,
            ["---"] * len(self.header),
            *([_text(c) for c in r] for r in self.rows),
        ]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def latex(self) -> str:
        """The table as a LaTeX float that needs booktabs."""
        lines = [
            " & ".join(_escape(_text(c)) for c in r) + r" \\" for r in [self.header, *self.rows]
        ]
        return "\n".join(
            [r"% needs \usepackage{booktabs}", r"\begin{table*}", r"\centering\footnotesize",
             rf"\caption{{{_escape(self.caption)}}}",
             rf"\label{{tab:{self.name.replace('_', '-')}}}",
             rf"\begin{{tabular}}{{{'l' * len(self.header)}}}", r"\toprule", lines[0], r"\midrule",
             *lines[1:], r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""]
        )  # fmt: skip

    def records(self) -> list[dict]:
        """A dict a row for CSV: all digits; a Score in several columns; nothing where missing."""
        found = [{} for _ in self.rows]
        for name, cells in zip(self.header, zip(*self.rows, strict=True), strict=True):
            for record, cell in zip(found, cells, strict=True):
                record[name] = cell.value if isinstance(cell, Score) else cell
            for part in _PARTS:
                values = [getattr(cell, part, None) for cell in cells]
                if any(value is not None for value in values):
                    for record, value in zip(found, values, strict=True):
                        record[f"{name} {part}"] = value
        return found


def _text(cell) -> str:
    if cell is None:
        return MISSING
    if isinstance(cell, float):
        return f"{cell:.4f}"
    if not isinstance(cell, Score):
        return str(cell)
    text = f"{cell.value:.3f}"
    if cell.std is not None:
        text += f" ± {cell.std:.3f} (n={cell.n})"
    return text if cell.low is None else f"{text} [{cell.low:.3f}, {cell.high:.3f}]"


def _escape(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w-])-(?=[\d ])", "$-$", escaped)


def metric_name(metric: str) -> str:
    """How a score is called in tables and figures."""
    return metric.replace("_", " ").replace("f1", "F1").replace("without o", "without O")


def size_name(size) -> str:
    """How a model's state is called: what its encoder was trained on."""
    return {UNTRAINED: "untrained", 0: "0 % (pre-trained)"}.get(size, f"{size} %")


def downstream(results: Results) -> Iterator[Table]:
    """Test scores by model and size, a table a metric, the main one first."""
    for metric in results.metrics:
        rows = []
        for model in results.models:
            scores = [
                results.score("fine-tuning", model, size, f"test_{metric}")
                for size in TRAINING_SIZES
            ]
            majorities = (
                results.score("fine-tuning", model, size, f"test_majority_{metric}")
                for size in reversed(TRAINING_SIZES)
            )
            majority = next((score.value for score in majorities if score), None)
            if metric == results.main or any(scores):
                rows.append([model, *scores, None if majority is None else Score(majority)])
        header = ["model", "0 % (untrained head)", *(f"{size} %" for size in TRAINED)]
        header.append("majority class")
        caption = f"{results.task} on {results.name}: test {metric_name(metric)} after fine-tuning"
        yield Table(f"scores_{metric}", caption + " on a share of the training data.", header, rows)


def comparisons(results: Results) -> Iterator[Table]:
    """Paired bootstrap tests on the main score: of models at a size, and of sizes of a model.

    Size 0 is left out: its head is untrained. Holm's correction is over the tests of a table.
    """
    pairs = {
        "models": [((a, size), (b, size)) for size in TRAINED
                   for a, b in combinations(results.models, 2)],
        "sizes": [((model, b), (model, a)) for model in results.models
                  for a, b in combinations(TRAINED, 2)],
    }  # fmt: skip
    for name, chosen in pairs.items():
        rows, tests = [], []
        for a, b in chosen:
            systems = [results.resampled(*cell, results.main) for cell in (a, b)]
            labels = [f"{model}, {size} %" for model, size in (a, b)]
            if None in systems:
                rows.append([*labels, None, None, None])
                continue
            difference, low, high, p = statistics.paired_difference(*systems)
            tests.append((len(rows), p))
            rows.append([*labels, Score(difference, low, high), p, None])
        adjusted = statistics.holm([p for _, p in tests])
        for (i, _), value in zip(tests, adjusted, strict=True):
            rows[i][-1] = value
        caption = (
            f"{results.task} on {results.name}: differences in test {metric_name(results.main)} "
            f"between {name}, paired bootstrap, Holm's correction over {len(tests)} tests."
        )
        if tests:
            yield Table(
                f"differences_{name}", caption, ["a", "b", "a less b", "p", "p (Holm)"], rows
            )


def probing(results: Results) -> Iterator[Table]:
    """Best and last layer of each encoder, with controls; then, for each model, all layers."""
    main, sizes = metric_name(results.main), (UNTRAINED, *TRAINING_SIZES)
    keys = {f"best layer: {main}": "", "last layer": "_last_layer"}
    rows = []
    for model in results.models:
        for size in sizes:
            best = {run.metrics["best_layer"] for run in results.cell("probing", model, size)}
            cells = [
                results.score("probing", model, size, f"test_{kind}{results.main}{suffix}")
                for kind in ("", "selectivity_")
                for suffix in keys.values()
            ]
            majority = results.score("probing", model, size, f"test_majority_{results.main}")
            best = ", ".join(map(str, sorted(best))) or None
            rows.append([model, size_name(size), best, *cells, majority])
    header = ["model", "encoder", "best layer (dev)", *keys, "selectivity, best layer",
              "selectivity, last layer", "majority class"]  # fmt: skip
    caption = f"{results.task} on {results.name}: probing, test {main}."
    yield Table("probing", caption, header, rows)
    for model in results.models:
        for curve, name in (("probe", f"test {main}"), ("selectivity", f"selectivity ({main})")):
            curves = {size_name(size): results.curve(model, size, curve) for size in sizes}
            caption = f"{results.task} on {results.name}: probing {model}, {name} by layer."
            file = f"probing_{model}" if curve == "probe" else f"selectivity_{model}"
            yield from _by_layer(file, caption, curves)


def attention(results: Results) -> Iterator[Table]:
    """Similarity to the pre-trained model's attention, with the floor; then all layers."""
    rows = []
    for model in results.models:
        for size in TRAINED:
            cosine, floor = (
                results.score("attention", model, size, key) for key in ("cosine", "floor_cosine")
            )
            change = cosine and cosine._replace(value=1 - cosine.value)
            layers = {n: score.value for n, score in attention_layers(results, model, size).items()}
            most = min(layers, key=layers.get) if layers else None
            rows.append([model, f"{size} %", cosine, change, floor, most])
    header = ["model", "size", "mean cosine", "change (1 - cosine)", "floor (untrained)",
              "most changed layer"]  # fmt: skip
    caption = f"{results.task} on {results.name}: attention, fine-tuned against pre-trained."
    yield Table("attention", caption, header, rows)
    for model in results.models:
        curves = {f"{size} %": attention_layers(results, model, size) for size in TRAINED}
        curves["floor (untrained)"] = attention_floor(results, model)
        caption = (
            f"{results.task} on {results.name}: attention of {model}, mean cosine to the "
            "pre-trained model by layer."
        )
        yield from _by_layer(f"attention_{model}", caption, curves)


def attention_layers(
    results: Results, model: str, size: int, prefix: str = "cosine_layer_"
) -> dict[int, Score]:
    """The mean cosine over heads (and runs) of each layer."""
    keys = {k for run in results.cell("attention", model, size) for k in run.metrics}
    layers = sorted(int(k.removeprefix(prefix)) for k in keys if k.startswith(prefix))
    return {n: results.score("attention", model, size, f"{prefix}{n}") for n in layers}


def attention_floor(results: Results, model: str) -> dict[int, Score]:
    """The same against an untrained encoder, from the least size that has it: it knows no size."""
    floors = (attention_layers(results, model, s, "floor_cosine_layer_") for s in TRAINING_SIZES)
    return next((floor for floor in floors if floor), {})


def _by_layer(name: str, caption: str, curves: dict[str, dict[int, Score]]) -> Iterator[Table]:
    """A row a layer, a column a curve; no table where nothing was measured."""
    layers = sorted({layer for curve in curves.values() for layer in curve})
    if layers:
        rows = [[layer, *(curve.get(layer) for curve in curves.values())] for layer in layers]
        yield Table(name, caption, ["layer", *curves], rows)


def link_points(results: Results) -> dict[str, list[tuple[str, int, float, float]]]:
    """(model, size, x, downstream score) of the cells that have both, for each measure x."""
    main, points = results.main, {}
    for name, step, key in (
        (f"probe, best layer: {metric_name(main)}", "probing", f"test_{main}"),
        (f"probe, last layer: {metric_name(main)}", "probing", f"test_{main}_last_layer"),
        ("selectivity, best layer", "probing", f"test_selectivity_{main}"),
        ("attention change (1 - mean cosine)", "attention", "cosine"),
    ):
        points[name] = []
        for model in results.models:
            for size in TRAINING_SIZES:
                x = results.score(step, model, size, key)
                y = results.score("fine-tuning", model, size, f"test_{main}")
                if x and y:
                    x = 1 - x.value if key == "cosine" else x.value
                    points[name].append((model, size, x, y.value))
    return points


def link(results: Results) -> Table:
    """Correlation of the downstream score with each measure; without size 0, and with it."""
    rows = []
    for name, points in link_points(results).items():
        for sizes in (TRAINED, TRAINING_SIZES):
            chosen = [(x, y) for _, size, x, y in points if size in sizes]
            row = [name, f"{sizes[0]} to {sizes[-1]} %", len(chosen)]
            for kind in ("spearman", "pearson"):
                found = statistics.correlation([x for x, _ in chosen], [y for _, y in chosen], kind)
                row.append(Score(*found) if found else None)
            rows.append(row)
    caption = (
        f"{results.task} on {results.name}: correlation, over models and sizes, of test "
        f"{metric_name(results.main)} after fine-tuning with what is measured inside."
    )
    return Table("link", caption, ["measure", "sizes", "n", "Spearman", "Pearson"], rows)
