// The commands of the program, one file each (src/cli/). A command gets the arguments after its name and
// returns the exit code; errors are thrown and end in run_guard.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "llmft/comm/process.hpp"

namespace llmft {

constexpr int kExitOk = 0;
constexpr int kExitUser = 2;       // bad input: one line has said what, why and what to do
constexpr int kExitInternal = 70;  // a bug of ours

// Runs action and turns an exception into one error line and an exit code. With several ranks a failing rank
// ends all of them (MPI_Abort), and when many fail alike the first to speak, normally rank 0, is the only
// one.
int run_guard(const Process* process, const std::function<int()>& action);

struct Command {
  const char* name;
  const char* summary;
  bool parallel;  // starts MPI
  int (*run)(const Process* process, std::span<const std::string> args);
};
std::span<const Command> commands();

int run_train(const Process& process, std::span<const std::string> args);
int run_eval(const Process& process, std::span<const std::string> args);
int run_export(std::span<const std::string> args);
int run_plan(std::span<const std::string> args);
int run_info(const Process& process, std::span<const std::string> args);

std::string program_help();

}  // namespace llmft
