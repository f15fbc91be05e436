"""Templates of three kinds, and a conversation of two rounds, for the tests of tokenizer and rendering."""

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Date and reasoning mode in the system turn, an empty <think> block before every answer, generation marks.
SMOLLM3_STYLE = (
    "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
    "{{- '<|im_start|>system\nToday Date: ' + strftime_now('%d %B %Y') + '\nReasoning Mode: ' -}}"
    "{{- ('/think' if enable_thinking else '/no_think') + '\n\n' -}}"
    "{%- if messages[0].role == 'system' -%}{{- messages[0].content -}}{%- endif -%}{{- '<|im_end|>\n' -}}"
    "{%- set opening = '<|im_start|>assistant\n' + ('' if enable_thinking else '<think>\n\n</think>\n') -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{%- elif m.role == 'assistant' -%}{% generation %}{{ opening + m.content + '<|im_end|>\n' }}{% endgeneration %}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{ opening }}{%- endif -%}"
)
LLAMA3_STYLE = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now(\"%d %b %Y\") %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}{%- for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{%- if m.role == 'system' %}{{- 'Today Date: ' + date_string + '\n\n' }}{%- endif %}"
    "{{- m.content | trim + eos_token }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
TEMPLATES = {"chatml": CHATML, "smollm3": SMOLLM3_STYLE, "llama3": LLAMA3_STYLE}

CONVERSATION = [
    {"role": "system", "content": "Be exact."},
    {"role": "user", "content": "How many cups in a pint?"},
    {"role": "assistant", "content": "2 cups.\n1. Fill one.\n2. Fill another."},
    {"role": "user", "content": "And in a quart?"},
    {"role": "assistant", "content": "Four: 32 fl oz at 100 °C or cold."},
]
