// The page: asks every model the same question, shows the words as they come. No library, no network but this server.
"use strict";

const element = (id) => document.getElementById(id);
const TITLES = { original: "Original", tuned: "Tuned" };
const page = { info: null, token: takeToken(), running: null };

// ---- the server -------------------------------------------------------------------------------------------------

// The token stands behind the # of the address once; after that it stays in this tab.
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return given || sessionStorage.getItem("token");
}

function call(path, options = {}) {
  const headers = { ...options.headers };
  if (page.token) headers.Authorization = `Bearer ${page.token}`;
  return fetch(path, { ...options, headers });
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  return body.error || `The server answered ${response.status}.`;
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

// ---- settings ---------------------------------------------------------------------------------------------------

const SLIDERS = { temperature: (v) => (+v).toFixed(2), top_p: (v) => (+v).toFixed(2), max_new_tokens: (v) => `${v} tokens` };

function settings() {
  const sample = document.querySelector('input[name="way"]:checked').value === "sample";
  const systemPrompt = element("system_prompt").value.trim();
  return {
    sample,
    temperature: +element("temperature").value,
    top_p: +element("top_p").value,
    seed: Math.min(Math.max(Math.trunc(+element("seed").value) || 0, 0), 2 ** 32 - 1),
    max_new_tokens: +element("max_new_tokens").value,
    system_prompt: systemPrompt === page.info.system_prompt.trim() ? null : systemPrompt,
  };
}

function described(chosen) {
  const way = chosen.sample ? `sampled at ${chosen.temperature}, top p ${chosen.top_p}, seed ${chosen.seed}` : "greedy";
  const prompt = chosen.system_prompt === null ? "" : chosen.system_prompt ? ", own system prompt" : ", no system prompt";
  return `${way}, at most ${chosen.max_new_tokens} tokens${prompt}`;
}

function showSettings() {
  const chosen = settings();
  for (const [name, shown] of Object.entries(SLIDERS)) element(`${name}-shown`).textContent = shown(element(name).value);
  element("sampling").disabled = !chosen.sample;
  element("way-note").textContent = chosen.sample
    ? "Words are drawn at random; the same seed draws the same answer."
    : "Always the likeliest word: the same question gets the same answer.";
  const note = element("prompt-note");
  note.classList.toggle("bad", chosen.system_prompt !== null);
  note.textContent = chosen.system_prompt === null
    ? page.info.models.some((model) => model.role === "tuned")
      ? "The one the tuned model was trained with." : "The project's own."
    : "Not the prompt it was trained with: answers may be worse than the model is.";
  element("summary").textContent = described(chosen);
}

function resetSettings() {
  const { defaults, limits, system_prompt } = page.info;
  element("max_new_tokens").max = Math.max(16, Math.floor(limits.answer_tokens / 16) * 16);
  for (const name of ["temperature", "top_p", "seed", "max_new_tokens"]) element(name).value = defaults[name];
  document.querySelector(`input[name="way"][value="${defaults.sample ? "sample" : "greedy"}"]`).checked = true;
  element("system_prompt").value = system_prompt;
  element("system_prompt").maxLength = limits.system_prompt_characters;
  showSettings();
}

// ---- asking -----------------------------------------------------------------------------------------------------

class AnswerView {
  constructor(model, round) {
    this.round = round;
    this.node = element("answer-template").content.firstElementChild.cloneNode(true);
    this.node.classList.add(model.role);
    this.role = model.role;
    this.text = this.node.querySelector(".text");
    this.state = this.node.querySelector(".state");
    this.copy = this.node.querySelector(".copy");
    this.node.querySelector("h3").textContent = TITLES[model.role];
    this.copy.addEventListener("click", () => copyText(this.copy, this.text.textContent));
    this.show("waiting", "asking …");
  }

  show(state, words) {
    this.state.dataset.state = state;
    this.state.textContent = words;
  }

  count(tokens, seconds) {
    const rate = seconds > 0.2 ? `, ${(tokens / seconds).toFixed(1)} per second` : "";
    this.node.querySelector(".count").textContent = `${tokens} ${tokens === 1 ? "token" : "tokens"}${rate}`;
  }

  finish(state, words) {
    this.node.setAttribute("aria-busy", "false");
    this.copy.disabled = !this.text.textContent;
    this.show(state, words);
  }

  take(event) {
    if (event.event === "waiting") {
      this.show("waiting", event.before === 1 ? "next in line" : `place ${event.before} in line`);
    } else if (event.event === "start") {
      this.started = performance.now();
      this.show("reading", "reading the prompt …");
      this.round.read(event.prompt_tokens, event.prompt_sha256);
    } else if (event.event === "text") {
      this.show("writing", "writing …");
      this.text.append(event.text);
      this.count(event.tokens, (performance.now() - this.started) / 1000);
      keepInView();
    } else if (event.event === "end") {
      this.text.textContent = event.text;
      this.count(event.tokens, event.seconds);
      const words = event.reached_end ? `done in ${event.seconds.toFixed(1)} s` : `cut off at ${event.tokens} tokens`;
      this.finish(event.reached_end ? "done" : "cut", event.text ? words : `${words}, without a word`);
    } else {
      this.finish("error", event.message);
    }
  }

  async ask(body, signal) {
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, signal };
    try {
      const response = await call("api/answer", { ...options, body: JSON.stringify({ ...body, model: this.role }) });
      if (!response.ok) return this.finish("error", await refusal(response));
      for await (const event of lines(response)) this.take(event);
      if (this.node.getAttribute("aria-busy") === "true") this.finish("error", "the connection ended early");
    } catch (error) {
      this.finish(signal.aborted ? "stopped" : "error", signal.aborted ? "stopped" : "the server cannot be reached");
    }
  }
}

