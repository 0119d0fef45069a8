// Sampling settings and the system prompt, kept in the browser; the API key only until the browser is closed.
import { DEFAULTS, load, save } from "./store.js";

const FIELDS = [
  { name: "system", label: "System prompt", kind: "text", hint: "Stands before the conversation; empty for none." },
  { name: "temperature", label: "Temperature", kind: "range", min: 0, max: 2, step: 0.05, hint: "0: always the likeliest token." },
  { name: "top_p", label: "Top p", kind: "range", min: 0.05, max: 1, step: 0.05, hint: "Only the likeliest tokens of this mass; 1: all." },
  { name: "top_k", label: "Top k", kind: "number", min: 0, max: 100000, step: 1, hint: "Only so many of the likeliest tokens; 0: all." },
  { name: "min_p", label: "Min p", kind: "range", min: 0, max: 1, step: 0.01, hint: "No token below this share of the likeliest." },
  { name: "repetition_penalty", label: "Repetition penalty", kind: "range", min: 0.8, max: 2, step: 0.05, hint: "1: none." },
  { name: "max_tokens", label: "Longest answer, tokens", kind: "number", min: 1, max: 1000000, step: 1, hint: "Empty: what the context leaves." },
  { name: "seed", label: "Seed", kind: "number", min: 0, max: 9007199254740991, step: 1, hint: "Same seed, same answer. Empty: another one each time." },
  { name: "stop", label: "Stop at", kind: "text", hint: "A line each: the answer ends before this text." },
  { name: "key", label: "API key", kind: "password", hint: "If the server asks for one." },
];

export class Settings {
  constructor(box) {
    this.values = { ...DEFAULTS, ...load("settings", {}) };
    this.controls = {};
    this.onKey = () => {};
    try {
      this.key = sessionStorage.getItem("llmft.key") || "";
    } catch {
      this.key = "";
    }
    for (const field of FIELDS) box.append(this.view(field));
  }

  view(field) {
    const row = document.createElement("div");
    row.className = "field";
    const label = document.createElement("label");
    label.textContent = field.label;
    label.htmlFor = "set-" + field.name;
    const control = document.createElement(field.kind === "text" ? "textarea" : "input");
    control.id = "set-" + field.name;
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.id = control.id + "-hint";
    hint.textContent = field.hint;
    control.setAttribute("aria-describedby", hint.id);
    const shown = document.createElement("output");
    if (field.kind === "text") control.rows = field.name === "system" ? 4 : 2;
    else Object.assign(control, { type: field.kind, min: field.min ?? "", max: field.max ?? "", step: field.step ?? "", autocomplete: "off" });
    const show = () => (shown.textContent = field.kind === "range" ? Number(control.value).toFixed(2) : "");
    control.value = field.name === "key" ? this.key : this.values[field.name];
    show();
    control.addEventListener(field.name === "key" ? "change" : "input", () => {
      show();
      this.set(field, control);
    });
    this.controls[field.name] = { control, show };
    const head = document.createElement("div");
    head.className = "field-head";
    head.append(label, shown);
    row.append(head, control, hint);
    return row;
  }

  set(field, control) {
    if (field.name === "key") {
      this.key = control.value.trim();
      try {
        sessionStorage.setItem("llmft.key", this.key);
      } catch {
        // kept until the page is closed
      }
      this.onKey();
      return;
    }
    control.setCustomValidity("");
    if (!control.checkValidity()) return control.reportValidity();
    this.values[field.name] = field.kind === "text" || control.value === "" ? control.value : Number(control.value);
    save("settings", this.values);
  }

  // What a request carries.
  sampling() {
    const { temperature, top_p, top_k, min_p, repetition_penalty, max_tokens, seed, stop } = this.values;
    const body = { temperature, top_p, top_k: top_k || 0, min_p, repetition_penalty };
    if (max_tokens !== "") body.max_tokens = max_tokens;
    if (seed !== "") body.seed = seed;
    const stops = stop.split("\n").filter((line) => line !== "");
    if (stops.length) body.stop = stops;
    return body;
  }

  limit(context) {
    this.controls.max_tokens.control.max = context;
  }

  reset() {
    this.values = { ...DEFAULTS };
    save("settings", this.values);
    for (const [name, value] of Object.entries(DEFAULTS)) {
      this.controls[name].control.value = value;
      this.controls[name].show();
    }
  }

  focus(name) {
    this.controls[name].control.focus();
    if (name === "key") this.controls[name].control.select();
  }
}
