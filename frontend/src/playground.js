import DOMPurify from "dompurify";
import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import { marked } from "marked";

for (const [name, language] of Object.entries({ bash, javascript, json, python })) {
  hljs.registerLanguage(name, language);
}
marked.setOptions({ gfm: true, breaks: false });
// Headings of an answer sit below those of the page: # becomes h3.
marked.use({
  renderer: {
    heading({ tokens, depth }) {
      const level = Math.min(6, Math.max(3, depth + 2));
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    // No images: their addresses would carry the conversation away.
    image({ text }) {
      return `[${escaped(text)}]`;
    },
    // A model that writes HTML is shown to write HTML.
    html({ text }) {
      return escaped(text);
    },
  },
});

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
function escaped(text) {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character]);
}

// What markdown makes, and nothing that loads or runs.
const TAGS =
  "a b blockquote br code del em h3 h4 h5 h6 hr i li ol p pre s strong sub sup table tbody td th thead tr u ul".split(
    " ",
  );

const $ = (id) => document.getElementById(id);
const page = $("playground");
const text = JSON.parse($("playground-text").textContent);
const clone = (id) => $(id).content.firstElementChild.cloneNode(true);

/** Streams markdown into one element. Blocks that are closed stay; only the last is drawn anew. */
class MarkdownStream {
  constructor(element) {
    this.element = element;
    this.raw = "";
    this.blocks = [];
    this.frame = 0;
    this.paintedAt = 0;
  }
  push(delta) {
    this.raw += delta;
    this.frame ||= requestAnimationFrame((now) => this.tick(now));
  }
  tick(now) {
    this.frame = 0;
    if (now - this.paintedAt < 40) {
      this.frame = requestAnimationFrame((later) => this.tick(later));
      return;
    }
    this.paintedAt = now;
    this.paint(false);
  }
  end() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.paint(true);
  }
  paint(final) {
    const tokens = marked.lexer(this.raw).filter((token) => token.type !== "space");
    tokens.forEach((token, index) => {
      const last = index === tokens.length - 1;
      const old = this.blocks[index];
      if (old && old.raw === token.raw && !(final && last)) return;
      const node = this.render(token, final || !last);
      if (old) old.node.replaceWith(node);
      else this.element.append(node);
      this.blocks[index] = { raw: token.raw, node };
    });
    while (this.blocks.length > tokens.length) this.blocks.pop().node.remove();
  }
  render(token, closed) {
    if (token.type === "code") return this.renderCode(token, closed);
    const node = document.createElement("div");
    node.innerHTML = DOMPurify.sanitize(marked.parser([token]), {
      ALLOWED_TAGS: TAGS,
      ALLOWED_ATTR: ["href", "title", "start", "align"],
    });
    for (const link of node.querySelectorAll("a")) {
      link.rel = "noopener noreferrer nofollow";
      link.target = "_blank";
    }
    return node;
  }
  renderCode(token, closed) {
    const node = clone("code");
    const code = node.querySelector("code");
    node.querySelector("[data-lang]").textContent = token.lang || "text";
    node.querySelector("[data-copy]").dataset.copy = token.text;
    code.textContent = token.text;
    if (closed && hljs.getLanguage(token.lang || "")) {
      code.innerHTML = hljs.highlight(token.text, { language: token.lang }).value; // escapes
    }
    return node;
  }
}

/** The tab's socket: many answers, told apart by id; reconnects when it drops. */
class Link {
  constructor(path) {
    this.url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
    this.waiting = new Map(); // slot → answer, asked for but not begun
    this.live = new Map(); // id → answer
    this.tries = 0;
    this.unsent = []; // said while the socket was still opening
    this.open();
  }
  open() {
    this.socket = new WebSocket(this.url);
    this.socket.onopen = () => {
      this.tries = 0;
      for (const message of this.unsent.splice(0)) this.socket.send(message);
    };
    this.socket.onmessage = (event) => {
      for (const message of JSON.parse(event.data)) this.receive(message);
    };
    this.socket.onclose = (event) => this.closed(event);
  }
  closed(event) {
    const refused = event.code >= 4400;
    const message = refused ? text.refused : text.lost;
    for (const answer of [...this.waiting.values(), ...this.live.values()]) answer.fail({ message });
    this.waiting.clear();
    this.live.clear();
    this.unsent = [];
    busy();
    if (refused) {
      notice(text.refused);
      return;
    }
    const delay = Math.min(8000, 250 * 2 ** this.tries++) * (0.7 + Math.random() * 0.6);
    setTimeout(() => this.open(), delay);
  }
  send(message) {
    const text = JSON.stringify(message);
    if (this.socket.readyState === WebSocket.CONNECTING) this.unsent.push(text);
    else if (this.socket.readyState === WebSocket.OPEN) this.socket.send(text);
    else return false;
    return true;
  }
  start(answer, request) {
    if (!this.send({ t: "start", slot: answer.slot, ...request })) {
      answer.fail({ message: text.lost });
      return;
    }
    this.waiting.set(answer.slot, answer);
  }
  stop() {
    for (const id of this.live.keys()) this.send({ t: "stop", id });
  }
  receive(message) {
    if (message.t === "start") {
      this.live.set(message.id, this.waiting.get(message.slot));
      this.waiting.delete(message.slot);
    } else if (message.t === "err" && !message.id) {
      const answer = this.waiting.get(message.slot);
      this.waiting.delete(message.slot);
      if (answer) answer.fail(message);
      else notice(message.message);
    } else {
      this.deliver(message);
    }
    busy();
  }
  deliver(message) {
    const answer = this.live.get(message.id);
    if (!answer) return;
    if (message.t === "d") {
      answer.delta(message);
      return;
    }
    if (message.t === "wait") {
      answer.wait(message);
      return;
    }
    this.live.delete(message.id);
    if (message.t === "end") answer.end(message);
    else answer.fail(message);
  }
}

