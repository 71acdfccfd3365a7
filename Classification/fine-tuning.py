"""Fine-tune a model to label texts with a percentage of the training data, and score it.

python fine-tuning.py --training_size 30 --model_name biobert --data_dir FILE
python fine-tuning.py --demo --training_size 30 --model_name biobert
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

DEMO = {"learning_rate": 5e-4, "num_train_epochs": 8}  # what miniatures need
parse_args, main = cli.script(__file__, __name__, __doc__, demo=DEMO)
