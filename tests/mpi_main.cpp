// doctest under mpirun: every rank runs every case, rank 0 speaks; a rank that fails prints its own report
// and makes all fail.
#define DOCTEST_CONFIG_IMPLEMENT
#include "mpi_main.hpp"

#include <sstream>

#include <doctest/doctest.h>

#include "llmft/base/log.hpp"

namespace {
const llmft::Process* g_process = nullptr;
}

const llmft::Process& test_process() {
  return *g_process;
}

int main(int argc, char** argv) {
  llmft::Process process(&argc, &argv);
  g_process = &process;
  llmft::log::set_rank(process.rank(), process.size());
  doctest::Context context(argc, argv);
  std::ostringstream report;
  if (!process.is_root()) context.setCout(&report);
  int result = context.run();
  if (result != 0 && !process.is_root()) fmt::print(stderr, "rank {}:\n{}\n", process.rank(), report.str());
  return process.all_agree(result == 0) ? 0 : 1;
}
