// llmft preprocess: rows of OpenOrca's schema to shards of tokens.
#pragma once

#include <span>
#include <string>

#include "llmft/comm/process.hpp"

namespace llmft {

// args: what follows the command's name. The exit code.
int run_preprocess(const Process& process, std::span<const std::string> args);

}  // namespace llmft
