"""All benchmarks one after another, and a table of what they found.

    python tests/benchmarks/all.py --data FOLDER [--rounds 1] [--device cuda] [--output table.md]

FOLDER holds bionlp2004/ (as NER/ reads it), nli/ (train, dev and test.jsonl) and
qa/squad_v2_dev_half.json (any file in SQuAD form). Instructions are made of these three, or
--medtuned is a folder of them that Instruct/build.py made. --model: a small BERT-like encoder, for
a second measurement of training.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SQUAD = "qa/squad_v2_dev_half.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="folder of a small BERT-like encoder")
    parser.add_argument("--medtuned", type=Path, help="(default: made of --data)")
    parser.add_argument("--rounds", default="1")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="write the table there, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(args, args.medtuned or build(args.data, Path(folder) / "medtuned"))


def build(data: Path, folder: Path) -> Path:
    """Instructions of all that is in `data`."""
    sources = ("--ner", "ner=bionlp2004"), ("--nli", "nli=nli"), ("--qa", f"qa={SQUAD}")
    flags = [part for flag, path in sources for part in (flag, path.replace("=", f"={data}/"))]
    script = HERE.parents[1] / "Instruct" / "build.py"
    subprocess.run([sys.executable, script, *flags, "--output_dir", folder], check=True)
    return folder


def measure(args, medtuned: Path) -> None:
    """Run all; print the table."""
    on_gpu = args.device.startswith("cuda")
    ner, pairs = args.data / "bionlp2004", args.data / "nli"
    small = ["--model", args.model, "--batch_size", "8"]
    plan = [
        ["fine_tuning.py", "--data_dir", ner],
        *([["fine_tuning.py", "--data_dir", ner, *small]] if args.model else []),
        ["features.py", "--data_dir", ner],
        ["attention.py", "--data_dir", pairs],
        ["ablation.py", "--data_dir", pairs],
        ["svc_probe.py", "--data_dir", pairs],
        *([["svc_probe.py", "--data_dir", pairs, *small[:2]]] if args.model else []),
        ["bilstm_crf.py"],
        ["question_answering.py", "--data", args.data / SQUAD],
        ["instruction_tuning.py", "--data_dir", medtuned],
        *([["instruction_tuning.py", "--data_dir", medtuned, "--model", "llama2-7b"]] * on_gpu),
    ]
    lines = ["| what | ours | plain | times better | goal | machine |", "|---|---|---|---|---|---|"]
    for script, *flags in plan:
        command = [sys.executable, str(HERE / script), *map(str, flags)]
        command += ["--rounds", args.rounds, "--device", args.device]
        print("$", *command, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        print(done.stdout, flush=True)
        found = done.stdout.splitlines()
        machine = [line.partition("): ")[2] for line in found if line.startswith("machine: ")]
        rows = [line.partition(" | ")[2] for line in found if line.startswith("result | ")]
        if done.returncode:
            rows = [f"{script} failed (exit code {done.returncode}) | | | | "]
        lines += [f"| {row} | {' '.join(machine)} |" for row in rows]
    print("\n".join(lines))
    if args.output:
        args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
