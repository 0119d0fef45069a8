// The page: what is on the screen follows from the current conversation, the settings and the answers that are being written.
import { listModels, streamAnswer } from "./api.js";
import { render } from "./markdown.js";
import { Conversations, load, save } from "./store.js";
import { Settings } from "./settings.js";

const $ = (id) => document.getElementById(id);
const input = $("input"), messages = $("messages"), scroll = $("scroll");

const conversations = new Conversations();
const settings = new Settings($("setting-fields"));
let models = [];  // [base] or [base, adapted]
let mode = load("mode", "tuned");  // base, tuned, both
const running = new Map();  // conversation -> {stop(), settle()}
const views = new WeakMap();  // turn -> {MODEL_ID: what shows its answer}
let stick = true;  // the newest text stays in view
let leaving = false;  // the page is being closed or loaded anew

// --- small helpers

function make(tag, className, text, attributes = {}) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function action(label, title, run) {
  const button = make("button", "action", label, { type: "button", title });
  button.addEventListener("click", () => run(button));
  return button;
}

// Not where it would bring up a keyboard over half of the page.
function focusInput() {
  if (document.activeElement !== input) (matchMedia("(pointer: coarse)").matches ? scroll : input).focus({ preventScroll: true });
}

// Replaces what is in the box; the focus stays at what has the same data-key.
function refill(box, children) {
  const key = box.contains(document.activeElement) && document.activeElement.dataset.key;
  box.replaceChildren(...children);
  if (key) box.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

function say(text) {
  $("status").textContent = text;
}

function warn(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
  keepBottom();
}

async function copyText(text, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // not a secure context, as over plain http from another machine
    const area = make("textarea", "visually-hidden");
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  button.textContent = done ? "Copied" : "Not copied";
  setTimeout(() => (button.textContent = before), 1500);
}

function speakers() {
  if (models.length < 2) return models.slice(0, 1);
  return mode === "both" ? models : [models[mode === "base" ? 0 : 1]];
}

// --- the conversation on the screen

function speedText(answer) {
  const parts = [];
  if (answer.tokens) parts.push(`${answer.tokens} token${answer.tokens === 1 ? "" : "s"}`);
  if (answer.tokens > 1 && answer.seconds > 0) parts.push(`${((answer.tokens - 1) / answer.seconds).toFixed(1)} tokens/s`);
  if (answer.wait > 0) parts.push(`first after ${answer.wait.toFixed(2)} s`);
  if (answer.finish === "stopped") parts.push("stopped");
  if (answer.finish === "length") parts.push("cut at the longest allowed");
  return parts.join(" · ");
}

// Replaces only what changed, so that what one has selected, or is about to click, stays.
function update(node, children) {
  let i = 0;
  while (i < children.length && i < node.childNodes.length && node.childNodes[i].isEqualNode(children[i])) ++i;
  while (node.childNodes.length > i) node.lastChild.remove();
  node.append(...children.slice(i));
}

function fillAnswer(view, answer) {
  update(view.content, render(answer.text));
  view.node.classList.toggle("writing", answer.finish === "");
  view.speed.textContent = speedText(answer);
  view.error.textContent = answer.error || "";
  view.error.hidden = !answer.error;
  view.actions.hidden = answer.finish === "";
  keepBottom();
}

function answerView(index, model, answer) {
  const node = make("article", "answer", "", { "aria-label": "Answer of " + model });
  const content = make("div", "content", "", { dir: "auto" });
  const speed = make("span", "speed");
  const error = make("p", "error", "", { role: "alert" });
  const actions = make("span", "actions");
  actions.append(
    action("Copy", "Copy the answer as Markdown", (button) => copyText(answer.text, button)),
    action("Regenerate", "Answer again", () => ask(conversations.current, index, [model])));
  const foot = make("div", "foot");
  foot.append(speed, actions);
  if (models.length > 1 || !models.some((m) => m.id === model)) node.append(make("h3", "who", model));
  node.append(content, error, foot);
  const view = { node, content, speed, error, actions };
  fillAnswer(view, answer);
  return view;
}

function questionView(turn, index) {
  const node = make("div", "question");
  const bubble = make("div", "bubble", turn.question, { dir: "auto" });
  const actions = make("div", "actions");
  actions.append(
    action("Edit", "Change the question and ask again", () => edit(node, index)),
    action("Copy", "Copy the question", (button) => copyText(turn.question, button)));
  node.append(bubble, actions);
  return node;
}

function turnView(turn, index) {
  const node = make("section", "turn");
  const answers = make("div", "answers");
  const shown = {};
  views.set(turn, shown);
  for (const [model, answer] of Object.entries(turn.answers)) {
    shown[model] = answerView(index, model, answer);
    answers.append(shown[model].node);
  }
  answers.classList.toggle("two", Object.keys(turn.answers).length > 1);
  node.append(questionView(turn, index), answers);
  return node;
}

function showConversation() {
  const { turns, title } = conversations.current;
  const focused = messages.contains(document.activeElement);
  messages.replaceChildren(...(turns.length ? turns.map(turnView) : [welcome()]));
  document.title = (title ? title + " - " : "") + "llmft";
  $("heading").textContent = title || "New conversation";
  showButtons();
  if (focused) focusInput();
  stick = true;
  keepBottom();
}

function welcome() {
  const node = make("div", "welcome");
  node.append(make("h2", "", "What shall it answer?"));
  const names = models.map((m) => m.id).join(" and ");
  node.append(make("p", "", names ? `${names} on this server. Conversations stay in this browser.` : "Connecting …"));
  const examples = make("div", "examples");
  for (const text of ["Explain what a tokenizer does, with an example.", "Write a Python function that reverses the words of a sentence.",
    "If all bloops are razzies and all razzies are lazzies, are all bloops lazzies?"])
    examples.append(action(text, "Ask this", () => send(text)));
  node.append(examples);
  return node;
}

function showList() {
  refill($("conversations"), conversations.list.map((conversation, i) => {
    const item = make("li", conversation === conversations.current ? "current" : "");
    const open = make("button", "open", conversation.title || "New conversation", { type: "button", "data-key": "open " + conversation.id });
    if (conversation === conversations.current) open.setAttribute("aria-current", "true");
    open.addEventListener("click", () => {
      conversations.select(conversation.id);
      closeSidebar();
      showList();
      showConversation();
      focusInput();
    });
    const remove = make("button", "icon remove", "×", { type: "button", "aria-label": "Delete " + (conversation.title || "this conversation"), title: "Delete", "data-key": "remove " + conversation.id });
    remove.addEventListener("click", () => {
      if (conversation.turns.length && !confirm("Delete this conversation?")) return;
      running.get(conversation)?.stop();
      conversations.remove(conversation.id);
      showList();
      showConversation();
      const opens = $("conversations").querySelectorAll(".open");
      opens[Math.min(i, opens.length - 1)].focus();
    });
    item.append(open, remove);
    return item;
  }));
}

function showModes() {
  const box = $("modes");
  if (models.length < 2) {
    box.replaceChildren(make("span", "model", models.length ? models[0].id : ""));
    box.removeAttribute("role");
    return;
  }
  const choices = [["base", "Base", models[0].id], ["tuned", "Fine-tuned", models[1].id], ["both", "Side by side", models.map((m) => m.id).join(" and ")]];
  refill(box, choices.map(([value, label, title]) => {
    const on = value === mode;
    const button = make("button", "mode", label, { type: "button", role: "radio", "aria-checked": on, title, tabindex: on ? 0 : -1, "data-mode": value, "data-key": value });
    button.addEventListener("click", () => setMode(value));
    return button;
  }));
}

function setMode(value) {
  mode = value;
  save("mode", mode);
  showModes();
}

function showButtons() {
  const busy = running.has(conversations.current);
  $("stop").hidden = !busy;
  $("send").hidden = busy;
  $("send").disabled = !input.value.trim() || !models.length;
  if (document.activeElement?.hidden) focusInput();
}

function keepBottom() {
  if (stick) scroll.scrollTop = scroll.scrollHeight;
}

// --- asking

function history(conversation, index, model) {
  const list = [];
  const values = settings.values;
  if (values.system.trim()) list.push({ role: "system", content: values.system });
  conversation.turns.slice(0, index + 1).forEach((turn, i) => {
    list.push({ role: "user", content: turn.question });
    const other = Object.values(turn.answers).find((a) => a.text);
    const text = turn.answers[model]?.text || other?.text;
    if (i < index && text) list.push({ role: "assistant", content: text });
  });
  return list;
}

async function oneAnswer(conversation, index, model, signal) {
  const turn = conversation.turns[index], answer = turn.answers[model];
  const start = performance.now();
  let first = 0, drawn = false;
  const draw = () => {
    drawn = false;
    const view = views.get(turn)?.[model];
    if (view && conversation === conversations.current) fillAnswer(view, answer);
  };
  const request = (body) => streamAnswer(body, settings.key, signal, (text, count) => {
    const now = performance.now();
    if (!first) {
      first = now;
      answer.wait = (first - start) / 1000;
    }
    answer.text += text;
    answer.tokens = count;
    answer.seconds = (now - first) / 1000;
    if (!drawn) requestAnimationFrame(draw);
    drawn = true;
  });
  try {
    const body = { model, messages: history(conversation, index, model), ...settings.sampling() };
    const { finish, tokens } = await request(body).catch((error) => {
      if (error.code !== "context_length_exceeded" || !body.max_tokens) throw error;
      delete body.max_tokens;  // more than the context leaves: what it leaves
      return request(body);
    });
    answer.tokens = tokens;
    answer.finish = finish;
  } catch (error) {
    answer.finish = "stopped";
    if (error.name !== "AbortError" && !leaving) {
      answer.finish = "error";
      answer.error = error.status === 401 ? keyText() + " Give it in the settings." : error instanceof TypeError ? "The server cannot be reached." : error.message;
      if (error.status === 401) openSettings("key");
    }
  }
  draw();
}

function keyText() {
  return settings.key ? "The API key is wrong." : "The server wants an API key.";
}

function titleOf(question) {
  return question.split("\n")[0].slice(0, 60);
}

// Answers turn `index`, with this question, by these models at once; what followed it goes. If nothing comes, all is as before.
async function ask(conversation, index, names, question) {
  if (running.has(conversation) || !names.length) return;
  const turn = conversation.turns[index], later = conversation.turns.length - index - 1;
  if (later && !confirm(`Ask again? ${later === 1 ? "The question after this one and its answer go." : `The ${later} questions after this one and their answers go.`}`)) return;
  const before = { turn: { ...turn }, turns: conversation.turns, title: conversation.title };
  const edited = question !== undefined && question !== turn.question;
  if (edited) turn.question = question;
  if (edited && index === 0) conversation.title = titleOf(question);
  turn.answers = question === undefined ? { ...turn.answers } : {};
  conversation.turns = conversation.turns.slice(0, index + 1);
  const fresh = names.map((name) => (turn.answers[name] = { text: "", tokens: 0, seconds: 0, wait: 0, finish: "" }));
  const controller = new AbortController();
  // True if what was there before is back.
  const settle = () => {
    for (const answer of fresh) answer.finish ||= "stopped";
    if (!Object.keys(before.turn.answers).length || fresh.some((a) => a.text)) return false;
    Object.assign(turn, before.turn);
    conversation.turns = before.turns;
    conversation.title = before.title;
    return true;
  };
  warn("");
  running.set(conversation, { stop: () => controller.abort(), settle });
  if (conversation === conversations.current) showConversation();
  await Promise.all(names.map((name) => oneAnswer(conversation, index, name, controller.signal)));
  running.delete(conversation);
  const failed = fresh.find((a) => a.error);
  say(failed ? "The answer failed." : "The answer is complete.");
  const restored = settle();
  if (!conversations.list.includes(conversation)) return;  // deleted meanwhile
  keep(conversation);
  if (restored && conversation === conversations.current) {
    showConversation();
    if (failed) warn(failed.error);
    if (edited && !input.value) input.value = question;
    fitInput();
  }
  showButtons();
}

function keep(conversation) {
  conversation.time = Date.now();
  conversations.sort();
  conversations.save(conversation);
  showList();
}

function send(text) {
  const conversation = conversations.current;
  if (!text.trim() || running.has(conversation) || !models.length) return;
  if (!conversation.title) conversation.title = titleOf(text.trim());
  conversation.turns.push({ question: text.trim(), answers: {} });
  input.value = "";
  fitInput();
  keep(conversation);
  ask(conversation, conversation.turns.length - 1, speakers().map((m) => m.id));
  focusInput();
}

function stop() {
  running.get(conversations.current)?.stop();
}

function edit(node, index) {
  const conversation = conversations.current;
  if (running.has(conversation)) return;
  const turn = conversation.turns[index], fromInput = document.activeElement === input;
  const area = make("textarea", "", "", { "aria-label": "Change the question", dir: "auto" });
  area.value = turn.question;
  const row = make("div", "edit-actions");
  const submit = () => {
    if (area.value.trim()) ask(conversation, index, speakers().map((m) => m.id), area.value.trim());
  };
  const leave = () => {
    showConversation();
    if (fromInput) focusInput();
    else messages.children[index].querySelector(".question .action").focus();
  };
  row.append(action("Cancel", "Leave it as it was (Esc)", leave), action("Ask again", "Ask the changed question (Enter)", submit));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") leave();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
    event.stopPropagation();
  });
  node.replaceChildren(area, row);
  node.classList.add("editing");
  area.style.height = Math.min(area.scrollHeight + 4, 300) + "px";
  area.focus();
}

