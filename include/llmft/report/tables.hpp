// timing.csv (rank,phase,seconds,count) and memory.csv (rank,part,bytes). A rank formats its rows as text;
// the trainer gathers them and rank 0 writes the table.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llmft/base/clock.hpp"

namespace llmft {

// Host seconds and entries by phase, in the order phases were first entered. Phases may nest; each counts its
// whole time. A scope costs two clock reads and a search of a short list. Not for several threads.
class PhaseTimer {
 public:
  struct Phase {
    std::string name;
    double seconds = 0;
    int64_t count = 0;
  };
  class Scope {
   public:
    explicit Scope(Phase& phase) : phase_(phase) {}
    ~Scope() {
      phase_.seconds += watch_.seconds();
      ++phase_.count;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Phase& phase_;
    Stopwatch watch_;
  };

  // auto scope = timer.scope("forward");
  Scope scope(std::string_view name) { return Scope(phase(name)); }
  void add(std::string_view name, double seconds, int64_t count = 1);
  double seconds(std::string_view name) const;  // 0 for a phase never entered
  void reset() { phases_.clear(); }             // no scope may be open
  const std::deque<Phase>& phases() const { return phases_; }

 private:
  Phase& phase(std::string_view name);

  std::deque<Phase> phases_;  // addresses stay while scopes are open
};

// part: weights, adapters, gradients, optimizer, activations, logits, workspace, gathered, total or peak.
using MemoryRow = std::pair<std::string, uint64_t>;

std::string timing_rows(int rank, const PhaseTimer& timer);
std::string memory_rows(int rank, std::span<const MemoryRow> rows);

// rows: every rank's text, in rank order. Atomic.
void write_timing_table(const std::filesystem::path& path, std::span<const std::string> rows);
void write_memory_table(const std::filesystem::path& path, std::span<const std::string> rows);

}  // namespace llmft
