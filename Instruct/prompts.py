"""The text that a model reads: instructions in several wordings, the input, the Alpaca form.

The wordings are this project's own. `Instruct/build.py` draws one for each example. A form says how
instruction and input are put into a prompt. `Instruct/parsing.py` writes and reads the answers.
"""

LABEL_KINDS = ("nli", "relation", "qa")  # their answer is one label of a known list
NONE = "none"  # the answer where nothing is to be listed
SECOND = "\nSentence 2: "  # what begins the second sentence of an NLI input
# What stands before each text of an input. A question comes first: a long input loses its end.
ASKED = ("Question: ", "Passage: ")
PARTS = {"nli": ("Sentence 1: ", "Sentence 2: "), "qa": ASKED, "free_qa": ASKED}
UNANSWERABLE = "unanswerable"  # the answer where a passage does not hold one

# {type} is what an NER prompt asks for. No wording says how to write the answer: ANSWERS do.
WORDINGS = {
    "ner": (
        "Find the names of kind {type} in the sentence.",
        "Which words of this sentence belong to a name of kind {type}?",
        "Mark every {type} that the text mentions.",
        "Go through the sentence word by word and point out what is a {type}.",
        "Recognise the entities of type {type} in the input.",
        "Look for mentions of any {type} in the following sentence.",
    ),
    "nli": (
        "How does sentence 2 relate to sentence 1?",
        "Read both sentences and say what the first one implies for the second.",
        "Given sentence 1, is sentence 2 certain, impossible or open?",
        "Does the first sentence support the second, rule it out, or leave it open?",
        "Decide which relation holds from sentence 1 to sentence 2.",
        "Take sentence 1 as true and judge sentence 2.",
    ),
    "relation": (
        "Which relation does the text state between the two marked names?",
        "Read the text and classify how the marked entities are related.",
        "What connects the two entities that are marked in the input?",
        "Name the relation of the marked pair.",
        "Judge from this text alone how the first marked name relates to the other.",
        "Two names are marked in the text. Say which relation it gives them.",
    ),
    "classification": (
        "Which of the classes below fit the text?",
        "Read the document and list all classes that it belongs to.",
        "Assign every class that applies to the input.",
        "Sort this text into the classes that it deals with.",
        "Name each class that the following text is about.",
        "Say which classes describe the content of the document.",
    ),
    "qa": (
        "Answer the question from the text.",
        "Read the passage and decide the question.",
        "What does the text say to the question?",
        "Use what the passage reports to answer the question.",
        "Judge the question by the evidence in the input.",
        "Give the answer that the text supports.",
    ),
    "free_qa": (
        "Answer the question.",
        "Reply to the question below.",
        "Give an answer to what is asked.",
        "What is the answer to this question?",
        "Read the question and write its answer.",
        "Respond to the question in the input.",
    ),
}
# How to write the answer, after the wording. {labels}: those of the source.
ANSWERS = {
    "tags": "Write each word, a colon, and B where such a name begins, I where it goes on, else O; "
    "put semicolons between the words.",
    "list": f"Write the names in their order, with semicolons between them, or {NONE}.",
    "one": "Answer with one of: {labels}.",
    "many": f"Answer with all that apply of: {{labels}}; put semicolons between them; or {NONE}.",
    "free": "",
    "passage": "Use the words of the passage.",
    "squad": f"Use the words of the passage, or write {UNANSWERABLE} if it has no answer.",
}
# Prompts. They end in a colon, without a blank, which some tokenizers would glue to an answer.
FORMS = {
    "alpaca": "Below is an instruction that describes a task, paired with an input that provides "
    "further context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:",
    "plain": "{instruction}\n{input}\nAnswer:",  # for the demo's miniatures, which read 256 tokens
}


def joined(kind: str, texts: list[str]) -> str:
    """The input of an example: each of its texts on a line; one that is empty is left out."""
    names = PARTS.get(kind, ("",))
    return "\n".join(name + text for name, text in zip(names, texts, strict=True) if text)
