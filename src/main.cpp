// A contents page: pick the command, start MPI if it is a parallel one, run it under the guard.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <optional>
#include <vector>

#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"
#include "llmft/cli/commands.hpp"
#include "llmft/report/machine.hpp"

namespace {

using namespace llmft;

const Command& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (name == command.name) return command;
    names.emplace_back(command.name);
  }
  std::string near = nearest_name(name, names);
  user_error("{}: unknown command{}", name,
             near.empty() ? "; see llmft --help" : "; did you mean '" + near + "'?");
}

// Such a command would do, and write, everything once for each rank.
void refuse_ranks(const Command& command) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "PMI_SIZE"}) {
    const char* ranks = std::getenv(name);
    if (ranks != nullptr && std::atoi(ranks) > 1)
      user_error(
          "{}: runs as one process, and was started as {}; start it without mpirun, or with srun --ntasks=1",
          command.name, ranks);
  }
}

// What was printed may still be on its way, to a disk that is full.
void check_output() {
  bool failed = !std::cout.flush();
  failed = std::fflush(stdout) != 0 || std::ferror(stdout) != 0 || failed;
  if (failed)
    user_error("standard output: cannot write ({}); what was printed is not whole", std::strerror(errno));
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> args(argv + 1, argv + argc);
  if (args.empty() || args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    fmt::print("{}", program_help());
    return args.empty() ? kExitUser : kExitOk;
  }
  if (args[0] == "--version" || args[0] == "-V") {
    BuildInfo build = build_info();
    fmt::print("llmft {}{}\n", build.version, build.git.empty() ? "" : " (" + build.git + ")");
    return kExitOk;
  }
  return run_guard(nullptr, [&] {
    const Command& command = find_command(args[0]);
    auto run = [&](Process* process) {
      int code = command.run(process, std::span(args).subspan(1));
      if (code == kExitOk) check_output();
      return code;
    };
    if (!command.parallel) {
      refuse_ranks(command);
      return run(nullptr);
    }
    Process process(&argc, &argv);
    log::set_rank(process.rank(), process.size());
    return run_guard(&process, [&] { return run(&process); });
  });
}
