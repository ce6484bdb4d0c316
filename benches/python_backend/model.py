"""The usual home-made answer: CTranslate2 in Triton's Python backend, behind the dynamic batcher.

A batch is static: the next one starts when all of its rows have ended. A row stops at the tokens it asked for, by
CTranslate2's callback, and leaves the batch, as it would at its end of sequence. In a decoupled entry the same callback
sends each token as soon as it is there; otherwise the answers come whole, together.
"""

import json

import ctranslate2
import numpy
import tokenizers
import triton_python_backend_utils as triton


class TritonPythonModel:
    """One instance, in a process of its own."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.decoupled = triton.using_decoupled_model_transaction_policy(config)
        self.tokenizer = tokenizers.Tokenizer.from_file(parameters["tokenizer"])
        self.translator = ctranslate2.Translator(
            parameters["model"], compute_type="int8", inter_threads=1, intra_threads=int(parameters["threads"])
        )

    def execute(self, requests):
        texts = [value(request, "text_input").decode() for request in requests]
        wanted = [int(value(request, "max_tokens")) for request in requests]
        sources = [encoding.tokens for encoding in self.tokenizer.encode_batch(texts)]
        senders = [request.get_response_sender() for request in requests] if self.decoupled else []
        ids = [[] for _ in requests]

        def on_token(step):
            found = ids[step.batch_id]
            found.append(step.token_id)
            ended = len(found) >= wanted[step.batch_id]
            if self.decoupled:
                flags = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if ended else 0
                senders[step.batch_id].send(self.response([step.token_id]), flags)
            return ended

        self.translator.translate_batch(
            sources,
            beam_size=1,
            min_decoding_length=max(wanted),
            max_decoding_length=max(wanted),
            max_input_length=0,
            callback=on_token,
        )
        return None if self.decoupled else [self.response(found) for found in ids]

    def response(self, ids):
        text = self.tokenizer.decode(ids).encode()
        return triton.InferenceResponse([triton.Tensor("text_output", numpy.array([[text]], numpy.object_))])


def value(request, name):
    return triton.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0]
