"""Probe what each layer of an encoder tells about NER: words' vectors and a BiLSTM-CRF.

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
from NER import task as data

EPOCHS, DEMO_EPOCHS = 3, 8  # of the probe; the demo has a tenth of BioNLP2004's sentences
LAYERS_AT_ONCE = 4  # on a CPU; a killed run keeps the groups that were done


def parse_args(argv):
    parser = cli.Parser(__doc__)
    cli.add_common_arguments(parser)
    cli.add_probing_arguments(parser, ("bilstm-crf", "linear"), ("mean", "first", "last"))
    data.add_arguments(parser)
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
    from tqdm import tqdm

    from common import probe_scores, representations, subsample
    from common.device import choose_device, set_seed
    from common.probes import bilstm_crf

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
    encoded, counts = {}, {}
    for split in examples:
        encoded[split], cut = data.probe_inputs(examples[split], tokenizer, limit, args.pooling)
        counts |= results.prefixed(split, cut)
    rows = data.feature_rows(encoded)
    gold = {probe_scores.TASK: examples}
    if args.control:  # a random tag a word type: only a probe with capacity of its own learns it
        gold[probe_scores.CONTROL] = data.control_tags(examples, args.seed)

    def score(features, target):
        """Probe some layers side by side; `{split: scores}` of each."""
        splits = gold[target]
        words, labels = data.probe_targets(
            dataset, splits["train"], encoded["train"], rows["train"]
        )
        name = f"{target} labels, {len(features)} layers"
        epochs = DEMO_EPOCHS if args.demo else EPOCHS
        with tqdm(total=epochs * len(words), desc=name, unit=" sentences") as progress:
            probes = bilstm_crf.fit(
                features, words, labels, len(dataset.labels), kind=args.probe, epochs=epochs,
                seeds=[args.seed] * len(features), batch_seed=args.seed, device=device,
                progress=progress.update,
            )  # fmt: skip
        found = [{} for _ in features]
        for split in (split for split in ("dev", "test") if split in splits):
            words = [row for row in rows[split] if row[0] < row[1]]
            for i, predicted in enumerate(probes.predict(features, words)):
                tags = data.decode_words(dataset, encoded[split], rows[split], predicted)
                found[i][split] = data.score(splits[split], tags)
        return found

    made_of = {"sha256": results.fingerprint(examples), "counts": counts,
               "full_sha256": full_sha256,
               "labels": dataset.labels, "precision": device.precision,
               "encoder": representations.encoder_hash(encoder)}  # fmt: skip
    with run.open(made_of, checkpoint, max_length=limit, machine=device.describe()):
        scores = probe_scores.Scores(run.folder, chosen)
        if missing := scores.missing():
            everything = [example for split in examples for example in encoded[split]]
            features = representations.extract(
                encoder, everything, chosen, device, args.batch_size, run.folder / "features"
            )
            # On a GPU all at once: there a launch costs more than what it computes.
            n = LAYERS_AT_ONCE if device.torch_device.type == "cpu" else len(missing)
            for group in (missing[i : i + n] for i in range(0, len(missing), n)):
                arrays = [np.load(features[layer], mmap_mode="r") for layer in group]
                by_target = {target: score(arrays, target) for target in gold}
                for i, layer in enumerate(group):
                    scores.add(layer, {target: found[i] for target, found in by_target.items()})
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
