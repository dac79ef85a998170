"""Says a taught question as other people might type it. PURE but for the generator given.

A model of this size learns questions by heart; these variants make it look for the words that
matter instead.
"""

import re
from random import Random

# Pattern → what may stand in its place, tried in a random order; the first that matches is used.
RULES: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "en": [
        (r"^How do I ", ("How can I ", "how to ", "how should I ", "I want to know how to ")),
        (r"^What is ", ("What's ", "what exactly is ", "Tell me what this is: ", "explain ")),
        (r"^Where (do|can) I ", ("Where can I ", "where to ", "Where should I ")),
        (r"^Where (is|are) ", ("Where do I find ", "I am looking for ", "where can I see ")),
        (r"^Can I ", ("Could I ", "Is it possible to ", "I want to ", "am I able to ")),
        (r"^Do I ", ("Do we ", "Will I ", "must I ")),
        (r"^Which ", ("What ", "tell me which ")),
        (r"^Does ", ("Will ", "can ")),
        (r"\bmy\b", ("the", "our", "an")),
        (r"\?$", (", please?", " exactly?", " here?", "??")),
    ],
    "zh-hant": [
        (r"^如何", ("怎麼", "要怎麼", "怎樣", "該如何", "請問如何", "我想知道如何")),
        (r"^什麼是(.+)？$", (r"\1是什麼？", r"請問什麼是\1", r"\1到底是什麼", r"\1是啥")),
        (r"^(.+)是什麼？$", (r"什麼是\1？", r"請問\1是什麼", r"\1是什麼意思")),
        (r"^有哪些(.+)？$", (r"\1有哪些？", r"列出\1", r"有什麼\1？")),
        (r"^可以(.+)嗎？$", (r"能\1嗎？", r"可不可以\1？", r"我想\1")),
        (r"^我(.+)嗎？$", (r"請問我\1嗎？", r"\1嗎？")),
        (r"需要(.+)嗎？$", (r"要有\1嗎？", r"一定需要\1嗎？")),
        (r"^為什麼", ("為何", "怎麼會", "請問為什麼")),
        (r"哪裡", ("哪邊", "什麼地方")),
        (r"？$", ("呢？", "？？", "，謝謝")),
    ],
    "zh-hans": [
        (r"^如何", ("怎么", "要怎么", "怎样", "该如何", "请问如何", "我想知道如何")),
        (r"^怎么", ("如何", "要怎么", "请问怎么")),
        (r"^什么是(.+)？$", (r"\1是什么？", r"请问什么是\1", r"\1到底是什么", r"\1是啥")),
        (r"^(.+)是什么？$", (r"什么是\1？", r"请问\1是什么", r"\1是什么意思")),
        (r"^有哪些(.+)？$", (r"\1有哪些？", r"列出\1", r"有什么\1？")),
        (r"^可以(.+)吗？$", (r"能\1吗？", r"可不可以\1？", r"我想\1")),
        (r"^我(.+)吗？$", (r"请问我\1吗？", r"\1吗？")),
        (r"需要(.+)吗？$", (r"要有\1吗？", r"一定需要\1吗？")),
        (r"^为什么", ("为何", "怎么会", "请问为什么")),
        (r"哪里", ("哪儿", "什么地方")),
        (r"？$", ("呢？", "？？", "，谢谢")),
    ],
    "ja": [
        (r"とは何ですか？$", ("って何ですか？", "とは？", "について教えて", "は何？")),
        (r"するには？$", ("する方法は？", "したいです", "したい", "の方法は？", "の仕方は？")),
        (
            r"には？$",
            ("にはどうすればいいですか？", "方法は？", "方法を教えて", "にはどうしますか"),
        ),
        (r"はどこですか？$", ("はどこにありますか？", "はどこ？", "の場所は？")),
        (r"できますか？$", ("できる？", "できるでしょうか？", "可能ですか？")),
        (r"ありますか？$", ("ある？", "あるのですか？", "あるか教えて")),
        (r"ですか？$", ("でしょうか？", "なの？", "ですか、教えて")),
        (r"^なぜ", ("どうして", "何で")),
        (r"は？$", ("は何ですか？", "を教えて", "を知りたい")),
        (r"ますか？$", ("ますでしょうか？", "ますか、教えて", "ますよね？")),
    ],
}


def reword(question: str, language: str, random: Random) -> str:
    """The same question: put otherwise, or typed in a hurry, or as it is."""
    if random.random() < 0.5:
        question = _put_otherwise(question, language, random)
    if random.random() < 0.4:
        question = question.rstrip("?？!！.。")
    if random.random() < 0.3:
        question = question.lower().replace("？", "?")
    if random.random() < 0.2:
        question = _drop_one(question, " " if language == "en" else "", random)
    return question


def _put_otherwise(question: str, language: str, random: Random) -> str:
    rules = RULES[language]
    for pattern, variants in random.sample(rules, len(rules)):
        if re.search(pattern, question):
            return re.sub(pattern, random.choice(variants), question)
    return question


def _drop_one(question: str, separator: str, random: Random) -> str:
    """Without one of its words, or of its characters where words are not set apart."""
    parts = question.split(separator) if separator else list(question)
    if len(parts) > 3:
        del parts[random.randrange(len(parts))]
    return separator.join(parts)
