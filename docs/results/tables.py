"""Print the tables of docs/results.md from the report's CSV files beside this one.

python docs/results/tables.py
"""

from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
MODEL = "MiniLM"
TABLES = (
    "NER/scores_entity_f1",
    "NLI/scores_accuracy",
    f"NER/probing_{MODEL}",
    f"NER/selectivity_{MODEL}",
    f"NLI/probing_{MODEL}",
    f"NLI/selectivity_{MODEL}",
    f"NER/attention_{MODEL}",
    f"NER/cka_{MODEL}",
    f"NLI/attention_{MODEL}",
    f"NLI/cka_{MODEL}",
    "NER/ablation",
    "NER/ablation_differences",
    "NLI/ablation",
    "NLI/ablation_differences",
    "NER/ablation_correlation",
    "NLI/ablation_correlation",
    "NER/ablation-layers",
    "NLI/ablation-layers",
    "NER/link",
    "NLI/link",
)


def digits(value: float) -> str:
    """Three of them; never "-0.000"."""
    return f"{round(value, 3) + 0.0:.3f}"


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Its cells as text: a number, its deviation over seeds, its interval: columns of its own."""

    def cell(row, name: str) -> str:
        value, ends = row[name], [row.get(f"{name} {end}") for end in ("low", "high")]
        if value != value:
            return "–"
        text = digits(value) if isinstance(value, float) else str(value)
        if (deviation := row.get(f"{name} std")) is not None and deviation == deviation:
            text += f" ± {digits(deviation)}"
        known = all(isinstance(end, float) and end == end for end in ends)
        return f"{text} [{', '.join(map(digits, ends))}]" if known else text

    parts = tuple(f" {part}" for part in ("low", "high", "std", "n"))
    names = [name for name in frame if name != "model" and not name.endswith(parts)]
    rows = [{name: cell(row, name) for name in names} for row in frame.to_dict("records")]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    for name in TABLES:
        table = shown(pd.read_csv(HERE / f"{name}.csv"))
        text = table.to_markdown(index=False, disable_numparse=True)
        print(f"`docs/results/{name}.csv`\n\n{text}\n")
