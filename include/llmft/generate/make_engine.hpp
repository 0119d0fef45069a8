// The Engine of this program: a model folder and an adapter beside it, on one device.
//
//   auto tokenizer = load_tokenizer(model);
//   auto engine = make_engine({.source = {.model = model, .adapter = adapter}}, *tokenizer);
//   uint64_t id = engine->submit({.prompt = tokens});
//   while (!engine->idle())
//     for (const GenerationEvent& e : engine->step()) ...
#pragma once

#include <memory>

#include "llmft/generate/engine.hpp"
#include "llmft/generate/loaded_model.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {

struct EngineOptions {
  ModelSource source;
  int64_t max_context = 4096;       // prompt + answer; at most the model's own limit
  int64_t max_sequences = 16;       // at the same time
  int64_t prefill_tokens = 0;       // prompt tokens a step takes in; 0: 8192 on a GPU, 512 on a CPU
  std::vector<int32_t> end_tokens;  // beside the model's own, for example the template's end of turn
};

// The tokenizer must outlive the engine. UserError as LoadedModel's, and for limits out of range.
std::unique_ptr<Engine> make_engine(const EngineOptions& options, const Tokenizer& tokenizer);
// The same on a model that is loaded already, which must outlive it; options.source is not read.
std::unique_ptr<Engine> make_engine(LoadedModel& model, const EngineOptions& options,
                                    const Tokenizer& tokenizer);

}  // namespace llmft
