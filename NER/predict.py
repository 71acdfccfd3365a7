"""Find the entities of new text with a model that fine-tuning.py has made.

    python predict.py --training_size 30 --model_name biobert --input abstracts.txt
    python predict.py --demo --training_size 30 --model_name biobert --input - --output_form conll

A line of text is an input; or, in CoNLL columns, a word a line with a blank line after each
sentence. Of each, its entities with their characters (JSON), or its words with IOB2 tags.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

parse_args, main = cli.script(__file__, __name__, __doc__)
