// The training run: everything from options to the run directory. Collective over all ranks.
#pragma once

#include <string>

#include "llmft/comm/process.hpp"
#include "llmft/train/options.hpp"

namespace llmft {

enum class TrainEnd {
  finished,
  already_finished,  // --resume found the last step done
  early_stopped,     // validation.patience
  interrupted,       // SIGTERM or SIGUSR1: checkpoint written, <output>/requeue left for the batch script
};

// config_yaml: the resolved options, recorded in the run directory.
TrainEnd run_training(const Process& process, const TrainOptions& options, const std::string& config_yaml);

}  // namespace llmft
