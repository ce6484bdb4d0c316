"""Texts that more than one test file needs."""

ENGLISH = "The cat sleeps on the sofa."
OTHER_ENGLISH = "Where is the nearest train station?"

#: A source long enough that its translation may have 2000 tokens.
LONG = " ".join(["We visited the old museum near the river yesterday afternoon and saw many paintings."] * 50)

#: Options that keep a request at work for as long as the model allows: it may not end before that.
LASTING = {"max_tokens": 1800, "min_tokens": 1800}

#: Lasting and wide: four sequences of it fill half of the entry `lasting`.
SAMPLED = {**LASTING, "num_return_sequences": 4, "temperature": 1.0, "seed": 7}

#: Nothing of the vocabulary: several bytes a character, from two to four.
FOREIGN = "猫在沙发上睡觉。 Привет, мир! 😀👩‍👩‍👧‍👦 e\u0301 \U0001F1E7\U0001F1F7"

#: Something the chat model knows, and something it is told.
QUESTION = "What is the capital of France?"


def long_prompt(words: int, seed: int) -> str:
    """A prompt of so many words, a token and a bit each; no two seeds begin alike."""
    from random import Random

    vocabulary = LONG.split(".")[0].lower().split() + "green stone letter window seven morning letter paper".split()
    return " ".join(Random(seed).choices(vocabulary, k=words))
