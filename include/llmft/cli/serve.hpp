// llmft serve: the chat page and the OpenAI-compatible API. One process, no MPI.
#pragma once

#include <span>
#include <string>

namespace llmft {

// args: what follows the command's name. Returns the exit code after SIGINT or SIGTERM.
int run_serve(std::span<const std::string> args);

}  // namespace llmft
