"""A checkpoint's model card: README.md, with the metadata that the Hub reads. Nothing is sent."""

import os
import shlex
from pathlib import Path

from common import models, summary

# The kind of a task model's head -> the Hub's word for what the model does.
PIPELINES = {
    "sequence": "text-classification",
    "token": "token-classification",
    "span": "question-answering",
    "causal": "text-generation",
}
LOAD = """\
from transformers import AutoConfig, AutoTokenizer, {head}
folder = "."  # this folder, or its name on the Hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {head}.from_pretrained({weights}, config=AutoConfig.from_pretrained(folder))
"""
ADAPTERS = "from peft import PeftModel\nmodel = PeftModel.from_pretrained(model, folder)\n"
OWN_HEAD = "Load it with the project's predict.py: transformers has no class for its head."
DEMO = "A miniature model that was trained on generated text. It only shows how the project works."
PUBLIC = "The training data are public. To share the model: `hf upload OWNER/{} .`"
OWN_DATA = """\
A model can repeat its training text. So the licence or data use agreement of each training set also
holds for this model. If a set is credentialed (of PhysioNet, i2b2 or BioASQ, for example), read its
agreement before you give the model to anyone."""


def write(ready, source, cell, config: dict, metrics: dict, folder: Path) -> None:
    """Write the card into the folder of a checkpoint. Of a path it has the last part alone.

    `ready`: the model, see `common.steps.fine_tuning.Prepared`; `source`: what it was made from.
    """
    import transformers
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    task, args, kind = ready.call.task, ready.call.args, PIPELINES[ready.call.task.HEAD]
    public, split = (None, "test") if args.demo or args.data_dir else task.HUB_DATASET
    base = models.MODELS.get(source.name, source.name)
    base = None if args.demo or os.path.isabs(base) else base
    name = f"{task.NAME}-{cell.dataset}-{cell.model}-{cell.size}-seed-{cell.seed}"
    name += f"-{cell.variant}" * bool(cell.variant)
    data, scores = public or cell.dataset, task.scores(ready.data)
    values = [(metrics.get(f"test_{score.name}"), score) for score in scores]
    header = ModelCardData(
        base_model=base,
        datasets=[public] if public else None,
        eval_results=[
            EvalResult(kind, data, cell.dataset, score.name, float(value), task.NAME,
                       dataset_split=split, metric_name=score.title)
            for value, score in values if value is not None
        ],
        library_name="peft" if args.lora else "transformers",
        model_name=name,
        pipeline_tag=kind,
    )  # fmt: skip
    head = ready.model.config.architectures[0]  # as it was saved: sharding renames the class
    weights = f'"{base or "BASE"}"' if args.lora else "folder"
    code = LOAD.format(head=head, weights=weights) + ADAPTERS * args.lora
    load = f"```python\n{code}```" if hasattr(transformers, head) else OWN_HEAD
    words = [Path(w).name if os.path.isabs(w) else w for w in shlex.split(config["command"])]
    commit = config["environment"]["git_commit"] or "unknown"
    use = DEMO if args.demo else PUBLIC.format(name) if public else OWN_DATA
    paragraphs = (
        f"# {name}",
        f"{base or cell.model}, fine-tuned for {task.NAME} on {cell.size} % of the training data "
        f"of {data}, by this command of the project (commit {commit}):",
        f"```bash\n{shlex.join(words)}\n```",
        f"## Scores\n\n```text\n{summary.score_table(metrics, scores)}\n```",
        f"## How to load it\n\n{load}",
        f"## Use\n\n{use}\n",
    )
    content = "\n\n".join((f"---\n{header.to_yaml()}\n---", *paragraphs))
    ModelCard(content).save(folder / "README.md")
