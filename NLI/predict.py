"""Say of new pairs whether the hypothesis follows, with a model that fine-tuning.py has made.

    python predict.py --training_size 30 --model_name biobert --input pairs.tsv
    python predict.py --demo --training_size 30 --model_name biobert --input - --input_form jsonl

A line is a pair: premise, tab, hypothesis; or JSON, {"premise": ..., "hypothesis": ...}. Of each,
the label and the probabilities of all labels, as JSON.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

parse_args, main = cli.script(__file__, __name__, __doc__)
