"""A checkpoint's model card: README.md, with the metadata that the Hub reads. Nothing is sent."""

import os
import shlex
from pathlib import Path

from common import models, summary
from common.models import families

# The kind of a task model's head -> the Hub's word for what the model does.
PIPELINES = {
    "sequence": "text-classification",
    "token": "token-classification",
    "span": "question-answering",
    "causal": "text-generation",
}


def write(ready, source, cell, config: dict, metrics: dict, folder: Path) -> None:
    """Write the card of `ready`, a `fine_tuning.Prepared` made from `source`; it holds no path."""
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
    # Their span head's encoder has another name than the base's, see `loading._load_weights`.
    renamed = args.lora and task.HEAD == "span" and families.of(ready.model.config).span_prefix
    words = [Path(w).name if os.path.isabs(w) else w for w in shlex.split(config["command"])]
    card = ModelCard.from_template(
        header,
        template_path=Path(__file__).with_suffix(".md"),
        name=name,
        base=base,
        cell=cell,
        data=data,
        commit=config["environment"]["git_commit"] or "unknown",
        command=shlex.join(words),
        scores=summary.score_table(metrics, scores),
        head=head if hasattr(transformers, head) and not renamed else None,
        lora=args.lora,
        demo=args.demo,
        public=public,
    )
    card.save(folder / "README.md")
