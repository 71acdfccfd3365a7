"""Fine-tune a causal model on instructions with a percentage of them, and score its answers.

    python fine-tuning.py --data_dir medtuned --training_size 30 --model_name biogpt
    python fine-tuning.py --data_dir medtuned --model_name llama2-7b --lora
    python fine-tuning.py --demo --training_size 100 --model_name biogpt

build.py makes the instructions.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli

DEMO = {"learning_rate": 3e-3, "num_train_epochs": 6}  # what miniatures need
parse_args, main = cli.script(__file__, __name__, __doc__, demo=DEMO)