/** One answer in the conversation, being written. */
class Answer {
  constructor() {
    this.slot = crypto.randomUUID();
    this.node = clone("answer");
    $("thread").append(this.node);
    this.body = this.node.querySelector("[data-md]");
    this.stats = this.node.querySelector("[data-stats]");
    this.reasoning = this.node.querySelector("[data-reasoning]");
    this.markdown = new MarkdownStream(this.body);
    this.body.classList.add("caret");
    this.stats.textContent = text.waiting;
    follow();
  }
  /** Its instance sleeps: say what it does to wake, and how long that takes. */
  wait({ message }) {
    this.stats.textContent = message;
    $("say").textContent = message;
  }
  delta({ s, r }) {
    this.stats.textContent = text.waiting;
    if (r) {
      this.reasoning.hidden = false;
      this.reasoning.querySelector("p").textContent += r;
    }
    if (s) this.markdown.push(s);
    requestAnimationFrame(follow);
  }
  close() {
    this.markdown.end();
    this.body.classList.remove("caret");
    this.node.querySelector("[data-actions]").hidden = false;
    this.node.querySelector("[data-copy]").dataset.copy = this.markdown.raw;
    requestAnimationFrame(follow);
  }
  end(message) {
    this.close();
    conversation.push({ role: "assistant", content: this.markdown.raw });
    const parts = [];
    if (message.ttft_ms != null) parts.push(`${text.ttft} ${message.ttft_ms} ms`);
    if (message.completion_tokens != null) {
      const seconds = Math.max(1, message.duration_ms - (message.ttft_ms ?? 0)) / 1000;
      parts.push(`${(message.completion_tokens / seconds).toFixed(0)} ${text.speed}`);
      parts.push(`${message.prompt_tokens} → ${message.completion_tokens} ${text.tokens}`);
      count(message.prompt_tokens, message.completion_tokens);
    }
    if (message.finish === "stopped") parts.push(text.stopped);
    if (message.finish === "length") parts.push(text.cut);
    this.stats.textContent = parts.join(" · ");
    $("say").textContent = parts.join(", ");
  }
  fail({ message, request_id: requestId }) {
    this.close();
    this.stats.textContent = requestId ? `${message} (${requestId})` : message;
    this.stats.classList.add("text-destructive");
    $("say").textContent = message;
  }
}

let conversation = []; // what the model is told; it lives in this tab only
const total = { input: 0, output: 0 };
const link = new Link(page.dataset.socket);
const form = $("composer");
const question = $("question");
const thread = $("scroll");

let pinned = true; // follow the bottom only while the reader is there
thread.addEventListener(
  "scroll",
  () => {
    pinned = thread.scrollHeight - thread.scrollTop - thread.clientHeight < 40;
  },
  { passive: true },
);
function follow() {
  if (pinned) thread.scrollTop = thread.scrollHeight;
}

function notice(message) {
  $("notice").textContent = message;
  $("notice").hidden = false;
}

function count(input, output) {
  total.input += input;
  total.output += output;
  $("total").textContent = `${total.input.toLocaleString()} / ${total.output.toLocaleString()}`;
}

function busy() {
  const working = link && link.live.size + link.waiting.size > 0;
  $("send").hidden = working;
  $("stop").hidden = !working;
}

function params() {
  const chosen = {};
  for (const input of document.querySelectorAll("[data-param]")) {
    if (input.value !== "") chosen[input.name] = Number(input.value);
  }
  return chosen;
}

function ask() {
  busy();
  const answer = new Answer();
  link.start(answer, {
    model: $("model").value,
    system: $("system").value,
    messages: conversation,
    params: params(),
  });
  busy();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const content = question.value.trim();
  if (!content || link.live.size + link.waiting.size > 0) return;
  $("empty")?.remove();
  const bubble = clone("question-bubble");
  bubble.textContent = content;
  $("thread").append(bubble);
  conversation.push({ role: "user", content });
  question.value = "";
  pinned = true;
  ask();
});

$("stop").addEventListener("click", () => {
  link.stop();
  question.focus();
});

$("clear").addEventListener("click", () => {
  link.stop();
  conversation = [];
  $("thread").replaceChildren();
  question.focus();
});

// Regenerate: drop the last answer and ask again.
$("thread").addEventListener("click", (event) => {
  const button = event.target.closest("[data-regenerate]");
  if (!button || link.live.size + link.waiting.size > 0) return;
  const article = button.closest("article");
  if (article !== $("thread").lastElementChild) return;
  if (conversation.at(-1)?.role === "assistant") conversation.pop();
  article.remove();
  ask();
});

// An input method's Enter chooses a word; only a plain Enter sends.
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
    event.preventDefault();
    form.requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) link.stop();
});
document.addEventListener("input", (event) => {
  const range = event.target.closest("[data-range]");
  if (range) $(range.dataset.range).value = range.value;
});
