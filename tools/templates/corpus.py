"""Small templates of our own with the constructs that published families use, one list a family."""

import random

DEFAULTS = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None, "add_generation_prompt": False}

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Today's weather, \"as it is\" <b>\u00e9</b>",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "K\u00f8benhavn"]}, "days": {"type": ["integer", "null"], "default": 1.5}},
            "required": ["city"],
        },
    },
}
CALL = {"id": "abc123def", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo", "days": 2}}}

U = lambda text: {"role": "user", "content": text}
A = lambda text, **more: {"role": "assistant", "content": text, **more}
S = lambda text: {"role": "system", "content": text}

CONVERSATIONS = [
    {"messages": [U("Hi")]},
    {"messages": [U("Hi"), A(" Hello! ")]},
    {"messages": [S("Be brief.\r\n"), U("h\u00e9h\u00e9 \U0001f600\u001f"), A("<think>\nlong \u00e9\n</think>\n\nanswer \u00e9")]},
    {"messages": [S("s"), U("1"), A("<think>a</think>b"), U("2"), A("c", reasoning_content="because")], "add_generation_prompt": True},
    {"messages": [U("weather?"), A(None, tool_calls=[CALL]), {"role": "tool", "name": "weather", "tool_call_id": "abc123def", "content": "{\"t\": -1.0}"}, A("Cold.")], "tools": [TOOL]},
    {"messages": [U([{"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]), A("A text.")]},
    {"messages": [U("x"), U("y")]},
    {"messages": [A("first"), U("then")], "documents": [{"title": "T", "text": "body"}], "enable_thinking": False},
    {"messages": [U("x"), A("")], "tools": [TOOL, TOOL], "enable_thinking": True, "add_generation_prompt": True},
]

ENDS = ["", " ", "\n", "\n\n", " \n ", "\t", "\u00a0", "\u001f", "\r\n"]
WORDS = ["Hi", "h\u00e9 \U0001f600", "a\nb", "<think>\nso\n</think>\n\nyes", "<think></think>", "</think>", "x'y\"z", "{{ no }}", "<tool_response>r</tool_response>", "/no_think", "", "\u4f60\u597d", "1 < 2 & 3", "<|im_end|>", "\\n"]


def conversations(count):
    """Seeded conversations of every kind: systems, tools and their results, parts, thinking, no content, blanks at either end."""
    for seed in range(count):
        r = random.Random(f"conversation {seed}")
        text = lambda: r.choice(ENDS) + " ".join(r.choice(WORDS) for _ in range(r.randrange(1, 3))) + r.choice(ENDS)
        messages, tools = [], r.random() < 0.4
        if r.random() < 0.5:
            messages.append(S(text()))
        for turn in range(r.randrange(1, 4)):
            messages.append(U([{"type": "text", "text": text()}, {"type": "text", "text": text()}] if r.random() < 0.1 else text()))
            more = {}
            if r.random() < 0.25:
                more["reasoning_content"] = r.choice([text(), None, ""])
            if tools and r.random() < 0.6:
                arguments = r.choice([{"city": text(), "n": r.choice([1, 1.5, None, True, [1, "a"], {"b": 1, "a": 2}])}, {}, '{"city": "Oslo"}'])
                call = {"id": r.choice(["abc123def", "x", "call_0123"]), "type": "function", "function": {"name": "weather", "arguments": arguments}}
                calls = [call] * r.choice([1, 1, 2])
                messages.append(A(r.choice([None, "", text()]), tool_calls=[c["function"] for c in calls] if r.random() < 0.1 else calls, **more))
                for call in calls:
                    messages.append({"role": "tool", "name": "weather", "tool_call_id": call["id"], "content": r.choice([text(), '{"t": -1.0}', {"t": 1, "s": text()}, [1, 2], {"content": text()}])})
                if r.random() < 0.3:
                    continue
            if turn or r.random() < 0.9:
                messages.append(A(r.choice([text(), text(), text(), None, [{"type": "text", "text": text()}]]) if r.random() < 0.3 else text(), **more))
        given = {"messages": messages, "add_generation_prompt": r.random() < 0.4}
        if tools:
            given["tools"] = [TOOL] * r.choice([1, 2])
        if r.random() < 0.2:
            given["documents"] = [{"title": text(), "text": text()} for _ in range(r.randrange(3))]
        for name, values in {"enable_thinking": [True, False], "date_string": ["1 Jan 2025"], "controls": [{"length": "short"}], "custom_tools": [[TOOL], None], "tools_in_user_message": [True, False], "reasoning_effort": ["low"]}.items():
            if r.random() < 0.15:
                given[name] = r.choice(values)
        yield given


FAMILIES = {
    "llama3": [
        "{{- bos_token }}\n{%- if custom_tools is defined %}\n{%- set tools = custom_tools %}\n{%- endif %}\n{%- if not date_string is defined %}\n{%- if strftime_now is defined %}\n{%- set date_string = strftime_now('%d %b %Y') %}\n{%- else %}\n{%- set date_string = '26 Jul 2024' %}\n{%- endif %}\n{%- endif %}\n{%- if not tools is defined %}{%- set tools = none %}{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n{%- set system_message = messages[0]['content']|trim %}\n{%- set messages = messages[1:] %}\n{%- else %}\n{%- set system_message = '' %}\n{%- endif %}\n{{- '<|h|>system<|/h|>\\n\\n' }}\n{%- if tools is not none %}\n{{- 'Env: ipython\\n' }}\n{%- for t in tools %}\n{{- t | tojson(indent=4) }}\n{{- '\\n\\n' }}\n{%- endfor %}\n{%- endif %}\n{{- 'Today: ' + date_string + '\\n\\n' + system_message + '<|e|>' }}\n{%- for message in messages %}\n{%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n{{- '<|h|>' + message['role'] + '<|/h|>\\n\\n' + message['content'] | trim + '<|e|>' }}\n{%- elif 'tool_calls' in message %}\n{%- if not message.tool_calls|length == 1 %}\n{{- raise_exception('one call only') }}\n{%- endif %}\n{%- set tool_call = message.tool_calls[0].function %}\n{{- '{\"name\": \"' + tool_call.name + '\", \"parameters\": ' }}\n{{- tool_call.arguments | tojson }}\n{{- '}<|e|>' }}\n{%- elif message.role == 'tool' %}\n{%- if message.content is mapping or message.content is iterable %}\n{{- message.content | tojson }}\n{%- else %}\n{{- message.content }}\n{%- endif %}\n{%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n{{- '<|h|>assistant<|/h|>\\n\\n' }}\n{%- endif %}\n",
        "{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls %}{% for name, arg in m.tool_calls[0].function.arguments.items() %}{{ name + '=\"' ~ arg ~ '\"' }}{% if not loop.last %}, {% endif %}{% endfor %}{% endif %}{% endfor %}",
    ],
    "qwen": [
        "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {%- if messages[0].role == 'system' %}\n        {{- messages[0].content + '\\n\\n' }}\n    {%- endif %}\n    {{- '# Tools\\n<tools>' }}\n    {%- for tool in tools %}\n        {{- '\\n' }}\n        {{- tool | tojson }}\n    {%- endfor %}\n    {{- '\\n</tools><|im_end|>\\n' }}\n{%- endif %}\n{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if ns.multi_step_tool and message.role == 'user' and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n    {%- endif %}\n{%- endfor %}\n{%- for message in messages %}\n    {%- if message.content is string %}\n        {%- set content = message.content %}\n    {%- else %}\n        {%- set content = '' %}\n    {%- endif %}\n    {%- if message.role == 'assistant' %}\n        {%- set reasoning_content = '' %}\n        {%- if message.reasoning_content is string %}\n            {%- set reasoning_content = message.reasoning_content %}\n        {%- elif '</think>' in content %}\n            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\n            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n        {%- endif %}\n        {%- if loop.index0 > ns.last_query_index %}\n            {%- if loop.last or (not loop.last and reasoning_content) %}\n                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}\n            {%- else %}\n                {{- '<|im_start|>' + message.role + '\\n' + content }}\n            {%- endif %}\n        {%- else %}\n            {{- '<|im_start|>' + message.role + '\\n' + content }}\n        {%- endif %}\n        {%- if message.tool_calls %}\n            {%- for tool_call in message.tool_calls %}\n                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}\n                {{- '\\n<tool_call>' ~ tool_call.name ~ (tool_call.arguments | tojson) ~ '</tool_call>' }}\n            {%- endfor %}\n        {%- endif %}\n        {{- '<|im_end|>\\n' }}\n    {%- elif message.role == 'tool' %}\n        {%- if loop.first or (messages[loop.index0 - 1].role != 'tool') %}{{- '<|im_start|>user' }}{%- endif %}\n        {{- '\\n<r>\\n' + content + '\\n</r>' }}\n        {%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}{{- '<|im_end|>\\n' }}{%- endif %}\n    {%- else %}\n        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}\n{%- endif %}",
        "{% for m in messages %}{% set c = m.content if m.content is string else '' %}{% set i = c.find('</think>') %}{{ c[i+8:] if i >= 0 else c }}|{% endfor %}",
        "{% for m in messages %}\r\n<|{{ m.role }}|>\r\n{{ m.content }}\r\n{% endfor %}\r\n",
    ],
    "mistral": [
        "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{%- set user_messages = loop_messages | selectattr('role', 'equalto', 'user') | list %}{%- set ns = namespace(index=0) %}{%- for message in loop_messages %}{%- if not (message.role == 'tool' or (message.tool_calls is defined and message.tool_calls is not none)) %}{%- if (message['role'] == 'user') != (ns.index % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}{%- set ns.index = ns.index + 1 %}{%- endif %}{%- endfor %}{{- bos_token }}{%- for message in loop_messages %}{%- if message['role'] == 'user' %}{%- if tools is not none and (message == user_messages[-1]) %}{{- '[AVAILABLE_TOOLS][' }}{%- for tool in tools %}{%- set tool = tool.function %}{{- '{\"type\": \"function\", \"function\": {' }}{%- for key, val in tool.items() if key != 'return' %}{%- if val is string %}{{- '\"' + key + '\": \"' + val + '\"' }}{%- else %}{{- '\"' + key + '\": ' + val|tojson }}{%- endif %}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- '}}' }}{%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' }}{%- endif %}{%- endfor %}{{- '[/AVAILABLE_TOOLS]' }}{%- endif %}{{- '[INST]' ~ message['content'] ~ '[/INST]' }}{%- elif message.tool_calls is defined and message.tool_calls is not none %}{{- '[TOOL_CALLS][' }}{%- for tool_call in message.tool_calls %}{%- set out = tool_call.function|tojson %}{{- out[:-1] }}{%- if not tool_call.id is defined or tool_call.id|length != 9 %}{{- raise_exception('ids are nine long') }}{%- endif %}{{- ', \"id\": \"' + tool_call.id + '\"}' }}{%- endfor %}{{- ']' + eos_token }}{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content']|trim + eos_token }}{%- elif message['role'] == 'tool' %}{%- if message.content is defined and message.content.content is defined %}{%- set content = message.content.content %}{%- else %}{%- set content = message.content %}{%- endif %}{{- '[R]{\"content\": ' + content|string + '}[/R]' }}{%- endif %}{%- endfor %}",
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}{% if message['content'] is string %}{{ ' [INST] ' + message['content'] + ' [/INST]' }}{% else %}{% for block in message['content'] %}{% if block['type'] == 'text' %}{{ block['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}",
    ],
    "gemma": [
        "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n    {%- if messages[0]['content'] is string -%}\n        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n    {%- else -%}\n        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}\n    {%- endif -%}\n    {%- set loop_messages = messages[1:] -%}\n{%- else -%}\n    {%- set first_user_prefix = '' -%}\n    {%- set loop_messages = messages -%}\n{%- endif -%}\n{%- for message in loop_messages -%}\n    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n        {{ raise_exception('must alternate') }}\n    {%- endif -%}\n    {%- if (message['role'] == 'assistant') -%}{%- set role = 'model' -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}\n    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}\n    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}\n    {%- elif message['content'] is iterable -%}\n        {%- for item in message['content'] -%}\n            {%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}\n        {%- endfor -%}\n    {%- else -%}\n        {{ raise_exception('Invalid content type') }}\n    {%- endif -%}\n    {{ '<end_of_turn>\n' }}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n    {{ '<start_of_turn>model\n' }}\n{%- endif -%}\n",
    ],
    "deepseek": [
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<U>' ~ message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is none %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}{%- if not ns.is_first %}{{'<A><calls>' + tool['type'] + '<sep>' + tool['function']['name'] + '\\n```json\\n' ~ tool['function']['arguments'] ~ '\\n```'}}{%- set ns.is_first = true -%}{%- endif %}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<A>' + content + '<E>'}}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{{'<out>' + message['content'] + '</out>'}}{%- endif %}{%- endfor -%}{% if add_generation_prompt and not ns.is_tool %}{{'<A><think>\\n'}}{% endif %}",
    ],
    "nemotron": [
        "{% macro render_extra(d, skip) %}{% if d is mapping %}{% for k in d if k not in skip %}{% if d[k] is mapping or (d[k] is sequence and d[k] is not string) %}{{ '\\n<' ~ k ~ '>' ~ (d[k] | tojson | safe) ~ '</' ~ k ~ '>' }}{% else %}{{ '\\n<' ~ k ~ '>' ~ (d[k] | string) ~ '</' ~ k ~ '>' }}{% endif %}{% endfor %}{% endif %}{% endmacro %}{% if tools is iterable and tools | length > 0 %}{% for tool in tools %}{{ render_extra(tool.function, ['description']) }}{% endfor %}{% endif %}{% for m in messages %}{{ '<SPECIAL>' + m.role | capitalize + '\\n' }}{{ m.content | string | trim }}{% endfor %}",
        "{%- set ns = namespace(thinking=true) %}{%- for m in messages %}{%- if m['role'] == 'user' or m['role'] == 'system' %}{%- if '/think' in m['content'] %}{%- set ns.thinking = true %}{%- elif '/no_think' in m['content'] %}{%- set ns.thinking = false %}{%- endif %}{%- endif %}{%- endfor %}{{ ns.thinking }}{{- messages[0].content.replace('/think', '').strip() if messages[0].content is string }}",
    ],
    "internlm2": [
        "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] | string + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ],
    "phi": [
        "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' }}{% else %}{{ '<|' + message['role'] + '|>' ~ message['content'] ~ '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
        "{% for message in messages %}{% if message['role'] in ['system', 'user'] and message['content'] %}{{'<|' ~ message['role'] ~ '|>\n' ~ message['content'] ~ '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{% generation %}{{'<|assistant|>\n' ~ message['content'] ~ '<|end|>\n'}}{% endgeneration %}{% endif %}{% endfor %}",
    ],
    "olmo2": [
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}{{ '<|user|>\n' ~ message['content'] ~ '\n' }}{% elif message['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\n' ~ message['content'] ~ eos_token + '\n' }}{% else %}{{ '<|assistant|>\n' ~ message['content'] ~ eos_token }}{% endif %}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
    ],
    "granite": [
        "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set system_message = 'Knowledge Cutoff Date: April 2024.\nToday\\'s Date: ' + strftime_now('%B %d, %Y') + '.' %}{%- if tools and documents %}{%- set system_message = system_message + ' both' %}{%- elif tools %}{%- set system_message = system_message + ' tools' %}{%- elif documents %}{%- set system_message = system_message + ' documents' %}{%- endif %}{%- set loop_messages = messages %}{%- endif %}{{- '<|r|>system<|/r|>' + system_message + '<|e|>\n' }}{%- if tools %}{{- tools | tojson(indent=4) }}{%- endif %}{%- if documents %}{%- for document in documents %}{{- 'Document ' + loop.index0 | string + '\n' }}{{- document['text'] }}{%- if not loop.last %}{{- '\n\n' }}{%- endif %}{%- endfor %}{%- endif %}{%- for message in loop_messages %}{{- '<|r|>' + message['role'] + '<|/r|>' ~ message['content'] ~ '<|e|>\n' }}{%- if loop.last and add_generation_prompt %}{{- '<|r|>assistant' }}{%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}{{- '<|/r|>' }}{%- endif %}{%- endfor %}",
    ],
    "smollm3": [
        "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}{%- set reasoning_mode = '/think' if enable_thinking else '/no_think' -%}{%- set today = strftime_now('%d %B %Y') -%}{{- '<|im_start|>system\n' -}}{{- '## Metadata\n\nToday: ' ~ today ~ '\nMode: ' + reasoning_mode + '\n' -}}{%- if xml_tools or python_tools or tools -%}{%- set ns = namespace(xml='') -%}{%- for tool in tools -%}{%- set ns.xml = ns.xml ~ (tool | string) ~ '\n' -%}{%- endfor -%}{{- ns.xml -}}{%- endif -%}{%- for message in messages -%}{%- set content = message.content if message.content is string else '' -%}{%- if message.role == 'assistant' -%}{%- generation -%}{{- '<|im_start|>assistant\n' + content.lstrip('\n') + '<|im_end|>\n' -}}{%- endgeneration -%}{%- else -%}{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}",
    ],
    "command_r": [
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% elif false == true %}{% set loop_messages = messages %}{% set system_message = 'default' %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% if system_message != false %}{{ '<|S|>' + system_message + '<|E|>' }}{% endif %}{%- macro json_to_python_type(json_spec) %}{%- set basic = {'string': 'str', 'number': 'float', 'integer': 'int'} %}{%- if json_spec.type is string and json_spec.type in basic %}{{- basic[json_spec.type] }}{%- elif json_spec.type == 'array' %}{{- 'List[' + json_to_python_type(json_spec['items']) + ']' }}{%- elif json_spec.type is iterable and json_spec.type is not string %}{{- 'Union[' }}{%- for t in json_spec.type %}{{- json_to_python_type({'type': t}) }}{%- if not loop.last %}{{- ',' }}{%- endif %}{%- endfor %}{{- ']' }}{%- else %}{{- 'Any' }}{%- endif %}{%- endmacro %}{% for tool in tools or [] %}{{ 'def ' + tool.function.name + '(' }}{% for param, spec in tool.function.parameters.properties|items %}{{ param ~ ': ' ~ json_to_python_type(spec) }}{% if not loop.last %}, {% endif %}{% endfor %}{{ ')' }}{% endfor %}{% for message in loop_messages %}{% if message['role'] == 'user' %}{{ '<|U|>' ~ message['content'] }}{% elif message['role'] == 'assistant' %}{{ '<|C|>' ~ (message['content'] or '')|trim }}{% endif %}{% endfor %}",
    ],
}


def cases():
    for family, sources in FAMILIES.items():
        for source in sources:
            for conversation in [*CONVERSATIONS, *conversations(120)]:
                yield family, source, {**DEFAULTS, **conversation}
