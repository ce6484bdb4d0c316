"""llama.cpp, by its low-level interface: all rows in one batch, greedily."""

import llama_cpp
import numpy
import turn


def load(settings):
    llama_cpp.llama_backend_init()
    options = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(settings["model"].encode(), options)
    size = settings["input_tokens"] + settings["tokens"] + 8
    words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def generate(inputs, tokens):
        rows = len(inputs)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = rows * size
        options.n_seq_max = rows
        options.n_threads = options.n_threads_batch = settings["threads"]
        options.n_batch = rows * settings["input_tokens"]
        context = llama_cpp.llama_init_from_model(model, options)
        assert context, "no context"
        last = step(
            context, [(token, at, row) for row, ids in enumerate(inputs) for at, token in enumerate(ids)], words
        )
        for at in range(len(inputs[0]), len(inputs[0]) + tokens - 1):
            last = step(context, [(token, at, row) for row, token in enumerate(last)], words)
        assert len(last) == rows
        llama_cpp.llama_free(context)

    return generate


def step(context, entries, words):
    """The most probable next token of each row, after these tokens at these places of these rows, in their order."""
    batch = llama_cpp.llama_batch_init(len(entries), 0, 1)
    batch.n_tokens = len(entries)
    wanted = {row: index for index, (_, _, row) in enumerate(entries)}
    for index, (token, at, row) in enumerate(entries):
        batch.token[index] = token
        batch.pos[index] = at
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = row
        batch.logits[index] = wanted[row] == index
    code = llama_cpp.llama_decode(context, batch)
    assert code == 0, f"llama_decode says {code}"
    found = []
    for index in wanted.values():
        logits = llama_cpp.llama_get_logits_ith(context, index)
        found.append(int(numpy.argmax(numpy.ctypeslib.as_array(logits, shape=(words,)))))
    llama_cpp.llama_batch_free(batch)
    return found


turn.run(load)
