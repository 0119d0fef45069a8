// Chosen algorithms by problem, in memory and in a file. A file counts only for the machine it names (GPU
// and library version); processes that share one merge what they add. It is a cache: what cannot be read is
// ignored, what cannot be written is said once.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "llmft/base/clock.hpp"

namespace llmft {

using GemmKey = std::array<int64_t, 16>;
using GemmAlgorithm = std::array<uint64_t, 8>;  // opaque to us, plain data for the same library version

class GemmChoices {
 public:
  // path empty: memory alone.
  GemmChoices(std::filesystem::path path, std::string machine);
  ~GemmChoices();
  GemmChoices(const GemmChoices&) = delete;
  GemmChoices& operator=(const GemmChoices&) = delete;

  std::optional<GemmAlgorithm> find(const GemmKey& key) const;
  // keep_in_file: it was measured, and is worth keeping beyond this process.
  void add(const GemmKey& key, const GemmAlgorithm& algorithm, bool keep_in_file);

 private:
  using Table = std::map<GemmKey, GemmAlgorithm>;

  Table read() const;
  void write();

  std::filesystem::path path_;
  std::string machine_;
  Table table_;
  Table added_;  // not in the file yet
  Stopwatch since_write_;
};

}  // namespace llmft