class Round {
  constructor(body) {
    this.node = element("round-template").content.firstElementChild.cloneNode(true);
    this.node.querySelector("h2").textContent = body.question;
    this.node.querySelector(".way").textContent = described(body);
    this.prompts = [];
    this.answers = page.info.models.map((model) => new AnswerView(model, this));
    this.node.querySelector(".answers").append(...this.answers.map((answer) => answer.node));
  }

  // Models are compared fairly only when they read the very same token ids.
  read(tokens, sha256) {
    this.prompts.push(sha256);
    const same = this.node.querySelector(".same");
    if (this.prompts.length < page.info.models.length) {
      same.textContent = `${tokens} prompt tokens`;
    } else if (page.info.models.length > 1) {
      const equal = new Set(this.prompts).size === 1;
      same.classList.add(equal ? "good" : "bad");
      same.textContent = equal ? `same ${tokens} prompt tokens for both` : "the two models read DIFFERENT prompts";
    } else {
      same.textContent = `${tokens} prompt tokens`;
    }
  }
}

async function ask(question) {
  if (page.running || !question.trim()) return;
  const body = { question: question.trim(), ...settings() };
  const round = new Round(body);
  element("intro").hidden = true;
  element("clear").hidden = false;
  element("problem").textContent = "";
  element("rounds").append(round.node);
  round.node.scrollIntoView({ behavior: "smooth", block: "start" });
  element("announcer").textContent = "The models are answering.";
  setRunning(new AbortController());
  await Promise.all(round.answers.map((answer) => answer.ask(body, page.running.signal)));
  setRunning(null);
  element("announcer").textContent = round.answers
    .map((answer) => `${TITLES[answer.role]}, ${answer.state.textContent}: ${answer.text.textContent}`).join(" ");
}

function setRunning(controller) {
  page.running = controller;
  element("ask-label").textContent = controller ? "Stop" : "Ask";
  element("ask").classList.toggle("stop", Boolean(controller));
  element("clear").disabled = Boolean(controller);
  updateAsk();
}

const stop = () => page.running && page.running.abort();

function updateAsk() {
  const text = element("question").value;
  const limit = page.info ? page.info.limits.question_characters : Infinity;
  const tooLong = text.trim().length > limit;
  element("problem").textContent = tooLong
    ? `The question has ${text.trim().length.toLocaleString("en")} characters; at most ${limit.toLocaleString("en")} are allowed.` : "";
  element("ask").disabled = !page.running && (!page.info || !text.trim() || tooLong);
}

