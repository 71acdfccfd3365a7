"""Compare the attention of every head before and after fine-tuning on NLI.

    python attention.py --training_sizes 10,30 --model_name biobert
    python attention.py --demo --training_sizes 10,30 --model_name biobert --controls

The same inputs (the test split) go through the pre-trained encoder and through those that
fine-tuning.py made of it.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

parse_args, main = cli.script(__file__, __name__, __doc__)
