"""Made-up results, in the folders and files that the steps write."""

import random

from common import files
from common import task as tasks
from NLI import task as nli

LAYERS, HEADS = 4, 3
SKILL = {"bert": 0.45, "biobert": 0.6, "gpt2": 0.3, "biogpt": 0.5}
MAIN = {"NER": "entity_f1", "NLI": "accuracy"}


def write(root, task, dataset, model, size, seed, name, metrics, inputs=None, **settings):
    """A result with config.json and metrics.json: (its folder, the first columns of its CSV)."""
    folder = root / dataset / model / str(size) / f"seed-{seed}" / name
    folder.mkdir(parents=True)
    about = {"task": task, "dataset": dataset, "model": model, "training_size": size, "seed": seed}
    step, _, variant = name.removesuffix(".partial").replace("fine-", "").partition("-")
    if name.startswith("fine-tuning"):
        step = "fine-tuning"
    more = {"step": step, "variant": variant, "environment": {}, "settings": settings}
    inputs = {"data": "a", "model": f"hash of {model}", "checkpoint": None} | (inputs or {})
    files.write_json(
        folder / "config.json", about | more | {"inputs": inputs, "command": "python ..."}
    )
    files.write_json(folder / "metrics.json", {"seconds": 1.0} | metrics)
    return folder, about


def rows(task, skill, seed, n=60):
    gold_of, choose = random.Random(0), random.Random(f"{skill} {seed}")
    made = []
    for i in range(n):
        if task == "NLI":
            gold, other = gold_of.choice(nli.LABELS), choose.choice(nli.LABELS)
            predicted = gold if choose.random() < skill else other
        else:
            kinds = ["O"], ["B-DNA", "B-protein"], ["O"], ["O", "B-RNA"]
            gold = [gold_of.choice(kind) for kind in kinds]
            predicted = [tag if choose.random() < skill else "O" for tag in gold]
        made.append({"id": f"test-{i}", "gold": gold, "predicted": predicted})
    return made


def fine_tuned(root, task, dataset, model, size, seed=42, n=60, result="fine-tuning", **more):
    skill = 0.1 + SKILL.get(model, 0.4) * (size / 100) ** 0.3 if size else 0.05
    table = rows(task, skill, seed, n)
    scores = tasks.evaluate(tasks.load(task), table)
    metrics = {f"test_{name}": value for name, value in scores.items()}
    metrics |= {f"dev_{name}": value / 2 for name, value in scores.items()}
    for name in ("macro_f1", MAIN[task]):
        metrics[f"test_majority_{name}"] = 0.3 if task == "NLI" else 0.0
    folder, _ = write(root, task, dataset, model, size, seed, result, metrics, **more)
    files.write_jsonl(folder / "predictions.jsonl", table)
    return folder


def by_layer(size, seed, layer, target, score):
    """A probe's score."""
    if target == "majority":
        return 0.1
    if target == "control":
        return 0.15
    skill = 0.2 if size == "random" else 0.3 + size / 1000
    return skill + 0.07 * layer - 0.02 * layer**2 + seed / 1e4


def probed(
    root, task, dataset, model, size, seed=42, name="probing", control=True, value=by_layer, **more
):
    """The result of a probe; with `control` also that of its control labels."""
    if control:
        settings = more | {"labels": "control"}
        of_control = f"{name}-control"
        probed(root, task, dataset, model, size, seed, of_control, False, value, **settings)
    main, target = MAIN[task], more.get("labels", "task")
    scores = [score.name for score in tasks.load(task).SCORES if score.by_layer]
    found = [value(size, seed, layer, target, main) for layer in range(LAYERS + 1)]
    metrics = {"best_layer": found.index(max(found)), "last_layer": LAYERS, "layers": LAYERS + 1,
               f"test_{main}": max(found), f"test_{main}_last_layer": found[LAYERS],
               f"test_majority_{main}": 0.1}  # fmt: skip
    folder, about = write(root, task, dataset, model, size, seed, name, metrics, **more)
    table = []
    for layer in range(LAYERS + 1):
        for probe, split, score in (
            (p, s, m) for p in ("svc", "majority") for s in ("dev", "test") for m in scores
        ):
            of = target if probe == "svc" else "majority"
            one = value(size, seed, layer, of, score) / (2 if split == "dev" else 1)
            where = {"layer": layer, "probe": probe, "target": target, "split": split}
            table.append(about | where | {"metric": score, "value": one})
    files.write_csv(folder / "layers.csv", table)
    return folder


