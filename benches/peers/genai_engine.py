"""ONNX Runtime GenAI."""

import json
import tempfile
from pathlib import Path

import numpy
import onnxruntime_genai
import turn


def load(settings):
    # The number of threads can only be said in the model's own configuration.
    folder = Path(settings["model"])
    with tempfile.TemporaryDirectory() as name:
        own = Path(name)
        for file in folder.iterdir():
            (own / file.name).symlink_to(file.resolve())
        config = json.loads((folder / "genai_config.json").read_text())
        config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = settings["threads"]
        (own / "genai_config.json").unlink()
        (own / "genai_config.json").write_text(json.dumps(config))
        model = onnxruntime_genai.Model(str(own))

    def generate(inputs, tokens):
        ids = numpy.array(inputs, numpy.int32)
        rows, length = ids.shape
        parameters = onnxruntime_genai.GeneratorParams(model)
        whole = length + tokens
        parameters.set_search_options(do_sample=False, batch_size=rows, min_length=whole, max_length=whole)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(ids)
        for _ in range(tokens):
            generator.generate_next_token()
        found = {len(generator.get_sequence(row)) for row in range(rows)}
        assert found == {whole}, f"sequences of {found} tokens, expected {whole}"

    return generate


turn.run(load)
