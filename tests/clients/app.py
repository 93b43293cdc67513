"""Asks a vendor's own client against an app that passes a denial of the gate on, and says what the client raised."""

import sys

import anthropic
import openai

vendor, url = sys.argv[1:]
try:
    if vendor == "openai":
        client = openai.OpenAI(api_key="none", base_url=url)
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    elif vendor == "openai-stream":
        client = openai.OpenAI(api_key="none", base_url=url)
        list(client.chat.completions.create(model="m", stream=True, messages=[{"role": "user", "content": "hello"}]))
    else:
        client = anthropic.Anthropic(api_key="none", base_url=url)
        client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hello"}])
except openai.APIStatusError as error:
    print(type(error).__name__, error.status_code, error.code)
except anthropic.APIStatusError as error:
    print(type(error).__name__, error.status_code, error.body["error"]["type"])
else:
    print("nothing raised")
