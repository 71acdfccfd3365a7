"""Probe what each layer of an encoder tells about NER: words' vectors and a BiLSTM-CRF.

    python probing.py --training_size 30 --model_name biobert
    python probing.py --demo --training_size 30 --model_name biobert --controls

The encoder is frozen: pre-trained (--training_size 0), fine-tuned (after fine-tuning.py), or
untrained (--untrained). The probe trains on the whole training split.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

PROBES = ("bilstm-crf", "linear")
POOLINGS = ("mean", "first", "last")
parse_args, main = cli.script(__file__, __name__, __doc__, probes=PROBES, poolings=POOLINGS)
