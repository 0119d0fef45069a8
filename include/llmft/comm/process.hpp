// The MPI process: started once in main, and the host-side control of all ranks. Device and model data go
// through Comm (comm/comm.hpp); this is for small things: agreeing, sharing a string, claiming work, seeing
// who is on which node.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llmft {

// MPI_Init at construction, MPI_Finalize at destruction. One object, on the main thread. Works without mpirun
// (one rank). Under srun or mpirun the ranks are what the launcher started.
class Process {
 public:
  Process(int* argc, char*** argv);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool is_root() const { return rank_ == 0; }
  // Ranks that share memory with this one (one node): index and count.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  int node_first_rank() const { return node_first_rank_; }
  std::string host() const;

  void barrier() const;
  // In place on every rank.
  void all_reduce_sum(std::span<double> values) const;
  void all_reduce_sum(std::span<int64_t> values) const;
  void all_reduce_max(std::span<double> values) const;
  bool all_agree(bool value) const;  // logical and
  // root's text on every rank.
  std::string broadcast(const std::string& text, int root = 0) const;
  // Every rank's text, in rank order, on every rank.
  std::vector<std::string> all_gather(const std::string& text) const;
  // Every rank's values one after another, in rank order, on every rank.
  std::vector<uint64_t> all_gather(std::span<const uint64_t> values) const;

  // Called by ranks that have failed: true on one of them, which is to say why; the others are not to repeat
  // it. Rank 0 if it is among those that fail together. Takes up to 1.3 s.
  bool speaks_for_failed_ranks() const;
  // Ends every rank with this exit code, without returning.
  [[noreturn]] void abort(int exit_code) const;

 private:
  int rank_ = 0;
  int size_ = 1;
  int local_rank_ = 0;
  int local_size_ = 1;
  int node_first_rank_ = 0;
};

// Counters from 0 that all ranks draw from (MPI one-sided fetch-and-add on rank 0): how work is claimed
// dynamically. Construction and destruction are collective, except that a counter destroyed while an
// exception passes is left to the end of the process, which the error brings: the other ranks may never get
// there. next() returns 0, 1, ... each value to exactly one caller.
class SharedCounter {
 public:
  explicit SharedCounter(const Process& process, size_t counters = 1);
  ~SharedCounter();
  SharedCounter(const SharedCounter&) = delete;
  SharedCounter& operator=(const SharedCounter&) = delete;

  uint64_t next(size_t counter = 0);
  // What next() would return now, without taking it.
  uint64_t read();
  // Lets rank 0 answer others' claims where the network needs its help; call it between pieces of work.
  void progress();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace llmft
