// What `llmft serve` and `llmft chat` share: which model answers, and how it is loaded.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "llmft/config/options.hpp"
#include "llmft/data/chat_template.hpp"
#include "llmft/generate/make_engine.hpp"

namespace llmft {

struct AnsweringOptions {
  std::string model;
  std::string adapter;
  DeviceChoice device = DeviceChoice::automatic;
  std::optional<Precision> precision;
  TemplateKind chat_template = TemplateKind::automatic;
  int64_t context = 0;  // 0: 8192, or the model's own limit if that is less
  int64_t max_sequences = 0;
  int64_t threads = 0;
};

void describe(OptionSet& set, AnsweringOptions& options);

struct Answering {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Engine> engine;
};
// command: "serve", for messages.
Answering load_answering(const AnsweringOptions& options, const char* command);

}  // namespace llmft
