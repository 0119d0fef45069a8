#include <vector>

#include <doctest/doctest.h>

#include "llmft/comm/gpu_choice.hpp"

using namespace llmft;

TEST_CASE("a GPU each is no conflict, on one node or several") {
  CHECK(gpu_conflict(std::vector<RankGpu>{{"a", "u0", 2}, {"a", "u1", 2}, {"b", "u2", 1}}) == "");
  CHECK(gpu_conflict({}) == "");
}

TEST_CASE("two ranks on one GPU, and a rank without one, are named") {
  std::string shared = gpu_conflict(std::vector<RankGpu>{{"a", "u0", 1}, {"b", "u1", 1}, {"b", "u1", 1}});
  CHECK(shared.find("ranks 1 and 2 on b would share one GPU (1 visible to rank 2)") != std::string::npos);
  CHECK(shared.find("--ntasks-per-node") != std::string::npos);
  std::string missing = gpu_conflict(std::vector<RankGpu>{{"a", "u0", 1}, {"b", "", 0}});
  CHECK(missing.find("rank 1 on b sees no GPU") != std::string::npos);
}
