// What the browser keeps: conversations, settings, theme. Works without storage too, until the page is closed.
//
// A conversation: {id, title, time, turns: [{question, answers: {MODEL_ID: {text, tokens, seconds, wait, finish, error}}}]}
// Each has a key of its own and is written only when it changed here: other tabs write theirs at the same time.

const memory = new Map();

// `area`: localStorage, which all tabs share, or sessionStorage, a tab's own.
export function load(key, fallback, area = "localStorage") {
  try {
    const text = window[area].getItem("llmft." + key);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return memory.has(key) ? memory.get(key) : fallback;
  }
}

// False when there is no room.
export function save(key, value, area = "localStorage") {
  memory.set(key, value);
  try {
    window[area].setItem("llmft." + key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

function forget(key) {
  memory.delete(key);
  try {
    localStorage.removeItem("llmft." + key);
  } catch {
    // nothing was kept
  }
}

export const DEFAULTS = {
  system: "", temperature: 0.7, top_p: 1, top_k: 0, min_p: 0, repetition_penalty: 1, max_tokens: "", seed: "", stop: "",
};

const KEY = "conversation.";

function valid(conversation) {
  return conversation && typeof conversation.id === "string" && Array.isArray(conversation.turns);
}

export class Conversations {
  constructor() {
    this.onRoom = () => {};  // (kept): whether the browser had room for what was saved
    this.splitUp();
    this.list = this.stored();
    this.sort();
    const current = load("current", null, "sessionStorage") || load("current", null);
    this.current = this.list.find((c) => c.id === current) || null;
    if (!this.current) this.create();
  }

  // Earlier pages kept all under one key.
  splitUp() {
    const together = load("conversations", null);
    if (!Array.isArray(together)) return;
    forget("conversations");
    for (const conversation of together.filter(valid)) if (conversation.turns.length) save(KEY + conversation.id, conversation);
  }

  stored() {
    let keys = [];
    try {
      keys = Object.keys(localStorage).filter((key) => key.startsWith("llmft." + KEY)).map((key) => key.slice("llmft.".length));
    } catch {
      // no storage
    }
    return keys.map((key) => load(key, null)).filter(valid);
  }

  sort() {
    this.list.sort((a, b) => b.time - a.time);
  }

  create() {
    const empty = this.list.find((c) => c.turns.length === 0);
    this.current = empty || { id: Date.now().toString(36) + Math.random().toString(36).slice(2, 8), title: "", time: Date.now(), turns: [] };
    if (!empty) this.list.unshift(this.current);
    this.select(this.current.id);
  }

  select(id) {
    this.current = this.list.find((c) => c.id === id) || this.current;
    save("current", this.current.id, "sessionStorage");
    save("current", this.current.id);
  }

  drop(id) {
    this.list = this.list.filter((c) => c.id !== id);
    if (this.current.id !== id) return;
    if (this.list.length) this.select(this.list[0].id);
    else this.create();
  }

  remove(id) {
    forget(KEY + id);
    this.drop(id);
  }

  save(conversation) {
    this.onRoom(save(KEY + conversation.id, conversation));
  }

  // Another tab wrote or deleted one. `busy(conversation)`: this tab is writing it, and its own will be the last word.
  // True if what is shown may have changed.
  changed(event, busy) {
    if (!event.key?.startsWith("llmft." + KEY)) return false;
    const id = event.key.slice(("llmft." + KEY).length);
    const mine = this.list.find((c) => c.id === id);
    if (mine && busy(mine)) return false;
    const theirs = load(KEY + id, null);
    if (!valid(theirs)) this.drop(id);
    else if (mine) Object.assign(mine, theirs);
    else this.list.push(theirs);
    this.sort();
    return true;
  }
}
