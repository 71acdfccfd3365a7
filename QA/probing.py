"""Probe what each layer of an encoder tells about QA: where the answer starts and ends.

    python probing.py --training_size 30 --model_name biom-electra-base
    python probing.py --demo --training_size 30 --model_name biobert --controls

Question and passage go through the frozen encoder together: the pre-trained one (--training_size
0), a fine-tuned one (after fine-tuning.py), or an untrained one (--untrained). The probe trains on
all questions of the training split that have an answer; with --controls also on questions of other
passages.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

PROBES = ("pointer",)
POOLINGS = ("mean",)  # of a word's sub-words
parse_args, main = cli.script(__file__, __name__, __doc__, probes=PROBES, poolings=POOLINGS)
