#include "llmft/cli/serve.hpp"

#include <algorithm>
#include <cstdlib>

#include <unistd.h>

#include "answering.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/cli/commands.hpp"
#include "llmft/serve/service.hpp"

namespace llmft {
namespace {

constexpr const char* kHelp =
    R"(usage: llmft serve --model DIR [--adapter DIR] [options]

A chat page and an OpenAI-compatible API (/v1/chat/completions, /v1/completions, /v1/models) on
http://127.0.0.1:7860; /health and /metrics (Prometheus) beside them. With --adapter the base and the
fine-tuned model are two model names, and the page shows their answers side by side. Ctrl-C ends it.

examples:
  llmft serve --model models/Llama-3.2-1B-Instruct --adapter runs/lora/adapter
  LLMFT_API_KEY=secret llmft serve --model models/Llama-3.2-1B-Instruct --host 0.0.0.0
  curl http://127.0.0.1:7860/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hi"}]}'
  python -c 'import openai; c = openai.OpenAI(base_url="http://127.0.0.1:7860/v1", api_key="none");
      print(c.chat.completions.create(model="Llama-3.2-1B-Instruct", messages=[...]))'
  sbatch slurm/serve.sh      # on a node; prints the ssh -L line that brings the page to your machine

options:
)";

}  // namespace

int run_serve(std::span<const std::string> args) {
  AnsweringOptions answering_options;
  ServeOptions options;
  OptionSet set;
  describe(set, answering_options);
  describe(set, options);
  set.parse(args);
  if (set.help_requested()) {
    fmt::print("{}{}", kHelp, set.help_text());
    return kExitOk;
  }
  if (const char* key = std::getenv("LLMFT_API_KEY"); key != nullptr && options.api_key.empty())
    options.api_key = key;
  // what a header can carry, and a browser send
  if (!std::ranges::all_of(options.api_key, [](char c) { return c > ' ' && c < 127; }))
    user_error(
        "--api-key: has a character that is no visible ASCII, which clients cannot send; use letters and "
        "digits");
  check_port_is_free(options);  // before the minutes that a large model takes to load
  Answering answering = load_answering(answering_options, "serve");
  auto service = make_chat_service(*answering.engine, *answering.tokenizer, answering_options.chat_template,
                                   model_names(answering_options.model, answering_options.adapter), options);
  std::string shown = options.host == "0.0.0.0" || options.host == "::" ? "localhost" : options.host;
  if (shown.find(':') != std::string::npos) shown = "[" + shown + "]";
  if (!is_loopback(options.host) && options.api_key.empty())
    log::warn(
        "--host {}: everyone who reaches this machine can use the model; --api-key or LLMFT_API_KEY asks for "
        "a key",
        options.host);
  log::info("serve: http://{}:{}  (chat page; API under /v1; Ctrl-C ends)", shown, service->port());
  service->run();
  log::info("serve: ended");
  return kExitOk;
}

}  // namespace llmft
