"""The answers of a causal model to prompts: generated and parsed, or the most likely labels."""

from Instruct import encoding, generation, parsing
from Instruct.prompts import LABEL_KINDS


def predict(model, tokenizer, data, examples, encoded, args, device, name) -> list[tuple]:
    """(answer, parse_failure) of each prompt, see `Instruct.parsing.read`."""
    likely = args.decode == "likelihood"
    by_likelihood = [likely and example["kind"] in LABEL_KINDS for example in examples]
    found: dict[int, tuple] = {}
    for way, answer in ((False, generated), (True, most_likely)):
        chosen = [i for i, which in enumerate(by_likelihood) if which == way]
        if chosen:
            some, inputs = ([rows[i] for i in chosen] for rows in (examples, encoded))
            answers = answer(model, tokenizer, data, some, inputs, args, device, name)
            found |= dict(zip(chosen, answers, strict=True))
    return [found[i] for i in range(len(examples))]


def generated(model, tokenizer, data, examples, encoded, args, device, name) -> list[tuple]:
    """What is generated, parsed."""
    prompts = [list(row["prompt"]) for row in encoded]
    most = [args.max_new_tokens or row["room"] for row in encoded]
    ends = encoding.end_ids(model, tokenizer)
    ids = generation.generate(model, prompts, most, ends, args.batch_size, device, name)
    return [
        parsing.read(encoding.decode(tokenizer, answer), example,
                     data.sources[example["source"]]["labels"], data.ner_form)
        for example, answer in zip(examples, ids, strict=True)
    ]  # fmt: skip


def most_likely(model, tokenizer, data, examples, encoded, args, device, name) -> list[tuple]:
    """The most likely of the source's labels; never a failure."""
    labels = [data.sources[example["source"]]["labels"] for example in examples]
    ids = {label: encoding.answer_ids(tokenizer, label) for own in labels for label in own}
    answers = [[ids[label] for label in own] for own in labels]
    prompts = [list(row["prompt"]) for row in encoded]
    scores = generation.log_likelihoods(model, prompts, answers, args.batch_size, device, name)
    best = (
        generation.best(values, some, args.length_normalised)
        for values, some in zip(scores, answers, strict=True)
    )
    return [(own[i], False) for own, i in zip(labels, best, strict=True)]
