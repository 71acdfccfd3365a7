"""The demo's QA data: made-up passages, questions that they answer and questions that they do not.

Names and values of the test split (genes, cell lines, drugs, laboratory values) do not occur in the
other splits, see common.demo.language.
"""

import random

from common.demo.language import LABS, chunks, draw, drug
from QA.squad import Example

PASSAGES = {"train": 1500, "dev": 80, "test": 130}
BIOASQ_PASSAGES = {"train": 75, "test": 30}
SENTENCES, QUESTIONS = 3, 3  # of a passage; of the questions one has no answer
# Sentences, and what can be asked about their words.
FACTS = {
    "{protein} binds the {DNA} in {cell_line} .": {
        "protein": "What binds the gene ?",
        "DNA": "What does the protein bind ?",
        "cell_line": "Where was binding seen ?",
    },
    "{cell_type} were treated with {compound} and examined by {assay} .": {
        "cell_type": "Which cells were treated ?",
        "compound": "What were the cells treated with ?",
        "assay": "How were the cells examined ?",
    },
    "Transcription of {RNA} was {changed} by {protein} .": {
        "RNA": "Transcription of what was changed ?",
        "protein": "What changed transcription ?",
    },
    "The patient takes {drug} without {other} .": {
        "drug": "What does the patient take ?",
        "other": "What is not taken ?",
    },
} | {f"Tests show {lab} {{value}} .": {"value": f"What is the {lab} ?"} for lab in sorted(LABS)}


def _word(rng: random.Random, slot: str, sentence: str, pool: str) -> str:
    if slot == "value":
        name = next(name for name in LABS if name in sentence)
        return draw(rng, rng.choice(LABS[name]), pool)
    if slot in ("drug", "other"):
        return draw(rng, drug, pool)
    return " ".join(word for words, _ in chunks(rng, slot, pool) for word in words)


def passage(rng: random.Random, pool: str) -> tuple[str, list[tuple[str, int, str]], list[str]]:
    """A passage; its (question, first character of the answer, answer); what it leaves open."""
    chosen = rng.sample([*FACTS], SENTENCES)
    text, answered = "", []
    for sentence in chosen:
        for part in sentence.split():
            slot = part.strip("{}")
            word = _word(rng, slot, sentence, pool) if slot != part else part
            text += " " * bool(text)
            if slot in FACTS[sentence]:
                answered.append((FACTS[sentence][slot], len(text), word))
            text += word
    left = [asked for fact, asked in FACTS.items() if fact not in chosen]
    return text, answered, [question for asked in left for question in asked.values()]


def examples(name: str, split: str, passages: int) -> list[Example]:
    """The examples of a data set's split; an article has one passage."""
    rng, made = random.Random(f"{name}-{split}-0"), []
    for n in range(passages):
        title = f"demo-{split}-{n}"
        text, answered, others = passage(rng, split)
        asked = rng.sample(answered, min(QUESTIONS - 1, len(answered)))
        asked += [(question, 0, "") for question in rng.sample(others, QUESTIONS - len(asked))]
        for i, (question, start, answer) in enumerate(asked):
            spans = [(start, start + len(answer))] * bool(answer)
            golds = [answer] * bool(answer)
            made.append(Example(f"{title}-{i}", title, question, text, spans, golds))
    return made


def bioasq() -> dict[str, dict]:
    """BioASQ-form documents, train and test: of a question its passage and another one.

    A question of another type is among them, as in BioASQ's files.
    """
    documents = {}
    for split, n in BIOASQ_PASSAGES.items():
        asked = examples("BioASQ", split, n)
        questions = [{"id": "yesno", "type": "yesno", "body": "Is it so ?", "exact_answer": "yes"}]
        for example, other in zip(asked, reversed(asked), strict=True):
            if example.golds:
                about = {"id": example.id, "type": "factoid", "body": example.question}
                snippets = [{"text": example.context}, {"text": other.context}]
                questions.append(about | {"snippets": snippets, "exact_answer": [example.golds]})
        documents[split] = {"questions": questions}
    return documents
