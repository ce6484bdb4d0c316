"""CTranslate2, encoder-decoder or decoder-only."""

import json
from pathlib import Path

import ctranslate2
import turn


def load(settings):
    folder = Path(settings["model"])
    decoder_only = (folder / "vocabulary.json").exists()
    names = json.loads((folder / ("vocabulary.json" if decoder_only else "shared_vocabulary.json")).read_text("utf-8"))
    kind = ctranslate2.Generator if decoder_only else ctranslate2.Translator
    engine = kind(
        str(folder),
        device="cpu",
        compute_type=settings["precision"],
        inter_threads=1,
        intra_threads=settings["threads"],
    )

    def generate(inputs, tokens):
        # It speaks in the names of tokens; to look them up is part of what it does.
        rows = [[names[token] for token in row] for row in inputs]
        if decoder_only:
            answers = engine.generate_batch(
                rows, beam_size=1, min_length=tokens, max_length=tokens, include_prompt_in_result=False
            )
            lengths = {len(answer.sequences_ids[0]) for answer in answers}
        else:
            answers = engine.translate_batch(
                rows, beam_size=1, min_decoding_length=tokens, max_decoding_length=tokens, max_input_length=0
            )
            lengths = {len(answer.hypotheses[0]) for answer in answers}
        assert lengths == {tokens}, f"answers of {lengths} tokens, expected {tokens}"

    return generate


turn.run(load)
