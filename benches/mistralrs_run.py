#!/usr/bin/env python3
"""One prefill and one decode with the mistral.rs wheel, for compare.py: two rates, tokens a second, as JSON.

    RAYON_NUM_THREADS=N PYTHON benches/mistralrs_run.py MODEL.gguf PROMPT_TOKENS DECODE

PYTHON is one in which `pip install mistralrs` has run. The rates are those that mistral.rs reports with its answer,
after one request to warm up; prompts differ from the first word on, so that no cached prefix serves.
"""

import json
import os
import sys

from mistralrs import ChatCompletionRequest, Runner, Which

WORDS = "river stone window garden letter music winter bridge candle forest market ocean silver travel engine".split()


def main():
    model, prompt, decode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    folder, name = os.path.split(os.path.abspath(model))
    runner = Runner(which=Which.GGUF(quantized_model_id=folder, quantized_filename=name), prefix_cache_n=0)
    usage = None
    for turn in range(2):
        # Common words are one token each; the request's own tokens are some 14 more.
        text = " ".join(WORDS[(i * i + turn) % len(WORDS)] for i in range(prompt - 14))
        text = f"Go on with this list: {text}"
        message = [{"role": "user", "content": text}]
        request = ChatCompletionRequest(model="default", max_tokens=decode, temperature=0.0, messages=message)
        usage = runner.send_chat_completion_request(request).usage
    if usage.completion_tokens < 16:
        sys.exit(f"mistral.rs stopped after {usage.completion_tokens} of {decode} tokens: no rate to compare")
    rates = {"prompt": usage.avg_prompt_tok_per_sec, "gen": usage.avg_compl_tok_per_sec}
    print(json.dumps({**rates, "prompt_tokens": usage.prompt_tokens, "tokens": usage.completion_tokens}))


main()
