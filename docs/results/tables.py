"""Print the tables of docs/results.md from the files beside this one.

python docs/results/tables.py
"""

import json
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
ORDERS = {
    "most_changed": "most changed first",
    "importance": "most important first",
    "random": "random, mean of 20",
    "least_changed": "least changed first",
}


def table(file: str, index: str, columns: str, metric: str = "entity_f1"):
    """A metric of a CSV by two of its columns: the mean of what they have in common."""
    rows = pd.read_csv(HERE / f"{file}.csv").query("metric == @metric")
    return rows.pivot_table("value", index, columns)


def show(frame, corner: str) -> None:
    """A Markdown table and a blank line; numbers with three digits, "–" where there is none."""
    cells = frame.map(lambda x: "–" if x != x else f"{x:.3f}" if isinstance(x, float) else x)
    print(cells.rename_axis(corner).to_markdown(disable_numparse=True), end="\n\n")


def main() -> None:
    """In the page's order."""
    heads = table("ablation", "order", "removed").loc[[*ORDERS]].rename(index=ORDERS)
    draws = table("ablation", "draw", "removed")  # of random heads alone
    heads.loc["random, lowest draw"], heads.loc["random, highest draw"] = draws.min(), draws.max()
    show(heads, "heads removed (%)")

    made = json.loads((HERE / "ablation.json").read_text())
    areas = {ORDERS[order]: made[f"area_{order}"] for order in ORDERS}
    halves = {ORDERS[order]: f"{made[f'half_lost_{order}']} %" for order in ORDERS}
    show(pd.DataFrame({"mean F1 of the curve": areas, "half of the gain lost at": halves}), "order")
    print(f"- `p_most_changed`: {made['p_most_changed']:.2f}")
    for name in ("spearman_over_heads", "spearman_within_layers"):
        value, low, high = (made[f"{name}{end}"] for end in ("", "_low", "_high"))
        print(f"- `{name}`: {value:.2f} [{low:.2f}, {high:.2f}]")
    print()

    layers = table("layers-taken-back", "order", "removed")
    show(layers.loc[["from_below", "from_above", "single"]], "layers taken back")

    changes = {}
    for encoder, end in (("10 %", ""), ("untrained encoder", "-untrained")):
        maps = table(f"heads{end}", "layer", "metric", "cosine")
        states = table(f"cka{end}", "layer", "metric", "cka")
        changes[f"mean cosine of the maps, {encoder}"] = maps["cosine"]
        changes[f"CKA of the states, {encoder}"] = states["cka"]
    show(pd.DataFrame(changes).T, "layer")


if __name__ == "__main__":
    main()