// ---- small things -----------------------------------------------------------------------------------------------

// Follow the writing only while the reader is at the end anyway.
function keepInView() {
  const root = document.scrollingElement;
  if (root.scrollHeight - root.scrollTop - root.clientHeight < 120) root.scrollTop = root.scrollHeight;
}

async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // without https only this machine's own pages may use the clipboard
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function fitQuestion() {
  const area = element("question");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  element("theme-label").textContent = theme === "dark" ? "Light theme" : "Dark theme";
}

function shortName(name) {
  return name.replace(/\/best_model\/?$/, "").split("/").slice(-2).join("/");
}

function million(parameters) {
  return parameters >= 1e9 ? `${(parameters / 1e9).toFixed(1)} B` : `${(parameters / 1e6).toFixed(parameters < 1e7 ? 1 : 0)} M`;
}

function showInfo() {
  const { models, questions, notices } = page.info;
  if (models.length === 1) {
    element("headline").textContent = "Ask the model.";
    element("lead").textContent = "Answers appear as they are written, with the settings you choose.";
    element("question").placeholder = "Ask …";
  }
  element("cast").replaceChildren(...models.map((model) => {
    const item = document.createElement("li");
    item.className = model.role;
    const title = document.createElement("b");
    title.textContent = TITLES[model.role];
    const facts = document.createElement("span");
    facts.textContent = `${shortName(model.name)}, ${million(model.parameters)} parameters, ${model.dtype} on ${model.device}`;
    item.append(title, facts);
    return item;
  }));
  element("notices").replaceChildren(...notices.map((text) => {
    const notice = document.createElement("p");
    notice.className = "notice";
    notice.textContent = text;
    return notice;
  }));
  element("samples").replaceChildren(...questions.map((text) => {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", className: "sample", textContent: text });
    button.addEventListener("click", () => ask(text));
    item.append(button);
    return item;
  }));
}

async function begin() {
  const response = await call("api/info").catch(() => null);
  if (response && response.status === 401) return openGate();
  if (!response || !response.ok) {
    element("problem").textContent = response ? await refusal(response) : "The server cannot be reached.";
    return;
  }
  page.info = await response.json();
  showInfo();
  resetSettings();
  for (const id of ["question", "open-settings", "summary"]) element(id).disabled = false;
  updateAsk();
  if (matchMedia("(hover: hover)").matches) element("question").focus();
}

function openGate() {
  element("gate-problem").textContent = page.token ? "That is not the token." : "";
  if (!element("gate").open) element("gate").showModal();
}

// ---- wiring -----------------------------------------------------------------------------------------------------

function submit() {
  const area = element("question");
  const text = area.value;
  if (page.running || element("ask").disabled) return;
  area.value = "";
  fitQuestion();
  ask(text);
}

const systemDark = matchMedia("(prefers-color-scheme: dark)");
setTheme(localStorage.getItem("theme") || (systemDark.matches ? "dark" : "light"));
systemDark.addEventListener("change", (event) => localStorage.getItem("theme") || setTheme(event.matches ? "dark" : "light"));
element("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", theme);
  setTheme(theme);
});

element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (page.running) stop();
  else submit();
});
element("question").addEventListener("input", () => { fitQuestion(); updateAsk(); });
element("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop();
});
for (const id of ["open-settings", "summary"]) element(id).addEventListener("click", () => element("settings").showModal());
element("settings").addEventListener("click", (event) => { // a click beside the drawer
  if (event.target === element("settings")) element("settings").close();
});
element("settings-form").addEventListener("input", showSettings);
element("reset").addEventListener("click", resetSettings);
element("clear").addEventListener("click", () => {
  element("rounds").replaceChildren();
  element("intro").hidden = false;
  element("clear").hidden = true;
  element("question").focus();
});
element("gate").addEventListener("cancel", (event) => event.preventDefault());
element("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  page.token = element("token").value.trim();
  sessionStorage.setItem("token", page.token);
  element("gate").close();
  begin();
});
begin();
