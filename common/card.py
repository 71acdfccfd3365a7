"""A checkpoint's model card: README.md, with the metadata that the Hub reads. Nothing is sent."""

import os
from pathlib import Path

from common import flags, models, summary
from common.models import families

# The kind of a task model's head -> the Hub's word for what the model does.
PIPELINES = {
    "sequence": "text-classification",
    "token": "token-classification",
    "span": "question-answering",
    "causal": "text-generation",
}
LOAD = """```python
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


def write(ready, source, cell, commit: str | None, metrics: dict, folder: Path) -> None:
    """Write the card into the folder of a checkpoint. It names no folder of this machine.

    `ready`: the model, see `common.steps.fine_tuning.Prepared`; `source`: what it was made from.
    """
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
    use = DEMO if args.demo else PUBLIC.format(name) if public else OWN_DATA
    paragraphs = (
        f"# {name}",
        f"{base or cell.model}, fine-tuned for {task.NAME} on {cell.size} % of the training data "
        f"of {data}, by this command of the project (commit {commit or 'unknown'}):",
        f"```bash\n{_command(ready.call)}\n```",
        f"## Scores\n\n```text\n{summary.score_table(metrics, scores)}\n```",
        f"## How to load it\n\n{_how_to_load(ready.model, base if args.lora else '')}",
        f"## Use\n\n{use}\n",
    )
    content = "\n\n".join((f"---\n{header.to_yaml()}\n---", *paragraphs))
    ModelCard(content).save(folder / "README.md")


def _how_to_load(model, base: str | None) -> str:
    """`base`: what adapters adapt, None for a model of this machine; "" without adapters."""
    head = type(families.without_adapters(model))
    if not head.__module__.startswith("transformers."):
        return OWN_HEAD
    weights = "folder" if base == "" else f'"{base or "THE BASE MODEL"}"'
    code = LOAD.format(head=head.__name__, weights=weights)
    return f"{code}{'' if base == '' else ADAPTERS}```"


def _command(call) -> str:
    """The command line, without what says nothing about the model; of a path the last part."""
    values = {
        flag: Path(value).name if isinstance(value, Path) or os.path.isabs(str(value)) else value
        for flag, value in call.typed.items()
        if flag not in flags.HOW
    }
    return flags.command(f"{call.task.NAME}/fine-tuning.py", values)
