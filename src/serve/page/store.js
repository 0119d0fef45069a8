// What the browser keeps: conversations, settings, theme. Works without storage too, until the page is closed.
//
// A conversation: {id, title, system, time, turns: [{question, answers: {MODEL_ID: {text, tokens, seconds, finish, error}}}]}

const memory = new Map();

export function load(key, fallback) {
  try {
    const text = localStorage.getItem("llmft." + key);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return memory.has(key) ? memory.get(key) : fallback;
  }
}

// False when there is no room.
export function save(key, value) {
  memory.set(key, value);
  try {
    localStorage.setItem("llmft." + key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export const DEFAULTS = {
  system: "", temperature: 0.7, top_p: 1, top_k: 0, min_p: 0, repetition_penalty: 1, max_tokens: "", seed: "", stop: "",
};

export class Conversations {
  constructor() {
    const kept = load("conversations", []);
    this.list = Array.isArray(kept) ? kept.filter((c) => c && Array.isArray(c.turns)) : [];
    const current = load("current", null);
    this.current = this.list.find((c) => c.id === current) || null;
    if (!this.current) this.create();
  }

  create() {
    const empty = this.list.find((c) => c.turns.length === 0);
    this.current = empty || { id: Date.now().toString(36) + Math.random().toString(36).slice(2, 8), title: "", time: Date.now(), turns: [] };
    if (!empty) this.list.unshift(this.current);
    this.save();
  }

  select(id) {
    this.current = this.list.find((c) => c.id === id) || this.current;
    save("current", this.current.id);
  }

  remove(id) {
    this.list = this.list.filter((c) => c.id !== id);
    if (this.current.id === id) {
      this.current = this.list[0] || null;
      if (!this.current) this.create();
    }
    this.save();
  }

  // The oldest conversations go when the browser has no more room.
  save() {
    save("current", this.current.id);
    while (!save("conversations", this.list)) {
      const oldest = this.list.findLast((c) => c !== this.current);
      if (!oldest) return;
      this.list = this.list.filter((c) => c !== oldest);
    }
  }
}
