"""Probe what each layer of an encoder tells about NLI: `[u; v]` of the two sentences and an SVC.

    python probing.py --training_size 30 --model_name biobert
    python probing.py --demo --training_size 30 --model_name biobert --control

The encoder is frozen: pre-trained (--training_size 0), fine-tuned (after fine-tuning.py), or
untrained (--random_init). The probe trains on the whole training split. Writes
results/<dataset>/<model>/<size>/seed-<n>/probing/: config.json, layers.csv, layers.png,
metrics.json; and layers_all_sizes.png of the model. Killed, the same command goes on.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli, models, results
from NLI import task as data


def parse_args(argv):
    parser = cli.Parser(__doc__)
    cli.add_common_arguments(parser)
    cli.add_probing_arguments(parser, ("svc", "linear"), ("mean", "cls", "last"))
    parser.add_argument("--standardize", action="store_true", help="scale features to variance 1")
    return cli.parse(parser, argv, Path(__file__).parent)


@cli.command
def main(argv=None):
    args = parse_args(argv)
    size = "random" if args.random_init else args.training_size
    run = results.Run(args, data, models.folder_name(args), size, "probing")
    checkpoint = results.checkpoints([run])[run]
    if metrics := run.finished(checkpoint):
        return report(run, metrics, "finished earlier; --overwrite repeats it")

    import numpy as np

    from common import probe_scores, representations, subsample
    from common.device import choose_device, set_seed
    from common.probes import svm

    device = choose_device(args.device, args.precision)
    dataset = data.load(args)
    full_sha256 = results.fingerprint(dataset.splits)
    run.check_data(checkpoint, full_sha256)
    examples = subsample.limited(dataset.splits, data.stratum, args.max_train_examples, args.seed)
    set_seed(args.seed)
    encoder, tokenizer = models.load_encoder(
        checkpoint or models.source(args), random_init=args.random_init
    )
    chosen = probe_scores.choose(args.layers, encoder.config.num_hidden_layers)
    limit = min(args.max_length, encoder.config.max_position_embeddings)
    texts = list(dict.fromkeys(t for s in examples for e in examples[s] for t in e[1:3]))
    encoded, counts = data.probe_inputs(texts, tokenizer, limit, args.pooling)
    row = {text: i for i, text in enumerate(texts)}
    pairs = {
        split: np.array([(row[e.premise], row[e.hypothesis]) for e in examples[split]])
        for split in examples
    }
    gold = {probe_scores.TASK: examples}
    if args.control:  # labels that have nothing to do with the text: only capacity learns them
        gold[probe_scores.CONTROL] = examples | {
            "train": data.permuted(examples["train"], args.seed)
        }
    targets = {
        target: np.array([dataset.labels.index(e.label) for e in splits["train"]])
        for target, splits in gold.items()
    }

    def score(predicted):
        return {
            target: {
                split: data.score(gold[target][split], [dataset.labels[i] for i in found])
                for split, found in splits.items()
            }
            for target, splits in predicted.items()
        }

    made_of = {"sha256": results.fingerprint(examples), "counts": counts,
               "full_sha256": full_sha256,
               "labels": dataset.labels, "precision": device.precision,
               "encoder": representations.encoder_hash(encoder)}  # fmt: skip
    with run.open(made_of, checkpoint, max_length=limit, machine=device.describe()):
        scores = probe_scores.Scores(run.folder, chosen)
        if missing := scores.missing():
            features = representations.extract(
                encoder, encoded, chosen, device, args.batch_size, run.folder / "features"
            )
            svm.probe_layers(
                {layer: features[layer] for layer in missing}, pairs, targets, kind=args.probe,
                standardize=args.standardize, device=device,
                on_done=lambda layer, predicted: scores.add(layer, score(predicted)),
            )  # fmt: skip
        totals = counts | {"parameters": encoder.num_parameters()}
        metrics = probe_scores.finish(run, scores, data, examples, totals, device)
    report(run, metrics, "done")


def report(run, metrics, state):
    """The final summary: which layer tells most, where the results lie, what comes next."""
    print(f"\n{data.TASK} probing, {run.title()}: {state}")
    best, last = metrics["best_layer"], metrics["last_layer"]
    print(f"best layer (on dev, if there is one): {best}; 0 is the embeddings, {last} the last")
    print(results.score_table(metrics, data.SUMMARY))
    if (selectivity := metrics.get(f"test_selectivity_{data.MAIN_METRIC}")) is not None:
        print(f"selectivity on test ({data.MAIN_METRIC}, less that of control labels): "
              f"{selectivity:.4f}")  # fmt: skip
    print(f"results: {run.folder}")
    if not run.args.random_init:
        print(f"next:    {run.command('attention')}")


if __name__ == "__main__":
    sys.exit(main())
