// `llmft tokenize`: text to ids and back on stdin and stdout. One process, no MPI.
#pragma once

#include <span>
#include <string>

namespace llmft {

// args: what follows "tokenize". Returns the exit code; throws UserError, naming the line, for input that is
// not a JSON string (or, with --decode, an array of ids).
int run_tokenize(std::span<const std::string> args);

}  // namespace llmft
