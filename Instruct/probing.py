"""Probe what each layer of a causal model tells about the answer, before it writes a word of it.

    python probing.py --data_dir medtuned --training_size 100 --model_name biogpt
    python probing.py --demo --training_size 100 --model_name biogpt --controls

The vector of the prompt's last token, and for each source whose answer is one label (NLI,
relations, yes/no/maybe) a probe. The model is frozen: pre-trained (--training_size 0), fine-tuned
(after fine-tuning.py), or untrained (--untrained).
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

PROBES = ("svc", "linear")
POOLINGS = ("last",)
parse_args, main = cli.script(__file__, __name__, __doc__, probes=PROBES, poolings=POOLINGS)
