"""Take heads or layers of a fine-tuned model away, and see what QA loses.

    python ablation.py --training_size 30 --model_name biom-electra-base
    python ablation.py --demo --training_size 30 --model_name biobert
    python ablation.py --demo --training_size 30 --model_name biobert --parts layers

It needs what fine-tuning.py and attention.py have made at that size.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

parse_args, main = cli.script(__file__, __name__, __doc__)
