// The chat page, the OpenAI-compatible API, /health and /metrics over an Engine.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "llmft/data/chat_template.hpp"
#include "llmft/generate/engine.hpp"
#include "llmft/serve/options.hpp"

namespace llmft {

// The names under which the weights are asked for.
struct ModelNames {
  std::string base;
  std::string adapted;  // empty: there is no adapter
};
// From the folders: the base's own name; the adapter's, or its run's if it is called "adapter" as in
// runs/NAME/adapter. They differ.
ModelNames model_names(const std::string& model_folder, const std::string& adapter_folder);

// Whether a server on that address or name is reached from its own machine alone.
bool is_loopback(std::string_view host);

class ChatService {
 public:
  virtual ~ChatService() = default;
  virtual int port() const = 0;
  // Until SIGINT or SIGTERM; throws what the engine threw.
  virtual void run() = 0;
  virtual void stop() = 0;
};

// UserError if the port cannot be had: to be said before a model is loaded.
void check_port_is_free(const ServeOptions& options);

// Binds the port at once (UserError: in use ...). engine and tokenizer must outlive it.
std::unique_ptr<ChatService> make_chat_service(Engine& engine, const Tokenizer& tokenizer,
                                               TemplateKind chat_template, const ModelNames& names,
                                               const ServeOptions& options);

}  // namespace llmft
