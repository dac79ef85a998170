"""How many tokens a model makes of a text in its reader's language, by its own tokenizer.

Measured where the model is on this machine's disk, in a process of its own with little time and
memory: a tokenizer is a file from elsewhere. The program is that of an installed engine, which has
the `tokenizers` library; without one, or without a `tokenizer.json`, nothing is said.
"""

import json
import logging
import subprocess
from pathlib import Path

from django.core.cache import cache
from django.utils.translation.trans_real import parse_accept_lang_header

from inference import catalog, demo
from inference.model_card import ModelCard
from inference.node.store import Shelf
from portal.lib.env import environment

LIMIT = 20  # seconds
KEPT = 30 * 24 * 3600  # seconds for which a measurement is remembered; a revision never changes
KEPT_FAILURE = 600
FILE = "tokenizer.json"

log = logging.getLogger(__name__)

# The same short text, by language. Its words are everyday ones, with a few names and numbers.
TEXTS = {
    "en": (
        "The library on the corner opens at nine in the morning and closes at eight at night. "
        "Anyone who lives in the city may borrow up to ten books for three weeks, and renew them "
        "twice by telephone or on the website. On Saturdays volunteers read stories to children on "
        "the second floor, and once a month an author comes to talk about a new novel. Last year "
        "more than 120,000 people visited, which is a quarter more than the year before. The "
        "director, Ms Chen, says that the quiet rooms are what students ask for most, so the "
        "building will be enlarged next spring. Until then, please bring your own headphones, keep "
        "your voice low, and return borrowed books on time so that others can enjoy them as well."
    ),
    "zh-hant": (
        "街角的圖書館早上九點開門，晚上八點關門。住在本市的人都可以借閱最多十本書，借期三週，並可透過電話或"
        "網站續借兩次。每逢星期六，志工會在二樓為孩子們說故事；每個月還有一位作家前來談談新出版的小說。去年"
        "有超過十二萬人次造訪，比前一年多了四分之一。館長陳女士表示，學生最常要求的是安靜的自習室，因此大樓"
        "將在明年春天擴建。在此之前，請自備耳機、放低音量，並準時歸還借閱的書籍，讓其他人也能享受閱讀的樂趣。"
    ),
    "zh-hans": (
        "街角的图书馆早上九点开门，晚上八点关门。住在本市的人都可以借阅最多十本书，借期三周，并可通过电话或"
        "网站续借两次。每逢星期六，志愿者会在二楼为孩子们讲故事；每个月还有一位作家前来谈谈新出版的小说。去年"
        "有超过十二万人次到访，比前一年多了四分之一。馆长陈女士表示，学生最常要求的是安静的自习室，因此大楼"
        "将在明年春天扩建。在此之前，请自备耳机、放低音量，并准时归还借阅的书籍，让其他人也能享受阅读的乐趣。"
    ),
    "ja": (
        "街角の図書館は朝九時に開き、夜八時に閉まります。市内に住んでいる人なら誰でも、十冊までの本を三週間"
        "借りることができ、電話かウェブサイトで二回まで延長できます。土曜日には二階でボランティアが子どもたちに"
        "物語を読み聞かせ、月に一度は作家が新しい小説について話しに来ます。昨年の来館者は十二万人を超え、前の年"
        "より四分の一も増えました。館長の陳さんによると、学生から最も多い要望は静かな自習室なので、建物は来年の"
        "春に増築される予定です。それまではヘッドフォンを持参し、声を小さくし、ほかの人も楽しめるように、借りた"
        "本は期限までに返してください。"
    ),
}

_COUNT = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (15, 15))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
texts = json.load(sys.stdin)
counts = {k: len(tokenizer.encode(v, add_special_tokens=False).ids) for k, v in texts.items()}
json.dump(counts, sys.stdout)
"""


def tokens_per_thousand(card: ModelCard) -> dict[str, int]:
    """Tokens of 1,000 characters of each language in TEXTS; empty: not known here."""
    counts = _counts(card) or {}
    return {name: round(1000 * count / len(TEXTS[name])) for name, count in counts.items()}


def language_of(wishes: str, shown: str) -> str:
    """The reader's among TEXTS: that of the pages, or the first one that the browser wishes for
    (`Accept-Language`) where the pages are in English."""
    for code in [shown, *(code for code, _ in parse_accept_lang_header(wishes))]:
        if code.startswith("zh"):
            return "zh-hant" if code.endswith(("hant", "tw", "hk", "mo")) else "zh-hans"
        if code.startswith("ja"):
            return "ja"
        if code.startswith("en") and code != shown:
            return "en"
    return "en"


def _counts(card: ModelCard) -> dict[str, int] | None:
    if not card.revision:
        return None
    key = f"text-size:{card.source}:{card.revision}"
    known: dict[str, int] | None = cache.get(key)
    if known is None:
        file = tokenizer_file(card)
        known = count(file) if file else None
        cache.set(key, known or {}, KEPT if known else KEPT_FAILURE)
    return known or None


def tokenizer_file(card: ModelCard) -> Path | None:
    """Where it is on this machine's disk, if it is."""
    if card.source == "bundled":
        folder: Path | None = demo.MODEL_PATH
    elif card.source == "hub":
        folder = Shelf(environment().home / "models", card.model_id).snapshot(card.revision)
    else:
        try:
            folder = catalog.model_path(card.source, card.model_id)
        except catalog.FolderNotFound:
            folder = None
    file = folder / FILE if folder else None
    return file if file and file.is_file() else None


def count(file: Path) -> dict[str, int] | None:
    """Tokens of each of TEXTS; None where they cannot be counted, which is told to the log."""
    python = _python()
    if python is None:
        return None
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", _COUNT, str(file.resolve())],
            input=json.dumps(TEXTS),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=True,
            env={"TOKENIZERS_PARALLELISM": "false"},
        )
        counts = json.loads(done.stdout)
        return {name: int(counts[name]) for name in TEXTS}
    except subprocess.CalledProcessError as error:
        log.warning("%s cannot be read: %s", file, error.stderr.strip()[-300:])
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read: %s", file, error)
    return None


def _python() -> Path | None:
    """Of an engine that brings the library."""
    for marker in sorted((environment().home / "engines").glob("*/.complete")):
        folder = marker.parent
        if next(folder.glob("lib/python3*/site-packages/tokenizers"), None):
            return folder / "bin" / "python"
    return None
