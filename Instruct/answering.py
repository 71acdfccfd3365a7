"""The answers of a causal model to prompts: generated and parsed, or the most likely labels."""

from Instruct import encoding, parsing
from Instruct.prompts import LABEL_KINDS


def predict(model, tokenizer, data, examples, encoded, batch_size, device, name) -> list[tuple]:
    """(answer, parse_failure) of each prompt, see `Instruct.parsing.read`."""
    from Instruct import generation

    prompts, answers, written = [list(row["prompt"]) for row in encoded], {}, []
    for source, about in data.sources.items():
        own = [i for i, example in enumerate(examples) if example["source"] == source]
        if data.decode == "generate" or about["kind"] not in LABEL_KINDS:
            written += own
            continue
        asked, bar = [prompts[i] for i in own], f"{name} {source}"
        ids = [encoding.answer_ids(tokenizer, label) for label in about["labels"]]
        scores = generation.log_likelihoods(model, asked, ids, batch_size, device, bar)
        for i, row in zip(own, scores, strict=True):
            answers[i] = about["labels"][row.index(max(row))], False
    written.sort()
    most = [data.max_new_tokens or encoded[i]["room"] for i in written]
    asked, ends = [prompts[i] for i in written], encoding.end_ids(model, tokenizer)
    ids = generation.generate(model, asked, most, ends, batch_size, device, name)
    for i, tokens in zip(written, ids, strict=True):
        labels = data.sources[examples[i]["source"]]["labels"]
        text = encoding.decode(tokenizer, tokens)
        answers[i] = parsing.read(text, examples[i], labels, data.ner_form)
    return [answers[i] for i in range(len(examples))]
