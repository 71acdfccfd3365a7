"""Make an instruction data set from your own sets: NER, NLI, relations, classification, QA.

    python build.py --ner bionlp2004=FOLDER --nli mednli=FOLDER --relation chemprot=FILE \\
        --classification hoc=FILE --qa pubmedqa=FILE --output_dir medtuned

Each flag is NAME=PATH and may stand several times. Nothing is downloaded. Writes a new folder:
train.jsonl, dev.jsonl, test.jsonl, build.json (counts, hashes) and units.jsonl (what subsets draw).
The text of the sets is in it: keep the folder where their licences allow it.

FOLDER of --ner and --nli: what NER/ and NLI/ read with --data_dir. FILE: one JSON object a line,
  --relation        text (the pair marked in it), label
  --classification  text or sentences, labels (a list, maybe empty)
  --qa              question, answer (all yes, no or maybe; or free), context (optional);
                    or a .json file in the SQuAD form, or a folder of them that QA/ reads
with split (train, dev, test) in all lines or in none: then 80/10/10, where rows of one document
(pmid, document_id, or the field of --group_by) or with an equal text, question or context stay
together. Or a folder with such a train, dev and test file. A set without dev gives a tenth of its
training part.
"""

import argparse
import random
import re
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli
from common.cli import UserError
from Instruct import parsing, prompts, splits

FLAGS = ("ner", "nli", "relation", "classification", "qa")


def parse_args(argv):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    for flag in FLAGS:
        add(f"--{flag}", action="append", default=[], metavar="NAME=PATH", type=named_path)
    add("--output_dir", type=Path, required=True, help="the folder to make")
    text = "NER answers: `word : B|I|O` for each word (tags, the default), or the list of names"
    add("--ner_form", choices=tuple(parsing.FORMS), default="tags", help=text)
    text = "the field of relation, classification or QA rows that says which belong together"
    add("--group_by", metavar="FIELD", help=f"{text} (default: pmid, document_id)")
    text = "at most N prompts of a source in each split: whole sentences, pairs or documents"
    add("--max_per_source", type=cli.number(int, 1), metavar="N", help=text)
    text = "of wordings, splits, subsets and order (default: 42)"
    add("--seed", type=cli.number(int, 0, 2**32 - 1), default=42, help=text)
    args = parser.parse_args(argv)
    names = [name for flag in FLAGS for name, _ in getattr(args, flag)]
    if not names:
        parser.error(f"no source: give at least one of --{', --'.join(FLAGS)} NAME=PATH")
    if len({*names}) < len(names):
        parser.error(f"two sources have one name ({', '.join(names)}): give each its own")
    return args


def named_path(text: str) -> tuple[str, Path]:
    """An argparse type: NAME=PATH."""
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)=(.+)", text)
    if not match:
        rule = "a name: letters, digits, '.', '_', '-'"
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH ({rule})")
    return match[1], Path(match[2]).expanduser().absolute()


@cli.command
def main(argv=None):
    args = parse_args(argv)
    out = args.output_dir.expanduser().absolute()
    if out.exists():
        raise UserError(f"--output_dir {out} exists. Choose another, or delete it first.")

    import pandas as pd

    from common import files
    from Instruct import sources

    given = [(flag, *pair) for flag in FLAGS for pair in getattr(args, flag)]
    read = [sources.read(*source, args.ner_form, args.group_by) for source in given]
    fields = {e.document[0] for source in read for e in source.examples if e.document}
    if args.group_by and args.group_by not in fields:
        raise UserError(f"--group_by {args.group_by}: no row has this field. Check its name.")
    sets, about, units = {}, {}, []
    rows: dict[str, list[dict]] = {split: [] for split in splits.SPLITS}
    for source in read:
        divided, how = splits.divide(source, args.seed)
        most = args.max_per_source, args.seed
        chosen = {s: splits.limited(source, s, own, *most) for s, own in divided.items()}
        made = {s: [instruct(source, e, args.seed) for e in own] for s, own in chosen.items()}
        sets[source.name] = chosen
        strata, numbers = splits.units(source, "train", chosen["train"])
        units.append({"source": source.name, "strata": strata})
        for row, unit in zip(made["train"], numbers, strict=True):
            row["unit"] = unit
        for split, own in made.items():
            rows[split] += own
        # Whoever has this hash was asked the whole test split, which is another task's.
        whole = source.units is not None and len(chosen["test"]) == len(divided["test"])
        hashes = {"sha256": source.sha256, "data_sha256": source.sha256 if whole else None}
        about[source.name] = {"kind": source.kind, "labels": source.labels, "splits": how} | hashes
        about[source.name]["prompts"] = {split: len(chosen[split]) for split in splits.SPLITS}
    for name, counts in splits.overlaps(sets).items():
        about[name]["test_in_train"] = counts
    settings = {"seed": args.seed, "ner_form": args.ner_form, "prompt_form": "alpaca"}
    settings |= {"max_per_source": args.max_per_source, "group_by": args.group_by}
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(out) as folder:
        folder.mkdir()
        for split in splits.SPLITS:
            files.write_jsonl(folder / f"{split}.jsonl", splits.mixed(rows[split], args.seed))
        files.write_jsonl(folder / "units.jsonl", units)
        files.write_json(folder / "build.json", settings | {"sources": about})
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")  # it may be credentialed text
    kinds = [{"kind": of["kind"]} | of["prompts"] | {"cut": of["splits"]} for of in about.values()]
    table = pd.DataFrame(kinds, index=list(about))
    table.loc["all"] = ["", *table[list(splits.SPLITS)].sum(), ""]
    print(table.to_string())
    for name, of in about.items():
        for whose, n in of["test_in_train"].items():
            shared = f"{n} of {of['prompts']['test']} test prompts share a text"
            print(f"{name}: {shared} with the train split of {whose}\n" * bool(n), end="")
    print(f"instructions: {out}\nnext:    python Instruct/fine-tuning.py --data_dir {out}")


def instruct(source, example, seed: int) -> dict:
    """A row of the data set: the example, and a wording that its id and the seed decide."""
    row = example.row
    key, group = (f"{source.name}/{own}" for own in (example.id, example.group))
    quote = '"' * any({",", ";"} & {*label} for label in source.labels)
    labels = ", ".join(f"{quote}{label}{quote}" for label in source.labels)
    kind = row.get("type", "").replace("_", " ")
    wording = random.Random(f"{seed}-{key}").choice(prompts.WORDINGS[source.kind])
    text = f"{wording} {prompts.ANSWERS[source.answer]}".strip().format(type=kind, labels=labels)
    about = {"id": key, "group": group, "source": source.name, "kind": source.kind}
    return about | {"instruction": text} | row


if __name__ == "__main__":
    sys.exit(main())
