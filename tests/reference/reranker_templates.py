"""Chat templates of generative rerankers, written for this project: a query and a document each in a message."""

ASK = "Say yes or no: does the document answer the query?"
# The kind of Qwen3-Reranker: an instruction from the system message, and an answer that begins after an empty thought.
THINKING = (
    "{%- set task = namespace(text='Find what answers the query.', query='', document='') %}\n"
    "{%- for message in messages %}\n"
    "    {%- if message.role == 'system' %}{% set task.text = message.content %}\n"
    "    {%- elif message.role == 'query' %}{% set task.query = message.content %}\n"
    "    {%- elif message.role == 'document' %}{% set task.document = message.content %}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "<|im_start|>system\n"
    f"{ASK}<|im_end|>\n"
    "<|im_start|>user\n"
    "<Task>: {{ task.text }}\n"
    "<Query>: {{ task.query }}\n"
    "<Document>: {{ task.document }}<|im_end|>\n"
    "<|im_start|>assistant\n"
    "<think>\n"
    "\n"
    "</think>\n"
    "\n"
)
# Jinja drops the last newline of the file: this template keeps both by printing them.
PRINTED_NEWLINES = THINKING.removesuffix("</think>\n\n") + "{{ '</think>\\n\\n' }}"
