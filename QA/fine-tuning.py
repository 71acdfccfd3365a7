"""Fine-tune a model on QA with a percentage of the training data, and score it.

    python fine-tuning.py --training_size 30 --model_name biom-electra-base
    python fine-tuning.py --demo --training_size 30 --model_name biobert
    python fine-tuning.py --data_dir bioasq --model_name CHECKPOINT --keep_head

The last command trains a SQuAD 2.0 checkpoint further, on BioASQ's questions.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

DEMO = {"learning_rate": 1e-3, "num_train_epochs": 5}  # what miniatures need
parse_args, main = cli.script(__file__, __name__, __doc__, demo=DEMO)
