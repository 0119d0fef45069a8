// The file of chosen algorithms: what is read back, and when it is not.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>

#include "../../src/ops/gemm_choices.hpp"
#include "llmft/base/file.hpp"

namespace {

using namespace llmft;

struct TemporaryFolder {
  std::filesystem::path path;
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "llmft-choices-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
};

constexpr GemmKey kOne = {0, 1, 2, 3, 4, 5, 1 << 20, 7};
constexpr GemmKey kTwo = {0, 1, 2, 3, 4, 5, 1 << 20, 8};
constexpr GemmAlgorithm kA = {1, 0xffffffffffffffffULL, 3, 0, 0, 0, 0, 0x10};
constexpr GemmAlgorithm kB = {9, 8, 7, 6, 5, 4, 3, 2};

}  // namespace

TEST_CASE("choices of algorithms survive in their file, for the same machine only") {
  TemporaryFolder folder;
  auto path = folder.path / "deeper" / "choices.txt";
  {
    GemmChoices choices(path, "GPU A, library 1");
    CHECK_FALSE(choices.find(kOne).has_value());
    choices.add(kOne, kA, true);
    choices.add(kTwo, kB, false);
    CHECK(choices.find(kOne) == kA);
    CHECK(choices.find(kTwo) == kB);
  }
  {
    GemmChoices same(path, "GPU A, library 1"), other(path, "GPU A, library 2");
    CHECK(same.find(kOne) == kA);
    CHECK_FALSE(same.find(kTwo).has_value());  // not worth keeping
    CHECK_FALSE(other.find(kOne).has_value());
  }
}

TEST_CASE("processes that share a file of choices keep each other's") {
  TemporaryFolder folder;
  auto path = folder.path / "choices.txt";
  {
    GemmChoices mine(path, "machine"), theirs(path, "machine");
    mine.add(kOne, kA, true);
    theirs.add(kTwo, kB, true);
  }
  GemmChoices both(path, "machine");
  CHECK(both.find(kOne) == kA);
  CHECK(both.find(kTwo) == kB);
}

TEST_CASE("a damaged file of choices loses what is damaged") {
  TemporaryFolder folder;
  auto path = folder.path / "choices.txt";
  {
    GemmChoices choices(path, "machine");
    choices.add(kOne, kA, true);
    choices.add(kTwo, kB, true);
  }
  std::string content = read_file(path);
  std::ofstream(path) << content.substr(0, content.size() - 6);
  GemmChoices cut(path, "machine");
  CHECK(cut.find(kOne) == kA);
  CHECK_FALSE(cut.find(kTwo).has_value());
  std::ofstream(path) << "something else\n";
  CHECK_FALSE(GemmChoices(path, "machine").find(kOne).has_value());
}

TEST_CASE("choices of algorithms that cannot be written are still there in memory") {
  GemmChoices choices("/proc/no/such/folder/choices.txt", "machine");
  choices.add(kOne, kA, true);
  CHECK(choices.find(kOne) == kA);
  GemmChoices nowhere("", "machine");
  nowhere.add(kTwo, kB, true);
  CHECK(nowhere.find(kTwo) == kB);
}
