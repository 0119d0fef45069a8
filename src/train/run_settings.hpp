// What decides a run's numbers, as text to be kept in its checkpoints: a resumed run goes on as it began.
// What may change is not in it: ranks, strategy, device, --deterministic, how often to validate and save, and
// the number of steps.
#pragma once

#include <string>

#include "llmft/model/llama_tensors.hpp"
#include "llmft/train/options.hpp"

namespace llmft {

// Of a model folder: config.json, and sizes and samples of its safetensors files. Two models differ in nearly
// every byte, so reading a thousandth of them tells them apart.
std::string model_fingerprint(const std::string& folder);

// Lines "train.lr=0.004", by option where there is one.
std::string run_settings(const TrainOptions& options, const AdapterSpec& adapter, const std::string& model,
                         const std::string& data);

// "train.lr was 0.004, is 0.001; ...": the lines that differ.
std::string settings_difference(const std::string& before, const std::string& now);

}  // namespace llmft
