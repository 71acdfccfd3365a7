"""Answer new questions from their passages with a model that fine-tuning.py has made.

    python predict.py --training_size 30 --model_name biobert --input questions.jsonl
    python predict.py --demo --training_size 30 --model_name biobert --input -

A line is a question: {"id": ..., "question": ..., "context": ...}. Of each, the answer, its
characters in the passage and its probability, as JSON.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

parse_args, main = cli.script(__file__, __name__, __doc__)
