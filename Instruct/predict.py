"""Have a model that fine-tuning.py has made answer new instructions.

    python predict.py --training_size 30 --model_name biogpt --input prompts.jsonl
    python predict.py --demo --training_size 30 --model_name biogpt --input -

A line is a prompt: {"instruction": ..., "input": ...}. Of each, the answer as JSON.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

parse_args, main = cli.script(__file__, __name__, __doc__)
