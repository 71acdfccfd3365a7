"""The demo's QA data: made-up passages, questions that they answer and questions that they do not.

Names and values of the test split (genes, cell lines, drugs, laboratory values) do not occur in the
other splits, see common.demo.language.
"""

import random

from common.demo.language import LABS, POOLS, chunks, draw, drug

PASSAGES = {"train": 1500, "dev": 80, "test": 130}
BIOASQ_PASSAGES = {"train": 150, "test": 60}
SENTENCES, QUESTIONS = 3, 3  # of a passage; of the questions one has no answer
# Sentences, and what can be asked about them: the question, and the word that answers it.
FACTS = (
    (
        "{protein} binds the {DNA} in {cell_line} .",
        ("What binds the gene ?", "protein"),
        ("What does the protein bind ?", "DNA"),
        ("Where was binding seen ?", "cell_line"),
    ),
    (
        "{cell_type} were treated with {compound} and examined by {assay} .",
        ("Which cells were treated ?", "cell_type"),
        ("What were the cells treated with ?", "compound"),
        ("How were the cells examined ?", "assay"),
    ),
    (
        "Transcription of {RNA} was {changed} by {protein} .",
        ("Transcription of what was changed ?", "RNA"),
        ("What changed transcription ?", "protein"),
    ),
    (
        "The patient takes {drug} without {other} .",
        ("What does the patient take ?", "drug"),
        ("What is not taken ?", "other"),
    ),
    *(
        (f"Tests show {name} {{value}} .", (f"What is the {name} ?", "value"))
        for name in sorted(LABS)
    ),
)


def _word(rng: random.Random, slot: str, sentence: str, pool: str) -> str:
    if slot == "value":
        name = next(name for name in LABS if name in sentence)
        return draw(rng, rng.choice(LABS[name]), pool)
    if slot in ("drug", "other"):
        return draw(rng, drug, pool)
    return " ".join(word for words, _ in chunks(rng, slot, pool) for word in words)


def passage(rng: random.Random, pool: str) -> tuple[str, list[tuple[str, int, str]], list[str]]:
    """A passage; its (question, first character of the answer, answer); what it leaves open."""
    chosen = rng.sample(range(len(FACTS)), SENTENCES)
    text, answered = "", []
    for sentence, *asked in (FACTS[i] for i in chosen):
        questions = {slot: question for question, slot in asked}
        text += " " * bool(text)
        for part in sentence.split():
            slot = part.strip("{}")
            word = _word(rng, slot, sentence, pool) if slot != part else part
            text += "" if text.endswith(" ") or not text else " "
            if slot in questions:
                answered.append((questions[slot], len(text), word))
            text += word
    left = [fact for i, fact in enumerate(FACTS) if i not in chosen]
    return text, answered, [question for _, *asked in left for question, _ in asked]


def splits(seed: int = 0) -> dict[str, dict]:
    """SQuAD-form documents by split; an article has one passage."""
    return {split: _squad(PASSAGES[split], split, seed) for split in POOLS}


def _squad(passages: int, split: str, seed: int) -> dict:
    rng = random.Random(f"QA-{split}-{seed}")
    data = []
    for n in range(passages):
        title = f"demo-{split}-{n}"
        text, answered, others = passage(rng, split)
        asked = rng.sample(answered, min(QUESTIONS - 1, len(answered)))
        asked += [(question, 0, None) for question in rng.sample(others, QUESTIONS - len(asked))]
        questions = []
        for i, (question, start, answer) in enumerate(asked):
            answers = [{"text": answer, "answer_start": start}] if answer else []
            about = {"id": f"{title}-{i}", "question": question}
            questions.append(about | {"answers": answers, "is_impossible": answer is None})
        data.append({"title": title, "paragraphs": [{"context": text, "qas": questions}]})
    return {"version": "demo", "data": data}


def bioasq(seed: int = 0) -> dict[str, dict]:
    """BioASQ-form documents, train and test: three snippets a question, mostly two with the answer.

    A few questions of other types are among them, as in BioASQ's files.
    """
    documents = {}
    for split, n in BIOASQ_PASSAGES.items():
        rng = random.Random(f"BioASQ-{split}-{seed}")
        questions = []
        while len(questions) < n:
            text, answered, _ = passage(rng, split)
            question, _, answer = rng.choice(answered)
            sentence = next(s for s in text.split(" . ") if answer in s).removesuffix(" .") + " ."
            snippets = [text, sentence]
            other, told, _ = passage(rng, split)
            if question not in [q for q, *_ in told] and answer not in other:
                snippets.append(other)
            rng.shuffle(snippets)
            questions.append(_bioasq_question(rng, "factoid", question, snippets, [[answer]]))
            if len(questions) % 20 == 0:
                questions.append(_bioasq_question(rng, "yesno", "Is it so ?", [text], "yes"))
        documents[split] = {"questions": questions}
    return documents


def _bioasq_question(rng: random.Random, kind: str, body: str, snippets: list, answer) -> dict:
    about = {"id": f"{rng.getrandbits(96):024x}", "type": kind, "body": body}
    return about | {"snippets": [{"text": text} for text in snippets], "exact_answer": answer}
