// `llmft export --merge`: an adapter added into the weights of its base model, as a Hugging Face folder.
#pragma once

#include <string>

#include "llmft/config/options.hpp"
#include "llmft/generate/loaded_model.hpp"

namespace llmft {

struct ExportOptions {
  bool merge = false;
  std::string model;
  std::string adapter;
  std::string output;
  std::string dtype = "model";
  std::string data;
  int64_t samples = 8;
  bool overwrite = false;
  DeviceChoice device = DeviceChoice::automatic;
  std::string precision = "auto";
  int64_t threads = 0;
};
void describe(OptionSet& set, ExportOptions& options);

// W + s B A in f32, rounded once to the output's type; every other tensor as the source has it. Config,
// tokenizer and generation files are copied. Then a line says how far the merged model's next-token
// distribution is from base + adapter's on sample prompts. UserError: no adapter, an output folder that is in
// use.
void run_merge(const ExportOptions& options);

}  // namespace llmft
