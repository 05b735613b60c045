"""Text from LLMs over HTTP: prompts, OpenAI's chat completions, and how the answering processes are doing."""
