// A conversation over /v1/chat/completions, streamed. It keeps its turns here and nowhere else.

const at = (id) => document.getElementById(id);
const turns = [];
let running = null;

export function headers() {
  const key = at("key").value.trim();
  return key ? { authorization: `Bearer ${key}` } : {};
}

at("key").value = sessionStorage.getItem("key") || "";
at("key").addEventListener("change", () => sessionStorage.setItem("key", at("key").value.trim()));

function shown(role, text) {
  const box = document.createElement("div");
  box.className = `turn ${role}`;
  const who = document.createElement("span");
  who.className = "who";
  who.textContent = role === "user" ? "You" : role === "error" ? "Error" : "Model";
  const reason = document.createElement("span");
  reason.className = "reason";
  const body = document.createElement("span");
  body.textContent = text;
  if (role === "error") body.className = "error";
  box.append(who, reason, body);
  at("log").append(box);
  at("log").scrollTop = at("log").scrollHeight;
  return { box, body, reason };
}

// What is added goes on being seen by who looks at the end; who reads further up is left there.
function following(add) {
  const log = at("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  add();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function asked() {
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  return {
    messages: turns,
    stream: true,
    stream_options: { include_usage: true },
    temperature: number("temperature"),
    top_p: number("top_p"),
    max_tokens: number("max_tokens"),
    seed: number("seed"),
  };
}

// The lines `data: ...` of a body, as they come; one may be cut anywhere.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    kept += value;
    const parts = kept.split("\n\n");
    kept = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

function lost(said) {
  return said ? "the connection was lost before the answer ended" : "the server does not answer";
}

async function send(text) {
  const turn = { role: "user", content: text };
  turns.push(turn);
  shown("user", text);
  const answer = shown("assistant", "");
  const mine = (running = new AbortController());
  at("stop").disabled = false;
  at("send").disabled = true;
  at("told").textContent = "";
  const began = performance.now();
  let first = null, said = "", usage = null, ended = null;
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json", ...headers() },
      body: JSON.stringify(asked()),
      signal: mine.signal,
    });
    if (!response.ok) throw new Error(await reason(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) usage = event.usage;
      const delta = event.choices?.[0]?.delta || {};
      if (first === null && (delta.content || delta.reasoning_content)) first = performance.now();
      ended = event.choices?.[0]?.finish_reason || ended;
      following(() => {
        if (delta.reasoning_content) answer.reason.textContent += delta.reasoning_content;
        if (delta.content) {
          said += delta.content;
          answer.body.textContent = said;
        }
      });
    }
    if (ended === null) throw new TypeError("the answer has no end");
  } catch (error) {
    if (!said && !answer.reason.textContent) answer.box.remove();
    if (error.name === "AbortError") ended = "stopped";
    else {
      // A browser's own words for a connection that is not there help nobody.
      shown("error", error instanceof TypeError ? lost(said) : error.message);
      if (!said && turns.includes(turn) && !at("prompt").value) at("prompt").value = text;
    }
  }
  // What was cleared meanwhile is gone; a question without an answer is not a part of what follows.
  if (turns.includes(turn)) {
    if (said) turns.push({ role: "assistant", content: said });
    else turns.splice(turns.indexOf(turn), 1);
  }
  if (running !== mine) return;
  at("stop").disabled = true;
  at("send").disabled = false;
  running = null;
  if (usage && first !== null) {
    const seconds = (performance.now() - first) / 1000;
    const rate = (usage.completion_tokens - 1) / Math.max(seconds, 1e-3);
    at("told").textContent =
      `${usage.prompt_tokens} + ${usage.completion_tokens} tokens ` +
      `(${usage.prompt_tokens_details.cached_tokens} cached), first after ` +
      `${Math.round(first - began)} ms, ${rate.toFixed(0)} tok/s` +
      (ended === "length" ? "; cut at “tokens at most” or the context's end" : "");
  } else if (ended === "stopped") at("told").textContent = "stopped";
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("prompt").value.trim();
  if (!text || running) return;
  at("prompt").value = "";
  send(text);
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
});
at("stop").addEventListener("click", () => running?.abort());
at("clear").addEventListener("click", () => {
  running?.abort();
  turns.length = 0;
  at("log").replaceChildren();
  at("told").textContent = "";
  at("prompt").focus();
});
at("prompt").focus();