// --- panels, keys

function closeSidebar() {
  document.body.classList.remove("sidebar-open");
  $("scrim").hidden = true;
}

function openSidebar() {
  document.body.classList.add("sidebar-open");
  $("scrim").hidden = false;
  $("new-chat").focus();
}

function openSettings(field) {
  $("settings").hidden = false;
  $("open-settings").setAttribute("aria-expanded", "true");
  if (!field && matchMedia("(pointer: coarse)").matches) $("close-settings").focus();
  else settings.focus(field || "system");
}

function closeSettings() {
  $("settings").hidden = true;
  $("open-settings").setAttribute("aria-expanded", "false");
  $("open-settings").focus();
}

function newChat() {
  conversations.create();
  closeSidebar();
  showList();
  showConversation();
  focusInput();
}

function switchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("llmft.theme", next);
  } catch {
    // kept until the page is closed
  }
}

function exportConversation() {
  const { title, turns } = conversations.current;
  const plain = turns.map(({ question, answers }) => ({ question, answers }));
  const blob = new Blob([JSON.stringify({ title, system: settings.values.system, turns: plain }, null, 2)], { type: "application/json" });
  const link = make("a", "", "", { download: (title || "conversation").replace(/[^\w-]+/g, "_") + ".json" });
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function fitInput() {
  save("draft", input.value, "sessionStorage");
  input.style.height = "auto";
  input.style.height = Math.min(input.scrollHeight, innerHeight * 0.4) + "px";
  showButtons();
}

input.addEventListener("input", fitInput);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send(input.value);
  }
  if (event.key === "ArrowUp" && !input.value && conversations.current.turns.length) {
    event.preventDefault();
    messages.querySelector(".turn:last-child .question .action")?.click();
  }
});
document.addEventListener("keydown", (event) => {
  const command = event.ctrlKey || event.metaKey;
  if (event.key === "Escape") {
    if (!$("settings").hidden) closeSettings();
    else if (document.body.classList.contains("sidebar-open")) closeSidebar();
    else stop();
  } else if (command && event.key === ",") {
    event.preventDefault();
    $("settings").hidden ? openSettings() : closeSettings();
  } else if (command && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    newChat();
  }
});
$("modes").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step || models.length < 2) return;
  event.preventDefault();
  const order = ["base", "tuned", "both"];
  setMode(order[(order.indexOf(mode) + step + 3) % 3]);
  $("modes").querySelector('[aria-checked="true"]').focus();
});
messages.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copyText(button.closest(".code").querySelector("pre").textContent, button);
});
scroll.addEventListener("scroll", () => {
  stick = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
  $("to-bottom").hidden = stick;
});
$("to-bottom").addEventListener("click", () => {
  stick = true;
  keepBottom();
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send(input.value);
});
$("stop").addEventListener("click", () => {
  stop();
  focusInput();
});
$("new-chat").addEventListener("click", newChat);
$("open-sidebar").addEventListener("click", openSidebar);
$("close-sidebar").addEventListener("click", closeSidebar);
$("scrim").addEventListener("click", closeSidebar);
$("open-settings").addEventListener("click", () => ($("settings").hidden ? openSettings() : closeSettings()));
$("close-settings").addEventListener("click", closeSettings);
$("reset-settings").addEventListener("click", () => settings.reset());
$("export").addEventListener("click", exportConversation);
$("theme").addEventListener("click", switchTheme);
// A request that the closing of the page ends must not look like a server that is gone.
addEventListener("beforeunload", () => {
  leaving = true;
  setTimeout(() => (leaving = false), 5000);  // some links fire this and nothing closes
});
addEventListener("pagehide", () => {
  leaving = true;
  for (const [conversation, { settle }] of running) {
    settle();
    conversations.save(conversation);
  }
});
addEventListener("pageshow", () => (leaving = false));
addEventListener("storage", (event) => {
  if (!conversations.changed(event, (c) => running.has(c))) return;
  showList();
  if (models.length && !running.has(conversations.current) && !messages.querySelector(".editing")) showConversation();
});
conversations.onRoom = (kept) => {
  if (!kept) warn("This browser has no more room: the conversation is not kept. Delete others, or save it as a file (settings).");
};

async function connect() {
  try {
    models = await listModels(settings.key);
    if (models.length) settings.limit(models[0].max_model_len);
  } catch (error) {
    models = [];
    if (error.status === 401) openSettings("key");
    const retry = make("div", "welcome");
    retry.append(make("h2", "", error.status === 401 ? keyText() : "The server cannot be reached."),
      make("p", "", error.status === 401 ? "Give it in the settings." : error.message), action("Try again", "Connect again", connect));
    messages.replaceChildren(retry);
    return;
  }
  showModes();
  showConversation();
  focusInput();
}

settings.onKey = connect;
// answers that were being written when the page was closed
for (const conversation of conversations.list)
  for (const turn of conversation.turns) for (const answer of Object.values(turn.answers)) answer.finish ||= "stopped";
input.value = load("draft", "", "sessionStorage");
fitInput();
showList();
connect();
