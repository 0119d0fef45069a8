// The server's API: models, and one streamed answer.

export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

function headers(key) {
  if (/[^\x20-\x7e]/.test(key)) throw new ApiError("no key has such characters", 401);  // and no header can carry them
  return key ? { "Content-Type": "application/json", Authorization: "Bearer " + key } : { "Content-Type": "application/json" };
}

async function errorOf(response) {
  let message = `${response.status} ${response.statusText}`, code;
  try {
    ({ message, code } = (await response.json()).error);
  } catch {
    // not the server's own error: a proxy's, perhaps
  }
  return new ApiError(message, response.status, code);
}

export async function listModels(key) {
  const response = await fetch("v1/models", { headers: headers(key) });
  if (!response.ok) throw await errorOf(response);
  return (await response.json()).data;
}

// Calls onText(text, tokens) for every piece; resolves to {finish, tokens}. Aborted: rejects with AbortError.
export async function streamAnswer(body, key, signal, onText) {
  const response = await fetch("v1/chat/completions", {
    method: "POST", signal, headers: headers(key),
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } }),
  });
  if (!response.ok) throw await errorOf(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "", finish = "", tokens = 0;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    pending += value;
    let end;
    while ((end = pending.indexOf("\n\n")) >= 0) {
      const line = pending.slice(0, end);
      pending = pending.slice(end + 2);
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const chunk = JSON.parse(line.slice(6));
      if (chunk.error) throw new ApiError(chunk.error.message, 503);
      if (chunk.usage) tokens = chunk.usage.completion_tokens;
      const choice = chunk.choices[0];
      if (!choice) continue;
      if (choice.delta.content) onText(choice.delta.content, tokens);
      if (choice.finish_reason) finish = choice.finish_reason;
    }
  }
  if (!finish) throw new ApiError("the connection ended before the answer did", 0);
  return { finish, tokens };
}