def by_head(size, layer, head, metric):
    return 0.4 if size == "random" else 1 - size / 1000 * layer


def compared(
    root, task, dataset, model, size, seed=42, name="attention", metrics=("cosine",), value=by_head,
    **more,
):  # fmt: skip
    folder, about = write(root, task, dataset, model, size, seed, name, {}, **more)
    table = [
        about | {"layer": layer, "head": head, "metric": metric + end,
                 "value": 0.01 if end else value(size, layer, head, metric)}
        for metric in metrics for end in ("", "_std")
        for layer in range(1, LAYERS + 1) for head in range(1, HEADS + 1)
    ]  # fmt: skip
    files.write_csv(folder / "heads.csv", table)
    states = [
        about | {"layer": layer, "metric": metric, "value": by_head(size, layer, 1, "cka")}
        for metric in ("cka", "cka_standardized") for layer in range(LAYERS + 1)
    ]  # fmt: skip
    files.write_csv(folder / "cka.csv", states)
    return folder


def ablated(root, task, dataset, model, size, seed=42, name="ablation", draws=2):
    """Of `ablation`, or `ablation-layers`: the score falls by a share for each 100 % or layer."""
    main, heads = MAIN[task], not name.endswith("layers")
    falls = {"most_changed": 0.4, "least_changed": 0.1, "importance": 0.5, "random": 0.2}
    falls, points = (falls, (0, 50, 100)) if heads else ({"from_below": 0.1}, (0, 1, 2))
    metrics = {f"test_{main}": 0.8, f"test_majority_{main}": 0.3}
    metrics |= {f"area_{order}": 0.8 - fall / 2 for order, fall in falls.items()}
    metrics |= dict.fromkeys(f"half_lost_{order}" for order in falls)
    if heads:
        metrics |= {"half_lost_importance": 100}
        metrics["p_most_changed" if size else "p_importance"] = 0.25
        for key in ("difference_50", "spearman_over_heads", "spearman_within_layers"):
            metrics |= {key: -0.1, f"{key}_low": -0.3, f"{key}_high": 0.2}
    folder, about = write(root, task, dataset, model, size, seed, name, metrics)
    table = [
        about | {"order": order, "draw": draw or None, "removed": removed, "metric": main,
                 "value": 0.8 - fall * removed / points[-1] - draw * 0.01}
        for order, fall in falls.items() for removed in points
        for draw in (range(1, draws + 1) if order == "random" else (0,))
    ]  # fmt: skip
    files.write_csv(folder / "ablation.csv", table)
    if heads:
        places = [(n, m) for n in range(1, LAYERS + 1) for m in range(1, HEADS + 1)]
        worth = [{"layer": n, "head": m, "value": 0.1 * n + 0.01 * m} for n, m in places]
        files.write_csv(folder / "importance.csv", [about | row for row in worth])
    return folder


def whole_study(root, task, dataset="demo", models=tuple(SKILL), sizes=(0, 10, 30, 50, 100)):
    for model in models:
        probed(root, task, dataset, model, "random")
        compared(root, task, dataset, model, "random")
        for size in sizes:
            fine_tuned(root, task, dataset, model, size)
            probed(root, task, dataset, model, size)
            if size:
                compared(root, task, dataset, model, size)
