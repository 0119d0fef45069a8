// Markdown to DOM nodes. Text becomes text nodes and nothing is ever parsed as HTML, so whatever a model writes stays text.
// What is understood: headings, paragraphs, lists, quotes, tables, rules, fenced code; code, bold, italics, strike, links.

const BLOCK_START = /^(\s*([-*+]|\d{1,9}[.)])\s|\s{0,3}(```|~~~)|#{1,6}\s|\s{0,3}>|\s*\|.*\||\s{0,3}([-*_])(\s*\4){2,}\s*$)/;
const MAX_DEPTH = 12;

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

// Only addresses that a click may open without running anything.
export function safeLink(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

const INLINE = [
  [/^\\\([^]*?\\\)|^\\\[[^]*?\\\](?!\()/, (m) => m[0]],  // a formula keeps what it is written with
  [/^\\([!-/:-@[-`{-~])/, (m) => m[1]],
  [/^\*\*(?=\S)([^]*?\S)\*\*(?!\*)/, (m, depth) => element("strong", "", ...inline(m[1], depth))],
  [/^__(?=\S)([^]*?\S)__(?!\w)/, (m, depth) => element("strong", "", ...inline(m[1], depth))],
  [/^\*(?=\S)([^*]*?[^\s*])\*(?!\*)/, (m, depth) => element("em", "", ...inline(m[1], depth))],
  [/^_(?=\S)([^_]*?[^\s_])_(?!\w)/, (m, depth) => element("em", "", ...inline(m[1], depth))],
  [/^~~(?=\S)([^]*?\S)~~/, (m, depth) => element("del", "", ...inline(m[1], depth))],
  [/^!?\[([^\]]*)\]\(\s*<?([^\s)>]+)>?(?:\s+"[^"]*")?\s*\)/, (m, depth) => link(m[2], inline(m[1], depth)) || m[0]],
  [/^<?(https?:\/\/[^\s<>"')\]]*[^\s<>"')\].,;:!?])>?/, (m) => link(m[1], [m[1]]) || m[0]],
];

function link(address, children) {
  const href = safeLink(address);
  if (!href) return null;
  const node = element("a", "", ...children);
  node.href = href;
  node.target = "_blank";
  node.rel = "noopener noreferrer nofollow";
  return node;
}

function runLength(text, at) {
  let end = at;
  while (text[end] === text[at]) ++end;
  return end - at;
}

// From as many backticks to as many.
function codeSpan(text, at, ticks) {
  const start = at + ticks;
  for (let end = text.indexOf("`", start); end >= 0; end = text.indexOf("`", end)) {
    const run = runLength(text, end);
    if (run === ticks) return { text: text.slice(start, end).replace(/^ (.*[^ ].*) $/, "$1"), end: end + run };
    end += run;
  }
  return null;
}

function inline(text, depth = 0) {
  if (depth > MAX_DEPTH) return [text];
  const nodes = [];
  let plain = "";
  const flush = () => {
    if (plain) nodes.push(plain);
    plain = "";
  };
  for (let at = 0; at < text.length;) {
    const c = text[at];
    if (c === "\n") {
      flush();
      nodes.push(document.createElement("br"));
      ++at;
      continue;
    }
    let used = 0;
    const run = "`*_~".includes(c) ? runLength(text, at) : 1;
    if (c === "`") {
      const code = codeSpan(text, at, run);
      if (code) {
        flush();
        nodes.push(element("code", "", code.text));
      } else {
        plain += "`".repeat(run);
      }
      at = code ? code.end : at + run;
      continue;
    }
    if (run > 3) {
      plain += c.repeat(run);
      at += run;
      continue;
    }
    if ("\\*_~![<h".includes(c) && !(c === "_" && /\w/.test(text[at - 1] || ""))) {
      const rest = text.slice(at, at + 4000);
      for (const [pattern, make] of INLINE) {
        const match = pattern.exec(rest);
        if (!match) continue;
        flush();
        nodes.push(make(match, depth + 1));
        used = match[0].length;
        break;
      }
    }
    if (!used) {
      plain += c;
      used = 1;
    }
    at += used;
  }
  flush();
  return nodes;
}

function codeBlock(language, code) {
  const copy = element("button", "copy", "Copy");
  copy.type = "button";
  copy.dataset.copy = "code";
  const head = element("div", "code-head", element("span", "", language || "code"), copy);
  const pre = element("pre", "", element("code", "", code));
  pre.tabIndex = 0;
  return element("div", "code", head, pre);
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((c) => c.trim().replaceAll("\\|", "|"));
}

function table(lines) {
  const aligns = cells(lines[1]).map((c) => (c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : ""));
  const row = (line, tag) => element("tr", "", ...cells(line).map((c, i) => element(tag, aligns[i] || "", ...inline(c))));
  return element("div", "table", element("table", "", element("thead", "", row(lines[0], "th")),
    element("tbody", "", ...lines.slice(2).map((l) => row(l, "td")))));
}

function list(lines, at, depth) {
  const marker = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
  const first = marker.exec(lines[at]);
  const indent = first[1].length, ordered = /\d/.test(first[2]);
  const node = element(ordered ? "ol" : "ul", "");
  if (ordered) node.start = parseInt(first[2], 10);
  while (at < lines.length) {
    const match = marker.exec(lines[at]);
    if (!match || match[1].length > indent + 1 || match[1].length < indent || /\d/.test(match[2]) !== ordered) break;
    const width = match[0].length - match[3].length;
    const inner = [match[3]];
    ++at;
    while (at < lines.length) {
      const blank = !lines[at].trim();
      const leading = lines[at].length - lines[at].trimStart().length;
      if (blank ? !(lines[at + 1] || "").startsWith(" ".repeat(indent + 2)) : leading <= indent && (BLOCK_START.test(lines[at]) || !lines[at - 1].trim())) break;
      inner.push(lines[at].slice(Math.min(width, leading)));
      ++at;
    }
    const item = element("li", "");
    const task = /^\[([ xX])\]\s+/.exec(inner[0]);
    if (task) {
      inner[0] = inner[0].slice(task[0].length);
      item.append(task[1] === " " ? "☐ " : "☑ ");
    }
    const content = blocks(inner, depth + 1);
    if (content.length && content[0].tagName === "P" && !(task && content.length > 1)) item.append(...content.shift().childNodes);
    item.append(...content);
    node.append(item);
    while (at < lines.length && !lines[at].trim() && marker.test(lines[at + 1] || "")) ++at;
  }
  return [node, at];
}

function blocks(lines, depth = 0) {
  const nodes = [];
  for (let at = 0; at < lines.length;) {
    const line = lines[at];
    if (!line.trim()) {
      ++at;
      continue;
    }
    let match;
    if ((match = /^(\s{0,3})(```+|~~~+)\s*([^\s`]*).*$/.exec(line))) {
      const code = [];
      for (++at; at < lines.length && !(lines[at].trim().startsWith(match[2]) && !lines[at].trim().slice(match[2].length).trim()); ++at)
        code.push(lines[at].slice(0, match[1].length).trim() ? lines[at] : lines[at].slice(match[1].length));
      ++at;  // a block without an end is still being written
      nodes.push(codeBlock(match[3], code.join("\n")));
    } else if ((match = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line))) {
      nodes.push(element("h" + Math.min(6, match[1].length + 2), "", ...inline(match[2])));
      ++at;
    } else if (/^\s{0,3}([-*_])(\s*\1){2,}\s*$/.test(line)) {
      nodes.push(element("hr", ""));
      ++at;
    } else if (/^\s{0,3}>/.test(line) && depth < MAX_DEPTH) {
      const quoted = [];
      for (; at < lines.length && /^\s{0,3}>/.test(lines[at]); ++at) quoted.push(lines[at].replace(/^\s{0,3}>\s?/, ""));
      nodes.push(element("blockquote", "", ...blocks(quoted, depth + 1)));
    } else if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1] || "") && (lines[at + 1] || "").includes("-") && cells(line).length > 1) {
      const rows = [];
      for (; at < lines.length && lines[at].includes("|") && lines[at].trim(); ++at) rows.push(lines[at]);
      nodes.push(table(rows));
    } else if (/^\s*([-*+]|\d{1,9}[.)])\s+\S/.test(line) && depth < MAX_DEPTH) {
      const [node, next] = list(lines, at, depth);
      nodes.push(node);
      at = next;
    } else {
      const text = [line.trimStart()];
      for (++at; at < lines.length && lines[at].trim() && !BLOCK_START.test(lines[at]); ++at) text.push(lines[at].trim());
      nodes.push(element("p", "", ...inline(text.join("\n"))));
    }
  }
  return nodes;
}

export function render(text) {
  return blocks(text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n"));
}
