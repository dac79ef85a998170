"""The code that people paste: one call, in the languages that they use, highlighted."""

from dataclasses import dataclass

from django.utils.safestring import SafeString, mark_safe
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

PYTHON = """from openai import OpenAI

client = OpenAI(
    base_url="{base_url}",
    api_key="{key}",
)
stream = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "Hello!"}}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="")
"""
CURL = """curl {base_url}/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}",
       "messages": [{{"role": "user", "content": "Hello!"}}]}}'
"""
JAVASCRIPT = """import OpenAI from "openai";

const client = new OpenAI({{
  baseURL: "{base_url}",
  apiKey: "{key}",
}});
const stream = await client.chat.completions.create({{
  model: "{model}",
  messages: [{{ role: "user", content: "Hello!" }}],
  stream: true,
}});
for await (const chunk of stream) {{
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}}
"""
LANGUAGES = [("Python", "python", PYTHON), ("curl", "bash", CURL), ("JavaScript", "js", JAVASCRIPT)]


@dataclass(frozen=True)
class Snippet:
    """One tab."""

    name: str
    html: SafeString


def snippets(base_url: str, model: str, key: str = "mp-…") -> list[Snippet]:
    """The same call in each language."""
    formatter = HtmlFormatter(nowrap=True)
    return [
        Snippet(
            name,
            # Pygments escapes what it is given.
            mark_safe(  # noqa: S308
                highlight(
                    template.format(base_url=base_url, model=model, key=key),
                    get_lexer_by_name(lexer),
                    formatter,
                ).rstrip()
            ),
        )
        for name, lexer, template in LANGUAGES
    ]
