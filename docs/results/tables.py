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


def show(frame, digits: int = 3) -> None:
    """A Markdown table and a blank line; numbers with `digits` digits, "–" where there is none."""
    cells = frame.map(lambda x: "–" if x != x else f"{x:.{digits}f}" if isinstance(x, float) else x)
    print(cells.to_markdown(disable_numparse=True), end="\n\n")


def heads() -> None:
    """Entity F1 by the share of heads removed; the lowest and the highest random draw."""
    table = pd.read_csv(HERE / "ablation.csv").query("metric == 'entity_f1'")
    by_order = table.pivot_table(index="order", columns="removed", values="value")
    rows = by_order.loc[list(ORDERS)].rename(index=ORDERS)
    random = table[table["order"] == "random"].groupby("removed")["value"]
    rows.loc["random, lowest draw"], rows.loc["random, highest draw"] = random.min(), random.max()
    show(rows.rename_axis("heads removed (%)"))


def layers() -> None:
    """Entity F1 by the layers that were taken back."""
    table = pd.read_csv(HERE / "layers-taken-back.csv").query("metric == 'entity_f1'")
    rows = table.pivot(index="order", columns="removed", values="value")
    show(rows.loc[["from_below", "from_above", "single"]].rename_axis("layers taken back"))


def change() -> None:
    """Cosine of the attention maps and CKA of the states, by layer."""
    rows = {}
    for name, end in (("10 %", ""), ("untrained encoder", "-untrained")):
        maps = pd.read_csv(HERE / f"heads{end}.csv").query("metric == 'cosine'")
        rows[f"mean cosine of the maps, {name}"] = maps.groupby("layer")["value"].mean()
        states = pd.read_csv(HERE / f"cka{end}.csv").query("metric == 'cka'")
        rows[f"CKA of the states, {name}"] = states.set_index("layer")["value"]
    show(pd.DataFrame(rows).T.sort_index(axis=1).rename_axis("layer"))


def curves() -> None:
    """Areas, where half of the gain is lost, p, and how change and importance are related."""
    found = json.loads((HERE / "ablation.json").read_text())
    rows = {
        title: {"mean F1 of the curve": found[f"area_{order}"],
                "half of the gain lost at": f"{found[f'half_lost_{order}']} %"}
        for order, title in ORDERS.items()
    }  # fmt: skip
    show(pd.DataFrame(rows).T.rename_axis("order"))
    names = ("p_most_changed", "spearman_over_heads", "spearman_within_layers")
    for name in names:
        ends = [found.get(f"{name}_{end}") for end in ("low", "high")]
        interval = "" if None in ends else " [{:.2f}, {:.2f}]".format(*ends)
        print(f"- `{name}`: {found[name]:.2f}{interval}")


if __name__ == "__main__":
    heads()
    curves()
    print()
    layers()
    change()
