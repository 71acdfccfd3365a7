"""Fine-tune a model on NER with a percentage of the training data, and score it.

    python fine-tuning.py --training_size 30 --model_name biobert
    python fine-tuning.py --demo --training_size 30 --model_name biobert

Writes results/<dataset>/<model>/<size>/seed-<n>/fine-tuning/: config.json, checkpoint/,
history.csv, learning_curve.png, predictions.jsonl, metrics.json. Killed, the same command goes on.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli, files, models, results
from NER import task as data

DEMO = {"learning_rate": 1e-3, "num_train_epochs": 5}  # what miniatures need


def parse_args(argv):
    parser = cli.Parser(__doc__)
    cli.add_common_arguments(parser)
    cli.add_training_arguments(parser, DEMO)
    data.add_arguments(parser)
    return cli.parse(parser, argv, Path(__file__).parent)


@cli.command
def main(argv=None):
    args = parse_args(argv)
    run = results.Run(args, data, models.folder_name(args), args.training_size, "fine-tuning")
    if metrics := run.finished():
        return report(run, metrics, "finished earlier; --overwrite repeats it")

    from common import figures, subsample, training
    from common.device import choose_device, peak_memory, set_seed

    device = choose_device(args.device, args.precision, torchrun=True)
    dataset = data.load(args)
    strata = [data.stratum(example) for example in dataset.splits["train"]]
    indices = subsample.subset(strata, args.training_size, args.seed)
    examples = dataset.splits | {"train": [dataset.splits["train"][i] for i in indices]}

    set_seed(args.seed)
    model, tokenizer = models.load_task_model(args, data.MODEL_TASK, dataset.labels)
    encoded, counts = {}, {}
    for split in examples:
        limit = min(args.max_length, model.config.max_position_embeddings)
        encoded[split], counts[split] = data.encode(dataset, examples[split], tokenizer, limit)

    def predict(split):
        found = training.predict(model, encoded[split], args.batch_size, device, split)
        return data.decode(dataset, encoded[split], found)

    def dev_scores():
        return data.score(examples["dev"], predict("dev")) if "dev" in examples else {}

    subset = subsample.describe(indices, strata)
    made_of = {"sha256": results.fingerprint(dataset.splits), "subset": subset, "counts": counts,
               "labels": dataset.labels, "precision": device.precision}  # fmt: skip
    with run.open(made_of, max_length=limit, machine=device.describe()):
        metrics = {"trained": bool(indices), "train_examples": len(indices)}
        if indices:
            history, totals = training.fit(
                model, encoded["train"], args, device, dev_scores, data.MAIN_METRIC, run.folder
            )
            metrics |= totals
        predicted = {split: predict(split) for split in ("dev", "test") if split in examples}
        if device.rank:
            return  # of torchrun's processes the first one writes
        if indices:
            saved = files.save_model(run.folder / "checkpoint", model, tokenizer)
            metrics["checkpoint_sha256"] = saved
            files.write_history(run.folder / "history.csv", run.about, history)
            figures.learning_curve(run.folder, data.SUMMARY)
        for split, found in predicted.items():
            scores = data.score(examples[split], found) | counts[split]
            guess = data.majority(examples["train"] or dataset.splits["train"], examples[split])
            majority = data.score(examples[split], guess)
            scores |= {f"majority_{name}": majority[name] for name in data.SUMMARY}
            metrics |= results.prefixed(split, scores)
        rows = data.predictions(examples["test"], predicted["test"])
        files.write_jsonl(run.folder / "predictions.jsonl", rows)
        metrics |= results.prefixed("train", counts["train"]) | peak_memory(device)
        metrics["parameters"] = model.num_parameters()
        metrics = run.finish(metrics)
    report(run, metrics, "done")


def report(run, metrics, state):
    """The final summary: what was trained on what, its scores, where it lies, what comes next."""
    examples = f"{metrics['train_examples']} training examples"
    print(f"\n{data.TASK} fine-tuning, {run.title()}, {examples}: {state}")
    if not metrics["trained"]:
        print("The head is untrained (size 0): these are the scores of chance, and no checkpoint.")
    print(results.score_table(metrics, data.SUMMARY))
    print(f"results: {run.folder}\nnext:    {run.command('probing')}")


if __name__ == "__main__":
    sys.exit(main())
