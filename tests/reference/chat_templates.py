"""Chat templates of embedding models that were fine-tuned from chat models, written for this project."""

TURNS = (
    "{%- for message in messages %}\n<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{%- endfor %}\n"
)
# A turn for each message; an answer begins where that is asked for.
CHAT = TURNS + "{%- if add_generation_prompt %}\n<|im_start|>assistant\n{%- endif %}"
# The begin token from its variable; contents are lists of parts, trimmed.
PARTS = (
    "{{ bos_token }}"
    "{%- for message in messages %}"
    "[{{ message['role'] }}] {% for item in message['content'] %}{% if item.type == 'text' %}{{ item.text | trim }}"
    "{% endif %}{% endfor %}\n"
    "{%- endfor %}{{ eos_token }}"
)
# What a text is for decides what stands after it; a prompt is printed last.
TASKS = (
    "{%- set said = namespace(prompt='') %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}{% set said.prompt = message.content %}{% else %}{{ message.content }}"
    "{% endif %}"
    "{%- endfor %}"
    "{% if task is defined %} ({{ task }}){% endif %}{{ said.prompt }}<|im_end|>"
)
