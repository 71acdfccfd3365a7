"""The answers of a causal model to prompts: generated and parsed, or the most likely labels."""

from Instruct import encoding, parsing
from Instruct.prompts import LABEL_KINDS


def predict(model, tokenizer, data, examples, encoded, batch_size, device, name) -> list[tuple]:
    """(answer, parse_failure) of each prompt, see `Instruct.parsing.read`."""
    from Instruct import generation

    by_source: dict[str, list[int]] = {}  # of prompts that are answered by the most likely label
    written = []
    for i, example in enumerate(examples):
        if data.decode == "likelihood" and example["kind"] in LABEL_KINDS:
            by_source.setdefault(example["source"], []).append(i)
        else:
            written.append(i)
    prompts = [list(row["prompt"]) for row in encoded]
    answers: dict[int, tuple] = {}
    if written:
        most = [data.max_new_tokens or encoded[i]["room"] for i in written]
        ends = encoding.end_ids(model, tokenizer)
        asked = [prompts[i] for i in written]
        ids = generation.generate(model, asked, most, ends, batch_size, device, name)
        for i, tokens in zip(written, ids, strict=True):
            labels = data.sources[examples[i]["source"]]["labels"]
            text = encoding.decode(tokenizer, tokens)
            answers[i] = parsing.read(text, examples[i], labels, data.ner_form)
    for source, indices in by_source.items():
        labels = data.sources[source]["labels"]
        asked, about = [prompts[i] for i in indices], f"{name} {source}"
        ids = [encoding.answer_ids(tokenizer, label) for label in labels]
        scores = generation.log_likelihoods(model, asked, ids, batch_size, device, about)
        for i, row in zip(indices, scores, strict=True):
            answers[i] = labels[row.index(max(row))], False
    return [answers[i] for i in range(len(examples))]
