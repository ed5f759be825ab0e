"""Chat templates of generative rerankers, written for this project: a query and a document each in a message."""

ASK = "Say yes or no: does the document answer the query?"
COLLECT = (
    "{%- set task = namespace(text='Find what answers the query.', query='', document='') %}\n"
    "{%- for message in messages %}\n"
    "    {%- if message.role == 'system' %}{% set task.text = message.content %}\n"
    "    {%- elif message.role == 'query' %}{% set task.query = message.content %}\n"
    "    {%- elif message.role == 'document' %}{% set task.document = message.content %}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
)
BEGIN = (
    "<|im_start|>system\n"
    f"{ASK}<|im_end|>\n"
    "<|im_start|>user\n"
    "<Task>: {{ task.text }}\n"
    "<Query>: {{ task.query }}\n"
    "<Document>: {{ task.document }}<|im_end|>\n"
)
ANSWER = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
# The kind of Qwen3-Reranker: an instruction from the system message, and an answer that begins after an empty thought.
# Jinja drops one newline at the file's end.
THINKING = COLLECT + BEGIN + ANSWER
# The same, but both newlines are printed.
PRINTED_NEWLINES = COLLECT + BEGIN + ANSWER.removesuffix("</think>\n\n") + "{{ '</think>\\n\\n' }}"
# The answer's beginning only where it is asked for, and the empty thought only where thinking is switched off.
GUARDED = (
    COLLECT
    + BEGIN
    + "{%- if add_generation_prompt %}\n<|im_start|>assistant\n"
    + "{%- if enable_thinking is defined and enable_thinking is false %}\n<think>\n\n</think>\n"
    + "{%- endif %}\n{%- endif %}"
)
# Contents are lists of parts.
STRUCTURED = (
    "{%- for message in messages %}\n"
    "<|im_start|>{{ message.role }}\n"
    "{% for item in message['content'] %}{% if item.type == 'text' %}{{ item.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n"
    "{%- endfor %}\n"
    "<|im_start|>assistant\n"
)
# The document comes first, so that a long one cuts the query; a newline after each text; the instruction at the end.
DOCUMENT_FIRST = COLLECT + "Document: {{ task.document }}\nQuery: {{ task.query }}\n{{ task.text }}\nAnswer:"
# Special tokens by their variables, as Llama's and Gemma's templates have them.
BEGINS_WITH_BOS = (
    "{{ bos_token }}"
    + COLLECT
    + "Query: {{ task.query | trim }}\nDocument: {{ task.document | trim }}\n{{ task.text }} 1 or 0?{{ eos_token }}"
)
# What else templates use: loop controls, macros, strings' methods, a raise, tojson that escapes no HTML and keeps other
# scripts.
ELABORATE = (
    "{%- macro part(name, text) -%}\n<{{ name | upper }}>{{ text | tojson }}</{{ name }}>\n{%- endmacro -%}\n"
    "{%- if messages | length < 2 %}{{ raise_exception('a query and a document are needed') }}{% endif %}\n"
    "{%- for message in messages %}\n"
    "    {% if message['role'] == 'system' %}\n"
    "        {% continue %}\n"
    "    {% endif %}\n"
    "{{ part(message['role'], message['content'].strip()) }}{{ '\\n' if not loop.last }}\n"
    "    {% if loop.index0 > 3 %}{% break %}{% endif %}\n"
    "{%- endfor %}\n"
    "{% set first = messages[0] %}\n"
    "{% if first.role == 'system' %}({{ first.content[:20] }}){% endif %}\n"
    "{% generation %}<|im_start|>{% endgeneration %}"
)
