// llmft chat: a conversation in the terminal. One process, no MPI.
#pragma once

#include <span>
#include <string>

namespace llmft {

// args: what follows the command's name. Returns the exit code at the input's end, /quit or Ctrl-C.
int run_chat(std::span<const std::string> args);

}  // namespace llmft
